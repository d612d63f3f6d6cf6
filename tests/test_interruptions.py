"""What a person or a machine does to a running export: Ctrl-C, SIGKILL, a full disk, a folder that refuses."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from resnet_deploy.bundle.store import Bundle
from tests.helpers.cli import run
from tests.helpers.networks import SMALL
from tests.helpers.paths import DIGITS, ROOT
from tests.helpers.processes import COMMAND, in_namespace

pytestmark = pytest.mark.slow

TRAINED = ("resnet20", "--weights", str(DIGITS))


def export_args(output: Path, network: Sequence[str] = TRAINED, head: str = "logits") -> list[str]:
    return ["export", *network, "--head", head, "--max-batch", "2", "-o", str(output), "--overwrite"]


def interrupt(output: Path, kind: signal.Signals) -> tuple[int, str]:
    """Start an export and send a signal once it is at work on its files."""
    with subprocess.Popen([*COMMAND, *export_args(output, [SMALL], "topk:3")], stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not [*output.glob(".draft-*/weights.safetensors")]:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.5)  # into the exporter
        process.send_signal(kind)
        _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_an_interrupted_export_loses_nothing(digits_bundle: Bundle, tmp_path: Path, first: bool, kind: signal.Signals) -> None:
    output = tmp_path / "bundle"
    if not first:
        shutil.copytree(digits_bundle.path, output)
        before = Bundle.open(output).manifest
    code, said = interrupt(output, kind)
    if kind is signal.SIGINT:
        assert code == 130 and "interrupted" in said and "Traceback" not in said
        assert not [*output.glob(".staging*"), *output.glob(".draft-*")]
    else:
        assert code == -signal.SIGKILL
    if not first:
        found = Bundle.open(output)
        assert found.manifest == before
        assert found.artifact("model.fp32.onnx").is_file(), "the old bundle still works"
    done = run(*export_args(output, [SMALL]))
    assert done.exit_code == 0, done.stderr
    assert sorted(p.name for p in output.iterdir()) == [".lock", "manifest.json", "model.fp32.onnx", "weights.safetensors"]


def test_a_ctrl_c_that_python_drops_is_raised_at_the_next_step() -> None:
    """In a destructor, as of any object that a library lets go of."""
    code = """if True:
        import os, signal
        from resnet_deploy.commands.program import Program
        class Last:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                sum(range(1000))
        program = Program(own_process=True)
        program.watch_interrupts()
        program.at("before")
        Last()
        try:
            program.at("after")
        except KeyboardInterrupt:
            program.at("once")
            print("raised", program.interrupted)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("raised True\n", "", 0)


@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.8, 1.5, 2.5])
def test_ctrl_c_while_the_exporter_works(tmp_path: Path, after_s: float) -> None:
    """At several moments of torch.export and of what follows it."""
    output = tmp_path / "bundle"
    with subprocess.Popen(
        [*COMMAND, *export_args(output, [SMALL])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + 120
        while not [*output.glob(".draft-*/weights.safetensors")]:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=120)
    if process.returncode == 0:  # it was done by then
        assert after_s > 0.3 and Bundle.open(output).artifact("model.fp32.onnx").is_file()
    else:
        assert process.returncode == 130 and message.startswith("Error: interrupted") and len(message.splitlines()) == 1
        assert not (output / "manifest.json").exists() and not (output / ".staging").exists()


@pytest.mark.parametrize(
    "answer",
    ["raise RuntimeError('wrapped') from exc", "os.abort()", "raise SystemError from None", "os._exit(1)"],
    ids=["wraps", "aborts", "hides", "ends"],
)
def test_what_an_exporter_makes_of_ctrl_c_is_ctrl_c(tmp_path: Path, answer: str) -> None:
    """torch's exporter calls Python from C++ and the other way round, and KeyboardInterrupt does not always survive that."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\nfrom resnet_deploy.pipeline import verify as steps\n"
        f"def verify(*args, **given):\n    os.mkdir({str(tmp_path / 'ready')!r})\n    try:\n        time.sleep(60)\n"
        f"    except KeyboardInterrupt as exc:\n        {answer}\nsteps.verify = verify\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [*COMMAND, "verify", "anything", "--data", "random:2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        end = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        printed, message = process.communicate(timeout=60)
    assert process.returncode == 130 and printed == "", (process.returncode, message)
    assert message.splitlines()[-1].startswith("Error: interrupted") and "Traceback" not in message


def test_an_interrupt_that_is_ignored_stays_ignored(digits_bundle: Bundle, tmp_path: Path) -> None:
    """As a shell starts what it puts in the background."""
    shutil.copytree(digits_bundle.path, tmp_path / "b")
    program = " ".join([*COMMAND, "verify", str(tmp_path / "b"), "--data", "random:2"])
    script = f"trap '' INT; {program} & pid=$!; sleep 1; kill -INT $pid; wait $pid"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "cosine_mean" in done.stdout, done.stderr


@pytest.mark.parametrize("size", ["600k", "1700k"], ids=["weights", "graph"])
def test_a_full_disk(digits_bundle: Bundle, tmp_path: Path, size: str) -> None:
    """A file system with too little room for the weights, or for the graph beside them."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = " ".join([*COMMAND, *export_args(disk / "b")])
    done = in_namespace(f"mount -t tmpfs -o size={size} none {disk}; {command} || code=$?; ls -A {disk}; exit $code")
    assert done.returncode == 3, done.stderr
    assert "No space left" in done.stderr and "Free some space" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.split() == [], "half a file was left"


def test_a_full_disk_keeps_the_old_bundle(digits_bundle: Bundle, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = " ".join([*COMMAND, *export_args(disk / "b", head="topk:3")])
    verify = " ".join([*COMMAND, "verify", str(disk / "b"), "--data", "digits", "--limit", "9"])
    done = in_namespace(
        f"mount -t tmpfs -o size=3m none {disk}; cp -r {digits_bundle.path} {disk}/b; "
        f"{command} && exit 99; test $? = 3; rm {disk}/b/.lock; {verify}"
    )
    # Verifying needs a few kB for its record, which the failed export gave back.
    assert done.returncode == 0, done.stderr
    assert "pass" in done.stdout


def test_a_folder_that_refuses(tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir()
    command = " ".join([*COMMAND, *export_args(folder / "b")])
    done = in_namespace(f"mount -t tmpfs -o ro none {folder}; {command}")
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr and "Choose another output folder" in done.stderr


def test_what_may_not_be_read_or_written(digits_bundle: Bundle, tmp_path: Path) -> None:
    """Also as root, without the capability that makes permissions mean nothing."""
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or subprocess.run([*powerless, "true"]).returncode):
        pytest.skip("root may read everything here")
    prefix = powerless if os.geteuid() == 0 else []
    images, output = tmp_path / "images", tmp_path / "output"
    images.mkdir(mode=0o000)
    output.mkdir(mode=0o555)
    shutil.copytree(digits_bundle.path, tmp_path / "b")
    verify = [*COMMAND, "verify", str(tmp_path / "b"), "--data", str(images)]
    for command, said in (
        (verify, "cannot be read: Permission denied"),
        ([*COMMAND, *export_args(output / "b")], "cannot write"),
    ):
        done = subprocess.run([*prefix, *command], capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_read_only_bundle_can_be_used(digits_bundle: Bundle, tmp_path: Path) -> None:
    """As a server mounts it: opening and running need no write."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = (
        "import sys, numpy as np; from resnet_deploy.bundle.store import Bundle\n"
        "from resnet_deploy.pipeline.compare_answers import REFERENCE\nfrom resnet_deploy.bundle.opened import OpenedBundle\n"
        "print(OpenedBundle(Bundle.open(sys.argv[1])).backend(REFERENCE, 1).infer(np.zeros((1, 32, 32, 3), np.uint8)))"
    )
    script = tmp_path / "use.py"
    script.write_text(code)
    done = in_namespace(
        f"mount -t tmpfs none {disk}; cp -r {digits_bundle.path} {disk}/b; mkdir {disk}/b/.staging; "
        f"mount -o remount,ro {disk}; cd {ROOT}; {sys.executable} {script} {disk}/b"
    )
    assert done.returncode == 0 and "logits" in done.stdout, done.stderr


def test_no_bars_where_nobody_watches(digits_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(digits_bundle.path, tmp_path / "b")
    done = subprocess.run(
        [*COMMAND, "verify", str(tmp_path / "b"), "--data", "digits", "--limit", "9"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""


def test_bars_on_a_terminal(digits_bundle: Bundle, tmp_path: Path) -> None:
    """A real pseudo-terminal for stderr."""
    shutil.copytree(digits_bundle.path, tmp_path / "b")
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [*COMMAND, "verify", str(tmp_path / "b"), "--data", "digits"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, text=True)
    ready, _, _ = select.select([master], [], [], 5)
    shown = os.read(master, 65536) if ready else b""
    os.close(slave)
    os.close(master)
    assert done.returncode == 0 and b"verify" in shown and "verify:" not in done.stdout
