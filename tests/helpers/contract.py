"""What every backend promises, as a test of any of them."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import UnavailableError, UsageError
from resnet_deploy.pipeline.compare_answers import REFERENCE
from resnet_deploy.specs import Precision

CUDA = ["eager:cuda", "eager:cuda,fp16,channels_last", "onnxruntime:cuda"]
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
# Of the largest logit; half precision keeps 11 bits, BF16 8.
TOLERANCE = {Precision.FP32: 1e-5, Precision.FP16: 2e-2, Precision.BF16: 5e-2}


def load(bundle: Bundle, text: str) -> Backend:
    """A backend, or a skip that says what is missing. Only a missing device may skip: CPU backends are all installed."""
    try:
        return OpenedBundle(bundle).backend(Candidate.parse(text), threads=1)
    except UnavailableError as exc:
        if "cuda" not in text:
            raise
        pytest.skip(str(exc))


def contract(bundle: Bundle, text: str) -> None:
    """What every backend promises."""
    with load(bundle, text) as backend, OpenedBundle(bundle).backend(REFERENCE, threads=1) as eager:
        assert backend.candidate == Candidate.parse(text)
        assert backend.input_spec == eager.input_spec and backend.output_names == eager.output_names == ("logits",)
        expected = eager.infer(IMAGES)["logits"]
        limit = TOLERANCE[backend.candidate.precision] * np.abs(expected).max()

        # The four steps are infer; a bound batch can be run again; outputs stay what they were.
        backend.bind(IMAGES)
        backend.enqueue()
        backend.enqueue()
        backend.synchronize()
        first = backend.outputs()["logits"]
        assert first.dtype == np.float32 and first.shape == (5, 10)
        np.testing.assert_allclose(first, expected, atol=limit, rtol=0)
        kept = first.copy()
        other = backend.infer(255 - IMAGES)["logits"]
        assert not np.allclose(other, kept) and np.array_equal(first, kept), "an answer changed after it was given"

        # Any batch size, one image at a time giving the same; the caller's array is left alone.
        before = IMAGES.copy()
        for size in (1, 3):
            np.testing.assert_allclose(backend.infer(IMAGES[:size])["logits"], expected[:size], atol=limit, rtol=0)
        assert np.array_equal(before, IMAGES)

        profiled(backend)
        backend.bind(IMAGES)
        backend.enqueue()
        backend.synchronize()
        np.testing.assert_allclose(backend.outputs()["logits"], expected, atol=limit, rtol=0)

        for wrong in (IMAGES.astype(np.float32), IMAGES[:, :16], IMAGES[0], IMAGES[:0]):
            with pytest.raises(UsageError, match="the model takes uint8"):
                backend.infer(wrong)
            with pytest.raises(UsageError, match="the model takes uint8"):
                backend.profile(wrong, 1)
        assert backend.describe()


def profiled(backend: Backend) -> None:
    """What every profile promises: the network's layers by name, in order, with times that an inference has room for."""
    bound = backend.infer(IMAGES)["logits"].copy()
    found = backend.profile(IMAGES[:3], 4)
    assert np.array_equal(backend.outputs()["logits"], bound), "a profile changed an answer"
    total_s = sum(layer.time_s for layer in found.layers)
    assert total_s > 0 and found.wall_s > 0
    assert all(layer.name and layer.kind and layer.time_s >= 0 for layer in found.layers)
    if "compile" in backend.candidate.options:
        assert sum(layer.kind in {"convolution", "_convolution_pointwise"} for layer in found.layers) >= 19
        return
    names = [layer.name for layer in found.layers]
    heavy = ["conv1"] + [f"layer{i}.{j}.conv{k}" for i in (1, 2, 3) for j in (0, 1, 2) for k in (1, 2)]
    assert [name for name in names if name in heavy] == heavy and (names.index("fc") > names.index("layer3.2.conv2"))
    for layer in found.layers:
        if layer.name in heavy:
            assert layer.precision in {"fp32", backend.candidate.precision.value}
            assert not layer.onnx or layer.name in layer.onnx
