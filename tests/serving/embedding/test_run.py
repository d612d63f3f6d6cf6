"""`embed`: the answers, their order and columns, and what is done only once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.cli import main
from resnet_deploy.errors import DataError, DeployError, OutputError, UsageError
from resnet_deploy.serving.embedding.job import EmbedOptions
from resnet_deploy.serving.embedding.tables import Answers, check_outputs
from resnet_deploy.specs import TensorSpec
from tests.helpers.embedding import answers, column, photograph, photographs
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported

pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("images"), 45)


@pytest.fixture(scope="module")
def topk() -> Bundle:
    """Normalized floats in, three classes out."""
    return exported("resnet20", weights=DIGITS, head="topk:3", max_batch=4)


def files(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.rglob("*.jpg"))]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["embed", *(str(arg) for arg in args)])


def test_answers_are_the_models_in_the_images_order(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    found = rd.embed(digits_bundle, images, tmp_path / "out.parquet", batch=8, threads=1)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["path", "logits"] and table["path"].to_pylist() == files(images)
    assert str(table.schema.field("logits").type) == "fixed_size_list<element: float>[10]"
    assert np.array_equal(column(table, "logits"), answers(digits_bundle, files(images), batch=8)["logits"])
    eager = answers(digits_bundle, files(images), "eager")["logits"]
    np.testing.assert_allclose(column(table, "logits"), eager, atol=1e-4)
    assert (found.images, found.bad, found.before, found.bad_table) == (45, 0, 0, None)
    assert found.columns == {"path": "string", "logits": "float32 [10]"}
    assert found.runtime["providers"] == ["CPUExecutionProvider"]
    assert names(tmp_path) == [".out.parquet.lock", "out.parquet"]


def test_the_result_is_the_same_whatever_the_workers_and_the_batch(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    made = {}
    for name, options in {"a": {}, "b": {"workers": 1}, "c": {"workers": 5, "checkpoint": 0.0}, "d": {"batch": 3}}.items():
        rd.embed(digits_bundle, images, tmp_path / f"{name}.parquet", **{"batch": 8, "threads": 1, **options})
        made[name] = (tmp_path / f"{name}.parquet").read_bytes()
    assert made["a"] == made["b"] == made["c"], "the file's bytes depend on how it was made"
    tables = [pq.read_table(tmp_path / f"{name}.parquet") for name in "ad"]
    assert tables[0]["path"] == tables[1]["path"]
    np.testing.assert_allclose(column(tables[0], "logits"), column(tables[1], "logits"), atol=1e-5)


def test_topk(topk: Bundle, images: Path, tmp_path: Path) -> None:
    found = rd.embed(topk, images, tmp_path / "out.parquet", batch=4)
    table, expected = pq.read_table(tmp_path / "out.parquet"), answers(topk, files(images), batch=4)
    assert np.array_equal(column(table, "topk_indices"), expected["topk_indices"])
    np.testing.assert_allclose(column(table, "topk_values"), expected["topk_values"], atol=1e-6)
    assert found.columns["topk_indices"] == "int64 [3]" and found.columns["topk_values"] == "float32 [3]"
    for name, kind in found.columns.items():
        assert name in table.column_names and name in {"path", "topk_values", "topk_indices", "topk_labels"}, kind


def test_class_names_are_a_column() -> None:
    outputs = [
        TensorSpec(name="topk_values", dtype="float16", shape=("batch", 2)),
        TensorSpec(name="topk_indices", dtype="int64", shape=("batch", 2)),
    ]
    collected = Answers(outputs, ["ant", "bee", "cat"])
    values = np.array([[0.75, 0.25], [0.5, 0.5], [np.nan, 0]], np.float16)
    bad = collected.add(
        7, [b"x", b"y", b"z"], [None, "broken", None], {"topk_values": values, "topk_indices": np.array([[2, 0]] * 3)}
    )
    assert bad == (b"y", "broken")
    ((start, table),) = collected.tables()
    assert start == 7 and table["topk_labels"].to_pylist() == [["cat", "ant"], None, None]
    assert table["topk_values"].to_pylist() == [[0.75, 0.25], None, None]
    assert table["reason"].to_pylist() == [None, "broken", "the model answers NaN or Inf"]


def test_answers_that_come_in_any_order_become_ranges() -> None:
    collected = Answers([TensorSpec(name="e", dtype="float32", shape=("batch", 1))], None)
    for start in (6, 2, 4, 10):
        collected.add(start, [b"a", b"b"], [None, None], {"e": np.array([[start], [start + 1]], np.float32)})
    assert [(start, column(table, "e").ravel().tolist()) for start, table in collected.tables()] == [
        (2, [2, 3, 4, 5, 6, 7]),
        (10, [10, 11]),
    ]


def test_maps_are_refused() -> None:
    with pytest.raises(UsageError, match=r"maps, not a vector an image. Export it with --head embedding"):
        check_outputs([TensorSpec(name="features_c2", dtype="float32", shape=("batch", 64, 8, 8))])


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_backends(digits_bundle: Bundle, images: Path, tmp_path: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    rd.embed(digits_bundle, images, tmp_path / "out.parquet", backend=backend, threads=1)
    expected = answers(digits_bundle, files(images), "eager")["logits"]
    np.testing.assert_allclose(column(pq.read_table(tmp_path / "out.parquet"), "logits"), expected, atol=1e-4)


def test_precision_is_the_backends() -> None:
    assert str(EmbedOptions(backend="onnxruntime:cuda", precision="fp16").candidate) == "onnxruntime:cuda,fp16"
    assert str(EmbedOptions(backend="openvino:int8", precision="int8").candidate) == "openvino:int8"
    with pytest.raises(UsageError, match="more than one"):
        EmbedOptions(backend="openvino:int8", precision="fp16")
    with pytest.raises(UsageError, match="no option 'int4'"):
        EmbedOptions(precision="int4")


# What the command prints, and what is done only once.


def test_the_command(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    first = run(digits_bundle.path, images, "-o", output)
    assert first.exit_code == 0, first.stderr
    assert (
        f"{output}: 45 of 45 images, onnxruntime" in first.stdout and "columns path string, logits float32 [10]" in first.stdout
    )
    state = output.stat()
    second = run(digits_bundle.path, images, "-o", output, "--batch", "2", "--json")
    found = json.loads(second.stdout)
    assert found["before"] == found["images"] == 45 and found["runtime"] == {}
    assert output.stat().st_mtime_ns == state.st_mtime_ns and output.stat().st_ino == state.st_ino
    assert "complete before this run" in run(digits_bundle.path, images, "-o", output).stdout


def test_another_request_is_an_error_and_overwrite_starts_anew(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    rd.embed(digits_bundle, images, output)
    before = output.read_bytes()
    for args, said in (
        ((images, "--backend", "eager"), "backend onnxruntime then, eager now"),
        ((images / "000",), "images count 45 then, 10 now"),
        ((images, "--max-megapixels", "1"), "preprocessing max_pixels 100000000 then, 1000000 now"),
    ):
        done = run(digits_bundle.path, *args, "-o", output)
        assert done.exit_code == 2 and said in done.stderr and "--overwrite" in done.stderr, done.stderr
        assert output.read_bytes() == before
    assert run(digits_bundle.path, images / "000", "-o", output, "--overwrite").exit_code == 0
    assert pq.read_metadata(output).num_rows == 10


def test_a_changed_image_is_another_request(digits_bundle: Bundle, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "images", 3)
    rd.embed(digits_bundle, folder, tmp_path / "out.parquet")
    photograph(99, 50, 50).save(folder / "000" / "00001.jpg")
    with pytest.raises(OutputError, match=r"images sha256 \w{16} then, \w{16} now"):
        rd.embed(digits_bundle, folder, tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"mine", "is no output of `embed`; --overwrite replaces it"), (None, "schema version 99, this resnet-deploy reads 2")],
)
def test_what_is_in_the_way(digits_bundle: Bundle, images: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    output = tmp_path / "out.parquet"
    if content is not None:
        output.write_bytes(content)
    else:
        (tmp_path / "out.parquet.parts").mkdir()
        (tmp_path / "out.parquet.parts" / "request.json").write_text('{"schema_version": 99}')
    with pytest.raises(OutputError, match=message):
        rd.embed(digits_bundle, images, output)
    assert rd.embed(digits_bundle, images, output, overwrite=True).images == 45


def test_a_newer_bundle_is_refused(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_bundle.path, tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    done = run(tmp_path / "b", images, "-o", tmp_path / "out.parquet")
    assert done.exit_code == 2 and "has schema version 99, this resnet-deploy reads 2" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("out.csv",), "embeddings are written as Parquet"),
        (("none/out.parquet",), "is no folder; make it first"),
        (("out.parquet", "--backend", "onnxruntime:int8"), "has no model.int8-cpu.onnx"),
        (("out.parquet", "--backend", "coreml"), "unknown backend"),
        (("out.parquet", "--ray-address", "h:1"), "--ray-address needs --ray"),
        (("out.parquet", "--ray", "--workers", "2"), "for a run on this machine"),
        (("out.parquet", "--max-megapixels", "0"), "must be a number above 0"),
        (("out.parquet", "--checkpoint", "fast"), "is not a time"),
    ],
)
def test_usage(digits_bundle: Bundle, images: Path, tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    done = run(digits_bundle.path, images, "-o", tmp_path / args[0], *args[1:])
    assert done.exit_code == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("*.parquet*"))


def test_two_at_once(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    def meddle(what: str, done: int, total: int | None) -> None:
        if what == "embed" and done == 0:
            with pytest.raises(OutputError, match=r"another process is writing .*out.parquet; wait for it to end"):
                rd.embed(digits_bundle, images, tmp_path / "out.parquet")
            said.append(what)

    said: list[str] = []
    rd.embed(digits_bundle, images, tmp_path / "out.parquet", progress=meddle)
    assert said == ["embed"] and pq.read_metadata(tmp_path / "out.parquet").num_rows == 45


def test_progress(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    told: list[Any] = []
    rd.embed(digits_bundle, images, tmp_path / "out.parquet", batch=8, progress=lambda *step: told.append(step))
    assert [step for step in told if step[0] == "embed"] == [("embed", done, 45) for done in (0, 8, 16, 24, 32, 40, 45)]


# Bad images.


def test_bad_images_are_listed(digits_bundle: Bundle, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "images", 12)
    (folder / "000" / "00003.jpg").write_bytes(b"no image")
    (folder / "001" / "00011.jpg").write_bytes((folder / "001" / "00010.jpg").read_bytes()[:700])
    output = tmp_path / "out.parquet"
    done = run(digits_bundle.path, folder, "-o", output)
    assert done.exit_code == 0 and "Warning: 2 of 12 images are bad, see" in done.stderr, done.stderr
    table, good = pq.read_table(output), [path for path in files(folder) if not path.endswith(("03.jpg", "11.jpg"))]
    assert table["path"].to_pylist() == good and table["logits"].null_count == 0
    np.testing.assert_allclose(column(table, "logits"), answers(digits_bundle, good)["logits"], atol=1e-5)
    lines = (tmp_path / "out.bad.csv").read_text().splitlines()
    assert lines[0] == "path,reason" and lines[1].startswith(f'{folder}/000/00003.jpg,"not an image that can be read')
    assert lines[2].startswith(f"{folder}/001/00011.jpg,image file is truncated") and len(lines) == 3
    again = run(digits_bundle.path, folder, "-o", output, "--strict")
    assert again.exit_code == 2 and "00003.jpg: not an image that can be read (JPEG" in again.stderr


def test_strict_stops_and_goes_on_without(digits_bundle: Bundle, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "images", 30)
    (folder / "002" / "00025.jpg").write_bytes(b"")
    done = run(digits_bundle.path, folder, "-o", tmp_path / "out.parquet", "--strict", "--batch", "4")
    assert done.exit_code == 2 and "00025.jpg: an empty file. Remove it" in done.stderr
    assert not (tmp_path / "out.parquet").exists()
    assert "00025.jpg: an empty file" in run(digits_bundle.path, folder, "-o", tmp_path / "out.parquet", "--strict").stderr
    found = rd.embed(digits_bundle, folder, tmp_path / "out.parquet")
    assert (found.images, found.bad, found.before) == (30, 1, 28), "what was done before is kept"


def test_no_good_image_at_all(digits_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("gone.jpg\nalso gone.jpg\n")
    with pytest.raises(DataError, match=r"none of the 2 images can be embedded, see .*out.bad.csv; gone.jpg: No such file"):
        rd.embed(digits_bundle, tmp_path / "list.txt", tmp_path / "out.parquet")
    assert names(tmp_path) == [".out.parquet.lock", "list.txt", "out.bad.csv"]


def test_without_pyarrow(digits_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DeployError, match=r'pip install "resnet-deploy\[parquet\]"') as error:
        rd.embed(digits_bundle, images, tmp_path / "out.parquet")
    assert error.value.exit_code == 3
