"""Large images are decoded one at a time, by a lock in whose place nothing can lie."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.data.preprocessing import Transform
from resnet_deploy.errors import StorageError
from resnet_deploy.serving.embedding.decoders import Decoders
from resnet_deploy.serving.embedding.decoding import LARGE_PIXELS, Decoder
from resnet_deploy.serving.embedding.locks import FolderLock, InheritedLock
from resnet_deploy.specs import InputFormat, Preprocessing
from tests.helpers.embedding import command
from tests.helpers.paths import ROOT

TRANSFORM = Transform(preprocessing=Preprocessing(resize=40, crop=32), input_format=InputFormat.UINT8)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that is decoded alone."""
    path = tmp_path_factory.mktemp("large") / "large.png"
    image = Image.new("RGB", (5100, 5000), (10, 20, 30))
    assert image.width * image.height > LARGE_PIXELS
    image.save(path, compress_level=1)
    return path


@dataclass(frozen=True, kw_only=True)
class Recording(Decoder):
    """Says in a file when it holds the lock."""

    log: str = ""

    def __call__(self, path: bytes) -> np.ndarray:
        assert self.large_lock is not None
        with self.large_lock.held(), open(self.log, "ab", buffering=0) as file:  # noqa: PTH123
            file.write(b"%d in\n" % os.getpid())
            if path == b"dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.01)
            file.write(b"%d out\n" % os.getpid())
        return np.zeros(self.shape, self.dtype)


def batches(paths: list[bytes], batch: int) -> Iterator[tuple[int, list[bytes]]]:
    return ((at, paths[at : at + batch]) for at in range(0, len(paths), batch))


def test_one_at_a_time(tmp_path: Path) -> None:
    """Among four processes, of which two die while they hold the lock."""
    decoder = Recording(transform=TRANSFORM, max_pixels=1, log=str(tmp_path / "log"))
    paths = [b"dies" if number in {5, 22} else b"x" for number in range(40)]
    with Decoders(decoder, workers=4, batch=16, scratch=tmp_path) as decoders:
        reasons = [reason for part in decoders.decoded(batches(paths, 16)) for reason in part.reasons]
    assert [number for number, reason in enumerate(reasons) if reason] == [5, 22]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len({process for process, _ in lines}) > 1, "one process did all of it"
    holder, entered = "", 0
    for process, what in lines:
        if what == "in":
            entered += 1
            holder = process  # the one before is out, or was killed: its `out` would come later
        else:
            assert process == holder, "two processes held the lock"
    assert entered == 40 and sum(what == "out" for _, what in lines) == 38
    assert [path.name for path in tmp_path.iterdir()] == ["log"], "the lock has a name"


HOLDING = """
import sys
from resnet_deploy.serving.embedding.locks import FolderLock
print("waiting", flush=True)
with FolderLock(sys.argv[1]).held():
    print("holding", flush=True)
"""


def test_one_at_a_time_on_a_machine_of_a_cluster(tmp_path: Path) -> None:
    """Processes that have a folder in common, which is only read."""
    with FolderLock(str(tmp_path)).held():
        other = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None and other.stdout.readline() == "waiting\n"
        assert select.select([other.stdout], [], [], 0.3)[0] == [], "two processes held the lock"
    assert other.communicate(timeout=60)[0] == "holding\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_lies_in_the_temporary_folder(digits_bundle: Bundle, large: Path, tmp_path: Path, kind: str) -> None:
    """In the place of the lock of earlier versions; and that folder is not needed at all."""
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    stray = tmp_path / "tmp" / f"resnet-deploy-{os.getuid()}"
    stray.parent.mkdir()
    if kind == "file":
        stray.write_bytes(b"mine")
    elif kind == "folder":
        (stray / "large-image.lock").mkdir(parents=True)
    else:
        stray.symlink_to(tmp_path / "gone")
    environment = {**os.environ, "TMPDIR": str(stray.parent)}
    done = command(digits_bundle.path, large, "-o", tmp_path / "out.parquet", env=environment)
    assert done.returncode == 0 and "1 of 1 images" in done.stdout, done.stderr
    assert stray.is_symlink() or (stray / "large-image.lock").is_dir() or stray.read_bytes() == b"mine"


def test_a_lock_that_fails_is_no_bad_image(large: Path) -> None:
    decoder = Decoder(transform=TRANSFORM, max_pixels=100_000_000, large_lock=InheritedLock(10_000))
    with pytest.raises(StorageError, match="large images cannot be taken one at a time: Bad file descriptor"):
        decoder(os.fsencode(large))


def test_a_large_image_is_as_a_small_one(digits_bundle: Bundle, large: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
    small = tmp_path / "images" / "small.png"
    small.parent.mkdir()
    Image.new("RGB", (51, 50), (10, 20, 30)).save(small)
    (small.parent / "large.png").symlink_to(large)
    assert rd.embed(digits_bundle, small.parent, tmp_path / "out.parquet").bad == 0
    first, second = pq.read_table(tmp_path / "out.parquet")["logits"].to_pylist()
    assert first == second
