"""Shared by all tests: small real artifacts, made once a session."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Two test processes share the cores; threads of their own would only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that is started in the background has SIGINT ignored, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

from resnet_deploy.bundle.store import Bundle
from resnet_deploy.pipeline.export import export

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits" / "resnet20.safetensors"


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The trained ResNet-20, uint8 pixels in, logits out. Shared: tests that change a bundle copy it first."""
    return export("resnet20", tmp_path_factory.mktemp("digits") / "bundle", weights=DIGITS, input="uint8", max_batch=8)
