"""A graph, or a plan, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_deploy.terminal.build import float_outputs
from resnet_deploy.terminal.tables import counts_text, table

if TYPE_CHECKING:
    from resnet_deploy.graph.describe import GraphReport
    from resnet_deploy.pipeline.inspect import PlanDetails


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
    lines.append(f"computes {counts_text(report.convolutions)} convolutions in {len(report.engine_layers)} engine layers")
    lines.append(f"besides  {report.reformats} reformats, {len(report.unfused_adds)} unfused additions")
    if note := float_outputs(report):
        lines.append(f"floats   {note}")
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
