"""Ranges of activations from real images: one pass of the FP32 graph, histograms that stream."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resnet_deploy._deps import require
from resnet_deploy._text import printable
from resnet_deploy.errors import CalibrationError, GraphError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.precision.histogram import INT8_LEVELS, UINT8_LEVELS, Histogram
from resnet_deploy.precision.placement import Target, additions, depths, place
from resnet_deploy.precision.ranges import FP16_LARGEST as FP16_LARGEST
from resnet_deploy.precision.ranges import Calibration as Calibration
from resnet_deploy.precision.ranges import Range as Range
from resnet_deploy.precision.ranges import digest_of as digest_of
from resnet_deploy.specs import check_calibration_method

FEW_IMAGES = 128
PIXEL_LIKE = 30.0  # normalized images stay well below; pixels of 0 to 255 do not
BATCH_BYTES = 512_000_000  # of activations held at once: seven images of ResNet-50 at 224 pixels


def _digits(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}") + 0.0  # which of 0.0 and -0.0 is the least depends on their order


def image_digest(image: NDArray[Any]) -> str:
    """Of one image as the model takes it: 16 hexadecimal digits."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).hexdigest()


def tensors_of(graph: Graph) -> list[str]:
    """Every tensor that any target's placement may quantize, in the graph's order."""
    tensors: dict[str, None] = {}
    for target in Target:
        tensors |= dict.fromkeys(place(graph, target, head=True).activations)
    for main, skip in additions(graph).values():
        tensors |= {main: None, skip: None}
    return list(tensors)


@dataclass
class Observer:
    """Runs a graph on batches and counts what its tensors take. Memory does not grow with the number of images.

    Attributes:
        graph: an FP32 graph.
        threads: of ONNX Runtime; all cores where None.
        histograms: by tensor.
        images: digests of those that were seen.
        sums: of each channel of what convolutions read, by tensor.
    """

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
        averaged = dict.fromkeys(node.input[0] for node in self.graph.weighted() if node.op_type == "Conv")
        self.sums = {name: np.zeros(()) for name in averaged if name in self.histograms}
        self._input = self.graph.input.name
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
        options.intra_op_num_threads = 1  # of one image: several are computed at once
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
        if not len(images):
            return
        self._check(images)
        self.images += [image_digest(image) for image in images]
        with ThreadPoolExecutor(self.threads or os.cpu_count()) as pool:
            parts = dict(zip(self._computed, zip(*pool.map(self._run, images), strict=True), strict=True))
            if self._input in self.histograms:
                parts[self._input] = (images,)
            list(pool.map(self._count, parts, parts.values()))
        if bad := next((name for name in parts if not self.histograms[name].finite), None):
            raise CalibrationError(f"{bad} has NaN or Inf on the calibration images: the model is not fit for use")

    def _run(self, image: NDArray[Any]) -> list[NDArray[Any]]:
        """One image's activations, by one thread: what they are depends neither on the batch nor on the number of threads."""
        computed: list[NDArray[Any]] = self._session.run(self._computed, {self._input: image[None]})
        return computed

    def _count(self, name: str, parts: tuple[NDArray[Any], ...]) -> None:
        """Count one tensor's values, in one thread."""
        values = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self.histograms[name].add(values)
        if name in self.sums:
            for mean in values.mean(axis=tuple(range(2, values.ndim)), dtype=np.float64):
                self.sums[name] = self.sums[name] + mean

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
        """By one method: max, percentile:P, entropy or mse. Raises UsageError for another, CalibrationError before the first
        image."""
        check_calibration_method(method)
        self._judge_images()
        ranges = {}
        behind = depths(self.graph)
        for name, histogram in self.histograms.items():
            # An image's range is known, and has nothing to be clipped: its commonest value may be the background.
            chosen = method if behind.get(name, 0) else "max"
            int8 = histogram.threshold(chosen, INT8_LEVELS)
            uint8 = int8 if histogram.low < 0 else histogram.threshold(chosen, UINT8_LEVELS)
            # As the file has them, so that ranges that are kept make the same bytes.
            low, high, *thresholds = (_digits(value, 7) for value in (histogram.low, histogram.high, int8, uint8))
            ranges[name] = Range(low=low, high=high, int8=thresholds[0], uint8=thresholds[1])
        return ranges

    def calibration(self, method: str, data: str = "") -> Calibration:
        """Turn what was seen into ranges that can be kept.

        Args:
            method: max, percentile:P, entropy or mse.
            data: what the user calls the images.

        Returns:
            The range of each tensor.
        """
        return Calibration(
            method=method, graph=digest_of(self.graph), ranges=self.ranges(method), data=printable(data),
            images=tuple(self.images), warnings=tuple(map(printable, self.warnings())),
            means={name: [_digits(v, 5) for v in total / len(self.images)] for name, total in self.sums.items()},
        )  # fmt: skip

    def warnings(self) -> list[str]:
        warnings = []
        if len(self.images) < FEW_IMAGES:
            warnings.append(f"calibrated on {len(self.images)} images; {FEW_IMAGES} or more give steadier ranges")
        if dead := [name for name, histogram in self.histograms.items() if histogram.largest == 0.0]:
            warnings.append(f"always zero on these images, so that their ranges are guesses: {', '.join(dead[:3])}")
        return warnings

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
    """Run a graph over images.

    Args:
        graph: an FP32 graph.
        batches: called with a batch size, gives arrays of up to so many images, (N, ...) as the model takes them.
        threads: of ONNX Runtime; all cores where None.

    Returns:
        What was seen; its `calibration` gives ranges.
    """
    observer = Observer(graph, threads=threads)
    shape = tuple(dim.dim_value for dim in graph.input.type.tensor_type.shape.dim)[1:]
    if 0 in shape:
        raise GraphError(
            f"{graph.source} has the input {list(shape)}; to calibrate a graph, no dimension but the batch may be dynamic"
        )
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
    if largest / levels > FP16_LARGEST:  # FP32 alone holds such a tensor
        return float(np.float32(largest / levels))
    scale = np.float16(largest / levels)
    if float(scale) * levels < largest:
        scale = np.nextafter(scale, np.float16(np.inf))
    return float(scale)
