"""Preflight: what runs where, and what is said where it doesn't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resnet_deploy.engine import plan as module
from resnet_deploy.engine.flavours import FLAVOURS, Flavour
from resnet_deploy.engine.plan import Origin, check_supported, deserialize, here, identify, preflight
from resnet_deploy.errors import EngineError, UnavailableError, UsageError

H200 = Origin(flavour="tensorrt", version="11.4.0.106", platform="Linux-x86_64", gpu="NVIDIA H200", compute_capability="9.0")
ADA = Origin(flavour="tensorrt-rtx", version="1.7.1.116", platform="Linux-x86_64", gpu="RTX 4090", compute_capability="8.9")


@pytest.fixture(autouse=True)
def every_package_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flavour, "load", lambda self: None)


LEAN = replace(H200, flavour="tensorrt-lean")

RUNS = [
    (H200, H200),
    (replace(H200, version="11.0.0", version_compatible=True), H200),
    (replace(H200, version="10.16.1", version_compatible=True), H200),
    (replace(H200, gpu="NVIDIA A100", compute_capability="8.0", hardware_compatible="ampere-plus"), H200),
    (replace(H200, gpu="NVIDIA H100", hardware_compatible="same-compute-capability"), H200),
    (replace(ADA, gpu=None, compute_capability=None, targets=("sm86", "sm89")), ADA),
    (replace(H200, version_compatible=True), LEAN),
    (replace(H200, version="10.16.1", version_compatible=True), LEAN),
    (ADA, replace(ADA, gpu="NVIDIA L4")),  # TensorRT-RTX compiles for a compute capability, not for a model
]
REFUSED = [
    (replace(H200, version="11.0.0"), H200, "found tensorrt 11.4.0.106"),
    (replace(H200, version="11.5.0", version_compatible=True), H200, "built with tensorrt 11.5.0"),
    (replace(H200, version="8.6.1", version_compatible=True), H200, "built with tensorrt 8.6.1"),
    (H200, replace(H200, gpu="NVIDIA H100"), r"found NVIDIA H100 \(sm90\)"),
    (replace(H200, hardware_compatible="ampere-plus"), replace(H200, gpu="T4", compute_capability="7.5"), r"found T4 \(sm75\)"),
    (replace(H200, hardware_compatible="same-compute-capability"), replace(H200, compute_capability="8.9"), "sm89"),
    (replace(H200, version="11.5.0", version_compatible=True), LEAN, "found tensorrt-lean 11.4.0.106"),
    (H200, replace(H200, platform="Windows-AMD64"), "found Windows-AMD64"),
    (replace(ADA, targets=("sm86",)), ADA, r"for sm86 on .*found RTX 4090 \(sm89\)"),
    (ADA, replace(ADA, version="1.8.0"), "found tensorrt-rtx 1.8.0"),
    (replace(ADA, version_compatible=True), replace(ADA, version="1.8.0"), "found tensorrt-rtx 1.8.0"),
]


@pytest.mark.parametrize(("built", "machine"), RUNS)
def test_what_runs(built: Origin, machine: Origin) -> None:
    preflight(built, machine)


@pytest.mark.parametrize(("built", "machine", "said"), REFUSED)
def test_what_is_refused(built: Origin, machine: Origin, said: str) -> None:
    with pytest.raises(UnavailableError, match=said) as caught:
        preflight(built, machine)
    assert "resnet-deploy build" in str(caught.value) and caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("built", "machine", "said"),
    [
        (
            H200,
            LEAN,
            r"tensorrt-lean runs version-compatible plans of tensorrt alone, .*11\.4\.0\.106 for NVIDIA H200 .*, not to be",
        ),
        (
            ADA,
            LEAN,
            "tensorrt-lean runs version-compatible plans of tensorrt alone, and this one was built with tensorrt-rtx 1.7",
        ),
        (ADA, H200, "tensorrt runs plans of tensorrt alone"),
    ],
)
def test_plans_of_another_kind_are_refused_before_the_package_is_loaded(
    built: Origin, machine: Origin, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flavour, "load", lambda self: pytest.fail("it was loaded"))
    with pytest.raises(UsageError, match=said) as caught:
        preflight(built, replace(machine, gpu=None))
    assert "resnet-deploy build DIR --flavour tensorrt" in str(caught.value)


def test_several_reasons_are_all_said() -> None:
    with pytest.raises(UnavailableError, match=r"found tensorrt 11.4.0.106, Linux-aarch64, NVIDIA B200 \(sm100\)"):
        preflight(
            replace(H200, version="10.16.1"),
            replace(H200, gpu="NVIDIA B200", compute_capability="10.0", platform="Linux-aarch64"),
        )


def test_no_gpu() -> None:
    with pytest.raises(UnavailableError, match="no NVIDIA GPU that can be used"):
        preflight(H200, replace(H200, gpu=None, compute_capability=None))


@pytest.mark.parametrize("error", [RuntimeError("The NVIDIA driver on your system is too old (found version 11040)")])
def test_an_old_driver_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import torch

    def init() -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(UnavailableError, match="driver on your system is too old"):
        preflight(H200, replace(H200, gpu=None))


def test_plans_are_named_after_what_they_are_for() -> None:
    assert H200.built_for == "nvidia-h200"
    assert replace(ADA, targets=("sm86", "sm89")).built_for == "sm86-sm89"


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gpu", lambda: ("NVIDIA H200", "9.0"))
    found = here(FLAVOURS["tensorrt-rtx"])
    assert (found.gpu, found.compute_capability, found.flavour) == ("NVIDIA H200", "9.0", "tensorrt-rtx")


def test_files_that_look_like_plans(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"ftrt" + bytes(20) + bytes([10, 16, 1, 11]) + bytes(100))
    assert identify(file) == "tensorrt 10.16.1.11"
    for data in (b"", b"ftrt", b"vtrt" + bytes(20), b"\x08\x08" + bytes(100)):
        file.write_bytes(data)
        assert identify(file) is None


class Runtime:
    """As TensorRT's: a version-compatible plan loads where host code is allowed, and validity can be asked for."""

    validity = (0, 0)

    def __init__(self, log: Any) -> None:
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        return "an engine" if self.engine_host_code_allowed or b"compatible" not in data else None

    def get_engine_validity(self, data: bytes) -> tuple[int, int]:
        return self.validity


def package(**more: Any) -> Any:
    kinds = {"UNSUPPORTED_CC": 2, "MALFORMED_ENGINE": 32}
    logger = type("ILogger", (), {"__init__": lambda self: None})
    return SimpleNamespace(
        ILogger=logger, Runtime=Runtime, EngineValidity=SimpleNamespace(INVALID=2), __name__="tensorrt_rtx", __version__="1.7",
        EngineInvalidityDiagnostics=SimpleNamespace(__members__=kinds), **more,
    )  # fmt: skip


def test_a_trusted_version_compatible_plan_may_bring_its_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flavour, "load", lambda self: package())
    plan = tmp_path / "compatible.plan"
    plan.write_bytes(b"ftrt" + bytes(24) + b"compatible")
    assert deserialize(plan, FLAVOURS["tensorrt"], host_code=True)[1] == "an engine"
    with pytest.raises(EngineError, match="cannot load"):
        deserialize(plan, FLAVOURS["tensorrt"])


@pytest.mark.parametrize(("kind", "flags", "said"), [(UnavailableError, 2, "unsupported cc"), (EngineError, 32, "malformed")])
def test_a_plan_is_asked_about_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], flags: int, said: str
) -> None:
    monkeypatch.setattr(Flavour, "load", lambda self: package())
    monkeypatch.setattr(Runtime, "validity", (2, flags))
    monkeypatch.setattr(Runtime, "deserialize_cuda_engine", lambda *_: pytest.fail("it was loaded"))
    plan = tmp_path / "plan"
    plan.write_bytes(b"plan")
    with pytest.raises(kind, match=said):
        deserialize(plan, FLAVOURS["tensorrt-rtx"])


def test_a_gpu_without_kernels_is_named_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    names = SimpleNamespace(__members__=dict.fromkeys(("NONE", "CURRENT", "SM86", "SM89", "SM120")))
    monkeypatch.setattr(Flavour, "load", lambda self: package(ComputeCapability=names))
    check_supported(ADA)
    check_supported(replace(ADA, gpu=None, compute_capability=None))
    check_supported(H200)
    with pytest.raises(UnavailableError, match=r"does not support NVIDIA H200 \(sm90\): it has sm86, sm89, sm120"):
        check_supported(replace(H200, flavour="tensorrt-rtx", version="1.7.1.116"))
