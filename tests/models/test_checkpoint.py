"""Checkpoints as training scripts write them, as servers deliver them, and as nobody should."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from resnet_deploy.errors import CheckpointError, UnavailableError, UsageError
from resnet_deploy.models import checkpoint, registry
from resnet_deploy.models.create import create_model, load_model
from resnet_deploy.models.metadata import Metadata
from resnet_deploy.specs import Preprocessing, to_dict
from tests.helpers.paths import DIGITS

ROW = registry.architecture("resnet20")
State = dict[str, Tensor]


def weights_of(name: str = "resnet20", num_classes: int | None = None, seed: int = 1) -> State:
    """Values that neither a fresh network nor any other seed has."""
    generator = torch.Generator().manual_seed(seed)
    state = create_model(name, num_classes=num_classes).state_dict()
    return {key: torch.rand(t.shape, generator=generator) if t.is_floating_point() else t + 5 for key, t in state.items()}


@pytest.fixture(scope="module")
def state() -> State:
    return weights_of()


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def assert_loads(path: Path, expected: State, **options: Any) -> None:
    loaded = load_model("resnet20", weights=path, **options).network.state_dict()
    assert list(loaded) == list(create_model("resnet20").state_dict())
    different = [key for key, tensor in expected.items() if not torch.equal(loaded[key], tensor)]
    assert not different


# What training scripts write.


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_formats(state: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert_loads(path, state)
    found = checkpoint.read_checkpoint(ROW, path)
    assert (found.source, found.sha256) == (str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    assert (found.num_classes, found.key, found.metadata) == (10, None, Metadata())
    assert checkpoint.weights_digest(ROW, str(path)) == found.sha256


def test_the_file_format_of_old_pytorch(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_loads(tmp_path / "old.pth", state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."])
def test_prefixes_of_wrappers(state: State, tmp_path: Path, prefix: str) -> None:
    torch.save(prefixed(state, prefix), tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", state)


OTHER = {"fc.weight": torch.zeros(10, 64)}  # what must not be chosen


@pytest.mark.parametrize(
    ("nest", "key"),
    [
        (lambda s: {"state_dict": s, "epoch": 90, "arch": "resnet20"}, "state_dict"),
        (lambda s: {"model": s, "optimizer": {"param_groups": [{"lr": 0.1}]}}, "model"),
        (lambda s: {"model": prefixed(OTHER, "module."), "model_ema": average(s)}, "model_ema"),
        (lambda s: {"state_dict": OTHER, "state_dict_ema": s}, "state_dict_ema"),
        (lambda s: {"model": {"state_dict": s}}, "model.state_dict"),
        (lambda s: {"model_ema": None, "model": s}, "model"),
        (lambda s: {"ema": {"decay": 0.999}, "state_dict": s}, "state_dict"),
        (lambda s: {"model": "resnet20", "net": s}, "net"),
        (lambda s: s | {"args": argparse.Namespace(lr=0.1, data=["a"]), "epoch": 3}, None),
    ],
)
def test_nesting(state: State, tmp_path: Path, nest: Callable[[State], dict[str, Any]], key: str | None) -> None:
    torch.save(nest(state), tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", state)
    assert checkpoint.read_checkpoint(ROW, tmp_path / "w.pth").key == key


def average(state: State) -> State:
    """As torch.optim.swa_utils.AveragedModel has it."""
    return {"n_averaged": torch.tensor(32)} | prefixed(state, "module.")


def test_an_averaged_model_of_pytorch_itself(tmp_path: Path) -> None:
    network = create_model("resnet20")
    averaged = torch.optim.swa_utils.AveragedModel(nn.DataParallel(network), use_buffers=True)
    torch.save({"model": weights_of(), "model_ema": averaged.state_dict()}, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", network.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(state: State, tmp_path: Path, dtype: torch.dtype) -> None:
    cast = {key: t.to(dtype) if t.is_floating_point() else t for key, t in state.items()}
    torch.save(cast, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", {key: t.float() if t.is_floating_point() else t for key, t in cast.items()})


def test_checkpoints_older_than_the_batch_counters(state: State, tmp_path: Path) -> None:
    old = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", old | {"bn1.num_batches_tracked": torch.tensor(0)})


def test_a_classifier_called_linear(state: State, tmp_path: Path) -> None:
    torch.save({key.replace("fc.", "linear."): tensor for key, tensor in state.items()}, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", state)


def test_the_number_of_classes_is_the_checkpoints(tmp_path: Path) -> None:
    torch.save(weights_of(num_classes=7), tmp_path / "w.pth")
    assert create_model("resnet20", weights=tmp_path / "w.pth").fc.out_features == 7
    assert create_model("resnet20", weights=tmp_path / "w.pth", num_classes=7).fc.out_features == 7


def test_save_and_read_give_back_weights_and_metadata(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    preprocessing = Preprocessing(resize=40, crop=36, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    names = [f"class {number}" for number in range(10)]
    strided = state | {"conv1.weight": state["conv1.weight"].contiguous(memory_format=torch.channels_last)}
    checkpoint.save(strided, path, {"preprocessing": to_dict(preprocessing), "class_names": names})
    assert_loads(path, state)
    loaded = load_model("resnet20", weights=path)
    assert (loaded.preprocessing, loaded.class_names) == (preprocessing, tuple(names))
    fresh = load_model("resnet20", weights=path, num_classes=10, new_head=True)
    assert (fresh.preprocessing, fresh.class_names) == (preprocessing, None)  # the names were the old classifier's


def test_a_saved_file_is_as_readable_as_any_other(state: State, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    checkpoint.save(state, tmp_path / "w.safetensors", {})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_digits_checkpoint() -> None:
    loaded = load_model("resnet20", weights=DIGITS)
    assert loaded.preprocessing.crop == 32 and not loaded.network.training
    assert loaded.weights == {
        "source": str(DIGITS),
        "sha256": checkpoint.weights_digest(ROW, str(DIGITS)),
        "key": None,
        "new_head": False,
    }
    assert int(loaded.network.bn1.num_batches_tracked) > 0


# New classifiers.


@pytest.mark.parametrize("num_classes", [3, 10])
def test_a_new_head_on_a_loaded_trunk(state: State, tmp_path: Path, num_classes: int) -> None:
    torch.save(state, tmp_path / "w.pth")
    network = create_model("resnet20", weights=tmp_path / "w.pth", num_classes=num_classes, new_head=True)
    loaded = network.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items() if not key.startswith("fc."))
    assert torch.equal(loaded["fc.weight"], create_model("resnet20", num_classes=num_classes).fc.weight)


def test_a_new_head_needs_its_number_of_classes(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="--num-classes N"):
        create_model("resnet20", weights=tmp_path / "w.pth", new_head=True)


def test_another_number_of_classes(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"10 classes, not 3.*--new-head"):
        create_model("resnet20", weights=tmp_path / "w.pth", num_classes=3)


def test_a_checkpoint_without_classifier(state: State, tmp_path: Path) -> None:
    torch.save({key: tensor for key, tensor in state.items() if not key.startswith("fc.")}, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"2 missing \(fc.weight, fc.bias\).*no classifier: pass --new-head with --num-classes"
    ):
        create_model("resnet20", weights=tmp_path / "w.pth")
    network = create_model("resnet20", weights=tmp_path / "w.pth", num_classes=3, new_head=True)
    assert torch.equal(network.conv1.weight, state["conv1.weight"])


# Weights that fit something else.


@pytest.mark.parametrize("num_classes", [10, 7])
def test_weights_of_another_architecture_are_recognized(tmp_path: Path, num_classes: int) -> None:
    torch.save(weights_of("resnet32", num_classes), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of resnet20: \d+ unexpected .*It fits resnet32"):
        create_model("resnet20", weights=tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: {k: t for k, t in s.items() if k != "bn1.weight"}, r"1 missing \(bn1.weight\)"),
        (lambda s: s | {"criterion.weight": torch.ones(2)}, r"1 unexpected \(criterion.weight\)"),
        (lambda s: s | {"conv1.weight": torch.ones(16, 1, 3, 3)}, r"conv1.weight is \[16, 1, 3, 3\], expected \[16, 3, 3, 3\]"),
        (lambda s: s | {"fc.weight": torch.tensor(1.0)}, r"fc.weight is \[\], expected \[10, 64\]"),
    ],
)
def test_weights_that_fit_nothing(state: State, tmp_path: Path, damage: Callable[[State], State], message: str) -> None:
    torch.save(damage(state), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        create_model("resnet20", weights=tmp_path / "w.pth")
    assert "It fits" not in str(caught.value)


# Files that are not checkpoints.


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"absent.pth does not exist; give a .pth, .pt or .safetensors file, or IMAGENET1K_V1"
    ):
        create_model("resnet20", weights=tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match=r"is a folder; give a \.pth"):
        create_model("resnet20", weights=tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.weights_digest(ROW, str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("kept", [0, 1, 3, 100, 0.1, 0.5, 0.9, 0.999, -1])
@pytest.mark.parametrize("suffix", [".pth", ".old.pth", ".safetensors"])
def test_truncated_files(state: State, tmp_path: Path, suffix: str, kept: float) -> None:
    whole = io.BytesIO()
    if suffix == ".safetensors":
        save_file(state, tmp_path / "whole")
        whole.write((tmp_path / "whole").read_bytes())
    else:
        torch.save(state, whole, _use_new_zipfile_serialization=suffix == ".pth")
    size = int(kept * len(whole.getvalue())) if isinstance(kept, float) else kept
    path = tmp_path / f"w{suffix}"
    path.write_bytes(whole.getvalue()[:size])
    with pytest.raises(CheckpointError, match=f"{path.name} (cannot be read|was refused|is not a whole)"):
        create_model("resnet20", weights=path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("seed", range(5))
def test_random_bytes(tmp_path: Path, suffix: str, seed: int) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(torch.randint(0, 256, (5000,), generator=torch.Generator().manual_seed(seed)).byte().numpy().tobytes())
    with pytest.raises(CheckpointError, match=path.name):
        create_model("resnet20", weights=path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_bytes_never_end_in_another_error(tmp_path: Path, legacy: bool) -> None:
    """Reading may survive a flipped bit in a weight; nothing but CheckpointError may come out of the rest."""
    whole = io.BytesIO()
    torch.save({"fc.weight": torch.ones(10, 4)}, whole, _use_new_zipfile_serialization=not legacy)
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole.getvalue())
        for position, value in torch.randint(0, 1 << 20, (4, 2), generator=generator).tolist():
            damaged[position % len(damaged)] = value % 256
        (tmp_path / "w.pth").write_bytes(damaged)
        try:
            checkpoint.read_checkpoint(ROW, tmp_path / "w.pth")
        except CheckpointError:
            refused += 1
    assert refused > 50


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", ["zip", "legacy", "pickle", "beside weights"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, write: str) -> None:
    target, path = tmp_path / "owned", tmp_path / "w.pth"
    message = r"was refused.*would run code.*re-save it: `model = torch.load\(.*`torch.save\(model.state_dict\(\)"
    if write == "pickle":
        path.write_bytes(pickle.dumps(Malicious(target)))
        message = "a pickle that torch.save did not write|was refused"
    else:
        content = (
            {"fc.weight": torch.ones(10, 64), "extra": Malicious(target)} if write == "beside weights" else Malicious(target)
        )
        torch.save(content, path, _use_new_zipfile_serialization=write != "legacy")
    with pytest.raises(CheckpointError, match=message):
        create_model("resnet20", weights=path)
    assert not target.exists()
    torch.load(path, weights_only=False) if write != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists()  # the attack was real


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nn.Linear(2, 2), r"was refused.*torch.nn.modules.linear.Linear.*model.state_dict\(\)"),
        ([torch.ones(2)], "holds a list, not a state dict"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
        ({"epoch": 3, "lr": 0.1}, "has no tensors; its keys are epoch, lr"),
        ({}, "has no tensors; its keys are none"),
        ({"state_dict": {}}, "has no tensors"),
    ],
    ids=["module", "list", "tensor", "no tensors", "empty", "empty nested"],
)
def test_pickles_that_are_not_weights(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        create_model("resnet20", weights=tmp_path / "w.pth")


def test_metadata_of_others_is_left_alone(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors", {"format": "pt", "author": json.dumps(["someone"])})
    assert checkpoint.read_checkpoint(ROW, tmp_path / "w.safetensors").metadata == Metadata()


# Published weights, from a real server on the loopback interface.


class Server(ThreadingHTTPServer):
    """Answers every request with `status` and `body`, or, where `raw` is set, with those bytes as they are."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.status, self.body, self.raw = 200, b"", b""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.server.raw:
            self.wfile.write(self.server.raw)
            return
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves resnet20's weights under their true name, as V1 and V2."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    file = f"resnet20-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    published = {
        "IMAGENET1K_V1": registry.PublishedWeights(file="resnet20-00000000.pth", top1_percent=90.0, resize=32),
        "IMAGENET1K_V2": registry.PublishedWeights(file=file, top1_percent=91.0, resize=40),
    }
    monkeypatch.setitem(registry.ARCHITECTURES, "resnet20", replace(ROW, weights=published))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with Server() as running:
        running.body = buffer.getvalue()
        monkeypatch.setattr(checkpoint, "WEIGHTS_URL", f"http://127.0.0.1:{running.server_port}/models/")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def cached(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "hub" / "checkpoints").iterdir())


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V2"])
def test_published_weights_are_fetched_once(server: Server, state: State, tmp_path: Path, name: str) -> None:
    for _ in range(2):
        loaded = load_model("resnet20", weights=name)
        assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.network.state_dict().items())
        assert loaded.preprocessing == replace(ROW.preprocessing, resize=40)
        assert loaded.weights["source"] == "IMAGENET1K_V2"
        assert loaded.weights["sha256"] == hashlib.sha256(server.body).hexdigest()
    file = registry.architecture("resnet20").weights["IMAGENET1K_V2"].file
    assert server.requests == [f"/models/{file}"]
    assert [path.name for path in cached(tmp_path)] == [file]
    assert checkpoint.weights_digest(registry.architecture("resnet20"), name) == file


@pytest.mark.parametrize("damage", [lambda body: body[:-1], lambda body: body[:-1] + b"?", lambda body: b""])
def test_a_damaged_download_is_not_kept(server: Server, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    whole, server.body = server.body, damage(server.body)
    with pytest.raises(CheckpointError, match=r"arrived damaged: .*Run the command again"):
        load_model("resnet20", weights="DEFAULT")
    assert cached(tmp_path) == []
    server.body = whole
    load_model("resnet20", weights="DEFAULT")


def test_a_damaged_cache_is_named(server: Server, tmp_path: Path) -> None:
    load_model("resnet20", weights="DEFAULT")
    (path,) = cached(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{path} is damaged .*delete it and run again"):
        load_model("resnet20", weights="DEFAULT")


@pytest.mark.parametrize("answer", ["down", "404", "500", "not HTTP", "broken chunks"])
def test_a_server_that_fails(server: Server, tmp_path: Path, answer: str) -> None:
    if answer == "down":
        server.server_close()
    elif answer == "not HTTP":
        server.raw = b"SSH-2.0-OpenSSH_9.6\r\n"
    elif answer == "broken chunks":
        server.raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFF\r\nshort"
    else:
        server.status = int(answer)
    with pytest.raises(UnavailableError, match=r"(?s)cannot fetch http.*--weights") as caught:
        load_model("resnet20", weights="DEFAULT")
    assert caught.value.exit_code == 3
    assert cached(tmp_path) == []
    if answer == "broken chunks":
        assert isinstance(caught.value.__cause__, IncompleteRead)


def test_a_cache_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(UnavailableError, match="cannot fetch"):
        load_model("resnet20", weights="DEFAULT")


def test_names_that_are_not_published(server: Server) -> None:
    with pytest.raises(CheckpointError, match="no weights IMAGENET1K_V3; it has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        load_model("resnet20", weights="IMAGENET1K_V3")
    with pytest.raises(CheckpointError, match="resnet32 has no published weights; give a checkpoint file"):
        load_model("resnet32", weights="DEFAULT")
    assert server.requests == []
