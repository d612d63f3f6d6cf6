"""What people read: tables and summaries as text, and progress bars. Nothing is computed here but units."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_deploy.benchmarking.report import BenchReport, Result, ScenarioResult
    from resnet_deploy.building import Plan
    from resnet_deploy.bundle import Bundle
    from resnet_deploy.divergence import Divergence
    from resnet_deploy.graphs import GraphReport
    from resnet_deploy.inspection import PlanDetails
    from resnet_deploy.precision.tune import Tuning
    from resnet_deploy.steps import Verdict


class Bars:
    """Library progress as bars on stderr; nothing where that is not a terminal."""

    def __init__(self) -> None:
        self._what = ""
        self._bar: Any = None

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if what != self._what:
            self.close()
            self._what = what
            self._bar = tqdm(
                desc=what, total=total, file=sys.stderr, leave=False, bar_format="{desc}" if total is None else None
            )
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def table(rows: list[dict[str, Any]]) -> str:
    from tabulate import tabulate

    return str(tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True, missingval="-"))


def models(rows: list[dict[str, Any]]) -> str:
    return table(
        [
            {
                "family": row["family"],
                "model": row["name"],
                "parameters": f"{row['parameters']:,}",
                "GMACs": f"{row['macs'] / 1e9:.3f}",
                "input": row["image_size"],
                "weights MB": f"{row['weight_bytes'] / 1e6:.1f}",
                "activations MB": f"{row['activations'] * 4 / 1e6:.1f}",
                "paper": row["paper"],
                "error %": row["error_percent"],
                "published (top-1 %)": ", ".join(f"{w['name']} {w['top1_percent']:.2f}" for w in row["weights"]) or None,
            }
            for row in rows
        ]
    )


def exported(bundle: Bundle) -> str:
    model, artifacts = bundle.manifest["model"], bundle.manifest["artifacts"]
    checks = artifacts["model.fp32.onnx"]["checks"]
    worst = max(check["max_rel_error"] for check in checks)
    batches = ", ".join(str(check["batch"]) for check in checks)
    files = [
        {"file": name, "bytes": f"{entry['size_bytes']:,}", "sha256": entry["sha256"][:16]} for name, entry in artifacts.items()
    ]
    return "\n".join(
        [
            f"{bundle.path}: {model['architecture']}, weights {model['weights']['source']}",
            f"input   {_shaped(model['input'])}",
            f"output  {', '.join(_shaped(spec) for spec in model['outputs'])}",
            f"checked against eager at batch {batches}: relative error at most {worst:.1e}",
            "",
            table(files),
        ]
    )


def _shaped(spec: dict[str, Any]) -> str:
    return f"{spec['name']} {spec['dtype']} [{', '.join(map(str, spec['shape']))}]"


def verdicts(found: list[Verdict]) -> str:
    about = found[0].data
    columns = {str(verdict.candidate): verdict for verdict in found}
    names = [name for name in found[0].report.to_dict() if name != "images"]
    rows = [{"": name, **{c: _figure(getattr(v.report, name)) for c, v in columns.items()}} for name in names]
    rows.append({"": "gate", **{column: verdict.gate for column, verdict in columns.items()}})
    crops = f" ({about['crops']} crops each)" if about["crops"] > 1 else ""
    return f"{about['images']} images of {about['source']}{crops}, against eager PyTorch\n\n{table(rows)}"


def layers(found: Divergence) -> str:
    rows = [
        {"block": block, **{file: f"{d.relative_error:.1e}  {d.cosine:.5f}" for file, d in differences.items()}}
        for block, differences in found.blocks.items()
    ]
    said = [f"{file} parts from eager at {block}" for file, block in found.first.items() if block is not None]
    return "\n".join(
        [
            f"relative error and mean cosine of what leaves each block, on {found.images} images",
            "",
            table(rows),
            "",
            "; ".join(said) or "no file parts from eager",
        ]
    )


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, bool) else f"{value:.6g}"


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


def tuning(found: Tuning) -> str:
    kept, total = found.chosen.macs, found.macs
    rows = [
        {
            "block": item.block,
            "MMACs": f"{item.macs / 1e6:.1f}",
            "1 - cosine": f"{item.error:.1e}",
            "agree": None if item.report.top1_agreement is None else f"{item.report.top1_agreement:.2%}",
            "precision": "kept" if item.block in found.chosen.keep else "int8",
        }
        for item in found.sensitivities
    ]
    report, latency = found.chosen.report, found.chosen.latency_s
    accuracy = (
        "" if report.top1_accuracy is None else f"top-1 {report.top1_accuracy:.2%} ({report.reference_top1_accuracy:.2%}), "
    )
    timed = "" if latency is None else f", {latency * 1e3:.3f} ms"
    return "\n".join(
        [
            f"each block quantized alone, on {report.images} images",
            "",
            table(rows),
            "",
            f"{len(found.chosen.keep)} of {len(rows)} blocks kept, {kept / max(total, 1):.1%} of the operations: "
            f"{accuracy}cosine {report.cosine_mean:.5f}{timed}; {len(found.mixes)} mixes tried",
        ]
    )


def plans(bundle: str, found: list[Plan]) -> str:
    rows = [
        {
            "plan": plan.name,
            "MB": f"{plan.entry['size_bytes'] / 1e6:.1f}",
            "profiles": ", ".join(plan.entry["profiles"]),
            "convolutions": _counted(plan.report.convolutions),
            "layers": len(plan.report.engine_layers),
            "reformats": plan.report.reformats,
            "unfused adds": len(plan.report.unfused_adds),
            "built": "before" if plan.reused else f"in {plan.entry['builder_s']:.1f} s",
        }
        for plan in found
    ]
    return f"{bundle}\n\n{table(rows)}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "unknown"


def inspected(report: GraphReport | PlanDetails) -> str:
    from resnet_deploy.graphs import GraphReport

    return graph(report) if isinstance(report, GraphReport) else plan(report)


def plan(details: PlanDetails) -> str:
    report, lines = details.report, [f"{details.file}: {details.size_bytes:,} bytes, sha256 {details.sha256[:16]}"]
    if details.origin is not None:
        origin = details.origin
        where = ", ".join(origin["targets"]) or f"{origin['gpu']} (compute capability {origin['compute_capability']})"
        lines.append(f"built    with {origin['flavour']} {origin['version']} for {where} on {origin['platform']}")
        lines.append(f"profiles {', '.join(details.profiles or ())}")
        chosen = [f"{name}={value}" for name, value in (details.flags or {}).items() if value not in (None, False)]
        lines.append(f"flags    {', '.join(chosen) or 'none'}; TF32 {'on' if (details.flags or {}).get('tf32') else 'off'}")
    lines.append(f"computes {_counted(report.convolutions)} convolutions in {len(report.engine_layers)} engine layers")
    lines.append(f"besides  {report.reformats} reformats, {len(report.unfused_adds)} unfused additions")
    rows = [
        {"engine layer": layer.name[:60], "kind": layer.kind, "in": layer.precision, "out": layer.output,
         "of": ", ".join(layer.onnx)[:60]}
        for layer in report.engine_layers
    ]  # fmt: skip
    return "\n".join([*lines, "", table(rows)])


def graph(report: GraphReport) -> str:
    producer = f", {report.producer}" if report.producer else ""
    counts = ", ".join(f"{count} {name}" for name, count in report.precisions.items())
    return "\n".join(
        [
            f"{report.file}: {report.size_bytes:,} bytes, opset {report.opset}{producer}, sha256 {report.sha256[:16]}",
            *(f"input   {spec}" for spec in report.inputs),
            *(f"output  {spec}" for spec in report.outputs),
            f"nodes   {', '.join(f'{count} {name}' for name, count in report.operators.items())}",
            f"layers  {counts}; {report.parameters:,} parameters, {report.weight_bytes:,} bytes of weights",
            "",
            table(
                [
                    {
                        "layer": layer.name,
                        "type": layer.kind,
                        "precision": layer.precision,
                        "weight": "x".join(map(str, layer.weight_shape)),
                        "MMACs": None if layer.macs is None else f"{layer.macs / 1e6:.1f}",
                    }
                    for layer in report.layers
                ]
            ),
        ]
    )
