"""What was measured, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_deploy.terminal import conditions, profiles
from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    from resnet_deploy.benchmarking.report import BenchReport, Result, ScenarioResult, Unmeasured


def bench_text(report: BenchReport, *, detail: bool = False) -> str:
    from resnet_deploy import _json
    from resnet_deploy.bundle.description import describe_preprocessing
    from resnet_deploy.bundle.manifest import ModelDescription

    machine, model = report.machine, report.model
    gpus = "".join(f", {gpu['name']}" for gpu in machine["gpus"])
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    first = report.rows[0]
    parts = [_results(report, detail), _answers(report.results), _scenarios(report.scenarios)]
    parts += [profiles.layers(layer_profile) for layer_profile in report.profiles]
    parts += [profiles.trtexec_text(report.trtexec)] if report.trtexec else []
    parts.append("\n".join(f"{row.backend} ({_where(row)}): not measured: {row.error}" for row in report.unmeasured))
    if report.verdicts:
        advice = "\n".join(f"{item['severity']}: {item['text']}" for item in report.verdicts)
        parts.append(f"what the results say\n{advice}")
    if report.decision is not None:
        parts.append(report.decision.text)
    return "\n".join(
        [
            f"{model['architecture']}, weights {model['weights']['source']}, {model['macs'] / 1e9:.3f} GMACs",
            f"{machine['cpu']}, {machine['cores']} cores{gpus}, {first.threads} threads; {packages}",
            f"pixels {describe_preprocessing(_json.convert(model, ModelDescription))}",
            f"parity on {first.parity['images']} images of {first.parity_data}",
            *conditions.lines([row.conditions for row in report.rows]),
            "",
            "\n\n".join(part for part in parts if part),
        ]
    )


def _results(report: BenchReport, detail: bool) -> str:
    if not report.results:
        return ""
    ceiling = any(result.roofline for result in report.results)
    parts = [table([_row(result, ceiling) for result in report.results])]
    if staged := [result for result in report.results if detail or result.settings]:
        rows = [_stages(result) for result in staged]
        shown = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        parts.append("medians in ms, as trtexec has them")
        parts.append(table([{name: row[name] for name in shown} for row in rows]))
    settings: dict[str, list[str]] = {}
    for result in report.results:
        if result.settings:
            settings.setdefault(", ".join(_setting(*item) for item in result.settings.items()), []).append(result.backend)
    parts.append("\n".join(f"{', '.join(dict.fromkeys(names))}: {text}" for text, names in settings.items()))
    if sustained := [_sustained(result) for result in report.results if result.sustained]:
        parts.append("without a pause, and what the GPU did meanwhile; the figures above are of bursts\n" + table(sustained))
    return "\n\n".join(part for part in parts if part)


def _sustained(result: Result) -> dict[str, Any]:
    """A sustained measurement beside the bursts'."""
    sustained = result.sustained or {}
    gpu = (sustained["conditions"] or {}).get("gpu") or {}
    during, bursts = gpu.get("during", {}), result.throughput_images_per_s

    def median(name: str, scale: float) -> str | None:
        spread = during.get(name)
        return None if spread is None else f"{spread['median'] / scale:,.0f}"

    return {
        "backend": result.backend,
        "precision": result.precision,
        "batch": result.batch,
        "s": f"{sustained['duration_s']:.0f}",
        "queued/s": f"{sustained['images_per_s']:,.0f}",
        "of bursts": None if bursts is None else f"{sustained['images_per_s'] / bursts:.0%}",
        "MHz": median("sm_clock_hz", 1e6),
        "W": median("power_w", 1),
        "°C": median("temperature_c", 1),
        "throttled": ", ".join(sorted(gpu.get("throttled", {}))) or None,
    }


def _answers(results: list[Result]) -> str:
    """What each backend and precision answers, whatever the batch, and what its gate judged."""
    from resnet_deploy.parity.confidence import describe_difference
    from resnet_deploy.parity.gates import describe_gates

    rows = {}
    for result in results:
        parity = result.parity
        agreement, accuracy = parity["top1_agreement"], parity["top1_accuracy"]
        interval = [parity[f"accuracy_difference{part}"] for part in ("", "_low", "_high")]
        rows[result.backend, result.device, result.precision] = {
            "backend": result.backend,
            "device": result.device,
            "precision": result.precision,
            "MB": None if result.size_bytes is None else f"{result.size_bytes / 1e6:.3g}",
            "agree": None if agreement is None else f"{agreement:.2%}",
            "top-1": None if accuracy is None else f"{accuracy:.2%}",
            "against eager": None if interval[0] is None else describe_difference(*interval),
            "what the gate judged": describe_gates(result.gates, result.failures),
        }
    return "answers, compared with those of eager PyTorch\n" + table(list(rows.values())) if rows else ""


def _where(row: Unmeasured) -> str:
    return f"{row.precision}, {row.device}" + ("" if row.batch is None else f", batch {row.batch}")


def _scenarios(scenarios: list[ScenarioResult]) -> str:
    if not scenarios:
        return ""
    notes = [f"{row.who}, {row.scenario}: {note}" for row in scenarios for note in row.notes]
    return "\n\n".join([table([_scenario(result) for result in scenarios]), *(["\n".join(notes)] if notes else [])])


def _stages(result: Result) -> dict[str, Any]:
    """A result in trtexec's terms, with the floor of the device and the energy of queued queries."""
    stages = {
        "enqueue": result.enqueue_latency_s, "H2D": result.h2d_latency_s, "compute": result.compute_latency_s,
        "D2H": result.d2h_latency_s, "host": result.host_latency_s, "end-to-end": result.latency_s,
    }  # fmt: skip
    roofline, energy = result.roofline, (result.conditions or {}).get("energy_per_image_j")
    queued = result.throughput_images_per_s
    return {
        "backend": result.backend,
        "precision": result.precision,
        "batch": result.batch,
        **{name: None if latency is None else f"{latency.p50 * 1e3:.3f}" for name, latency in stages.items()},
        "floor": None if roofline is None else f"{roofline['kernels_s'] * result.batch * 1e3:.3f}",
        "queued/s": None if queued is None else f"{queued:,.0f}",
        "J/image": None if energy is None else f"{energy:.2g}",
    }


def _setting(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    return f"{'' if value else 'no '}{words}" if isinstance(value, bool) else f"{words} {value}"


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
        **{f"p{p} ms": f"{latency * 1e3:.3f}" if (latency := figures.get(f"latency_p{p}_s")) else None for p in (50, 90, 99)},
        "samples/s": f"{figures['samples_per_s']:,.1f}" if figures else None,
        "queries": f"{figures['queries']:,}" if figures else None,
        "s": f"{figures['duration_s']:.1f}" if figures else None,
        "top-1": None if accuracy is None else f"{accuracy:.2%}",
        "gate": result.gate,
    }


def _row(result: Result, ceiling: bool) -> dict[str, Any]:
    """ceiling: whether there is a column of how much was reached of what the device can do."""
    latency = result.latency_s
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
        **({"of ceiling": result.roofline and f"{result.roofline['device_reached_percent']:.3g}%"} if ceiling else {}),
        "vs eager": None if result.speedup is None else f"{result.speedup:.2f}x",
        "file": result.artifact,
        "gate": result.gate,
    }
