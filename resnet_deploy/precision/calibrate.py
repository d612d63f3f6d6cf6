"""Ranges of activations from real images: one pass of the FP32 graph, histograms that stream, a small readable file."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resnet_deploy._deps import require
from resnet_deploy._files import write_atomic
from resnet_deploy.errors import CalibrationError, GraphError
from resnet_deploy.precision.graph import Graph
from resnet_deploy.precision.histogram import INT8_LEVELS, UINT8_LEVELS, Histogram
from resnet_deploy.precision.placement import Target, additions, depths, place

FEW_IMAGES = 128
PIXEL_LIKE = 30.0  # normalized images stay well below; pixels of 0 to 255 do not
FP16_LARGEST = 65504.0
BATCH_BYTES = 128_000_000  # of activations held at once
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Range:
    """Of one tensor: exact extremes, and the magnitudes at which 127 levels a side (int8) and 255 (uint8; 127 where
    there are negative values) saturate."""

    low: float
    high: float
    int8: float
    uint8: float

    @property
    def largest(self) -> float:
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Ranges by tensor. graph: the FP32 graph's hash. images: digests of those that were seen, so that nothing is judged on
    them; data: what the user called them. means: of each channel of what convolutions read, for bias correction."""

    method: str
    graph: str
    ranges: dict[str, Range]
    data: str = ""
    images: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    means: dict[str, list[float]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Readable JSON, a line a tensor. Raises StorageError on a full disk."""
        head = {"version": VERSION, "method": self.method, "graph": self.graph, "data": self.data, "warnings": self.warnings}
        lines = [f"  {json.dumps(name)}: {json.dumps(vars(found))}" for name, found in self.ranges.items()]
        text = json.dumps(head, indent=1)[:-2] + ',\n "tensors": {\n' + ",\n".join(lines) + "\n },\n"
        means = [f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in self.means.items()]
        text += ' "means": {' + ("\n" + ",\n".join(means) + "\n " if means else "") + "},\n"
        write_atomic(path, (text + f' "images": {json.dumps(list(self.images))}\n}}\n').encode())

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Raises CalibrationError for what `save` did not write."""
        try:
            found = json.loads(path.read_bytes())
            if found["version"] != VERSION:
                raise CalibrationError(f"{path} has version {found['version']}; this resnet-deploy reads {VERSION}")
            ranges = {name: Range(**{key: float(v) for key, v in entry.items()}) for name, entry in found["tensors"].items()}
            return cls(
                method=str(found["method"]), graph=str(found["graph"]), ranges=ranges, data=str(found["data"]),
                images=tuple(map(str, found["images"])), warnings=tuple(map(str, found["warnings"])),
                means={name: [float(value) for value in values] for name, values in found["means"].items()},
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise CalibrationError(f"{path} is not a calibration file ({exc}); give images instead") from exc

    def require(self, graph: Graph, names: Iterable[str]) -> None:
        """Raise CalibrationError where this is another model's."""
        missing = [name for name in names if name not in self.ranges]
        if missing or self.graph != digest_of(graph):
            what = f"it has no range for {missing[0]}" if missing else "the weights or layers differ"
            raise CalibrationError(f"the calibration ({self.data or self.method}) is of another model: {what}. Calibrate again")

    def overflows(self) -> dict[str, float]:
        """Tensors with values that FP16 cannot hold."""
        return {name: found.largest for name, found in self.ranges.items() if found.largest > FP16_LARGEST}


def _digits(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def digest_of(graph: Graph) -> str:
    """Of the graph's nodes and constants, whatever the file's own metadata."""
    return hashlib.sha256(graph.model.graph.SerializeToString(deterministic=True)).hexdigest()


def image_digest(image: NDArray[Any]) -> str:
    """Of one image as the model takes it: 16 hexadecimal digits."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).hexdigest()


def tensors_of(graph: Graph) -> list[str]:
    """Every tensor that any target's placement may quantize, in the graph's order."""
    found: dict[str, None] = {}
    for target in Target:
        found |= dict.fromkeys(place(graph, target, head=True).activations)
    for main, skip in additions(graph).values():
        found |= {main: None, skip: None}
    return list(found)


@dataclass
class Observer:
    """Runs a graph on batches and counts what its tensors take. Memory does not grow with the number of images."""

    graph: Graph
    threads: int | None = None
    histograms: dict[str, Histogram] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graph.require_float32()
        names = tensors_of(self.graph)
        if not names:
            raise GraphError(f"{self.graph.source} has no convolution to calibrate")
        self.histograms = {name: Histogram() for name in names}
        self._input = self.graph.input.name
        self._averaged = {node.input[0] for node in self.graph.weighted() if node.op_type == "Conv"}
        self._computed = [name for name in names if name != self._input]
        self._session = self._open()

    def _open(self) -> Any:
        ort = require("onnxruntime", extra="cpu")
        exposed = self.graph.copy()
        exposed.expose(self._computed)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        # Its threads would spin for the next batch while this one is counted.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        try:
            return ort.InferenceSession(exposed.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime's exceptions have no common base
            raise GraphError(f"ONNX Runtime cannot run {self.graph.source}: {str(exc).splitlines()[0]}") from exc

    def batch_size(self, shape: tuple[int, ...]) -> int:
        """Images at a time, so that their activations fit."""
        probe = np.zeros((1, *shape), self._dtype())
        held = sum(array.nbytes for array in self._session.run(self._computed, {self._input: probe}))
        return int(min(32, max(1, BATCH_BYTES // max(held, 1))))

    def _dtype(self) -> Any:
        return onnx.helper.tensor_dtype_to_np_dtype(self.graph.input.type.tensor_type.elem_type)

    def add(self, images: NDArray[Any]) -> None:
        """Count a batch. Raises CalibrationError for images that the model cannot have been made for."""
        self._check(images)
        self.images += [image_digest(image) for image in images]
        arrays = dict(zip(self._computed, self._session.run(self._computed, {self._input: images}), strict=True))
        if self._input in self.histograms:
            arrays[self._input] = images
        with ThreadPoolExecutor(self.threads or os.cpu_count()) as pool:  # counting is one thread's work for each tensor
            list(pool.map(self._count, arrays, arrays.values()))
        if bad := next((name for name in arrays if not self.histograms[name].finite), None):
            raise CalibrationError(f"{bad} has NaN or Inf on the calibration images: the model is not fit for use")

    def _count(self, name: str, values: NDArray[Any]) -> None:
        self.histograms[name].add(values)
        if name in self._averaged:
            per_image = values.mean(axis=tuple(range(2, values.ndim))).sum(0, dtype=np.float64)
            self.sums[name] = self.sums.get(name, 0.0) + per_image

    def _check(self, images: NDArray[Any]) -> None:
        if images.dtype != self._dtype():
            raise CalibrationError(f"the model takes {np.dtype(self._dtype())} images; found {images.dtype}")
        if np.issubdtype(images.dtype, np.floating):
            if not np.isfinite(images).all():
                raise CalibrationError("the calibration images have NaN or Inf")
            if float(np.abs(images).max()) > PIXEL_LIKE:
                raise CalibrationError(
                    f"the calibration images reach {np.abs(images).max():.0f}: they look like pixels of 0 to 255, but the "
                    "model takes normalized ones. Normalize them, or export with --input uint8"
                )

    def ranges(self, method: str) -> dict[str, Range]:
        """By one method: max, percentile:P, entropy or mse. Raises CalibrationError before the first image."""
        self._judge_images()
        found = {}
        behind = depths(self.graph)
        for name, histogram in self.histograms.items():
            # An image's range is known, and has nothing to be clipped: its commonest value may be the background.
            chosen = method if behind.get(name, 0) else "max"
            int8 = histogram.threshold(chosen, INT8_LEVELS)
            uint8 = int8 if histogram.low < 0 else histogram.threshold(chosen, UINT8_LEVELS)
            # As the file has them, so that ranges that are kept make the same bytes.
            low, high, *thresholds = (_digits(value, 7) for value in (histogram.low, histogram.high, int8, uint8))
            found[name] = Range(low=low, high=high, int8=thresholds[0], uint8=thresholds[1])
        return found

    def calibration(self, method: str, data: str = "") -> Calibration:
        """What was seen, as ranges that can be kept."""
        return Calibration(
            method=method, graph=digest_of(self.graph), ranges=self.ranges(method), data=data, images=tuple(self.images),
            warnings=tuple(self.warnings()),
            means={name: [_digits(v, 5) for v in total / len(self.images)] for name, total in self.sums.items()},
        )  # fmt: skip

    def warnings(self) -> list[str]:
        found = []
        if len(self.images) < FEW_IMAGES:
            found.append(f"calibrated on {len(self.images)} images; {FEW_IMAGES} or more give steadier ranges")
        if dead := [name for name, histogram in self.histograms.items() if histogram.largest == 0.0]:
            found.append(f"always zero on these images, and quantized by a guess: {', '.join(dead[:3])}")
        return found

    def _judge_images(self) -> None:
        if not self.images:
            raise CalibrationError("there are no calibration images")
        if len(self.images) > 1 and len(set(self.images)) == 1:
            raise CalibrationError(f"all {len(self.images)} calibration images are equal; give a real sample")


def observe(
    graph: Graph,
    batches: Callable[[int], Iterator[NDArray[Any]]],
    *,
    threads: int | None = None,
) -> Observer:
    """Run a graph over images. batches: called with a batch size, gives arrays as the model takes them."""
    observer = Observer(graph, threads=threads)
    shape = tuple(dim.dim_value for dim in graph.input.type.tensor_type.shape.dim)[1:]
    if 0 in shape:
        raise GraphError(f"{graph.source}: only the batch may be dynamic to calibrate; its input is {list(shape)}")
    for images in batches(observer.batch_size(shape)):
        if images.shape[1:] != shape:
            raise CalibrationError(f"the model takes images of {list(shape)}; found {list(images.shape[1:])}")
        observer.add(images)
    return observer


def symmetric_scale(largest: float, levels: float) -> float:
    """Of a tensor whose largest magnitude is to be the last level; 1 where it is always zero. Rounded up to a value that
    FP16 holds, so that one grid serves FP32 and FP16 graphs."""
    if largest <= 0 or not math.isfinite(largest):
        return 1.0
    scale = np.float16(largest / levels)
    if float(scale) * levels < largest:
        scale = np.nextafter(scale, np.float16(np.inf))
    return float(scale)
