"""A process that runs cases one after another: lines of target and number in, lines of JSON out.

python -m tests.fuzz.worker IN OUT PACKAGE (two file descriptors, and where the targets are)
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz.cases import PACKAGE, Outcome, discover, execute, failed

MEMORY_BYTES = 4 << 30  # of address space beyond what the imports take
RECYCLE_BYTES = 1 << 30  # a worker whose memory grew by so much is replaced
HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "PIL.Image", "safetensors.torch", "resnet_deploy.models.create")


def main() -> None:
    reading, writing, package = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if package == PACKAGE:  # toys need none
        for name in HEAVY:
            importlib.import_module(name)
    targets = discover(package)
    size = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start = _status("VmRSS")

    def send(**message: Any) -> None:
        os.write(writing, json.dumps(message).encode() + b"\n")

    prepared: set[str] = set()
    send(ready=True)
    with os.fdopen(reading, "r") as orders:
        for line in orders:
            target, number = line.split()
            module = targets[target]
            if target not in prepared:
                prepared.add(target)
                getattr(module, "prepare", lambda: None)()
            os.ftruncate(2, 0)
            send(started=int(number))
            before = time.perf_counter()
            outcome = _guarded(module, int(number))
            seconds = time.perf_counter() - before
            grown = _status("VmRSS") - start > RECYCLE_BYTES
            peak = _status("VmHWM")
            Path("/proc/self/clear_refs").write_text("5")  # the next case's peak is its own
            send(outcome=outcome.to_dict() | {"seconds": seconds}, recycle=grown, peak_bytes=peak)


def _guarded(module: Any, number: int) -> Outcome:
    try:
        return execute(module, number)
    except BaseException as exc:  # of removing the folder
        return failed(module.NAME, number, exc)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
