"""A backend of known latency and answers, for what must not depend on any runtime."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.backends.base import Backend, Outputs
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.specs import TensorSpec


class FakeBackend(Backend):
    """Logits are the pixels' sums; `bind` and `enqueue` take as long as they are told, and every call is logged."""

    def __init__(self, *, bind_s: float = 0.0, run_s: float = 0.0, slow_first: int = 0) -> None:
        self.candidate = Candidate(backend="eager")
        self.input_spec = TensorSpec(name="input", dtype="float32", shape=("batch", 4))
        self.output_names = ("logits",)
        self.calls: list[str] = []
        self._bind_s, self._run_s, self._slow_first = bind_s, run_s, slow_first

    def bind(self, images: NDArray[Any]) -> None:
        self.check(images)
        self.calls.append("bind")
        time.sleep(self._bind_s)
        self._images = images

    def enqueue(self) -> None:
        self.calls.append("enqueue")
        slow = self.calls.count("enqueue") <= self._slow_first
        time.sleep(self._run_s * (10 if slow else 1))

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def outputs(self) -> Outputs:
        self.calls.append("outputs")
        return {"logits": np.cumsum(self._images, axis=1)}

    def describe(self) -> dict[str, Any]:
        return {"fake": True}
