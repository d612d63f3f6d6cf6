"""`embed` and what is the user's: nothing is replaced, deleted or followed that an earlier run of it did not write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import DataError, OutputError
from tests.serving.images import command, photograph, photographs

pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve files, of which one is bad."""
    folder = photographs(tmp_path_factory.mktemp("images"), 12)
    (folder / "001" / "00011.jpg").write_bytes(b"")
    return folder


def killed(bundle: Bundle, images: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of parts that a run leaves which ends before the output is made of them."""

    def stop(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("resnet_deploy.serving.embedding.output.Output.finish", stop)
        with pytest.raises(KeyboardInterrupt):
            rd.embed(bundle, images, output, batch=4, threads=1, checkpoint=0)
    return output.with_name(f"{output.name}.parts")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(bundle: Bundle, images: Path, output: Path, message: str) -> None:
    """Without --overwrite and with it, and nothing changes."""
    before = contents(output.parent)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=message) as error:
            rd.embed(bundle, images, output, overwrite=overwrite, batch=4, threads=1)
        assert "another output" in str(error.value)
        lock = f".{output.name}.lock"
        assert {**contents(output.parent), lock: b""} == {**before, lock: b""}


@pytest.mark.parametrize("text", ["mine", "path,reason\nold,old\n", "path,reason\r\nold,old\r\n", ""])
def test_a_table_of_the_users_stays(digits_bundle: Bundle, images: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "out.bad.csv").write_bytes(text.encode())
    refused(digits_bundle, images, tmp_path / "out.parquet", r"out.bad.csv would be replaced .* Move it away")
    (tmp_path / "out.bad.csv").rename(tmp_path / "mine.csv")
    assert rd.embed(digits_bundle, images, tmp_path / "out.parquet").bad == 1


def test_a_table_of_an_earlier_run_does_not_stay(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    output, table = tmp_path / "out.parquet", tmp_path / "out.bad.csv"
    assert rd.embed(digits_bundle, images, output).bad_table == table
    assert rd.embed(digits_bundle, images / "000", output, overwrite=True).bad == 0 and not table.exists()
    assert rd.embed(digits_bundle, images, output, overwrite=True).bad_table == table
    output.unlink()
    assert rd.embed(digits_bundle, images / "000", output).bad == 0 and not table.exists()


def test_a_table_of_nothing_but_bad_images_is_replaced(digits_bundle: Bundle, tmp_path: Path) -> None:
    """There is no output then that would tell whose it is."""
    (tmp_path / "images").mkdir()
    for content in (b"", b"no image"):
        (tmp_path / "images" / "a.jpg").write_bytes(content)
        with pytest.raises(DataError, match="none of the 1 images can be embedded"):
            rd.embed(digits_bundle, tmp_path / "images", tmp_path / "out.parquet")
    photograph(1).save(tmp_path / "images" / "a.jpg")
    assert rd.embed(digits_bundle, tmp_path / "images", tmp_path / "out.parquet").bad == 0
    assert not (tmp_path / "out.bad.csv").exists()


def test_a_table_that_the_user_has_edited_is_the_users(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    output, table = tmp_path / "out.parquet", tmp_path / "out.bad.csv"
    rd.embed(digits_bundle, images, output)
    whole = table.read_bytes()
    table.write_bytes(whole + b"a note of mine\n")
    with pytest.raises(OutputError, match=r"the table of the 1 bad images of .*out.parquet, is not what was written"):
        rd.embed(digits_bundle, images, output)
    refused(digits_bundle, images / "000", output, r"is not what `embed` wrote. Move it away|made by another request")
    table.unlink()
    with pytest.raises(OutputError, match=r"out.bad.csv, the table .* is missing. Put it back, .* --overwrite"):
        rd.embed(digits_bundle, images, output)
    table.write_bytes(whole)
    assert rd.embed(digits_bundle, images, output).before == 12
    table.unlink()
    assert rd.embed(digits_bundle, images, output, overwrite=True).bad == 1 and table.read_bytes() == whole


def test_a_table_is_known_without_the_lock(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    """As where both were copied elsewhere: the output has its checksum."""
    rd.embed(digits_bundle, images, tmp_path / "out.parquet")
    (tmp_path / ".out.parquet.lock").unlink()
    assert rd.embed(digits_bundle, images / "000", tmp_path / "out.parquet", overwrite=True).bad == 0


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": b"mine"}, "out.parquet.parts has notes.txt, which `embed` did not write"),
        ({"000000000000-000000000012.parquet": b"mine"}, "request.json is missing. Move .*out.parquet.parts away"),
        ({"request.json": b'{"url": "https://example.org"}'}, "request.json is no request of `embed`: .*request"),
        ({"request.json": b'["a", "list"]', "table.parquet": b"mine"}, "has table.parquet, which `embed` did not write"),
        ({"request.json": b"\x00\xff"}, "request.json is no request of `embed`: it is not JSON"),
        ({".hidden": b"mine"}, "has .hidden, which `embed` did not write"),
    ],
    ids=["a note", "a part's name", "a request", "a table", "no text", "hidden"],
)
def test_a_folder_of_the_users_stays(
    digits_bundle: Bundle, images: Path, tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    refused(digits_bundle, images, tmp_path / "out.parquet", message)
    folder.rename(tmp_path / "mine")
    assert rd.embed(digits_bundle, images, tmp_path / "out.parquet").images == 12


def test_a_note_among_the_parts_stays(
    digits_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed(digits_bundle, images, tmp_path / "out.parquet", monkeypatch)
    (folder / "notes.txt").write_text("mine")
    refused(digits_bundle, images, tmp_path / "out.parquet", "has notes.txt, which `embed` did not write. Move it out of that")
    (folder / "notes.txt").rename(tmp_path / "notes.txt")
    assert rd.embed(digits_bundle, images, tmp_path / "out.parquet", batch=4, threads=1).before == 12


def test_what_comes_while_it_runs_stays(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    """A note and a table, by a user who is quick."""

    def meddle(what: str, done: int, total: int | None) -> None:
        if what == "finish":
            (tmp_path / "out.parquet.parts" / "notes.txt").write_text("mine")

    rd.embed(digits_bundle, images, tmp_path / "out.parquet", progress=meddle)
    assert contents(tmp_path / "out.parquet.parts") == {"notes.txt": b"mine"}
    assert rd.embed(digits_bundle, images, tmp_path / "out.parquet").before == 12, (
        "a complete output is no matter of the folder"
    )
    assert contents(tmp_path / "out.parquet.parts") == {"notes.txt": b"mine"}

    def write(what: str, done: int, total: int | None) -> None:
        if what == "finish":
            (tmp_path / "b.bad.csv").write_text("mine")

    with pytest.raises(OutputError, match=r"b\.bad\.csv would be replaced"):
        rd.embed(digits_bundle, images, tmp_path / "b.parquet", progress=write)
    assert (tmp_path / "b.bad.csv").read_text() == "mine"
    (tmp_path / "b.bad.csv").unlink()
    assert rd.embed(digits_bundle, images, tmp_path / "b.parquet").before == 12, "the work was lost"


@pytest.mark.parametrize("name", ["out.parquet", "out.parquet.parts", "out.bad.csv", ".out.parquet.lock"])
@pytest.mark.parametrize("leads", ["somewhere", "nowhere", "to itself"])
def test_links_are_not_followed(digits_bundle: Bundle, images: Path, tmp_path: Path, name: str, leads: str) -> None:
    (tmp_path / "here").mkdir()
    target = tmp_path / "elsewhere"
    if name.endswith("parts"):
        target.mkdir()
        for inner in ("request.json", "000000000000-000000000012.parquet", "photo.parquet"):
            (target / inner).write_bytes(b"mine")
    else:
        target.write_bytes(b"mine")
    link = tmp_path / "here" / name
    link.symlink_to({"somewhere": target, "nowhere": tmp_path / "gone", "to itself": link}[leads])
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=f"{name} is .*(symbolic link|not a folder of ours|is none).*another output"):
            rd.embed(digits_bundle, images, tmp_path / "here" / "out.parquet", overwrite=overwrite)
    assert link.is_symlink() and {**contents(tmp_path), "here/.out.parquet.lock": b""} == {
        **before,
        "here/.out.parquet.lock": b"",
    }


@pytest.mark.parametrize("name", ["request.json", "000000000000-000000000004.{}.parquet".format("0" * 32), ".part.unfinished"])
def test_a_link_among_the_parts(
    digits_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = killed(digits_bundle, images, tmp_path / "out.parquet", monkeypatch)
    (tmp_path / "mine").write_bytes(b"mine")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "mine")
    refused(digits_bundle, images, tmp_path / "out.parquet", "which `embed` did not write")
    assert (folder / name).is_symlink()


@pytest.mark.parametrize("name", ["out.parquet", "out.parquet.parts", "out.bad.csv", ".out.parquet.lock"])
def test_pipes_in_the_way(digits_bundle: Bundle, images: Path, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=f"{name} is .*(no regular file|not a folder of ours|is none).*another output"):
            rd.embed(digits_bundle, images, tmp_path / "out.parquet", overwrite=overwrite)


@pytest.mark.parametrize("content", [b"mine", b"12345\n"])
def test_a_file_in_the_place_of_the_lock(digits_bundle: Bundle, images: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".out.parquet.lock").write_bytes(content)
    with pytest.raises(OutputError, match="is in the place of the output's lock and is none; move it away"):
        rd.embed(digits_bundle, images, tmp_path / "out.parquet")
    assert (tmp_path / ".out.parquet.lock").read_bytes() == content


def test_a_lock_whose_last_line_was_lost(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    """As a power failure leaves it: then the table is not known, and the next one is, all the same."""
    output, lock = tmp_path / "out.parquet", tmp_path / ".out.parquet.lock"
    rd.embed(digits_bundle, images, output)
    lock.write_bytes(lock.read_bytes()[:-30] + b"\0\0\0")
    assert rd.embed(digits_bundle, images, output, overwrite=True).bad == 1, "the output knows its table"
    output.unlink()
    assert rd.embed(digits_bundle, images, output).bad == 1


def test_the_command_says_so(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out.bad.csv").write_text("mine")
    done: Any = command(digits_bundle.path, images, "-o", tmp_path / "out.parquet", "--overwrite")
    assert done.returncode == 2 and "Move it away" in done.stderr and "Traceback" not in done.stderr
