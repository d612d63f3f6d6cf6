"""What a bundle begins with: the weights that its reference is rebuilt from, and the FP32 graph that was checked against it."""

from __future__ import annotations

from typing import Any

from resnet_deploy import _json
from resnet_deploy.bundle.manifest import Check, GraphFile, ModelDescription, Request, WeightsFile
from resnet_deploy.bundle.names import FP32, WEIGHTS
from resnet_deploy.bundle.transaction import Transaction
from resnet_deploy.specs import Precision, Progress


def write_weights(change: Transaction, network: Any, description: ModelDescription, made_from: str | None) -> WeightsFile:
    """Stage what the eager reference is rebuilt from."""
    from resnet_deploy.models.checkpoint import save

    metadata = {
        "architecture": description.architecture, "preprocessing": _json.plain(description.preprocessing),
        "class_names": description.class_names,
    }  # fmt: skip
    save(network.state_dict(), change.stage(WEIGHTS), metadata)
    return change.add(WEIGHTS, WeightsFile, made_from=made_from)


def write_graph(change: Transaction, model: Any, request: Request, weights: str, progress: Progress) -> GraphFile:
    """Stage the FP32 graph of a DeployModel, checked against it. weights: the digest of the file that it was loaded from."""
    from resnet_deploy.pipeline.onnx_export import export_onnx

    checks = export_onnx(
        model, change.stage(FP32), max_batch=request.max_batch, opset=request.opset, step=lambda what: progress(what, 0, None)
    )
    return change.add(
        FP32, GraphFile, precision=Precision.FP32, opset=request.opset, checks=tuple(Check(**check) for check in checks),
        made_from=weights,
    )  # fmt: skip
