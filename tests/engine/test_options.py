from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_deploy.engine.flavours import TENSORRT, TENSORRT_RTX, choose, version_tuple
from resnet_deploy.engine.options import RTX_TARGETS, BuildOptions, OptimizationProfile, best_profile
from resnet_deploy.errors import MissingPackageError, UsageError


@pytest.mark.parametrize(("text", "sizes"), [("8", (8, 8, 8)), ("1:8:64", (1, 8, 64)), (" 2:2:2 ", (2, 2, 2))])
def test_profiles_are_read(text: str, sizes: tuple[int, int, int]) -> None:
    profile = OptimizationProfile.parse(text)
    assert (profile.min, profile.opt, profile.max) == sizes
    assert OptimizationProfile.parse(str(profile)) == profile


@pytest.mark.parametrize("text", ["", "0", "1:2", "1:2:3:4", "a:b:c", "8:1:1", "1:9:8", "1:0:8", "-1:1:2", "1.5"])
def test_malformed_profiles(text: str) -> None:
    with pytest.raises(UsageError, match="1:8:64"):
        OptimizationProfile.parse(text)


sizes = st.lists(st.integers(1, 100), min_size=3, max_size=3).map(sorted)
profiles = st.lists(sizes.map(lambda s: OptimizationProfile(min=s[0], opt=s[1], max=s[2])), min_size=1, max_size=5)


@given(profiles, st.integers(1, 100))
def test_the_best_profile_holds_the_batch_and_is_tuned_nearest(found: list[OptimizationProfile], batch: int) -> None:
    index = best_profile(found, batch)
    holding = [p for p in found if p.min <= batch <= p.max]
    if index is None:
        assert not holding
    else:
        assert found[index] in holding
        assert all(abs(found[index].opt - batch) <= abs(p.opt - batch) for p in holding)


def test_a_static_profile_goes_before_a_range_tuned_for_the_same() -> None:
    assert best_profile([OptimizationProfile.parse("1:8:64"), OptimizationProfile.parse("8")], 8) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch": ()}, "at least one profile"),
        ({"compute_capability": "sm86,sm99"}, "unknown compute capability 'sm99'"),
        ({"optimization_level": 6}, "at least 0 and at most 5"),
        ({"max_aux_streams": -1}, "at least 0 and at most 64"),
        ({"avg_timing": 0}, "at least 1 and at most 1000"),
        ({"tiling_optimization": "most"}, "choose from none, fast, moderate, full"),
        ({"workspace_mib": 0}, "at least 1 and at most 4194304 MiB"),
        ({"hardware_compatible": "all"}, "ampere-plus"),
    ],
)
def test_options_that_cannot_be_meant(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        BuildOptions(**given)


@pytest.mark.parametrize(
    ("flavour", "given", "option"),
    [
        (TENSORRT, {"compute_capability": "sm86"}, "--compute-capability"),
        (TENSORRT_RTX, {"hardware_compatible": "ampere-plus"}, "--hardware-compatible"),
        (TENSORRT_RTX, {"version_compatible": True}, "--version-compatible"),
        (TENSORRT_RTX, {"timing_cache": True}, "--timing-cache"),
    ],
)
def test_an_option_that_a_package_lacks_is_named(flavour: Any, given: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=f"{flavour.name} .* has no {option}: "):
        BuildOptions(**given).check(flavour)
    BuildOptions().check(flavour)


def test_equal_profiles_are_one() -> None:
    assert BuildOptions(batch=("8", "8:8:8", "1:2:4")).profiles == (
        OptimizationProfile.parse("8"),
        OptimizationProfile.parse("1:2:4"),
    )


def test_versions() -> None:
    assert version_tuple("10.13.3.9.post1") == (10, 13, 3, 9)
    assert version_tuple("not installed") == ()


def test_flavours(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_deploy.engine import flavours

    assert choose("tensorrt-rtx") is TENSORRT_RTX
    with pytest.raises(UsageError, match="unknown flavour 'trt'"):
        choose("trt")
    with pytest.raises(UsageError, match=r"tensorrt-lean runs plans and builds none: .* --version-compatible"):
        choose("tensorrt-lean")
    installed = {"tensorrt": "11.4", "tensorrt_rtx": "1.7"}
    monkeypatch.setattr(flavours._deps, "version", lambda name: installed.get(name))
    monkeypatch.setattr(flavours, "gpu", lambda: ("NVIDIA H200", "9.0"))
    assert choose("auto") is TENSORRT
    monkeypatch.setattr(flavours, "gpu", lambda: None)
    assert choose("auto") is TENSORRT_RTX, "the one that builds without a GPU"
    installed.clear()
    with pytest.raises(MissingPackageError, match=r"resnet-deploy\[gpu\].* or .*resnet-deploy\[rtx\]"):
        choose("auto")


def test_every_compute_capability_is_of_the_package() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")
    assert {*(target.upper() for target in RTX_TARGETS), "CURRENT"} <= set(trt.ComputeCapability.__members__)
