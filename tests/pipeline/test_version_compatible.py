"""Version-compatible plans: which backend runs them, what they are called, and who builds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.codec import signed
from resnet_deploy.bundle.manifest import Artifact
from resnet_deploy.bundle.names import MANIFEST, plan_file
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.flavours import TENSORRT, TENSORRT_LEAN, Flavour
from resnet_deploy.engine.plan import Origin
from resnet_deploy.errors import UsageError
from resnet_deploy.pipeline import build as module
from resnet_deploy.pipeline.build import ensure_plan
from resnet_deploy.specs import Precision

H200 = Origin(
    flavour="tensorrt-lean", version="11.4.0.106", platform="Linux-x86_64", gpu="NVIDIA H200", compute_capability="9.0"
)
LEAN = Candidate.parse("tensorrt-lean")


@pytest.fixture
def both(digits_bundle: Bundle, tmp_path: Path) -> OpenedBundle:
    """A bundle whose manifest has a version-compatible plan and, after it, one for a single version."""
    manifest = json.loads((digits_bundle.path / MANIFEST).read_text())
    graph = manifest["artifacts"]["model.fp32.onnx"]
    for compatible in (True, False):
        name = plan_file(Precision.FP32, "tensorrt", "11.4.0.106", "nvidia-h200", version_compatible=compatible)
        origin = {**H200.to_dict(), "flavour": "tensorrt", "version_compatible": compatible, "targets": []}
        manifest["artifacts"][name] = {
            **{key: graph[key] for key in Artifact.__struct_fields__ if key in graph}, "kind": "plan", "precision": "fp32",
            "made_from": graph["sha256"], "key": "0" * 16, "origin": origin, "profiles": ["1:8:8"], "flags": {},
            "builder_s": 1.0,
            "report": {"engine_layers": [], "layers": {}, "reformats": 0, "unfused_adds": []},
        }  # fmt: skip
    (tmp_path / MANIFEST).write_bytes(signed(manifest))
    return OpenedBundle(Bundle.open(tmp_path))


def test_each_backend_has_its_plans_and_the_faster_first(both: OpenedBundle) -> None:
    fast, compatible = (f"model.fp32.tensorrt-11.4.0.106.nvidia-h200{more}.plan" for more in ("", ".version-compatible"))
    assert list(both.plans(Candidate.parse("tensorrt"))) == [fast, compatible]
    assert list(both.plans(LEAN)) == [compatible]
    with pytest.raises(UsageError, match="for tensorrt-rtx"):
        both.plans(Candidate.parse("tensorrt-rtx"))


def test_tensorrt_builds_for_the_lean_runtime(digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(Flavour, "load", lambda self: None)
    monkeypatch.setattr(module, "here", lambda flavour: H200)
    monkeypatch.setattr(module, "build", lambda bundle, **options: asked.update(options))
    installed = {"tensorrt_lean_bindings": "11.4.0.106"}
    monkeypatch.setattr("resnet_deploy._deps.version", installed.get)
    with pytest.raises(UsageError, match=r"make one with .* --flavour tensorrt --version-compatible`"):
        ensure_plan(OpenedBundle(digits_bundle), LEAN, [1, 8])
    assert not asked and TENSORRT.version is None and TENSORRT_LEAN.version == "11.4.0.106"
    installed["tensorrt"] = "11.4.0.106"
    ensure_plan(OpenedBundle(digits_bundle), LEAN, [1, 8])
    assert asked["flavour"] == "tensorrt" and asked["version_compatible"] and asked["batch"] == ("1", "8")


def test_a_plan_is_built_for_the_batch_sizes_that_are_measured(both: OpenedBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is there holds 1 to 8."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(Flavour, "load", lambda self: None)
    monkeypatch.setattr(module, "here", lambda flavour: H200)
    monkeypatch.setattr(module, "build", lambda bundle, **options: asked.append(options["batch"]))
    monkeypatch.setattr("resnet_deploy._deps.version", {"tensorrt": "11.4.0.106"}.get)
    monkeypatch.setattr(OpenedBundle, "file", lambda self, candidate: next(iter(self.plans(candidate))))
    monkeypatch.setattr(Bundle, "artifact", lambda self, name: self.path / name)
    for batches, smaller in (([1, 8], False), ([8], True)):
        ensure_plan(both, Candidate.parse("tensorrt"), batches, smaller=smaller)
        assert not asked, "it was there"
    ensure_plan(both, Candidate.parse("tensorrt"), [32, 1, 8])
    ensure_plan(both, Candidate.parse("tensorrt"), [8, 16], smaller=True)
    assert asked == [("1", "8", "32"), ("1:16:16", "8", "16")]
