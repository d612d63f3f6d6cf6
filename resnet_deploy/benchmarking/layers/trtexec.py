"""trtexec beside our figures: the same plan with the same settings, in its own words.

Its options and its output: https://github.com/NVIDIA/TensorRT/tree/main/samples/trtexec and samples/common; those of
TensorRT-RTX's tool: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/performance/benchmarking.html
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.report import BatchRow, Latency, Result
from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.engine.flavours import FLAVOURS, TENSORRT, TENSORRT_LEAN, TENSORRT_RTX, version_tuple
from resnet_deploy.engine.options import OptimizationProfile, best_profile
from resnet_deploy.errors import BackendError, UnavailableError, UsageError
from resnet_deploy.specs import Progress

TOOLS = {TENSORRT.name: "trtexec", TENSORRT_RTX.name: "tensorrt_rtx", TENSORRT_LEAN.name: "trtexec"}
WARM_UP_S = 0.2  # trtexec's own default
PATIENCE_S = 600.0  # beyond warm-up and measurement: loading a plan, compiling kernels
_LATENCIES = ("Latency", "Enqueue Time", "H2D Latency", "GPU Compute Time", "D2H Latency")
_SUMMARY = "=== Performance summary ==="
_NUMBER = r"([\d.]+(?:e[-+]?\d+)?)"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a plan is run with.

    Attributes:
        plan: the file.
        input: the tensor's name.
        shape: of the input, with the batch.
        profile: the optimization profile's index.
        version_compatible: whether the plan brings its own runtime.
        cuda_graph, spin_wait, data_transfers, streams: as in `MeasureOptions`.
        duration_s: of measurement.
    """

    plan: Path
    input: str
    shape: tuple[int, ...]
    profile: int = 0
    version_compatible: bool = False
    cuda_graph: bool = True
    spin_wait: bool = True
    data_transfers: bool = True
    streams: int = 1
    duration_s: float = 3.0


@dataclass(frozen=True, kw_only=True)
class TrtexecFigure:
    """One of trtexec's figures beside ours.

    Attributes:
        name: trtexec's.
        unit: s (medians) or images/s.
        ours: None where it was not measured.
        trtexec: the tool's.
        difference: ours over trtexec's, less 1.
    """

    name: str
    unit: str
    ours: float | None
    trtexec: float
    difference: float | None


@dataclass(frozen=True, kw_only=True)
class TrtexecComparison(BatchRow):
    """What `--check-trtexec` found of one plan at one batch size.

    Attributes:
        command: as a shell takes it.
        settings: what the plan was run with.
        ours_s, trtexec_s, difference: of GPU Compute Time.
        figures: all of them.
        error: why there are none.
    """

    command: str
    settings: dict[str, Any]
    ours_s: float | None
    trtexec_s: float | None
    difference: float | None
    figures: list[TrtexecFigure]
    error: str | None = None


def find_tools(candidates: Iterable[Candidate], location: str | Path | None = None) -> dict[str, str]:
    """The tool of each flavour that candidates run plans of. location: of the program or its folder, in place of PATH.

    Raises UsageError where no candidate runs plans, or for a path that is no program, UnavailableError where it is missing.
    """
    flavours = list(dict.fromkeys(candidate.backend for candidate in candidates if candidate.row.runs == "plan"))
    if not flavours:
        raise UsageError("trtexec runs plans: measure one too, with --backend tensorrt or --backend tensorrt-rtx")
    if location is not None and not Path(location).is_dir():
        if len({TOOLS[flavour] for flavour in flavours}) > 1:
            raise UsageError(
                f"{location} cannot run plans of both {' and '.join(flavours)}: give the folder that holds both tools"
            )
        if shutil.which(str(location)) is None:
            raise UsageError(
                f"{location} is not a program that can be run: give the path of {TOOLS[flavours[0]]}, or its folder"
            )
        return dict.fromkeys(flavours, str(location))
    paths = {flavour: shutil.which(TOOLS[flavour], path=None if location is None else str(location)) for flavour in flavours}
    for flavour, path in paths.items():
        if path is None:
            raise UnavailableError(
                f"{TOOLS[flavour]} is not {'on PATH' if location is None else f'in {location}'}. It comes with "
                f"NVIDIA's archives, packages and containers of {FLAVOURS[flavour].plans_of}, not with the Python package; say "
                "where it is with --trtexec PATH"
            )
    return {flavour: str(path) for flavour, path in paths.items()}


def trtexec_command(tool: str, settings: Settings, flavour: str, version: str) -> list[str]:
    """The command line that runs a plan as we do. version: of the package that built the plan, whose tool it must be.

    Until 10, trtexec leaves the CUDA graph and the spin wait off and copies data; from 11 on, and in TensorRT-RTX, it is
    the other way round.
    """
    line = [
        tool, f"--loadEngine={settings.plan}", f"--shapes={settings.input}:{'x'.join(map(str, settings.shape))}",
        f"--useProfile={settings.profile}", f"--infStreams={settings.streams}", f"--warmUp={WARM_UP_S * 1e3:g}",
        f"--duration={settings.duration_s:g}", "--percentile=90,99",
    ]  # fmt: skip
    line += ["--versionCompatible"] * settings.version_compatible + ["--useRuntime=lean"] * (flavour == TENSORRT_LEAN.name)
    old = flavour != TENSORRT_RTX.name and version_tuple(version)[:1] < (11,)
    if flavour == TENSORRT_RTX.name:
        line.append(f"--rtxCudaGraphStrategy={'wholeGraph' if settings.cuda_graph else 'disable'}")
        line.append("--specializeStrategyDS=eager")
    elif old:
        line += ["--useCudaGraph"] * settings.cuda_graph
    else:
        line += ["--noCudaGraph"] * (not settings.cuda_graph)
    if old:
        line += ["--useSpinWait"] * settings.spin_wait + ["--noDataTransfers"] * (not settings.data_transfers)
    else:
        line += ["--noSpinWait"] * (not settings.spin_wait) + ["--includeDataTransfers"] * settings.data_transfers
    return line


def parse_summary(output: str) -> tuple[float, dict[str, float]]:
    """Queries a second, and the medians of latencies by trtexec's names, in seconds, from what it printed.

    Raises BackendError where there is no summary.
    """
    _, heading, summary = output.partition(_SUMMARY)
    throughput = re.search(rf"\bThroughput: {_NUMBER} qps", summary)
    medians = {
        name: float(match[1]) / 1e3
        for name in _LATENCIES
        if (match := re.search(rf"(?<![\w] ){name}: .*?median = {_NUMBER} ms", summary)) is not None
    }
    if not heading or throughput is None or "GPU Compute Time" not in medians:
        raise BackendError("it printed no performance summary")
    return float(throughput[1]), medians


def run_trtexec(line: Sequence[str], duration_s: float) -> tuple[float, dict[str, float]]:
    """Run the tool and read its figures, as `parse_summary` gives them. Raises BackendError with its reason where it fails."""
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False,
            timeout=duration_s + PATIENCE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise BackendError(f"it did not end within {exc.timeout:.0f} s") from exc
    except OSError as exc:
        raise BackendError(f"it cannot be started: {exc.strerror}") from exc
    if done.returncode:
        reasons = re.findall(r"\[[EF]\] (.+)", done.stdout + done.stderr)
        raise BackendError(f"it ended with {done.returncode}: {reasons[0] if reasons else 'it gave no reason'}")
    return parse_summary(done.stdout)


def compare_plans(
    opened: OpenedBundle, tools: dict[str, str], candidates: Iterable[Candidate], results: Iterable[Result], duration_s: float,
    progress: Progress,
) -> Iterator[TrtexecComparison]:  # fmt: skip
    """Run the tool for every result of a plan, and compare. One that fails has an error, and the others go on.

    Args:
        opened: the bundle.
        tools: the programs by flavour, as `find_tools` gives them.
        candidates: that were measured.
        results: their rows.
        duration_s: of each measurement.
        progress: told what is being done.

    Yields:
        The tool's figures beside ours.
    """
    by_name = {(c.name, c.device, c.precision.value): c for c in candidates if c.backend in tools}
    for result in results:
        candidate = by_name.get((result.backend, result.device, result.precision))
        if candidate is not None:
            progress(f"trtexec {candidate} batch {result.batch}", 0, None)
            yield _compare(opened, tools[candidate.backend], candidate, result, duration_s)


def _compare(opened: OpenedBundle, tool: str, candidate: Candidate, result: Result, duration_s: float) -> TrtexecComparison:
    settings, version = settings_of(opened, candidate, result, duration_s)
    line = trtexec_command(tool, settings, candidate.backend, version)
    told = {name: value for name, value in asdict(settings).items() if name not in {"plan", "input"}}
    figures: list[TrtexecFigure] = []
    error = None
    try:
        figures = compare_figures(result, *run_trtexec(line, duration_s))
    except BackendError as exc:
        error = f"{Path(tool).name}: {exc}"
    main = next((figure for figure in figures if figure.name == "GPU Compute Time"), None)
    return TrtexecComparison(
        backend=result.backend, device=result.device, precision=result.precision, batch=result.batch,
        command=shlex.join(line), settings=told, figures=figures, error=error, ours_s=main.ours if main else None,
        trtexec_s=main.trtexec if main else None, difference=main.difference if main else None,
    )  # fmt: skip


def settings_of(opened: OpenedBundle, candidate: Candidate, result: Result, duration_s: float) -> tuple[Settings, str]:
    """What a result was measured with, and the version that built its plan."""
    name = opened.file(candidate)
    plan = opened.bundle.manifest.files(PlanFile)[name]
    told = getattr(result, "settings", None) or {}
    spec = opened.input_spec
    settings = Settings(
        plan=opened.bundle.artifact(name).resolve(), input=spec.name, duration_s=duration_s,
        shape=spec.of_batch(result.batch),
        profile=best_profile(map(OptimizationProfile.parse, plan.profiles), result.batch) or 0,
        cuda_graph=told.get("cuda_graph", "no_cuda_graph" not in candidate.options),
        spin_wait=told.get("spin_wait", True), streams=told.get("streams", candidate.count("streams")),
        data_transfers=told.get("data_transfers", True) and not told.get("inputs_on_device", False),
        version_compatible=plan.origin.version_compatible,
    )  # fmt: skip
    return settings, plan.origin.version


def compare_figures(result: Result, throughput_qps: float, medians_s: dict[str, float]) -> list[TrtexecFigure]:
    """Put our figures beside trtexec's.

    GPU Compute Time is taken by the device's clock; where we have only the host's, from enqueue to synchronize, it includes the
    enqueue. Latency is that of copies and computation; where we have only the whole from host to host, it includes the host's
    own part. Without data transfers trtexec's Latency is the computation alone, and there are no copies to compare.

    Args:
        result: our row.
        throughput_qps: trtexec's queries a second.
        medians_s: trtexec's medians by its names.

    Returns:
        A figure for each that trtexec has.
    """

    def p50(name: str) -> float | None:
        latency: Latency | None = getattr(result, f"{name}_latency_s", None)
        return None if latency is None else latency.p50

    def first(*values: float | None) -> float | None:
        return next((value for value in values if value is not None), None)

    computed, theirs = first(p50("compute"), p50("device")), dict(medians_s)
    ours: dict[str, float | None] = {
        "Throughput": getattr(result, "throughput_images_per_s", None),
        "Latency": first(p50("host"), result.latency_s.p50),
        "Enqueue Time": p50("enqueue"),
        "H2D Latency": p50("h2d"),
        "GPU Compute Time": computed,
        "D2H Latency": p50("d2h"),
    }
    if not theirs.get("H2D Latency") and not theirs.get("D2H Latency"):
        ours["Latency"] = computed
        theirs = {name: value for name, value in theirs.items() if name not in {"H2D Latency", "D2H Latency"}}
    return [_figure(name, ours[name], value) for name, value in {"Throughput": throughput_qps * result.batch, **theirs}.items()]


def _figure(name: str, ours: float | None, theirs: float) -> TrtexecFigure:
    difference = None if ours is None or not theirs else ours / theirs - 1
    return TrtexecFigure(
        name=name, unit="images/s" if name == "Throughput" else "s", ours=ours, trtexec=theirs, difference=difference
    )
