"""The peers among PyTorch's own ways: what each of them tells the compiler, cuDNN and Torch-TensorRT."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.eager.compilers import compile_network
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import MissingPackageError, UsageError
from resnet_deploy.pipeline.compare_answers import REFERENCE
from tests.helpers.contract import IMAGES


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What torch.compile is given."""
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: (given.append(options), model)[1])
    return given


@pytest.mark.parametrize(
    ("options", "dynamic", "inductor"),
    [
        (["compile"], None, None),
        (["compile", "freezing"], False, {"freezing": True}),
        (["max_autotune"], False, {"max_autotune": True, "coordinate_descent_tuning": True}),
        (["max_autotune", "freezing"], False, {"max_autotune": True, "coordinate_descent_tuning": True, "freezing": True}),
    ],
)
def test_inductor(calls: list[dict[str, Any]], options: list[str], dynamic: bool | None, inductor: object) -> None:
    compile_network(torch.nn.Identity(), options)  # type: ignore[arg-type]
    assert calls == [{"dynamic": dynamic, "options": inductor}]


@pytest.mark.slow
def test_frozen_weights_give_the_same_answers(digits_bundle: Bundle) -> None:
    opened = OpenedBundle(digits_bundle)
    with opened.backend(Candidate.parse("eager:compile,freezing"), 1) as frozen, opened.backend(REFERENCE, 1) as eager:
        assert frozen.describe()["inductor_freezing"] is True and "inductor_freezing" not in eager.describe()
        for size in (5, 2):
            expected = eager.infer(IMAGES[:size])["logits"]
            np.testing.assert_allclose(frozen.infer(IMAGES[:size])["logits"], expected, atol=1e-5 * np.abs(expected).max())


def test_torch_tensorrt_is_a_peer_where_it_is_installed(
    fake_cuda: None, digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]
) -> None:
    opened, candidate = OpenedBundle(digits_bundle), Candidate.parse("eager:fp16,torch_tensorrt")
    assert candidate.device == "cuda"
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(MissingPackageError, match=r"needs torch_tensorrt, in the version for torch \d"):
        opened.backend(candidate, 1)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", ModuleType("torch_tensorrt"))
    with opened.backend(candidate, 1) as backend:
        (given,) = calls
        assert given["backend"] == "torch_tensorrt" and given["dynamic"] is False
        assert given["options"]["pass_through_build_failures"], "it would fall back to PyTorch in silence"
        assert backend.describe()["compiler_options"] == given["options"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("eager:freezing", "freezing is of torch.compile; add compile or max_autotune"),
        ("eager:torch_tensorrt,compile", "torch_tensorrt compiles by itself; leave out compile"),
        ("eager:torch_tensorrt,cuda_graph", "torch_tensorrt compiles by itself; leave out cuda_graph"),
        ("eager:cpu,cudnn_benchmark", "cudnn_benchmark needs a GPU"),
    ],
)
def test_options_that_contradict_each_other(fake_cuda: None, digits_bundle: Bundle, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        OpenedBundle(digits_bundle).backend(Candidate.parse(text), 1)


def test_cudnn_searches_for_those_alone_that_ask_for_it(
    fake_cuda: None, digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a setting of the process, and candidates take turns in one."""
    opened, seen = OpenedBundle(digits_bundle), []
    convolution = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", lambda layer, images, weight, bias: (
        seen.append(torch.backends.cudnn.benchmark),
        convolution(images, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups),
    )[1])  # fmt: skip
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    with (
        opened.backend(Candidate.parse("eager:cuda"), 1) as plain,
        opened.backend(Candidate.parse("eager:cudnn_benchmark,cuda_graph"), 1) as tuned,
    ):
        expected = plain.infer(IMAGES)["logits"]
        for _ in range(2):
            seen.clear()
            np.testing.assert_array_equal(tuned.infer(IMAGES)["logits"], expected)
            assert set(seen) <= {True}
            seen.clear()
            np.testing.assert_array_equal(plain.infer(IMAGES)["logits"], expected)
            assert set(seen) == {False}
        assert tuned.describe()["cudnn_benchmark"] is True and plain.describe()["cudnn_benchmark"] is False
