"""Models around a network in a Triton repository: image files in, the head's answer or the best classes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import resnet_deploy
from resnet_deploy import _json
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.errors import UsageError
from resnet_deploy.serving.triton.model_config import config_dict, new_config, string_parameters
from resnet_deploy.serving.triton.options import TritonOptions
from resnet_deploy.serving.triton.repository import IDENTITY, File, RepositoryModel
from resnet_deploy.specs import HeadKind

_PACKAGE = Path(resnet_deploy.__file__).parent
_STEPS = Path(__file__).parent / "steps"
# What decoding needs of this package, copied beside it: the very code that the model was verified with.
_SHARED = (
    *("__init__.py", "errors.py", "limits.py", "precisions.py", "specs.py"),
    *("data/__init__.py", "data/images.py", "data/preprocessing.py"),
)
# Where Python would keep model.py's byte code, which a server that polls would take for a change and load again.
_NO_CACHE = {"__pycache__": File()}


def ensemble(
    opened: OpenedBundle, network: RepositoryModel, options: TritonOptions, labels: list[str] | None
) -> list[RepositoryModel]:
    """The models around a network: decode, for scores of classes classify, and the one that clients call last.

    Raises UsageError where one of them would meet bfloat16, which Triton's Python models cannot read or write.
    """
    kind = opened.description.head.kind.value
    scored = kind in {HeadKind.LOGITS.value, HeadKind.PROBABILITIES.value}
    met = config_dict(network.config)["input"] + (config_dict(network.config)["output"] if scored else [])
    if any(entry["data_type"] == "TYPE_BF16" for entry in met):
        raise UsageError("Triton's Python models cannot read or write bfloat16; export without --native-io for --ensemble")
    decode = _decode(opened, network, options)
    classify = [_classify(network, options, kind, labels)] if scored else []
    steps = [
        _step(decode, {"image": "jpeg"}, {"pixels": "pixels"}),
        _step(network, {network.config.input[0].name: "pixels"},
              {entry.name: "scores" if scored else entry.name for entry in network.config.output}),
        *(_step(model, {"scores": "scores"}, {entry.name: entry.name for entry in model.config.output}) for model in classify),
    ]  # fmt: skip
    answers = (classify or [network])[0].config.output
    config = new_config(
        name=f"{network.name}_jpeg", platform="ensemble", max_batch_size=network.config.max_batch_size,
        input=[{"name": "jpeg", "data_type": "TYPE_STRING", "dims": [1]}],
        output=[{"name": entry.name, "data_type": entry.data_type, "dims": entry.dims} for entry in answers],
        ensemble_scheduling={"step": steps}, parameters=string_parameters(_identity(network)),
    )  # fmt: skip
    # An ensemble's version has no file, and object stores keep no empty folder.
    return [decode, *classify, RepositoryModel(config=config, version={".keep": File()})]


def _step(model: RepositoryModel, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, Any]:
    return {"model_name": model.name, "model_version": -1, "input_map": inputs, "output_map": outputs}


def _code(name: str) -> File:
    return File(content=(_STEPS / name).read_bytes())


def _identity(network: RepositoryModel) -> dict[str, str]:
    return {IDENTITY: network.config.parameters[IDENTITY].string_value}


def _decode(opened: OpenedBundle, network: RepositoryModel, options: TritonOptions) -> RepositoryModel:
    pixels = network.config.input[0]
    model = _json.plain(opened.description)
    parameters = {"preprocessing": json.dumps(model["preprocessing"]), "input_format": model["input_format"]}
    config = _python(
        network, "decode", options,
        [{"name": "image", "data_type": "TYPE_STRING", "dims": [1]}],
        [{"name": "pixels", "data_type": pixels.data_type, "dims": pixels.dims}], parameters,
    )  # fmt: skip
    shared = {f"resnet_deploy/{name}": File(content=(_PACKAGE / name).read_bytes()) for name in _SHARED}
    return RepositoryModel(config=config, version={"model.py": _code("decode.py"), **shared, **_NO_CACHE})


def _classify(network: RepositoryModel, options: TritonOptions, kind: str, labels: list[str] | None) -> RepositoryModel:
    (scores,) = network.config.output
    (classes,) = scores.dims
    top_k = min(options.top_k, classes)
    outputs = [
        {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [classes]},
        {"name": "topk_values", "data_type": "TYPE_FP32", "dims": [top_k]},
        {"name": "topk_indices", "data_type": "TYPE_INT64", "dims": [top_k]},
    ]
    files = {"model.py": _code("classify.py"), **_NO_CACHE}
    if labels is not None:
        outputs.append({"name": "topk_labels", "data_type": "TYPE_STRING", "dims": [top_k]})
        files["labels.txt"] = network.beside["labels.txt"]
    inputs = [{"name": "scores", "data_type": scores.data_type, "dims": [classes]}]
    return RepositoryModel(
        config=_python(network, "classify", options, inputs, outputs, {"top_k": str(top_k), "scores": kind}), version=files
    )


def _python(
    network: RepositoryModel,
    what: str,
    options: TritonOptions,
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    parameters: dict[str, str],
) -> Any:
    """A model of the Python backend, that takes what is waiting and waits for nothing."""
    return new_config(
        name=f"{network.name}_{what}", backend="python", max_batch_size=network.config.max_batch_size, input=inputs,
        output=outputs, instance_group=[{"count": options.copies, "kind": "KIND_CPU"}], dynamic_batching={},
        parameters=string_parameters(parameters | _identity(network)),
    )  # fmt: skip
