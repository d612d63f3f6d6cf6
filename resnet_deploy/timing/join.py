"""Several watches of one candidate, a turn each, as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from resnet_deploy.timing.conditions import Conditions, CpuCounters, Sample
from resnet_deploy.timing.nvml import GpuState


def end_to_end(parts: Sequence[Conditions]) -> Conditions:
    """Several watches, in order, as one: what happened between them is cut out of the times and of the counters."""
    first, last = parts[0], parts[-1]
    joined = replace(first, samples=list(first.samples))
    for part in parts[1:]:
        joined.samples += _behind(joined.samples, part.samples)
        joined.other_gpu_processes = max(joined.other_gpu_processes, part.other_gpu_processes)
        joined.watching_s += part.watching_s
    if last.after is not None:
        joined.after = replace(
            last.after, busy_s=_sum(parts, lambda cpu: cpu.busy_s), stolen_s=_sum(parts, lambda cpu: cpu.stolen_s),
            own_s=_sum(parts, lambda cpu: cpu.own_s) or 0.0,
        )  # fmt: skip
    return joined


def _behind(samples: list[Sample], more: list[Sample]) -> list[Sample]:
    """Samples moved in time and energy, so that they go on where others end."""
    gap_s, energy_j = 0.0, None
    if samples and more:
        gap_s = more[0].time_s - samples[-1].time_s
        before, after = samples[-1].gpu, more[0].gpu
        if before and after and before.energy_j is not None and after.energy_j is not None:
            energy_j = after.energy_j - before.energy_j

    def moved(state: GpuState | None) -> GpuState | None:
        if state is None or state.energy_j is None or energy_j is None:
            return state
        return replace(state, energy_j=state.energy_j - energy_j)

    return [replace(sample, time_s=sample.time_s - gap_s, gpu=moved(sample.gpu)) for sample in more]


def _sum(parts: Sequence[Conditions], counter: Callable[[CpuCounters], float | None]) -> float | None:
    """A counter at the end of all parts, had it begun where the first did; None where one part does not have it."""
    total = counter(parts[0].before)
    for part in parts:
        first, last = counter(part.before), None if part.after is None else counter(part.after)
        if total is None or first is None or last is None:
            return None
        total += last - first
    return total
