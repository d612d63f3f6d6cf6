"""What layers take: named after the graph's nodes, kept with the measurement, and no part of what is measured."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

import resnet_deploy as rd
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.layer_names import OnnxNames
from resnet_deploy.backends.layers import WARM_UPS, LayerTime, LayerTimes, median, precision, title
from resnet_deploy.backends.onnxruntime.backend import OrtBackend
from resnet_deploy.backends.onnxruntime.profile import record_apart
from resnet_deploy.backends.onnxruntime.trace import read_trace
from resnet_deploy.backends.tensorrt.layers import name_layers
from resnet_deploy.benchmarking.layers.profile import PROFILES, profile_layers
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.cli import main
from resnet_deploy.engine.profiler import attach, make_profiler
from resnet_deploy.errors import BackendError, UsageError
from resnet_deploy.terminal import profiles as text
from tests.helpers.contract import IMAGES
from tests.helpers.fakes import FakeBackend
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported

pytestmark = pytest.mark.slow

WEIGHTED = {"Conv", "Gemm", "MatMul"}


@pytest.fixture(scope="module")
def lowered() -> Bundle:
    """The trained ResNet-20 in three precisions."""
    return exported(
        "resnet20", weights=DIGITS, input="uint8", max_batch=8, precision="fp16,int8", calibration="digits:train",
        calibration_images=16, calibration_method="max",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_deploy.benchmarking.layers.profile.DURATION_S", 0.01)


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy that may be changed."""
    return Bundle.open(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))


def bench(bundle: Bundle, **given: Any) -> Any:
    given = {"backend": "onnxruntime", "batch": "1,3", "duration": 0.02, "threads": 1, "profile": True} | given
    return rd.bench(bundle, **given)


@pytest.mark.parametrize(
    "candidate",
    ["onnxruntime", "onnxruntime:fp16", "onnxruntime:int8", "onnxruntime:int8,simulate", "openvino", "openvino:fp16",
     "openvino:int8"],
)  # fmt: skip
def test_every_layer_of_the_graph_is_named_once(lowered: Bundle, candidate: str) -> None:
    """Whatever a runtime fuses, renames or reorders: each convolution is one row, under its own name."""
    opened = OpenedBundle(lowered)
    graph = onnx.load(lowered.artifact(Candidate.parse(candidate).artifact)).graph
    weighted = [node.name for node in graph.node if node.op_type in WEIGHTED]
    with opened.backend(Candidate.parse(candidate), 1) as backend:
        layers = backend.profile(IMAGES, 2).layers
    rows = [layer for layer in layers if set(layer.onnx) & set(weighted)]
    assert [layer.name for layer in rows] == weighted
    others = [layer.name for layer in layers if layer not in rows]
    assert not set(others) & set(weighted), "a kernel that only moves data has a convolution's name"
    order = {node.name: place for place, node in enumerate(graph.node)}
    for layer in layers:
        assert set(layer.onnx) <= set(order) and list(layer.onnx) == sorted(layer.onnx, key=order.__getitem__)
    held = Counter(name for layer in layers for name in layer.onnx)
    assert {name for name in order if name.endswith(("add", "relu1", "relu2"))} <= set(held), "what was fused is not told"
    if candidate in {"onnxruntime:int8", "openvino:int8"}:
        assert {layer.precision for layer in rows} == {"int8", "fp32"}  # the classifier is not quantized
        assert [layer.name for layer in rows if layer.precision == "fp32"] == ["fc"]


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("artifact", ["model.fp32.onnx", "model.fp16.onnx", "model.int8-cpu.onnx", "model.int8.onnx"])
def test_what_optimized_nodes_were_made_of(lowered: Bundle, tmp_path: Path, artifact: str, level: str) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(lowered.artifact(artifact)), options, providers=["CPUExecutionProvider"])
    names, optimized = OnnxNames(lowered.artifact(artifact)), onnx.load(tmp_path / "optimized.onnx").graph
    origins = names.origins(optimized)
    assert list(origins) == [node.name for node in optimized.node]
    whose = Counter(itertools.chain.from_iterable(origins.values()))
    assert set(whose.values()) == {1}, "a node was told to be in two kernels"
    for node in optimized.node:
        heavy = [name for name in origins[node.name] if names.kinds[name] in WEIGHTED]
        assert len(heavy) == (node.op_type in {*WEIGHTED, "FusedConv", "QLinearConv", "QGemm", "FusedGemm"}), node
    if (artifact, level) == ("model.fp32.onnx", "ORT_DISABLE_ALL"):
        assert all(made_of == (name,) for name, made_of in origins.items())
    # A node is told with something that it is next to.
    makers = {output: node.name for node in names.graph.node for output in node.output}
    for made_of in origins.values():
        for node in (node for node in names.graph.node if node.name in made_of and len(made_of) > 1):
            near = {makers.get(name) for name in node.input}
            near |= {other.name for other in names.graph.node if set(other.input) & set(node.output)}
            assert near & set(made_of), (node.name, made_of)


def test_a_process_of_its_own_finds_the_same_layers(bundle: Bundle, tmp_path: Path) -> None:
    """The way of a GPU, on the CPU."""
    graph = bundle.artifact("model.fp32.onnx")
    np.save(tmp_path / "images.npy", IMAGES)
    record_apart(str(graph), "onnxruntime", "1", "2", str(tmp_path))
    (trace,) = tmp_path.glob("trace*.json")
    apart = read_trace(trace, graph, tmp_path / "optimized.onnx")
    with OrtBackend(graph, Candidate(backend="onnxruntime"), threads=1) as backend:
        here = backend.profile(IMAGES, 2)
    rows = [sorted((one.name, one.kind, one.onnx) for one in found.layers) for found in (apart, here)]
    assert rows[0] == rows[1]
    without = read_trace(trace, graph, None)
    assert "layer1.0.conv2" in [layer.name for layer in without.layers], "names are told without the optimized graph too"
    with pytest.raises(BackendError, match="the profile of onnxruntime failed: ONNX Runtime cannot load"):
        record_apart(str(tmp_path / "none.onnx"), "onnxruntime", "1", "2", str(tmp_path))


def test_a_profile_is_no_part_of_what_is_measured(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = OpenedBundle(bundle)
    with opened.backend(Candidate.parse("onnxruntime"), 1) as backend:
        session, options = backend._session.session, backend._session.session.get_session_options()  # type: ignore[attr-defined]
        backend.profile(IMAGES, 1)
        assert backend._session.session is session and not options.enable_profiling  # type: ignore[attr-defined]
    with opened.backend(Candidate.parse("eager"), 1) as backend:
        backend.profile(IMAGES, 1)
    for module in opened.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"], "a trace was left behind"


def test_eager_hooks_are_taken_off_where_it_fails(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, calls = OpenedBundle(bundle), itertools.count()
    last = opened.model.network.layer3
    fine = last.forward
    with opened.backend(Candidate.parse("eager"), 1) as backend, monkeypatch.context() as patch:
        patch.setattr(last, "forward", lambda given: fine(given) if next(calls) < 2 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backend.profile(IMAGES, 1)
    assert not any(module._forward_hooks for module in opened.model.modules())


@pytest.fixture(scope="module")
def plan_layers(lowered: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What TensorRT-RTX's builder says of the layers of two real plans."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")
    path = shutil.copytree(lowered.path, tmp_path_factory.mktemp("plans") / "bundle")
    built = rd.build(path, precision="fp32,int8", flavour="tensorrt-rtx", compute_capability="sm86", batch="1:8:8")
    return {plan.entry.precision.value: {layer.name: layer for layer in plan.report.engine_layers} for plan in built}


@pytest.mark.parametrize("kind", ["fp32", "int8"])
@pytest.mark.parametrize("suffix", ["", " [profile 2]"])
def test_layers_of_a_plan_are_named_after_the_graph(
    lowered: Bundle, plan_layers: dict[str, Any], kind: str, suffix: str
) -> None:
    known = plan_layers[kind]
    times_s = {name + suffix: [9.0] * WARM_UPS + [0.001, 0.003, 0.002] for name in known}
    layers = name_layers(times_s | {"another": [1.0] * 4}, known)
    assert layers[-1] == LayerTime(name="another", kind="unknown", precision=None, time_s=1.0)
    assert {layer.time_s for layer in layers[:-1]} == {0.002}
    convolutions = [
        node.name for node in onnx.load(lowered.artifact(f"model.{kind}.onnx")).graph.node if node.op_type == "Conv"
    ]
    assert [layer.name for layer in layers if layer.kind == "correlation"] == convolutions
    rescaled = [layer for layer in layers if layer.kind == "kgen" and set(layer.onnx) & set(convolutions)]
    assert bool(rescaled) == (kind == "int8") and not {layer.name for layer in rescaled} & set(convolutions)
    assert {layer.precision for layer in layers if layer.kind == "correlation"} == {kind}


def test_tensorrts_profiler_keeps_what_it_is_told() -> None:
    """The class of the real package; what reports to it is tested on a GPU."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")
    profiler = make_profiler(trt)
    assert isinstance(profiler, trt.IProfiler)
    for ms in (1.0, 2.0):
        profiler.report_layer_time("conv1", ms)
        profiler.report_layer_time("fc", ms / 10)
    assert profiler.times_s == {"conv1": [0.001, 0.002], "fc": pytest.approx([0.0001, 0.0002])}

    class Context:
        profiler: Any = None
        enqueue_emits_profile = True

    context = Context()
    attach(context, profiler)
    assert profiler.context is context and context.profiler is profiler and not context.enqueue_emits_profile


def test_a_backend_without_a_profile_says_so() -> None:
    with pytest.raises(UsageError, match="eager has no profile by layer"):
        FakeBackend().profile(np.zeros((1, 4), np.float32), 3)


def test_times_and_words() -> None:
    assert median([9.0] * WARM_UPS + [1.0, 5.0, 2.0]) == 2.0
    assert title(["a.q", "b", "c"], "d") == "b" and title(["b", "c"], "d", {"b"}) == "c" and title(["b"], "d", {"b"}) == "b"
    assert title([], "d") == "d" and title(["a.dq"], "d") == "d"
    assert [precision(name, "Conv") for name in ("float", "f16", "u8", "i8", "bfloat16")] == [
        "fp32", "fp16", "int8", "int8", "bf16",
    ]  # fmt: skip
    assert precision("u8", "Reorder") == "uint8" and precision("mystery", "Conv") == "mystery"


def test_a_profile_stands_beside_the_time_without_it() -> None:
    class Layered(FakeBackend):
        def profile(self, images: Any, runs: int) -> LayerTimes:
            self.runs = runs
            layers = [LayerTime(name=str(n), kind="Conv", precision="fp32", time_s=n * 1e-3) for n in (1, 3)]
            return LayerTimes(layers=tuple(layers), wall_s=0.005)

    backend = Layered(run_s=0.002)
    found = profile_layers(backend, np.zeros((2, 4), np.float32))
    assert found.latency_s is not None and found.latency_s >= 0.002 and found.profiled_s == 0.005
    assert found.total_s == pytest.approx(0.004) and [layer["share"] for layer in found.layers] == pytest.approx([0.25, 0.75])
    assert found.batch == 2 and found.runs == backend.runs >= 5 and "onnx" not in found.layers[0]
    assert backend.calls.count("bind") == 2 and "outputs" not in backend.calls


def test_profiles_are_kept_with_the_measurement(bundle: Bundle) -> None:
    first = bench(bundle, backend=("eager", "onnxruntime"))
    assert [(one.backend, one.batch) for one in first.profiles] == [
        ("eager", 1), ("onnxruntime", 1), ("eager", 3), ("onnxruntime", 3),
    ]  # fmt: skip
    for one in first.profiles:
        assert sum(layer["share"] for layer in one.layers) == pytest.approx(1) and one.error is None
        assert sum(layer["time_s"] for layer in one.layers) == pytest.approx(one.total_s)
        assert one.total_s < 3 * one.profiled_s, "layers take longer than the whole"
    again = bench(Bundle.open(bundle.path), backend=("onnxruntime", "eager"))
    assert {json.dumps(one.to_dict()) for one in again.profiles} == {json.dumps(one.to_dict()) for one in first.profiles}
    assert json.loads(json.dumps(again.to_dict()))["profiles"][0]["layers"][0]["name"] == "pixels.cast"
    fresh = bench(bundle, fresh=True)
    assert [one.total_s for one in fresh.profiles] != [one.total_s for one in again.profiles if one.backend == "onnxruntime"]
    kept = json.loads(bundle.artifact(PROFILES).read_bytes())
    assert len(kept) == 4, "an old profile stays beside the new one of the same candidate and batch"
    assert not bench(bundle, profile=False).profiles


def test_a_damaged_file_of_profiles_is_made_anew(bundle: Bundle) -> None:
    bench(bundle, batch=1)
    (bundle.path / PROFILES).write_text("{}")
    found = bench(Bundle.open(bundle.path), batch=1)
    assert found.profiles[0].error is None and Bundle.open(bundle.path).artifact(PROFILES)


def test_a_bundle_that_takes_nothing_is_said(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_deploy.benchmarking.layers import profile as module
    from resnet_deploy.errors import StorageError

    bench(bundle, batch=1, profile=False)

    def full(self: Any) -> Any:
        raise StorageError("cannot write it: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.Bundle, "transaction", full)
        found = bench(bundle, batch=1)
    assert len(found.profiles) == 1 and any("not kept in the bundle: cannot write it" in said for said in found.warnings)


def test_a_profile_that_fails_leaves_the_others(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, images: Any, runs: int) -> Any:
        raise RuntimeError("CUPTI_ERROR_NOT_INITIALIZED")

    monkeypatch.setattr(OrtBackend, "profile", fails)
    found = bench(bundle, backend=("onnxruntime", "eager"), batch=1)
    assert [one.error for one in found.profiles] == ["RuntimeError: CUPTI_ERROR_NOT_INITIALIZED", None]
    assert found.broken and len(found.results) == 2
    assert found.failures == [
        "onnxruntime (fp32, cpu) at batch 1, profile: RuntimeError: CUPTI_ERROR_NOT_INITIALIZED",
    ]
    done = CliRunner().invoke(
        main, ["bench", str(bundle.path), "--batch", "1", "--duration", "0.02", "--threads", "1", "--profile"]
    )
    assert done.exit_code == 3 and "CUPTI_ERROR_NOT_INITIALIZED" in done.stderr and "layers of eager" in done.stdout
    assert "layers of onnxruntime (fp32, cpu) at batch 1: RuntimeError" in done.stdout


def test_ctrl_c_keeps_what_was_profiled(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = OrtBackend.profile

    def second(self: Any, images: Any, runs: int) -> Any:
        if len(images) == 3:
            raise KeyboardInterrupt
        return real(self, images, runs)

    monkeypatch.setattr(OrtBackend, "profile", second)
    found = bench(bundle)
    assert found.interrupted and len(found.results) == 2
    assert [one["batch"] for one in json.loads(bundle.artifact(PROFILES).read_bytes()).values()] == [1]


def test_the_table_has_the_longest_and_the_rest(bundle: Bundle) -> None:
    (found,) = bench(bundle, batch=3).profiles
    lines = text.layers(found).splitlines()
    assert lines[0].startswith(f"layers of onnxruntime (fp32, cpu) at batch 3: {len(found.layers)} take ")
    assert lines[1].endswith(f"medians of {found.runs} runs")
    shown = lines[5:]
    assert len(shown) == text.TOP + 1 and shown[-1].startswith(f"{len(found.layers) - text.TOP} others")
    names = [line.split()[0] for line in shown[:-1]]
    longest = sorted(found.layers, key=lambda layer: -layer["time_s"])
    assert names == [layer["name"] for layer in longest[: text.TOP]]
    times = [float(line.split()[3]) for line in shown[:-1]] + [float(shown[-1].split()[4])]
    assert sum(times) == pytest.approx(found.total_s * 1e3, abs=0.001 * len(times))
    done = CliRunner().invoke(
        main, ["bench", str(bundle.path), "--batch", "3", "--backend", "onnxruntime", "--duration", "0.02", "--threads", "1",
               "--profile", "--json"],
    )  # fmt: skip
    assert done.exit_code == 0 and len(json.loads(done.stdout)["profiles"][0]["layers"]) == len(found.layers)
