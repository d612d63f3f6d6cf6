"""What a bundle says, without what differs from run to run; and whether it is true."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.bundles import read

SAME_BYTES = {"onnx", "weights", "calibration"}  # the kinds whose bytes a request determines
VOLATILE = {"created", "tuned", "command", "runtime", "seconds", "builder_s", "packages", "machine"}


def check(path: Path) -> None:
    """Open a bundle, verify every file that it names, and read its last report. Raises AssertionError."""
    from resnet_deploy.bundle.store import Bundle
    from resnet_deploy.errors import DeployError
    from resnet_deploy.reporting.recorded import load_report

    try:
        bundle = Bundle.open(path)
        for name in read(path)["artifacts"]:
            bundle.artifact(name)
        if "bench.json" in read(path)["artifacts"]:
            load_report(path)
    except DeployError as exc:
        raise AssertionError(f"lost: the bundle does not open: {type(exc).__name__}: {exc}") from exc


def essence(path: Path) -> dict[str, str]:
    """What a bundle holds, by name: a file's hash where the request determines it, a record without its times."""
    manifest = read(path)
    found = {
        f"artifact {name}": entry["sha256"] if entry["kind"] in SAME_BYTES else "there"
        for name, entry in manifest["artifacts"].items()
    }
    for section, value in manifest.items():
        if section in {"parity", "tuning"}:
            found[f"section {section}"] = json.dumps(_steady(value), sort_keys=True)
        elif section == "measurements":
            found[f"section {section}"] = json.dumps(sorted(value))
    return {name: value for name, value in found.items() if value not in {"{}", "[]"}}


def output(folder: Path) -> dict[str, str]:
    """What lies in a folder of outputs: hashes by name; a bundle's manifest in it without its times."""
    if not folder.is_dir():
        return {}
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): json.dumps(essence(path.parent)) if name.name == "manifest.json" else _sha256(path)
        for name, path in files.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def left_behind(folder: Path) -> list[str]:
    """Hidden files that a killed command may leave; locks, and what belongs to a project, aside."""
    kept = {".clang-tidy", ".resnet-deploy.json"}
    hidden = (path for path in folder.rglob(".*") if not path.name.endswith("lock") and path.name not in kept)
    return sorted(str(path.relative_to(folder)) for path in hidden)


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The names by which two states differ."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within a JSON value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from dicts(item)


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _steady(item) for name, item in value.items() if name not in VOLATILE}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
