"""The parent's side: workers that are started again when they hang or die."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fuzz.cases import PACKAGE, Outcome, frame_in_dump

ROOT = Path(__file__).parents[2]
LIMIT_S = 5.0  # of a case
PREPARE_S = 600.0  # of imports, and of what a target prepares once


class Dead(Exception):
    """The worker's process has ended."""


class Silent(Exception):
    """The worker did not answer in time."""


class Worker:
    """One worker process, in a session of its own so that what it starts ends with it."""

    def __init__(self, work: Path, package: str = PACKAGE) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=work, prefix="worker-"))
        self.log = (self.folder / "log").open("ab+")
        to_worker, self._orders = os.pipe()
        self._answers, from_worker = os.pipe()
        temporary = self.folder / "tmp"
        temporary.mkdir()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary), "PYTHONPATH": _path()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", str(to_worker), str(from_worker), package],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, pass_fds=(to_worker, from_worker), cwd=ROOT,
            env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(to_worker)
        os.close(from_worker)
        self._rest = b""
        self.recycle = False
        self.peak_bytes = 0
        self._receive(PREPARE_S)

    def run(self, target: str, number: int, limit_s: float = LIMIT_S) -> Outcome:
        """One case; the worker is of no more use where it hangs or crashes, which `recycle` says."""
        try:
            os.write(self._orders, f"{target} {number}\n".encode())
            self._receive(PREPARE_S)  # it has started
        except (Dead, Silent, OSError):
            self.recycle = True
            return self._finding(target, number, "crashes", "before the case: prepare or imports")
        try:
            answer = self._receive(limit_s, patient=True)
        except Silent:
            self.recycle = True
            os.kill(self.process.pid, signal.SIGUSR1)  # say where
            time.sleep(0.5)
            return self._finding(target, number, "hangs", f"more than {limit_s:g} s")
        except Dead:
            self.recycle = True
            code = self.process.wait()
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return self._finding(target, number, "crashes", name)
        self.recycle = answer["recycle"]
        self.peak_bytes = answer["peak_bytes"]
        return Outcome(**answer["outcome"])

    def close(self) -> None:
        """End it, and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for descriptor in (self._orders, self._answers):
            os.close(descriptor)
        self.log.close()
        subprocess.run(["rm", "-rf", str(self.folder)], check=False)

    def _used_s(self) -> float:
        """Processor time of the worker's threads, seconds."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _wants_to_run(self) -> bool:
        """Whether a thread of it waits for a processor or a disk alone."""
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{self.process.pid}/task").glob("*/stat"):
                if file.read_text().rpartition(")")[2].split()[0] in "RD":
                    return True
        return False

    def _finding(self, target: str, number: int, kind: str, what: str) -> Outcome:
        said = (self.folder / "log").read_text(errors="replace")
        last = next((line for line in reversed(said.splitlines()) if line and not line.startswith(" ")), "")
        where = frame_in_dump(_main_thread(said))
        text = f"{what}; {last[:200]}" if kind == "crashes" else what
        return Outcome(target=target, number=number, kind=kind, where=f"{what} in {where}", text=f"{text}, in {where}")

    def _receive(self, limit_s: float, *, patient: bool = False) -> Any:
        """The next answer. patient: on a busy machine the limit is of the process's own time, unless it sleeps."""
        start, used = time.monotonic(), self._used_s()
        end, last = start + limit_s, used
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                now = self._used_s()
                asleep = now - last < 0.02 and not self._wants_to_run()
                if not patient or asleep or now - used > limit_s or end - start > 20 * limit_s:
                    raise Silent
                end, last = time.monotonic() + 2, now
                continue
            block = os.read(self._answers, 1 << 16)
            if not block:
                raise Dead
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)


class Pool:
    """One worker that is replaced when it must be. A hang counts where the case hangs again, alone, with twice the time."""

    def __init__(self, work: Path, package: str = PACKAGE, limit_s: float = LIMIT_S) -> None:
        self.work, self.package, self.limit_s = work, package, limit_s
        self.worker: Worker | None = None
        self._hangs: set[str] = set()

    def run(self, target: str, number: int) -> tuple[Outcome, int]:
        """One case's outcome, and the peak of the worker's memory meanwhile in bytes."""
        outcome = self._once(target, number, self.limit_s)
        if outcome.kind == "hangs" and outcome.signature not in self._hangs:
            again = self._once(target, number, 2 * self.limit_s)
            if again.kind != "hangs":
                again = Outcome(**{**again.to_dict(), "note": again.note or "slow once"})
            else:
                self._hangs.add(outcome.signature)
            outcome = again if again.kind != "hangs" else outcome
        return outcome, self.worker.peak_bytes if self.worker else 0

    def _once(self, target: str, number: int, limit_s: float) -> Outcome:
        if self.worker is not None and self.worker.recycle:
            self.close()
        if self.worker is None:
            self.worker = Worker(self.work, self.package)
        return self.worker.run(target, number, limit_s)

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def _main_thread(said: str) -> str:
    """Of all threads that were dumped, the one that runs the case."""
    blocks = [block for block in said.split("\n\n") if "tests/fuzz" in block or "in execute" in block]
    return blocks[0] if blocks else said


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
