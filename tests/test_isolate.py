"""A call in a process of its own: whatever becomes of that process, this one goes on."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import resnet_deploy as rd
from resnet_deploy._isolate import IsolationError, run_isolated
from resnet_deploy.errors import EngineError, GraphError


def add(a: int, b: int) -> int:
    print("native code prints where it likes")
    os.write(1, b"and past Python's streams\n")
    return a + b


def crash() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.write(2, b"terminate called: no good\n")
    os.abort()


def refuse() -> None:
    raise GraphError("this is no graph")


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(600)


def take(size: int) -> int:
    return int(np.ones(size, np.uint8).sum())


def leave() -> None:
    os._exit(7)


def test_results_and_errors_come_back() -> None:
    assert run_isolated(add, 2, 3) == 5
    with pytest.raises(GraphError, match="this is no graph"):
        run_isolated(refuse)


@pytest.mark.parametrize(
    ("function", "message"),
    [(crash, "died of SIGSEGV"), (abort, r"died of SIGABRT \(terminate called: no good\)"), (leave, "ended with code 7")],
)
def test_a_death_is_an_error_that_says_of_what(function: object, message: str) -> None:
    with pytest.raises(IsolationError, match=message):
        run_isolated(function)  # type: ignore[arg-type]


def test_time_is_limited_by_the_processor_and_by_the_clock() -> None:
    with pytest.raises(IsolationError, match="more than 1 s of processor time"):
        run_isolated(spin, cpu_s=1)
    with pytest.raises(IsolationError, match="longer than 3 s"):
        run_isolated(sleep, timeout_s=3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is counted from /proc")
def test_memory_is_limited_beyond_what_imports_take() -> None:
    assert run_isolated(take, 50_000_000, memory_bytes=100_000_000) == 50_000_000
    with pytest.raises(IsolationError, match="more memory than 100 MB"):
        run_isolated(take, 500_000_000, memory_bytes=100_000_000)


def test_a_runtime_that_crashes_on_a_plan_does_not_take_inspect_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text(
        "import ctypes\n__version__ = '10.16.1'\n\n"
        "class ILogger:\n    def __init__(self): pass\n\n"
        "class Runtime:\n    def __init__(self, log): pass\n    def deserialize_cuda_engine(self, data): ctypes.string_at(0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # what this process would import, the other does
    (tmp_path / "foreign.plan").write_bytes(b"ftrt" + bytes(20) + bytes([10, 16, 1, 11]) + bytes(100))
    with pytest.raises(EngineError, match=r"tensorrt cannot read .*died of SIGSEGV.*The plan is damaged"):
        rd.inspect(tmp_path / "foreign.plan", trust=True)
