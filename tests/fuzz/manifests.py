"""Manifests of a real bundle, changed field by field with a digest that is right, or byte by byte with one that isn't."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.bundles import MANIFEST, base_bundle, copied, read, seal

NAME = "manifests"

Places = list[tuple[Any, Any]]  # a container, and the key of a value in it

NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
OTHER_TYPES: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "x", [], [1], {}, {"a": 1}, 10**30, "\ud800", "\x1b[31m", "a\nb")
UGLY_NAMES = (
    "../x",
    "../../x",
    "../../../x",
    "../b/../../x",
    "a/b",
    "/tmp/x",
    "..",
    ".",
    "",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "x" * 300,
    ".staging",
    "manifest.json",
    "-o",
    "~",
)
FAR = (0, -1, -(2**31), 2**31, 2**63, 2**64, 10**12, 10**30, 0.5, -0.0, 1e308)

# What may never be opened, by the field's name wherever it stands; other fields' values are between the reader and its text.
WHOLE = 2**31 - 1
NUMBERS = {
    "num_classes": (1, WHOLE), "max_batch": (1, WHOLE), "crop": (1, 8192), "resize": (1, WHOLE), "parameters": (0, 2**53),
    "macs": (0, 2**53), "size_bytes": (0, 2**53), "opset": (1, WHOLE), "batch": (1, WHOLE), "images": (0, 2**53),
    "calibrated_on": (0, 2**53),
}  # fmt: skip
TEXTS = {"architecture", "sha256", "kind", "precision", "made_from", "input_format", "dtype", "candidate", "source"}
DIGESTS = {"sha256", "reference"}
FREE = {"runtime", "flags", "settings", "conditions", "tuning"}  # as runtimes and machines say them: any JSON


def prepare() -> None:
    base_bundle()


def run(rng: random.Random, folder: Path) -> None:
    """One change or a few, then everything that reads a manifest."""
    bundle = copied(folder / "a" / "b" / "bundle")
    before, whole = read(bundle), (bundle / MANIFEST).read_bytes()
    if rng.random() < 0.15:
        _flip(rng, bundle / MANIFEST)
        wrong = "bytes that its digest does not cover" if (bundle / MANIFEST).read_bytes() != whole else None
    else:
        manifest = read(bundle)
        text = json.dumps(manifest, indent=1)
        wrong = None
        if rng.random() < 0.05:
            text, wrong = _text_change(rng, text)
        else:
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                wrong = None  # what an earlier change made wrong may be gone
                with contextlib.suppress(KeyError, TypeError, AttributeError, IndexError):  # of what was there
                    wrong = rng.choice(CHANGES)(rng, manifest)
            text = json.dumps(manifest, indent=1)
        (bundle / MANIFEST).write_bytes(seal(text))
        _lay(manifest, before, bundle, folder)
        if rng.random() < 0.1:  # it is made again as the manifest says
            (bundle / rng.choice(["model.fp16.onnx", "model.int8.onnx", "model.int8-cpu.onnx"])).unlink(missing_ok=True)
    outside = _tree(folder)
    try:
        _use(rng, bundle, folder / "a" / "b" / "out", wrong)
    finally:
        spilled = {name for name in _tree(folder).items() if name not in outside.items() and _foreign(name[0])}
    assert not spilled, f"believed a name that leads out of the output: {sorted(spilled)[:2]}"


def _lay(manifest: Any, before: Any, bundle: Path, folder: Path) -> None:
    """Put files where new names lead, so that the name alone can be what is refused."""
    if not isinstance(artifacts := manifest.get("artifacts"), dict):
        return
    files = {entry["sha256"]: name for name, entry in before["artifacts"].items()}
    for name, entry in artifacts.items():
        place = Path(os.path.normpath(bundle / name)) if "\0" not in name and len(name) < 100 else folder
        old = files.get(str(entry.get("sha256"))) if isinstance(entry, dict) else None
        if old is not None and place.is_relative_to(folder) and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError, ValueError):
                os.link(bundle / old, place)


def _use(rng: random.Random, path: Path, out: Path, wrong: str | None) -> None:
    """Open it, and give it to some of what reads it."""
    from resnet_deploy.bundle.store import Bundle
    from resnet_deploy.errors import DeployError

    try:
        bundle = Bundle.open(path)
    except DeployError:
        return
    for reader in rng.sample(READERS, 3):
        try:
            reader(rng, bundle, out)
        except DeployError:
            continue
    assert wrong is None, f"believed {wrong}"  # last: what it leads to is worse


def _artifacts(rng: random.Random, bundle: Any, out: Path) -> None:
    for name in list(bundle.manifest.artifacts):
        bundle.artifact(name)


def _opened(rng: random.Random, bundle: Any, out: Path) -> None:
    """What verify and bench ask of it before they run."""
    from resnet_deploy.backends.candidate import Candidate
    from resnet_deploy.bundle.opened import OpenedBundle

    opened = OpenedBundle(bundle)
    opened.max_batch, opened.preprocessing, opened.input_spec  # noqa: B018
    dataset = opened.data("random:2")
    list(dataset.batches(2))
    for text in ("onnxruntime", "onnxruntime:int8", "tensorrt-rtx:fp16"):
        opened.seen(Candidate.parse(text))
        opened.made_from(Candidate.parse(text))


def _verify(rng: random.Random, bundle: Any, out: Path) -> None:
    import resnet_deploy as rd

    rd.verify(bundle.path, "random:2", backend=[rng.choice(["onnxruntime", "onnxruntime:int8"])], batch=2, threads=1)


def _report(rng: random.Random, bundle: Any, out: Path) -> None:
    import resnet_deploy as rd

    rd.report(bundle.path, output=out / f"report{rng.choice(('.html', '.md', '.json'))}")


def _compare(rng: random.Random, bundle: Any, out: Path) -> None:
    import resnet_deploy as rd

    pair = [bundle.path, base_bundle()]
    rng.shuffle(pair)
    rd.compare_runs(*pair, output=out / f"both{rng.choice(('.html', '.md', '.json'))}", fail_on_regression="5%")


def _triton(rng: random.Random, bundle: Any, out: Path) -> None:
    import resnet_deploy as rd

    options: dict[str, Any] = {"precision": rng.choice(["fp32", "int8", "fp16"])}
    if rng.random() < 0.4:
        options |= {"precision": "fp16", "platform": "tensorrt", "flavour": "tensorrt-rtx"}
    elif rng.random() < 0.4:
        options |= {"ensemble": "jpeg"}
    if rng.random() < 0.2:
        options |= {"latency_bound": "15ms"}
    rd.write_triton(bundle, out / "repository", **options)


def _cpp(rng: random.Random, bundle: Any, out: Path) -> None:
    import resnet_deploy as rd

    options = rng.choice([{}, {"precision": "int8"}, {"precision": "fp16", "backend": "tensorrt-rtx"}])
    rd.write_cpp(bundle, out / "project", **options)


def _again(rng: random.Random, bundle: Any, out: Path) -> None:
    """A transaction that changes nothing: what was read is written again."""
    from resnet_deploy.bundle.store import Bundle

    Bundle.open(bundle.path).record("parity", {})


def _text_of_export(rng: random.Random, bundle: Any, out: Path) -> None:
    from resnet_deploy.terminal.export import exported

    exported(bundle)


READERS = (_artifacts, _opened, _report, _report, _compare, _triton, _triton, _cpp, _again, _text_of_export, _verify)


# Changes. Each returns what must not be believed, or None where the change may be meant.


def _not_finite(rng: random.Random, manifest: Any) -> str | None:
    container, key = _pick(rng, manifest, lambda value: isinstance(value, float))
    container[key] = rng.choice(NOT_FINITE)
    return f"a number that is not finite: {key}"


def _other_type(rng: random.Random, manifest: Any) -> str | None:
    container, key = _pick(rng, manifest, lambda value: True)
    old = container[key]
    container[key] = value = rng.choice([item for item in OTHER_TYPES if type(item) is not type(old)])
    if _free(manifest, container):
        return None
    if key in NUMBERS and type(old) is int and not _int_like(value, key):
        return f"{key} of the type {type(value).__name__}"
    if key in TEXTS and isinstance(old, str) and not isinstance(value, str | None):
        return f"{key} of the type {type(value).__name__}"
    if key in {"model", "artifacts", "parity", "measurements", "preprocessing", "input"} and isinstance(old, dict):
        return None if isinstance(value, dict) else f"{key} of the type {type(value).__name__}"
    return None


def _far(rng: random.Random, manifest: Any) -> str | None:
    container, key = _pick(rng, manifest, lambda value: type(value) in {int, float})
    old = container[key]
    container[key] = value = rng.choice(FAR)
    if key in NUMBERS and type(old) is int and not _int_like(value, key) and not _free(manifest, container):
        return f"{key} of {value}"
    return None


def _digest(rng: random.Random, manifest: Any) -> str | None:
    container, key = _pick(rng, manifest, lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value))
    container[key] = rng.choice(["", "0" * 63, "g" * 64, "../" * 21 + "x", "0" * 65])
    published = container is manifest["model"]["weights"]  # a published file's name serves there too
    return f"a {key} that is no SHA-256" if key in DIGESTS and not published and not _free(manifest, container) else None


def _name(rng: random.Random, manifest: Any) -> str | None:
    """An artifact that is called otherwise, a plan more often than its share: plans are taken by what they are."""
    artifacts = manifest["artifacts"]
    plans = [name for name, entry in artifacts.items() if "origin" in entry]
    old, new = rng.choice(plans if plans and rng.random() < 0.5 else list(artifacts)), rng.choice(UGLY_NAMES)
    manifest["artifacts"] = {new if name == old else name: entry for name, entry in artifacts.items()}
    return f"an artifact called {new[:20]!r}"


def _target(rng: random.Random, manifest: Any) -> str | None:
    """The compute capability of a plan's targets, which becomes a file's name in a repository."""
    plans = [entry for entry in manifest["artifacts"].values() if "origin" in entry]
    if not plans:
        return None
    new = rng.choice(["sm89/../../../x", "sm", "../x", "sm86\n", "SM86", "sm8 6", 86, None, ["sm86"]])
    rng.choice(plans)["origin"]["targets"] = [new]
    return f"a target {new!r}"


def _delete(rng: random.Random, manifest: Any) -> str | None:
    container, key = _pick(rng, manifest, lambda value: True)
    del container[key]
    return None


def _add(rng: random.Random, manifest: Any) -> str | None:
    container, key = _pick(rng, manifest, lambda value: isinstance(value, dict | list))
    inner = container[key]
    if isinstance(inner, dict):
        inner[rng.choice(["zzz", "", "\x1b]0;x\x07", "<script>alert(1)</script>", "sha256"])] = rng.choice(OTHER_TYPES)
    else:
        inner.extend([rng.choice(OTHER_TYPES)] * rng.choice([1, 1, 1000]))
    return None


def _deep(rng: random.Random, manifest: Any) -> str | None:
    container, key = _pick(rng, manifest, lambda value: True)
    value: Any = 1
    for _ in range(rng.choice([70, 200, 900])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    container[key] = value
    return "what is nested too deeply"


def _words(rng: random.Random, manifest: Any) -> str | None:
    container, key = _pick(rng, manifest, lambda value: isinstance(value, str))
    container[key] = rng.choice([*UGLY_NAMES, "<script>alert(1)</script>", "|" * 50, "\ud800", "\u202e", "onnxruntime:fp64"])
    return None


def _swap(rng: random.Random, manifest: Any) -> str | None:
    """Two values of different places change places: each is of a type that occurs."""
    first, second = (_pick(rng, manifest, lambda value: not isinstance(value, dict | list)) for _ in range(2))
    first[0][first[1]], second[0][second[1]] = second[0][second[1]], first[0][first[1]]
    return None


WORDS = {
    "precision": ["fp32", "fp16", "bf16", "int8", "fp8"], "kind": ["logits", "topk", "embedding", "features", "onnx", "plan"],
    "input_format": ["float", "uint8"], "dtype": ["float32", "uint8", "int64", "float16", "object", "U5"],
    "architecture": ["resnet18", "resnet50", "resnet:layers=1-1", "wide_resnet:depth=16", "x", "resnet20"],
    "candidate": ["eager", "onnxruntime:int8", "tensorrt:fp16", "openvino", "x:y", "onnxruntime:threads=2"],
    "flavour": ["tensorrt", "tensorrt-rtx", "zzz"], "version": ["1", "x", "99.0", "-"], "platform": ["x", "Linux-x86_64"],
    "compute_capability": ["0.0", "99.9"], "profiles": ["0:0:0", "9:1:4", "999999:1:1"], "name": ["", "input", "x" * 900],
    "method": ["max", "x"], "measured": ["", "yesterday", "2026-13-45T00:00:00"], "created": ["", "x", "0001-01-01T00:00:00"],
}  # fmt: skip
ANY_TEXT = ("", "x", "<script>alert(1)</script>", "\x1b]0;x\x07", "a\nb", "|" * 50, "\u202e", "x" * 9000, "--help")


def _plausible(rng: random.Random, manifest: Any) -> str | None:
    """A value of the same type, such as another manifest could have: most of these are opened."""
    container, key = _pick(rng, manifest, lambda value: True)
    old = container[key]
    others = [c[k] for c, k in _places(manifest) if k == key and type(c[k]) is type(old)]
    if isinstance(old, bool):
        new: Any = not old
    elif isinstance(old, int):
        new = rng.choice([0, 1, 2, 3, 7, 65536, WHOLE, 2**53, old + 1, *others[:3]])
    elif isinstance(old, float):
        new = rng.choice([0.0, 1e-300, 1e-9, 0.5, 1.0, 1e18, 1e300, old * 2, -old])
    elif isinstance(old, str):
        new = rng.choice(WORDS.get(key, ANY_TEXT) if rng.random() < 0.7 else others)
    elif isinstance(old, list):
        new = rng.choice([[], old * 2, old[::-1], old[:1], old[1:]])
    elif isinstance(old, dict):
        new = rng.choice([{}, dict(list(old.items())[:-1]), rng.choice(others)])
    else:
        new = rng.choice([1, "x", 0.5, [], {}])
    container[key] = new
    return None


def _named_classes(rng: random.Random, manifest: Any) -> str | None:
    """Names of classes as a folder could have them."""
    names = [rng.choice([text for text in ANY_TEXT if 0 < len(text) <= 1000]) for _ in range(manifest["model"]["num_classes"])]
    manifest["model"]["class_names"] = names
    return None


CHANGES: tuple[Callable[[random.Random, Any], str | None], ...] = (
    _not_finite, _other_type, _other_type, _other_type, _far, _far, _digest, _name, _target, _delete, _delete, _add, _deep,
    _words, _swap, *[_plausible] * 14, _named_classes,
)  # fmt: skip


def _text_change(rng: random.Random, text: str) -> tuple[str, str | None]:
    """What only text can have: keys that are there twice, depth that no writer reaches, literals of other kinds."""
    kind = rng.randrange(5)
    if kind == 0:
        return text.replace('"parity": {', '"parity": ' + '{"a": ' * 60 + "1" + "}" * 60 + ', "zzz": {', 1), None
    if kind == 1:
        depth = rng.choice([2_000, 100_000])
        return text.replace('"opset": 20', '"opset": ' + "[" * depth + "]" * depth, 1), "what is nested too deeply"
    if kind == 2:
        return text.replace('"num_classes": 10', '"num_classes": ' + "9" * rng.choice([400, 5_000]), 1), "num_classes of 10^400"
    if kind == 3:
        return text.replace('"schema_version": ', '"schema_version": 7, "schema_version": ', 1), None
    return text.replace('"num_classes": 10', '"num_classes": 1e999', 1), "num_classes of 1e999"


def _flip(rng: random.Random, manifest: Path) -> None:
    data = bytearray(manifest.read_bytes())
    for _ in range(rng.choice([1, 1, 3])):
        place = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[place : place + rng.choice([1, 10, len(data)])]
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.choice([1, 5]))
        else:
            data[place] = rng.choice(b'0123456789"{}[],:\\ \x00\xff')
        if not data:
            break
    manifest.write_bytes(data)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _pick(rng: random.Random, manifest: Any, wanted: Callable[[Any], Any]) -> tuple[Any, Any]:
    """A value, wherever it stands; every top-level section and every key's name as likely, however often it occurs."""
    sections = [key for key, value in manifest.items() if any(wanted(c[k]) for c, k in [(manifest, key), *_places(value)])]
    if not sections:
        return {"": 1.0}, ""
    section = rng.choice(sections)
    places: Places = [(c, k) for c, k in [(manifest, section), *_places(manifest[section])] if wanted(c[k])]
    names = sorted({str(key) for _, key in places})
    name = rng.choice(names)
    return rng.choice([place for place in places if str(place[1]) == name])


def _free(manifest: Any, container: Any) -> bool:
    """Whether a container stands where any JSON may stand."""
    free = [c[key] for c, key in _places(manifest) if isinstance(c, dict) and key in FREE]
    return any(container is item or any(container is c for c, _ in _places(item)) for item in free)


def _int_like(value: Any, key: str) -> bool:
    low, high = NUMBERS[key]
    return value is None or (type(value) in {int, float} and value == int(value) and low <= value <= high)


def _tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()}


def _foreign(name: str) -> bool:
    """Whether a file lies neither in the bundle nor in the output."""
    return not name.startswith(("a/b/bundle/", "a/b/out/"))
