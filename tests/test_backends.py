"""One contract for every backend; what a machine lacks is skipped, with the reason."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.opened import Subject
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import GraphError, UnavailableError, UsageError
from resnet_deploy.pipeline.verify import REFERENCE
from resnet_deploy.specs import Precision

CANDIDATES = ["eager", "eager:channels_last", "eager:fp16", "eager:bf16", "onnxruntime", "openvino", "eager:compile"]
CUDA = ["eager:cuda", "eager:cuda,fp16,channels_last", "onnxruntime:cuda"]
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
# Of the largest logit; half precision keeps 11 bits, BF16 8.
TOLERANCE = {Precision.FP32: 1e-5, Precision.FP16: 2e-2, Precision.BF16: 5e-2}


def load(bundle: Bundle, text: str) -> Backend:
    """A backend, or a skip that says what is missing. Only a missing device may skip: CPU backends are all installed."""
    try:
        return Subject(bundle).backend(Candidate.parse(text), threads=1)
    except UnavailableError as exc:
        if "cuda" not in text:
            raise
        pytest.skip(str(exc))


def contract(bundle: Bundle, text: str) -> None:
    """What every backend promises."""
    with load(bundle, text) as backend, Subject(bundle).backend(REFERENCE, threads=1) as eager:
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


@pytest.mark.parametrize("text", CANDIDATES)
def test_contract(digits_bundle: Bundle, text: str) -> None:
    contract(digits_bundle, text)


def test_onnxruntime_says_what_really_runs(digits_bundle: Bundle) -> None:
    with load(digits_bundle, "onnxruntime") as backend:
        assert backend.describe()["providers"] == ["CPUExecutionProvider"]


@pytest.mark.parametrize("text", ["eager:cuda", "onnxruntime:cuda"])
def test_a_missing_gpu_is_an_error_and_never_a_fall_back(digits_bundle: Bundle, text: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UnavailableError) as caught:
        Subject(digits_bundle).backend(Candidate.parse(text), threads=1)
    assert caught.value.exit_code == 3


def test_a_damaged_graph_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from resnet_deploy.backends.onnxruntime.backend import OrtBackend

    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(GraphError, match="cannot load"):
        OrtBackend(tmp_path / "model.onnx", Candidate(backend="onnxruntime"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tensorflow", "unknown backend"),
        ("eager:int9", "no option"),
        ("onnxruntime:compile", "no option"),
        ("eager:cpu,cuda", "more than one"),
        ("eager:fp16,fp32", "more than one"),
        ("", "unknown backend"),
        ("onnxruntime:", "no option ''"),
        ("onnxruntime:cpu,", "no option ''"),
        ("onnxruntime:cpu,tensorrt,int8", "contradicts itself: tensorrt needs a GPU"),
        ("eager:cpu,cuda_graph", "contradicts itself: cuda_graph needs a GPU"),
        ("eager:cuda,streams=2,streams=3", "gives streams more than once"),
        ("eager:compile,compile", "gives compile more than once"),
        ("eager:int8,int8", "no option"),
        ("eager:fp16,fp16", "gives fp16 more than once"),
        ("eager:cuda,streams=0", "streams must be a whole number of at least 1 and at most 64"),
        ("eager:cuda,streams=99999999999999999999999", "at most 64"),
        ("eager:cuda,streams=٣", "at least 1"),
        ("tensorrt:streams", "it has .*streams=N"),
    ],
)
def test_malformed_candidates(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Candidate.parse(text)


def test_threads_that_are_not_given_are_all_again(digits_bundle: Bundle) -> None:
    """torch has one number for the whole process: what one backend sets, the next must not inherit."""
    code = (
        "import sys, torch; torch.set_num_threads(3)\n"  # what the process started with
        "from resnet_deploy.bundle.store import Bundle; from resnet_deploy.bundle.opened import Subject\n"
        "from resnet_deploy.pipeline.verify import REFERENCE; subject = Subject(Bundle.open(sys.argv[1]))\n"
        "print([subject.backend(REFERENCE, n).describe()['threads'] for n in (None, 1, None)], torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(digits_bundle.path)], capture_output=True, text=True)
    assert done.stdout == "[3, 1, 3] 3\n", done.stderr


@pytest.mark.parametrize("text", [*CANDIDATES, *CUDA])
def test_a_candidates_text_reads_back(text: str) -> None:
    candidate = Candidate.parse(text)
    assert Candidate.parse(str(candidate)) == candidate


def test_an_answer_before_the_first_inference_is_an_error(digits_bundle: Bundle) -> None:
    with load(digits_bundle, "onnxruntime") as backend:
        backend.bind(IMAGES)
        with pytest.raises(UsageError, match="call enqueue"):
            backend.outputs()
