"""TensorRT's backend on a fake device: the order of work, buffers, profiles, graphs and errors. tests/gpu has the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.eager.backend import EagerBackend
from resnet_deploy.backends.fake import tensors
from resnet_deploy.backends.streams import SHAPES
from resnet_deploy.backends.tensorrt import backend as module
from resnet_deploy.backends.tensorrt.backend import TensorRtBackend
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.plan import Origin
from resnet_deploy.errors import EngineError, IntegrityError, UnavailableError, UsageError
from resnet_deploy.pipeline.compare_answers import REFERENCE
from tests.helpers.captures import counted
from tests.helpers.contract import IMAGES, contract
from tests.helpers.fake_tensorrt import Engine, TensorFormat, TensorRt
from tests.helpers.networks import SMALL, deploy
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported, graph

ORIGIN = Origin(flavour="tensorrt", version="11.4.0", platform="Linux-x86_64", gpu="NVIDIA H200", compute_capability="9.0")
Make = Callable[..., TensorRtBackend]


@pytest.fixture
def make(fake_cuda: None, monkeypatch: pytest.MonkeyPatch, digits_bundle: Bundle) -> Iterator[Make]:
    monkeypatch.setattr(module, "here", lambda flavour: ORIGIN)
    monkeypatch.setattr(module, "preflight", lambda plan, machine: None)

    def build(
        text: str = "tensorrt",
        profiles: Any = ((1, 4, 8),),
        graph: Path | None = None,
        cache: Any = None,
        **engine: Any,
    ) -> TensorRtBackend:
        candidate = Candidate.parse(text)
        path = graph or digits_bundle.artifact("model.fp32.onnx")
        fake = Engine(path, list(profiles), rtx=candidate.backend == "tensorrt-rtx", **engine)
        monkeypatch.setattr(module, "deserialize", lambda path, flavour, **_: (TensorRt, fake))
        return TensorRtBackend(path, candidate, origin=ORIGIN, cache=cache)

    yield build


@pytest.mark.parametrize(
    "text",
    [
        "tensorrt",
        "tensorrt:no_cuda_graph",
        "tensorrt:streams=3",
        "tensorrt:graph_copies",
        "tensorrt-rtx",
        "tensorrt-rtx:no_cuda_graph,streams=2",
        "tensorrt-lean",
    ],
)
def test_contract(make: Make, digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(
        OpenedBundle, "backend", lambda self, candidate, threads: make(text) if candidate != REFERENCE else eager(self)
    )
    contract(digits_bundle, text)


def eager(opened: OpenedBundle) -> Any:
    return EagerBackend(opened.model, REFERENCE, threads=1)


def test_a_graph_for_each_shape_captured_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = counted(monkeypatch)
    with make() as backend:
        for size in (1, 3, 1, 3, 5):
            backend.infer(IMAGES[:size])
        assert len(captures) == 3
        for size in (1, 2, 3, 4, 5) * 2:  # more than are kept
            backend.infer(IMAGES[:size])
        assert len(captures) > 5 and len(backend.streams[0]._kept) == SHAPES
    captures.clear()
    with make("tensorrt:no_cuda_graph") as backend:
        backend.infer(IMAGES)
        assert not captures


def test_a_query_with_its_copies_is_a_graph(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = counted(monkeypatch)
    with make("tensorrt:graph_copies") as backend, make() as peer:
        for images in (IMAGES, 255 - IMAGES, IMAGES[:2], IMAGES):
            np.testing.assert_array_equal(backend.infer(images)["logits"], peer.infer(images)["logits"])
        of_peer = 2
        assert len(captures) == 4 + of_peer and backend.settings()["graph_copies"] and backend.describe()["graph_copies"]
    with pytest.raises(UsageError, match="leave out no_cuda_graph"):
        make("tensorrt:graph_copies,no_cuda_graph")
    with pytest.raises(UsageError, match="tensorrt-rtx has no option"):
        Candidate.parse("tensorrt-rtx:graph_copies")


def test_rtx_captures_by_itself(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = counted(monkeypatch)
    with make("tensorrt-rtx") as backend:
        backend.infer(IMAGES)
        config = backend._engine.contexts[-1].config
        assert not captures
        assert config.cuda_graph_strategy is TensorRt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    with make("tensorrt-rtx:no_cuda_graph") as backend:
        backend.infer(IMAGES)
        assert backend._engine.contexts[-1].config.cuda_graph_strategy is TensorRt.CudaGraphStrategy.DISABLED


class Kept:
    """A cache's store in memory."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.writes = 0

    def read(self) -> bytes | None:
        return self.data

    def write(self, data: bytes) -> None:
        self.data, self.writes = data, self.writes + 1


def test_kernels_that_rtx_compiles_are_kept(make: Make) -> None:
    kept = Kept()

    def used(text: str, *sizes: int) -> tuple[str, list[bool]]:
        with make(text, cache=kept) as backend:
            for size in sizes:
                backend.infer(IMAGES[:size])
            return backend.describe()["runtime_cache"], [context.compiled for context in backend._engine.contexts]

    assert used("tensorrt-rtx", 1, 5) == ("new", [True, True]) and kept.writes == 1
    assert used("tensorrt-rtx", 5) == ("read", [False]) and kept.writes == 1, "nothing new"
    assert used("tensorrt-rtx:streams=2", 1, 2) == ("read", [False, True]) and kept.writes == 2
    assert used("tensorrt-rtx:no_runtime_cache", 5) == ("none", [True]) and kept.writes == 2
    kept.data = b"of another release"
    assert used("tensorrt-rtx", 5) == ("new", [True]) and kept.writes == 3
    with make("tensorrt", cache=kept) as backend:
        backend.infer(IMAGES)
        assert "runtime_cache" not in backend.describe()
    assert kept.writes == 3


def test_the_profile_tuned_nearest_is_used(make: Make) -> None:
    with make(profiles=[(1, 8, 8), (1, 1, 1), (3, 3, 5)]) as backend:
        for size, profile in ((1, 1), (2, 0), (3, 2), (5, 2), (4, 2)):
            backend.infer(IMAGES[:size])
            assert backend._engine.contexts[-1].profile == profile, size


def test_a_batch_outside_every_profile(make: Make) -> None:
    with make(profiles=[(2, 2, 4)]) as backend:
        for images in (IMAGES[:1], IMAGES):
            with pytest.raises(UsageError, match=f"holds batch {len(images)}: it has 2:2:4"):
                backend.infer(images)
        assert backend.infer(IMAGES[:3])["logits"].shape == (3, 10)


def test_any_number_of_images_runs_in_the_batch_sizes_of_the_plan(make: Make) -> None:
    """Those that `bench` measures: batches of other sizes are filled up, and their answers are those of a plan for any size."""
    with make(profiles=[(1, 1, 1), (3, 3, 3)]) as backend, make(profiles=[(1, 4, 8)]) as peer:
        for images, sizes in ((IMAGES[:1], [1]), (IMAGES[:2], [3]), (IMAGES[:3], [3]), (IMAGES[:4], [3, 1]), (IMAGES, [3, 3])):
            before = len(backend._engine.contexts)
            np.testing.assert_array_equal(backend.infer_any(images)["logits"], peer.infer(images)["logits"])
            assert {context.shape[0] for context in backend._engine.contexts[before:]} <= {*sizes}
        assert [backend.runnable_batch(count) for count in (1, 2, 3, 4, 9)] == [1, 3, 3, 3, 3]
        assert peer.runnable_batch(5) == 5 and peer.runnable_batch(20) == 8


@pytest.fixture(scope="module")
def floats(run_folder: None) -> Bundle:
    return exported("resnet20", weights=DIGITS, precision="fp16", native_io=True, max_batch=8)


@pytest.mark.parametrize("kind", [TensorFormat.HWC, TensorFormat.CHW4, TensorFormat.HWC8, TensorFormat.CHW32])
@pytest.mark.parametrize("options", ["streams=2", "graph_copies"])
def test_images_are_packed_into_the_plans_own_layout(make: Make, floats: Bundle, kind: TensorFormat, options: str) -> None:
    images = np.random.default_rng(0).standard_normal((5, 3, 32, 32), np.float32)
    for name in ("model.fp32.onnx", "model.fp16.onnx"):
        path = floats.artifact(name)
        with make(f"tensorrt:{options}", graph=path, format=kind) as backend, make(graph=path) as peer:
            assert backend.describe()["input_format"] == kind.name.lower() and peer.describe()["input_format"] == "linear"
            for given in (images, -images, images[:2], images):
                np.testing.assert_array_equal(backend.infer(given)["logits"], peer.infer(given)["logits"])
            backend.bind(images)
            for _ in backend.streams:
                backend.enqueue()
                backend.synchronize()
                np.testing.assert_array_equal(backend.outputs()["logits"], peer.infer(images)["logits"])
            assert backend.stages() is not None and backend.run_queued(0.01, uploads=True) is not None


def test_streams_take_turns_and_outputs_are_the_last(make: Make) -> None:
    with make("tensorrt:streams=2") as backend:
        backend.bind(IMAGES)
        for _ in range(3):
            backend.enqueue()
        backend.synchronize()
        assert np.isfinite(backend.outputs()["logits"]).all()
        assert [stream.bound is not None and stream.bound.ran for stream in backend.streams] == [True, True]
        assert len({id(context) for context in backend._engine.contexts}) == 2


def test_an_answer_before_the_first_inference_is_an_error(make: Make) -> None:
    with make() as backend:
        with pytest.raises(UsageError, match="call bind"):
            backend.enqueue()
        backend.infer(IMAGES)
        backend.bind(IMAGES)
        with pytest.raises(UsageError, match="call enqueue"):
            backend.outputs()


@pytest.mark.parametrize("text", ["tensorrt", "tensorrt:no_cuda_graph,streams=2", "tensorrt-rtx:streams=2"])
def test_trtexecs_terms_and_queue(make: Make, text: str) -> None:
    with make(text) as backend:
        backend.bind(IMAGES)
        stages = backend.stages()
        assert stages.compute_s > stages.h2d_s > 0 < stages.enqueue_s and stages.host_s > stages.compute_s
        done, seconds = backend.run_queued(0.03, uploads=True, downloads=True)
        assert done > 1 and seconds >= 0.03
        graphs = {"cuda_graph": "no_cuda_graph" not in text, "graph_copies": False}
        assert backend.settings() == graphs | {"streams": 2 if "streams" in text else 1}


@pytest.mark.slow
@pytest.mark.parametrize("head", ["topk:5", "features", "embedding+l2", "probabilities"])
def test_every_head(make: Make, head: str) -> None:
    model = deploy(SMALL, head, "uint8")
    images = np.random.default_rng(0).integers(0, 256, (3, *model.input_spec.shape[1:]), np.uint8)  # type: ignore[arg-type]
    expected = EagerBackend(model, REFERENCE, threads=1).infer(images)
    with make(graph=graph(head, "uint8")) as backend:
        found = backend.infer(images)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


def test_short_of_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MEMORY_BYTES", 3 * 10**9 + tensors.allocated_bytes())
    with pytest.raises(UnavailableError, match=r"needs 8,000 MB .* batch 8 on 2 stream.* 3,000 MB are free: .* most batch 3"):
        make("tensorrt:streams=2", scratch=4 * 10**9)
    with make() as backend:
        monkeypatch.setattr(tensors, "MEMORY_BYTES", 3 * 32 * 32 * 3 + 500 + tensors.allocated_bytes())
        assert backend.infer(IMAGES[:3])
        with pytest.raises(UnavailableError, match="batch 5: try 2") as caught:
            backend.infer(IMAGES)
        assert caught.value.exit_code == 3


def test_what_tensorrt_refuses_is_said(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.helpers.fake_tensorrt import Context

    for name, said in (("execute_async_v3", "start"), ("set_input_shape", "shape"), ("set_tensor_address", "address")):
        with monkeypatch.context() as patch, make() as backend:
            patch.setattr(Context, name, lambda *_: False)
            with pytest.raises(EngineError, match=said):
                backend.infer(IMAGES)


def test_a_foreign_plan_needs_trust(make: Make, digits_bundle: Bundle) -> None:
    make().close()
    path, candidate = digits_bundle.artifact("model.fp32.onnx"), Candidate.parse("tensorrt")
    with pytest.raises(IntegrityError, match="no manifest vouches"):
        TensorRtBackend(path, candidate)
    with TensorRtBackend(path, candidate, trust=True) as backend:
        assert backend.infer(IMAGES)["logits"].shape == (5, 10)
