"""What there is, and what was made, as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from resnet_deploy.terminal.tables import counted, table

if TYPE_CHECKING:
    from resnet_deploy.bundle.store import Bundle
    from resnet_deploy.graph.describe import GraphReport
    from resnet_deploy.pipeline.build import Plan
    from resnet_deploy.pipeline.inspect import PlanDetails


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
    from resnet_deploy.bundle.description import describe_preprocessing
    from resnet_deploy.bundle.manifest import GraphFile
    from resnet_deploy.bundle.names import FP32

    model, artifacts = bundle.manifest.model, bundle.manifest.artifacts
    graph = bundle.manifest.files(GraphFile).get(FP32)
    checks = () if graph is None else graph.checks
    worst = max((check.max_rel_error for check in checks), default=math.nan)
    batches = ", ".join(str(check.batch) for check in checks)
    checked = f"checked against eager at batch {batches}: relative error at most {worst:.1e}"
    files = [{"file": name, "bytes": f"{entry.size_bytes:,}", "sha256": entry.sha256[:16]} for name, entry in artifacts.items()]
    return "\n".join(
        [
            f"{bundle.path}: {model.architecture}, weights {model.weights.source}",
            f"pixels  {describe_preprocessing(model)}",
            f"input   {model.input}",
            f"output  {', '.join(map(str, model.outputs))}",
            *([checked] if checks else []),
            "",
            table(files),
        ]
    )


def plans(bundle: str, found: list[Plan]) -> str:
    rows = [
        {
            "plan": plan.name,
            "MB": f"{plan.entry.size_bytes / 1e6:.1f}",
            "profiles": ", ".join(plan.entry.profiles),
            "convolutions": counted(plan.report.convolutions),
            "layers": len(plan.report.engine_layers),
            "reformats": plan.report.reformats,
            "unfused adds": len(plan.report.unfused_adds),
            "built": "before" if plan.reused else f"in {plan.entry.builder_s:.1f} s",
        }
        for plan in found
    ]
    return f"{bundle}\n\n{table(rows)}"


def inspected(report: GraphReport | PlanDetails) -> str:
    from resnet_deploy.graph.describe import GraphReport

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
    lines.append(f"computes {counted(report.convolutions)} convolutions in {len(report.engine_layers)} engine layers")
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
            *([f"outside {', '.join(report.external_data)}"] if report.external_data else []),
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
