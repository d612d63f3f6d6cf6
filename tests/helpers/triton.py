"""A running Triton server, its client, and what a bundle has for it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.plan import Origin
from resnet_deploy.engine.report import summarize
from resnet_deploy.specs import Precision
from tests.helpers.paths import ROOT

PROBABILITIES: dict[str, Any] = {"head": "probabilities", "input": "uint8", "image_size": 48, "max_batch": 4}
CLIENT = ROOT / "tests" / "serving" / "triton" / "client.py"


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
            key="0" * 16, flags=changes.pop("flags", {}), builder_s=1.0, report=summarize([], [], []), **changes,
        )  # fmt: skip
    return name


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
