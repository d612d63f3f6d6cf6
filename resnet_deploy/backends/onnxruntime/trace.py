"""ONNX Runtime's profile: a JSON trace of every operator that ran.

https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resnet_deploy.backends.layer_names import OnnxNames
from resnet_deploy.backends.layers import LayerTime, LayerTimes, median, precision

_SUFFIX = "_kernel_time"


def read_trace(trace: Path, graph: Path, optimized: Path | None) -> LayerTimes:
    """The layers of a trace. graph: the file that ran; optimized: what ONNX Runtime made of it, None where it cannot be
    written."""
    events: list[dict[str, Any]] = json.loads(trace.read_bytes())
    names = OnnxNames(graph)
    origins = {} if optimized is None else names.origins(OnnxNames(optimized).graph)
    times_s: dict[str, list[float]] = {}
    about: dict[str, dict[str, Any]] = {}
    walls_s = []
    for event in events:
        if event["cat"] == "Session" and event["name"] == "model_run":
            walls_s.append(event["dur"] / 1e6)
        elif event["cat"] == "Node" and event["name"].endswith(_SUFFIX):
            name = event["name"].removesuffix(_SUFFIX)
            times_s.setdefault(name, []).append(event["dur"] / 1e6)
            about[name] = event["args"]
    layers = []
    for name, values_s in times_s.items():
        kind, made_of = about[name]["op_name"], origins.get(name) or names.known([name])
        elements = [next(iter(tensor)) for tensor in about[name].get("input_type_shape") or ()]
        layers.append(
            LayerTime(
                name=names.title(made_of, name),
                kind=kind,
                time_s=median(values_s),
                onnx=made_of,
                precision=precision(elements[0], kind) if elements else None,
            )
        )
    return LayerTimes(layers=tuple(layers), wall_s=median(walls_s))
