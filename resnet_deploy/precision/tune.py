"""Which blocks can be quantized: the sensitivity of each, and the mix of INT8 and higher precision that passes a gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.errors import TuningError
from resnet_deploy.graph.describe import layers_of
from resnet_deploy.graph.graph import Graph
from resnet_deploy.parity.metrics import OutputComparison, ParityReport
from resnet_deploy.precision.auto import simulated
from resnet_deploy.precision.blocks import blocks_of
from resnet_deploy.precision.calibrate import Calibration
from resnet_deploy.precision.placement import place
from resnet_deploy.precision.quantize import QuantizeOptions, quantize

Images = Sequence[tuple[NDArray[Any], "NDArray[np.int64] | None"]]
Judge = Callable[[ParityReport], list[str]]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What quantizing one block alone does.

    Attributes:
        block: its name.
        macs: its multiply-accumulates for one image.
        report: how the answers differ from FP32's.
    """

    block: str
    macs: int
    report: ParityReport

    @property
    def error(self) -> float:
        """One minus the mean cosine: it adds up over blocks, and has no unit."""
        return 2.0 if math.isnan(self.report.cosine_mean) else max(0.0, 1.0 - self.report.cosine_mean)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A choice of blocks that stay in higher precision.

    Attributes:
        keep: these blocks.
        macs: their multiply-accumulates for one image.
        report: how the answers differ from FP32's.
        failures: of the gate, in words.
        latency_s: median of a batch, where it was measured.
    """

    keep: tuple[str, ...]
    macs: int
    report: ParityReport
    failures: tuple[str, ...]
    latency_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A mix of precisions that was found.

    Attributes:
        sensitivities: what each block costs, quantized alone.
        mixes: all that were tried, in order.
        chosen: the one of them that is written.
        macs: of the whole network.
    """

    sensitivities: tuple[Sensitivity, ...]
    mixes: tuple[Mix, ...]
    chosen: Mix
    macs: int

    def to_dict(self) -> dict[str, Any]:
        def plain(item: Sensitivity | Mix) -> dict[str, Any]:
            return asdict(item) | {"report": item.report.to_dict()}

        return {
            "keep": list(self.chosen.keep), "macs": self.macs, "kept_macs": self.chosen.macs, "chosen": plain(self.chosen),
            "sensitivities": [plain(item) | {"error": item.error} for item in self.sensitivities],
            "mixes": [plain(mix) for mix in self.mixes],
        }  # fmt: skip


class Tuner:
    """Tries mixes of one network.

    Args:
        graph: the FP32 graph.
        calibration: ranges of its tensors.
        images: batches with labels (or None), none of which the calibration has seen.
        judge: gives what fails of a report.
        options: how blocks are quantized.
    """

    def __init__(
        self, graph: Graph, calibration: Calibration, images: Images, judge: Judge, options: QuantizeOptions | None = None
    ) -> None:
        self._graph, self._calibration, self._images, self._judge = graph, calibration, images, judge
        self._options = options or QuantizeOptions()
        convolutions = place(graph, self._options.target, keep=self._options.keep, head=self._options.head).convolutions
        self.blocks = blocks_of(graph, convolutions)
        macs = {layer.name: layer.macs or 0 for layer in layers_of(graph.model)}
        self.macs = {block: sum(macs[name] for name in names) for block, names in self.blocks.items()}
        self._expected = list(_answers(graph, images))

    def report(self, keep: Sequence[str]) -> ParityReport:
        """Quantized but for some blocks, each Q/DQ pair as it is written, against FP32."""
        graph, _ = quantize(self._graph, self._calibration, self._with(keep))
        return self.judged(graph)

    def judged(self, graph: Graph) -> ParityReport:
        """A graph of this network as it is written, against FP32."""
        comparison = OutputComparison()
        for expected, outputs, (_, labels) in zip(self._expected, _answers(graph, self._images), self._images, strict=True):
            comparison.add(expected, outputs, labels)
        return comparison.report()

    def _with(self, keep: Sequence[str]) -> QuantizeOptions:
        kept = tuple(name for block in keep for name in self.blocks[block])
        return replace(self._options, keep=(*self._options.keep, *kept))

    def sensitivities(self, step: Callable[[int, int], None] = lambda done, total: None) -> list[Sensitivity]:
        """Of every block, in the graph's order. step: told blocks done and in all."""
        sensitivities = []
        for number, block in enumerate(self.blocks):
            others = [other for other in self.blocks if other != block]
            sensitivities.append(Sensitivity(block=block, macs=self.macs[block], report=self.report(others)))
            step(number + 1, len(self.blocks))
        return sensitivities

    def mix(self, keep: Sequence[str]) -> Mix:
        report, ordered = self.report(keep), tuple(block for block in self.blocks if block in set(keep))
        return Mix(
            keep=ordered, macs=sum(self.macs[b] for b in keep), report=report, failures=tuple(self._judge(report))
        )  # fmt: skip

    def tune(
        self,
        latency_s: Callable[[Graph], float] | None = None,
        step: Callable[[str, int, int | None], None] = lambda what, done, total: None,
    ) -> Tuning:
        """Find the mix that passes with the fewest operations kept or, where `latency_s` measures, the fastest that passes.

        Blocks are kept by their error for each operation, the fewest of them that pass are found by bisection, then each
        is given up again where the gate holds without it.

        Args:
            latency_s: gives the median seconds of a graph.
            step: told what is being done, steps done and steps in all.

        Returns:
            Every block's sensitivity, the mixes that were tried, and the one that was chosen.

        Raises:
            TuningError: no mix passes.
        """
        sensitivities = self.sensitivities(lambda done, total: step("sensitivity", done, total))
        order = [item.block for item in sorted(sensitivities, key=lambda item: -item.error / max(item.macs, 1))]
        tried: dict[int, Mix] = {}

        def passes(count: int) -> bool:
            step(f"keep {count} of {len(order)} blocks", 0, None)
            tried[count] = tried.get(count) or self.mix(order[:count])
            return not tried[count].failures

        least = _bisect(passes, len(order))
        if least is None:
            worst = tried[len(order)].failures[0]
            raise TuningError(f"no mix passes: {worst}, even with nothing quantized. Loosen the gate")
        mixes = list(tried.values())
        best = self._prune(tried[least], mixes)
        if latency_s is not None:
            best = self._fastest(mixes, latency_s, step)
        return Tuning(sensitivities=tuple(sensitivities), mixes=tuple(mixes), chosen=best, macs=sum(self.macs.values()))

    def _prune(self, mix: Mix, mixes: list[Mix]) -> Mix:
        """Without the blocks that it can do without, the costliest first."""
        for block in sorted(mix.keep, key=lambda name: -self.macs[name]):
            if len(mix.keep) == 1:
                break
            smaller = self.mix([kept for kept in mix.keep if kept != block])
            mixes.append(smaller)
            if not smaller.failures:
                mix = smaller
        return mix

    def _fastest(
        self, mixes: list[Mix], latency_s: Callable[[Graph], float], step: Callable[[str, int, int | None], None]
    ) -> Mix:
        for index, mix in enumerate(mixes):
            if mix.failures:
                continue
            step(f"measure {len(mix.keep)} kept blocks", index, len(mixes))
            graph, _ = quantize(self._graph, self._calibration, self._with(mix.keep))
            mixes[index] = replace(mix, latency_s=latency_s(graph))
        return min((mix for mix in mixes if mix.latency_s is not None), key=lambda mix: mix.latency_s or 0.0)


def _bisect(passes: Callable[[int], bool], most: int) -> int | None:
    """The least count that passes, if more always pass where fewer do; None where not even all do."""
    if passes(0):
        return 0
    if not passes(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _answers(graph: Graph, images: Images) -> Iterator[dict[str, NDArray[Any]]]:
    """Outputs of each batch by name, every Q/DQ pair computed as it is written."""
    session = simulated(graph)
    for batch, _ in images:
        yield dict(zip(graph.outputs, session.run(graph.outputs, {graph.input.name: batch}), strict=True))
