"""ENOSPC at every write: afterwards the bundle is the old or the new, and the exit code is 3 with a message.

Two ways: the n-th operation that writes a file fails, and all later ones, for every n; and a real file system that is so many
pages too small, which also reaches what compiled libraries write.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.cases import Outcome, numbered
from tests.fuzz.kills import Reference, reference, writes
from tests.fuzz.processes import Ended, base, broken, commands, finding, fresh, last_line, run_here, start, wait
from tests.fuzz.state import check, differing, essence

NAME = "full_disk"
GROWING = {"bench"}  # it keeps parity, samples and measurements as it makes them: each is the old or the new
MOST = 400  # steps of one command; embed, which has the most, takes fewer than 100
PAGE = 4096
PAGES = (0, 1, 2, 3, 5, 8, 16, 40, 80, 120, 140, 180, 260, 300, 400, 560, 640, 1024, 4096)
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000


def campaign(seed: int, first: int, count: int, work: Path) -> Iterator[Outcome]:
    """Every command, every step. first: a step of one command alone, as its number has it."""
    names = list(commands())
    tried = 0
    for place, name in enumerate(names):
        if first and first // (2 * MOST) != place:
            continue
        whole, _ = reference(NAME, name, numbered(seed, place * 2 * MOST), work)  # two unequal ends are a finding of kills
        steps = [(False, step) for step in range(1, MOST)] + [(True, step) for step in range(len(PAGES))]
        let_through: set[bool] = set()
        for small, step in steps:
            index = place * 2 * MOST + small * MOST + step
            if small in let_through or (first and index != first):
                continue
            if tried >= count:
                return
            outcome, done = full(numbered(seed, index), name, whole, work, small=small, step=step)
            tried += 1
            let_through |= {small} if done else set()
            yield outcome
        if not first and len(let_through) < 2:
            text = f"{name} never ends with 0, however much room there is"
            yield finding(NAME, numbered(seed, place * 2 * MOST), "lost", text)


def full(number: int, name: str, whole: Reference, work: Path, *, small: bool, step: int) -> tuple[Outcome, bool]:
    """One command on one full disk. Returns also whether there was room for all of it."""
    folder = fresh(work, NAME)
    (folder / "out").mkdir()
    report = folder / "report.json"
    try:
        if small:
            ended = _on_small_disk(name, folder, PAGES[step], report)
        else:
            arguments = commands()[name](folder / "bundle", folder / "out")
            before = failing(step, folder)
            ended = wait(start(name, arguments, folder / "log", before=before), name, folder / "log")
            report.write_text(json.dumps(_look(folder / "bundle")))
        return _judged(number, name, whole, ended, report), ended.code == 0 and "not kept" not in ended.stderr
    finally:
        shutil.rmtree(folder)


def _judged(number: int, name: str, whole: Reference, ended: Ended, report: Path) -> Outcome:
    how = f"{name} on a full disk"
    if (bad := broken(ended)) is not None:
        return finding(NAME, number, bad[0], f"{how}: {bad[1]}")
    if not report.exists():
        return finding(NAME, number, "crashes", f"{how}: {last_line(ended.stderr)}")
    found = json.loads(report.read_text())
    if "lost" in found:
        return finding(NAME, number, "lost", f"{found['lost']} after {how}")
    old = essence(base())
    changed = differing(found, old)
    missing = set(differing(found, whole.bundle)) & (set(changed) if name in GROWING else found.keys() | whole.bundle.keys())
    if changed and missing - whole.varying:
        return finding(NAME, number, "lost", f"{how} leaves neither the old nor the new: {', '.join(changed[:4])}")
    if ended.code == 0 and not changed and whole.bundle != old and "not kept" not in ended.stderr:
        return finding(NAME, number, "lost", f"{how} ended with 0, and nothing is there")
    if ended.code not in {0, 3}:
        return finding(NAME, number, "lost", f"{how} ended with {ended.code}: {last_line(ended.stderr)}")
    if ended.code == 3 and "space" not in ended.stderr.lower():
        return finding(NAME, number, "lost", f"{how} does not say so: {last_line(ended.stderr)}")
    return Outcome(target=NAME, number=number, note="" if ended.code else "enough room")


def _look(bundle: Path) -> dict[str, str]:
    """The bundle's state, or what is lost."""
    try:
        check(bundle)
        return essence(bundle)
    except AssertionError as exc:
        return {"lost": str(exc)}


def failing(step: int, folder: Path) -> Callable[[], None]:
    """From the step-th on, operations that write under a folder fail as on a full disk."""

    def install() -> None:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event in {"os.remove", "os.rmdir"} or not writes(event, arguments):
                return  # removing needs no room
            if isinstance(arguments[0], int):  # a file that is open already
                return
            if not os.path.abspath(os.fsdecode(arguments[0])).startswith(str(folder)):  # noqa: PTH100
                return
            count += 1
            if count >= step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(arguments[0]))

        sys.addaudithook(hook)

    return install


def _on_small_disk(name: str, folder: Path, pages: int, report: Path) -> Ended:
    """The command in a child that has a small file system of its own, seen by nobody else."""

    def mounted() -> None:
        disk = folder / "disk"
        disk.mkdir()
        used = sum(-(-file.stat().st_size // PAGE) + 1 for file in (folder / "bundle").iterdir()) + 4
        _mount(disk, (used + pages) * PAGE)
        shutil.copytree(folder / "bundle", disk / "bundle")
        (disk / "out").mkdir()
        code = run_here(commands()[name](disk / "bundle", disk / "out"))
        with contextlib.suppress(BaseException):
            report.write_text(json.dumps(_look(disk / "bundle")))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    return wait(start(name, [], folder / "log", before=_loud(mounted)), name, folder / "log")


def _loud(function: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(98)

    return call


def _mount(disk: Path, size_bytes: int) -> None:
    """A tmpfs, in a mount namespace of this process's own; as another user than root, in a user namespace too."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS) != 0:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "namespaces of our own are not permitted here")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    private = 0x40000 | 0x4000  # MS_PRIVATE, MS_REC
    libc.mount(b"none", b"/", None, private, None)
    if libc.mount(b"none", bytes(disk), b"tmpfs", 0, f"size={size_bytes}".encode()) != 0:
        raise OSError(ctypes.get_errno(), f"cannot mount on {disk}")
