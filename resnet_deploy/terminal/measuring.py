"""What was measured, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_deploy.terminal import profiles
from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    from resnet_deploy.benchmarking.report import BenchReport, Result, ScenarioResult


def bench(report: BenchReport) -> str:
    machine, model = report.machine, report.model
    gpus = "".join(f", {gpu['name']}" for gpu in machine["gpus"])
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    first = report.rows[0]
    tables = [table([_row(result) for result in report.results])] if report.results else []
    if report.scenarios:
        tables.append(table([_scenario(result) for result in report.scenarios]))
        said = [f"{one.backend} ({one.precision}, {one.device}), {one.scenario}" for one in report.scenarios]
        notes = [f"{who}: {note}" for who, one in zip(said, report.scenarios, strict=True) for note in one.notes]
        tables += ["\n".join(notes)] if notes else []
    tables += [profiles.layers(one) for one in report.profiles]
    tables += [profiles.trtexec(report.trtexec)] if report.trtexec else []
    return "\n".join(
        [
            f"{model['architecture']}, weights {model['weights']['source']}, {model['macs'] / 1e9:.3f} GMACs",
            f"{machine['cpu']}, {machine['cores']} cores{gpus}, {first.threads} threads; {packages}",
            f"parity on {first.parity['images']} images of {first.parity_data}",
            "",
            "\n\n".join(tables),
        ]
    )


def _scenario(result: ScenarioResult) -> dict[str, Any]:
    figures = result.metrics
    figure = {
        "single-stream": ("latency_p90_s", "p90 {:.3f} ms", 1e3),
        "multi-stream": ("latency_p99_s", "p99 {:.3f} ms", 1e3),
        "server": ("target_qps", "{:,.1f} queries/s", 1),
        "offline": ("samples_per_s", "{:,.1f} samples/s", 1),
    }
    name, text, scale = figure[result.scenario]
    accuracy = figures.get("top1_accuracy")
    return {
        "backend": result.backend,
        "device": result.device,
        "precision": result.precision,
        "scenario": result.scenario,
        "LoadGen says": "FAILED" if result.error else "VALID" if result.valid else "INVALID",
        "figure": text.format(figures[name] * scale) if name in figures else None,
        **{f"p{p} ms": f"{found * 1e3:.3f}" if (found := figures.get(f"latency_p{p}_s")) else None for p in (50, 90, 99)},
        "samples/s": f"{figures['samples_per_s']:,.1f}" if figures else None,
        "queries": f"{figures['queries']:,}" if figures else None,
        "s": f"{figures['duration_s']:.1f}" if figures else None,
        "top-1": None if accuracy is None else f"{accuracy:.2%}",
        "gate": result.gate,
    }


def _row(result: Result) -> dict[str, Any]:
    latency, parity = result.latency_s, result.parity
    agreement, accuracy = parity["top1_agreement"], parity["top1_accuracy"]
    return {
        "backend": result.backend,
        "device": result.device,
        "precision": result.precision,
        "batch": result.batch,
        "p50 ms": f"{latency.p50 * 1e3:.3f}",
        "p90 ms": f"{latency.p90 * 1e3:.3f}",
        "p99 ms": f"{latency.p99 * 1e3:.3f}",
        "device ms": f"{result.device_latency_s.p50 * 1e3:.3f}",
        "IQR": f"{latency.iqr / latency.p50:.0%}",
        "images/s": f"{result.images_per_s:,.0f}",
        "vs eager": None if result.speedup is None else f"{result.speedup:.2f}x",
        "max error": "-" if parity["max_abs_error"] is None else f"{parity['max_abs_error']:.1e}",
        "agree": None if agreement is None else f"{agreement:.2%}",
        "top-1": None if accuracy is None else f"{accuracy:.2%}",
        "gate": result.gate,
    }
