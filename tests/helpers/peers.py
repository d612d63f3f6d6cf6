"""Peers that the tests compare with, imported the way they can be here."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest


def torchvision() -> Any:
    """torchvision's Python part beside a CPU build of torch: its compiled operators, which are absent, are not needed."""
    if "torchvision" not in sys.modules:
        sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    return pytest.importorskip("torchvision", reason="torchvision is the peer; requirements-peers.txt installs it")


def timm() -> Any:
    """timm, which imports torchvision."""
    torchvision()
    return pytest.importorskip("timm", reason="timm is the peer; requirements-peers.txt installs it")
