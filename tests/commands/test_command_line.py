"""The command line at its edges: numbers out of range, hostile names, streams that are closed or full, faults of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import resnet_deploy as rd
from resnet_deploy import limits
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.cli import main
from resnet_deploy.commands.options import Number
from resnet_deploy.errors import StorageError, UsageError
from resnet_deploy.terminal.visible import visible
from tests.helpers.paths import ROOT
from tests.helpers.processes import COMMAND, in_namespace

BAD = ["nan", "inf", "-inf", "-1", str(2**31), str(2**63), str(10**23), "1e999", "٣", "", "9" * 5000, "0x10", "1_000", "1e1e1"]
# Numbers that are part of a text: how the text is made, and what else is bad there.
TEXTS = {
    ("bench", "--batch"): "1,{}", ("bench", "--gate"): "max-abs-error={}", ("verify", "--gate"): "top1-agreement={}",
    ("tune", "--gate"): "cosine-min={}", ("build", "--batch"): "1:{}:8", ("export", "--head"): "topk:{}",
    ("bench", "--backend"): "eager:cuda,streams={}", ("triton", "--version-policy"): "latest:{}",
    ("export", "--mean"): "0.5,{},0.5", ("export", "--std"): "0.5,0.5,{}", ("bench", "--mean"): "{},0,0",
    ("bench", "--std"): "{},1,1", ("triton", "--max-delay"): "{}s", ("embed", "--checkpoint"): "{}min",
    ("bench", "--latency-bound"): "{}ms", ("bench", "--min-duration"): "{}min", ("triton", "--latency-bound"): "{}s",
}  # fmt: skip
# Finite, and a limit for a metric that has none.
FINE = {("--gate", "-1"), *(("--gate", str(number)) for number in (2**31, 2**63, 10**23))}
REQUIRED = {
    "export": ["resnet20", "-o", "OUT"], "verify": ["BUNDLE", "--data", "random:2"], "bench": ["BUNDLE"],
    "tune": ["BUNDLE", "--data", "random:2"], "build": ["BUNDLE"], "triton": ["BUNDLE", "-o", "OUT"],
    "embed": ["BUNDLE", "IMAGES", "-o", "OUT"],
}  # fmt: skip


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(digits_bundle.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def numeric() -> Iterator[tuple[str, str, str]]:
    """Every option of every command that takes a number: command, option, the text around the number."""
    for name, command in main.commands.items():
        for option in command.params:
            if isinstance(option, click.Option):
                template = TEXTS.get((name, option.opts[-1]))
                if template is not None or isinstance(option.type, Number):
                    yield name, option.opts[-1], template or "{}"


def test_every_number_is_known() -> None:
    """No option of a number without limits; and the list of texts has no option that is gone."""
    for command in main.commands.values():
        for option in command.params:
            assert not isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType)), option.name
    options = {(command, option) for command, option, _ in numeric()}
    assert set(TEXTS) <= options and len(options) > 45


@pytest.mark.parametrize(("command", "option", "template"), list(numeric()))
def test_numbers_out_of_range(
    command: str, option: str, template: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and one line that has the option or what it is of, before anything is done."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for number in BAD:
        if (option, number) in FINE:
            continue
        given = [bundle if part == "BUNDLE" else part for part in REQUIRED[command]]
        done = CliRunner().invoke(main, [command, *map(str, given), option, template.format(number)])
        assert done.exit_code == 2, (number, done.exit_code, done.stderr, done.exception)
        assert done.stderr.startswith("Error: ") and len(done.stderr.splitlines()) == 1, done.stderr
        assert len(done.stderr) < 500 or len(number) > 500, done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_numbers_out_of_range_are_refused_before_anything_heavy_is_loaded(bundle: Path) -> None:
    code = "import sys; from resnet_deploy.cli import main\ntry: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    args = ["bench", str(bundle), "--threads", "99999"]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert "at most 1024; found '99999'" in done.stderr


@pytest.mark.parametrize("name", sorted(limits.LIMITS))
def test_the_library_has_the_same_limits(name: str) -> None:
    known = limits.LIMITS[name]
    for value in (float("nan"), float("inf"), -1, 2**63, 10**23, True, "3", known.high * 2):
        with pytest.raises(UsageError, match=f"^{name} must be a .*number"):
            limits.check_option(name, value)
    middle = (known.low + known.high) / 2
    assert limits.parse_option(name, str(int(middle) if known.whole else middle)) == (int(middle) if known.whole else middle)
    limits.check_option(name, None)


HOSTILE = "a\x1b[31m\x9b1m\u202e\u2066\r\x07b"


def test_names_cannot_speak_to_the_terminal(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Escape codes, controls of direction and line breaks: in errors, click's too, in tables and in results."""
    monkeypatch.chdir(tmp_path)
    shutil.move(bundle, tmp_path / HOSTILE)
    bad = [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))]
    for args in (
        ["verify", HOSTILE, "--data", "random:2"], ["verify", HOSTILE, "--data", f"nowhere{HOSTILE}"], ["bench", f"x{HOSTILE}"],
        [f"x{HOSTILE}"], ["bench", f"--{HOSTILE}"], ["inspect", f"{HOSTILE}/model.fp32.onnx"],
        ["bench", "b", "--threads", HOSTILE],
        ["report", HOSTILE], ["export", HOSTILE, "-o", "x"], ["verify", HOSTILE, "--data", "random:2", "--backend", HOSTILE],
    ):  # fmt: skip
        done = CliRunner().invoke(main, args)
        printed = done.stdout + done.stderr
        assert printed and done.exit_code in {0, 2} and not [char for char in bad if char in printed], repr(printed)
    assert "\\x1b[31m" in printed and "\\u202e" in printed


def test_an_error_is_one_line(tmp_path: Path) -> None:
    """A name with a line break cannot forge the next line."""
    done = CliRunner().invoke(main, ["verify", "x\nFAILED y", "--data", "random:2"])
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1 and "x\\nFAILED y" in done.stderr


def test_visible() -> None:
    assert visible("plain ÄÖ 漢字 – ×\n\t") == "plain ÄÖ 漢字 – ×\n\t"
    assert visible("\x1b\x9b\u202e\udcff\ud801\u2028\U000e0041") == "\\x1b\\x9b\\u202e\\xff\\ud801\\u2028\\U000e0041"
    assert visible("a\nb\tc", lines=False) == "a\\nb\\tc"


def run(*args: str, **given: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], capture_output=True, text=True, **given)


def shell(command: str, **given: Any) -> subprocess.CompletedProcess[str]:
    program = " ".join(COMMAND)
    return subprocess.run(["bash", "-c", command.replace("PROGRAM", program)], capture_output=True, text=True, **given)


@pytest.mark.parametrize("args", ["models", "--help", "bench --help", "models --json"])
def test_a_reader_that_goes_away_is_no_error(args: str) -> None:
    done = shell(f"PROGRAM {args} | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}")
    assert done.stdout == "0\n" and done.stderr == ""


@pytest.mark.slow
def test_the_exit_code_is_kept_when_the_reader_goes_away(bundle: Path) -> None:
    gate = f"verify {bundle} --data random:8 --gate max-abs-error=-1"
    done = shell(f"PROGRAM {gate} | true; echo ${{PIPESTATUS[0]}}")
    assert done.stdout == "1\n" and "FAILED" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_closed_streams(bundle: Path, tmp_path: Path) -> None:
    """Nothing is written into the files that are opened in their place."""
    before = (bundle / "model.fp32.onnx").read_bytes()
    done = shell(f"PROGRAM verify {bundle} --data random:2 2>&-; echo $?")
    assert done.stdout.endswith("\n0\n") and "cosine_mean" in done.stdout
    assert shell("PROGRAM verify nowhere --data random:2 2>&-; echo $?").stdout == "2\n"
    done = shell(f"PROGRAM verify {bundle} --data random:2 >&- 2>&- <&-; echo $?")
    assert done.stdout == "0\n" and done.stderr == ""
    assert (bundle / "model.fp32.onnx").read_bytes() == before
    Bundle.open(bundle)


@pytest.mark.parametrize("args", ["models", "models --json", "bench --help"])
def test_a_full_disk_behind_standard_output(args: str) -> None:
    done = shell(f"PROGRAM {args} >/dev/full")
    assert done.returncode == 3 and "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_text_that_an_encoding_lacks(bundle: Path, tmp_path: Path) -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    moved = bundle.rename(tmp_path / "bündel")
    done = subprocess.run(
        [*COMMAND, "report", os.fsencode(moved)], capture_output=True, env=ascii_only
    )  # fmt: skip
    assert done.returncode == 2 and b"b\\xfcndel has no recorded run" in done.stderr
    for args in (["models"], ["--help"], *([name, "--help"] for name in main.commands)):
        done = subprocess.run([*COMMAND, *args], capture_output=True, env=ascii_only)
        assert done.returncode == 0 and done.stdout.isascii() and not done.stderr, args


def faulty(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*args: Any, **given: Any) -> Any:
        raise error

    monkeypatch.setattr("resnet_deploy.pipeline.inspect.inspect", fail)


@pytest.mark.parametrize(
    "error", [ValueError("a\x1b[31mb\nsecond line"), RecursionError("deep"), AssertionError(), KeyError("x"), SystemError("y")]
)
def test_a_fault_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """One line, an exit code of its own, and the traceback where the line says."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    faulty(monkeypatch, error)
    done = CliRunner().invoke(main, ["inspect", "x.onnx"])
    assert done.exit_code == 70 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ") and len(done.stderr.splitlines()) == 1 and "\x1b" not in done.stderr
    assert type(error).__name__ in done.stderr
    path = Path(re.search(r"Details are in (\S+\.log)", done.stderr)[1])  # type: ignore[index]
    assert path.parent == tmp_path and "Traceback" in path.read_text() and type(error).__name__ in path.read_text()


def test_a_fault_whose_details_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    faulty(monkeypatch, ValueError("x"))
    done = CliRunner().invoke(main, ["inspect", "x.onnx"])
    assert done.exit_code == 70 and "could not be written" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "allocate",
    [
        "import torch; torch.empty(1 << 60, dtype=torch.uint8)",
        "import torch; raise RuntimeError('x') from torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')",
        "import numpy; numpy.empty(1 << 60, numpy.uint8)",
        "bytearray(1 << 60)",
        "raise RuntimeError('std::bad_alloc')",
        "import errno; raise OSError(errno.ENOMEM, 'Cannot allocate memory')",
    ],
)
def test_memory_that_runs_out_is_this_machines_affair(allocate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real errors, as torch and NumPy raise them."""
    monkeypatch.setattr("resnet_deploy.pipeline.inspect.inspect", lambda *args, **given: exec(allocate))
    done = CliRunner().invoke(main, ["inspect", "x.onnx"])
    assert done.exit_code == 3 and "out of memory" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_exit_codes_are_documented() -> None:
    for text in (
        (ROOT / "README.md").read_text(),
        CliRunner().invoke(main, ["--help"]).stdout,
        sys.modules["resnet_deploy.errors"].__doc__,
    ):
        words = " ".join(str(text).split())
        assert "70 a fault of resnet-deploy itself" in words and "130 interrupted" in words


@pytest.mark.slow
def test_verify_shows_what_a_bundle_does_not_take(digits_bundle: Bundle, tmp_path: Path) -> None:
    """On a read-only file system: first the verdict, then why it is not kept."""
    disk = tmp_path / "disk"
    disk.mkdir()
    verify = f"{' '.join(COMMAND)} verify {disk}/b --data random:4"
    done = in_namespace(
        f"mount -t tmpfs none {disk}; cp -r {digits_bundle.path} {disk}/b; mount -o remount,ro {disk}; cd {ROOT}; "
        f"{verify} && echo code 0; {verify} --gate max-abs-error=-1 || echo code $?"
    )
    first, second = done.stdout.split("code 0\n")
    assert "cosine_mean" in first and "gate" in first and "cosine_mean" in second and second.endswith("code 1\n")
    assert done.stderr.count("not kept in the bundle: cannot write") == 2 and done.stderr.count("FAILED") == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["bench", "report", "compare", "tune"])
def test_results_are_shown_before_their_file_fails(
    command: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full when the report, the comparison or the plot is written."""
    measured = [str(bundle), "--data", "random:4", "--batch", "1", "--duration", "0.05", "--threads", "1"]
    if command in {"report", "compare"}:
        assert CliRunner().invoke(main, ["bench", *measured]).exit_code == 0

    def full(*args: Any, **given: Any) -> Any:
        raise StorageError("cannot write x: No space left on device")

    monkeypatch.setattr("resnet_deploy.reporting.writing.write_atomic", full)
    monkeypatch.setattr("resnet_deploy.pipeline.tune.draw", full)
    output = str(tmp_path / "out.md")
    args, shown = {
        "bench": (["bench", *measured, "--report", output], "onnxruntime  cpu"),
        "report": (["report", str(bundle), "-o", output], "onnxruntime"),
        "compare": (["report", str(bundle), str(bundle), "-o", output], "onnxruntime"),
        "tune": (["tune", str(bundle), "--data", "digits", "--limit", "32", "--calibration", "random:32",
                  "--calibration-images", "32", "--max-drop", "100", "--gate", "cosine-mean=-1",
                  "--plot", str(tmp_path / "p.svg")], "blocks keep a higher precision"),
    }[command]  # fmt: skip
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 3, (done.stderr, done.exception)
    assert shown in done.stdout and "written to" not in done.stdout
    assert done.stderr.splitlines()[-1] == "Error: cannot write x: No space left on device"


def test_the_error_carries_what_was_found(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **given: Any) -> Any:
        raise StorageError("cannot write x: No space left on device")

    monkeypatch.setattr("resnet_deploy.reporting.writing.write_atomic", full)
    with pytest.raises(StorageError) as caught:
        rd.bench(bundle, data="random:4", batch=1, duration=0.05, threads=1, report=tmp_path / "r.json")
    assert caught.value.result.results[0].batch == 1


def test_numbers_that_json_has_no_word_for(capsys: pytest.CaptureFixture[str]) -> None:
    from resnet_deploy.commands.output import show

    show({"a": [float("nan"), {"b": float("-inf")}], "c": 1.5}, str, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": ["nan", {"b": "-inf"}], "c": 1.5}
