"""`doctor` finds what cannot work, also where it seems to."""

from __future__ import annotations

import pytest

from resnet_deploy import _deps
from resnet_deploy.pipeline import doctor as module


@pytest.mark.parametrize("both", [True, False])
def test_two_onnx_runtimes(monkeypatch: pytest.MonkeyPatch, both: bool) -> None:
    known = {"onnxruntime-gpu": "1.31.1", "onnxruntime": "1.32.0"}
    monkeypatch.setattr(_deps, "installed", lambda name: known if both else {"onnxruntime": "1.32.0"})
    monkeypatch.setattr(module, "BACKENDS", {})
    found = [finding for finding in module.doctor() if finding.name == "two ONNX Runtimes"]
    assert len(found) == both
    for finding in found:
        assert finding.status == "missing" and "pip uninstall -y onnxruntime-gpu onnxruntime" in finding.detail
