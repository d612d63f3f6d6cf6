"""TensorRT and TensorRT-RTX on a real device: what tests/backends/test_tensorrt.py has on a fake one."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

import resnet_deploy as rd
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import MissingPackageError, UnavailableError, UsageError
from tests.helpers.contract import IMAGES, contract
from tests.helpers.engines import FLAVOURS, ready
from tests.helpers.paths import DIGITS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("gpu") / "bundle"
    return rd.export(
        "resnet20", path, weights=DIGITS, input="uint8", max_batch=8, precision="fp32,fp16,int8", int8_target="tensorrt",
        calibration="digits:train",
    )  # fmt: skip


@pytest.mark.parametrize("options", ["", "fp16", "no_cuda_graph", "streams=2", "fp16,streams=3,no_cuda_graph"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_contract(bundle: Bundle, flavour: str, options: str) -> None:
    text = f"{flavour}:{options}" if options else flavour
    ready(bundle, text)
    contract(bundle, text)


@pytest.mark.parametrize("options", ["fp16", "int8,streams=2", "no_cuda_graph"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_trtexecs_terms(bundle: Bundle, flavour: str, options: str) -> None:
    ready(bundle, f"{flavour}:{options}")
    with OpenedBundle(bundle).backend(Candidate.parse(f"{flavour}:{options}"), 1) as backend:
        backend.bind(IMAGES)
        for _ in range(5):
            stages = backend.stages()
        assert stages and min(stages.enqueue_s, stages.h2d_s, stages.compute_s, stages.d2h_s) > 0
        queued = backend.run_queued(0.2, uploads=True, downloads=True)
        assert queued is not None and queued[0] > 1 and queued[1] >= 0.2
        assert np.isfinite(backend.outputs()["logits"]).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_real_images_pass_the_gates_and_the_precision_is_proven(bundle: Bundle, flavour: str, precision: str) -> None:
    ready(bundle, f"{flavour}:{precision}")
    (plan,) = rd.build(bundle, precision=precision, flavour=flavour, batch=("1:8:8", "1", "5", "8"))
    assert set(plan.report.convolutions) == {precision}
    (found,) = rd.verify(bundle, "digits", backend=[f"{flavour}:{precision}"], batch=7)
    assert found.gate == "pass", found.failures


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("head", ["topk:5", "features", "embedding", "probabilities"])
def test_every_head(tmp_path: Path, flavour: str, head: str) -> None:
    other = rd.export("resnet20", tmp_path / "b", weights=DIGITS, input="uint8", head=head, max_batch=8)
    ready(other, flavour)
    opened = OpenedBundle(other)
    with opened.backend(Candidate.parse(flavour), 1) as backend, opened.backend(Candidate.parse("eager"), 1) as eager:
        found, expected = backend.infer(IMAGES), eager.infer(IMAGES)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_profiles_switch_and_batches_outside_are_refused(bundle: Bundle, tmp_path: Path, flavour: str) -> None:
    other = Bundle.open(shutil.copytree(bundle.path, tmp_path / "b"))
    try:
        rd.build(other, flavour=flavour, batch=("1", "3:4:5"))
    except MissingPackageError as exc:
        pytest.skip(str(exc))
    with OpenedBundle(other).backend(Candidate.parse(flavour), 1) as backend:
        for size in (1, 5, 3, 1, 4):
            assert backend.infer(IMAGES[:size])["logits"].shape == (size, 10)
        with pytest.raises(UsageError, match="holds batch 2"):
            backend.infer(IMAGES[:2])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_plan_for_another_gpu_is_refused(bundle: Bundle, tmp_path: Path, flavour: str) -> None:
    ready(bundle, flavour)
    other = Bundle.open(shutil.copytree(bundle.path, tmp_path / "b"))
    foreign = {
        name: msgspec.structs.replace(
            plan, origin=dataclasses.replace(plan.origin, gpu="Another GPU", compute_capability="1.0", targets=())
        )
        for name, plan in other.manifest.files(PlanFile).items()
    }
    with other.transaction() as change:
        change.update(lambda manifest: msgspec.structs.replace(manifest, artifacts={**manifest.artifacts, **foreign}))
    with pytest.raises(UnavailableError, match="Another GPU"):
        OpenedBundle(other).backend(Candidate.parse(flavour), 1)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_short_of_memory(bundle: Bundle, flavour: str) -> None:
    import torch

    ready(bundle, flavour)
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(max(0, free - (64 << 20)), dtype=torch.uint8, device="cuda")
    try:
        with OpenedBundle(bundle).backend(Candidate.parse(f"{flavour}:streams=64"), 1) as backend:
            backend.infer(IMAGES)
    except UnavailableError as exc:
        assert "memory" in str(exc)
    finally:
        del hog
        torch.cuda.empty_cache()


def test_onnxruntimes_tensorrt_provider_really_runs(bundle: Bundle) -> None:
    try:
        backend = OpenedBundle(bundle).backend(Candidate.parse("onnxruntime:tensorrt"), 1)
    except UnavailableError as exc:
        pytest.skip(str(exc))
    with backend:
        assert backend.describe()["providers"][0] == "TensorrtExecutionProvider"
        assert backend.infer(IMAGES)["logits"].shape == (5, 10)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_bench_builds_what_it_needs(tmp_path: Path, flavour: str) -> None:
    report = rd.bench(
        "resnet20", weights=DIGITS, data="digits", output=tmp_path / "b", batch="1,8", duration=0.5,
        precision="fp32,int8", calibration="digits:train", backend=("eager:cuda,fp16,channels_last,cuda_graph", flavour),
    )  # fmt: skip
    if missing := [row.error for row in report.unmeasured if "pip install" in row.error]:
        pytest.skip(missing[0])
    ours = [result for result in report.results if result.backend == flavour]
    assert report.passed and {result.precision for result in ours} == {"fp32", "int8"}
    assert all(result.throughput_images_per_s and result.host_latency_s for result in ours)
