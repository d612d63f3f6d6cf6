"""The fuzzer itself: it finds what a target does wrong, and a short run of its own targets goes through."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_deploy.bundle.store import Bundle
from tests.fuzz import bundles
from tests.fuzz.cases import discover, execute, numbered
from tests.helpers.paths import ROOT

TOYS = {
    "good": "rng.random()",
    "raises": "raise KeyError('crop')",
    "sleeps": "import time; time.sleep(60)",
    "spins": "\n    while True: pass",
    "dies": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "leaves": "import os; os._exit(7)",
    "hungry": "bytearray(64 << 30)",
    "believes": "raise AssertionError(f'believed a size of {rng.randint(-9, -1)}')",
    "loses": "raise AssertionError('lost a plan')",
    "sometimes": "assert rng.random() < 0.5, 'believed half of it'",
}
EXPECTED = {
    "raises": "tracebacks", "sleeps": "hangs", "spins": "hangs", "dies": "crashes", "leaves": "crashes", "hungry": "tracebacks",
    "believes": "believed", "loses": "lost",
}  # fmt: skip


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with one target for each way to misbehave."""
    folder = tmp_path_factory.mktemp("toys") / "toys"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name, body in TOYS.items():
        (folder / f"{name}.py").write_text(f"NAME = {name!r}\ndef run(rng, folder):\n    {body}\n")
    return folder.parent


def run(toys: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(toys)])}
    command = [sys.executable, "-m", "tests.fuzz.run", "--package", "toys", "--limit", "0.5", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)


def test_every_way_to_misbehave_is_reported(toys: Path, tmp_path: Path) -> None:
    targets = [word for name in [*EXPECTED, "good"] for word in ("--target", name)]
    done = run(toys, *targets, "--cases", "2", "--findings", str(tmp_path / "findings.json"))
    assert done.returncode == 1, done.stderr
    found = {item["target"]: item for item in json.loads((tmp_path / "findings.json").read_text())}
    assert {name: item["kind"] for name, item in found.items()} == EXPECTED, done.stdout
    assert found["raises"]["text"] == "KeyError: 'crop'" and "raises.py:3 run" in found["raises"]["where"]
    assert "spins.py:4 run" in found["spins"]["where"] and "SIGSEGV" in found["dies"]["where"]
    assert found["believes"]["numbers"] == [0, 1], "two sizes are one finding"
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in done.stdout.splitlines()
            if line.startswith("| ")}  # fmt: skip
    assert rows["target"] == ["tried", "tracebacks", "hangs", "crashes", "lost", "believed"]
    assert rows["all"] == ["18", "4", "4", "4", "2", "2"] and rows["good"] == ["2", "0", "0", "0", "0", "0"]


def test_a_finding_is_repeated_by_its_number(toys: Path) -> None:
    done = run(toys, "--target", "sometimes", "--cases", "20", "--seed", "3")
    line = next(line for line in done.stdout.splitlines() if line.startswith("believed: sometimes"))
    case = line.rpartition("--case ")[2]
    assert case.startswith("sometimes:30000") and "--package toys" in line
    again = run(toys, "--case", case)
    assert again.returncode == 1 and line in again.stdout, again.stdout
    assert run(toys, "--target", "good", "--cases", "5").returncode == 0


def test_what_is_unknown_is_said(toys: Path) -> None:
    done = run(toys, "--target", "nonsense")
    assert done.returncode == 1 and "unknown target nonsense; there are believes, " in done.stderr


def test_no_target_is_a_test() -> None:
    names = {path.stem for path in (ROOT / "tests" / "fuzz").glob("*.py")}
    assert not [name for name in names if name.startswith("test_") or name.endswith("_test")]
    assert {"manifests", "images", "arrays", "races", "kills", "full_disk"} <= set(discover())


def test_a_sealed_manifest_is_opened_and_another_is_not(digits_bundle: Bundle, tmp_path: Path) -> None:
    """Else every change would be refused for its digest, and nothing would be tried."""
    text = (digits_bundle.path / bundles.MANIFEST).read_text()
    manifest = bundles.read(digits_bundle.path)
    manifest["model"]["paper"] = "1234.56789"
    for right in (True, False):
        folder = tmp_path / str(right)
        folder.mkdir()
        if right:
            (folder / bundles.MANIFEST).write_bytes(bundles.seal(json.dumps(manifest, indent=1)))
            assert Bundle.open(folder).path == folder
        else:
            (folder / bundles.MANIFEST).write_text(text.replace("1512.03385", "1234.56789"))
            with pytest.raises(Exception, match="changed by hand"):
                Bundle.open(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name, module in discover().items() if hasattr(module, "run")))
def test_some_cases_of_every_target(digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In this process. What a long run finds becomes a test of what is wrong; here the targets themselves must work."""
    monkeypatch.setenv(bundles.ENVIRONMENT, str(tmp_path))
    (tmp_path / "base").symlink_to(digits_bundle.path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    module = discover()[name]
    getattr(module, "prepare", lambda: None)()
    outcomes = [execute(module, numbered(9, index)) for index in range(25)]
    assert [item.to_dict() for item in outcomes if item.kind is not None] == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(name)], "a case left its folder"
    state = random.getstate()
    execute(module, numbered(9, 0))
    assert random.getstate() == state, "a case must take its random numbers from its own generator"
