"""manifest.json: typed, its wrong field named, its schema published, and version 1 still read."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from resnet_deploy.bundle import codec
from resnet_deploy.bundle.manifest import GraphFile, PlanFile
from resnet_deploy.bundle.names import MANIFEST, graph_file, slug
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import IntegrityError
from resnet_deploy.specs import Precision
from tests.helpers.bundles import make

V1 = Path(__file__).parent / "v1"
SCHEMA = Path(codec.__file__).parent / "manifest.schema.json"


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a bundle with a file of every kind and a record in every section."""
    manifest = Bundle.open(V1).manifest
    return dict(json.loads(codec.encode_manifest(manifest)))


PLAN = "model.fp16.tensorrt-rtx-1.7.1.116.sm86-sm89.plan"


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Set the value at a path, whose last part it is."""
    *steps, name, value = path

    def edit(values: dict[str, Any]) -> None:
        place: Any = values
        for step in steps:
            place = place[next(iter(place)) if step is None else step]
        place[next(iter(place)) if name is None else name] = value

    return edit


def rename(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def edit(values: dict[str, Any]) -> None:
        values["artifacts"][new] = values["artifacts"].pop(old)

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (put("artifacts", []), "artifacts: Expected object, got array"),
        (put("artifacts", PLAN, "origin", None), rf"artifacts\.{PLAN}\.origin: Expected object, got null"),
        (put("artifacts", PLAN, "origin", "targets", ["sm86", "sm89/../../x"]), r"origin\.targets\[1\]: .*regex"),
        (put("artifacts", PLAN, "origin", "targets", ["sm86\n"]), r"origin\.targets\[0\]: .*regex"),
        (put("artifacts", PLAN, "profiles", []), r"profiles: .*length >= 1"),
        (put("artifacts", PLAN, "precision", "fp64"), r"precision: unknown precision 'fp64'"),
        (put("artifacts", PLAN, "kind", "program"), r"kind: Invalid value 'program'"),
        (put("artifacts", PLAN, "size_bytes", -1), r"size_bytes: .*>= 0"),
        (put("artifacts", PLAN, "size_bytes", 1.5), r"size_bytes: Expected int, got float"),
        (put("artifacts", PLAN, "sha256", "0" * 63), r"sha256: .*regex"),
        (put("artifacts", "model.int8.onnx", "calibration", "images", ["x"]), r"calibration\.images\[0\]: .*regex"),
        (rename("model.fp16.onnx", "../../bashrc"), r"key: .*regex|artifacts: .*regex"),
        (rename("model.fp16.onnx", "/etc/passwd"), "regex"),
        (rename("model.fp16.onnx", ".lock"), "regex"),
        (rename("model.fp16.onnx", "-o"), "regex"),
        (rename("model.fp16.onnx", "a\x00b"), "regex"),
        (rename("model.fp16.onnx", "model.fp16.onnx\n"), "regex"),
        (rename("model.fp16.onnx", "a" * 300), "regex"),
        (put("model", "num_classes", 0), r"model\.num_classes: .*>= 1"),
        (put("model", "num_classes", 11), r"model: class_names has 10 names for 11 classes"),
        (put("model", "class_names", [1, 2]), r"model\.class_names\[0\]: Expected str, got int"),
        (put("model", "preprocessing", "crop", 10**9), "crop is 1000000000"),
        (put("model", "preprocessing", "std", [0, 1, 1]), "std is"),
        (put("model", "head", "kind", "odds"), r"model\.head\.kind: Invalid enum value"),
        (put("model", "outputs", []), r"model\.outputs: .*length >= 1"),
        (put("model", None), "model: Expected object, got null"),
        (put("parity", None, "report", "cosine_mean", 2.0), r"parity\.\w+\.report\.cosine_mean: .*<= 1"),
        (put("parity", None, "data", "images", 0), r"data\.images: .*>= 1"),
        (put("measurements", None, "latency_s", "p50", 0), r"latency_s\.p50: .*> 0"),
        (put("measurements", None, "latency_s", "p99", "fast"), r"latency_s\.p99: Expected float, got str"),
        (put("measurements", "x", {}), "regex"),
        (put("scenarios", None, "scenario", "closed"), r"scenario: Invalid enum value 'closed'"),
        (put("roofs", None, "memory_bytes_s", -1.0), r"memory_bytes_s: .*>= 0"),
        (put("created", 5), "created: Expected str, got int"),
    ],
)  # fmt: skip
def test_the_wrong_field_is_named(
    values: dict[str, Any], tmp_path: Path, edit: Callable[[dict[str, Any]], None], said: str
) -> None:
    changed = json.loads(json.dumps(values))
    edit(changed)
    (tmp_path / MANIFEST).write_bytes(codec.signed(changed))
    with pytest.raises(IntegrityError, match=said) as caught:
        Bundle.open(tmp_path)
    assert "\n" not in str(caught.value) and "--overwrite" in str(caught.value)


def test_what_no_number_can_be_is_no_manifest(values: dict[str, Any], tmp_path: Path) -> None:
    for text in ("NaN", "Infinity", "1e999", "[" * 100_000 + "]" * 100_000):
        body = codec.signed(values).decode().replace('"tuning": ', f'"later": {text},\n "tuning": ')
        (tmp_path / MANIFEST).write_text(body)
        with pytest.raises(IntegrityError):
            Bundle.open(tmp_path)
    with pytest.raises(ValueError, match="must be finite"):
        codec.signed({**values, "tuning": {"error": math.nan}})


def test_the_published_schema_is_that_of_the_types() -> None:
    assert json.loads(SCHEMA.read_text()) == json.loads(json.dumps(codec.manifest_schema())), "write it again: see its test"


def test_manifests_keep_to_the_published_schema(values: dict[str, Any], tmp_path: Path) -> None:
    """By a validator that knows nothing of ours."""
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    validator.validate(values)
    validator.validate(json.loads((make(tmp_path, 1).path / MANIFEST).read_text()))
    values = json.loads(json.dumps(values))
    values["artifacts"][PLAN]["origin"]["targets"] = ["../x"]
    assert [*validator.iter_errors(values)]


def test_version_1_is_read_and_written_as_version_2(tmp_path: Path) -> None:
    shutil.copytree(V1, tmp_path / "b")
    bundle = Bundle.open(tmp_path / "b")
    files = bundle.manifest.files(GraphFile)
    calibration = files["model.int8.onnx"].calibration
    assert calibration is not None and len(calibration.images) == 96 and calibration == files["model.int8-cpu.onnx"].calibration
    assert files["model.fp16.onnx"].calibration is None and bundle.manifest.files(PlanFile)[PLAN].origin.targets == (
        "sm86",
        "sm89",
    )
    assert json.loads((bundle.path / MANIFEST).read_bytes())["schema_version"] == 1, "reading writes nothing"
    bundle.record("parity", {})
    assert json.loads((bundle.path / MANIFEST).read_bytes())["schema_version"] == 2
    assert Bundle.open(bundle.path).manifest == bundle.manifest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"crop": 32', '"crop": 33'),
        ('"digest": "', '"digest": "0'),
        ('"kind": "plan"', '"kind": "x"'),
        ('"artifacts"', '"files"'),
    ],
)
def test_a_changed_version_1_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = (V1 / MANIFEST).read_text()
    assert old in text
    (tmp_path / MANIFEST).write_text(text.replace(old, new, 1))
    with pytest.raises(IntegrityError, match=r"changed by hand|is not a manifest"):
        Bundle.open(tmp_path)


def test_names_are_plain() -> None:
    assert graph_file(Precision.INT8, cpu=True) == "model.int8-cpu.onnx"
    assert slug("onnxruntime:int8,simulate") == "onnxruntime-int8-simulate" and slug("é/..") == "model"
