"""The results of a report as rows: their names, lines over batch sizes, the Pareto front, the summary in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resnet_deploy._json import convert
from resnet_deploy.parity.gates import GateCheck, describe_gates
from resnet_deploy.reporting.formatting import count, counted, milliseconds, number

Report = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result. label: backend and precision, with the device where there are several. images_per_s: one batch after the
    other. queued_images_per_s: with batches queued ahead, where that was measured. artifact: the file that was run. judged:
    what its gate judged, in words. host_s: raw samples, where they are kept. result: the JSON that the row is made of."""

    backend: str
    device: str
    precision: str
    batch: int
    label: str
    p50_s: float
    p90_s: float
    p99_s: float
    iqr_s: float
    device_s: float | None
    images_per_s: float
    queued_images_per_s: float | None
    speedup: float | None
    parity: Mapping[str, Any]
    passed: bool
    failures: Sequence[str]
    artifact: str | None
    judged: str
    noisy: bool
    samples: int
    host_s: tuple[float, ...] = field(default=(), repr=False)
    result: Mapping[str, Any] = field(repr=False)

    @property
    def key(self) -> str:
        """What one run calls it, and another."""
        return key_of_row(self.backend, self.device, self.precision, self.batch)

    @property
    def title(self) -> str:
        return f"{self.label}, batch {self.batch}"

    @property
    def gate(self) -> str:
        """Whether it passed, and what was judged: `pass: accuracy 100% of FP32, needs 99%`."""
        return ("pass" if self.passed else "FAIL") + (f": {self.judged}" if self.judged else "")

    @property
    def highest_images_per_s(self) -> float:
        return max(self.images_per_s, self.queued_images_per_s or 0.0)

    @property
    def cosine_loss(self) -> float | None:
        """1 - mean cosine with eager; below a double's resolution it is 0."""
        cosine = number(self.parity.get("cosine_mean"))
        return None if cosine is None else max(0.0, 1 - cosine)


def key_of_row(backend: object, device: object, precision: object, batch: object) -> str:
    """The name of a row in `samples`."""
    return f"{backend}|{device}|{precision}|{batch}"


def parse_rows(report: Report) -> list[Row]:
    """The results that have a latency, in the report's order."""
    several = len({result["device"] for result in report["results"]}) > 1
    parsed = (_row(report, result, several) for result in report["results"])
    return [row for row in parsed if row is not None]


def _row(report: Report, result: Mapping[str, Any], several_devices: bool) -> Row | None:
    latency, batch, p50_s = result["latency_s"], result["batch"], number(result["latency_s"]["p50"])
    if p50_s is None or p50_s < 1e-12 or not 1 <= batch < 1 << 31:
        return None
    return Row(
        backend=result["backend"], device=result["device"], precision=result["precision"], batch=batch,
        label=label(result, several_devices), p50_s=p50_s, p90_s=number(latency.get("p90")) or p50_s,
        p99_s=number(latency.get("p99")) or p50_s, iqr_s=max(0.0, number(latency.get("iqr")) or 0.0),
        device_s=number((result.get("device_latency_s") or {}).get("p50")), images_per_s=batch / p50_s,
        queued_images_per_s=number(result.get("throughput_images_per_s")), speedup=number(result.get("speedup")),
        parity=result.get("parity") or {}, passed=result.get("gate", "pass") == "pass", failures=result.get("failures") or (),
        artifact=result.get("artifact"), judged=_judged(result),
        noisy=bool(result.get("noisy")), samples=int(number(result.get("samples")) or 0), host_s=_samples(report, result),
        result=result,
    )  # fmt: skip


def _judged(result: Mapping[str, Any]) -> str:
    checks = [convert(check, GateCheck) for check in result.get("gates") or ()]
    return describe_gates(checks, [str(failure) for failure in result.get("failures") or ()])


def label(result: Mapping[str, Any], with_device: bool) -> str:
    """The name of a line in the charts."""
    return f"{result['backend']} {result['precision']}" + (f" {result['device']}" if with_device else "")


def _samples(report: Report, result: Mapping[str, Any]) -> tuple[float, ...]:
    key = key_of_row(result["backend"], result["device"], result["precision"], result["batch"])
    kept = ((report.get("samples") or {}).get(key) or {}).get("host_s") or ()
    return tuple(value for value in map(number, kept) if value is not None and value > 0)


def series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by label, each by batch."""
    grouped: dict[str, list[Row]] = {row.label: [] for row in rows}
    for row in sorted(rows, key=lambda row: row.batch):
        grouped[row.label].append(row)
    return grouped


def pareto(rows: Iterable[Row]) -> list[Row]:
    """Of the rows that pass, those that none beats in both latency and throughput; by latency."""
    front: list[Row] = []
    for row in sorted((row for row in rows if row.passed), key=lambda row: (row.p50_s, -row.images_per_s)):
        if not front or row.images_per_s > front[-1].images_per_s:
            front.append(row)
    return front


def fastest(rows: Sequence[Row]) -> Row | None:
    """The lowest median latency that passes, at the smallest batch size measured."""
    smallest = min((row.batch for row in rows), default=0)
    return min((row for row in rows if row.passed and row.batch == smallest), key=lambda row: row.p50_s, default=None)


def busiest(rows: Iterable[Row]) -> Row | None:
    """The highest throughput that passes."""
    return max((row for row in rows if row.passed), key=lambda row: row.highest_images_per_s, default=None)


def best_of_each(rows: Sequence[Row]) -> list[Row]:
    """Each backend and precision at the batch where its throughput is highest: its answers are the same at all."""
    return [max(group, key=lambda row: row.highest_images_per_s) for group in series(rows).values()]


def at_batches(rows: Sequence[Row]) -> str:
    """Rows as words, each line once: `tensorrt int8 at batch 8, 32; eager fp32 at batch 1`."""
    batches = {label: ", ".join(str(row.batch) for row in group) for label, group in series(rows).items()}
    return "; ".join(f"{label} at batch {numbers}" for label, numbers in batches.items())


def summary(report: Report, rows: Sequence[Row]) -> list[str]:
    """The report in a few sentences."""
    sentences = ["The run was interrupted: what follows is what was done by then."] if report.get("interrupted") else []
    if (quick := fastest(rows)) is not None:
        sentences.append(
            f"Fastest at batch {quick.batch}, of what passes: {quick.label}, {milliseconds(quick.p50_s)} ms "
            f"(p99 {milliseconds(quick.p99_s)} ms){_times(quick)}."
        )
    if (busy := busiest(rows)) is not None:
        queued = " with batches queued ahead" if busy.highest_images_per_s > busy.images_per_s else ""
        sentences.append(
            f"Highest throughput, of what passes: {busy.label}, {count(busy.highest_images_per_s)} images a second at batch "
            f"{busy.batch}{queued}{_times(busy)}."
        )
    if rows:
        failed = [row for row in rows if not row.passed]
        passed = f"{len(rows) - len(failed)} of {counted(len(rows), 'row')} pass their gates; not {at_batches(failed)}."
        sentences.append(passed if failed else f"All {counted(len(rows), 'row')} pass their gates.")
    if unmeasured := report.get("unmeasured"):
        sentences.append(f"Not measured, since the backend failed: {counted(len(unmeasured), 'row')}.")
    if scenarios := report.get("scenarios"):
        valid = sum(bool(item.get("valid")) for item in scenarios)
        sentences.append(f"LoadGen calls {valid} of {len(scenarios)} runs of MLPerf's scenarios VALID.")
    return sentences or ["Nothing was measured."]


def _times(row: Row) -> str:
    noisy = "; its samples are noisy" if row.noisy else ""
    faster = "" if row.speedup is None or row.backend == "eager" else f", {row.speedup:.2f} times eager's speed"
    return faster + noisy
