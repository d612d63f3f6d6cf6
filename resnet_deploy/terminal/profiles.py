"""What layers take, and what trtexec says, as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from resnet_deploy.backends.layers import quantizes
from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    from resnet_deploy.benchmarking.layers.profile import LayerProfile
    from resnet_deploy.benchmarking.layers.trtexec import TrtexecComparison

TOP = 10  # layers that are shown; JSON has all
WIDTH = 48


def layers(profile: LayerProfile) -> str:
    """The layers that take longest, and the rest as one line."""
    if profile.error is not None or profile.total_s is None or profile.latency_s is None or profile.profiled_s is None:
        return f"layers of {profile.who}: {profile.error}"
    shown = sorted(profile.layers, key=lambda layer: -float(layer["time_s"]))[:TOP]
    rest_s = profile.total_s - sum(layer["time_s"] for layer in shown)
    rows = [_layer(layer) for layer in shown]
    if left := len(profile.layers) - len(shown):
        rows.append({"layer": f"{left} others", "ms": _ms(rest_s), "share": f"{rest_s / profile.total_s:.1%}"})
    cost = profile.profiled_s / profile.latency_s - 1
    return "\n".join(
        [
            f"layers of {profile.who}: {len(profile.layers)} take {_ms(profile.total_s)} ms",
            f"an inference takes {_ms(profile.profiled_s)} ms with the profiler and {_ms(profile.latency_s)} ms without "
            f"({cost:+.0%}); medians of {profile.runs} runs",
            "",
            table(rows),
        ]
    )


def _layer(layer: dict[str, Any]) -> dict[str, Any]:
    others = [name for name in layer.get("onnx", []) if name != layer["name"] and not quantizes(name)]
    return {
        "layer": _short(layer["name"]),
        "kind": layer["kind"],
        "precision": layer["precision"],
        "ms": _ms(layer["time_s"]),
        "share": f"{layer['share']:.1%}",
        "with": _short(", ".join(others)) or None,
    }


def _short(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _ms(time_s: float) -> str:
    return f"{time_s * 1e3:.3f}"


def trtexec_text(compared: Iterable[TrtexecComparison]) -> str:
    """Ours beside trtexec's, and the commands that were run."""
    comparisons = list(compared)
    rows = [
        {
            "backend": comparison.backend,
            "precision": comparison.precision,
            "batch": comparison.batch,
            "figure": figure.name,
            "ours": _figure(figure.ours, figure.unit),
            "trtexec": _figure(figure.trtexec, figure.unit),
            "difference": None if figure.difference is None else f"{figure.difference:+.1%}",
        }
        for comparison in comparisons
        for figure in comparison.figures
    ]
    lines = ["beside trtexec, medians:", "", table(rows), ""] if rows else []
    lines += [f"{comparison.who}: {comparison.error}" for comparison in comparisons if comparison.error is not None]
    return "\n".join([*lines, *(comparison.command for comparison in comparisons)])


def _figure(value: float | None, unit: str) -> str | None:
    if value is None:
        return None
    return f"{value * 1e3:.4f} ms" if unit == "s" else f"{value:,.0f} {unit}"
