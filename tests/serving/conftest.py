"""A real Triton server on the CPU: NVIDIA's own binary, with a stand-in for its ONNX Runtime backend (examples/triton)."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

import resnet_deploy as rd
from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.plan import Origin
from resnet_deploy.engine.report import summarize
from resnet_deploy.specs import Precision
from tests.conftest import DIGITS, ROOT

PROBABILITIES: dict[str, Any] = {"head": "probabilities", "input": "uint8", "image_size": 48, "max_batch": 4}
CLIENT = Path(__file__).parent / "client.py"


def load_example(name: str) -> Any:
    """A module of examples/triton."""
    spec = importlib.util.spec_from_file_location(f"triton_{name}", ROOT / "examples" / "triton" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


example = load_example("server")


def with_tensorrt(
    bundle: Bundle, gpu: str, capability: str, version: str = "11.2.1.2", graph: str = "model.fp32.onnx", **changes: Any
) -> str:
    """A plan of TensorRT in a bundle's manifest, as a GPU machine would have recorded it; nothing here ever reads one."""
    precision = graph.split(".")[1]
    name = f"model.{precision}.tensorrt-{version}.{gpu.lower().replace(' ', '-')}.plan"
    origin = Origin(
        flavour="tensorrt", version=version, platform="Linux-x86_64", gpu=gpu, compute_capability=capability,
        **changes.pop("origin", {}),
    )  # fmt: skip
    profiles = tuple(changes.pop("profiles", ("1:1:1", "1:4:8")))
    with bundle.transaction() as change:
        change.write(name, f"ftrt {name}".encode())
        change.add(
            name, PlanFile, precision=Precision(precision), made_from=bundle.sha256(graph), origin=origin, profiles=profiles,
            key="0" * 16, flags={}, builder_s=1.0, report=summarize([], [], []), **changes,
        )  # fmt: skip
    return name


@pytest.fixture(scope="session")
def server_folder() -> Path:
    """Where `make setup` has put the server."""
    if not (example.FOLDER / example.READY).exists():
        pytest.skip("the Triton server was not set up: python examples/triton/server.py --prepare")
    return Path(example.FOLDER)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a client was told: arrays by name, or an error."""

    arrays: dict[str, NDArray[Any]]
    error: str | None


@dataclass
class Triton:
    """A running server, and a client of it in its own environment."""

    server: Any
    python: Path
    scratch: Path

    def get(self, path: str, body: Any = None) -> Any:
        """A call of the HTTP API, outside of inference. Raises AssertionError with what the server says where it refuses."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"http://{self.server.http}/v2/{path}", data=data, timeout=120) as answer:
                text = answer.read()
        except urllib.error.HTTPError as exc:
            raise AssertionError(exc.read().decode()) from exc
        return json.loads(text) if text else None

    def ask(self, model: str, protocol: str = "http", classes: int = 0, **inputs: Any) -> Answer:
        """One request; `files` are image files, anything else arrays by the inputs' names."""
        files = {f"file.{number:03d}": np.frombuffer(data, np.uint8) for number, data in enumerate(inputs.pop("files", []))}
        source, target = self.scratch / "in.npz", self.scratch / "out.npz"
        target.unlink(missing_ok=True)
        np.savez(source, **inputs, **files)
        address = self.server.http if protocol == "http" else self.server.grpc
        command = [self.python, CLIENT, "ask", protocol, address, model, source, target, "--classes", str(classes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        error = json.loads(done.stdout)["error"]
        if error is not None:
            return Answer(arrays={}, error=error)
        with np.load(target) as found:
            return Answer(arrays=dict(found), error=None)

    def load(self, model: str, threads: int, images: dict[str, Any], requests: int | None = None) -> subprocess.Popen[str]:
        """Requests of one image each from several threads; see client.py for what they say and when they end."""
        source = self.scratch / "load.npz"
        np.savez(source, **images)
        command: list[Any] = [self.python, CLIENT, "load", self.server.grpc, model, source, "--threads", str(threads)]
        command += [] if requests is None else ["--requests", str(requests)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="session")
def bundles(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Every head, both inputs, and the precisions whose graphs differ in what a server has to know."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "served"
    small = {"topk": {"head": "topk:3"}, "features": {"head": "features", "input": "uint8"},
             "embedding": {"head": "embedding", "l2_normalize": True, "precision": "fp16", "native_io": True}}  # fmt: skip
    with FileLock(folder.with_suffix(".lock")):  # one of pytest's processes makes them, the others find them
        found = {
            name: rd.export("resnet_cifar:8", folder / name, **{"max_batch": 4, **options})  # type: ignore[arg-type]
            for name, options in (small | {"probabilities": PROBABILITIES}).items()
        }
        digits = folder / "digits"
        if not digits.exists():
            shutil.copytree(digits_bundle.path, digits)
        return found | {
            "digits": rd.export("resnet20", digits, weights=DIGITS, input="uint8", max_batch=8, precision="fp32,fp16,int8",
                                calibration="digits:train", calibration_images=64, calibration_method="max")
        }  # fmt: skip


@pytest.fixture(scope="session")
def repository(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model of each."""
    path = tmp_path_factory.mktemp("repository")
    rd.triton(bundles["digits"], path, name="digits", ensemble="jpeg", max_delay=0.02, instances=2, threads=1)
    rd.triton(bundles["digits"], path, name="digits-fp16", precision="fp16")
    rd.triton(bundles["digits"], path, name="digits-int8", precision="int8", response_cache=True)
    rd.triton(bundles["topk"], path, name="topk", ensemble="jpeg")
    rd.triton(bundles["features"], path, name="features")
    rd.triton(bundles["embedding"], path, name="embedding", ensemble="jpeg")
    rd.triton(bundles["embedding"], path, name="half", precision="fp16", ensemble="jpeg")
    rd.triton(bundles["probabilities"], path, name="probabilities", ensemble="jpeg", top_k=2)
    return path


@pytest.fixture(scope="session")
def triton(server_folder: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """One server for all tests of a process: models are loaded strictly, as they are, on request."""
    scratch = tmp_path_factory.mktemp("client")
    names = sorted(folder.name for folder in repository.iterdir() if folder.is_dir())
    arguments = ["--model-control-mode=explicit", "--disable-auto-complete-config", "--cache-config=local,size=1048576",
                 *(f"--load-model={name}" for name in names)]  # fmt: skip
    with example.serve(repository, *arguments, folder=server_folder) as server:
        yield Triton(server=server, python=server_folder / "env" / "bin" / "python", scratch=scratch)
