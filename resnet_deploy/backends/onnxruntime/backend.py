"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.backends.base import Outputs
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.onnxruntime.session import Session, SessionBackend
from resnet_deploy.errors import UsageError


class OrtBackend(SessionBackend):
    """An ONNX file in an ONNX Runtime session on the CPU. Arguments and errors are those of `Session`."""

    def __init__(self, path: Path, candidate: Candidate, *, threads: int | None = None, traces: Path | None = None) -> None:
        self.candidate = candidate
        self._session = Session(path, candidate, threads=threads, traces=traces)
        self.input_spec, self.output_names = self._session.input_spec, self._session.output_names
        self._input: Any = None
        self._answers: list[NDArray[Any]] | None = None

    def bind(self, images: NDArray[Any]) -> None:
        self.check(images)
        self._answers = None
        self._input = np.ascontiguousarray(images, dtype=self.input_spec.dtype)

    def enqueue(self) -> None:  # `run` hands its outputs over without a copy; a binding copies them
        self._answers = self._session.session.run(self.output_names, {self.input_spec.name: self._input})

    def synchronize(self) -> None:
        """`enqueue` returns when the answer is there."""

    def outputs(self) -> Outputs:
        if self._answers is None:
            raise UsageError("there is no answer yet: call enqueue after bind")
        return dict(zip(self.output_names, self._answers, strict=True))

    def close(self) -> None:
        self._session.close()
        self._input = self._answers = None
