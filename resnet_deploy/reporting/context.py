"""What stands around the figures: what failed, LoadGen's and trtexec's word, conditions, versions, commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_deploy.reporting.document import Section, Table
from resnet_deploy.reporting.facts import about, commands, folded, machine, preprocessing
from resnet_deploy.reporting.formatting import blank, metric, metric_name, milliseconds, number, percent
from resnet_deploy.reporting.rows import Report, Row
from resnet_deploy.reporting.sections import CANDIDATE

_SHOWN = 12  # rows of a table that most readers pass by
_GPU = (
    ("SM clock, MHz", "sm_clock_hz", 1e-6), ("memory clock, MHz", "memory_clock_hz", 1e-6), ("power, W", "power_w", 1.0),
    ("temperature, °C", "temperature_c", 1.0), ("memory, GB", "memory_used_bytes", 1e-9),
    ("busy, %", "utilization_percent", 1.0),
)  # fmt: skip
_FIGURES = {  # each scenario's own, as MLPerf reports it
    "single-stream": "latency_p90_s", "multi-stream": "latency_p99_s", "server": "target_qps", "offline": "samples_per_s",
}  # fmt: skip
_SCENARIO = ("samples_per_s", "latency_p50_s", "latency_p90_s", "latency_p99_s", "queries", "duration_s", "top1_accuracy")


def measured(report: Report) -> list[Section]:
    """What it is that was measured."""
    facts = Table(names=("what", "which"), rows=about(report), words=frozenset({"what", "which"}))
    return [Section(title="What was measured", table=facts)]


def prepared(report: Report) -> list[Section]:
    """How images become the network's input, and where that is from."""
    rows = preprocessing(report)
    names = ("what", "how", "from")
    table = Table(names=names, rows=rows, words=frozenset(names))
    return [Section(title="Preprocessing", table=table)] if rows else []


def failures(report: Report) -> list[Section]:
    """Rows without a figure, and why."""
    missing = report.get("unmeasured") or ()
    if not missing:
        return []
    names = ("backend", "device", "precision", "batch", "error")
    cells = [
        [row["backend"], row["device"], row["precision"], str(row.get("batch") or "–"), str(row.get("error") or "unknown")]
        for row in missing
    ]
    table = Table(names=names, rows=cells, words=CANDIDATE | {"error"}, marked=frozenset(range(len(cells))))
    return [Section(title="Not measured", notes=["These backends failed; the others went on."], table=table)]


def scenarios(report: Report) -> list[Section]:
    """MLPerf's scenarios, as LoadGen judged them."""
    runs = report.get("scenarios") or ()
    if not runs:
        return []
    known = [name for name in _SCENARIO if any(name in (run.get("metrics") or {}) for run in runs)]
    names = ["backend", "device", "precision", "scenario", "LoadGen says", "figure", *map(metric_name, known), "gate"]
    cells = [
        [
            run["backend"], run["device"], run["precision"], str(run.get("scenario")), loadgen_verdict(run), figure(run),
            *(metric(name, (run.get("metrics") or {}).get(name)) for name in known), str(run.get("gate", "–")),
        ]
        for run in runs
    ]  # fmt: skip
    failed = frozenset(index for index, run in enumerate(runs) if not run.get("valid") or run.get("gate") == "fail")
    table = Table(names=names, rows=cells, words=CANDIDATE | {"scenario", "LoadGen says", "gate"}, marked=failed)
    bounds = [number((run.get("metrics") or {}).get("latency_bound_s")) for run in runs if run.get("scenario") == "server"]
    note = "As LoadGen, MLPerf's own load generator, judged them. The figure is the one that MLPerf reports of a scenario"
    bound = next((bound for bound in bounds if bound is not None), None)
    note += "." if bound is None else f"; the server's rate is the highest with 99 % of the answers within {bound * 1e3:g} ms."
    reasons = [
        f"{run_name(run)}: {'; '.join(map(str, remarks))}"
        for run in runs
        if (remarks := [text for text in (run.get("error") or run.get("reason"), *(run.get("notes") or ())) if text])
    ]
    return [Section(title="MLPerf scenarios", notes=[note, *reasons], table=table), *_everything(runs)]


def run_name(run: Mapping[str, Any]) -> str:
    """A scenario's run in words."""
    return f"{run['backend']} {run['precision']} {run.get('scenario')}"


def loadgen_verdict(run: Mapping[str, Any]) -> str:
    """LoadGen's word on a run, or that there is none."""
    return "FAILED" if run.get("error") else "VALID" if run.get("valid") else "INVALID"


def figure(run: Mapping[str, Any]) -> str:
    """The figure that MLPerf reports of a scenario."""
    name = _FIGURES.get(str(run.get("scenario")), "samples_per_s")
    value = (run.get("metrics") or {}).get(name)
    if value is None:
        return "–"
    unit = {"target_qps": "queries/s", "samples_per_s": "samples/s"}.get(name, "ms " + name[8:-2])
    return f"{metric(name, value)} {unit}"


def _everything(scenarios: Sequence[Mapping[str, Any]]) -> list[Section]:
    """All of LoadGen's figures, a run a column."""
    runs = [run for run in scenarios if run.get("metrics")]
    names = list(dict.fromkeys(name for run in runs for name in run["metrics"]))
    if not names:
        return []
    heads = [run_name(run) for run in runs]
    cells = [[metric_name(name), *(metric(name, run["metrics"].get(name)) for run in runs)] for name in names]
    return [
        Section(
            title="LoadGen's figures",
            table=Table(names=("figure", *heads), rows=cells, words=frozenset({"figure"})),
            folded=True,
        )
    ]


def trtexec(report: Report) -> list[Section]:
    """trtexec's figures of the same plans beside ours."""
    plans = report.get("trtexec") or ()
    if not plans:
        return []
    names = ("backend", "precision", "batch", "figure", "ours", "trtexec", "difference")
    cells = [
        [str(plan.get("backend")), str(plan.get("precision")), str(plan.get("batch")), str(figure["name"]),
         _quantity(figure.get("ours"), figure.get("unit")), _quantity(figure.get("trtexec"), figure.get("unit")),
         percent(figure.get("difference"), 1)]
        for plan in plans for figure in plan.get("figures") or [_compute(plan)] if not plan.get("error")
    ]  # fmt: skip
    failed = [
        f"{plan.get('backend')} {plan.get('precision')}, batch {plan.get('batch')}: {plan['error']}"
        for plan in plans
        if plan.get("error")
    ]
    code = list(dict.fromkeys(str(plan["command"]) for plan in plans if plan.get("command")))
    table = Table(names=names, rows=cells, words=CANDIDATE | {"figure"})
    notes = ["Medians, as the tool prints them, of the same plan with the same settings.", *failed]
    return [Section(title="trtexec on the same plans", notes=notes, table=table, code=list(map(folded, code)))]


def _compute(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": "GPU Compute Time", "unit": "s", "ours": plan.get("ours_s"), "trtexec": plan.get("trtexec_s"),
            "difference": plan.get("difference")}  # fmt: skip


def _quantity(value: Any, unit: Any) -> str:
    figure = number(value)
    return blank(value) if figure is None else f"{milliseconds(figure)} ms" if unit == "s" else f"{figure:,.0f} {unit}"


def conditions(report: Report, rows: Sequence[Row]) -> list[Section]:
    """The machine, and what it did meanwhile."""
    table = Table(names=("what", "how"), rows=machine(report), words=frozenset({"what", "how"}))
    sections = [Section(title="Conditions", notes=["The machine that this was measured on."], table=table)]
    watched = [(row.title, row.result["conditions"]) for row in rows if row.result.get("conditions")]
    watched += [
        (run_name(scenario), scenario["conditions"]) for scenario in report.get("scenarios") or () if scenario.get("conditions")
    ]
    columns = {name: [cell(seen) for _, seen in watched] for name, cell in _COLUMNS.items()}
    kept = [name for name, cells in columns.items() if any(text != "–" for text in cells)]
    if watched:
        cells = [[title, *(columns[name][at] for name in kept)] for at, (title, _) in enumerate(watched)]
        words = frozenset({"row", "governor", "throttled", "warnings"})
        note = "What it did while each row was measured. Of a GPU: before, during (lowest to highest) and after."
        table = Table(names=("row", *kept), rows=cells, words=words)
        sections.append(Section(title="Meanwhile", notes=[note], table=table, folded=len(cells) > _SHOWN))
    return sections


def _cpu(name: str, digits: int) -> Any:
    return lambda seen: _rounded((seen.get("cpu") or {}).get(name), digits)


def _rounded(value: Any, digits: int) -> str:
    figure = number(value)
    return blank(value) if figure is None else f"{figure:,.{digits}f}"


def _gpu(name: str, scale: float) -> Any:
    """Before · during, from the lowest to the highest · after."""

    def cell(seen: Report) -> str:
        gpu = seen.get("gpu") or {}
        during = (gpu.get("during") or {}).get(name)
        during = during if isinstance(during, Mapping) else {}
        ends = [_times(during.get(end), scale) for end in ("min", "max")]
        span = ends[0] if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"
        looks = [_times((gpu.get("before") or {}).get(name), scale), span, _times((gpu.get("after") or {}).get(name), scale)]
        return "–" if set(looks) == {"–"} else " · ".join(looks)

    return cell


def _times(value: Any, scale: float) -> str:
    figure = number(value)
    return blank(value) if figure is None else f"{figure * scale:,.0f}" if figure * scale >= 10 else f"{figure * scale:.1f}"


def _clock(seen: Report) -> str:
    clock = ((seen.get("cpu") or {}).get("clock_hz")) or {}
    return _rounded((number(clock.get("median")) or 0) / 1e6 or None, 0) if isinstance(clock, Mapping) else "–"


def _throttled(seen: Report) -> str:
    throttled = (seen.get("gpu") or {}).get("throttled") or {}
    return ", ".join(f"{reason} {percent(share, 0)}" for reason, share in throttled.items()) or "–"


def _energy(seen: Report) -> str:
    joules = number(seen.get("energy_per_image_j"))
    return "–" if joules is None else f"{joules * 1e3:,.3g}"


_COLUMNS: dict[str, Any] = {
    "s": lambda seen: _rounded(seen.get("duration_s"), 1),
    "own cores": _cpu("own_cores", 2), "others' cores": _cpu("other_cores", 2), "stolen cores": _cpu("stolen_cores", 2),
    "load before": _cpu("load_1min_before", 1), "load after": _cpu("load_1min_after", 1), "CPU clock, MHz": _clock,
    "governor": lambda seen: str((seen.get("cpu") or {}).get("governor") or "–"),
    "process threads": _cpu("threads", 0),
    **{name: _gpu(key, scale) for name, key, scale in _GPU}, "throttled": _throttled, "energy, mJ/image": _energy,
    "warnings": lambda seen: "; ".join(map(str, seen.get("warnings") or ())) or "–",
}  # fmt: skip


def packages(report: Report) -> list[Section]:
    """Python and the packages."""
    known = {"python": report["machine"].get("python"), **(report["machine"].get("packages") or {})}
    pairs = [(str(name), str(version)) for name, version in known.items()]
    return [
        Section(
            title="Versions", table=Table(names=("package", "version"), rows=pairs, words=frozenset({"package", "version"}))
        )
    ]


def again(report: Report) -> list[Section]:
    """The commands that make and measure the same."""
    lines = commands(report)
    notes = ["As it was run:" if report.get("commands") else "One command makes the same files and measures the same rows:"]
    if not report.get("commands") and any(line.endswith(" DATA") or " DATA " in line for line in lines):
        notes.append("DATA stands for the calibration images, which the report does not name.")
    return [Section(title="To get it again", notes=notes, code=list(map(folded, lines)))]


def reading() -> list[Section]:
    """What the words mean."""
    notes = [
        "p50, p90, p99: the latency that so many percent of the samples stay below. device ms: the inference alone, the batch "
        "being on the device. IQR: the spread of the middle half over the median; more than 10 % is noisy, and marked !.",
        "1 - cosine: of the outputs' angle to eager's, averaged over images. agree: images with eager's class. difference: of "
        "top-1 accuracy, in percentage points, with its 95 % interval. Gates decide whether a row may be used at all; no image "
        "that was calibrated on is judged on.",
    ]
    return [Section(title="How to read it", notes=notes)]
