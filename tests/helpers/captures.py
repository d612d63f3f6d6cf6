"""CUDA graphs, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resnet_deploy.backends.cuda import CudaDevice


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The streams that were captured from now on, in order."""
    streams: list[Any] = []
    known = CudaDevice.capture

    def capture(self: CudaDevice, run: Callable[[], None], stream: Any) -> Callable[[], None]:
        streams.append(stream)
        return known(self, run, stream)

    monkeypatch.setattr(CudaDevice, "capture", capture)
    return streams
