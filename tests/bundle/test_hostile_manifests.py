"""Manifests whose digest is right and that say what no resnet-deploy wrote: each has its message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resnet_deploy.bundle import codec
from resnet_deploy.bundle.manifest import GraphFile
from resnet_deploy.bundle.names import MANIFEST
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import IntegrityError
from resnet_deploy.terminal.export import exported
from tests.helpers.bundles import make


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


@pytest.mark.parametrize(("name", "value"), [("keep", 3), ("equalize", "yes"), ("target", "gpu"), ("grouped", ["auto"])])
def test_a_graphs_settings_are_those_of_its_making(tmp_path: Path, name: str, value: object) -> None:
    """They make the file again once it is gone."""
    values = plain(make(tmp_path, 1))
    values["artifacts"]["graph.bin"] |= {"kind": "onnx", "precision": "fp16", "settings": {name: value}}
    (tmp_path / MANIFEST).write_bytes(codec.signed(values))
    with pytest.raises(IntegrityError, match=rf"artifacts\.graph\.bin\.settings\.{name}"):
        Bundle.open(tmp_path)


def test_a_setting_of_another_version_is_left_out(tmp_path: Path) -> None:
    values = plain(make(tmp_path, 1))
    values["artifacts"]["graph.bin"] |= {"kind": "onnx", "precision": "fp16", "settings": {"zzz": 1, "keep": ["fc"]}}
    (tmp_path / MANIFEST).write_bytes(codec.signed(values))
    entry = Bundle.open(tmp_path).manifest.artifacts["graph.bin"]
    assert isinstance(entry, GraphFile) and entry.settings == {"keep": ["fc"]}


def test_a_bundle_whose_graph_was_never_checked_is_shown(tmp_path: Path) -> None:
    assert "checked against eager" not in exported(make(tmp_path, 1))
