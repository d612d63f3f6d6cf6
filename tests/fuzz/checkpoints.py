"""Seeded checkpoints: whole ones that must load bit by bit, crafted ones that must be refused, and damaged ones."""

from __future__ import annotations

import argparse
import collections
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from resnet_deploy.errors import CheckpointError, DeployError
from resnet_deploy.models import checkpoint, registry
from resnet_deploy.models.create import LoadedModel, load_model

NAME = "checkpoints"
# Some two thousand weights, so that a case takes milliseconds.
ARCHITECTURE = "resnet:layers=1-1,widths=4-8,stem=cifar,block=basic,num_classes=3"
CLASSES = 3

State = dict[str, Any]


def run(rng: random.Random, folder: Path) -> None:
    """One seeded case.

    Args:
        rng: decides everything.
        folder: empty, for the case's file.

    Raises:
        AssertionError: what is wrong was believed, or what is right was refused.
    """
    rng.choice(KINDS)(rng, folder)


@cache
def weights() -> dict[str, Tensor]:
    """A state dict with values that no fresh network has."""
    generator = torch.Generator().manual_seed(1)
    state = load_model(ARCHITECTURE).network.state_dict()
    return {name: torch.rand(t.shape, generator=generator) if t.is_floating_point() else t + 5 for name, t in state.items()}


def saved(state: Any, path: Path, form: str) -> Path:
    """Write an object as a zip archive, in the older format, or (a plain state dict) as safetensors."""
    path = path.with_suffix(".safetensors" if form == "safetensors" else ".pth")
    if form == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    return path


def loaded(path: Path, **options: Any) -> LoadedModel | None:
    """The model of a file; None where it is refused with an error of ours."""
    try:
        return load_model(ARCHITECTURE, weights=path, **options)
    except DeployError as exc:
        assert str(exc).isprintable(), f"a message of more than one plain line: {exc!s:.200}"
        return None


def assert_sound(model: LoadedModel | None, why: str) -> None:
    """What was accepted has finite weights, a usable preprocessing and a name for each class."""
    if model is None:
        return
    for name, tensor in model.network.state_dict().items():
        assert tensor.dtype == weights()[name].dtype and bool(torch.isfinite(tensor).all()), f"believed {name} ({why})"
    preprocessing, names = model.preprocessing, model.class_names
    assert 1 <= preprocessing.crop <= 8192 and 1 <= preprocessing.resize <= 8192, f"believed {preprocessing} ({why})"
    assert all(-100 <= value <= 100 for value in (*preprocessing.mean, *preprocessing.std)), f"believed {preprocessing} ({why})"
    assert min(preprocessing.std) >= 1e-4, f"believed {preprocessing} ({why})"
    assert names is None or (len(names) == CLASSES and all(len(name.splitlines()) == 1 for name in names)), f"believed {names}"


def same(model: LoadedModel) -> bool:
    """Whether a network has the weights of `weights`."""
    state = model.network.state_dict()
    return all(torch.equal(state[name], tensor) for name, tensor in weights().items())


# Whole files, in what form ever.

WRAPPERS: list[Callable[[random.Random, State], Any]] = [
    lambda rng, s: s,
    lambda rng, s: collections.OrderedDict(s),
    lambda rng, s: {name: torch.nn.Parameter(t) if t.is_floating_point() else t for name, t in s.items()},
    lambda rng, s: _prefixed(rng, s),
    lambda rng, s: {rng.choice(["state_dict", "model", "net", "ema", "model_state_dict"]): s, "epoch": 3},
    lambda rng, s: {"model": {"state_dict": s}, "optimizer": {"state": {0: {"step": torch.tensor(1)}}, "param_groups": [{}]}},
    lambda rng, s: s | {"args": argparse.Namespace(lr=0.1, names=["a", ("b", 1)], dims={1, 2}), "epoch": rng.randrange(99)},
    lambda rng, s: {"state_dict": s, "device": torch.device("cpu"), "dtype": torch.float16, "size": torch.Size([1, 2])},
    lambda rng, s: {name: t.t().contiguous().t() if t.ndim == 2 else t for name, t in s.items()},
    lambda rng, s: {name: torch.stack([t, t])[1] for name, t in s.items()},
    lambda rng, s: {("linear." + name[3:] if name.startswith("fc.") else name): t for name, t in s.items()},
    lambda rng, s: {name: t.double() if t.is_floating_point() else t for name, t in s.items()},
]


def _prefixed(rng: random.Random, state: State) -> State:
    prefix = rng.choice(["module.", "_orig_mod.", "model.", "module._orig_mod."])
    return {prefix + name: tensor for name, tensor in state.items()}


def _whole(rng: random.Random, folder: Path) -> None:
    form = rng.choice(["zip", "legacy", "safetensors"])
    state = dict(weights())
    content = state if form == "safetensors" else rng.choice(WRAPPERS)(rng, state)
    path = saved(content, folder / "whole", form)
    model = load_model(ARCHITECTURE, weights=path)
    assert same(model), f"other weights than those in a whole {form} file"


# Crafted files, each wrong in one way.


def _deep(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"model": value, "state_dict": [value]}
    return value


def _cyclic(state: State) -> Any:
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content["state_dict"] = content
    content["more"] = state
    return content


def _sharing(state: State, depth: int) -> Any:
    """2 to the depth paths to one dict."""
    value: Any = {"end": 1}
    for _ in range(depth):
        value = {"a": value, "b": value}
    return {"state_dict": value, "model": value, "ema": {"x": value}}


def _with(state: State, rng: random.Random, change: Callable[[Tensor], Any]) -> State:
    name = rng.choice([name for name, tensor in state.items() if tensor.is_floating_point()])
    return state | {name: change(state[name])}


def _counter(state: State, rng: random.Random, change: Callable[[str, Tensor], State]) -> State:
    name = rng.choice([name for name in state if name.endswith("num_batches_tracked")])
    return {key: tensor for key, tensor in state.items() if key != name} | change(name, state[name])


def _put(tensor: Tensor, value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    tensor = tensor.to(dtype, copy=True)
    tensor.view(-1)[0] = value
    return tensor


def _dtype(tensor: Tensor, rng: random.Random) -> Tensor:
    kinds = (
        torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64, torch.complex128,
        torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32,
    )  # fmt: skip
    return tensor.to(rng.choice(kinds))


def _classifier(weight: Tensor) -> State:
    return {"fc.weight": weight, "fc.bias": torch.ones(1).expand(len(weight))}


CRAFTED: dict[str, Callable[[State, random.Random], Any]] = {
    "another dtype": lambda s, rng: _with(s, rng, lambda t: _dtype(t, rng)),
    "sparse": lambda s, rng: _with(s, rng, lambda t: t.to_sparse()),
    "quantized": lambda s, rng: _with(s, rng, lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    "meta": lambda s, rng: _with(s, rng, lambda t: t.to("meta")),
    "NaN": lambda s, rng: _with(s, rng, lambda t: _put(t, float("nan"))),
    "infinity": lambda s, rng: _with(s, rng, lambda t: _put(t, rng.choice([1, -1]) * float("inf"))),
    "too large for float32": lambda s, rng: _with(s, rng, lambda t: _put(t, 1e300, torch.float64)),
    "a giant of one element": lambda s, rng: _with(s, rng, lambda t: torch.ones(1).expand(10 ** rng.randint(6, 13))),
    "a giant classifier": lambda s, rng: s | _classifier(torch.ones(1, 1).expand(10**9, 8)),
    "a classifier of nothing": lambda s, rng: s | _classifier(torch.ones(rng.choice([0, 10**8]), 0)),
    "another shape": lambda s, rng: _with(s, rng, lambda t: torch.ones(*t.shape, 1)),
    "a counter under another name": lambda s, rng: _counter(s, rng, lambda n, t: {n + ".num_batches_tracked": t}),
    "a counter of another shape": lambda s, rng: _counter(s, rng, lambda n, t: {n: torch.ones(rng.randrange(4)).long()}),
    "a counter of another type": lambda s, rng: _counter(s, rng, lambda n, t: {n: rng.choice([t.bool(), t + 1j])}),
    "a counter that is infinite": lambda s, rng: _counter(s, rng, lambda n, t: {n: torch.tensor(float("inf"))}),
    "a missing tensor": lambda s, rng: {k: s[k] for k in rng.sample(list(s), len(s)) if k != "conv1.weight"},
    "one tensor more": lambda s, rng: s | {rng.choice(["a", "../w", "fc.weight\n", "\x1b[31m", "\ud800"]): torch.ones(2)},
    "a long name": lambda s, rng: {"model." * 10_000 + name: t for name, t in s.items()},
    "a negative variance": lambda s, rng: s | {"bn1.running_var": -s["bn1.running_var"]},
    "cyclic": lambda s, rng: _cyclic(s),
    "deep": lambda s, rng: _deep(rng.randint(9, 200)),
    "many paths": lambda s, rng: _sharing(s, 40),
    "a list": lambda s, rng: list(s.values()),
    "a number": lambda s, rng: rng.choice([0, 1.5, "text", None, True, (), b"bytes"]),
    "no tensors": lambda s, rng: {"epoch": 1, "lr": [0.1]},
    "code": lambda s, rng: s | {"extra": rng.choice([Path("x"), torch.nn.Linear(1, 1), print, io.BytesIO(), range(3)])},
    "a negated view": lambda s, rng: _with(s, rng, lambda t: torch.complex(t, t).conj().imag),
}  # fmt: skip


def _crafted(rng: random.Random, folder: Path) -> None:
    name = rng.choice(list(CRAFTED))
    content = CRAFTED[name](dict(weights()), rng)
    try:
        path = saved(content, folder / "crafted", rng.choice(["zip", "legacy"]))
    except (RuntimeError, NotImplementedError, UnicodeError, RecursionError, TypeError):
        return  # PyTorch itself does not write it in this form
    assert loaded(path) is None, f"believed a checkpoint with {name}"
    if not isinstance(content, dict) or name.startswith(("a giant", "another shape", "a negated")):
        return
    assert_sound(loaded(path, num_classes=CLASSES, new_head=True), name)  # the classifier may be what is wrong


# Damage to bytes.


def damage(rng: random.Random, data: bytes) -> bytes:
    """Flip bits, cut, zero a block, repeat a block, or exchange two."""
    damaged = bytearray(data)
    kind, size = rng.randrange(6), len(data)
    start, length = rng.randrange(size), rng.choice([1, 4, 16, 512, 4096])
    if kind <= 1:
        for _ in range(rng.choice([1, 1, 2, 8])):
            damaged[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del damaged[rng.randrange(size) :]
    elif kind == 3:
        damaged[start : start + length] = bytes(len(damaged[start : start + length]))
    elif kind == 4:
        damaged[start:start] = damaged[start : start + length]
    else:
        other = rng.randrange(size)
        damaged[start : start + length] = data[other : other + length]
    return bytes(damaged)


def _damaged(rng: random.Random, folder: Path) -> None:
    form = rng.choice(["zip", "zip", "legacy", "safetensors"])
    path = saved(dict(weights()), folder / "damaged", form)
    path.write_bytes(damage(rng, path.read_bytes()))
    model = loaded(path)
    assert_sound(model, f"a damaged {form} file")
    if form == "zip" and model is not None:  # each member has a checksum
        assert same(model), "believed weights that are not those that were saved"


def rezipped(data: bytes, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive with changed members and right checksums."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(output, "w", compression) as target:
        for info in source.infolist():
            target.writestr(info.filename, change(info.filename, source.read(info)))
    return output.getvalue()


def _damaged_pickle(rng: random.Random, folder: Path) -> None:
    """Another description, in an archive that is whole."""
    path = saved(rng.choice(WRAPPERS)(rng, dict(weights())), folder / "pickle", "zip")
    member = rng.choice(["data.pkl", "data.pkl", "data.pkl", "byteorder", "data/0", "version"])
    path.write_bytes(rezipped(path.read_bytes(), lambda name, data: damage(rng, data) if name.endswith(member) else data))
    assert_sound(loaded(path), f"another {member}")


# Pickles that no torch.save writes.

OPCODES = [
    b"}", b"]", b")", b"(", b"K\x01", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x85",
    b"\x86", b"\x87", b"t", b"s", b"u", b"a", b"e", b"R", b"b", b"\x81", b"Q", b"N", b"\x88", b"X\x05\x00\x00\x00model",
    b"X\x0b\x00\x00\x00conv1weight", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"q\x00", b"h\x00",
    b"ctorch\nFloatStorage\n", b"ctorch._tensor\n_rebuild_from_type_v2\n", b"cbuiltins\nbytearray\n", b"c__builtin__\nset\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"r\xff\xff\xff\xff", b"\x94", b"\x8f", b"\x90", b"\x93", b"0", b"2",
    b"X\x07\x00\x00\x00storage", b"cargparse\nNamespace\n", b"ctorch\nSize\n",
]  # fmt: skip
BOMBS = [
    b"}" + b")" + b"\x85" * 100_000 + b"K\x01s",  # a key that takes a stack of its own to hash
    b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R",  # 64 GB
    b"K\x01r\xff\xff\xff\x7f",  # a memo of two billion
    b"]" * 200_000,
    b"ctorch._tensor\n_rebuild_from_type_v2\n" * 2000 + b")" + b"\x85R" * 2000,
]


def _pickle(rng: random.Random, folder: Path) -> None:
    path = saved(dict(weights()), folder / "opcodes", "zip")
    body = rng.choice(BOMBS) if rng.random() < 0.1 else b"".join(rng.choices(OPCODES, k=rng.randint(1, 60)))
    whole = b"\x80\x02" + body + b"."
    path.write_bytes(rezipped(path.read_bytes(), lambda name, data: whole if name.endswith("data.pkl") else data))
    assert loaded(path) is None, "believed a pickle of random operations"


# safetensors: headers and metadata.

VALUES: list[Any] = [
    None, True, 0, 1, -1, 2**31, 2**63, 10**30, 1.5, -0.5, float("nan"), float("inf"), "", "32", [], [1, 2], {}, {"a": 1},
    [[[]]], 1e308, 1e-320, "two\nlines", "\x1b[31mred", "a\u2028b", "\u0000", ["a", "b"], ["a", "b", 3], ["a", "b", "c\r"],
    ["a", "b", "c", "d"], ["a", "", "c"], ["", " ", "\t"],
]  # fmt: skip
METADATA: dict[str, Any] = {
    "architecture": "resnet20", "class_names": ["a", "b", "c"],
    "preprocessing": {"resize": 36, "crop": 32, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
}  # fmt: skip


def replaced(rng: random.Random, value: Any) -> Any:
    """A JSON value with something in it replaced, left out or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        rest = {name: item for name, item in value.items() if name != key}
        return rest if rng.random() < 0.1 else value | {key: replaced(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.6:
        place = rng.randrange(len(value))
        return [*value[:place], replaced(rng, value[place]), *value[place + 1 :]]
    return rng.choice(VALUES)


def _metadata(rng: random.Random, folder: Path) -> None:
    path = folder / "metadata.safetensors"
    text = json.dumps(replaced(rng, METADATA))
    if rng.random() < 0.2:
        text = damage(rng, text.encode()).decode(errors="replace")
    save_file(dict(weights()), path, {checkpoint.METADATA_KEY: text})
    assert_sound(loaded(path), text[:200])


def _header(rng: random.Random, folder: Path) -> None:
    """A safetensors file with another header, or another length of it."""
    path = saved(dict(weights()), folder / "header", "safetensors")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(5)
    if kind == 0:
        length = rng.choice([0, 1, length - 1, length + 1, len(data), 2**31, 2**60, 2**64 - 1])
        path.write_bytes(struct.pack("<Q", length) + header + body)
        assert loaded(path) is None, "believed another length of its header"
        return
    changed: Any = replaced(rng, json.loads(header))
    text = json.dumps(changed)
    if kind == 1:
        text = text[:-1] + "," + text[1:]  # every name twice
    elif kind == 2:
        text = "[" * 100_000
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + body)
    assert_sound(loaded(path), "another header")
    if kind in {1, 2} and text != "{,{}":
        assert loaded(path) is None, "believed a header of repeated names"


# Architectures by name.

NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "4",
    "64",
    "-1",
    "9999999999",
    "1e3",
    "٣",
    "",
    " 1",
    "1_0",
    "9" * 5000,
    "2147483648",
    "0x10",
    "nan",
]
OPTIONS = [
    "layers", "widths", "groups", "width_per_group", "squeeze", "num_classes", "block", "stem", "shortcut", "stride_on",
    "activation", "replace_stride_with_dilation", "output_stride", "nonsense",
]  # fmt: skip
BASES = ["resnet", "resnet18", "resnet20", "resnet50", "resnet_cifar:20", "plain_cifar", "preact_resnet_cifar", "ensemble"]


def _architecture(rng: random.Random, folder: Path) -> None:
    base = rng.choice(BASES) + ":"
    options = [
        f"{rng.choice(OPTIONS)}={'-'.join(rng.choices(NUMBERS, k=rng.choice([1, 1, 2, 4])))}" for _ in range(rng.randint(0, 3))
    ]
    if rng.random() < 0.3:
        options.insert(0, rng.choice(NUMBERS))
    name = base + rng.choice([",", "+", ",,"]).join(options)
    try:
        row = registry.architecture(name)
    except DeployError:
        return
    config = row.config
    assert sum(config.layers) <= 2000 and max(config.widths) <= 65536 and 1 <= config.num_classes <= 10**7, f"believed {name}"


def _published_or_odd_paths(rng: random.Random, folder: Path) -> None:
    odd = [
        "",
        "~nobody-of-that-name/w.pth",
        "x" * 5000,
        "a\0b",
        ",",
        ",,",
        ".",
        str(folder),
        "IMAGENET1K_V9",
        "DEFAULT",
        "w\n.pth",
    ]
    try:
        load_model(rng.choice([ARCHITECTURE, "ensemble:resnet20+resnet20"]), weights=rng.choice(odd))
    except CheckpointError:
        return
    raise AssertionError("believed a file that is not there")


KINDS: list[Callable[[random.Random, Path], None]] = [
    _whole, *[_crafted] * 6, *[_damaged] * 6, *[_damaged_pickle] * 6, *[_pickle] * 2, *[_metadata] * 4, *[_header] * 2,
    *[_architecture] * 2, _published_or_odd_paths,
]  # fmt: skip
