"""A call in a process of its own: what crashes there, hangs, or takes too much memory is an exception here.

For native code that reads what others wrote (ONNX's shape inference, TensorRT's deserialization). It keeps this process
alive; it is no sandbox: the other process may do whatever the user may.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from resnet_deploy._isolate import _serve; _serve()"
_LATEST = 200  # characters of what a process wrote before it died


class IsolationError(Exception):
    """The other process ended before its call did: by a signal, or over a limit. Callers turn it into an error of theirs."""


def run_isolated(
    function: Callable[..., T],
    *args: Any,
    preload: Sequence[str] = (),
    cpu_s: float | None = None,
    timeout_s: float | None = None,
    memory_bytes: int | None = None,
) -> T:
    """Call a function in a new Python process, and wait for what it returns.

    Args:
        function: of a module, by its name there (not of `__main__`, no lambda).
        args: what can be pickled, as must what is returned.
        preload: modules that are imported before the limits count.
        cpu_s: seconds of processor time; unlike a clock, the same on a busy machine. Counted where the system can (POSIX).
        timeout_s: seconds by the clock, in all.
        memory_bytes: address space beyond what the imports took (Linux). Leave it out where CUDA is used.

    Raises:
        IsolationError: the process died, with the signal's name, or passed a limit.
        Exception: what the function raised.
    """
    request = pickle.dumps((function.__module__, function.__qualname__, args, tuple(preload), cpu_s, memory_bytes))
    command = [sys.executable, "-c", _START, json.dumps(sys.path)]
    # Each thread of a pool reserves address space, which is what is limited.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1") if memory_bytes else {}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | threads
    )
    try:
        answer, errors = process.communicate(request, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise IsolationError(f"it took longer than {timeout_s:g} s") from None
    finally:
        process.kill()
        process.communicate()
    if process.returncode or not answer:
        raise IsolationError(_reason(process.returncode, errors.decode(errors="replace"), cpu_s, memory_bytes))
    kind, value = pickle.loads(answer)
    if kind == "raised":
        raise value
    if kind == "memory":
        raise IsolationError(_over_memory(memory_bytes))
    result: T = value
    return result


def limit(cpu_s: float | None, memory_bytes: int | None) -> None:
    """Limit this process from here on: processor time, address space, no core file. Nothing where the system has no limits."""
    with contextlib.suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if cpu_s is not None:
            most_s = math.ceil(time.process_time() + cpu_s)
            resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s + 1))
        with contextlib.suppress(OSError):  # without /proc, what is taken already is not known
            if memory_bytes is not None:
                taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes, taken + memory_bytes))


def call_captured(function: Callable[..., Any], args: Sequence[Any]) -> tuple[str, Any]:
    """What a function returns or raises, as `run_isolated` sends it: ("returned", value), ("raised", exc), ("memory", None)."""
    try:
        return "returned", function(*args)
    except MemoryError:
        return "memory", None
    except Exception as exc:
        return "raised", exc


def _serve() -> None:
    """The other process: one request from stdin, one answer to stdout."""
    answers = os.dup(1)
    os.dup2(2, 1)  # native code prints where it likes
    module, name, args, preload, cpu_s, memory_bytes = pickle.load(sys.stdin.buffer)
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    for wanted in preload:
        importlib.import_module(wanted)
    limit(cpu_s, memory_bytes)
    answer = call_captured(function, args)
    try:
        data = pickle.dumps(answer)
    except Exception as exc:  # an exception of native code may hold what cannot be sent
        data = pickle.dumps(("raised", RuntimeError(f"{answer[1]} ({exc})")))
    with os.fdopen(answers, "wb") as file:
        file.write(data)
    sys.stderr.flush()
    os._exit(0)  # a runtime that crashes while it is torn down has answered already


def _reason(code: int, errors: str, cpu_s: float | None, memory_bytes: int | None) -> str:
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")[:_LATEST]
    if memory_bytes is not None and ("bad_alloc" in errors or "MemoryError" in errors):
        return _over_memory(memory_bytes)
    if code < 0 and hasattr(signal, "SIGXCPU") and cpu_s is not None and code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it took more than {cpu_s:.0f} s of processor time"
    details = f" ({last})" if last else ""
    if code < 0:
        name = signal.Signals(-code).name if -code in {item.value for item in signal.Signals} else f"signal {-code}"
        return f"native code died of {name}{details}"
    return f"its process ended with code {code}{details}"


def _over_memory(memory_bytes: int | None) -> str:
    return "it needs more memory" + (f" than {memory_bytes / 1e6:,.0f} MB" if memory_bytes is not None else "")
