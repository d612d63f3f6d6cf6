"""Manifests whose digest is right and that say what no resnet-deploy wrote: each has its message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resnet_deploy.bundle import codec
from resnet_deploy.bundle.names import MANIFEST
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import IntegrityError
from tests.bundle.samples import make


def plain(bundle: Bundle) -> dict[str, Any]:
    """What a manifest says, to be changed and signed again."""
    return dict(json.loads((bundle.path / MANIFEST).read_bytes()))


@pytest.mark.parametrize("name", ["manifest.json", "../graph.bin", ".staging", "-o", "a b", "graph.bin\n", ""])
def test_a_file_is_called_by_a_plain_name(tmp_path: Path, name: str) -> None:
    values = plain(make(tmp_path, 1))
    values["artifacts"][name] = values["artifacts"].pop("graph.bin")
    (tmp_path / MANIFEST).write_bytes(codec.signed(values))
    with pytest.raises(IntegrityError, match="artifacts"):
        Bundle.open(tmp_path)
