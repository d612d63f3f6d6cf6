"""Manifests of earlier versions, read as today's. Nothing is written: the next change of the bundle writes today's version."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_deploy import _json
from resnet_deploy.bundle.names import CALIBRATION
from resnet_deploy.errors import DeployError, IntegrityError

if TYPE_CHECKING:
    from resnet_deploy.bundle.manifest import Manifest

_UNKNOWN = "0" * 16
_QUANTIZED = {"int8", "fp8"}


def from_version_1(data: bytes, path: object, remake: str) -> Manifest:
    """Version 1: its digest is over sorted JSON, and what was calibrated on stands in calibration.json alone.

    Raises IntegrityError where it was changed or a field is wrong.
    """
    from resnet_deploy.bundle.manifest import Manifest

    try:
        old = json.loads(data)
        digest = old.pop("digest", None)
        if digest != hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest():
            raise IntegrityError(f"{path} was changed by hand: its digest does not match. {remake}")
        return _json.convert(_upgraded(old, Path(str(path)).parent), Manifest)
    except IntegrityError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, DeployError) as exc:
        raise IntegrityError(f"{path} is not a manifest that resnet-deploy wrote: {exc}. {remake}") from exc


def _upgraded(old: dict[str, Any], folder: Path) -> dict[str, Any]:
    use = _calibration_use(old["artifacts"].get(CALIBRATION), folder)
    for entry in old["artifacts"].values():
        if entry["kind"] == "onnx" and entry.get("precision") in _QUANTIZED:
            entry["calibration"] = {**use, "method": entry.get("calibration") or use["method"]}
        elif entry["kind"] == "onnx":
            entry["calibration"] = None
    return {**old, "schema_version": 2}


def _calibration_use(entry: dict[str, Any] | None, folder: Path) -> dict[str, Any]:
    """What version 1 knows of the images that its quantized files have seen."""
    if entry is None:
        return {"method": "unknown", "data": "", "key": _UNKNOWN, "images": []}
    images: list[str] = []
    try:
        content = (folder / CALIBRATION).read_bytes()
        if hashlib.sha256(content).hexdigest() == entry["sha256"]:
            images = [str(digest) for digest in json.loads(content)["images"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the file is gone or spoiled: which images they were is not known any more
    return {"method": entry["method"], "data": entry["data"], "key": entry["key"], "images": images}
