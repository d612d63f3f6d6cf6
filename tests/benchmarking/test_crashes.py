"""A runtime that takes its whole process with it: the command line says which, and measures the others."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resnet_deploy.bundle.store import Bundle
from tests.helpers.paths import ROOT
from tests.helpers.processes import COMMAND

pytestmark = pytest.mark.slow

ARGS = ("--data", "random:6", "--threads", "1", "--duration", "0.05", "--batch", "1,2", "--backend", "onnxruntime")
# Loaded by every Python process of the test: OpenVINO's backend dies at a place, by a signal or an exit code.
HOOK = """
import atexit, os, signal
from resnet_deploy.backends.openvino import OpenVinoBackend

place, how = os.environ["CRASH"].split()

def die():
    os._exit(int(how)) if how.isdecimal() else os.kill(os.getpid(), getattr(signal, how))

def dying(name):
    setattr(OpenVinoBackend, name, lambda self, *args, **given: die())

if place == "load":
    dying("__init__")
elif place == "exit":
    known = OpenVinoBackend.__init__
    def init(self, *args, **given):
        atexit.register(die)
        return known(self, *args, **given)
    OpenVinoBackend.__init__ = init
elif place == "profile":
    dying("profile")
elif place == "latency":
    from resnet_deploy.benchmarking.mlperf.scenarios import Runner
    known_run = Runner.run
    def run(self, scenario):
        if (self.backend.candidate.backend, scenario) == ("openvino", "offline"):
            die()
        return known_run(self, scenario)
    Runner.run = run
elif place == "batch":
    known_bind = OpenVinoBackend.bind
    def bind(self, images):
        if len(images) == 2:
            die()
        return known_bind(self, images)
    OpenVinoBackend.bind = bind
"""


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(digits_bundle.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def crashing(tmp_path: Path, crash: str) -> dict[str, str]:
    """An environment in which OpenVINO crashes."""
    (tmp_path / "hook").mkdir(exist_ok=True)
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join([str(tmp_path / "hook"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "CRASH": crash}


def bench(bundle: Path, env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "bench", str(bundle), *ARGS, *args], capture_output=True, text=True, env=env)


def rows(report: dict[str, Any]) -> list[tuple[str, int]]:
    return [(row["backend"], row["batch"]) for row in report["results"]]


@pytest.mark.parametrize(
    ("crash", "lost", "reason"),
    [
        ("load SIGSEGV", [1, 2], "openvino crashed: signal 11 (SIGSEGV)"),
        ("batch SIGABRT", [2], "openvino crashed: signal 6 (SIGABRT)"),
        ("batch SIGKILL", [2], "openvino crashed: signal 9 (SIGKILL, as when memory runs out)"),
        ("load 0", [1, 2], "openvino crashed: it ended the process with exit code 0"),
    ],
)
def test_a_crash_takes_its_own_rows_alone(bundle: Path, tmp_path: Path, crash: str, lost: list[int], reason: str) -> None:
    done = bench(bundle, crashing(tmp_path, crash), "--backend", "openvino", "--json")
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    kept = [("openvino", batch) for batch in (1, 2) if batch not in lost]
    assert sorted(rows(report)) == [("onnxruntime", 1), ("onnxruntime", 2), *kept]
    assert [(row["backend"], row["batch"], row["error"]) for row in report["unmeasured"]] == [
        ("openvino", batch, reason) for batch in lost
    ]
    assert "Warning: openvino crashed" in done.stderr and "the others go on" in done.stderr
    assert f"FAILED openvino (fp32, cpu): {reason}" in done.stderr and "Traceback" not in done.stderr


def test_a_crash_while_layers_are_profiled(bundle: Path, tmp_path: Path) -> None:
    env = crashing(tmp_path, "profile SIGSEGV")
    done = bench(bundle, env, "--backend", "openvino", "--batch", "1", "--profile", "--json")
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert sorted(rows(report)) == [("onnxruntime", 1), ("openvino", 1)] and report["unmeasured"] == []
    errors = {profile["backend"]: profile["error"] for profile in report["profiles"]}
    assert errors == {"onnxruntime": None, "openvino": "openvino crashed: signal 11 (SIGSEGV)"}


def test_a_crash_in_a_scenario(bundle: Path, tmp_path: Path) -> None:
    """Offline has batches of 8, in which OpenVINO crashes here; single-stream has none."""
    pytest.importorskip("mlperf_loadgen")
    scenarios = ("--scenario", "offline,single-stream", "--min-duration", "50ms", "--min-queries", "64")
    env = crashing(tmp_path, "latency SIGSEGV")
    done = bench(bundle, env, "--backend", "openvino", *scenarios, "--batch", "1,8", "--json")
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    errors = {(row["backend"], row["scenario"]): row["error"] for row in report["scenarios"]}
    assert errors == {
        ("onnxruntime", "offline"): None, ("onnxruntime", "single-stream"): None,
        ("openvino", "offline"): "openvino crashed: signal 11 (SIGSEGV)", ("openvino", "single-stream"): None,
    }  # fmt: skip


def test_where_nothing_is_left_the_crash_is_the_answer(bundle: Path, tmp_path: Path) -> None:
    args = ("bench", str(bundle), *ARGS[:-2], "--backend", "openvino")
    env = crashing(tmp_path, "load SIGSEGV")
    done = subprocess.run([*COMMAND, *args], capture_output=True, text=True, env=env)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == "Error: openvino crashed: signal 11 (SIGSEGV)"


def test_a_crash_at_the_end_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    """Runtimes that crash while they are torn down, when all has been printed."""
    done = bench(bundle, crashing(tmp_path, "exit SIGSEGV"), "--backend", "openvino", "--batch", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(rows(json.loads(done.stdout))) == [("onnxruntime", 1), ("openvino", 1)]


def test_a_crash_that_is_no_backends(bundle: Path, tmp_path: Path) -> None:
    """As in the exporter: there is nothing to leave out."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(
        "import os, signal\nfrom resnet_deploy.data import sources\n"
        "sources.open_data = lambda *args, **given: os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "hook"), str(ROOT)])}
    done = bench(bundle, env)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.startswith("Error: a runtime crashed") and "signal 11 (SIGSEGV)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_inspect_says_that_it_crashed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(
        "import os, signal\nfrom resnet_deploy.pipeline import inspect\n"
        "inspect.inspect = lambda *args, **given: os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "hook"), str(ROOT)])}
    done = subprocess.run([*COMMAND, "inspect", str(bundle / "model.fp32.onnx")], capture_output=True, text=True, env=env)
    assert done.returncode == 3 and "signal 11 (SIGSEGV)" in done.stderr and len(done.stderr.splitlines()) == 1


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "terminate"])
def test_the_working_process_ends_with_the_first(bundle: Path, kind: signal.Signals) -> None:
    command = [*COMMAND, "bench", str(bundle), *ARGS, "--duration", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while not (working := children(process.pid)) or "onnxruntime" not in Path(f"/proc/{working[0]}/maps").read_text():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text(), "the first process stays small"
        process.send_signal(kind)
        process.communicate(timeout=60)
    assert process.returncode == -kind
    end = time.monotonic() + 30
    while Path(f"/proc/{working[0]}").exists():
        assert time.monotonic() < end, "it measures for nobody"
        time.sleep(0.05)


def test_a_program_that_calls_main_stays_one_process(bundle: Path) -> None:
    code = "import os, sys; from resnet_deploy.cli import main; os.fork = None\nmain(sys.argv[1:])"
    args = ["bench", str(bundle), *ARGS, "--batch", "1", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and json.loads(done.stdout)["results"], done.stderr


def test_ctrl_c_at_a_terminal_reaches_both_processes_and_counts_once(bundle: Path) -> None:
    """The terminal sends it to each, and the first hands it on: what was measured is shown all the same."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(COMMAND[0], [*COMMAND, "bench", str(bundle), *ARGS, "--duration", "4"])
    printed, end = b"", time.monotonic() + 120
    pressed = False
    while time.monotonic() < end:
        if not pressed and json.loads((bundle / "manifest.json").read_bytes())["measurements"]:
            os.write(terminal, b"\x03")
            pressed = True
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                printed += os.read(terminal, 65536)
            except OSError:  # the other side is closed
                break
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert pressed and os.waitstatus_to_exitcode(status) == 130, printed
    text = printed.decode()
    assert text.count("Error: interrupted; what was measured by then is above") == 1 and "Traceback" not in text
    assert re.search(r"onnxruntime +cpu +fp32 +1 ", text)
