"""What the JSON of a report must and may hold, so that whatever reads it can trust its types.

A tuple is a choice of types, a dict an object of which these names are checked, a list of one a list of such. A name that
ends in `!` must be there; the others may be missing or null, as they are in reports of earlier versions. Names that are not
listed here may hold anything.
"""

from __future__ import annotations

from typing import Any

NUMBER = (int, float)
_DEEPEST = 24
_LATENCY = {"p50!": NUMBER}
_CANDIDATE = {"backend!": str, "device!": str, "precision!": str}
_LATENCIES = {f"{name}latency_s": {"p50": NUMBER} for name in ("device_", "enqueue_", "h2d_", "compute_", "d2h_", "host_")}
_CONDITIONS = {
    "cpu": {"clock_hz": dict}, "gpu": {"before": dict, "during": dict, "after": dict, "throttled": dict}, "warnings": list,
}  # fmt: skip
_RESULT = {
    **_CANDIDATE, **_LATENCIES, "batch!": int, "latency_s!": _LATENCY, "parity": dict, "failures": list, "roofline": dict,
    "conditions": _CONDITIONS, "settings": dict,
}  # fmt: skip
_SCENARIO = {**_CANDIDATE, "metrics": dict, "failures": list, "notes": list, "parity": dict, "conditions": _CONDITIONS}
_SAMPLES = {"host_s": [NUMBER]}
_PROFILE = {"backend!": str, "precision!": str, "layers": [{"name!": str, "time_s": NUMBER, "share": NUMBER}]}
REPORT = {
    "machine!": {"gpus": [dict], "packages": dict},
    "model!": {
        "request": dict, "weights": dict, "head": dict, "input": {"shape": list}, "outputs": [{"shape": list}],
    },
    "results!": [_RESULT],
    "warnings": list,
    "scenarios": [_SCENARIO],
    "unmeasured": [{**_CANDIDATE, "batch": int}],
    "verdicts": [dict],
    "profiles": [_PROFILE],
    "trtexec": [{"figures": [{"name!": str}]}],
    "calibration": dict,
    "commands": list,
    "samples": dict,
}  # fmt: skip
_CALLED = {dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a number"}


def complaint(content: Any) -> str | None:
    """What is wrong with something that should be a report; None where nothing is."""
    if _too_deep(content, _DEEPEST):
        return f"it is nested more than {_DEEPEST} deep"
    if said := _check(content, REPORT, ""):
        return said
    entries = (_check(entry, _SAMPLES, f"samples[{key[:80]!r}]") for key, entry in (content.get("samples") or {}).items())
    return next((said for said in entries if said), None)


def _check(value: Any, shape: Any, place: str) -> str | None:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _wrong(place, value, dict)
        for name, inner in shape.items():
            part, where = value.get(name.rstrip("!")), f"{place}.{name.rstrip('!')}".lstrip(".")
            if part is None and name.endswith("!"):
                return f"it has no {where}"
            if part is not None and (said := _check(part, inner, where)):
                return said
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _wrong(place, value, list)
        found = (_check(part, shape[0], f"{place}[{index}]") for index, part in enumerate(value))
        return next((said for said in found if said), None)
    return None if isinstance(value, shape) and not isinstance(value, bool) else _wrong(place, value, shape)


def _wrong(place: str, value: Any, shape: Any) -> str:
    expected = _CALLED[shape] if isinstance(shape, type) else "a number"
    return f"{place or 'it'} is {_CALLED.get(type(value), 'something else')}, not {expected}"


def _too_deep(value: Any, left: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left < 0 or any(_too_deep(part, left - 1) for part in parts)
