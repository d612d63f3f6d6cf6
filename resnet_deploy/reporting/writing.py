"""A report as a file: HTML, Markdown or JSON by its suffix."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resnet_deploy._files import write_atomic, writing
from resnet_deploy.bundle.names import BENCH, CALIBRATION, MANIFEST, SAMPLES
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BundleError, UsageError, carrying
from resnet_deploy.reporting.formatting import points, share
from resnet_deploy.reporting.recorded import encode_report, keep_report, load_report

if TYPE_CHECKING:
    from resnet_deploy.reporting.compare import RunComparison

SUFFIXES = (".html", ".md", ".json")
R = TypeVar("R", "dict[str, Any]", "RunComparison")


def report(run: Bundle | str | Path, *, output: str | Path | None = None) -> dict[str, Any]:
    """The report of a run, written to a file where one is named.

    Args:
        run: a bundle, whose last run it is, or the JSON of a run.
        output: a file to write, .html, .md or .json.

    Returns:
        The report, as `load_report` gives it.

    Raises:
        UsageError: what is no run.
        BundleError: a bundle that cannot be used, and as `write_report` does.
    """
    if output is not None:
        check_path(output)
    loaded = load_report(run)
    return loaded if output is None else _written(loaded, output)


def compare_runs(
    before: Bundle | str | Path,
    after: Bundle | str | Path,
    *,
    output: str | Path | None = None,
    fail_on_regression: float | str | None = None,
    max_accuracy_drop: float | str | None = None,
) -> RunComparison:
    """Compare two runs of one network, row by row: what became slower, faster or less accurate beyond noise.

    Args:
        before, after: bundles, whose last runs they are, or the JSON of runs.
        output: a file to write, .html, .md or .json.
        fail_on_regression: how much slower a row may become, `5%` or 0.05. Rows slower by more than it with their whole 95 %
            interval, accuracies that fell beyond theirs, rows that are missing, gates, scenarios and backends that now fail are
            in the comparison's `failures`; what cannot be told from noise is in its `inconclusive`.
        max_accuracy_drop: by how many percentage points an accuracy may fall, in place of its interval; also without a limit
            on latency.

    Returns:
        The comparison; without limits it has no `failures`.

    Raises:
        UsageError: what is no run, and runs of different networks.
        BundleError: a bundle that cannot be used, and as `write_report` does.
    """
    from resnet_deploy.reporting.compare import compare_reports

    if output is not None:
        check_path(output)
    comparison = compare_reports(
        load_report(before), load_report(after), names=(_name(before), _name(after)),
        limit=None if fail_on_regression is None else share(fail_on_regression),
        max_accuracy_drop=None if max_accuracy_drop is None else points(max_accuracy_drop),
    )  # fmt: skip
    return comparison if output is None else _written(comparison, output)


def _written(report: R, output: str | Path) -> R:
    with carrying(report):
        write_report(report, output)
    return report


def _name(run: Bundle | str | Path) -> str:
    return str(run.path if isinstance(run, Bundle) else run)


def write_report(report: Mapping[str, Any] | RunComparison, path: str | Path) -> Path:
    """Write a report, or a comparison of two, as .html, .md or .json. Folders that are missing are made.

    Args:
        report: what `load_report` gives (with raw samples), `BenchReport.to_dict()`, or a comparison.
        path: the file; its suffix says the form. The HTML is one file that loads nothing.

    Returns:
        The path.

    Raises:
        UsageError: another suffix.
        BundleError: writing is refused.
        StorageError: the disk is full; a file that was there before is as it was.
    """
    path = check_path(path)
    content = render(report, path.suffix.lower()).encode()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    return path


def publish(bundle: Bundle, report: Mapping[str, Any], path: str | Path | None) -> None:
    """Keep a run's report in its bundle, and write it to a file where one was asked for.

    Args:
        bundle: that was measured.
        report: as `BenchReport.to_dict` gives it.
        path: of the file; None for none.

    Raises:
        UsageError, StorageError: as `write_report` does.
    """
    kept = keep_report(bundle, report)
    if path is not None:
        write_report(kept, path)


def check_path(path: str | Path) -> Path:
    """Whether a report can be written here, as far as that can be known beforehand. Raises as `write_report` does."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"a report is written as {', '.join(SUFFIXES)}; found {path.name!r}")
    try:
        with writing(path):
            if path.is_dir():
                raise UsageError(f"{path} is a folder; give the name of a file in it")
            if path.name in _taken(path.parent):
                raise UsageError(f"{path} is a part of the bundle; give the report another name")
            folder = next(parent for parent in (path.parent, *path.parent.parents) if parent.exists())
            with tempfile.TemporaryFile(dir=folder):
                pass  # nothing tells permissions, read-only disks and quotas as surely as trying
    except OSError as exc:
        raise BundleError(f"cannot write {path}: {exc.strerror}. Choose another output folder") from exc
    return path


def _taken(folder: Path) -> set[str]:
    """Names that a bundle has of its own; none where the folder is not one."""
    if not (folder / MANIFEST).exists():
        return set()
    try:
        artifacts = set(Bundle.open(folder).manifest.artifacts)
    except BundleError:
        artifacts = set()
    return artifacts | {MANIFEST, BENCH, SAMPLES, CALIBRATION}


def render(report: Mapping[str, Any] | RunComparison, suffix: str) -> str:
    """A report as text.

    Args:
        report: of a run, or of two.
        suffix: `.html`, `.md` or `.json`.

    Returns:
        The file's content.
    """
    if suffix == ".json":
        return encode_report(thinned(report) if isinstance(report, Mapping) else report.to_dict()).decode()
    from resnet_deploy.reporting import html, markdown

    if isinstance(report, Mapping):
        from resnet_deploy.reporting.content import document

        content = document(report)
    else:
        from resnet_deploy.reporting.differences import comparison_document

        content = comparison_document(report)
    return html.html_page(content) if suffix == ".html" else markdown.markdown_page(content)


def thinned(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report as it is written: with as many samples of a row as a comparison uses. A fast backend has tens of thousands, and
    the bundle keeps them."""
    from resnet_deploy.reporting.noise import evenly

    samples = {
        key: {"host_s": [float(f"{value:.6g}") for value in evenly(entry["host_s"])]}
        for key, entry in (report.get("samples") or {}).items()
        if entry.get("host_s")
    }
    return {**report, "samples": samples} if samples else dict(report)
