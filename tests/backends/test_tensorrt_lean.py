"""The lean runtime from Python, up to the driver: its real library is loaded, and never asked where there is no device.

Each call has a process of its own: without a driver the package's runtime is a pointer to nowhere, and would end it.
tests/backends/test_tensorrt.py runs its backend on a fake device.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.flavours import TENSORRT_LEAN, gpu
from tests.helpers.engines import compatible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(TENSORRT_LEAN.version is None, reason="the lean runtime is not installed: the extra lean"),
    pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU"),
]


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "resnet_deploy.cli", *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def bundle(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With a plan of TensorRT-RTX."""
    folder = tmp_path_factory.mktemp("plans") / "bundle"
    shutil.copytree(digits_bundle.path, folder)
    rd.build(folder, batch="1:8:8", flavour="tensorrt-rtx", compute_capability="sm86")
    return Bundle.open(folder)


def test_it_has_no_inspector_and_no_builder() -> None:
    names = "Runtime", "Builder", "EngineInspector"
    done = python(f"import tensorrt_lean_bindings as trt; print(trt.__version__, *(hasattr(trt, n) for n in {names}))")
    assert done.stdout.split() == [TENSORRT_LEAN.version, "True", "False", "False"], done.stderr


def test_a_plan_that_is_trusted_is_not_given_to_a_runtime_without_a_driver(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"ftrt" + bytes(4092))
    load = """
import sys
from pathlib import Path
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.errors import DeployError
candidate = Candidate.parse("tensorrt-lean")
try:
    candidate.row.load("cuda")(Path(sys.argv[1]), candidate, trust=True)
except DeployError as exc:
    print(exc.exit_code, exc)
assert "tensorrt_lean_bindings" in sys.modules
"""
    done = python(load, plan)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"3 tensorrt-lean {TENSORRT_LEAN.version} cannot load {plan}: no NVIDIA GPU that can be used ("
    )
    plan.write_bytes(b"garbage " * 512)
    assert python(load, plan).stdout.startswith(f"2 {plan} is no plan of TensorRT")


@pytest.mark.parametrize("command", [("verify", "--data", "digits"), ("bench", "--batch", "1")], ids=" ".join)
def test_commands_say_that_there_is_no_gpu(bundle: Bundle, tmp_path: Path, command: tuple[str, ...]) -> None:
    folder = compatible(bundle, tmp_path / "bundle")
    done = cli(command[0], folder, "--backend", "tensorrt-lean", *command[1:])
    assert done.returncode == 3 and "no NVIDIA GPU that can be used (" in done.stderr, (done.returncode, done.stderr)


def test_a_plan_of_one_version_is_refused_for_what_it_is(bundle: Bundle, tmp_path: Path) -> None:
    folder = compatible(bundle, tmp_path / "bundle", version_compatible=False)
    done = cli("verify", folder, "--data", "digits", "--backend", "tensorrt-lean")
    assert done.returncode == 2 and "--flavour tensorrt --version-compatible`" in done.stderr, (done.returncode, done.stderr)


def test_the_doctor_lists_it() -> None:
    done = cli("doctor", "--json")
    entries = json.loads(done.stdout)["backends"]
    found = {entry["name"]: entry for entry in entries}["TensorRT lean runtime"]
    assert found["status"] == "missing" and found["version"] == TENSORRT_LEAN.version
    assert "no NVIDIA GPU that can be used (" in found["detail"]


def test_it_builds_nothing(digits_bundle: Bundle) -> None:
    done = cli("build", digits_bundle.path, "--flavour", "tensorrt-lean")
    assert done.returncode == 2 and "builds none: build them with `--flavour tensorrt --version-compatible`" in done.stderr
