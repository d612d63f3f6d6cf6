"""One case: which there are, how one is run, what came of it."""

from __future__ import annotations

import importlib
import os
import pkgutil
import random
import re
import shutil
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "tests.fuzz"
KINDS = ("tracebacks", "hangs", "crashes", "lost", "believed")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one case. kind: one of KINDS, None where nothing is wrong. where: what findings are grouped by.

    note: an answer that is counted apart, such as a command that was refused. Seconds of wall clock.
    """

    target: str
    number: int
    kind: str | None = None
    where: str = ""
    text: str = ""
    note: str = ""
    seconds: float = 0.0

    @property
    def signature(self) -> str:
        return f"{self.target} {self.kind} {self.where}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def discover(package: str = PACKAGE) -> dict[str, ModuleType]:
    """The targets by name: modules that have a NAME, and `run` or `campaign`."""
    root = importlib.import_module(package)
    modules = [
        importlib.import_module(f"{package}.{item.name}")
        for item in pkgutil.iter_modules(root.__path__)
        if item.name not in {"run", "worker"}
    ]
    return {module.NAME: module for module in modules if hasattr(module, "NAME")}


def numbered(seed: int, index: int) -> int:
    """The number of a run's case."""
    return seed * 1_000_000 + index


def generator(target: str, number: int) -> random.Random:
    """The case's own random numbers: the same in every process."""
    return random.Random(f"{target}:{number}")


def execute(module: ModuleType, number: int) -> Outcome:
    """Run one case in a fresh folder, in this process, with that folder as the working directory."""
    target, back = module.NAME, Path.cwd()
    folder = Path(tempfile.mkdtemp(prefix=f"{target}-{number}-"))
    os.chdir(folder)
    try:
        module.run(generator(target, number), folder)
    except BaseException as exc:
        return failed(target, number, exc)
    finally:
        os.chdir(back)
        _remove(folder)
    return Outcome(target=target, number=number)


def failed(target: str, number: int, exc: BaseException) -> Outcome:
    """What an exception means."""
    text = str(exc).splitlines()[0][:300] if str(exc) else ""
    for kind in ("believed", "lost"):
        if isinstance(exc, AssertionError) and text.startswith(kind):
            head = text.split(": ")[0]
            where = normal(text if head == kind else head)
            return Outcome(target=target, number=number, kind=kind, where=where, text=text)
    where = f"{type(exc).__name__} in {frame_of(exc)}"
    return Outcome(target=target, number=number, kind="tracebacks", where=where, text=f"{type(exc).__name__}: {text}")


def normal(text: str) -> str:
    """A message without its numbers, to group by."""
    return re.sub(r"-?\b(?:\d[\d.e+]*|nan|inf|[0-9a-f]{8,})\b", "#", text)[:160]


def frame_of(exc: BaseException) -> str:
    """The innermost frame of the package; of anything where there is none."""
    frames = traceback.extract_tb(exc.__traceback__)
    own = [frame for frame in frames if "/resnet_deploy/" in frame.filename] or frames
    if not own:
        return "?"
    return f"{_short(own[-1].filename)}:{own[-1].lineno} {own[-1].name}"


def frame_in_dump(text: str) -> str:
    """The same of what `faulthandler` wrote, whose innermost frame is the first."""
    found = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', text)
    own = [frame for frame in found if "/resnet_deploy/" in frame[0]] or found
    return f"{_short(own[0][0])}:{own[0][1]} {own[0][2]}" if own else "?"


def _short(file: str) -> str:
    parts = Path(file).parts
    return "/".join(parts[parts.index("resnet_deploy") :] if "resnet_deploy" in parts else parts[-2:])


def _remove(folder: Path) -> None:
    """Also what a case made unreadable."""

    def again(function: Any, path: str, _: Any) -> None:
        Path(path).parent.chmod(0o700)
        Path(path).chmod(0o700)
        function(path)

    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=again)
    else:
        shutil.rmtree(folder, onerror=again)
