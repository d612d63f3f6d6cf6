"""`tune` on a bundle: sensitivity of its blocks, the mix that passes, its INT8 graph rewritten, all of it in the manifest."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from resnet_deploy._arguments import takes
from resnet_deploy._deprecated import renamed
from resnet_deploy._files import writing
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.codec import now
from resnet_deploy.bundle.names import FP32, graph_file
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.bundle.transaction import Transaction
from resnet_deploy.engine.plan import Origin
from resnet_deploy.errors import DataError, TuningError, UsageError, carrying
from resnet_deploy.limits import check_all
from resnet_deploy.parity.gates import judge, parse_gates
from resnet_deploy.pipeline.calibrate import calibrated
from resnet_deploy.pipeline.compare_answers import unseen
from resnet_deploy.pipeline.lower import lower
from resnet_deploy.pipeline.lowering_options import LoweringOptions
from resnet_deploy.pipeline.restore import restore
from resnet_deploy.specs import Precision, Progress, silent

if TYPE_CHECKING:
    from resnet_deploy.graph.graph import Graph
    from resnet_deploy.precision.calibrate import Calibration
    from resnet_deploy.precision.placement import Target
    from resnet_deploy.precision.tune import Images, Tuner, Tuning

BATCH = 16


@dataclass(frozen=True)
class TuneArguments(LoweringOptions):
    """The arguments of `tune`, which describes them."""

    bundle: Bundle | str | Path
    data: str | Path
    _: KW_ONLY
    precision: str | Iterable[str] = "int8"
    max_drop: float | None = None
    gate: str | Iterable[str] = ()
    backend: str | None = None
    batch: int = 1
    limit: int = 256
    strict: bool = False
    threads: int | None = None
    plot: str | Path | None = None
    progress: Progress = silent

    def __post_init__(self) -> None:
        check_all(max_drop=self.max_drop, batch=self.batch, limit=self.limit, threads=self.threads)
        if self.plot is not None and Path(self.plot).suffix.lower() != ".svg":
            raise UsageError(f"the plot is written as SVG: give a name that ends in .svg, not {Path(self.plot).name!r}")
        super().__post_init__()
        if len(self.precisions) != 1 or not self.precisions[0].row.quantized:
            raise UsageError(
                f"tune takes one precision, int8 or fp8, to be mixed with a higher one; found {', '.join(self.precision)}"
            )


@renamed(gates="gate", targets="int8_target")
@takes(TuneArguments)
def tune(call: TuneArguments) -> Tuning:
    """Find the mix of INT8 and higher precision that passes the gates, and write the bundle's INT8 files with it.

    Args:
        bundle: a bundle, or its folder.
        data: images that judge; those that were calibrated on are left out.
        max_drop: of top-1, in percentage points, against FP32, in place of the default gate.
        gate: conditions in place of the defaults, as in `verify`.
        backend: measure mixes on it, at `batch`, and take the fastest that passes instead of the one that keeps the fewest
            operations.
        batch: of these measurements.
        limit: so many images, evenly spaced.
        strict: fail at the first image that cannot be read.
        threads: CPU threads of the backend; all cores without.
        plot: an SVG file for the sensitivity of each block.
        progress: told what is being done.

    Returns:
        What each block costs, the mixes that were tried, and the one that was chosen.

    Raises:
        TuningError: no mix passes; nothing is written.
        UsageError, DataError, BundleError, CalibrationError: as in `export`.
    """
    limits, chosen, progress = parse_gates(call.gate), call.part(LoweringOptions), call.progress
    kind = chosen.precisions[0]
    if call.max_drop is not None:
        limits = {"relative-accuracy": 0.0, "accuracy-difference": -call.max_drop / 100} | limits
    bundle = Bundle.open(call.bundle)
    measured = None if call.backend is None else Candidate.parse(call.backend)
    if measured is not None and measured.precision is not kind:
        raise UsageError(f"to tune {kind.value}, give a backend in {kind.value}; found {measured}")
    restore(bundle, [FP32], progress)
    graph, calibration = calibrated(bundle, chosen, progress)
    opened = OpenedBundle(bundle)
    images = _images(opened, call.data, frozenset(calibration.images), call.limit, call.strict)

    from resnet_deploy.precision.placement import Target
    from resnet_deploy.precision.tune import Tuner

    # ONNX Runtime's kernels have a graph of their own, the one that is to be judged and measured with them.
    target = Target.CPU if measured is not None and measured.artifact.endswith("-cpu.onnx") else Target.TENSORRT
    clock = None if measured is None else _clock(measured, images[0][0][:1].repeat(call.batch, 0), call.threads)
    if clock is not None and chosen.grouped == "auto":
        chosen = _measured_policy(chosen, graph, calibration, target, clock)
    quantizing = chosen.quantizing(graph, kind, target.value)
    tuner = Tuner(graph, calibration, images, lambda report: judge(report, kind, limits), quantizing)
    tuning = tuner.tune(clock, progress)
    kept = tuple(name for block in tuning.chosen.keep for name in tuner.blocks[block])
    written = _Written(tuner, kind, limits, tuned=graph_file(kind, cpu=target is Target.CPU))
    about = {
        "data": str(call.data), "images": sum(len(part) for part, _ in images), "gates": limits, "backend": call.backend,
        "tuned": now(),
    }  # fmt: skip
    with carrying(tuning), _drawn(tuning, call.plot):
        lower(
            bundle, replace(chosen, keep=(*chosen.keep, *kept)).exactly(), progress, calibration=calibration,
            check=written.check, beside=lambda change: _record(change, about | tuning.to_dict() | {"files": written.judged}),
        )  # fmt: skip
    return tuning


class _Written:
    """The files as they are about to be written, with their corrections, on the images that judged the mixes."""

    def __init__(self, tuner: Tuner, kind: Precision, limits: dict[str, float], *, tuned: str) -> None:
        self._tuner, self._kind, self._limits, self._tuned = tuner, kind, limits, tuned
        self.judged: dict[str, dict[str, Any]] = {}

    def check(self, name: str, graph: Graph) -> None:
        """Judge a file. Raises TuningError where it is the one that was tuned, and does not pass as its mix did."""
        report = self._tuner.judged(graph)
        failures = judge(report, self._kind, self._limits)
        if failures and name == self._tuned:
            raise TuningError(
                f"the mix passes, but {name} as it would be written does not: {failures[0]}. Nothing was written: leave "
                "--correct-bias, --reconstruct or the other corrections out, or loosen the gate"
            )
        self.judged[name] = {"report": report.to_dict(), "failures": failures}


@contextlib.contextmanager
def _drawn(tuning: Tuning, plot: str | Path | None) -> Iterator[None]:
    """A plot, drawn before the block and put into place after it: files and plot are both there, or neither."""
    if plot is None:
        yield
        return
    path = Path(plot)
    with writing(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=".plot-") as folder:
        drawn = Path(folder) / path.name
        draw(tuning, drawn)
        yield
        drawn.replace(path)


def _images(opened: OpenedBundle, data: str | Path, seen: frozenset[str], limit: int, strict: bool) -> Images:
    dataset = opened.data(data, limit=limit, strict=strict)
    opened.keep_names(dataset)
    parts = [unseen(part, seen) for part in dataset.batches(min(BATCH, opened.max_batch))]
    images = [(part.images, part.labels) for part in parts if len(part.images)]
    if not images:
        raise DataError(f"the bundle was calibrated on all images of {dataset.source}: tune it on others")
    return images


def _measured_policy(
    options: LoweringOptions, graph: Graph, calibration: Calibration, target: Target, clock: Callable[[Graph], float]
) -> LoweringOptions:
    """Whether grouped convolutions are quantized, by which is faster."""
    from resnet_deploy.precision.placement import grouped
    from resnet_deploy.precision.quantize import quantize

    if not grouped(graph):
        return options
    taken = {}
    for policy in ("keep", "quantize"):
        trial = replace(options, grouped=policy)
        quantized, _ = quantize(graph, calibration, trial.quantizing(graph, options.precisions[0], target.value))
        taken[policy] = clock(quantized)
    return replace(options, grouped=min(taken, key=lambda policy: taken[policy]))


def _clock(candidate: Candidate, images: Any, threads: int | None) -> Callable[[Graph], float]:
    """Median seconds of a graph on a backend."""
    from resnet_deploy.backends.load import load_backend
    from resnet_deploy.pipeline.build import build_beside
    from resnet_deploy.timing.measure import MeasureConfig, measure

    def median_s(graph: Graph) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mix.onnx"
            graph.copy().save(path)

            def artifact(path: Path = path) -> tuple[Path, Origin | None]:
                return build_beside(path, candidate, len(images)) if candidate.row.runs == "plan" else (path, None)

            with load_backend(candidate, model=_no_model, artifact=artifact, threads=threads) as running:
                taken = measure({"mix": running}, {"mix": images}, MeasureConfig(duration_s=0.6, rounds=3))
        return taken["mix"].host.percentile(50)

    return median_s


def _no_model() -> Any:
    raise UsageError(
        "a mix of precisions is an ONNX file, which eager does not run; measure it with onnxruntime, openvino or TensorRT"
    )


def _record(change: Transaction, tuning: dict[str, Any]) -> None:
    change.update(lambda manifest: msgspec.structs.replace(manifest, tuning=tuning))


def draw(tuning: Tuning, path: Path) -> None:
    """Draw the sensitivity of each block as a bar of an SVG file, those that keep a higher precision in another colour."""
    from resnet_deploy.charts.svg import WIDE, Axis, Lane, bar, lanes, standalone

    kept, rows = set(tuning.chosen.keep), []
    for item in tuning.sensitivities:
        note = f"{item.error:.1e}" + (", keeps a higher precision" if item.block in kept else "")
        draws = bar(item.error, 1 if item.block in kept else 0, f"{item.block}: {note}")
        rows.append(Lane(label=item.block, values=[item.error], note=note, draw=draws))
    axis = Axis(title="1 - mean cosine of the answers, this block alone being quantized →", log=True)
    path.write_text(standalone(lanes("Sensitivity of each block", rows, axis, WIDE)), "utf-8")
