"""What else a report tells: what was measured, on what, and the commands to get it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.precisions import PRECISIONS
from resnet_deploy.reporting.formatting import number
from resnet_deploy.reporting.rows import Report

ASSUMED = "assumed"
_NAMED = ("head", "input", "image_size", "resize", "num_classes", "max_batch", "opset")


def about(report: Report) -> list[tuple[str, str]]:
    """What was measured."""
    model, machine, results = report["model"], report["machine"], report["results"]
    weights, head = model.get("weights") or {}, model.get("head") or {}
    hashed = f" (SHA-256 {str(weights['sha256'])[:16]}…)" if weights.get("sha256") else ""
    facts = [("Network", ", ".join(str(part) for part in (model.get("architecture"), model.get("family")) if part))]
    facts.append(("Weights", f"{weights.get('source', 'unknown')}{hashed}"))
    facts += [("Input", _tensor(model["input"]))] if model.get("input") else []
    facts += [("Output", _tensor(spec)) for spec in model.get("outputs") or ()]
    if head.get("kind"):
        facts.append(("Head", str(head["kind"]) + (f":{head['k']}" if head.get("k") else "")))
    if (parameters := number(model.get("parameters"))) is not None:
        facts.append(("Size", f"{parameters:,.0f} parameters, {(number(model.get('macs')) or 0) / 1e9:.3f} GMACs an image"))
    measured = [*results, *(report.get("scenarios") or ())]
    judged = [
        f"{(entry.get('parity') or {}).get('images')} images of {entry['parity_data']}"
        for entry in measured
        if entry.get("parity_data")
    ]
    facts += [("Parity", f"on {judgement}") for judgement in sorted(set(judged))]
    gpus = [str(gpu.get("name")) for gpu in machine.get("gpus") or ()]
    facts.append(("Machine", ", ".join([f"{machine.get('cpu')}, {machine.get('cores')} cores", *gpus])))
    dates = sorted(str(entry["measured"]) for entry in measured if entry.get("measured"))
    if dates:
        facts.append(("Measured", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"))
    return facts


def _tensor(spec: Mapping[str, Any]) -> str:
    return f"{spec.get('name')} {spec.get('dtype')} [{', '.join(map(str, spec.get('shape') or ()))}]"


def preprocessing(report: Report) -> list[tuple[str, str, str]]:
    """How images become the network's input: what, how, and where that is from; empty where the report does not say."""
    model = report["model"]
    known, origin = model.get("preprocessing") or {}, model.get("preprocessing_source") or {}
    interpolation = known.get("interpolation") or ("bilinear" if "interpolation" in origin else None)
    settings = [
        ("resize", _pixels(known.get("resize"), " (the shorter edge)")), ("crop", _pixels(known.get("crop"), " (the centre)")),
        ("interpolation", None if interpolation is None else str(interpolation)),
        *((name, ", ".join(f"{value:g}" for value in known[name])) for name in ("mean", "std") if known.get(name)),
    ]  # fmt: skip
    return [(name, text, str(origin.get(name) or "not recorded")) for name, text in settings if text is not None]


def _pixels(value: Any, where: str) -> str | None:
    return None if number(value) is None else f"{value} pixels{where}"


def assumed(report: Report) -> str | None:
    """A warning where preprocessing was assumed; None where it was not, or the weights are random anyway."""
    model = report["model"]
    origin = model.get("preprocessing_source") or {}
    names = [name for name in ("resize", "crop", "interpolation", "mean", "std") if origin.get(name) == ASSUMED]
    if not names or (model.get("weights") or {}).get("source") == "random":
        return None
    return (
        f"the preprocessing was assumed, since the checkpoint does not say it: {', '.join(names)}. A network that was trained "
        "with another one answers wrong; export it with --image-size, --resize, --mean and --std"
    )


def machine(report: Report) -> list[tuple[str, str]]:
    """What it was measured on."""
    known, threads = report["machine"], {str(result["threads"]) for result in report["results"] if result.get("threads")}
    facts = [("CPU", str(known.get("cpu"))), ("Cores", str(known.get("cores"))), ("Memory", _gib(known.get("memory_bytes")))]
    for gpu in known.get("gpus") or ():
        parts = (gpu.get("name"), _gib(gpu.get("memory_bytes")), gpu.get("compute_capability"))
        facts.append(("GPU", f"{parts[0]}, {parts[1]}, compute capability {parts[2]}"))
    load = number(known.get("load_1min"))
    facts += [("Load of 1 min", f"{load:.1f}")] if load is not None else []
    return [*facts, ("System", str(known.get("os"))), ("Threads of a backend", ", ".join(sorted(threads)) or "–")]


def _gib(value: Any) -> str:
    size = number(value)
    return "unknown" if size is None else f"{size / 2**30:,.0f} GiB"


def commands(report: Report) -> list[str]:
    """How to get it again: the commands that were run where they are known, else one that makes the same network and
    measures the same rows. What the report does not know, the calibration images, stands as DATA."""
    if recorded := report.get("commands"):
        return [str(command) for command in recorded]
    model = report["model"]
    words = ["resnet-deploy", "bench", str(model.get("architecture")), *_network(model), *_measured(report)]
    return [shlex.join(words)]


def _network(model: Mapping[str, Any]) -> list[str]:
    """The options of `export`."""
    request, source = model.get("request") or {}, (model.get("weights") or {}).get("source", "random")
    words = [] if source == "random" else ["--weights", str(source)]
    for name in _NAMED:
        words += [] if request.get(name) is None else [f"--{name.replace('_', '-')}", str(request[name])]
    for name in ("mean", "std"):
        words += [f"--{name}", ",".join(map(str, request[name]))] if isinstance(request.get(name), list) else []
    return words + [
        flag for name, flag in (("new_head", "--new-head"), ("l2_normalize", "--l2-normalize")) if request.get(name)
    ]


def _measured(report: Report) -> list[str]:
    """The options of `bench`."""
    results, scenarios = report["results"], report.get("scenarios") or []
    measured = [*results, *scenarios, *(report.get("unmeasured") or ())]
    data, limit = source(next((str(entry["parity_data"]) for entry in measured if entry.get("parity_data")), ""))
    words = (["--data", data] if data else []) + (["--limit", limit] if limit else [])
    words += ["--batch", ",".join(map(str, sorted({entry["batch"] for entry in results})))] if results else []
    plain = {_place(entry) for entry in measured if entry["precision"] == "fp32" and entry["backend"] != "eager"}
    for entry in measured:  # a plain backend is measured in every --precision
        text = _candidate({**entry, "precision": "fp32"} if _place(entry) in plain else entry)
        words += [] if text in words else ["--backend", text]
    precisions = {entry["precision"] for entry in measured}
    wanted = [p for p in PRECISIONS if p in {entry["precision"] for entry in measured if entry["backend"] != "eager"}]
    words += ["--precision", ",".join(wanted)] if wanted not in ([], ["fp32"]) else []
    if any(row.quantized for row in PRECISIONS.values() if row.name in precisions):
        words += ["--calibration", str((report.get("calibration") or {}).get("source", "DATA"))]
    for scenario in dict.fromkeys(
        [*(["sweep"] if results and scenarios else []), *(str(s.get("scenario")) for s in scenarios)]
    ):
        words += ["--scenario", scenario]
    threads = next((entry["threads"] for entry in measured if entry.get("threads")), None)
    return words + ([] if threads is None else ["--threads", str(threads)])


def source(data: str) -> tuple[str, str | None]:
    """Where images came from, and to how many they were limited: `val/ (600 of 50000)` → `val/`, `600`."""
    match = re.fullmatch(r"(.*) \((\d+) of \d+\)", data, re.DOTALL)
    return (match[1], match[2]) if match else (data, None)


def folded(command: str) -> str:
    """A command over several lines, an option each, as a shell takes it."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("-") and len(word) > 1:
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(shlex.join(line) for line in lines)


def _place(entry: Mapping[str, Any]) -> tuple[str, str]:
    return entry["backend"], entry["device"]


def _candidate(entry: Mapping[str, Any]) -> str:
    """A row's backend as --backend takes it."""
    name, _, options = entry["backend"].partition(":")
    default = BACKENDS[name].default_device(options.split(",")) if name in BACKENDS else "cpu"
    extra = [] if entry["device"] == default else [entry["device"]]
    extra += [] if entry["precision"] == "fp32" else [entry["precision"]]
    extra += [options] if options else []
    return f"{name}:{','.join(extra)}" if extra else name
