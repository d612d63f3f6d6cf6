"""What the machine did meanwhile, in a line for the CPU and one for the GPU."""

from __future__ import annotations

from typing import Any


def lines(recorded: list[dict[str, Any] | None]) -> list[str]:
    """Over all rows: the worst share of others, and the range of clocks, power and temperature."""
    known = [conditions for conditions in recorded if conditions]
    if not known:
        return []
    return [
        _cpu([conditions["cpu"] for conditions in known]),
        *_gpu([conditions["gpu"] for conditions in known if conditions["gpu"]]),
    ]


def _cpu(cpus: list[dict[str, Any]]) -> str:
    parts = [f"load {_range([load for cpu in cpus for load in (cpu['load_1min_before'], cpu['load_1min_after'])], 1, '.1f')}"]
    for name, words in (("other_cores", "other processes"), ("stolen_cores", "other machines")):
        shares = [cpu[name] for cpu in cpus if cpu[name] is not None]
        parts.append(f"{words} {max(shares):.2f} of {cpus[0]['cores']} cores" if shares else f"{words} not counted")
    if clocks := [value for cpu in cpus if cpu["clock_hz"] for value in cpu["clock_hz"].values()]:
        parts.append(f"{_range(clocks, 1e9, '.2f')} GHz")
    if cpus[0]["governor"]:
        parts.append(f"governor {cpus[0]['governor']}")
    return f"meanwhile {', '.join(parts)}"


def _gpu(gpus: list[dict[str, Any]]) -> list[str]:
    if not gpus:
        return []
    states = [state for gpu in gpus for state in (gpu["before"], gpu["after"])]
    states += [
        {name: value for name, spread in gpu["during"].items() if spread for value in (spread[edge],)}
        for gpu in gpus
        for edge in ("min", "max")
    ]
    units = (
        ("sm_clock_hz", 1e6, "MHz"), ("power_w", 1, "W"), ("temperature_c", 1, "°C"), ("memory_used_bytes", 1e6, "MB"),
    )  # fmt: skip
    parts = []
    for name, scale, unit in units:
        if values := [state[name] for state in states if state.get(name) is not None]:
            parts.append(f"{_range(values, scale, ',.0f')} {unit}")
    throttled = sorted({reason for gpu in gpus for reason in gpu["throttled"]})
    parts.append(f"throttled: {', '.join(throttled)}" if throttled else "not throttled")
    return [f"GPU {', '.join(parts)}"]


def _range(values: list[Any], scale: float, form: str) -> str:
    """The least and the most, once where they look the same."""
    known = [value / scale for value in values if value is not None]
    ends = dict.fromkeys(f"{end:{form}}" for end in ((min(known), max(known)) if known else ()))
    return " to ".join(ends) or "unknown"
