"""What results mean, in words: which precision, backend and batch to use, and what holds a throughput back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resnet_deploy.benchmarking.report import Result
from resnet_deploy.precisions import PRECISIONS

TIE = 0.03  # medians of one candidate, measured twice on a quiet machine, differ by up to this much
BATCH_GAIN = 0.05  # more throughput than this is worth a larger batch to somebody; less is within a run's noise
BATCH_LATENCY = 1.5  # a latency that grows less than this is no price worth a word
ENQUEUE_SHARE = 0.8  # of the device's latency: above it, the device ends each kernel before it is given the next
COPY_SHARE = 0.25  # of the latency from host to host: a copy of a quarter of it is worth another input format
SEVERITIES = ("problem", "warning", "advice")
KB, MB, GB = 1e3, 1e6, 1e9


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One thing that results say.

    Attributes:
        kind: slower-precision, slower-than-eager, enqueue-bound, copy-bound, or knee (of a batch that larger ones do not
            beat).
        severity: problem (another choice is better), warning (speed is left behind) or advice.
        text: what was found and what to do, in words.
        rows: positions in the list of results.
    """

    kind: str
    severity: str
    text: str
    rows: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Row:
    """A result and its position."""

    index: int
    result: Result

    @property
    def p50(self) -> float:
        return self.result.latency_s.p50

    @property
    def place(self) -> str:
        return f"{self.result.backend} ({self.result.device})"


def advise(results: Sequence[Result], *, input: str = "float", image_values: int | None = None) -> list[Advice]:
    """Everything that results of one model say, the gravest first.

    Args:
        results: a run's rows.
        input: how images are sent, `float` or `uint8`.
        image_values: values of one image, for arithmetic about copies; None leaves that out.
    """
    rows = [_Row(index, result) for index, result in enumerate(results)]
    advice = [
        *_slower_precisions(rows), *_slower_than_eager(rows), *_enqueue_bound(rows),
        *(_copy_bound(rows, image_values) if input == "float" else ()), *_large_batches(rows),
    ]  # fmt: skip
    return sorted(advice, key=lambda item: SEVERITIES.index(item.severity))


def _is_quantized(row: _Row) -> bool:
    return row.result.precision in PRECISIONS and PRECISIONS[row.result.precision].quantized


def _slower_precisions(rows: list[_Row]) -> Iterator[Advice]:
    """INT8 and FP8 that are slower than a floating-point precision of the same backend, device and batch."""
    for group in _groups([row for row in rows if _is_quantized(row)], _series):
        beaten: list[tuple[_Row, _Row]] = []
        for row in group:
            others = [other for other in rows if _same_place(other, row) and not _is_quantized(other)]
            if (best := _best(others)) and best.p50 < row.p50 / (1 + TIE):
                beaten.append((row, best))
        if beaten:
            first, use = beaten[0][0], sorted({best.result.precision for _, best in beaten})
            cases = _cases((row, f"{best.result.precision} is {row.p50 / best.p50:.2f}x as fast") for row, best in beaten)
            text = f"{first.result.precision} on {first.place} is slower {cases}; use {' or '.join(use)} there"
            yield _about("slower-precision", _grave(beaten), text + _unsure(beaten), beaten)


def _slower_than_eager(rows: list[_Row]) -> Iterator[Advice]:
    """Backends slower than plain eager PyTorch in the same precision, or in FP32, on the same device at the same batch."""
    eager = [row for row in rows if row.result.backend == "eager"]
    for group in _groups([row for row in rows if row.result.backend != "eager"], _series):
        beaten = []
        for row in group:
            there = [base for base in eager if (base.result.device, base.result.batch) == (row.result.device, row.result.batch)]
            same = [base for base in there if base.result.precision == row.result.precision]
            base = next(iter(same or [base for base in there if base.result.precision == "fp32"]), None)
            if base and base.p50 < row.p50 / (1 + TIE):
                beaten.append((row, base))
        if beaten:
            first = beaten[0][0]
            cases = _cases((row, f"eager is {row.p50 / base.p50:.2f}x as fast") for row, base in beaten)
            text = f"{first.place} in {first.result.precision} is slower than eager PyTorch {cases}"
            yield _about("slower-than-eager", _grave(beaten), text + _unsure(beaten), beaten)


def _enqueue_bound(rows: list[_Row]) -> Iterator[Advice]:
    """Of devices alone: a CPU backend may do its work in enqueue."""
    for row in rows:
        enqueue = row.result.enqueue_latency_s
        device_s = row.result.device_latency_s.p50
        if enqueue is not None and row.result.device != "cpu" and enqueue.p50 >= ENQUEUE_SHARE * device_s:
            text = (
                f"{row.place} {row.result.precision} at batch {row.result.batch} waits for the host:"
                f" starting an inference takes {_ms(enqueue.p50)} of {_ms(device_s)}; use CUDA graphs or a larger batch"
            )
            yield Advice(kind="enqueue-bound", severity="warning", text=text, rows=(row.index,))


def _copy_bound(rows: list[_Row], image_values: int | None) -> Iterator[Advice]:
    """One item a series, about the batch that loses most to copies."""
    for group in _groups([row for row in rows if row.result.device != "cpu"], _series):
        slow = [row for row in group if _outside_s(row) >= COPY_SHARE * row.p50]
        if not slow:
            continue
        row = max(slow, key=lambda slow: _outside_s(slow) / slow.p50)
        text = (
            f"{row.place} {row.result.precision} at batch {row.result.batch} spends {_ms(_outside_s(row))} of {_ms(row.p50)}"
            " outside the device"
        )
        if image_values is not None:
            sent = row.result.batch * image_values * 4
            rate = sent / _outside_s(row) / GB
            text += f", where float images are {_size(sent)} ({rate:.1f} GB/s); as uint8 they are {_size(sent / 4)}"
        best_s = row.p50 - 0.75 * _outside_s(row)
        text += (
            f"; send uint8 (a quarter of the bytes): at best {_ms(best_s)},"
            f" {row.result.batch / best_s:,.0f} images/s in place of {row.result.batch / row.p50:,.0f}"
        )
        yield Advice(kind="copy-bound", severity="warning", text=text, rows=tuple(row.index for row in slow))


def _large_batches(rows: list[_Row]) -> Iterator[Advice]:
    """The smallest batch that no larger one beats by BATCH_GAIN, where the larger ones cost BATCH_LATENCY or more."""
    for group in _groups(rows, _series):
        ordered = sorted(group, key=lambda row: row.result.batch)
        for position, enough in enumerate(ordered):
            larger = [row for row in ordered[position + 1 :] if row.result.batch > enough.result.batch]
            limit = (1 + BATCH_GAIN) * enough.result.images_per_s
            slower = [row for row in larger if row.p50 >= BATCH_LATENCY * enough.p50]
            if slower and all(row.result.images_per_s < limit for row in larger):
                last = slower[-1]
                gain = last.result.images_per_s / enough.result.images_per_s - 1
                change = f"{abs(gain):.0%} {'more' if gain >= 0 else 'less'} throughput"
                text = (
                    f"{enough.place} {enough.result.precision}: a batch larger than {enough.result.batch} does not pay;"
                    f" batch {last.result.batch} gives {change} for {last.p50 / enough.p50:.1f}x the latency"
                    + _unsure([(enough, last)])
                )
                yield Advice(kind="knee", severity="advice", text=text, rows=tuple(row.index for row in (enough, *slower)))
                break


def _groups(rows: list[_Row], key: Callable[[_Row], Any]) -> Iterable[list[_Row]]:
    """Rows with the same key together, in the order of their first."""
    groups: dict[Any, list[_Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups.values()


def _series(row: _Row) -> tuple[str, str, str]:
    """What is one line over batch sizes."""
    return row.result.backend, row.result.device, row.result.precision


def _same_place(row: _Row, other: _Row) -> bool:
    a, b = row.result, other.result
    return (a.backend, a.device, a.batch) == (b.backend, b.device, b.batch)


def _best(rows: list[_Row]) -> _Row | None:
    """The fastest, of those that pass their gate where there are any."""
    passing = [row for row in rows if row.result.gate == "pass"]
    return min(passing or rows, key=lambda row: row.p50, default=None)


def _outside_s(row: _Row) -> float:
    """Time from host to host that is not the device's: copies and the calls around them."""
    return max(0.0, row.p50 - row.result.device_latency_s.p50)


def _about(kind: str, severity: str, text: str, pairs: list[tuple[_Row, _Row]]) -> Advice:
    """About rows and those that beat them, once each."""
    rows = tuple(dict.fromkeys(row.index for pair in pairs for row in pair))
    return Advice(kind=kind, severity=severity, text=text, rows=rows)


def _is_noisy(pairs: list[tuple[_Row, _Row]]) -> bool:
    return all(row.result.noisy or other.result.noisy for row, other in pairs)


def _grave(pairs: list[tuple[_Row, _Row]]) -> str:
    return "warning" if _is_noisy(pairs) else "problem"


def _unsure(pairs: list[tuple[_Row, _Row]]) -> str:
    return "; the measurement is noisy" if _is_noisy(pairs) else ""


def _cases(cases: Iterable[tuple[_Row, str]]) -> str:
    return "at batch " + ", ".join(f"{row.result.batch} ({what})" for row, what in cases)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _size(size_bytes: float) -> str:
    return f"{size_bytes / MB:.3g} MB" if size_bytes >= MB else f"{size_bytes / KB:.3g} kB"
