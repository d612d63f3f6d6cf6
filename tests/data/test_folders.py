"""Folders as users have them: names that are no text, links, pipes and devices among the images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_deploy._json import decode, encode
from resnet_deploy.data.dataset import Dataset
from resnet_deploy.data.sources import open_data
from resnet_deploy.errors import DataError
from resnet_deploy.specs import InputFormat, Preprocessing


def opened(source: Any, **options: Any) -> Dataset:
    return open_data(source, preprocessing=Preprocessing(resize=8, crop=8), input_format=InputFormat.UINT8, **options)


def save(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value,) * 3).save(path, "PNG")
    return path


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder whose name and whose images' names are no UTF-8."""
    root = tmp_path / os.fsdecode(b"im\xe4ges")
    for number, name in enumerate((b"a.png", b"caf\xe9.png", b"\xff\xfe.png")):
        save(root / os.fsdecode(name), number)
    return root


def test_names_that_are_no_utf8_are_read(odd: Path) -> None:
    dataset = opened(odd)
    assert sorted(int(image.max()) for batch in dataset.batches(2) for image in batch.images) == [0, 1, 2]
    assert len(dataset.sha256) == 64 and dataset.sha256 == opened(odd).sha256


def test_names_that_are_no_utf8_can_be_recorded_and_printed(odd: Path) -> None:
    (odd / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no image")
    dataset = opened(odd)
    assert sum(len(batch.images) for batch in dataset.batches(2)) == 2
    (bad,) = dataset.skipped
    for text in (dataset.source, bad.name, bad.reason, opened(odd, limit=2).source):
        text.encode()
        assert decode(encode({"text": text}), dict[str, str]) == {"text": text} == json.loads(json.dumps({"text": text}))
    assert dataset.source == odd.as_uri() and bad.name.startswith("file:///") and bad.name.endswith("im%E4ges/caf%E9.png")
    with pytest.raises(DataError) as caught:
        list(opened(odd, strict=True).batches(3))
    str(caught.value).encode()


def test_a_class_must_have_a_name_that_is_text(tmp_path: Path) -> None:
    save(tmp_path / os.fsdecode(b"caf\xe9") / "a.png")
    save(tmp_path / "tea" / "a.png")
    with pytest.raises(DataError, match=r"has a class whose name is no UTF-8 text \('caf\\udce9'\); rename it") as caught:
        opened(tmp_path)
    str(caught.value).encode()
    assert opened(tmp_path, labels_needed=False).labels is None


def test_a_folder_that_is_absent_has_a_name_that_is_printed(tmp_path: Path) -> None:
    for name in (b"\xff", b"\xff.npz"):
        with pytest.raises(DataError, match=r"%FF.* does not exist") as caught:
            opened(tmp_path / os.fsdecode(name))
        str(caught.value).encode()


def test_what_is_no_regular_file_is_skipped_by_name(tmp_path: Path) -> None:
    save(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    dataset = opened(tmp_path)
    assert sum(len(batch.images) for batch in dataset.batches(3)) == 1
    assert {Path(bad.name).name: bad.reason for bad in dataset.skipped} == {
        "pipe.png": "not a file",
        "zero.png": "not a file",
        "loop.png": "Too many levels of symbolic links",
        "gone.png": "No such file or directory",
        "sparse.png": "1,024.0 GiB, more than the 1 GiB that an image may have",
    }
    assert dataset.sha256 == opened(tmp_path).sha256
    with pytest.raises(DataError, match=r"gone.png: No such file or directory. Remove it, or run without --strict"):
        list(opened(tmp_path, strict=True).batches(3))


def test_links_to_folders_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "cat" / "a.png")
    save(root / "dog" / "a.png")
    save(tmp_path / "elsewhere" / "b.png")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "self").symlink_to(root / "cat" / "self")
    (root / "dog" / "more").symlink_to(tmp_path / "elsewhere")
    names = [opened(root).name_of(number) for number in range(len(opened(root)))]
    assert str(root / "dog" / "more" / "b.png") in names and len(set(names)) == len(names) < 20


def test_a_folder_with_the_suffix_of_an_image_is_a_folder(tmp_path: Path) -> None:
    save(tmp_path / "cats.png" / "a.png")
    save(tmp_path / "dogs.jpg" / "b.jpg" / "a.png")
    dataset = opened(tmp_path)
    assert len(dataset) == 2 and dataset.class_names == ("cats.png", "dogs.jpg") and not dataset.skipped


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is neither a folder nor a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is neither a folder nor a file"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to(path / "nowhere"), "cannot be read|does not exist"),
        (lambda path: path.write_bytes(b""), r"not a whole \.npz file"),
    ],
)
def test_a_source_that_is_no_data(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "data")


@pytest.mark.parametrize("text", ["x" * 5000, "a\0b", "", "\udcff"])
def test_a_source_that_is_no_path(text: str) -> None:
    with pytest.raises(DataError, match=r"cannot be read: File name too long|does not exist|has no images") as caught:
        opened(text)
    str(caught.value).encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "deep" / "a.png")
    (tmp_path / "cat" / "deep").chmod(0)
    try:
        with pytest.raises(DataError, match="cannot be read: Permission denied"):
            opened(tmp_path)
    finally:
        (tmp_path / "cat" / "deep").chmod(0o700)


def test_names_may_be_anything_in_the_digest(tmp_path: Path) -> None:
    digests = set()
    for name in ("a.png", "b.png"):
        root = tmp_path / name.removesuffix(".png")
        save(root / name)
        digests.add(opened(root).sha256)
        np.testing.assert_array_equal(opened(root).read(0), 0)
    assert len(digests) == 2
