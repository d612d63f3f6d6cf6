"""Generated repositories on a real Triton server: what it loads, answers, batches, refuses and reloads."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import resnet_deploy as rd
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.data.preprocessing import Transform
from resnet_deploy.pipeline.compare_answers import REFERENCE
from resnet_deploy.serving.triton.model_config import SCHEMA, new_config, read_config, to_text
from tests.helpers.cpu import EXACT_INT8
from tests.helpers.paths import ROOT
from tests.helpers.triton import PROBABILITIES, Triton, example, with_tensorrt

pytestmark = pytest.mark.slow

# The model's name in the repository, its bundle, and what ONNX Runtime runs for it.
MODELS = [
    ("digits", "digits", "onnxruntime"), ("digits-fp16", "digits", "onnxruntime:fp16"),
    ("digits-int8", "digits", "onnxruntime:int8"), ("topk", "topk", "onnxruntime"), ("features", "features", "onnxruntime"),
    ("embedding", "embedding", "onnxruntime"), ("half", "embedding", "onnxruntime:fp16"),
    ("probabilities", "probabilities", "onnxruntime"),
]  # fmt: skip


def images_of(bundle: Bundle, count: int, dtype: str | None = None) -> NDArray[Any]:
    opened = OpenedBundle(bundle)
    made = np.stack([opened.data(f"random:{count}").read(number) for number in range(count)])
    return made if dtype is None else made.astype(dtype)


def answers_of(bundle: Bundle, candidate: str, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    with OpenedBundle(bundle).backend(Candidate.parse(candidate), 1) as backend:
        return dict(backend.infer(images))


def same(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]], atol: float = 1e-5) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        np.testing.assert_allclose(found[name], value, atol=atol, rtol=1e-4, err_msg=name)


def photo(kind: str = "JPEG", size: tuple[int, int] = (80, 57), mode: str = "RGB", seed: int = 0) -> bytes:
    """An image file with something in it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def blank(width: int, height: int) -> bytes:
    """A PNG file of one bit a pixel, which is made at once whatever its size."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def prepared(bundle: Bundle, files: list[bytes]) -> NDArray[Any]:
    """By this package's own preprocessing."""
    opened = OpenedBundle(bundle)
    transform = Transform(preprocessing=opened.preprocessing, input_format=opened.description.input_format)
    return np.stack([transform(Image.open(io.BytesIO(data))) for data in files])


def test_everything_is_ready_and_configured_as_it_was_written(triton: Triton, repository: Path) -> None:
    triton.get("health/ready")
    states = {model["name"]: model for model in triton.get("repository/index", {})}
    names = {folder.name for folder in repository.iterdir() if folder.is_dir()}
    assert set(states) == names and {state["state"] for state in states.values()} == {"READY"}
    for name in names:
        ours, theirs = read_config(repository / name / "config.pbtxt"), triton.get(f"models/{name}/config")
        assert [theirs["name"], theirs["max_batch_size"]] == [ours.name, ours.max_batch_size]
        for mine, its in zip([*ours.input, *ours.output], [*theirs["input"], *theirs["output"]], strict=True):
            assert mine.name == its["name"] and list(mine.dims) == list(map(int, its["dims"]))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(("name", "bundle", "candidate"), MODELS, ids=[model[0] for model in MODELS])
def test_answers_are_those_of_onnx_runtime(
    triton: Triton, bundles: dict[str, Bundle], name: str, bundle: str, candidate: str, protocol: str
) -> None:
    images = images_of(bundles[bundle], 3, "float16" if name == "half" else None)
    found = triton.ask(name, protocol, input=images)
    assert found.error is None, found.error
    same(found.arrays, answers_of(bundles[bundle], candidate, images))


@pytest.mark.skipif(not EXACT_INT8, reason="this processor's INT8 kernels saturate: it has no VNNI")
def test_int8_is_near_fp32_on_what_triton_lets_us_set(bundles: dict[str, Bundle]) -> None:
    """Triton's ONNX Runtime backend cannot switch one optimizer off: the graphs have to be right with all of them on."""
    images = np.concatenate([batch.images for batch in OpenedBundle(bundles["digits"]).data("digits", limit=32).batches(8)])
    expected = answers_of(bundles["digits"], "onnxruntime", images)["logits"]
    import onnxruntime as ort

    for name in ("model.int8-cpu.onnx", "model.int8.onnx"):  # FP32 and FP16 scales
        session = ort.InferenceSession(str(bundles["digits"].artifact(name)), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"input": images})
        cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosine.min() > 0.99, name


def test_labels_come_with_the_classes(triton: Triton, bundles: dict[str, Bundle]) -> None:
    images = images_of(bundles["digits"], 2)
    logits = answers_of(bundles["digits"], "onnxruntime", images)["logits"]
    for row, scores in zip(triton.ask("digits", classes=2, input=images).arrays["logits"], logits, strict=True):
        score, index, label = row[0].decode().split(":")
        assert int(index) == scores.argmax() == int(label) and float(score) == pytest.approx(scores.max(), abs=1e-4)


def test_dynamic_batches_are_formed(triton: Triton, bundles: dict[str, Bundle]) -> None:
    def counts() -> tuple[int, int, set[int]]:
        (stats,) = triton.get("models/digits/versions/1/stats")["model_stats"]
        return stats["inference_count"], stats["execution_count"], {entry["batch_size"] for entry in stats["batch_stats"]}

    images = images_of(bundles["digits"], 8)
    before = counts()
    with triton.load("digits", 8, {"input": images}, requests=16) as client:
        said = [json.loads(line) for line in client.stdout or ()]
    after = counts()
    assert said[-1] == {"requests": 128, "failed": []}
    assert after[0] - before[0] == 128 and after[1] - before[1] < 128, "several requests an inference"
    assert max(after[2]) > 3 and max(after[2]) <= 8


def test_equal_requests_are_answered_from_the_cache_where_that_was_asked_for(
    triton: Triton, bundles: dict[str, Bundle]
) -> None:
    images = images_of(bundles["digits"], 5)
    first, second = (triton.ask("digits-int8", input=images).arrays for _ in range(2))
    same(second, first)
    (stats,) = triton.get("models/digits-int8/stats")["model_stats"]
    assert stats["inference_stats"]["cache_hit"]["count"] >= 1
    (stats,) = triton.get("models/digits-fp16/stats")["model_stats"]
    assert stats["inference_stats"]["cache_hit"]["count"] == 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_bad_requests_are_refused(triton: Triton, bundles: dict[str, Bundle], protocol: str) -> None:
    images = images_of(bundles["digits"], 9)
    for bad, words in (
        ({"input": images[:1, :31]}, "unexpected shape"),
        ({"input": images[:1].astype(np.float32)}, "data-type"),
        ({"input": images}, "batch-size must be <= 8"),
        ({"pixels": images[:1]}, "pixels"),
    ):
        error = triton.ask("digits", protocol, **bad).error
        assert error is not None and words in error, error
    assert triton.ask("digits", protocol, input=images[:8]).error is None, "and it still answers"


@pytest.mark.parametrize("name", ["digits", "topk", "embedding", "half", "probabilities"])
def test_image_files_are_prepared_as_everywhere_else(triton: Triton, bundles: dict[str, Bundle], name: str) -> None:
    """uint8 and float inputs; what comes out is eager's answer to this package's own preprocessing, and the best classes."""
    bundle, candidate = bundles["embedding" if name == "half" else name], REFERENCE
    files = [photo(), photo("JPEG", (33, 130), seed=1), photo("GIF", seed=2), photo("JPEG", mode="CMYK", seed=3)]
    images = prepared(bundle, files)
    if name == "half":  # float16 in and out
        images, candidate = images.astype(np.float16), Candidate.parse("onnxruntime:fp16")
    found = triton.ask(f"{name}_jpeg", files=files).arrays
    np.testing.assert_array_equal(triton.ask(f"{name}_decode", image=_bytes(files)).arrays["pixels"], images)
    expected = answers_of(bundle, str(candidate), images)
    if name == "digits":
        powers = np.exp(expected["logits"] - expected["logits"].max(1, keepdims=True))
        expected = {"probabilities": powers / powers.sum(1, keepdims=True)}
    if "probabilities" in expected:
        count = 2 if name == "probabilities" else 5
        order = np.argsort(-expected["probabilities"], axis=1, kind="stable")[:, :count]
        expected["topk_values"] = np.take_along_axis(expected["probabilities"], order, 1)
        expected["topk_indices"] = order.astype(np.int64)
    if name == "digits":
        assert (found.pop("topk_labels").astype(str).astype(int) == expected["topk_indices"]).all()
    same(found, expected, atol=1e-4)


def _bytes(files: list[bytes]) -> NDArray[Any]:
    return np.array(files, np.bytes_).reshape(-1, 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not an image", "not an image that can be read (JPEG, PNG"),
        (photo()[:-200], "truncated"),
        (photo("EPS"), "not an image that can be read (JPEG, PNG"),
        (blank(12_000, 9_000), "more than 100 megapixels"),
        (blank(1, 60_000), "more than 100 megapixels"),  # a sliver, which grows when its short edge does
    ],
    ids=["text", "truncated", "PostScript", "108 megapixels", "sliver"],
)
def test_an_image_that_cannot_be_used_fails_its_request_alone(triton: Triton, data: bytes, words: str) -> None:
    error = triton.ask("probabilities_jpeg", files=[photo(), data]).error
    assert error is not None and "[400]" in error and "image 1 cannot be used: " in error and words in error
    found = triton.ask("probabilities_jpeg", files=[photo(), photo("PNG", (1, 1))])
    assert found.error is None and found.arrays["topk_indices"].shape == (2, 2), "one pixel is enough"


def test_unload_and_load_again(triton: Triton, bundles: dict[str, Bundle]) -> None:
    images = images_of(bundles["features"], 1)
    triton.get("repository/models/features/unload", {})
    triton.server.wait_for("successfully unloaded 'features'")
    with pytest.raises(AssertionError, match="features"):
        triton.get("models/features/versions/1/stats")
    triton.get("repository/models/features/load", {})
    assert triton.ask("features", input=images).error is None


def retrained(target: Path) -> Bundle:
    """The network of `probabilities` with other weights: what a version is for."""
    network = rd.create_model("resnet_cifar:8")
    torch.nn.init.normal_(network.fc.weight, generator=torch.Generator().manual_seed(1))
    weights = target.with_suffix(".pth")
    torch.save(network.state_dict(), weights)
    return rd.export("resnet_cifar:8", target, weights=weights, **PROBABILITIES)


def test_a_new_version_is_loaded_under_load_without_a_failed_request(
    server_folder: Path, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    """A server that polls meets each model and version whole, while requests go on: to the old one, then to the new one."""
    repository, old = tmp_path / "models", bundles["probabilities"]
    new = retrained(tmp_path / "retrained")
    images = images_of(old, 4)
    expected = {
        f"expected.{version}": answers_of(bundle, "onnxruntime", images)["probabilities"]
        for version, bundle in (("1", old), ("2", new))
    }
    assert not np.allclose(expected["expected.1"], expected["expected.2"], atol=0.01)
    rd.write_triton(old, repository, name="net", warm_up=True)
    polling = ["--model-control-mode=poll", "--repository-poll-secs=1", "--disable-auto-complete-config", "--log-verbose=1"]
    with example.serve(repository, *polling, folder=server_folder) as server:
        triton = Triton(server=server, python=server_folder / "env" / "bin" / "python", scratch=tmp_path)
        assert [line for line in server.log if "running warmup sample 'batch_4'" in line]
        with triton.load("net", 3, {"input": images, **expected}) as client:
            assert client.stdout is not None and client.stdin is not None
            assert json.loads(client.stdout.readline()) == {"version": "1"}
            added = rd.write_triton(new, repository, name="net", ensemble="jpeg")
            assert [(model.name, model.version) for model in added.models] == [
                ("net", 2), ("net_decode", 1), ("net_classify", 1), ("net_jpeg", 1),
            ]  # fmt: skip
            assert json.loads(client.stdout.readline()) == {"version": "2"}
            server.wait_for("successfully loaded 'net_jpeg'")
            client.stdin.close()
            (last,) = [json.loads(line) for line in client.stdout]
        assert last["failed"] == [] and last["requests"] > 10
        assert triton.ask("net_jpeg", files=[photo()]).error is None
        wrong = [line for line in server.log if "Poll failed" in line or "failed to load" in line]
        assert not wrong, wrong
    assert not list(repository.rglob("*.pyc")), "a file more would be a change, and the model be loaded again"


def test_plans_pass_the_strict_checker_up_to_the_missing_backend(
    server_folder: Path, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    """No GPU and no TensorRT backend is here: a configuration that is right ends there, a wrong one long before."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")
    bundle = Bundle.open(shutil.copytree(bundles["digits"].path, tmp_path / "bundle"))
    rd.build(bundle, precision="fp32,int8", batch=("1", "1:4:8"), flavour="tensorrt-rtx", compute_capability="sm86,sm89")
    with_tensorrt(bundle, "NVIDIA L4", "8.9")
    with_tensorrt(bundle, "NVIDIA A10", "8.6")
    repository = tmp_path / "models"
    rd.write_triton(bundle, repository, name="rtx", platform="tensorrt", precision="int8", flavour="tensorrt-rtx")
    rd.write_triton(bundle, repository, name="two-gpus", platform="tensorrt", release="26.08", response_cache=True)
    rd.write_triton(bundle, repository, name="plain", platform="tensorrt", release="26.08", cuda_graphs=False, instances=1,
              version_policy="specific:1", max_batch=4, warm_up=False)  # fmt: skip
    wrong = read_config(repository / "rtx" / "config.pbtxt")
    wrong.name = "wrong"
    wrong.dynamic_batching.preferred_batch_size.append(9)
    (repository / "wrong" / "1").mkdir(parents=True)
    (repository / "wrong" / "config.pbtxt").write_text(to_text(wrong))
    names = ("rtx", "two-gpus", "plain", "wrong")
    server = example.Server(repository, "--model-control-mode=explicit", "--disable-auto-complete-config",
                            *(f"--load-model={name}" for name in names), folder=server_folder)  # fmt: skip
    server.wait()
    server.wait_for("creating server")
    for name in names[:-1]:
        reasons = [line for line in server.log if f"failed to load '{name}' version 1" in line]
        assert reasons and "unable to find backend library for backend 'tensorrt'" in reasons[0], server.log
    assert [line for line in server.log if "Poll failed for model directory 'wrong'" in line and "preferred" in line]
    assert len([line for line in server.log if "Poll failed" in line]) == 1


def test_the_schema_is_tritonclients_own(server_folder: Path) -> None:
    code = (
        "import sys; from tritonclient.grpc import model_config_pb2 as m; sys.stdout.buffer.write(m.DESCRIPTOR.serialized_pb)"
    )
    theirs = subprocess.run([server_folder / "env" / "bin" / "python", "-c", code], capture_output=True, check=True).stdout
    assert SCHEMA.read_bytes() == theirs
    assert new_config(name="a").name == "a"


def test_the_example_client(triton: Triton, tmp_path: Path) -> None:
    """What the README shows, word for word."""
    (tmp_path / "seven.png").write_bytes(photo("PNG"))
    command = [triton.python, ROOT / "examples" / "triton" / "client.py", triton.server.http, "digits_jpeg", "seven.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    name, *best = done.stdout.split()
    assert name == "seven.png" and len(best) == 10 and float(best[1].rstrip("%")) <= 100


def test_a_port_in_use_is_said(server_folder: Path, triton: Triton, repository: Path) -> None:
    taken = int(triton.server.http.split(":")[1]), int(triton.server.grpc.split(":")[1])
    server = example.Server(repository, "--model-control-mode=explicit", folder=server_folder, ports=taken)
    with pytest.raises(example.ServerError, match=r"failed to start .* service|in use"):
        server.wait_until_listening()
    server.stop()
