"""Checkpoints that claim what they do not have: each is refused with the tensor or field named, and memory stays bounded."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from resnet_deploy.errors import CheckpointError, UsageError
from resnet_deploy.models import checkpoint, registry
from resnet_deploy.models.create import load_model
from resnet_deploy.models.metadata import Metadata
from resnet_deploy.specs import Preprocessing
from tests.fuzz import checkpoints as fuzz
from tests.fuzz.checkpoints import ARCHITECTURE, rezipped, weights
from tests.helpers.paths import DIGITS

State = dict[str, Any]


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(ARCHITECTURE, weights=path, **options)
    assert str(caught.value).isprintable()


def saved(content: Any, path: Path, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def zipped(path: Path, member: str, change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A whole checkpoint with another member, its checksum right."""
    saved(dict(weights()), path)
    path.write_bytes(
        rezipped(path.read_bytes(), lambda name, data: change(data) if name.endswith(member) else data, compression)
    )
    return path


# Tensors.


def converted(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.to(dtype)


def put(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.to(dtype, copy=True)
        tensor[0] = value
        return tensor

    return change


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (converted(getattr(torch, kind)), f"fc.weight is {kind}; expected float32")
            for kind in ("int8", "uint8", "int16", "int32", "int64", "bool", "complex64", "float8_e4m3fn", "float8_e5m2")
        ),
        (Tensor.to_sparse, r"fc.weight is a tensor \(sparse\); expected a dense one"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), r"fc.weight is a tensor \(quantized\)"),
        (lambda t: t.to("meta"), r"fc.weight is a tensor \(without values"),
        (lambda t: torch.complex(t, t).conj().imag, r"fc.weight is a tensor \(negated or conjugated lazily\)"),
        (put(float("nan")), "fc.weight has NaN or Inf"),
        (put(float("-inf"), torch.float16), "fc.weight has NaN or Inf"),
        (put(float("inf"), torch.bfloat16), "fc.weight has NaN or Inf"),
        (put(-1e39, torch.float64), r"fc.weight has -1e\+39, which is infinite in float32"),
        (lambda t: torch.ones(1, 1).expand(10**6, 10**6), r"fc.weight is \[1000000, 1000000\], 4000000000000 bytes in a"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_cannot_be_a_weight(tmp_path: Path, change: Callable[[Tensor], Any], message: str, legacy: bool) -> None:
    state = dict(weights())
    refused(saved(state | {"fc.weight": change(state["fc.weight"])}, tmp_path / "w.pth", legacy), message)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_types_of_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) if name == "conv1.weight" else tensor for name, tensor in weights().items()}
    save_file(state, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", f"conv1.weight is {str(dtype)[6:]}; expected float32, float64, float16 or bfloat16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other.num_batches_tracked": torch.tensor(1)}, r"1 unexpected \(other.num_batches_tracked\)"),
        ({"bn1.num_batches_tracked": torch.ones(3, dtype=torch.int64)}, r"bn1.num_batches_tracked is \[3\], expected \[\]"),
        ({"bn1.num_batches_tracked": torch.tensor(True)}, "bn1.num_batches_tracked is bool"),
        ({"bn1.num_batches_tracked": torch.tensor(torch.nan)}, "bn1.num_batches_tracked has NaN"),
        ({"bn1.running_var": -torch.ones(4)}, "bn1.running_var has -1, and a variance is not negative"),
        ({"x\x1b[31m\ny": torch.ones(1)}, r"unexpected \(x\\x1b\[31m\\ny\)"),
        ({"\ud800": torch.ones(1)}, r"unexpected \(\\ud800\)"),
        ({"x" * 600: torch.ones(1)}, "a tensor whose name has 600 characters"),
        ({"fc.weight": torch.ones(10**8, 0), "fc.bias": torch.ones(0)}, "100000000 classes; expected 1 to"),
    ],
)
def test_a_tensor_out_of_place(tmp_path: Path, change: State, message: str) -> None:
    refused(saved(dict(weights()) | change, tmp_path / "w.pth"), message)


def test_a_broken_classifier_is_no_matter_under_a_new_head(tmp_path: Path) -> None:
    path = saved(dict(weights()) | {"fc.weight": torch.full((3, 8), torch.nan)}, tmp_path / "w.pth")
    refused(path, "fc.weight has NaN")
    assert load_model(ARCHITECTURE, weights=path, num_classes=5, new_head=True).network.num_classes == 5


def test_views_parameters_and_shared_storages_are_weights(tmp_path: Path) -> None:
    block = torch.rand(2, 3, 8)
    state = dict(weights()) | {"fc.weight": nn.Parameter(block[1]), "conv1.weight": weights()["conv1.weight"].transpose(0, 1)}
    state["conv1.weight"] = state["conv1.weight"].transpose(0, 1)
    parameter = nn.Parameter(weights()["fc.bias"].clone())
    parameter.note = "attributes of its own"
    path = saved(state | {"fc.bias": parameter}, tmp_path / "w.pth")
    network = load_model(ARCHITECTURE, weights=path).network
    assert torch.equal(network.fc.weight, block[1]) and torch.equal(network.fc.bias, weights()["fc.bias"])
    assert torch.equal(network.conv1.weight, weights()["conv1.weight"])


# Containers.


def nested(depth: int) -> Any:
    value: Any = dict(weights())
    for _ in range(depth):
        value = {"model": value}
    return value


def cyclic() -> Any:
    content: dict[str, Any] = {"more": dict(weights())}
    content["model"] = content
    return content


def doubled(depth: int) -> Any:
    """2 to the depth paths to one tensor's dict, none of which is a state dict's."""
    value: Any = {"end": 1}
    for _ in range(depth):
        value = {"a": value, "b": value}
    return {"model": value}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (cyclic(), "nests its weights more than 8 deep .*or holds itself"),
        (nested(9), "nests its weights more than 8 deep"),
        (nested(300), "nests its weights more than 8 deep"),
        (doubled(60), "has no tensors; its keys are model"),
    ],
    ids=["cyclic", "9 deep", "300 deep", "2 to the 60 paths"],
)
def test_containers(tmp_path: Path, content: Any, message: str, legacy: bool) -> None:
    refused(saved(content, tmp_path / "w.pth", legacy), message)


def test_eight_levels_are_read(tmp_path: Path) -> None:
    assert fuzz.same(load_model(ARCHITECTURE, weights=saved(nested(8), tmp_path / "w.pth")))


# Pickles that no torch.save writes.


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"}" + b")" + b"\x85" * 1_000_000 + b"K\x01s", "a dict with a tuple for a key"),
        (b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R", "holds a Opaque, not a state dict"),
        (b"K\x01r\xff\xff\xff\x7f", "holds a int, not a state dict"),
        (b"N0" * 3, "the operation POP"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n" + b")" * 9 + b"\x87" * 4 + b"R", "its pickle is damaged at byte"),
        (b"]" * 2_100_000, "more than 2000000 operations"),
        (b"X\xff\xff\xff\x7fabc", "expected 2147483647 bytes in a .*, but only"),
        (b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R", "names os.system"),
    ],
    ids=["deep key", "64 GB", "memo", "pop", "arguments", "operations", "long text", "code"],
)  # fmt: skip
def test_pickles_are_data(tmp_path: Path, body: bytes, message: str) -> None:
    """PyTorch's own reader ends the process for the first, and takes 64 GB for the second."""
    refused(zipped(tmp_path / "w.pth", "data.pkl", lambda _: b"\x80\x02" + body + b"."), message)


def test_a_storage_that_claims_more_than_its_member(tmp_path: Path) -> None:
    path = zipped(tmp_path / "w.pth", "data.pkl", lambda data: data.replace(b"h\x06K\x03t", b"h\x06J\x00\x00\x00\x10t"))
    refused(path, r"fc.bias: its w/data/\d+ has 12 bytes where 1073741824 are described")


def test_a_storage_whose_name_is_no_text(tmp_path: Path) -> None:
    path = zipped(tmp_path / "w.pth", "data.pkl", lambda data: data.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x00\x07", 1))
    refused(path, r"its zip archive has no data/\\x07")


def test_a_view_outside_its_storage(tmp_path: Path) -> None:
    state = dict(weights()) | {"fc.weight": torch.ones(3, 8).as_strided((3, 8), (8, 1))}
    saved(state, tmp_path / "w.pth")
    data = rezipped(
        (tmp_path / "w.pth").read_bytes(),
        lambda name, data: data.replace(b"K\x03K\x08\x86", b"K\x09K\x08\x86") if name.endswith("data.pkl") else data,
    )
    (tmp_path / "w.pth").write_bytes(data)
    refused(tmp_path / "w.pth", r"fc.weight: its \[9, 8\] elements lie outside the 96 bytes of their storage")


# Archives.


@pytest.mark.parametrize("member", range(0, 9, 2))
def test_a_flipped_bit_of_a_weight_is_found(tmp_path: Path, member: int) -> None:
    path = saved(dict(weights()), tmp_path / "w.pth")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"w/data/{member}")
        with archive.open(info):
            start = path.read_bytes().index(archive.read(info))
    data = bytearray(path.read_bytes())
    data[start + 2] ^= 1  # a change in the seventh digit
    path.write_bytes(data)
    refused(path, rf"w/data/{member} is damaged: Bad CRC-32")


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(dict(weights()), tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert fuzz.same(load_model(ARCHITECTURE, weights=path))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "w.pth", "data/0", lambda data: data, zipfile.ZIP_DEFLATED)
    refused(path, "is compressed, as torch.save never does; load it and save it again")


def test_a_member_twice(tmp_path: Path) -> None:
    path = saved(dict(weights()), tmp_path / "w.pth")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("w/data/0", bytes(len(archive.read("w/data/0"))))
    refused(path, "two members of one name")


def test_a_torchscript_archive_is_called_one(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "w.pt")
    refused(tmp_path / "w.pt", r"is a TorchScript archive.*torch.jit.load\('FILE'\)`, then `torch.save\(model.state_dict\(\)")


def test_a_whole_module_has_its_two_lines(tmp_path: Path) -> None:
    refused(
        saved(nn.Linear(2, 2), tmp_path / "w.pth"),
        r"names torch.nn.modules.linear.Linear, so it holds a whole module.*weights_only=False\)`, then `torch.save\(",
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "it is empty"),
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\n", "begins like none of PyTorch's files"),
        ("w.pth", b"PK\x03\x04" + bytes(100), "its zip archive has no end: it is truncated"),
        ("w.pth", b"\x80\x02}q\x00.", "a pickle that torch.save did not write"),
        ("w.safetensors", struct.pack("<Q", 1 << 60) + b"{}", "a header of 1152921504606846976 bytes, and 10 bytes in all"),
        ("w.safetensors", struct.pack("<Q", 17 << 20) + bytes(17 << 20), "header has 17825792 bytes, more than"),
        ("w.safetensors", struct.pack("<Q", 100_000) + b"[" * 100_000, "its header is nested too deeply"),
        ("w.safetensors", struct.pack("<Q", 2) + b"[]", "its header is not an object"),
        ("w.safetensors", b"\x80\x02}q\x00.", "it is truncated"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, message)


def test_a_safetensors_file_by_another_name(tmp_path: Path) -> None:
    save_file(dict(weights()), tmp_path / "w.pth")
    assert fuzz.same(load_model(ARCHITECTURE, weights=tmp_path / "w.pth"))


ENTRY = '"fc.weight":{"dtype":"F32","shape":[3,8],"data_offsets":[%d,%d]}'


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ("{" + ENTRY % (0, 96) + "," + ENTRY % (0, 96) + "}", 96, "has one name twice"),
        ("{" + ENTRY % (0, 96) + ',"b":{"dtype":"F32","shape":[24],"data_offsets":[48,144]}}', 144, "overlap .* at byte 48"),
        ("{" + ENTRY % (4, 100) + "}", 100, "overlap or leave a gap at byte 0"),
        ("{" + ENTRY % (0, 96) + "}", 100, "take 96 bytes, and it has 100"),
        ("{" + ENTRY % (0, 96) + "}", 40, "take 96 bytes, and it has 40"),
        ("{" + ENTRY % (0, 48) + "}", 48, "48 bytes, which its shape and type do not have"),
        ('{"a":{"dtype":"F32","shape":["3",8],"data_offsets":[0,96]}}', 96, "not counts"),
        ('{"a":{"dtype":"F32","shape":[-3,-8],"data_offsets":[0,96]}}', 96, "not counts"),
        ('{"a":{"dtype":"F32","shape":3,"data_offsets":[0,96]}}', 96, "by other than dtype, shape and data_offsets"),
        ('{"a":{"dtype":"F4","shape":[24],"data_offsets":[0,12]}}', 12, r"a is a tensor \(of the type F4\)"),
        ('{"../../a/b":{"dtype":"F32","shape":[0,9],"data_offsets":[0,0]}}', 0, r"unexpected \(../../a/b\)"),
        ('{"__metadata__":{"a":1}}', 0, "its __metadata__ is not text by name"),
    ],
)  # fmt: skip
def test_headers_of_safetensors(tmp_path: Path, header: str, size: int, message: str) -> None:
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(size))
    refused(tmp_path / "w.safetensors", message)


# Metadata.

PREPROCESSING = {"resize": 36, "crop": 32, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}


def preprocessing(**changes: Any) -> str:
    return json.dumps({"preprocessing": PREPROCESSING | changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is not JSON"),
        ("[1]", "Expected object, got array"),
        ("[" * 100_000, "nested too deeply"),
        (preprocessing(mean=[float("nan"), 0, 0]), r"preprocessing.mean\[0\] is nan"),
        (preprocessing(std=[0.2, float("inf"), 0.2]), r"preprocessing.std\[1\] is inf"),
        (preprocessing(std=[0.2, 0.2, -0.2]), r"preprocessing.std\[2\]: .*>= 0.0001"),
        (preprocessing(std=[0, 1, 1]), r"preprocessing.std\[0\]"),
        (preprocessing(mean=[0.5, 0.5]), r"preprocessing.mean: .*length 3"),
        (preprocessing(crop=10**9), r"preprocessing.crop: .*<= 8192"),
        (preprocessing(crop=10**999), r"preprocessing.crop"),
        (preprocessing(crop=0), r"preprocessing.crop: .*>= 1"),
        (preprocessing(resize=-3), r"preprocessing.resize: .*>= 1"),
        (preprocessing(resize=36.5), r"preprocessing.resize: Expected int, got float"),
        (preprocessing(resize="36"), r"preprocessing.resize: Expected int, got str"),
        ('{"preprocessing": {"resize": 32}}', "preprocessing: .*missing required field crop"),
        ('{"preprocessing": [1]}', "preprocessing: Expected object .*got array"),
        ('{"class_names": [1, 2, 3]}', r"class_names\[0\]: Expected str, got int"),
        ('{"class_names": "abc"}', "class_names: Expected array .*got str"),
        ('{"class_names": ["a", "b\\nc", "d"]}', r"class_names\[1\] has the character U\+000A"),
        ('{"class_names": ["a", "b", "c\\u2028"]}', r"class_names\[2\] has the character U\+2028"),
        ('{"class_names": ["\\u001b[31m", "b", "c"]}', r"class_names\[0\] has the character U\+001B"),
        ('{"class_names": ["\\ud800", "b", "c"]}', r"class_names\[0\] has the character U\+D800"),
        ('{"class_names": ["a", "", "c"]}', r"class_names\[1\]: .*length >= 1"),
        ('{"class_names": ["a", " ", "c"]}', r"class_names\[1\] is blank"),
        ('{"class_names": ["a", "b"]}', "records 2 class_names for a classifier of 3 classes"),
        ('{"class_names": []}', "records 0 class_names for a classifier of 3 classes"),
    ],
)
def test_metadata_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    save_file(dict(weights()), tmp_path / "w.safetensors", {checkpoint.METADATA_KEY: text})
    refused(tmp_path / "w.safetensors", message)


def test_metadata_as_it_is_meant(tmp_path: Path) -> None:
    text = json.dumps({"preprocessing": PREPROCESSING, "class_names": ["crane", "crane", "ñandú 🐦"], "accuracy": 0.9})
    save_file(dict(weights()), tmp_path / "w.safetensors", {checkpoint.METADATA_KEY: text})
    model = load_model(ARCHITECTURE, weights=tmp_path / "w.safetensors")
    assert model.class_names == ("crane", "crane", "ñandú 🐦")
    assert model.preprocessing == Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    "metadata", [{"class_names": ["a\nb"]}, {"preprocessing": PREPROCESSING | {"mean": [float("nan")] * 3}}]
)
def test_what_could_not_be_read_again_is_not_saved(tmp_path: Path, metadata: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"cannot record its metadata: (class_names|preprocessing\.mean)"):
        checkpoint.save(dict(weights()), tmp_path / "w.safetensors", metadata)
    assert not (tmp_path / "w.safetensors").exists()


def test_metadata_is_saved_as_it_was_read(tmp_path: Path) -> None:
    found = checkpoint.read_checkpoint(registry.architecture("resnet20"), DIGITS)
    checkpoint.save(found.state, tmp_path / "w.safetensors", found.metadata)
    assert (
        checkpoint.read_checkpoint(registry.architecture("resnet20"), tmp_path / "w.safetensors").metadata
        == found.metadata
        != Metadata()
    )


@pytest.mark.parametrize("weights", ["~nobody-of-that-name/w.pth", "x" * 5000, "a\0b", "", "/dev/zero", "loop.pth"])
def test_paths_that_are_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop.pth").symlink_to("loop.pth")
    with pytest.raises(CheckpointError, match=r"give a \.pth, \.pt or \.safetensors file"):
        load_model(ARCHITECTURE, weights=weights)


# Memory.

MEASURE = """
import resource, sys
from resnet_deploy.errors import CheckpointError
from resnet_deploy.models.create import load_model
load_model(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_model(sys.argv[2], weights=sys.argv[1])
except CheckpointError as exc:
    print(exc, file=sys.stderr)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def zip_bomb(path: Path) -> None:
    """A quarter of a megabyte that unpacks to a thousand times that."""
    zipped(path, "data/0", lambda data: bytes(256 << 20), zipfile.ZIP_DEFLATED)


def claims(path: Path) -> None:
    """A stored member that claims ten gigabytes, in the directory as in the pickle."""
    saved(dict(weights()), path)
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("w/data/0").file_size
    data = bytearray(path.read_bytes())
    place = data.rindex(b"w/data/0") - 46
    assert struct.unpack_from("<II", data, place + 20) == (size, size)
    struct.pack_into("<II", data, place + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(data)


def description(body: bytes) -> Callable[[Path], Path]:
    return lambda path: zipped(path, "data.pkl", lambda _: b"\x80\x02" + body + b".")


def header(text: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(struct.pack("<Q", len(text)) + text)

    return write


@pytest.mark.parametrize(
    ("name", "write", "most_mib"),
    [
        ("w.pth", zip_bomb, 64),
        ("w.pth", claims, 64),
        ("w.pth", lambda path: saved(dict(weights()) | {"fc.weight": torch.ones(1, 1).expand(10**9, 8)}, path), 64),
        ("w.pth", description(b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R"), 64),
        ("w.pth", description(b"K\x01r\xff\xff\xff\x7f"), 64),
        ("w.pth", description(b"(" + b"}\x94" * 999_990 + b"t"), 768),
        ("w.safetensors", header(b'{"a":[' + b'{"b":{}},' * 1_800_000 + b"{}]}"), 768),
    ],
    ids=["zip bomb", "claimed size", "stride 0", "bytearray", "memo", "a million dicts", "header"],
)
def test_memory_is_bounded(tmp_path: Path, name: str, write: Callable[[Path], Any], most_mib: int) -> None:
    """At most the file's size, and 768 MiB for what describes it, where that is as long as it may be."""
    write(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / name), ARCHITECTURE], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("\n") == 1, "it was refused"
    assert int(done.stdout) < most_mib + ((tmp_path / name).stat().st_size >> 20)


def test_unneeded_storages_are_not_read(tmp_path: Path) -> None:
    """An optimizer's state, twice the weights, takes no memory: here it is 256 MB beside some kilobytes."""
    path = saved({"model": dict(weights()), "optimizer": {"state": {0: torch.zeros(64 << 20)}}}, tmp_path / "w.pth")
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path), ARCHITECTURE], capture_output=True, text=True, check=True)
    assert not done.stderr and int(done.stdout) < 64


# Architectures by name.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet:layers=9999999999-1", "layers has 9999999999; expected whole numbers from 1 to 2000"),
        ("resnet:layers=1999-2", "layers 1999-2 are 2001 blocks; a network has at most 2000"),
        ("resnet:layers=" + "9" * 900, "layers has a number of .* bits"),
        ("resnet:layers=" + "9" * 5000, "is not a number"),
        ("resnet:layers=٣", "is not a number"),
        ("resnet:layers=1_0", "is not a number"),
        ("resnet:layers=-1", "is not a number"),
        ("resnet:layers=1-1-1-1-1", "must be 1 to 4 stages"),
        ("resnet:widths=0-1-1-1", "widths has 0; expected"),
        ("resnet:widths=60000-60000-60000-60000", "parameters; at most"),
        ("resnet:width_per_group=1,widths=16-16-16-16", "leaves a stage of width 16 without channels"),
        ("resnet:groups=99999", "groups has 99999"),
        ("resnet:squeeze=99999", "squeeze has 99999"),
        ("resnet:num_classes=2147483648", "num_classes has 2147483648; expected whole numbers from 1 to 10000000"),
        ("resnet18:shortcut=A,shortcut=B", "the option shortcut is there twice: A and B"),
        ("resnet_cifar:99999999998", "is not a number of layers"),
        ("resnet_cifar:999999998", "layers has 166666666"),
        ("resnet_cifar:" + "9" * 5000, "is not a number of layers"),
        ("ensemble:" + "+".join(["resnet20"] * 101), "at most 100 members; found 101"),
    ],
)
def test_numbers_of_an_architecture_have_ranges(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        registry.architecture(name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [(3.7, 4), ("a", 1), [float("nan")], (10**30, 1)])
def test_values_of_options_by_keyword(value: Any) -> None:
    with pytest.raises(UsageError, match="layers"):
        registry.architecture("resnet", layers=value)


def test_a_classifier_has_a_largest_number_of_classes() -> None:
    with pytest.raises(UsageError, match="1 to 10000000 classes; found 2147483648"):
        load_model("resnet20", num_classes=1 << 31)


@pytest.mark.parametrize(
    "name", ["resnet_cifar:1202", "resnet:layers=3-24-36-3", "resnet:widths=128-256-512-1024", "resnext101_64x4d"]
)
def test_large_networks_are_still_to_be_had(name: str) -> None:
    assert registry.architecture(name).config.layers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(60))
def test_seeded_cases(tmp_path: Path, seed: int) -> None:
    """The first of those that `make fuzz` goes through."""
    fuzz.run(random.Random(seed), tmp_path)


def test_a_case_can_fail(tmp_path: Path) -> None:
    """What the seeded cases assert is not empty: a model with other weights, or an infinite one, is noticed."""
    model = load_model(ARCHITECTURE)
    assert not fuzz.same(model)
    model.network.fc.weight.data[0] = torch.inf
    with pytest.raises(AssertionError, match=r"believed fc.weight \(why\)"):
        fuzz.assert_sound(model, "why")
    buffer = io.BytesIO(saved(dict(weights()), tmp_path / "w.pth").read_bytes())
    assert zipfile.is_zipfile(buffer)
