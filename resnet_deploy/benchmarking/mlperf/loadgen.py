"""One run of MLPerf's LoadGen over a backend, and LoadGen's own verdict on it, read from its logs.

LoadGen has a thread of its own, so that Ctrl-C reaches the one that waits for it, and never a call from C++.
"""

from __future__ import annotations

import datetime
import json
import math
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnet_deploy._deps import require
from resnet_deploy.backends.base import Backend
from resnet_deploy.benchmarking.mlperf.samples import Library
from resnet_deploy.benchmarking.mlperf.systems import Server, System
from resnet_deploy.errors import BackendError, UnavailableError

SCENARIOS = {"single-stream": "SingleStream", "multi-stream": "MultiStream", "server": "Server", "offline": "Offline"}
SAMPLES_PER_QUERY = 8  # of MultiStream
BACKLOG_S = 2.0  # a server that is so far behind is given up
# MLPerf Inference 6.0, mlperf.conf.
_SEEDS = {
    "qsl_rng_seed": 2085463073848966840,
    "sample_index_rng_seed": 2747215439041700203,
    "schedule_rng_seed": 16159082839903944936,
}


@dataclass(frozen=True, kw_only=True)
class ScenarioRequest:
    """One LoadGen run.

    Attributes:
        scenario: single-stream, multi-stream, server or offline.
        queries_per_s: the Server's target; of the others what is expected, so that LoadGen makes enough queries beforehand
            (Offline: samples).
        sizes: the batch sizes that inferences have, ascending.
        min_duration_s, max_duration_s: of the run.
        min_queries: the fewest.
        latency_bound_s: that 99 % of the Server's answers must keep.
        accuracy: every sample once, and the answers logged, in place of a timed run.
    """

    scenario: str
    queries_per_s: float
    sizes: tuple[int, ...]
    min_duration_s: float
    max_duration_s: float
    min_queries: int
    latency_bound_s: float
    accuracy: bool = False

    def settings(self, lg: Any) -> Any:
        """LoadGen's TestSettings."""
        settings = lg.TestSettings()
        settings.scenario = getattr(lg.TestScenario, SCENARIOS[self.scenario])
        settings.mode = lg.TestMode.AccuracyOnly if self.accuracy else lg.TestMode.PerformanceOnly
        settings.min_duration_ms, settings.max_duration_ms = round(self.min_duration_s * 1e3), round(self.max_duration_s * 1e3)
        settings.min_query_count = self.min_queries
        settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = max(
            1, int(1e9 / self.queries_per_s)
        )
        settings.single_stream_target_latency_percentile = 0.9
        settings.multi_stream_target_latency_percentile = settings.server_target_latency_percentile = 0.99
        settings.multi_stream_samples_per_query = SAMPLES_PER_QUERY
        settings.offline_expected_qps = self.queries_per_s
        # Accuracy is not timed: its queries come as fast as they are taken.
        settings.server_target_qps = 1e6 if self.accuracy else self.queries_per_s
        settings.server_target_latency_ns = round(self.latency_bound_s * 1e9)
        settings.server_max_async_queries = max(8, math.ceil(BACKLOG_S * self.queries_per_s))
        settings.server_coalesce_queries = True
        for name, seed in _SEEDS.items():
            setattr(settings, name, seed)
        return settings


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What LoadGen said of a run.

    Attributes:
        valid, reason: its verdict, and its words where that is INVALID.
        values: the keys of its detail log.
        logs: its files by their suffix.
        answers: the logged class of each sample, of an accuracy run.
    """

    valid: bool
    reason: str
    values: dict[str, Any]
    logs: dict[str, bytes] = field(default_factory=dict, repr=False)
    answers: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def duration_s(self) -> float:
        """From the first query to the last answer; LoadGen's own clock, to the millisecond."""
        begin, end = (
            datetime.datetime.strptime(self.values[f"power_{name}"], "%m-%d-%Y %H:%M:%S.%f") for name in ("begin", "end")
        )
        return (end - begin).total_seconds()


def run_loadgen(
    backend: Backend, library: Library, request: ScenarioRequest, tick: Callable[[], None] = lambda: None
) -> Outcome:
    """Let LoadGen send the queries of one run.

    Args:
        backend: that answers them.
        library: the images.
        request: the scenario and its settings.
        tick: called every tenth of a second.

    Returns:
        What LoadGen says of it.

    Raises:
        BackendError: the backend failed.
        MissingPackageError: LoadGen is not installed.
        KeyboardInterrupt: Ctrl-C, once LoadGen has ended; so is whatever tick raises.
    """
    lg = require("mlperf_loadgen", extra="loadgen")
    kind = Server if request.scenario == "server" else System
    system = kind(lg, backend, library, request.sizes, accuracy=request.accuracy)
    with tempfile.TemporaryDirectory(prefix="loadgen-") as folder:
        done = threading.Event()
        thread = threading.Thread(target=_run, args=(lg, system, library, request, folder, done), name="loadgen")
        thread.start()
        interruption = _wait(done, system, tick)
        thread.join()
        if interruption is not None:
            raise interruption
        if system.error is not None:
            lines = str(system.error).strip().splitlines() or [""]
            raise BackendError(f"{backend.candidate} failed: {type(system.error).__name__}: {lines[0]}") from system.error
        return _read(Path(folder), request)


def _wait(done: threading.Event, system: System, tick: Callable[[], None]) -> BaseException | None:
    """Until LoadGen has ended. What interrupts (Ctrl-C) is kept until then: LoadGen still calls what would be freed."""
    interruption: BaseException | None = None
    while True:
        try:
            if done.wait(0.1):
                return interruption
            tick()
        except BaseException as exc:
            interruption = interruption or exc
            system.stop()


def _run(lg: Any, system: System, library: Library, request: ScenarioRequest, folder: str, done: threading.Event) -> None:
    try:
        system.warm_up()
        try:
            if not system.stopped:
                _start_test(lg, system, library, request, folder)
        finally:
            system.close()
    except BaseException as exc:
        system.stop(exc)
    finally:
        done.set()


def _start_test(lg: Any, system: System, library: Library, request: ScenarioRequest, folder: str) -> None:
    output, log = lg.LogOutputSettings(), lg.LogSettings()
    output.outdir, output.copy_summary_to_stdout = folder, False
    log.log_output, log.enable_trace = output, False
    sut = lg.ConstructFastSUT(system.issue, system.flush)
    qsl = lg.ConstructQSL(len(library), min(len(library), library.capacity), system.load, lambda samples: None)
    # An audit.config in the working directory would change the settings.
    lg.StartTestWithLogSettings(sut, qsl, request.settings(lg), log, str(Path(folder) / "audit.config"))
    lg.DestroyQSL(qsl)
    lg.DestroyFastSUT(sut)


def _read(folder: Path, request: ScenarioRequest) -> Outcome:
    logs = {name: (folder / f"mlperf_log_{name}").read_bytes() for name in ("summary.txt", "detail.txt", "accuracy.json")}
    lines = logs["detail.txt"].decode(errors="replace").splitlines()
    entries = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith(":::MLLOG")]
    values = {entry["key"]: entry["value"] for entry in entries}
    if "power_end" not in values and not request.accuracy:
        raise UnavailableError("LoadGen ended without a result; its detail log ends with: " + (lines or ["nothing"])[-1])
    errors = [str(entry["value"]) for entry in entries if entry.get("metadata", {}).get("is_error")]
    answers = {}
    if request.accuracy:
        for answer in json.loads(logs["accuracy.json"]):
            answers[int(answer["qsl_idx"])] = int(np.frombuffer(bytes.fromhex(answer["data"]), np.int32)[0])
    valid = values.get("result_validity") == "VALID"
    return Outcome(
        valid=valid, reason="" if valid else _reason(values, errors), values=values, logs=logs, answers=answers,
    )  # fmt: skip


def _reason(values: dict[str, Any], errors: list[str]) -> str:
    """Why a run is INVALID, in LoadGen's words."""
    names = {
        "result_perf_constraints_met": "Performance constraints satisfied: NO",
        "result_min_duration_met": "Min duration satisfied: NO",
        "result_min_queries_met": "Min queries satisfied: NO",
        "early_stopping_met": "Early stopping satisfied: NO",
    }
    parts = [reason for key, reason in names.items() if values.get(key) is False]
    parts.append(str(values.get("result_invalid_reason", "")))
    if values.get("early_stopping_met") is False:
        parts.append(str(values.get("early_stopping_result", "")))
    return "; ".join(" ".join(part.replace(" * ", " ").split()) for part in [*parts, *errors] if part.strip())
