"""The program as a process of the system: Ctrl-C, and commands whose work runs in a second process.

What loads a runtime runs in a process of its own, which the runtime may crash: the first process is there to say so, with an
exit code of ours.
"""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import click

from resnet_deploy.benchmarking.crashes import Crashes, Step
from resnet_deploy.commands.output import fail, warn
from resnet_deploy.errors import EXIT_MACHINE

_TWICE_S = 0.25  # a terminal sends Ctrl-C to both processes, and the first hands on to the second what it gets
_PAGE = 1 << 16
_HANDED_ON = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
_PR_SET_PDEATHSIG = 1  # prctl(2)


def program() -> Program:
    """The run that a command is part of."""
    return click.get_current_context().find_object(Program) or Program()


class Journal:
    """What the working process is at, in memory that outlives it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _PAGE)  # shared with children, and no disk can be too full for it
        self._entry: dict[str, Any] = {}

    def put(self, **entry: Any) -> None:
        """Change some of what is written."""
        self._entry |= entry
        text = json.dumps(self._entry).encode()[: _PAGE - 1]
        self._memory[: len(text) + 1] = text + b"\0"

    def take(self) -> dict[str, Any]:
        """What was last written; empties the journal."""
        text = self._memory[:].split(b"\0", 1)[0]
        self._memory[:1] = b"\0"
        with contextlib.suppress(ValueError):  # the process died while it wrote
            return dict(json.loads(text)) if text else {}
        return {}


@dataclass
class Program:
    """One run of the command line.

    own_process: whether the process is there for this command alone, so that it may be divided, and Ctrl-C is ours.
    interrupted: whether there was a Ctrl-C, whatever became of its KeyboardInterrupt on the way through other people's code.
    """

    own_process: bool = False
    interrupted: bool = False
    _journal: Journal | None = None
    _handlers: dict[int, Any] = field(default_factory=dict, repr=False)
    _pressed_s: float = field(default=-1e9, repr=False)
    _dropped: bool = False

    def watch_interrupts(self) -> None:
        """Take Ctrl-C, in a process of our own; where it is ignored, as behind `nohup ... &`, it stays so."""
        if self.own_process and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
            sys.unraisablehook = self._unraisable

    def _interrupt(self, *_: object) -> None:
        now_s = time.monotonic()
        if now_s - self._pressed_s < _TWICE_S:
            return
        self.interrupted, self._pressed_s = True, now_s
        raise KeyboardInterrupt

    def _unraisable(self, error: Any) -> None:
        """Keep a Ctrl-C that came in a destructor or another callback, where Python drops what is raised; `at` raises it."""
        if issubclass(error.exc_type, KeyboardInterrupt):
            self._dropped = True
        else:
            sys.__unraisablehook__(error)

    def ended(self, code: int) -> int:
        """Note an exit code that is decided: a runtime that crashes while the process ends does not change it."""
        if self._journal is not None:
            self._journal.put(code=code)
        return code

    def divide(self, *, restarts: bool = False) -> Crashes:
        """Go on in a second process, and wait for it in this one, which ends with the other's exit code.

        The second process is a copy of this one, made before anything heavy is imported, with its streams and its terminal.
        Where a signal kills it, this one says so: with `restarts` it starts another, which leaves out what the last was at.
        Returns in the second process, or at once where a process cannot be divided.
        """
        if not self.own_process or not hasattr(os, "fork"):
            return Crashes()
        journal, known = Journal(), dict[Step, str]()
        while True:
            child = self._fork()
            if child == 0:
                self._journal = journal
                return Crashes(known=known, note=lambda step: journal.put(step=step and step.to_dict()))
            _, status = os.waitpid(child, 0)
            self._after(status, journal.take(), known, restarts)

    def _fork(self) -> int:
        """A copy of this process, to which signals are handed on: they may have been sent to this one alone."""
        parent = os.getpid()
        if not self._handlers:  # a signal that is ignored stays ignored, in both
            known = {number: signal.getsignal(number) for number in _HANDED_ON}
            self._handlers = {number: handler for number, handler in known.items() if handler is not signal.SIG_IGN}
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)
        try:
            child = os.fork()
            if child == 0:
                for number, handler in self._handlers.items():
                    signal.signal(number, handler)
                _end_with(parent)
            else:
                for number in self._handlers:
                    signal.signal(number, functools.partial(self._hand_on, child))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)
        return child

    def _hand_on(self, child: int, number: int, _: object) -> None:
        self.interrupted = self.interrupted or number == signal.SIGINT
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    def at(self, what: str) -> None:
        """Note what is being done, for the message where the process dies of it. Raises KeyboardInterrupt that was dropped."""
        if self._dropped:
            self._dropped = False
            raise KeyboardInterrupt
        if self._journal is not None:
            self._journal.put(what=what)

    def _after(self, status: int, entry: dict[str, Any], known: dict[Step, str], restarts: bool) -> None:
        """End as the second process did; returns where another is to be started."""
        if "code" in entry:
            sys.exit(int(entry["code"]))
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if self.interrupted:
            raise KeyboardInterrupt  # a runtime that aborts when it is interrupted
        if number in _HANDED_ON:  # it was asked to end, and so was this one
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        reason = _reason(number, os.waitstatus_to_exitcode(status))
        step = Step(**entry["step"]) if entry.get("step") else None
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")  # what is left of a progress bar
        if step is None or step in known or not restarts:
            what = step.candidate if step else entry.get("what")
            fail(f"a runtime crashed{f' ({what})' if what else ''}: {reason}; what was there before is unchanged", EXIT_MACHINE)
        known[step] = f"{step.candidate.partition(':')[0]} crashed: {reason}"
        at_batch = f" at batch {step.batch}" if step.batch is not None else ""
        warn(f"{step.candidate} crashed{at_batch}: {reason}. It is left out, and the others go on")


def _end_with(parent: int) -> None:
    """End this process when its parent ends, in whatever way: nobody would wait for it, and it would hold its locks."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(EXIT_MACHINE)


def _reason(number: int, code: int) -> str:
    if number == 0:
        return f"it ended the process with exit code {code}"
    try:
        name = signal.Signals(number).name
    except ValueError:  # of real time
        return f"signal {number}"
    hint = ", as when memory runs out" if number == signal.SIGKILL else ""
    return f"signal {number} ({name}{hint})"
