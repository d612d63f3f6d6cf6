"""A profile of an ONNX Runtime session, in a session of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.layers import WARM_UPS, LayerTimes
from resnet_deploy.backends.onnxruntime.trace import read_trace
from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.errors import BackendError


def profile(path: Path, candidate: Candidate, threads: int | None, images: NDArray[Any], runs: int) -> LayerTimes:
    """By ONNX Runtime's profiler. On a GPU, in a process whose kernels are waited for one by one: the profiler of the
    published packages knows when a kernel was started, and not how long it ran."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "images.npy", images)
        arguments = [str(path), str(candidate), json.dumps(threads), str(runs), name]
        (record if candidate.device == "cpu" else record_apart)(*arguments)
        (trace,) = folder.glob("trace*.json")
        optimized = folder / "optimized.onnx"
        return read_trace(trace, path, optimized if optimized.is_file() else None)


def record(path: str, candidate: str, threads: str, runs: str, folder: str) -> None:
    """Run a folder's images.npy with the profiler on, which leaves its trace there. Text alone, so that another process can
    be told to."""
    images = np.load(Path(folder) / "images.npy")
    wanted = Candidate.parse(candidate)
    backend = BACKENDS[wanted.backend].load(wanted.device)
    with backend(Path(path), wanted, threads=json.loads(threads), traces=Path(folder)) as session:
        session.bind(images)
        for _ in range(WARM_UPS + int(runs)):
            session.enqueue()
            session.synchronize()


def record_apart(*arguments: str) -> None:
    """`record` in a process of its own, in which CUDA's launches wait for their kernels. Raises BackendError where it fails."""
    code = "import sys; from resnet_deploy.backends.onnxruntime.profile import record; record(*sys.argv[1:])"
    settings = {"CUDA_LAUNCH_BLOCKING": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        reason = re.sub(r"^[a-z_.]+[.]\w+: ", "", lines[-1])  # the exception's name is for programmers
        raise BackendError(f"the profile of {arguments[1]} failed: {reason}")
