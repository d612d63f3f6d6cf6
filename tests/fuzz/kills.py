"""SIGKILL at a random moment: the bundle opens, nothing lies, and the same command again ends as one that was not killed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.cases import Outcome, generator, numbered
from tests.fuzz.processes import Ended, broken, commands, finding, fresh, last_line, run_alone, start, wait
from tests.fuzz.state import check, differing, essence, left_behind, output

NAME = "kills"
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "shutil.move"}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a command that was not killed leaves, how long it took, and at how many of EVENTS it could be killed.

    varying: names that differ between two such runs.
    """

    seconds: float
    events: int
    bundle: dict[str, str]
    output: dict[str, str]
    varying: frozenset[str]


def campaign(seed: int, first: int, count: int, work: Path) -> Iterator[Outcome]:
    """All commands in turn, each as often as the others."""
    names, references = list(commands()), dict[str, Reference]()
    for index in range(first, first + count):
        name, number = names[index % len(names)], numbered(seed, index)
        if name not in references:
            references[name], fault = reference(NAME, name, number, work)
            if fault is not None:
                yield fault
        yield kill(number, name, references[name], work)


def reference(target: str, name: str, number: int, work: Path) -> tuple[Reference, Outcome | None]:
    """Run a command to its end, twice. Where its own two ends differ is a finding, and is left out of later comparisons."""
    found = []
    for _ in range(2):
        folder = fresh(work, target)
        (folder / "out").mkdir()
        ended = _run(name, folder, counting(folder / "events"))
        if ended.code:
            raise RuntimeError(f"{name} alone ended with {ended.code}: {last_line(ended.stderr)}")
        events = int((folder / "events").read_text())
        state = (essence(folder / "bundle"), output(folder / "out"))
        found.append((ended.seconds, events, *state))
        shutil.rmtree(folder)
    (_, _, *one), (seconds, events, *other) = found
    varying = {name for before, after in zip(one, other, strict=True) for name in differing(before, after)}
    whole = Reference(seconds=seconds, events=events, bundle=other[0], output=other[1], varying=frozenset(varying))
    if not varying:
        return whole, None
    text = f"believed that two runs of {name} end alike; they differ: {', '.join(sorted(varying))}"
    return whole, finding(target, number, "believed", text)


def kill(number: int, name: str, whole: Reference, work: Path) -> Outcome:
    """Kill it, look at the bundle, run it again, compare."""
    rng, folder = generator(NAME, number), fresh(work, NAME)
    (folder / "out").mkdir()
    try:
        note = _killed(rng, name, whole, folder)
        check(folder / "bundle")
        for file in ("model.fp32.onnx", "model.fp16.onnx", "weights.safetensors"):
            assert f"artifact {file}" in essence(folder / "bundle"), f"lost: {file} is no longer in the bundle"
        ended = _run(name, folder)
        if (bad := broken(ended)) is not None:
            return finding(NAME, number, bad[0], f"again: {bad[1]}")
        if ended.code:
            return finding(NAME, number, "lost", f"{name} again ended with {ended.code}: {last_line(ended.stderr)}")
        check(folder / "bundle")
    except AssertionError as exc:
        return finding(NAME, number, "lost", f"{exc} after {name} was killed")
    else:
        changed = differing(essence(folder / "bundle"), whole.bundle)
        changed += differing(_served(output(folder / "out")), _served(whole.output))
        if changed := [file for file in changed if file not in whole.varying]:
            text = f"{name} again does not end as one that was not killed: {', '.join(changed[:4])}"
            return finding(NAME, number, "lost", text)
        if left := left_behind(folder):
            note = f"left behind: {name}: {Path(left[0]).parts[0]}/…"
        return Outcome(target=NAME, number=number, note=note)
    finally:
        shutil.rmtree(folder)


def _killed(rng: random.Random, name: str, whole: Reference, folder: Path) -> str:
    """Start a command and kill it: after a random time, or at a random operation on a file. Returns how it ended."""
    arguments, own = commands()[name](folder / "bundle", folder / "out"), folder / "killed"
    if rng.random() < 0.5:
        pid = start(name, arguments, own, before=deadly(rng.randint(1, whole.events)))
    else:
        moment = rng.uniform(0, whole.seconds)
        pid = start(name, arguments, own)
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    code = wait(pid, name, own).code
    return "killed" if code == -signal.SIGKILL else f"over with {code}"


def _run(name: str, folder: Path, before: Callable[[], None] | None = None) -> Ended:
    arguments = commands()[name](folder / "bundle", folder / "out")
    if before is None:
        return run_alone(name, arguments, folder / "again")
    return wait(start(name, arguments, folder / "again", before=before), name, folder / "again")


def _served(files: dict[str, str]) -> dict[str, str]:
    """A repository's versions without their numbers: a second run may add one where the first had ended."""
    return {name.replace("/2/", "/1/"): value for name, value in files.items()}


def writes(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event is an operation that writes."""
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or mode in {"w", "wb", "a", "x"}
    return event in EVENTS


def counting(file: Path) -> Callable[[], None]:
    """Counts the operations that write, in the child; the figure is written at its end."""

    def install() -> None:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            count += writes(event, arguments)

        sys.addaudithook(hook)
        ended = os._exit

        def leave(code: int) -> None:
            file.write_text(str(count))
            ended(code)

        os._exit = leave  # type: ignore[assignment]

    return install


def deadly(step: int) -> Callable[[], None]:
    """Dies at the step-th operation that writes, in the child."""

    def install() -> None:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if writes(event, arguments):
                count += 1
                if count == step:
                    os.killpg(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return install
