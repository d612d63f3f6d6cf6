"""Which images are embedded, in which order, under which names."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from resnet_deploy._text import text_of
from resnet_deploy.errors import DataError
from resnet_deploy.serving.embedding import listing as module
from resnet_deploy.serving.embedding.listing import list_images


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(source: str | Path, scratch: Path) -> list[str]:
    found = list_images(source, scratch)
    with found.file:
        paths = [os.fsdecode(path) for path in found]
    assert found.count == len(paths)
    return paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    touch(*(root / name for name in ("b.jpg", "a/2.PNG", "a/1.jpeg", "a-b/x.webp", "a/deep/er/y.tif", "B.bmp")))
    touch(*(root / name for name in ("notes.txt", ".hidden.jpg", ".cache/c.jpg", "a/._1.jpeg")))
    return root


def test_a_folder_is_listed_as_pathlib_sorts(folder: Path, tmp_path: Path) -> None:
    wanted = [path for path in folder.rglob("*") if path.is_file() and "/." not in str(path) and path.suffix != ".txt"]
    assert listed(folder, tmp_path) == [str(path) for path in sorted(wanted)] and len(wanted) == 6
    assert not [path for path in tmp_path.iterdir() if path != folder], "scratch files have no name"


@pytest.mark.parametrize("run", [1, 2, 4, 6, 7])
def test_sorting_in_runs_gives_the_same(folder: Path, tmp_path: Path, run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = listed(folder, tmp_path)
    monkeypatch.setattr(module, "_RUN", run)
    assert listed(folder, tmp_path) == expected


def test_links_are_followed_but_not_round_in_circles(folder: Path, tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "z.jpg")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    found = listed(folder, tmp_path)
    assert str(folder / "linked" / "z.jpg") in found and len(found) == 8
    assert str(folder / "gone.jpg") in found, "it is told as a bad image"


def test_globs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert listed("*.jpg", tmp_path) == ["b.jpg"]
    assert listed("**/*.*p*", tmp_path) == ["B.bmp", "a/1.jpeg", "a-b/x.webp", "b.jpg"]
    touch(folder / "odd[1].jpg")
    assert listed("odd[1].jpg", tmp_path) == ["odd[1].jpg"], "a name that is there is no pattern"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"z.jpg\na.jpg\nz.jpg\n", ["z.jpg", "a.jpg", "z.jpg"]),
        (b"\xef\xbb\xbfz.jpg\r\n\r\nb c.jpg", ["z.jpg", "b c.jpg"]),
        (b"new\nline.jpg\0a.jpg\0", ["new\nline.jpg", "a.jpg"]),
        ("ü/日本.jpg\n".encode() + b"\xff.jpg\n", ["ü/日本.jpg", "\udcff.jpg"]),
    ],
    ids=["as it is", "from Windows", "of print0", "of any bytes"],
)
def test_lists(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    (tmp_path / "list").write_bytes(content)
    assert listed(tmp_path / "list", tmp_path) == expected


def test_one_image_is_a_list_of_one(folder: Path, tmp_path: Path) -> None:
    assert listed(folder / "b.jpg", tmp_path) == [str(folder / "b.jpg")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", None, "has no images"),
        ("list.txt", b"\n\n", "has no images"),
        ("absent", "", "does not exist; give a folder of images, a glob"),
        ("*.jpg", "", "has no images"),
        ("arrays.npz", b"x", "embeddings are of image files"),
        ("weights", b"x" * 3_000_000, "is no list of paths: one is longer than 65,536 bytes"),
    ],
)
def test_nothing_to_list(tmp_path: Path, name: str, content: bytes | str | None, message: str) -> None:
    if content is None:
        (tmp_path / name).mkdir()
    elif isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        listed(tmp_path / name, tmp_path)


def test_the_hash_is_of_names_sizes_and_times(folder: Path, tmp_path: Path) -> None:
    def sha256() -> str:
        return list_images(folder, tmp_path).sha256

    first = sha256()
    assert sha256() == first
    os.utime(folder / "b.jpg", ns=(1, 1))
    second = sha256()
    (folder / "b.jpg").rename(folder / "c.jpg")
    assert len({first, second, sha256()}) == 3


def test_batches_of_ranges(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n".join(map(str, range(20))))
    with (found := list_images(tmp_path / "list", tmp_path)).file:
        for _ in range(2):  # the listing can be read again
            batches = list(found.batches([(0, 3), (7, 12), (19, 20)], 4))
            assert [(at, [int(path) for path in paths]) for at, paths in batches] == [
                (0, [0, 1, 2]), (7, [7, 8, 9, 10]), (11, [11]), (19, [19]),
            ]  # fmt: skip


def test_names_that_are_no_text() -> None:
    assert text_of("ü\n.jpg".encode()) == "ü\n.jpg"
    assert text_of(b"/a b/\xff\xc3\xbc.jpg") == "file:///a%20b/%FF%C3%BC.jpg"
    assert text_of(b"\xff.jpg") == f"{Path.cwd().as_uri()}/%FF.jpg"


def test_memory_is_flat_in_the_number_of_paths(tmp_path: Path) -> None:
    """Two hundred thousand names, unsorted and then sorted; as a list they would take 20 MB."""
    names = (b"%d/%s.jpg" % (number * 7919 % 200_003, b"n" * 40) for number in range(200_000))
    tracemalloc.start()
    try:
        file = list_images_sorted(names, tmp_path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file == 200_000 and peak_bytes < 16e6, peak_bytes


def list_images_sorted(names: object, scratch: Path) -> int:
    previous = b""
    count = 0
    for path in module._sorted(names, scratch):  # type: ignore[arg-type]
        key = module._key(path)
        assert previous <= key
        previous, count = key, count + 1
    return count
