"""Which calibration method: the one whose quantized graph errs least on images that no range has seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy._deps import require
from resnet_deploy.graph.graph import Graph
from resnet_deploy.precision.calibrate import Observer
from resnet_deploy.precision.histogram import METHODS
from resnet_deploy.precision.quantize import QuantizeOptions, quantize

Arrays = list[NDArray[Any]]


def best_method(observer: Observer, images: NDArray[Any], step: Callable[[str], None] = lambda _: None) -> str:
    """Of max, percentiles, entropy and mse, by `distance` on images that no range has seen; the simplest wins a tie."""
    expected = run_graph(observer.graph, images)
    errors = {}
    for method in METHODS:
        step(f"try {method}")
        graph, _ = quantize(observer.graph, observer.calibration(method), QuantizeOptions())
        errors[method] = distance(expected, run_graph(graph, images))
    return min(METHODS, key=lambda method: errors[method])


def simulated(graph: Graph, threads: int | None = None) -> Any:
    """An ONNX Runtime session that fuses no Q/DQ pair into integer kernels: each is computed as it is written.

    Args:
        graph: is sorted.
        threads: of one call; by default as many as there are cores.
    """
    ort = require("onnxruntime", extra="cpu")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    graph.sort()
    return ort.InferenceSession(graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_graph(graph: Graph, images: NDArray[Any]) -> Arrays:
    """Floating outputs of a graph: image by image, each by one thread, so that equal images have equal answers whatever the
    batch that the graph takes and the number of cores."""
    session = simulated(graph, threads=1)
    name = graph.input.name
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(lambda image: session.run(None, {name: image[None]}), images))
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return [array for array in joined if np.issubdtype(array.dtype, np.floating)]


def distance(expected: Iterable[NDArray[Any]], outputs: Iterable[NDArray[Any]]) -> float:
    """Norm of the difference over that of what was expected, the mean over images and outputs.

    Every image counts alike. By total energy a few images of large outputs decide, whose classes are not in doubt, and on 64
    images `max` often wins by chance (benchmarks/quantization.py).
    """
    ratios = []
    for a, b in zip(expected, outputs, strict=True):
        a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (a, b))
        ratios.append(np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(a, axis=1), 1e-30))
    return float(np.mean(ratios))


def relative_error(expected: Iterable[NDArray[Any]], outputs: Iterable[NDArray[Any]]) -> float:
    """Energy of the difference over that of what was expected, over all outputs."""
    difference = energy = 0.0
    for a, b in zip(expected, outputs, strict=True):
        difference += float(((a.astype(np.float64) - b) ** 2).sum())
        energy += float((a.astype(np.float64) ** 2).sum())
    return difference / max(energy, 1e-300)
