"""A real Triton server on the CPU: NVIDIA's own binary, with a stand-in for its ONNX Runtime backend (examples/triton)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported
from tests.helpers.triton import PROBABILITIES, Triton, example


@pytest.fixture(scope="session")
def server_folder() -> Path:
    """Where `make setup` has put the server."""
    if not (example.FOLDER / example.READY).exists():
        pytest.skip("the Triton server was not set up: python examples/triton/server.py --prepare")
    return Path(example.FOLDER)


@pytest.fixture(scope="session")
def bundles(run_folder: None) -> dict[str, Bundle]:
    """Every head, both inputs, and the precisions whose graphs differ in what a server has to know."""
    small = {"topk": {"head": "topk:3"}, "features": {"head": "features", "input": "uint8"},
             "embedding": {"head": "embedding", "l2_normalize": True, "precision": "fp16", "native_io": True}}  # fmt: skip
    digits = exported("resnet20", weights=DIGITS, input="uint8", max_batch=8, precision="fp32,fp16,int8",
                      calibration="digits:train", calibration_images=64, calibration_method="max")  # fmt: skip
    served = small | {"probabilities": PROBABILITIES}
    return {"digits": digits} | {
        name: exported("resnet_cifar:8", **{"max_batch": 4, **options})  # type: ignore[arg-type]
        for name, options in served.items()
    }


@pytest.fixture(scope="session")
def repository(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model of each."""
    path = tmp_path_factory.mktemp("repository")
    rd.write_triton(bundles["digits"], path, name="digits", ensemble="jpeg", max_delay=0.02, instances=2, threads=1)
    rd.write_triton(bundles["digits"], path, name="digits-fp16", precision="fp16")
    rd.write_triton(bundles["digits"], path, name="digits-int8", precision="int8", response_cache=True)
    rd.write_triton(bundles["topk"], path, name="topk", ensemble="jpeg")
    rd.write_triton(bundles["features"], path, name="features")
    rd.write_triton(bundles["embedding"], path, name="embedding", ensemble="jpeg")
    rd.write_triton(bundles["embedding"], path, name="half", precision="fp16", ensemble="jpeg")
    rd.write_triton(bundles["probabilities"], path, name="probabilities", ensemble="jpeg", top_k=2)
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
