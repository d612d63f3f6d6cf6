"""`embed` and what a disk, a power failure or a person changed: computed again or refused, never believed."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import DataError, DeployError, OutputError, StorageError
from tests.helpers.embedding import command, killed, photograph, photographs

pytestmark = pytest.mark.slow

pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")

FLIPS = range(60)
OPTIONS = {"batch": 4, "threads": 1, "workers": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen files, of which one is bad."""
    folder = photographs(tmp_path_factory.mktemp("images"), 14)
    (folder / "000" / "00006.jpg").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def whole(digits_bundle: Bundle, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run to which nothing happened."""
    folder = tmp_path_factory.mktemp("whole")
    rd.embed(digits_bundle, images, folder / "out.parquet", **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def unfinished(digits_bundle: Bundle, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed: three parts of four, as if the last had not been done."""
    folder = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        parts = killed(digits_bundle, images, folder / "out.parquet", patch)
    files = sorted(parts.glob("[0-9]*.parquet"))
    assert len(files) == 4
    files[-1].unlink()
    return folder


def made(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "out.parquet").read_bytes(), (folder / "out.bad.csv").read_bytes()


def flip(path: Path, chosen: random.Random) -> None:
    data = bytearray(path.read_bytes())
    at = chosen.randrange(len(data) * 8)
    data[at // 8] ^= 1 << at % 8
    path.write_bytes(data)


@pytest.mark.parametrize("seed", FLIPS)
def test_a_flipped_bit_in_a_killed_run(
    digits_bundle: Bundle, images: Path, whole: Path, unfinished: Path, tmp_path: Path, seed: int
) -> None:
    """The same table, or an error; never another table, and never a state that nobody gets out of."""
    chosen, folder = random.Random(seed), tmp_path / "work"
    shutil.copytree(unfinished, folder)
    files = sorted((folder / "out.parquet.parts").iterdir())
    assert files[-1].name == "request.json" and len(files) == 4
    damaged = files[-1] if seed % 3 == 0 else chosen.choice(files[:-1])
    flip(damaged, chosen)
    output = folder / "out.parquet"
    embedding = rd.embed(digits_bundle, images, output, **OPTIONS)
    assert made(folder) == made(whole)
    assert embedding.before == (12 if damaged.name == "request.json" else 8), "more was computed again than was damaged"
    assert not (folder / "out.parquet.parts").exists()
    if damaged.name != "request.json":
        assert "1 of 3 parts" in embedding.warnings[0] and "computed again" in embedding.warnings[0]


@pytest.mark.parametrize("seed", FLIPS[:12])
def test_several_flipped_bits(
    digits_bundle: Bundle, images: Path, whole: Path, unfinished: Path, tmp_path: Path, seed: int
) -> None:
    """In every file of the run: then it may be lost, but it says so, and --overwrite goes on."""
    chosen, folder = random.Random(seed), tmp_path / "work"
    shutil.copytree(unfinished, folder)
    for path in sorted((folder / "out.parquet.parts").iterdir()):
        flip(path, chosen)
    try:
        rd.embed(digits_bundle, images, folder / "out.parquet", **OPTIONS)
    except OutputError as exc:
        assert "--overwrite" in str(exc)
        rd.embed(digits_bundle, images, folder / "out.parquet", overwrite=True, **OPTIONS)
    assert made(folder) == made(whole)


@pytest.mark.parametrize("seed", FLIPS)
def test_a_flipped_bit_in_a_finished_run(digits_bundle: Bundle, images: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    chosen, folder = random.Random(seed), tmp_path / "work"
    shutil.copytree(whole, folder)
    output, table = folder / "out.parquet", folder / "out.bad.csv"
    damaged = (output, output, output, table)[seed % 4]
    flip(damaged, chosen)
    with pytest.raises(OutputError, match=rf"{damaged.name}.*--overwrite"):
        rd.embed(digits_bundle, images, output, **OPTIONS)
    if damaged == table:  # it may be the user's edit
        with pytest.raises(OutputError, match="Move it away"):
            rd.embed(digits_bundle, images, output, overwrite=True, **OPTIONS)
        table.unlink()
    elif seed % 8 == 0:
        table.unlink()
    rd.embed(digits_bundle, images, output, overwrite=True, **OPTIONS)
    assert made(folder) == made(whole)


def test_a_part_that_is_another_part(
    digits_bundle: Bundle, images: Path, whole: Path, unfinished: Path, tmp_path: Path
) -> None:
    """A whole one under another one's name, with its own checksum or the other's; and one of another request."""
    folder = tmp_path / "work"
    shutil.copytree(unfinished, folder)
    parts = folder / "out.parquet.parts"
    first, second, third = sorted(parts.glob("[0-9]*.parquet"))
    second.write_bytes(first.read_bytes())
    third.rename(parts / f"{third.name[:25]}.{first.name[26:]}")
    embedding = rd.embed(digits_bundle, images, folder / "out.parquet", **OPTIONS)
    assert "2 of 3 parts" in embedding.warnings[0] and made(folder) == made(whole)

    with pytest.MonkeyPatch.context() as patch:
        other = killed(digits_bundle, images, tmp_path / "other.parquet", patch)
        changed = tmp_path / "changed"
        shutil.copytree(unfinished, changed)
        (other / "request.json").write_bytes((changed / "out.parquet.parts" / "request.json").read_bytes())
    for path in (changed / "out.parquet.parts").glob("[0-9]*.parquet"):
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        limited = killed_with(digits_bundle, images, tmp_path / "limited.parquet", patch)
    for path in limited.glob("[0-9]*.parquet"):
        shutil.copy(path, changed / "out.parquet.parts")
    embedding = rd.embed(digits_bundle, images, changed / "out.parquet", **OPTIONS)
    assert embedding.before == 0 and made(changed) == made(whole)


def killed_with(bundle: Bundle, images: Path, output: Path, patch: pytest.MonkeyPatch) -> Path:
    """As `killed`, of a request with another limit."""

    def stop(self: object) -> None:
        raise KeyboardInterrupt

    patch.setattr("resnet_deploy.serving.embedding.output.Output.finish", stop)
    with pytest.raises(KeyboardInterrupt):
        rd.embed(bundle, images, output, max_megapixels=50, checkpoint=0, **OPTIONS)
    return output.with_name(f"{output.name}.parts")


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    values = json.loads(path.read_bytes())
    change(values)
    path.write_text(json.dumps(values, indent=1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: values["request"].update(backend="eager"), "its SHA-256 is not the one that it records"),
        (lambda values: values["request"]["images"].update(count=-1), r"request.images.count: .*>= 1"),
        (lambda values: values["request"]["images"].update(count=True), r"request.images.count: Expected int, got bool"),
        (lambda values: values["request"].update(packages=[]), "request.packages: Expected object, got array"),
        (lambda values: values["request"].pop("file"), "request: .*missing.*file"),
        (lambda values: values["request"].update(file="../../etc"), "request.file: .*match"),
        (
            lambda values: values["request"]["preprocessing"].update(crop=0),
            "crop is 0; it must be a whole number of pixels from 1 to",
        ),
        (lambda values: values.update(request=None), "request: Expected object, got null"),
    ],
)
def test_an_edited_request(
    digits_bundle: Bundle,
    images: Path,
    whole: Path,
    unfinished: Path,
    tmp_path: Path,
    change: Callable[[dict[str, object]], object],
    reason: str,
) -> None:
    """Where the parts prove whose they are, they are kept; else the wrong field is named, and --overwrite starts anew."""
    folder = tmp_path / "work"
    shutil.copytree(unfinished, folder)
    output, request = folder / "out.parquet", folder / "out.parquet.parts" / "request.json"
    edit(request, change)
    shutil.copytree(folder, tmp_path / "again")
    embedding = rd.embed(digits_bundle, images, output, **OPTIONS)
    assert made(folder) == made(whole) and embedding.before == 12
    assert embedding.warnings[0].startswith(f"{request} was changed or damaged. The parts are this request's nonetheless")

    folder = tmp_path / "again"
    for path in (folder / "out.parquet.parts").glob("[0-9]*.parquet"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(OutputError, match=rf"request.json was changed or damaged: .*{reason}.*--overwrite"):
        rd.embed(digits_bundle, images, folder / "out.parquet", **OPTIONS)
    rd.embed(digits_bundle, images, folder / "out.parquet", overwrite=True, **OPTIONS)
    assert made(folder) == made(whole)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_request_that_is_gone(
    digits_bundle: Bundle, images: Path, whole: Path, unfinished: Path, tmp_path: Path, overwrite: bool
) -> None:
    folder = tmp_path / "work"
    shutil.copytree(unfinished, folder)
    (folder / "out.parquet.parts" / "request.json").unlink()
    done = command(digits_bundle.path, images, "-o", folder / "out.parquet", "--batch", "4", *["--overwrite"] * overwrite)
    assert done.returncode == 0 and "12 by earlier runs" in done.stdout and made(folder) == made(whole)
    assert "Warning: " in done.stderr and "request.json was missing. The parts are this request's nonetheless" in done.stderr


def test_an_edited_output(digits_bundle: Bundle, images: Path, whole: Path, tmp_path: Path) -> None:
    """By another program, which keeps the metadata or does not; in its rows; by another run's metadata."""
    folder = tmp_path / "work"
    shutil.copytree(whole, folder)
    output = folder / "out.parquet"
    table, metadata = pq.read_table(whole / "out.parquet"), pq.read_metadata(whole / "out.parquet").metadata
    kept = {name: value for name, value in metadata.items() if name != b"ARROW:schema"}

    def refused(message: str) -> None:
        with pytest.raises(OutputError, match=rf"out.parquet.*{message}.*--overwrite"):
            rd.embed(digits_bundle, images, output, **OPTIONS)

    pq.write_table(table.slice(1).replace_schema_metadata(kept), output)
    refused("was changed or damaged after `embed` had written it")
    pq.write_table(table.replace_schema_metadata({b"resnet_deploy": kept[b"resnet_deploy"]}), output)
    refused("was changed after `embed` had written it: its SHA-256 is missing")
    pq.write_table(table.replace_schema_metadata(None), output)
    refused("is no output of `embed`")
    output.write_bytes((whole / "out.parquet").read_bytes() + b"more")
    refused("is no output of `embed`")
    output.write_bytes((whole / "out.parquet").read_bytes()[:-100])
    refused("is no output of `embed`")
    rd.embed(digits_bundle, images, output, overwrite=True, **OPTIONS)
    assert made(folder) == made(whole)


def test_a_disk_that_spoils_a_part_while_it_is_needed(digits_bundle: Bundle, images: Path, whole: Path, tmp_path: Path) -> None:
    """Between its writing and the joining: computed again, twice at most, and then it is the disk's fault."""
    chosen = random.Random(0)

    def spoil(times: int) -> Callable[[str, int, int | None], None]:
        left = [times]

        def progress(what: str, done: int, total: int | None) -> None:
            if what == "finish" and left[0]:
                left[0] -= 1
                flip(min((tmp_path / "out.parquet.parts").glob("[0-9]*.parquet")), chosen)

        return progress

    embedding = rd.embed(digits_bundle, images, tmp_path / "out.parquet", progress=spoil(2), checkpoint=0, **OPTIONS)
    assert made(tmp_path) == made(whole) and embedding.before == 0
    assert len(embedding.warnings) == 2 and "was not what this run had written" in embedding.warnings[0]
    with pytest.raises(StorageError, match=r"is not what was written, again and again. Choose a folder on another disk"):
        rd.embed(digits_bundle, images, tmp_path / "out.parquet", overwrite=True, progress=spoil(9), checkpoint=0, **OPTIONS)
    assert made(tmp_path) == made(whole), "the earlier output is there until its successor is whole"


def test_parts_that_are_removed_while_they_are_needed(digits_bundle: Bundle, images: Path, whole: Path, tmp_path: Path) -> None:
    """One of them, at either end or in the middle; and the whole folder."""
    folder = tmp_path / "out.parquet.parts"
    indices = iter((0, -1))

    def remove(what: str, done: int, total: int | None) -> None:
        if what == "finish" and (index := next(indices, None)) is not None:
            sorted(folder.glob("[0-9]*.parquet"))[index].unlink()

    embedding = rd.embed(digits_bundle, images, tmp_path / "out.parquet", progress=remove, checkpoint=0, **OPTIONS)
    assert made(tmp_path) == made(whole) and len(embedding.warnings) == 2
    assert "was removed while the run used it; its images were computed again" in embedding.warnings[0]

    moments = {0, 8, 14}

    def remove_all(what: str, done: int, total: int | None) -> None:
        if what == "embed" and done in moments:
            moments.remove(done)
            (tmp_path / "b.parquet.parts").rename(tmp_path / f"removed {done}")

    while moments:
        with pytest.raises(StorageError, match=r"b.parquet.parts was removed, .* Run the command again"):
            rd.embed(
                digits_bundle, images, tmp_path / "b.parquet", overwrite=True, progress=remove_all, checkpoint=0, **OPTIONS
            )
    rd.embed(digits_bundle, images, tmp_path / "b.parquet", **OPTIONS)
    assert (tmp_path / "b.parquet").read_bytes() == (whole / "out.parquet").read_bytes()


# Images.


@pytest.mark.parametrize("finished", [False, True], ids=["killed", "finished"])
def test_an_image_that_changed_under_the_same_size_and_time(digits_bundle: Bundle, tmp_path: Path, finished: bool) -> None:
    folder = photographs(tmp_path / "images", 5)
    image, output = folder / "000" / "00002.jpg", tmp_path / "out.parquet"
    if finished:
        rd.embed(digits_bundle, folder, output, **OPTIONS)
    else:
        with pytest.MonkeyPatch.context() as patch:
            killed(digits_bundle, folder, output, patch)
    before = image.stat()
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.write_bytes(data)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(OutputError, match=r"an image's name, size or time of change is another\). .* --overwrite"):
        rd.embed(digits_bundle, folder, output, **OPTIONS)
    rd.embed(digits_bundle, folder, output, overwrite=True, **OPTIONS)
    rd.embed(digits_bundle, folder, tmp_path / "anew.parquet", **OPTIONS)
    assert output.read_bytes() == (tmp_path / "anew.parquet").read_bytes()


def test_what_is_no_file_among_the_images(digits_bundle: Bundle, tmp_path: Path) -> None:
    """Each is a bad image with its reason, in a folder and by a glob; nothing hangs, and the good ones are embedded."""
    folder = photographs(tmp_path / "images", 3) / "000"
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "nowhere.jpg").symlink_to(folder / "gone.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.jpg")
    wanted = [
        "path,reason",
        f"{folder}/loop.jpg,Too many levels of symbolic links",
        f"{folder}/nowhere.jpg,No such file or directory",
        f"{folder}/pipe.jpg,not a file",
        f"{folder}/zero.jpg,not a file",
    ]
    for name, source in {"folder": tmp_path / "images", "glob": f"{tmp_path}/images/*/*.jpg"}.items():
        done = command(digits_bundle.path, source, "-o", tmp_path / f"{name}.parquet", timeout=120)
        assert done.returncode == 0 and "4 of 7 images are bad" in done.stderr, done.stderr
        assert (tmp_path / f"{name}.bad.csv").read_text().splitlines() == wanted
        assert pq.read_table(tmp_path / f"{name}.parquet")["path"].to_pylist() == [
            str(folder / f"0000{i}.jpg") for i in range(3)
        ]
        assert rd.embed(digits_bundle, source, tmp_path / f"{name}.parquet").before == 7, "it is another request each time"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to("/dev/zero"), "is a device; give a folder, a glob, or a file"),
        (lambda path: path.symlink_to(path), "is a link that leads nowhere, or to itself"),
        (lambda path: path.symlink_to(path.with_name("gone")), "is a link that leads nowhere, or to itself"),
        (os.mkfifo, "has no images"),
        (lambda path: path.write_bytes(bytes(200_000)), "is no list of paths: 65,536 bytes have none"),
        (lambda path: path.write_bytes(b"\n" * 200_000), "is no list of paths: 65,536 bytes have none"),
    ],
    ids=["a device", "a loop", "a dead end", "a pipe that nobody writes to", "zeros", "empty lines"],
)
def test_what_is_no_list(digits_bundle: Bundle, tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "list")
    with pytest.raises(DataError, match=message):
        rd.embed(digits_bundle, tmp_path / "list", tmp_path / "out.parquet")


def test_a_pipe_may_be_a_list(digits_bundle: Bundle, tmp_path: Path) -> None:
    """As `embed DIR <(find ...)` gives it."""
    photograph(1).save(tmp_path / "a.jpg")
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as file:  # noqa: PTH123 (a descriptor)
            file.write(os.fsencode(tmp_path / "a.jpg"))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert rd.embed(digits_bundle, f"/dev/fd/{reading}", tmp_path / "out.parquet").images == 1
    finally:
        thread.join()
        os.close(reading)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9, float("nan"), float("inf")])
def test_limits_that_are_none(digits_bundle: Bundle, images: Path, tmp_path: Path, value: float) -> None:
    with pytest.raises(DeployError, match="max_megapixels must be"):
        rd.embed(digits_bundle, images, tmp_path / "out.parquet", max_megapixels=value)
    if value:
        with pytest.raises(DeployError, match="checkpoint must be"):
            rd.embed(digits_bundle, images, tmp_path / "out.parquet", checkpoint=min(value, -value))
