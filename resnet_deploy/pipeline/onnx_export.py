"""DeployModel → one self-contained FP32 ONNX file with a dynamic batch, checked against eager before it is called done."""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_deploy import limits
from resnet_deploy._files import flush, writing
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.eager.backend import EagerBackend
from resnet_deploy.backends.onnxruntime.backend import OrtBackend
from resnet_deploy.errors import ExportError, UsageError
from resnet_deploy.graph.onnx_files import opset_of
from resnet_deploy.models.deploy import DeployModel
from resnet_deploy.parity.metrics import OutputComparison, ParityReport
from resnet_deploy.specs import INPUT_NAME, MAX_BATCH, OPSET

MAX_REL_ERROR = 1e-4  # of the largest magnitude of the output: another order of summation, nothing more
MIN_INDEX_AGREEMENT = 0.9  # top-k indices may swap where two values tie
MAX_PROTOBUF_BYTES = 2**31

Step = Callable[[str], None]


def export_onnx(
    model: DeployModel, path: Path, *, max_batch: int = MAX_BATCH, opset: int = OPSET, step: Step | None = None
) -> list[dict[str, Any]]:
    """Export, check with onnx.checker, and compare with eager at batch 1, 2, 7 and max_batch.

    Args:
        model: the network with its input and its head.
        path: of the ONNX file.
        max_batch: the largest batch that is checked.
        opset: of ONNX.
        step: told what is being done.

    Returns:
        The checks: batch, max_abs_error, max_rel_error, cosine_min.

    Raises:
        UsageError: an opset out of range.
        ExportError: the file is not valid, of another opset, or answers otherwise than eager; it is removed.
    """
    if max_batch < 1:
        raise UsageError(f"the largest batch must be at least 1; found {max_batch}")
    limits.check_option("opset", opset)
    step = step or (lambda _: None)
    try:
        step("export")
        _write(_trace(model, max_batch, opset), path)
        gc.collect()
        step("check")
        _check_graph(path)
        step("compare with eager")
        return _check_answers(model, path, sorted({n for n in (1, 2, 7) if n < max_batch} | {max_batch}))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _trace(model: DeployModel, max_batch: int, opset: int) -> onnx.ModelProto:
    spec = model.input_spec
    # A batch of 1 would be taken for a constant.
    shape = (min(2, max_batch), *spec.shape[1:])
    example = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
    dynamic = ({0: torch.export.Dim("batch", min=1, max=max_batch)},) if max_batch > 1 else None
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _fold_batch_norms(model), (example,), dynamo=True, dynamic_shapes=dynamic, opset_version=opset, verbose=False,
                input_names=[INPUT_NAME], output_names=list(model.output_names),
            )  # fmt: skip
        proto: onnx.ModelProto = program.model_proto
    except Exception as exc:  # the exporter raises whatever its passes raise
        raise ExportError(f"torch.onnx.export failed ({type(exc).__name__}): {str(exc).splitlines()[0][:300]}") from exc
    if (written := opset_of(proto)) != opset:
        raise ExportError(f"torch.onnx wrote opset {written} where {opset} was asked for: leave out --opset, or give {written}")
    _tidy(proto)
    return proto


def _fold_batch_norms(model: DeployModel) -> DeployModel:
    """A copy whose convolutions have taken in the batch norms that follow them.

    The exporter would fold them as well, but only after it has carried four values and a counter of each through all of
    its passes, some of which cost the square of their number: at a thousand layers that is most of its time.
    """
    folded = copy.deepcopy(model)
    network = folded.network
    modules = dict(network.named_modules())
    for node in torch.fx.symbolic_trace(network).graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if before.op == "call_module" and isinstance(modules[before.target], nn.Conv2d) and len(before.users) == 1:
            fused = fuse_conv_bn_eval(modules[before.target], modules[node.target])
            network.set_submodule(before.target, fused)
            network.set_submodule(node.target, nn.Identity())
    return folded


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that are not needed and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _tidy(proto: onnx.ModelProto) -> None:
    """Name layers after the modules that they came from, and drop the exporter's notes (they hold source paths)."""
    graph = proto.graph
    kept = {tensor.name for tensor in (*graph.input, *graph.output)}
    weights = {tensor.name: tensor.name.removeprefix("network.") for tensor in graph.initializer}
    taken: Counter[str] = Counter()
    renamed: dict[str, str] = {**weights, INPUT_NAME: INPUT_NAME}
    for node in graph.node:
        node.name = _unique(_layer_name(node), taken)
        for index, output in enumerate(node.output):
            if output and output not in kept:
                renamed[output] = node.name if index == 0 else f"{node.name}:{index}"
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in graph.initializer:
        tensor.name = weights[tensor.name]
    for value in (*graph.value_info, *graph.input, *graph.output):
        value.name = renamed.get(value.name, value.name)
        del value.metadata_props[:]
    del graph.metadata_props[:]
    graph.name, graph.doc_string = "resnet", ""
    proto.producer_name, proto.producer_version, proto.doc_string = "resnet-deploy", "", ""
    del proto.metadata_props[:]


def _layer_name(node: onnx.NodeProto) -> str:
    """`layer1.0.conv1` for a layer with weights (batch norm is folded into it), else its module's path or its type."""
    weight = next((name for name in node.input[1:2] if name.endswith(".weight")), None)
    if weight is not None:
        return str(weight.removeprefix("network.").removesuffix(".weight"))
    notes = {note.key: note.value for note in node.metadata_props}
    scopes = notes.get("pkg.torch.onnx.name_scopes", "")
    # The last scope is the operator itself, the one before it the module: "['', 'network', 'network.relu', 'relu']".
    modules = [scope.strip(" '\"") for scope in scopes.strip("[]").split(",")][:-1]
    module: str = modules[-1].removeprefix("network").lstrip(".") if modules else ""
    kind = str(node.op_type).lower()
    if not module:
        return kind
    # An activation's or a pooling's own module names it; a container's operators carry their type beside it.
    return module if module.split(".")[-1].rstrip("0123456789") in {"relu", "maxpool"} else f"{module}.{kind}"


def _unique(name: str, taken: Counter[str]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}_{taken[name]}"


def _write(proto: onnx.ModelProto, path: Path) -> None:
    if proto.ByteSize() >= MAX_PROTOBUF_BYTES:
        raise ExportError("the model is larger than 2 GB, which is the most that one ONNX file can hold")
    with writing(path), path.open("wb") as file:
        file.write(proto.SerializeToString(deterministic=True))
    flush(path)


def _check_graph(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportError(f"the exported graph is not valid ONNX: {str(exc).splitlines()[0]}") from exc


def _check_answers(model: DeployModel, path: Path, batches: list[int]) -> list[dict[str, Any]]:
    eager = EagerBackend(model, Candidate(backend="eager"))
    checks = []
    with OrtBackend(path, Candidate(backend="onnxruntime")) as ort:
        for batch in batches:
            images = _example(model, batch)
            comparison = OutputComparison()
            expected, outputs = eager.infer(images), ort.infer(images)
            comparison.add(expected, outputs)
            report = comparison.report()
            if failure := _differs(report, expected, outputs):
                raise ExportError(f"the exported graph differs from eager at batch {batch}: {failure}")
            checks.append(
                {"batch": batch, "max_abs_error": report.max_abs_error, "max_rel_error": report.max_rel_error,
                 "cosine_min": report.cosine_min}
            )  # fmt: skip
    return checks


def _example(model: DeployModel, batch: int) -> np.ndarray[Any, Any]:
    """Random images of the input's own distribution, from a fixed seed."""
    rng = np.random.default_rng(batch)
    spec = model.input_spec
    shape = spec.of_batch(batch)
    if spec.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32)


def _differs(report: ParityReport, expected: Any, outputs: Any) -> str | None:
    if not report.finite:
        return "NaN or Inf in the outputs. Are the weights those of a trained model?"
    if report.max_rel_error > MAX_REL_ERROR:
        return f"relative error {report.max_rel_error:.3g}, at most {MAX_REL_ERROR:g}"
    for name in expected:
        if np.issubdtype(expected[name].dtype, np.integer):
            agreement = float((expected[name] == outputs[name]).mean())
            if agreement < MIN_INDEX_AGREEMENT:
                return f"{name} agree on {agreement:.0%}, at least {MIN_INDEX_AGREEMENT:.0%}"
    return None
