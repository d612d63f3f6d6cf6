"""Quantized graphs: their numbers against numpy's, their kernels in ONNX Runtime, OpenVINO and TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from resnet_deploy import precision
from resnet_deploy.errors import CalibrationError, GraphError, UsageError
from resnet_deploy.precision import Graph, Placement, QuantizeOptions, Target, cast, quantize
from resnet_deploy.precision.adjust import correct_bias, equalize
from resnet_deploy.precision.auto import relative_error, run_graph
from resnet_deploy.precision.calibrate import symmetric_scale
from resnet_deploy.precision.quantize import weight_scales
from resnet_deploy.specs import Precision
from tests.helpers.cpu import EXACT_INT8
from tests.helpers.engines import build_report
from tests.helpers.precision_graphs import BLOCKS, IMAGES, graph_of, observed

pytestmark = pytest.mark.slow

TRT, CPU = QuantizeOptions(), QuantizeOptions(target=Target.CPU)


def quantized(block: str, options: QuantizeOptions = TRT, method: str = "max") -> tuple[Graph, Placement]:
    observer = observed(BLOCKS[block])
    return quantize(observer.graph, observer.calibration(method), options)


def kernels(graph: Graph, path: Path) -> list[str]:
    """What ONNX Runtime's CPU provider makes of a graph."""
    graph.copy().save(path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def test_the_example_of_the_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graph_of(BLOCKS["plain"]).save(tmp_path / "resnet.onnx")
    _, example = str(precision.__doc__).split("\n\n", 1)
    exec(example, {"batches": lambda size: (IMAGES[start : start + size] for start in range(0, len(IMAGES), size))})
    assert "QuantizeLinear" in {node.op_type for node in Graph.read(tmp_path / "resnet.int8.onnx").nodes}


def test_scales_are_scalars_and_symmetric() -> None:
    graph, placement = quantized("bottleneck")
    for name in placement.activations:
        scale, zero = graph.value(f"{name}.scale"), graph.value(f"{name}.zero_point")
        assert scale.shape == zero.shape == ()  # [1] would be per axis, and TensorRT would leave the layer in floating point
        assert zero == 0 and zero.dtype == np.int8
        largest = observed(BLOCKS["bottleneck"]).histograms[name].largest
        assert largest <= scale * 127 <= largest * 1.001
        assert float(np.float16(scale)) == float(scale)


def test_weights_are_integers_with_a_scale_a_channel() -> None:
    graph, placement = quantized("bottleneck")
    original = graph_of(BLOCKS["bottleneck"])
    for name in placement.convolutions:
        weight = original.value(f"{name}.weight")
        scale, integers = graph.value(f"{name}.weight.scale"), graph.value(f"{name}.weight.q")
        assert integers.dtype == np.int8 and scale.shape == (len(weight),) and np.abs(integers).max() <= 127
        shaped = scale.reshape(-1, 1, 1, 1)
        assert np.abs(weight - integers * shaped).max() <= shaped.max() / 2 * 1.0001
        np.testing.assert_array_equal(integers, np.clip(np.rint(weight / shaped), -127, 127))


def test_a_layer_computes_what_numpy_computes() -> None:
    """The first convolution of a small network, quantized by hand."""
    graph, _ = quantized("plain")
    graph.model.graph.output.append(onnx.helper.make_empty_tensor_value_info("conv1"))
    original = graph_of(BLOCKS["plain"])
    scale = float(graph.value("input.scale"))
    images = np.clip(np.rint(IMAGES[:2] / scale), -128, 127) * scale
    shaped = graph.value("conv1.weight.scale").reshape(-1, 1, 1, 1)
    weight = np.clip(np.rint(original.value("conv1.weight") / shaped), -127, 127) * shaped
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    expected = np.einsum("nchwij,ocij->nohw", windows, weight)
    node = next(node for node in original.nodes if node.name == "conv1")
    if len(node.input) > 2:
        expected += original.value(node.input[2]).reshape(1, -1, 1, 1)
    found = run_graph(graph, IMAGES[:2])[-1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("other", [None, Precision.FP16])
def test_tensorrt_takes_every_convolution_as_int8(tmp_path: Path, block: str, other: Precision | None) -> None:
    graph, placement = quantized(block)
    (cast(graph, other) if other else graph).save(tmp_path / "m.onnx")
    types = build_report(tmp_path / "m.onnx", "sm86")
    assert [types[name] for name in placement.convolutions] == ["int8"] * len(placement.convolutions)


@pytest.mark.parametrize("block", BLOCKS)
def test_tensorrt_takes_every_convolution_as_fp8(tmp_path: Path, block: str) -> None:
    graph, placement = quantized(block, QuantizeOptions(precision=Precision.FP8))
    cast(graph, Precision.FP16).save(tmp_path / "m.onnx")
    types = build_report(tmp_path / "m.onnx", "sm89")
    assert [types[name] for name in placement.convolutions] == ["fp8"] * len(placement.convolutions)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("options", [TRT, CPU], ids=["tensorrt", "cpu"])
def test_answers_stay_close(block: str, options: QuantizeOptions) -> None:
    graph, _ = quantized(block, options)
    expected, found = run_graph(graph_of(BLOCKS[block]), IMAGES), run_graph(graph, IMAGES)
    assert relative_error(expected, found) < 0.02


@pytest.mark.parametrize("block", BLOCKS)
def test_openvino_runs_the_graph_that_tensorrt_gets(tmp_path: Path, block: str) -> None:
    from resnet_deploy.backends.candidate import Candidate
    from resnet_deploy.backends.openvino import OpenVinoBackend

    graph, _ = quantized(block)
    expected = run_graph(graph, IMAGES)[0]
    cast(graph, Precision.FP16).save(tmp_path / "m.onnx")
    with OpenVinoBackend(tmp_path / "m.onnx", Candidate.parse("openvino:int8"), threads=1) as backend:
        found = backend.infer(IMAGES)["logits"]
    assert relative_error([expected], [found]) < (0.01 if EXACT_INT8 else 0.05)


@pytest.mark.parametrize("block", BLOCKS)
def test_cpu_graphs_become_integer_kernels(tmp_path: Path, block: str) -> None:
    graph, placement = quantized(block, CPU)
    found = kernels(graph, tmp_path / "m.onnx")
    gates = 4 if block == "squeeze" else 0
    assert found.count("QLinearConv") == len(placement.convolutions)
    assert found.count("Conv") + found.count("FusedConv") == gates
    assert found.count("QLinearAdd") == sum(node.op_type == "Add" for node in graph.nodes)
    expected, answers = (
        run_graph(graph, IMAGES)[0],
        onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"input": IMAGES}),
    )
    assert relative_error([expected], [answers[0]]) < 0.01


def test_cpu_activations_are_unsigned_with_a_zero_point() -> None:
    graph, _ = quantized("padded shortcut", CPU)
    for name, low in (("input", True), ("relu", False), ("layer1.0.conv2", True)):
        zero, scale = graph.value(f"{name}.zero_point"), float(graph.value(f"{name}.scale"))
        histogram = observed(BLOCKS["padded shortcut"]).histograms[name]
        assert zero.dtype == np.uint8 and (int(zero) > 0) is low
        assert (0 - int(zero)) * scale <= min(0.0, histogram.low) + scale and (
            255 - int(zero)
        ) * scale >= histogram.high - scale
    pooled, _ = quantized("basic", CPU)
    assert pooled.value("maxpool.scale") == pooled.value("relu.scale")  # so that it pools integers


def test_seven_bits_of_weight() -> None:
    graph, placement = quantized("plain", QuantizeOptions(target=Target.CPU, reduce_range=True))
    assert max(np.abs(graph.value(f"{name}.weight.q")).max() for name in placement.convolutions) == 63


def test_the_head_on_request() -> None:
    graph, placement = quantized("plain", QuantizeOptions(head=True))
    assert "fc" in placement.convolutions and graph.value("fc.weight.scale").shape == (10,)
    assert relative_error(run_graph(graph_of(BLOCKS["plain"]), IMAGES), run_graph(graph, IMAGES)) < 0.02


def squared_error(weight: NDArray[Any], scales: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    step = scales[:, None].astype(np.float64)
    return np.asarray(((np.clip(np.rint(rows / step), -127, 127) * step - rows) ** 2).sum(1))


def test_clipped_weights_err_less() -> None:
    weight = np.random.default_rng(0).laplace(0, 1, (16, 512, 3, 3))
    plain, clipped = weight_scales(weight, 0, 127), weight_scales(weight, 0, 127, clip=True)
    assert (squared_error(weight, clipped) <= squared_error(weight, plain) * 1.001).all()
    assert (squared_error(weight, clipped) < squared_error(weight, plain)).all()
    assert (weight_scales(np.zeros((2, 1, 1, 1)), 0, 127) == 1).all()


@pytest.mark.parametrize("largest", [1e-7, 3e-5, 0.1, 1.0, 7.3, 900.0])
def test_a_scale_is_the_same_in_fp16(largest: float) -> None:
    scale = symmetric_scale(largest, 127)
    assert float(np.float16(scale)) == scale and scale * 127 >= largest


# Corrections.


def stretched(graph: Graph, first: str, second: str, by: float) -> Graph:
    """The same function with one channel between two convolutions out of all proportion."""
    done = graph.copy()
    for name, axis, factor in ((f"{first}.weight", 0, by), (f"{second}.weight", 1, 1 / by)):
        values = done.value(name).copy()
        np.moveaxis(values, axis, 0)[0] *= factor
        done.add_constant(name, values)
    return done


@pytest.mark.parametrize("block", ["bottleneck", "grouped", "padded shortcut", "pre-activation"])
def test_equalization_changes_no_answer(block: str) -> None:
    graph = graph_of(BLOCKS[block])
    assert relative_error(run_graph(graph, IMAGES), run_graph(equalize(graph), IMAGES)) < 1e-9


def test_equalization_undoes_an_outlier_channel() -> None:
    from resnet_deploy.precision import observe

    graph = stretched(graph_of(BLOCKS["plain"]), "layer2.0.conv1", "layer2.0.conv2", 500.0)
    expected = run_graph(graph, IMAGES)
    errors = []
    for candidate in (graph, equalize(graph)):
        calibration = observe(candidate, lambda size: iter([IMAGES])).calibration("max")
        errors.append(relative_error(expected, run_graph(quantize(candidate, calibration)[0], IMAGES)))
    assert errors[1] < 0.1 * errors[0]


def test_corrected_biases_have_no_mean_error() -> None:
    """Of what leaves the second convolution, its input being exact: the borders alone are left."""
    graph, name = graph_of(BLOCKS["plain"]), "layer1.0.conv1"
    calibration = observed(BLOCKS["plain"]).calibration("max")
    shifts = []
    for corrected in (False, True):
        done, placement = quantize(graph, calibration)
        if corrected:
            correct_bias(graph, done, placement, calibration)
        for node in done.nodes:
            for read in list(node.input):
                if node.op_type == "Conv" and read.endswith(".dq") and "weight" not in read:
                    done.rewire(node, read, read.removesuffix(".dq"))
        answers = []
        for candidate in (graph.copy(), done):
            candidate.model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
            answers.append(run_graph(candidate, IMAGES)[-1])
        shifts.append(float(np.abs((answers[1] - answers[0]).mean((0, 2, 3))).mean()))
    assert shifts[1] < 0.3 * shifts[0]


# FP16 and BF16.


@pytest.mark.parametrize("block", BLOCKS)
def test_fp16_computes_all_but_the_head(block: str) -> None:
    graph = cast(graph_of(BLOCKS[block]), Precision.FP16)
    types = {name: tensor.data_type for name, tensor in graph.constants.items()}
    weights = {name for name in types if name.endswith("weight")}
    assert {name for name in weights if types[name] == onnx.TensorProto.FLOAT} == {
        n for n in weights if n.endswith("fc.weight")
    }
    assert relative_error(run_graph(graph_of(BLOCKS[block]), IMAGES), run_graph(graph, IMAGES)) < 1e-5


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
@pytest.mark.parametrize("block", ["basic", "squeeze", "pre-activation", "ensemble"])
def test_tensorrt_computes_in_the_precision(tmp_path: Path, precision: Precision, block: str) -> None:
    graph = cast(graph_of(BLOCKS[block]), precision)
    graph.save(tmp_path / "m.onnx")
    types = build_report(tmp_path / "m.onnx", "sm86")
    assert types == {node.name: precision.value for node in graph.nodes if node.op_type == "Conv"}


def test_bf16_raises_the_opset_and_keeps_eight_bits(tmp_path: Path) -> None:
    from resnet_deploy.backends.candidate import Candidate
    from resnet_deploy.backends.openvino import OpenVinoBackend

    graph = cast(graph_of(BLOCKS["padded shortcut"]), Precision.BF16)
    assert graph.opset == 22
    graph.save(tmp_path / "m.onnx")
    with OpenVinoBackend(tmp_path / "m.onnx", Candidate.parse("openvino:bf16"), threads=1) as backend:
        found = backend.infer(IMAGES)["logits"]
    assert 1e-9 < relative_error(run_graph(graph_of(BLOCKS["padded shortcut"]), IMAGES), [found]) < 1e-3


def test_native_inputs_and_outputs(tmp_path: Path) -> None:
    graph = cast(graph_of(BLOCKS["plain"]), Precision.FP16, native_io=True)
    graph.save(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    assert session.get_inputs()[0].type == session.get_outputs()[0].type == "tensor(float16)"
    found = session.run(None, {"input": IMAGES.astype(np.float16)})[0]
    assert relative_error(run_graph(graph_of(BLOCKS["plain"]), IMAGES), [found]) < 1e-4


@pytest.mark.parametrize("head", ["topk:3", "features", "embedding", "probabilities"])
@pytest.mark.parametrize("input_format", ["float", "uint8"])
def test_every_head_and_input(head: str, input_format: str) -> None:
    graph = graph_of(BLOCKS["padded shortcut"], head, input_format)
    images = IMAGES if input_format == "float" else np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), np.uint8)
    low = cast(graph, Precision.FP16)
    assert [value.type for value in low.model.graph.output] == [value.type for value in graph.model.graph.output]
    assert relative_error(run_graph(graph, images), run_graph(low, images)) < 1e-4


def test_layers_that_are_kept_stay_fp32() -> None:
    graph = cast(graph_of(BLOCKS["plain"]), Precision.FP16, keep=["layer2.0"])
    types = {name: tensor.data_type for name, tensor in graph.constants.items() if name.endswith("weight")}
    assert types["layer2.0.conv1.weight"] == onnx.TensorProto.FLOAT
    assert types["layer1.0.conv1.weight"] == onnx.TensorProto.FLOAT16


# What cannot be done.


def test_a_weight_beyond_fp16_is_named() -> None:
    graph = stretched(graph_of(BLOCKS["plain"]), "layer2.0.conv1", "layer2.0.conv2", 1e7)
    with pytest.raises(GraphError, match=r"layer2\.0\.conv1\.weight has a value of .* FP16 ends at 65504: use bf16"):
        cast(graph, Precision.FP16)


@pytest.mark.parametrize("options", [TRT, CPU], ids=["tensorrt", "cpu"])
def test_a_graph_is_not_quantized_twice(options: QuantizeOptions) -> None:
    graph, _ = quantized("plain", options)
    with pytest.raises(GraphError, match="quantized already"):
        quantize(graph, observed(BLOCKS["plain"]).calibration("max"))
    with pytest.raises(GraphError, match="is not FP32"):
        quantize(cast(graph_of(BLOCKS["plain"]), Precision.FP16), observed(BLOCKS["plain"]).calibration("max"))


def test_another_models_calibration_is_refused() -> None:
    with pytest.raises(CalibrationError, match="of another model: it has no range for"):
        quantize(graph_of(BLOCKS["basic"]), observed(BLOCKS["padded shortcut"]).calibration("max"))
    other = stretched(graph_of(BLOCKS["plain"]), "layer2.0.conv1", "layer2.0.conv2", 2.0)
    with pytest.raises(CalibrationError, match="the weights or layers differ"):
        quantize(other, observed(BLOCKS["plain"]).calibration("max"))


def test_precisions_that_make_no_sense() -> None:
    for options in ({"precision": Precision.FP16}, {"precision": Precision.FP8, "target": Target.CPU}):
        with pytest.raises(UsageError):
            QuantizeOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="choose fp16 or bf16"):
        cast(graph_of(BLOCKS["plain"]), Precision.INT8)


def test_fp8_needs_opset_19() -> None:
    graph = graph_of(BLOCKS["plain"])
    graph.model.opset_import[0].version = 17
    calibration = observed(BLOCKS["plain"]).calibration("max")
    with pytest.raises(GraphError, match="opset 17; FP8 needs 19"):
        quantize(graph, calibration, QuantizeOptions(precision=Precision.FP8))


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08garbage")
    for path in (tmp_path / "m.onnx", tmp_path / "gone.onnx"):
        with pytest.raises(GraphError):
            Graph.read(path)
