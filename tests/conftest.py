"""Shared by all tests: how they are run, and small real artifacts, made once a run."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator

# Two test processes share the cores; threads of their own would only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that is started in the background has SIGINT ignored, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

# How long an example takes says how loaded the machine is, and nothing of what is tested.
settings.register_profile("any-load", deadline=None)
settings.load_profile("any-load")

pytest.register_assert_rewrite("tests.helpers")

from resnet_deploy.backends import fake
from resnet_deploy.bundle.store import Bundle
from tests.helpers import shared
from tests.helpers.paths import DIGITS


@pytest.fixture(scope="session", autouse=True)
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is made once in a run is kept in its folder."""
    shared.use(tmp_path_factory)


@pytest.fixture(scope="session")
def digits_bundle(run_folder: None) -> Bundle:
    """The trained ResNet-20, uint8 pixels in, logits out. Shared: tests that change a bundle copy it first."""
    return shared.exported("resnet20", weights=DIGITS, input="uint8", max_batch=8)


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """torch.onnx fills its table of operators anew for every export, which takes half of a small network's; here once."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(autouse=True)
def traced_once(run_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One trace of each network in a run: the same network gives the same bytes, and a trace takes seconds.

    Every export checks its file against eager all the same. Tests of the exporter itself override this.
    """
    from resnet_deploy.pipeline import onnx_export

    monkeypatch.setattr(onnx_export, "_trace", shared.traced_once(onnx_export._trace))


@pytest.fixture
def fake_cuda() -> Iterator[None]:
    """The test, and processes that it starts, have the fake CUDA device."""
    with fake.device():
        yield
