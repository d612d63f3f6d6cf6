"""The C++ program with ONNX Runtime, against Python on the same files; and everything that it refuses."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle import codec
from resnet_deploy.bundle.names import FP32, MANIFEST
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.serving.cpp.write import list_sources
from tests.helpers.cpp import (
    PIXELS,
    TENSORRT_SOURCES,
    Edit,
    answers,
    build,
    changed,
    classify,
    compare,
    expected,
    lint,
    ppm,
    run,
)
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_logits_equal_pythons(program: Path, digits_bundle: Bundle, images: list[str], batch: int) -> None:
    """uint8 pixels in, of every batch size, the last batch being smaller."""
    found = answers(program, digits_bundle.path, images, "--batch", str(batch), "--top", "3", "--contexts", "2")
    wanted = expected(digits_bundle)
    compare(found, wanted)
    names = digits_bundle.manifest.model.class_names
    for answer, logits in zip(found, wanted["logits"], strict=True):
        assert [best["class"] for best in answer["top"]] == np.argsort(-logits, kind="stable")[:3].tolist()
        assert [best["label"] for best in answer["top"]] == [names[best["class"]] for best in answer["top"]]


HEADS: list[tuple[str, dict[str, Any]]] = [(head, {"input": "float"}) for head in ("probabilities", "features", "topk:3")]


@pytest.mark.parametrize(("head", "options"), [*HEADS, ("embedding", {"input": "uint8", "l2_normalize": True})])
def test_every_head_and_float_input(program: Path, images: list[str], head: str, options: dict[str, Any]) -> None:
    """float input: normalized in C++ as in Python. There are no labels, and classes have none."""
    bundle = exported("resnet_cifar:8", head=head, max_batch=2, num_classes=7, **options)
    found = answers(program, bundle.path, images, "--batch", "2")
    compare(found, expected(bundle))
    if head.startswith(("topk", "prob")):
        assert all(len(answer["top"]) == (3 if head == "topk:3" else 5) for answer in found)
        assert {best["label"] for answer in found for best in answer["top"]} == {None}
    assert len(run(program, bundle.path, *images).stdout.splitlines()) == 5


LOWER = {"fp16": {"native_io": True}, "int8": {"int8_target": "cpu", "calibration": "digits:train", "calibration_images": 16}}


@pytest.mark.parametrize("precision", LOWER)
def test_lower_precision(program: Path, images: list[str], precision: str) -> None:
    """FP16 inputs and outputs are converted in C++; INT8 runs the graph that is for CPUs."""
    bundle = exported("resnet20", weights=DIGITS, max_batch=2, precision=precision, **LOWER[precision])
    compare(answers(program, bundle.path, images, "--precision", precision), expected(bundle, f"onnxruntime:{precision}"))


def test_raw_pixels_standard_input_and_a_file(program: Path, digits_bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    raw = [tmp_path / "a.rgb", tmp_path / "b.raw"]
    for path, pixels in zip(raw, PIXELS, strict=False):
        path.write_bytes(pixels.tobytes())
    wanted = [answer["outputs"] for answer in answers(program, digits_bundle.path, images)]
    assert [answer["outputs"] for answer in answers(program, digits_bundle.path, [str(path) for path in raw])] == wanted[:2]
    with Path(images[2]).open("rb") as file:
        done = run(program, digits_bundle.path, "-", "--json", "-o", tmp_path / "out.jsonl", stdin=file)
    assert done.stdout == "" and json.loads((tmp_path / "out.jsonl").read_text())["outputs"] == wanted[2]
    commented = ppm(PIXELS[0], "P6 # made by\n# hand 5\n32\t32\r\n255\n")
    (tmp_path / "commented.ppm").write_bytes(commented)
    assert answers(program, digits_bundle.path, [str(tmp_path / "commented.ppm")])[0]["outputs"] == wanted[0]


def test_text_help_and_latency(program: Path, digits_bundle: Bundle, images: list[str]) -> None:
    assert "Usage: classify" in run(program, "--help").stdout
    lines = run(program, digits_bundle.path, images[0], "--top", "2", "--repeat", "20").stdout.splitlines()
    assert lines[0].startswith(f"{images[0]}: ") and lines[0].count(",") == 1
    assert "model.fp32.onnx of resnet20 on onnxruntime" in lines[1] and "20 inferences, p50" in lines[1]
    summary = answers(program, digits_bundle.path, images[:2], "--repeat", "3", "--contexts", "2")[-1]
    assert len(summary["latency_s"]) == 6 and min(summary["latency_s"]) > 0 and summary["contexts"] == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (ppm(PIXELS[0])[:-1], "3071 bytes of pixels; expected 3072"),
        (ppm(PIXELS[0]) + b"\0", "more than the 3072 bytes"),
        (ppm(PIXELS[0, :16]), "is 32x16, the model takes 32x32"),
        (ppm(PIXELS[0], "P6\n4294967328 32\n255\n"), "not a PPM file"),
        (ppm(PIXELS[0], "P6\n-32 32\n255\n"), "not a PPM file"),
        (ppm(PIXELS[0], "P6\n32 32\n65535\n"), "values to 65535; expected 8 bits"),
        (ppm(PIXELS[0], "P5\n32 32\n255\n"), "is a P5 file; expected binary RGB, P6"),
        (b"\x89PNG\r\n\x1a\n", "is not a PPM file; expected binary RGB, P6"),
        (b"P6", "not a PPM file"),
        (b"P6 # no end", "not a PPM file"),
        (b"", "not a PPM file"),
    ],
)
def test_images_that_cannot_be_used(
    program: Path, digits_bundle: Bundle, images: list[str], tmp_path: Path, content: bytes, said: str
) -> None:
    """Nothing is written, not even of the images that can be used."""
    (tmp_path / "bad.ppm").write_bytes(content)
    done = run(program, digits_bundle.path, images[0], tmp_path / "bad.ppm", "-o", tmp_path / "out", code=2)
    assert done.stderr.startswith("Error: ") and said in done.stderr and "bad.ppm" in done.stderr and done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ppm"]


def test_raw_pixels_of_another_size(program: Path, digits_bundle: Bundle, tmp_path: Path) -> None:
    for content, said in (
        (PIXELS[0].tobytes()[:-3], "has 3069 bytes of pixels; expected 3072"),
        (PIXELS.tobytes(), "more than the 3072"),
    ):
        (tmp_path / "a.rgb").write_bytes(content)
        assert said in run(program, digits_bundle.path, tmp_path / "a.rgb", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a bundle and at least one image"),
        (["BUNDLE"], "a bundle and at least one image"),
        (["BUNDLE", "nowhere.ppm"], "cannot read nowhere.ppm: No such file"),
        (["BUNDLE", "/"], "/ is a folder"),
        (["BUNDLE", *["IMAGE"] * 9, "--batch", "9"], "a batch is 1 to 8 images"),
        (["BUNDLE", "IMAGE", "--batch", "0"], "from 1 to"),
        (["BUNDLE", "IMAGE", "--top", "1x"], "found 1x"),
        (["BUNDLE", "IMAGE", "--top"], "--top needs a value"),
        (["BUNDLE", "-", "--repeat", "2"], "standard input is read once"),
        (["BUNDLE", "IMAGE", "--frobnicate"], "unknown option --frobnicate"),
        (["BUNDLE", "IMAGE", "--precision", "fp64"], 'unknown precision "fp64"'),
        (["BUNDLE", "IMAGE", "--precision", "fp16"], "has no model.fp16.onnx; make it with"),
        (["nowhere", "IMAGE"], "there is no bundle at nowhere"),
        (["BUNDLE", "IMAGE", "-o", "nowhere/out"], "cannot write nowhere/out: No such file"),
        (["BUNDLE", "IMAGE", "-o", "/"], "cannot write /"),
    ],
)
def test_wrong_usage(
    program: Path, digits_bundle: Bundle, images: list[str], tmp_path: Path, arguments: list[str], said: str
) -> None:
    real = {"BUNDLE": str(digits_bundle.path), "IMAGE": images[0]}
    done = run(program, *(real.get(text, text) for text in arguments), code=2, cwd=tmp_path)
    assert said in done.stderr and not any(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk(program: Path, digits_bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    said = "No space left on device"
    assert said in run(program, digits_bundle.path, images[0], "-o", "/dev/full", code=3).stderr
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([program, digits_bundle.path, images[0]], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 3 and said in done.stderr
    (tmp_path / "out").write_text("before")  # what was there stays until all is written

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))

    done = run(program, digits_bundle.path, *images, "--json", "-o", tmp_path / "out", code=3, preexec_fn=limited)
    assert "File too large" in done.stderr and (tmp_path / "out").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m.update(schema_version=3), "has schema version 3, this program reads 2"),
        (lambda m: m.update(schema_version=10**30), "schema_version is not a whole number"),
        (lambda m: m.update(schema_version="2"), "schema_version is not a whole number"),
        (lambda m: m.pop("model"), "has no model"),
        (lambda m: m["model"].pop("input"), "has no model.input"),
        (
            lambda m: m["model"]["input"].update(shape=["batch", 64, 32, 3]),
            "takes [batch, 32, 32, 3], the manifest says [batch, 64, 32, 3]",
        ),
        (lambda m: m["model"].update(input_format="float"), "the manifest says"),
        (lambda m: m["model"].update(class_names=[1, 2]), "model.class_names[0] is not a string"),
        (lambda m: m["model"]["request"].update(max_batch=0), "is for batches to 0; expected 1 or more"),
        (lambda m: m.update(artifacts={}), "has no model.fp32.onnx"),
        (lambda m: m.update(artifacts=[]), "artifacts is not an object"),
        (lambda m: m["artifacts"]["model.fp32.onnx"].pop("sha256"), "has no artifacts.model.fp32.onnx.sha256"),
        (lambda m: m["artifacts"]["model.fp32.onnx"].update(sha256="0" * 64), "was changed after it was made"),
    ],
)  # fmt: skip
def test_manifests_that_cannot_be_used(
    program: Path, digits_bundle: Bundle, images: list[str], tmp_path: Path, edit: Edit, said: str
) -> None:
    folder = changed(digits_bundle, tmp_path / "bundle", edit)
    assert said in run(program, folder, images[0], code=2).stderr


@pytest.mark.parametrize(
    "path",
    [
        ("schema_version",), ("model",), ("artifacts", FP32, "sha256"), ("model", "architecture"), ("model", "head", "kind"),
        ("model", "request", "max_batch"), ("model", "input", "shape"), ("model", "input_format"),
    ],
    ids=".".join,
)  # fmt: skip
def test_what_the_schema_asks_for_and_the_program_reads(
    program: Path, digits_bundle: Bundle, images: list[str], tmp_path: Path, path: tuple[str, ...]
) -> None:
    """Without it, or of another type, a manifest breaks the published schema, and the program names the field."""
    schema = json.loads((Path(codec.__file__).parent / "manifest.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for number, value in enumerate((None, True)):

        def change(manifest: dict[str, Any], value: Any = value) -> None:
            *steps, name = path
            place = functools.reduce(lambda found, step: found[step], steps, manifest)
            place.pop(name) if value is None else place.update({name: value})
            optional = value is None and path in {("schema_version",), ("model", "head", "kind")}
            assert optional or [*validator.iter_errors(manifest)], "the schema lets it pass"

        folder = changed(digits_bundle, tmp_path / str(number), change)
        said = run(program, folder, images[0], code=2).stderr
        assert path[-1] in said or path[0] in said, said


def test_a_manifest_that_is_as_good(program: Path, digits_bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    """What this version does not know, and every odd string and number, changes nothing."""
    odd = {"é😀\x00\"\\/\x7f": [1e-05, 10**40, -0.0, 1e300, True, None, {}], "": {"": ""}}  # fmt: skip
    folder = changed(digits_bundle, tmp_path / "bundle", lambda manifest: manifest.update(later=odd))
    Bundle.open(folder)
    run(program, folder, images[0])
    folder = changed(digits_bundle, tmp_path / "unnamed", lambda manifest: manifest["model"].update(class_names=None))
    assert all(best["label"] is None for best in answers(program, folder, images[:1])[0]["top"])


@pytest.mark.parametrize(("head", "recorded"), [("topk:3", "logits"), ("logits", "topk")])
def test_a_head_that_the_graph_has_not(program: Path, images: list[str], tmp_path: Path, head: str, recorded: str) -> None:
    """Classes are read from outputs of the head's types, never from a null pointer."""
    bundle = exported("resnet_cifar:8", tmp_path / "bundle", head=head)
    graph = onnx.load(bundle.path / FP32)
    graph.graph.output.sort(key=lambda output: output.name)  # the indices first
    data = graph.SerializeToString()

    def edit(manifest: dict[str, Any]) -> None:
        manifest["model"]["head"]["kind"] = recorded
        manifest["artifacts"][FP32]["sha256"] = hashlib.sha256(data).hexdigest()

    folder = changed(bundle, tmp_path / "changed", edit)
    (folder / FP32).write_bytes(data)
    assert f"the head {recorded} has " in run(program, folder, images[0], code=2).stderr


@pytest.mark.parametrize("values", [{"std": [0.0, 1.0, 1.0]}, {"mean": [0.5, 1e300, 0.5]}, {"mean": [0.5]}], ids=str)
def test_normalization_that_cannot_be(program: Path, images: list[str], tmp_path: Path, values: dict[str, Any]) -> None:
    bundle = exported("resnet_cifar:8", tmp_path / "bundle", input="float")
    folder = changed(bundle, tmp_path / "changed", lambda manifest: manifest["model"]["preprocessing"].update(values))
    assert "manifest.json: mean " in run(program, folder, images[0], code=2).stderr


def test_what_was_edited_is_not_run(program: Path, digits_bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(digits_bundle.path, folder)
    graph, manifest = folder / "model.fp32.onnx", folder / MANIFEST
    original, text = graph.read_bytes(), manifest.read_text()

    def refused(said: str) -> None:
        assert said in run(program, folder, images[0], code=2).stderr

    graph.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    refused("was changed after it was made: its SHA-256 is")
    graph.write_bytes(original[:1000])
    refused("was changed after it was made")
    graph.unlink()
    refused("is gone, but the manifest names it")
    graph.mkdir()
    refused("not a file")
    graph.rmdir()
    graph.touch()
    os.truncate(graph, 2**41)  # a sparse file
    refused("has 2199023255552 bytes; expected at most")
    graph.write_bytes(original)
    manifest.write_text(text.replace("0.3053", "0.3054", 1))
    refused("was changed by hand: its digest does not match")
    manifest.write_text(text[: len(text) // 2])
    refused("cannot be read as a manifest")
    manifest.unlink()
    refused("manifest.json is not there")
    manifest.write_text(text)
    run(program, folder, images[0])


def test_a_vouched_file_that_is_no_graph(program: Path, digits_bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    for content in (b"", b"garbage", (digits_bundle.path / "model.fp32.onnx").read_bytes()[:5000]):
        digest = hashlib.sha256(content).hexdigest()
        folder = changed(
            digits_bundle, tmp_path / digest[:8], lambda m, d=digest: m["artifacts"]["model.fp32.onnx"].update(sha256=d)
        )
        (folder / "model.fp32.onnx").write_bytes(content)
        assert "ONNX Runtime cannot load" in run(program, folder, images[0], code=2).stderr


def peak_kb(program: Path, *arguments: str | Path) -> int:
    """The most memory that a run held, KiB."""
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


FOUR_THREADS = ("--contexts", "4", "--threads", "1")


def test_memory_is_flat_over_10_000_inferences_on_4_threads(program: Path, digits_bundle: Bundle, images: list[str]) -> None:
    short, long = (
        peak_kb(program, digits_bundle.path, *images, *FOUR_THREADS, "--repeat", repeat) for repeat in ("100", "2000")
    )
    assert long - short < 4096, "10,000 inferences took more than 500 did, by over 4 MiB"


def test_no_leak_and_no_undefined_behaviour(
    tmp_path_factory: pytest.TempPathFactory, digits_bundle: Bundle, images: list[str], tmp_path: Path
) -> None:
    """AddressSanitizer with LeakSanitizer and UBSan, over 10,000 inferences on 4 threads, and where things go wrong."""
    program = classify(build(tmp_path_factory, "onnxruntime", sanitize="address,undefined"))
    strict = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    run(program, digits_bundle.path, *images, *FOUR_THREADS, "--repeat", "2000", env=strict)
    run(program, digits_bundle.path, *images, "--batch", "2", "--json", "-o", tmp_path / "out", env=strict)
    (tmp_path / "short.ppm").write_bytes(ppm(PIXELS[0])[:-1])
    (tmp_path / "no.ppm").write_bytes(b"P6 # ")
    for bad in ("short.ppm", "no.ppm", "nowhere.ppm"):
        run(program, digits_bundle.path, *images, tmp_path / bad, "--contexts", "3", code=2, env=strict)
    folder = changed(digits_bundle, tmp_path / "bundle", lambda manifest: manifest["model"].update(input_format="float"))
    run(program, folder, images[0], code=2, env=strict)


def test_no_data_race(tmp_path_factory: pytest.TempPathFactory, digits_bundle: Bundle, images: list[str]) -> None:
    """ThreadSanitizer. ONNX Runtime is not instrumented: with one thread an inference it starts none of its own."""
    program = classify(build(tmp_path_factory, "onnxruntime", sanitize="thread"))
    run(program, digits_bundle.path, *images, *FOUR_THREADS, "--repeat", "200", "--batch", "2")
    run(program, digits_bundle.path, *images, "nowhere.ppm", *FOUR_THREADS, code=2)


def test_the_example_ranks_by_embeddings(ort_build: Path, tmp_path: Path) -> None:
    bundle = exported("resnet20", weights=DIGITS, input="uint8", head="embedding", max_batch=2)
    near = np.clip(PIXELS[0].astype(int) + 3, 0, 255).astype(np.uint8)
    paths = [tmp_path / f"{name}.rgb" for name in ("query", "far", "near", "other")]
    for path, pixels in zip(paths, (PIXELS[0], PIXELS[1] // 4, near, PIXELS[2]), strict=True):
        path.write_bytes(pixels.tobytes())
    nearest = ort_build / "example" / "nearest"
    lines = [line.split() for line in run(nearest, bundle.path, *paths).stdout.splitlines()]
    assert lines[0][1] == str(paths[2]) and len(lines) == 3
    with OpenedBundle(bundle).backend(Candidate.parse("onnxruntime"), threads=1) as backend:
        vectors = backend.infer(np.stack([PIXELS[0], near]))["embedding"]
    cosine = float(np.dot(vectors[0], vectors[1]) / np.prod(np.linalg.norm(vectors, axis=1)))
    assert float(lines[0][0]) == pytest.approx(cosine, abs=1e-5)
    logits = exported("resnet_cifar:8", max_batch=2).path
    assert "export it with --head embedding" in run(nearest, logits, *paths, code=2).stderr


@pytest.mark.slow
def test_clang_tidy(ort_build: Path, tmp_path: Path) -> None:
    sources = [source for source in list_sources() if source.suffix == ".cpp" and source not in TENSORRT_SOURCES]
    assert len(sources) > 7
    lint(ort_build, sources, tmp_path / "joined.cpp")


@pytest.mark.slow
def test_clang_tidy_finds_faults(ort_build: Path, tmp_path: Path) -> None:
    (tmp_path / "faulty.cpp").write_text("int read() {\n  int* nothing = nullptr;\n  return *nothing;\n}\n")
    with pytest.raises(AssertionError, match=r"clang-analyzer-core\.NullDereference"):
        lint(ort_build, [tmp_path / "faulty.cpp"], tmp_path / "joined.cpp")
