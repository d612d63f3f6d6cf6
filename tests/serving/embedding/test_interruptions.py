"""What a person or a machine does to a running `embed`: SIGKILL at any moment, Ctrl-C, a full disk, a folder that refuses."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from tests.helpers.embedding import command, photographs
from tests.helpers.paths import ROOT
from tests.helpers.processes import COMMAND, in_namespace

pytestmark = pytest.mark.slow

pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")

EVERY_BATCH = ("--checkpoint", "0s", "--batch", "4", "--threads", "1")
COUNT = 300


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hundred files, of which two are bad."""
    folder = photographs(tmp_path_factory.mktemp("images"), COUNT)
    (folder / "007" / "00077.jpg").write_bytes(b"")
    (folder / "020" / "00200.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def whole(digits_bundle: Bundle, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """The bytes of the output and of the bad table where nothing went wrong."""
    folder = tmp_path_factory.mktemp("whole")
    rd.embed(digits_bundle, images, folder / "out.parquet", batch=4, threads=1)
    return (folder / "out.parquet").read_bytes(), (folder / "out.bad.csv").read_bytes()


def made(folder: Path) -> tuple[bytes, bytes]:
    """What a finished run left, and that it left nothing else."""
    assert sorted(path.name for path in folder.iterdir()) == [".out.parquet.lock", "out.bad.csv", "out.parquet"]
    return (folder / "out.parquet").read_bytes(), (folder / "out.bad.csv").read_bytes()


def started(bundle: Bundle, images: Path, output: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A running command, and how many parts it has made, over and over."""
    with subprocess.Popen(
        [*COMMAND, "embed", str(bundle.path), str(images), "-o", str(output), *EVERY_BATCH], stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            parts = output.with_name(f"{output.name}.parts")
            yield process, len(list(parts.glob("[0-9]*.parquet"))) if parts.exists() else 0
            time.sleep(0.002)


def alive(pids: list[int]) -> list[int]:
    return [
        pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    ]


def test_kill_9_at_random_moments(digits_bundle: Bundle, images: Path, tmp_path: Path, whole: tuple[bytes, bytes]) -> None:
    """Until a run is left to end; each goes on where the one before was killed, and the result is the same to the byte."""
    chosen, output = random.Random(0), tmp_path / "out.parquet"
    had, kills = 0, 0
    for _ in range(4):
        moment = had + chosen.randrange(1, 18)
        for process, parts in started(digits_bundle, images, output):
            assert parts >= had, "what was done was lost"
            if parts >= moment:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                process.kill()
                process.wait()
                kills, had = kills + 1, moment
                end = time.monotonic() + 30
                while alive(list(map(int, children))):
                    assert time.monotonic() < end, "the decoders outlived their parent"
                    time.sleep(0.01)
    assert kills == 4
    done = command(digits_bundle.path, images, "-o", output, *EVERY_BATCH)
    assert done.returncode == 0 and "by earlier runs" in done.stdout, done.stderr
    assert made(tmp_path) == whole


# Everything that changes the disk goes through these calls; the process is killed before the n-th of them.
KILL_BEFORE = """
import os, shutil, signal, sys
from pathlib import Path
import PIL.Image, onnxruntime, pyarrow.parquet
import resnet_deploy as rd
from resnet_deploy.serving.embedding import run as loaded

bundle, images, folder = map(Path, sys.argv[1:])
output, calls = folder / "out.parquet", 0

def counted(function, last):
    def call(*args, **options):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return call

def run(last):
    for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (os, "fsync"), (os, "rmdir"), (os, "unlink")):
        setattr(owner, name, counted(getattr(owner, name), last))
    rd.embed(bundle, images, output, batch=6, threads=1, workers=1, checkpoint=0)

last, killed = 0, True
while killed:
    last += 1
    for number in (last, 0):  # killed, then left to end
        child = os.fork()
        if child == 0:
            try:
                run(number)
            except BaseException as exc:
                print(number, repr(exc), file=sys.stderr)
                os._exit(9)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if number:
            killed = code == -signal.SIGKILL
            assert killed or code == 0, code
        else:
            assert code == 0, code
    found = [path.name for path in sorted(folder.iterdir())]
    assert found == [".out.parquet.lock", "out.bad.csv", "out.parquet"], (last, found)
    (folder / f"{last}.made").write_bytes(output.read_bytes() + (folder / "out.bad.csv").read_bytes())
    for path in (output, folder / "out.bad.csv", folder / ".out.parquet.lock"):
        path.unlink()
    (folder / f"{last}.made").rename(folder.parent / f"{last}.made")
"""


def test_kill_9_before_every_step(digits_bundle: Bundle, tmp_path: Path) -> None:
    """Before every rename, deletion and flush, one after the other."""
    images = photographs(tmp_path / "images", 12)
    (images / "001" / "00011.jpg").write_bytes(b"")
    (tmp_path / "work").mkdir()
    rd.embed(digits_bundle, images, tmp_path / "whole.parquet", batch=6, threads=1)
    whole = (tmp_path / "whole.parquet").read_bytes() + (tmp_path / "whole.bad.csv").read_bytes()
    script = [sys.executable, "-c", KILL_BEFORE, str(digits_bundle.path), str(images), str(tmp_path / "work")]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = list(tmp_path.glob("*.made"))
    assert len(results) > 10, "the steps are not where the test looks for them"
    assert all(result.read_bytes() == whole for result in results)


def test_ctrl_c_keeps_what_was_done(digits_bundle: Bundle, images: Path, tmp_path: Path, whole: tuple[bytes, bytes]) -> None:
    output = tmp_path / "out.parquet"
    for process, parts in started(digits_bundle, images, output):
        if parts >= 5:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            assert process.returncode == 130 and "Run the command again to go on" in said and "Traceback" not in said
    assert len(list((tmp_path / "out.parquet.parts").glob("*.parquet"))) >= 5
    assert rd.embed(digits_bundle, images, output, batch=4, threads=1).before >= 20
    assert made(tmp_path) == whole


def full_then_roomy(bundle: Bundle, images: Path, disk: Path, room: str, first: str = "true") -> str:
    """What two runs said: one on a file system that is too small, and one after it has grown, which copies all of it."""
    embed = " ".join([*COMMAND, "embed", str(bundle.path), str(images), "-o", f"{disk}/out.parquet", *EVERY_BATCH])
    done = in_namespace(
        f"mount -t tmpfs -o size={room} none {disk}; {first}; {embed} && exit 99; test $? = 3; test ! -e {disk}/out.parquet; "
        f"mount -o remount,size=9m {disk}; {embed}; cp -r {disk}/. {disk}.kept"
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device. Free some space and run the command again" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_a_full_disk(digits_bundle: Bundle, images: Path, tmp_path: Path, whole: tuple[bytes, bytes]) -> None:
    """With room for some parts."""
    (tmp_path / "disk").mkdir()
    said = full_then_roomy(digits_bundle, images, tmp_path / "disk", "80k")
    assert "by earlier runs" in said and made(tmp_path / "disk.kept") == whole


def test_a_disk_that_is_full_at_the_end(
    digits_bundle: Bundle, images: Path, tmp_path: Path, whole: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for all parts, not for the output beside them."""

    def stop(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resnet_deploy.serving.embedding.output.Output.finish", stop)
    (ready := tmp_path / "ready").mkdir()
    with pytest.raises(KeyboardInterrupt):
        rd.embed(digits_bundle, images, ready / "out.parquet", batch=4, threads=1)
    files = [path for path in ready.rglob("*") if path.is_file()]
    names_bytes = sum(len(os.fsencode(path)) + 1 for path in images.rglob("*.jpg"))  # of the listing
    pages = sum(-(-size // 4096) for size in (names_bytes, *(path.stat().st_size for path in files)))
    (tmp_path / "disk").mkdir()
    room = f"{4 * (pages + 3)}k"
    said = full_then_roomy(digits_bundle, images, tmp_path / "disk", room, f"cp -r {ready}/. {tmp_path}/disk")
    assert "complete before this run" in said and made(tmp_path / "disk.kept") == whole


def test_a_spoiled_part_is_made_again(digits_bundle: Bundle, images: Path, tmp_path: Path, whole: tuple[bytes, bytes]) -> None:
    """As a power failure on some file systems leaves it."""
    output = tmp_path / "out.parquet"
    for process, parts in started(digits_bundle, images, output):
        if parts >= 5:
            process.kill()
    first, second, *_ = sorted((tmp_path / "out.parquet.parts").glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:300])
    second.write_bytes(b"")
    rd.embed(digits_bundle, images, output, batch=4, threads=1)
    assert made(tmp_path) == whole


def test_a_folder_that_refuses(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    """Said before the work begins."""
    folder = tmp_path / "readonly"
    folder.mkdir()
    embed = " ".join([*COMMAND, "embed", str(digits_bundle.path), str(images), "-o", str(folder / "out.parquet")])
    done = in_namespace(f"mount -t tmpfs -o ro none {folder}; {embed}")
    assert done.returncode == 2 and "cannot write" in done.stderr and "Choose another output folder" in done.stderr


def test_what_may_not_be_read(digits_bundle: Bundle, tmp_path: Path) -> None:
    """Also as root, without the capability that makes permissions mean nothing."""
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if powerless and (shutil.which("setpriv") is None or subprocess.run([*powerless, "true"]).returncode):
        pytest.skip("root may read everything here")
    folder = photographs(tmp_path / "images", 15)
    (folder / "000" / "00004.jpg").chmod(0)
    done = command(digits_bundle.path, folder, "-o", tmp_path / "out.parquet", prefix=powerless)
    assert done.returncode == 0 and "1 of 15 images are bad" in done.stderr, done.stderr
    assert "00004.jpg,Permission denied" in (tmp_path / "out.bad.csv").read_text()
    (folder / "001").chmod(0)
    try:
        done = command(digits_bundle.path, folder, "-o", tmp_path / "other.parquet", prefix=powerless)
    finally:
        (folder / "001").chmod(0o755)
    assert done.returncode == 2 and "001 cannot be read: Permission denied" in done.stderr, "a folder would be missed"


def test_names_that_are_not_text(digits_bundle: Bundle, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "images", 4) / "000"
    for number, name in enumerate((b"new\nline.jpg", "日本.jpg".encode(), b"\xff.jpg", b'quo"te, and comma.jpg')):
        (folder / f"{number:05}.jpg").rename(os.fsdecode(os.path.join(os.fsencode(folder), name)))  # noqa: PTH118
    (folder / "bad\nline.jpg").write_bytes(b"")
    done = command(digits_bundle.path, tmp_path / "images", "-o", tmp_path / "out.parquet")
    assert done.returncode == 0, done.stderr
    paths = pq.read_table(tmp_path / "out.parquet")["path"].to_pylist()
    assert paths == [
        f"{folder}/new\nline.jpg", f'{folder}/quo"te, and comma.jpg', f"{folder}/日本.jpg", f"{folder.as_uri()}/%FF.jpg",
    ]  # fmt: skip
    assert f'"{folder}/bad\nline.jpg",an empty file' in (tmp_path / "out.bad.csv").read_text()
