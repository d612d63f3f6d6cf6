"""What `inspect` says of a file that stands in a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

import resnet_deploy as rd
from resnet_deploy.cli import main
from tests.helpers.shared import exported


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return exported("resnet20", tmp_path / "bundle", max_batch=2).path


def changed(path: Path) -> Path:
    model = onnx.load(path)
    model.producer_name = "somebody"
    onnx.save(model, path)
    return path


def test_a_file_of_a_bundle_that_was_changed_is_said_to_be(bundle: Path) -> None:
    path = bundle / "model.fp32.onnx"
    before = rd.inspect(path)
    assert before.warnings == ()
    report = rd.inspect(changed(path))
    assert "model.fp32.onnx was changed after it was made" in report.warnings[0] and before.sha256[:16] in report.warnings[0]
    done = CliRunner().invoke(main, ["inspect", str(path), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["warnings"] == list(report.warnings)
    assert "Warning: model.fp32.onnx was changed" in done.stderr


def test_a_manifest_that_was_changed_is_said_to_be(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["artifacts"]["model.fp32.onnx"]["sha256"] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (warning,) = rd.inspect(bundle / "model.fp32.onnx").warnings
    assert "whether model.fp32.onnx was changed is not known" in warning and "changed by hand" in warning


def test_a_file_that_no_manifest_names_has_no_warning(bundle: Path) -> None:
    other = bundle / "other.onnx"
    other.write_bytes((bundle / "model.fp32.onnx").read_bytes())
    assert rd.inspect(other).warnings == ()
