"""Shared by all tests: how they are run, and small real artifacts, made once a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

# Two test processes share the cores; threads of their own would only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that is started in the background has SIGINT ignored, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

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


@pytest.fixture
def fake_cuda() -> Iterator[None]:
    """The test, and processes that it starts, have the fake CUDA device."""
    with fake.device():
        yield
