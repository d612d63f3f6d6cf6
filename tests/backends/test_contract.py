"""One contract for every backend; what a machine lacks is skipped, with the reason."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import GraphError, UnavailableError, UsageError
from tests.helpers.contract import CUDA, IMAGES, contract, load
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported

CANDIDATES = ["eager", "eager:channels_last", "eager:fp16", "eager:bf16", "onnxruntime", "openvino"]
COMPILED = pytest.param("eager:compile", marks=pytest.mark.slow)


@pytest.mark.parametrize("text", [*CANDIDATES, COMPILED])
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
        OpenedBundle(digits_bundle).backend(Candidate.parse(text), threads=1)
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


@pytest.mark.slow
def test_threads_that_are_not_given_are_all_again(digits_bundle: Bundle) -> None:
    """torch has one number for the whole process: what one backend sets, the next must not inherit."""
    code = (
        "import sys, torch; torch.set_num_threads(3)\n"  # what the process started with
        "from resnet_deploy.bundle.store import Bundle; from resnet_deploy.bundle.opened import OpenedBundle\n"
        "from resnet_deploy.pipeline.compare_answers import REFERENCE; opened = OpenedBundle(Bundle.open(sys.argv[1]))\n"
        "print([opened.backend(REFERENCE, n).describe()['threads'] for n in (None, 1, None)], torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(digits_bundle.path)], capture_output=True, text=True)
    assert done.stdout == "[3, 1, 3] 3\n", done.stderr


@pytest.mark.parametrize("text", [*CANDIDATES, *CUDA])
def test_a_candidates_text_reads_back(text: str) -> None:
    candidate = Candidate.parse(text)
    assert Candidate.parse(str(candidate)) == candidate


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_images_are_rounded_for_a_file_that_takes_fp16(run_folder: None, backend: str) -> None:
    """`--native-io`; what rounds to the same FP16 values has the same answers."""
    opened = OpenedBundle(exported("resnet20", weights=DIGITS, precision="fp16", native_io=True, max_batch=8))
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)
    with opened.backend(Candidate.parse(f"{backend}:fp16"), 1) as loaded:
        assert loaded.input_spec.dtype == "float16"
        given, rounded = (loaded.infer(each)["logits"].copy() for each in (images, images.astype(np.float16)))
        np.testing.assert_array_equal(given, rounded)
        with pytest.raises(UsageError, match=r"takes float16 .* found float64"):
            loaded.infer(images.astype(np.float64))


def test_an_answer_before_the_first_inference_is_an_error(digits_bundle: Bundle) -> None:
    with load(digits_bundle, "onnxruntime") as backend:
        backend.bind(IMAGES)
        with pytest.raises(UsageError, match="call enqueue"):
            backend.outputs()
