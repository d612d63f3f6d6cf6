"""Backends on the fake device, whose work happens only when somebody waits for it: parts, order and queues."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resnet_deploy.backends import streams as streams_module
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.cuda import CudaDevice
from resnet_deploy.backends.onnxruntime.cuda import OrtCudaBackend
from resnet_deploy.backends.streams import Stream, StreamBackend
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import UnavailableError, UsageError
from resnet_deploy.timing.measure import MeasureConfig, measure
from tests.helpers.captures import counted
from tests.helpers.contract import IMAGES, contract
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported

EAGER = [
    "eager:cuda", "eager:cuda,streams=3", "eager:cuda,cuda_graph", "eager:cuda,cuda_graph,streams=2",
    "eager:cuda,fp16,channels_last", "eager:graph_copies,streams=2", "eager:fp16,channels_last,graph_copies",
]  # fmt: skip
ALL = [*EAGER, "onnxruntime:cuda"]
Make = Callable[[str], StreamBackend]


@pytest.fixture
def make(fake_cuda: None, digits_bundle: Bundle) -> Make:
    opened = OpenedBundle(digits_bundle)

    def build(text: str) -> StreamBackend:
        backend = opened.backend(Candidate.parse(text), 1)
        assert isinstance(backend, StreamBackend)
        return backend

    return build


@pytest.fixture(scope="module")
def quantized(run_folder: None) -> Bundle:
    return exported(
        "resnet20", weights=DIGITS, input="uint8", max_batch=8, precision="int8", calibration="digits:train",
        calibration_images=16, calibration_method="max", int8_target="tensorrt",
    )  # fmt: skip


@pytest.mark.parametrize("text", [*ALL, "onnxruntime:cuda,cuda_graph"])  # which waits for each replay, so has no queue
def test_contract(fake_cuda: None, digits_bundle: Bundle, text: str) -> None:
    contract(digits_bundle, text)


@pytest.mark.parametrize("text", ALL)
def test_the_parts_of_a_query(make: Make, text: str) -> None:
    with make(text) as backend:
        expected = backend.infer(IMAGES)["logits"]
        backend.bind(IMAGES)
        found = backend.stages()
        assert found is not None
        assert min(found.enqueue_s, found.h2d_s, found.compute_s, found.d2h_s) > 0
        assert found.host_s == pytest.approx(found.h2d_s + found.compute_s + found.d2h_s)
        assert found.compute_s > found.h2d_s, "a network, and a copy of 15 kB"
        assert np.array_equal(backend.outputs()["logits"], expected), "it was timed, and nothing else"


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize(("uploads", "downloads"), [(False, False), (False, True), (True, True)])
def test_queries_in_a_queue(make: Make, monkeypatch: pytest.MonkeyPatch, text: str, uploads: bool, downloads: bool) -> None:
    """One ahead on each stream and never more; copies are made where they are asked for."""
    ticks = itertools.count()
    monkeypatch.setattr(streams_module, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 100))
    calls: dict[str, list[Stream]] = {name: [] for name in ("upload", "enqueue", "download")}
    for name, known in [(name, getattr(kind, name)) for kind in (Stream,) for name in calls]:

        def called(self: Stream, *handle: Any, name: str = name, known: Any = known) -> None:
            calls[name].append(self)
            known(self, *handle)

        monkeypatch.setattr(Stream, name, called)
    with make(text) as backend:
        backend.bind(IMAGES)
        streams, most = backend.streams, 0
        known_mark, device = backend.device.mark, backend.device
        marks: list[Any] = []

        def mark(stream: Any, **about: Any) -> Any:
            nonlocal most
            marks.append(known_mark(stream, **about))
            most = max(most, sum(one.time_s is None and one.stream is stream for one in marks))
            return marks[-1]

        monkeypatch.setattr(device, "mark", mark)
        backend.enqueue()
        backend.synchronize()
        for name in calls:
            calls[name].clear()
        found = backend.run_queued(0.08, uploads=uploads, downloads=downloads)
        assert found is not None
        done, seconds = found
        assert done >= 2 * len(streams) and seconds >= 0.05
        assert len(marks) == done and most == 2, "the one that runs, and one ahead"
        assert len(calls["enqueue"]) - len(streams) == done, "one more on each stream beforehand"
        assert len(calls["download"]) == done * downloads
        assert len(calls["upload"]) - (len(streams) - 1) == done * uploads, "beside the first of the other streams"
        each = [calls["enqueue"].count(one) for one in streams]
        assert max(each) - min(each) <= 1, "they take turns"
        assert np.isfinite(backend.outputs()["logits"]).all()


@pytest.mark.parametrize("text", ["eager:cuda", "onnxruntime:cuda"])
@pytest.mark.parametrize("spin", [True, False])
def test_how_the_host_waits(make: Make, monkeypatch: pytest.MonkeyPatch, text: str, spin: bool) -> None:
    """Asleep it waits for an event that was made for that."""
    import torch

    asked: list[bool] = []
    known = torch.cuda.Event

    def event(*, blocking: bool = False, **more: Any) -> Any:
        asked.append(blocking)
        return known(blocking=blocking, **more)

    with make(text) as backend:
        backend.spin_wait = spin
        backend.bind(IMAGES)
        backend.enqueue()
        monkeypatch.setattr(torch.cuda, "Event", event)
        backend.synchronize()
        assert asked == ([] if spin else [True])


def test_a_graph_is_captured_once_a_shape_and_stream(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = counted(monkeypatch)
    with make("eager:cuda,cuda_graph,streams=2") as backend:
        for size in (1, 3, 1, 3):
            backend.infer(IMAGES[:size])
        assert len(captures) == 2, "one inference is the first stream's alone"
        backend.bind(IMAGES[:3])
        for _ in range(4):
            backend.enqueue()
        assert len(captures) == 3
        assert backend.settings() == {"cuda_graph": True, "graph_copies": False, "streams": 2}


def test_on_the_cpu_there_is_nothing_of_it(digits_bundle: Bundle) -> None:
    for text in ("eager", "onnxruntime", "openvino"):
        with OpenedBundle(digits_bundle).backend(Candidate.parse(text), 1) as backend:
            backend.bind(IMAGES)
            assert backend.stages() is None and backend.run_queued(0.01) is None and backend.settings() == {}
    for text in ("eager:streams=2", "eager:cuda_graph"):
        with pytest.raises(UsageError, match="need a CUDA device"):
            OpenedBundle(digits_bundle).backend(Candidate.parse(text), 1)


def test_without_a_device_it_is_said(digits_bundle: Bundle) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UnavailableError, match="needs a CUDA device"):
        OrtCudaBackend(digits_bundle.artifact("model.fp32.onnx"), Candidate.parse("onnxruntime:cuda"))


def test_fp32_is_fp32(make: Make) -> None:
    """CUDA's provider computes it in TF32 unless it is told not to."""
    for text, tf32 in (("onnxruntime:cuda", False), ("onnxruntime:cuda,tf32", True)):
        with make(text) as backend:
            used = backend._session.session.get_provider_options()["CUDAExecutionProvider"]  # type: ignore[attr-defined]
            assert used["use_tf32"] == str(int(tf32)) and backend.describe()["tf32"] is tf32
            assert str(backend.candidate) == ("onnxruntime:tf32" if tf32 else text)


def test_tensorrts_provider_without_its_libraries_is_an_error_of_ours(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnavailableError, match=r"TensorrtExecutionProvider was asked for, and it does not start: .*libnvinfer"):
        make("onnxruntime:tensorrt")
    assert capfd.readouterr().out == "", "a library printed to standard output"


@pytest.fixture
def tensorrt_libraries(fake_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_deploy.backends.fake import onnxruntime

    monkeypatch.setattr(onnxruntime, "tensorrt_libraries", True)


@pytest.mark.parametrize("text", ["onnxruntime:tensorrt", "onnxruntime:tensorrt,cuda_graph"])
def test_tensorrts_provider_has_an_engine_for_each_batch_size(tensorrt_libraries: None, make: Make, text: str) -> None:
    with make(text) as backend, make("onnxruntime:cuda") as peer:
        folders = set()
        for size in (5, 2, 5):
            answer = backend.infer(IMAGES[:size])["logits"]
            np.testing.assert_array_equal(answer, peer.infer(IMAGES[:size])["logits"])
            session = backend.streams[0].bound.context[0]  # type: ignore[union-attr]
            told = session.get_provider_options()["TensorrtExecutionProvider"]
            ends = {told[f"trt_profile_{end}_shapes"] for end in ("min", "opt", "max")}
            assert ends == {f"input:{size}x32x32x3"} and "trt_fp16_enable" not in told
            assert told["trt_engine_cache_enable"] == told["trt_timing_cache_enable"] == "1"
            folders.add(told["trt_engine_cache_path"])
        assert len(folders) == 2 and backend.kept_shapes == streams_module.SHAPES
        assert backend.describe()["cuda_graph"] is backend.settings()["cuda_graph"] is ("cuda_graph" in text)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrts_provider_is_told_the_graphs_precision(precision: str) -> None:
    from resnet_deploy.backends.onnxruntime.providers import provider_chain

    (_, told), *_ = provider_chain(Path("model.onnx"), Candidate.parse(f"onnxruntime:tensorrt,{precision}"))
    flags = {name: told.get(f"trt_{name}_enable") for name in ("fp16", "int8")}
    assert flags == {"fp16": None, "int8": None} | {precision: "1"} and "trt_profile_opt_shapes" not in told


def test_onnxruntimes_own_cuda_graphs_are_told_apart_by_batch_size(make: Make) -> None:
    """It finds a graph by its number alone: under one number, the second batch size would get the first one's answers."""
    with make("onnxruntime:cuda,cuda_graph") as backend, make("onnxruntime:cuda") as peer:
        told = backend._session.session.get_provider_options()["CUDAExecutionProvider"]  # type: ignore[attr-defined]
        assert told["enable_cuda_graph"] == "1"
        for images in (IMAGES, IMAGES[:2], 255 - IMAGES, IMAGES[2:4]):
            np.testing.assert_array_equal(backend.infer(images)["logits"], peer.infer(images)["logits"])
        assert backend.settings()["cuda_graph"] and backend.describe()["cuda_graph"]
        assert not peer.settings()["cuda_graph"] and not peer.describe()["cuda_graph"]


def test_layout_and_search_of_convolutions_are_options_of_cudas_provider(make: Make) -> None:
    for text, nhwc, search in (
        ("onnxruntime:cuda", False, "EXHAUSTIVE"),
        ("onnxruntime:prefer_nhwc", True, "EXHAUSTIVE"),
        ("onnxruntime:heuristic_search", False, "HEURISTIC"),
    ):
        with make(text) as backend:
            told = backend._session.session.get_provider_options()["CUDAExecutionProvider"]  # type: ignore[attr-defined]
            assert told["prefer_nhwc"] == str(int(nhwc)) and told["cudnn_conv_use_max_workspace"] == "1"
            assert told["cudnn_conv_algo_search"] == search
            used = backend.describe()
            assert used["prefer_nhwc"] is nhwc and used["cudnn_conv_algo_search"] == search
    with pytest.raises(UsageError, match="prefer_nhwc is of the CUDA provider; leave out tensorrt"):
        make("onnxruntime:tensorrt,prefer_nhwc")


def test_q_dq_pairs_are_left_as_they_are_on_cuda(fake_cuda: None, quantized: Bundle) -> None:
    """What they are fused into has kernels for the CPU alone."""
    for text in ("onnxruntime:cuda,int8", "onnxruntime:cuda"):
        with OpenedBundle(quantized).backend(Candidate.parse(text), 1) as backend:
            options = backend._session.session.session_options  # type: ignore[attr-defined]
            entry = "session.disable_quant_qdq"
            assert (options.get_session_config_entry(entry) if "int8" in text else "1") == "1"
            assert np.isfinite(backend.infer(IMAGES)["logits"]).all()


@pytest.mark.parametrize("text", ["eager:cuda", "onnxruntime:cuda"])
def test_the_device_is_busy_until_the_host_has_started_a_query(make: Make, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What the device would wait for the host counts as computation; where it was done too early, it is busy for longer."""
    import torch

    occupied: list[float] = []
    known, early = CudaDevice.occupy, iter([True, True, False])
    monkeypatch.setattr(CudaDevice, "occupy", lambda self, stream, s: (occupied.append(s), known(self, stream, s))[1])
    with make(text) as backend:
        backend.bind(IMAGES)
        monkeypatch.setattr(torch.cuda.Event, "query", lambda self: next(early))
        found = backend.stages()
        least, second, third = occupied
        assert found is not None and least > 0 and second >= 2 * least and third >= 4 * least
        monkeypatch.setattr(torch.cuda.Event, "query", lambda self: False)
        backend.stages()
        assert len(occupied) == 4 and occupied[3] >= 2 * found.enqueue_s, "as long as the host took"


def test_nsight_is_told_what_is_measured(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NVTX range around each part of each candidate's rounds, closed even where a candidate dies."""
    from resnet_deploy.backends.fake.torch_cuda import ranges

    seen: list[tuple[str, ...]] = []
    known = Stream.enqueue
    monkeypatch.setattr(Stream, "enqueue", lambda self: (seen.append(tuple(ranges)), known(self))[1])
    config = MeasureConfig(duration_s=0.01, rounds=2, min_samples=2, warmup_s=0.01, sustained_s=0.01)
    with make("eager:cuda") as one:
        measure({"one": one}, {"one": IMAGES}, config)
        parts = ("host to host", "device", "stages", "queued")
        rounds = [(f"one batch 5: round {n}", f"one batch 5: {part}") for n in (1, 2) for part in parts]
        expected = [("one batch 5: warm-up",), *rounds, ("one batch 5: sustained",)]
        # An inference that settles each round is in no part of it.
        assert [each for each in dict.fromkeys(seen) if len(each) == 2 or "round" not in each[0]] == expected and not ranges
        failed: dict[str, Exception] = {}
        monkeypatch.setattr(Stream, "enqueue", lambda self: 1 / 0)
        measure({"one": one}, {"one": IMAGES}, config, failed=failed)
        assert failed and not ranges


def test_a_query_is_one_graph_with_its_copies(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay takes the images that are in the pinned memory then, and leaves its answers in pinned memory."""
    captures = counted(monkeypatch)
    copies: list[Any] = []
    known = CudaDevice.copy
    with make("eager:graph_copies") as backend, make("eager:cuda") as peer:
        assert backend.settings() == {"cuda_graph": True, "graph_copies": True, "streams": 1}
        for size in (5, 2):
            backend.infer(IMAGES[:size])
        assert len(captures) == 4, "the query, and the inference alone, of each shape"
        monkeypatch.setattr(CudaDevice, "copy", lambda self, *of: (copies.append(of), known(self, *of))[1])
        monkeypatch.setattr(Stream, "download", lambda self, handle=None: pytest.fail("a copy beside the graph"))
        answers = [backend.infer(images)["logits"] for images in (IMAGES, 255 - IMAGES, IMAGES[1:3], IMAGES)]
        assert not copies and len(captures) == 4
        monkeypatch.undo()
        for images, answer in zip((IMAGES, 255 - IMAGES, IMAGES[1:3], IMAGES), answers, strict=True):
            np.testing.assert_array_equal(answer, peer.infer(images)["logits"])
        # The parts are measured without: an inference after a query has answers of its own.
        backend.bind(255 - IMAGES)
        backend.enqueue()
        np.testing.assert_array_equal(backend.outputs()["logits"], peer.infer(255 - IMAGES)["logits"])
        assert backend.stages() is not None and backend.run_queued(0.01, uploads=True, downloads=True) is not None
        np.testing.assert_array_equal(backend.infer(IMAGES)["logits"], answers[0])
        np.testing.assert_array_equal(backend.outputs()["logits"], answers[0])


def test_copies_have_streams_of_their_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three that overlap, as in trtexec: the computation waits for its input, the answers wait for the computation."""
    waits: list[tuple[Any, Any]] = []
    known = CudaDevice.follow
    monkeypatch.setattr(CudaDevice, "follow", lambda self, one, other: (waits.append((one, other)), known(self, one, other))[1])
    with make("eager:cuda,cuda_graph") as backend:
        expected = backend.infer(IMAGES)["logits"]
        backend.bind(IMAGES)
        backend.run_queued(0.01, uploads=True, downloads=True)
        (one, upload), (download, other) = waits[:2]
        handle = backend.streams[0].handle
        assert one is other is handle and len({id(stream) for stream in (handle, upload, download)}) == 3
        assert np.array_equal(backend.outputs()["logits"], expected)
        waits.clear()
        backend.run_queued(0.01)
        assert not waits, "nothing is copied"
