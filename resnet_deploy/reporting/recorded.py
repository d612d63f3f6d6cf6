"""Reports of runs that were made: kept in a bundle, read from it again, or from the JSON of `bench`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_deploy import _json
from resnet_deploy._figures import spell
from resnet_deploy._json import decode, plain
from resnet_deploy.bundle.locks import running_command
from resnet_deploy.bundle.manifest import CalibrationFile, GraphFile, PlanFile, ReportFile
from resnet_deploy.bundle.names import BENCH, CALIBRATION, SAMPLES
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BundleError, IntegrityError, StorageError, UsageError
from resnet_deploy.reporting.facts import source
from resnet_deploy.reporting.rows import Report, key_of_row
from resnet_deploy.reporting.schema import MAX_BYTES, SamplesJson, read_report

_PROGRAM = "resnet-deploy"
_GIVE = f"give a bundle, or a file made by `{_PROGRAM} bench ... --report FILE.json`"
_MADE = (GraphFile, CalibrationFile, PlanFile)  # the kinds of artifacts that a run measures


def keep_report(bundle: Bundle, report: Report) -> dict[str, Any]:
    """Keep a run as the bundle's last; returns it with its raw samples, as `load_report` does.

    Nothing is written where the run found only what is kept already, and a bundle that cannot be written stays as it is: the
    run's figures count, not where they lie.
    """
    content = {**report, "commands": _commands(bundle)}
    if not _is_kept(bundle, content):
        with contextlib.suppress(BundleError, StorageError), bundle.transaction() as change:
            change.stage(BENCH).write_bytes(encode_report(content))
            change.add(BENCH, ReportFile)
    return _whole(bundle, content)


def encode_report(content: Any) -> bytes:
    """A report, or a comparison of two, as JSON: a figure that is not finite is spelled out, and names that are no text (bytes
    of a path) have question marks there, as JSON has neither."""
    return (json.dumps(spell(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")


def _is_kept(bundle: Bundle, content: Report) -> bool:
    """But for the machine's load and the command, which say nothing new."""
    if BENCH not in bundle.manifest.artifacts:
        return False
    try:
        known = read_report(bundle.artifact(BENCH).read_bytes())
    except (BundleError, ValueError):
        return False
    told = {name: value for name, value in content.items() if name not in {"machine", "commands"}}
    return bool(json.loads(encode_report(told)) == {name: known.get(name) for name in told})


def _commands(bundle: Bundle) -> list[str]:
    """The commands that made the bundle's files and this run; none where a program of the user's own did."""
    made = [entry.command for entry in bundle.manifest.artifacts.values() if isinstance(entry, _MADE)]
    commands = list(dict.fromkeys([*made, running_command()]))
    return commands if all(line.startswith(f"{_PROGRAM} ") for line in commands) else []


def load_report(run: Bundle | str | Path) -> dict[str, Any]:
    """The report of a bundle's last run, with its raw samples, or of a file that `bench --json` or `--report` made.

    Args:
        run: a bundle, its folder, or the file.

    Returns:
        The report as `BenchReport.to_dict` gives it.

    Raises:
        UsageError: it is neither.
        BundleError, IntegrityError: a bundle that cannot be used.
    """
    if isinstance(run, Bundle) or Path(run).is_dir():
        return _of_bundle(run if isinstance(run, Bundle) else Bundle.open(run))
    path = Path(run)
    try:
        return read_report(_contents(path))
    except ValueError as exc:
        raise UsageError(f"{path} is not a report of `{_PROGRAM} bench`: {exc}; {_GIVE}") from exc


def _contents(path: Path) -> bytes:
    """Of a file of a size that a report can have: a pipe or a device need not have an end."""
    if not path.exists():
        raise UsageError(f"{path} does not exist; {_GIVE}")
    if not path.is_file():
        raise UsageError(f"{path} is not a file; {_GIVE}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}; {_GIVE}") from exc
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} has more than {MAX_BYTES >> 20} MiB, which no report has; {_GIVE}")
    return data


def _of_bundle(bundle: Bundle) -> dict[str, Any]:
    measure = f"`{_PROGRAM} bench {bundle.path}`"
    if BENCH not in bundle.manifest.artifacts:
        raise UsageError(f"{bundle.path} has no recorded run; measure it with {measure}")
    try:
        content = read_report(_contents(bundle.artifact(BENCH)))
    except ValueError as exc:
        raise IntegrityError(f"{bundle.path / BENCH} is no report: {exc}. Measure it again with {measure}") from exc
    return _whole(bundle, content)


def _whole(bundle: Bundle, content: Report) -> dict[str, Any]:
    """A report with the raw samples that the bundle keeps of its rows, and where its calibration came from."""
    whole = {**content, "samples": _samples(bundle, content["results"])}
    if calibration := bundle.manifest.files(CalibrationFile).get(CALIBRATION):
        # The data's name, its digest and the method that was asked for.
        data, _ = source(calibration.data.rsplit(" ", 2)[0])
        whole["calibration"] = {"source": data or "DATA", "method": calibration.method}
    return whole


def _samples(bundle: Bundle, results: list[dict[str, Any]]) -> dict[str, Any]:
    """By row; none where the file is not as it was written."""
    if SAMPLES not in bundle.manifest.artifacts:
        return {}
    try:
        kept = plain(decode(bundle.artifact(SAMPLES).read_bytes(), dict[str, SamplesJson]))
    except (IntegrityError, ValueError):
        return {}
    # The measurement of the very figures that the report has: one that was made later is another's.
    measured = {_text(_json.plain(entry.latency_s)): key for key, entry in bundle.manifest.measurements.items()}
    of_rows = {_key(result): measured.get(_text(result["latency_s"])) for result in results}
    return {row: {"host_s": kept[key]["host_s"]} for row, key in of_rows.items() if key in kept}


def _text(latency_s: Mapping[str, Any]) -> str:
    return json.dumps(latency_s, sort_keys=True)


def _key(result: Mapping[str, Any]) -> str:
    return key_of_row(result["backend"], result["device"], result["precision"], result["batch"])
