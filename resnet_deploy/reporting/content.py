"""A report as a document: its headline, what is wrong with it, and its sections in their order."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_deploy.reporting import context, sections
from resnet_deploy.reporting.document import Document, Tile
from resnet_deploy.reporting.facts import assumed
from resnet_deploy.reporting.formatting import count, counted, milliseconds
from resnet_deploy.reporting.rows import Report, Row, at_batches, busiest, fastest, parse_rows, summary

_SEVERITIES = ("problem", "warning", "advice")


def document(report: Report) -> Document:
    """Everything that a report has to say; what it has no data for is not there."""
    rows, model, machine = parse_rows(report), report["model"], report["machine"]
    where = next((str(gpu.get("name")) for gpu in machine.get("gpus") or ()), None) or machine.get("cpu")
    source = (model.get("weights") or {}).get("source")
    return Document(
        title=f"{model.get('architecture')} on {where}",
        subtitle=f"A benchmark by resnet-deploy: {counted(len(rows), 'row')}, weights {source}",
        decision=(report.get("decision") or {}).get("text"),
        summary=summary(report, rows), tiles=_tiles(rows), notices=_notices(report),
        sections=[
            *context.measured(report), *context.prepared(report), *context.failures(report),
            *sections.results(rows), *sections.parts(rows),
            *sections.distributions(rows), *sections.parity(rows), *sections.roofline(rows), *sections.profiles(report),
            *context.scenarios(report), *context.trtexec(report), *context.conditions(report, rows),
            *context.packages(report), *context.again(report), *context.reading(),
        ],
    )  # fmt: skip


def _notices(report: Report) -> list[tuple[str, str]]:
    """What the results say, the gravest first, then what makes figures unsafe."""
    notices = [(str(advice.get("severity", "warning")), str(advice.get("text"))) for advice in report.get("verdicts") or ()]
    notices += [("warning", str(text)) for text in (assumed(report), *(report.get("warnings") or ())) if text is not None]
    return sorted(notices, key=lambda notice: _SEVERITIES.index(notice[0]) if notice[0] in _SEVERITIES else 1)


def _tiles(rows: Sequence[Row]) -> list[Tile]:
    """The figures that are read first."""
    quick, busy, tiles = fastest(rows), busiest(rows), []
    if quick is not None:
        tiles.append(Tile(name=f"Fastest at batch {quick.batch}", value=milliseconds(quick.p50_s), unit="ms", note=quick.label))
    if busy is not None:
        highest = count(busy.highest_images_per_s)
        tiles.append(Tile(name="Highest throughput", value=highest, unit="images/s", note=busy.title))
    gains = [row for row in rows if row.passed and row.speedup is not None and row.backend != "eager"]
    if gains:
        best = max(gains, key=lambda row: row.speedup or 0)
        tiles.append(Tile(name="Largest speed-up over eager", value=f"{best.speedup:.2f}", unit="×", note=best.title))
    if rows:
        passed = sum(row.passed for row in rows)
        failed = at_batches([row for row in rows if not row.passed])
        note = f"not {failed}" if failed else "every row"
        tiles.append(Tile(name="Gates passed", value=f"{passed}", unit=f"of {len(rows)}", note=note))
    return tiles
