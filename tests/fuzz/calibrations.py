"""calibration.json: numbers, types, names and bytes changed at random, then quantized by where it is believed."""

from __future__ import annotations

import copy
import functools
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.helpers import hostile_graphs as hostile

NAME = "calibrations"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.0, -0.0, 1e-45, 1e-9, 0.5, 1e9, 1e30, 1e38, 4e38, 1e308, -1e308, math.nan, math.inf,
    -math.inf, 10**400, "", "0", "relu", "max", "entropy", "percentile:50",
    "percentile:0", "\x1b[2J", "a" * 16, "0" * 64, [], [0.0], [None],
    {}, {"low": 0, "high": 0, "int8": 0, "uint8": 0}, {"low": -1.0, "high": 1.0, "int8": 1.0, "uint8": 1.0},
)  # fmt: skip


@functools.cache
def network() -> bytes:
    """Two convolutions with a ReLU between them, and an addition."""
    rng, node = np.random.default_rng(0), helper.make_node
    weights = [numpy_helper.from_array(rng.standard_normal((3, 3, 3, 3), np.float32), name) for name in ("w", "v")]
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="a", pads=[1] * 4), node("Relu", ["a"], ["relu"], name="relu"),
        node("Conv", ["relu", "v"], ["b"], name="b", pads=[1] * 4), node("Add", ["b", "x"], ["y"], name="y"),
    ]  # fmt: skip
    inputs, outputs = [hostile.value("x", ("n", 3, 8, 8))], [hostile.value("y", ("n", 3, 8, 8))]
    return bytes(hostile.model(nodes, inputs=inputs, outputs=outputs, weights=weights).SerializeToString())


@functools.cache
def written() -> bytes:
    """The file of that network, as it is written."""
    from resnet_deploy.precision.calibrate import observe

    images = np.random.default_rng(1).standard_normal((6, 3, 8, 8), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        observe(graph(), lambda _: iter([images])).calibration("entropy", "six images").save(Path(folder) / "c.json")
        return (Path(folder) / "c.json").read_bytes()


def graph() -> Any:
    from resnet_deploy.graph.graph import Graph

    return Graph(onnx.ModelProto.FromString(network()), "the network")


def run(rng: random.Random, folder: Path) -> None:
    """One file: read, compared with what was changed, and quantized by."""
    from resnet_deploy.errors import DeployError
    from resnet_deploy.precision.calibrate import Calibration

    before = json.loads(written())
    text = _changed(rng, before)
    path = folder / "calibration.json"
    path.write_bytes(text)
    try:
        calibration = Calibration.load(path)
    except DeployError:
        return
    after = json.loads(text)
    (folder / "before.json").write_bytes(written())
    if _determining(after) != _determining(before) and calibration.key == Calibration.load(folder / "before.json").key:
        raise AssertionError("believed that nothing was changed: equal keys")
    _check(calibration)
    _quantize(calibration)
    calibration.save(folder / "again.json")
    if Calibration.load(folder / "again.json") != calibration:
        raise AssertionError("believed a calibration that does not read back")


def _changed(rng: random.Random, before: Any) -> bytes:
    kind = rng.random()
    if kind < 0.15:
        data = bytearray(written())
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
    if kind < 0.18:
        return rng.choice([b"", b"[" * 100_000, b"null", b"{}", b'{"version": 1}', b"\xff\xfe{}", b"1", rng.randbytes(50)])
    content = copy.deepcopy(before)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        _edit(rng, content)
    text = json.dumps(content)  # NaN and Infinity as Python writes them
    if rng.random() < 0.1:
        text = text.replace("NaN", "1e999").replace("Infinity", "-1e999")
    return text.encode()


def _edit(rng: random.Random, content: Any) -> None:
    """Walk down to some place, and change it."""
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(place[key], (dict, list)) and rng.random() < 0.85:
            place = place[key]
            continue
        break
    kind, old = rng.random(), place[key]
    if kind < 0.15:
        del place[key]
    elif kind < 0.25 and isinstance(place, dict):
        place[rng.choice(["relu", "x", "other", "", "\n", "low"])] = place.pop(key)
    elif kind < 0.6 and isinstance(old, float):
        place[key] = old * rng.choice([0.5, 0.999, 1.001, 2, -1, 1e3, 1e-3])
    else:
        place[key] = copy.deepcopy(rng.choice(VALUES))


def _determining(content: Any) -> Any:
    """What a quantized graph depends on, as plain JSON."""
    ranges = {name: [item[key] for key in ("low", "high", "int8", "uint8")] for name, item in content["tensors"].items()}
    return [content["method"], content["graph"], content["data"], content["images"], content["means"], ranges]


def _check(calibration: Any) -> None:
    for name, item in calibration.ranges.items():
        numbers = (item.low, item.high, item.int8, item.uint8)
        if not all(isinstance(number, float) and math.isfinite(number) for number in numbers):
            raise AssertionError(f"believed {numbers} of {name!r}")
        if item.low > item.high or min(item.int8, item.uint8) < 0 or max(item.int8, item.uint8) > item.largest:
            raise AssertionError(f"believed {numbers} of {name!r}")
        if 0 in (item.int8, item.uint8) and item.largest != 0:
            raise AssertionError(f"believed a width of 0 of {name!r}")
    if not calibration.images or not all(len(item) == 16 and int(item, 16) >= 0 for item in calibration.images):
        raise AssertionError("believed digests of no image")
    if not calibration.data.isprintable():
        raise AssertionError("believed control characters")


def _quantize(calibration: Any) -> None:
    from resnet_deploy.errors import CalibrationError
    from resnet_deploy.precision.adjust import correct_bias
    from resnet_deploy.precision.placement import Target
    from resnet_deploy.precision.quantize import QuantizeOptions, quantize

    known = {"x", "a", "relu", "b", "y"}
    original = graph()
    for target in Target:
        try:
            done, placement = quantize(original, calibration, QuantizeOptions(target=target))
            correct_bias(original, done, placement, calibration)
        except CalibrationError:
            continue
        if not set(calibration.ranges) <= known or not set(calibration.means) <= known:
            raise AssertionError("believed a tensor that the graph does not have")
        scales = [done.value(name) for name in done.constants if name.endswith((".scale", ".corrected_bias"))]
        if (
            not all(np.isfinite(scale).all() for scale in scales)
            or min(done.value(name).min() for name in done.constants if name.endswith(".scale")) <= 0
        ):
            raise AssertionError("believed a scale that is no scale")
