"""MLPerf's scenarios by the real LoadGen: its verdicts against theory, and what happens when a run ends badly."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlperf_loadgen", reason="LoadGen is not installed: the extra loadgen")

from resnet_deploy.backends.base import Outputs
from resnet_deploy.benchmarking.mlperf import samples as library
from resnet_deploy.benchmarking.mlperf.loadgen import Outcome
from resnet_deploy.benchmarking.mlperf.samples import Library
from resnet_deploy.benchmarking.mlperf.scenarios import Figures, Runner, ScenarioOptions
from resnet_deploy.benchmarking.mlperf.search import MOST_RUNS, search_rate
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.data.dataset import Dataset
from resnet_deploy.errors import BackendError, DataError, UsageError
from tests.helpers.cli import fails, load, run
from tests.helpers.fakes import FakeBackend
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

ALL = ("single-stream", "multi-stream", "server", "offline")
LOADGEN = ("--threads", "1", "--data", "digits", "--min-duration", "200ms", "--backend", "onnxruntime")


class Fake(FakeBackend):
    """Remembers the sizes of its batches, and dies after some inferences."""

    def __init__(self, run_s: float = 0.0, dies_after: int | None = None) -> None:
        super().__init__(run_s=run_s)
        self.sizes: list[int] = []
        self.dies_after = dies_after

    def infer(self, images: np.ndarray[Any, Any]) -> Outputs:
        if self.dies_after is not None and len(self.sizes) >= self.dies_after:
            raise RuntimeError("CUDA error: an illegal memory access\nand much more")
        self.sizes.append(len(images))
        return super().infer(images)


def dataset(count: int = 50, bad: tuple[int, ...] = ()) -> Dataset:
    """Pixels whose running sums, the fake's logits, have their largest anywhere; the labels are right for half of them."""
    images = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    labels = np.cumsum(images, axis=1).argmax(axis=1)
    labels[::2] = (labels[::2] + 1) % 4

    def read(number: int) -> Any:
        if number in bad:
            raise ValueError("unreadable")
        return images[number]

    return Dataset(source="fake", count=count, read=read, name_of=str, digest=lambda: "fake", labels=labels)


def runner(backend: Fake, max_batch: int = 8, data: Dataset | None = None, **options: Any) -> Runner:
    asked = ScenarioOptions(scenario=ALL, **{"min_duration": 0.3, **options})
    images = Library(data or dataset(), everything=asked.accuracy)
    return Runner(backend=backend, library=images, options=asked, max_batch=max_batch)


def test_single_stream_against_theory() -> None:
    found = runner(Fake(0.002)).run("single-stream")
    figures = found.metrics
    assert found.valid and found.reason == "" and {"summary.txt", "detail.txt"} == set(found.logs)
    assert 0.002 <= figures["latency_min_s"] <= figures["latency_p50_s"] <= figures["latency_p90_s"] <= figures["latency_p99_s"]
    assert figures["samples_per_s"] <= 500 and figures["queries"] >= 64
    assert figures["duration_s"] >= 0.3 == figures["min_duration_s"]
    assert figures["queries"] / figures["duration_s"] == pytest.approx(figures["samples_per_s"], rel=0.3)
    assert figures["early_stopping_latency_s"] >= figures["latency_p90_s"]
    assert b"Result is : VALID" in found.logs["summary.txt"]


@pytest.mark.parametrize(("max_batch", "sizes"), [(8, {8}), (3, {2, 3}), (1, {1})])
def test_multi_stream_asks_for_eight_at_a_time(max_batch: int, sizes: set[int]) -> None:
    backend = Fake(0.0005)
    found = runner(backend, max_batch, min_duration=1.0).run("multi-stream")
    assert found.valid and set(backend.sizes) == sizes
    assert found.metrics["latency_min_s"] >= 0.0005 * -(-8 // max_batch), "a query is as long as all its inferences"
    assert found.metrics["samples"] == 8 * found.metrics["queries"] >= 8 * 662


def test_offline_runs_in_the_largest_batches() -> None:
    backend = Fake(0.002)
    found = runner(backend, 8).run("offline")
    assert found.valid and set(backend.sizes) == {8}
    assert 0 < found.metrics["samples_per_s"] <= 8 / 0.002
    assert found.metrics["duration_s"] >= 0.3


@pytest.mark.parametrize("max_batch", [1, 4])
def test_the_server_search_against_theory(max_batch: int) -> None:
    """No rate above batch over latency can be served; batches are made of what waits."""
    backend = Fake(0.002)
    found = runner(backend, max_batch, latency_bound=0.2, rate_tolerance=0.2).run("server")
    figures, capacity = found.metrics, max_batch / 0.002
    assert found.valid and figures["latency_p99_s"] <= 0.2 == figures["latency_bound_s"]
    assert figures["latency_min_s"] >= 0.002
    assert figures["samples_per_s"] <= capacity
    assert figures["target_qps"] < figures["failed_qps"] <= 1.2 * figures["target_qps"]
    assert "INVALID at" in found.notes[0] and figures["failed_latency_p99_s"] > 0.002
    assert max(backend.sizes) == max_batch == figures["max_batch"]
    assert {"summary.txt", "detail.txt", "above.summary.txt", "above.detail.txt"} == set(found.logs)
    assert b"Result is : VALID" in found.logs["summary.txt"] and b"Result is : INVALID" in found.logs["above.summary.txt"]


def test_the_server_makes_no_batch_that_takes_the_latency_bound() -> None:
    found = runner(Fake(0.0)).sizes("server")
    assert found == tuple(range(1, 9))
    assert runner(Fake(0.02), latency_bound=0.03).sizes("server") == (1,)
    few = Fake()
    few.kept_shapes, few.max_batch = 4, 32
    assert runner(few, 64).sizes("server") == (1, 8, 16, 32)


def test_a_bound_that_cannot_be_met() -> None:
    found = runner(Fake(0.02), latency_bound=0.005, min_queries=20).run("server")
    assert not found.valid and "a latency bound of 5 ms cannot be met: the fastest answer took 2" in found.reason
    assert "Performance constraints satisfied: NO" in found.reason, "LoadGen's own words"
    assert found.metrics["runs"] == 1 and found.metrics["latency_p99_s"] > 0.02


def test_too_few_queries_are_invalid_with_a_hint() -> None:
    found = runner(Fake(0.02), min_duration=0.1).run("multi-stream")
    assert not found.valid and found.metrics["queries"] < 662
    assert "Early stopping satisfied: NO" in found.reason and "at least 662 queries" in found.reason
    assert "Max test duration reached" in found.reason
    assert re.search(r"queries in [\d.]+ s are too few: give --min-duration \d+s or more", found.notes[0])
    asked = runner(Fake(0.001), min_queries=5, min_duration=0.02).run("multi-stream")
    assert not asked.valid and "leave --min-queries to its default, 662" in asked.notes[0]


def outcome(valid: bool, *, fastest_s: float = 0.001, late: int = 1000) -> Outcome:
    values = {
        "result_min_latency_ns": fastest_s * 1e9, "result_overlatency_query_count": late, "result_query_count": 1000,
    }  # fmt: skip
    return Outcome(valid=valid, reason="", values=values)


@pytest.mark.parametrize("limit", [3.0, 70.0, 100.0, 900.0])
def test_the_search_brackets_and_bisects(limit: float) -> None:
    rates: list[float] = []

    def probe(rate: float) -> Outcome:
        rates.append(rate)
        return outcome(rate <= limit)

    found = search_rate(probe, 100.0, floor=1.0, tolerance=0.05, latency_bound_s=0.01)
    assert found.best is not None and found.above is not None
    assert found.best[0] <= limit < found.above[0] <= 1.05 * found.best[0]
    assert found.best[0] == max(rate for rate in rates if rate <= limit) and found.runs == len(rates) < 20


def test_the_search_gives_up() -> None:
    nothing = search_rate(lambda rate: outcome(False), 100.0, floor=10.0, tolerance=0.05, latency_bound_s=0.01)
    assert nothing.best is None and nothing.worst()[0] == 10.0 and nothing.runs == 5
    hopeless = search_rate(lambda rate: outcome(False, fastest_s=0.02), 100.0, floor=1.0, tolerance=0.05, latency_bound_s=0.01)
    assert hopeless.best is None and hopeless.runs == 1
    endless = search_rate(lambda rate: outcome(True), 100.0, floor=1.0, tolerance=0.05, latency_bound_s=0.01)
    assert endless.above is None and endless.runs == MOST_RUNS


def test_a_run_that_fails_by_little_gets_another_go() -> None:
    seen: set[float] = set()

    def probe(rate: float) -> Outcome:
        again = rate in seen
        seen.add(rate)
        return outcome(rate <= 120 and again, late=20 if rate <= 120 else 1000)

    found = search_rate(probe, 100.0, floor=1.0, tolerance=0.05, latency_bound_s=0.01)
    assert found.best is not None and found.best[0] == pytest.approx(120, rel=0.05)


@pytest.mark.parametrize("scenario", ALL)
def test_a_backend_that_dies_ends_the_run_and_harms_no_other(scenario: str) -> None:
    dying = runner(Fake(0.001, dies_after=40), min_duration=20.0, latency_bound=0.5)
    start = time.monotonic()
    with pytest.raises(BackendError, match=r"eager failed: RuntimeError: CUDA error: an illegal memory access$"):
        dying.run(scenario)
    assert time.monotonic() - start < 15, "the run went on"
    assert runner(Fake(0.001)).run("single-stream").valid


@pytest.mark.parametrize("scenario", ["single-stream", "server"])
def test_ctrl_c_waits_for_loadgen(scenario: str) -> None:
    interrupted = runner(Fake(0.001), min_duration=20.0, latency_bound=0.5)

    def press(what: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    interrupted.progress = press
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(scenario)
    assert time.monotonic() - start < 15
    assert runner(Fake(0.001)).run("single-stream").valid


@pytest.mark.parametrize("scenario", ALL)
@pytest.mark.parametrize("held", [10, 1024], ids=["in-parts", "at-once"])
def test_accuracy_is_that_of_the_logged_answers(scenario: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "HELD_IMAGES", held)
    found = runner(Fake(), data=dataset(53, bad=(3, 20)), accuracy=True, latency_bound=1.0, rate_tolerance=0.9).run(scenario)
    assert found.metrics["accuracy_images"] == 51
    assert found.metrics["top1_accuracy"] == 25 / 51, "the odd ones, without number 3"
    assert {"accuracy.json", "accuracy.detail.txt"} < set(found.logs)


def test_the_library_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "HELD_BYTES", 16 * 5)
    few = Library(dataset(50, bad=(1,)))
    assert len(few) == few.capacity == 5 and few.limited
    assert np.array_equal(few.images([1, 3], 4)[:, 0], [dataset().read(number)[0] for number in (2, 4, 4, 4)])
    every = Library(dataset(50, bad=(1,)), everything=True)
    assert len(every) == 49 and every.capacity == 5
    every.load([40, 7])
    assert np.array_equal(every.images([7], 1)[0], dataset().read(8))
    with pytest.raises(DataError):
        Library(dataset(2, bad=(0, 1)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scenario": "burst"}, "unknown scenario 'burst'; choose from sweep, single-stream"),
        ({"scenario": ()}, "unknown scenario"),
        ({"latency_bound": 0.0}, "above 0"),
        ({"min_duration": -1.0}, "above 0"),
        ({"min_queries": 0}, "min_queries must be a whole number of at least 1"),
        ({"rate_tolerance": 2.0}, "above 0 and below 1"),
        ({"accuracy": True}, "--scenario offline"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ScenarioOptions(**options)


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(digits_bundle.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_bench_keeps_loadgens_verdict_and_logs(bundle: Path) -> None:
    """Of ONNX Runtime on the digits; the accuracy is the one that verify finds."""
    verified = load(run("verify", bundle, "--data", "digits", "--json"))["results"][0]["parity"]
    args = ("bench", bundle, *LOADGEN, "--accuracy", "--scenario", "offline,single-stream", "--json")
    report = load(run(*args))
    assert report["results"] == [] and "not a submission length" in report["warnings"][-1]
    rows = report["scenarios"]
    assert [row["scenario"] for row in rows] == ["offline", "single-stream"]
    found = Bundle.open(bundle)
    for row in rows:
        assert row["valid"] and row["error"] is None and row["gate"] == "pass" and row["threads"] == 1
        assert row["metrics"]["top1_accuracy"] == verified["top1_accuracy"] and row["metrics"]["accuracy_images"] == 600
        assert row["judged_on"], "two runs are compared image by image"
        assert f"loadgen.onnxruntime.{row['scenario']}.summary.txt" in row["log_files"]
        assert row["conditions"]["cpu"]["load_1min_before"] is not None and row["conditions"]["duration_s"] > 0.2
        for name in row["log_files"]:
            assert found.artifact(name).is_file()
    again = load(run(*args))
    assert again["scenarios"] == rows, "nothing is run twice"
    (bundle / rows[1]["log_files"][0]).write_text("VALID")
    third = load(run(*args))["scenarios"]
    assert third[0] == rows[0] and third[1]["metrics"] != rows[1]["metrics"], "a log that was edited is made again"
    text = run(*args[:-1]).stdout
    assert "VALID" in text and "single-stream" in text and "99.50%" in text and "samples/s" in text
    load(run("verify", bundle, "--data", "digits", "--json"))


def test_another_run_takes_the_place_of_the_last(bundle: Path) -> None:
    bench = ("bench", bundle, *LOADGEN, "--scenario", "single-stream", "--json")
    load(run(*bench, "--accuracy"))
    load(run(*bench))
    found = Bundle.open(bundle)
    assert len(found.manifest.scenarios) == 1
    logs = {name for name in found.manifest.artifacts if name.startswith("loadgen")}
    assert logs == {f"loadgen.onnxruntime.single-stream.{kind}.txt" for kind in ("summary", "detail")}
    assert logs == {path.name for path in bundle.glob("loadgen*")}


def test_a_sweep_beside_a_scenario(bundle: Path) -> None:
    args = ("--batch", "1,2", "--duration", "0.05", "--scenario", "sweep", "--scenario", "offline", "--json")
    report = load(run("bench", bundle, *LOADGEN, *args))
    assert [row["batch"] for row in report["results"]] == [1, 2] and len(report["scenarios"]) == 1


def test_an_unmet_bound_is_exit_code_1(bundle: Path) -> None:
    args = ("--scenario", "server", "--latency-bound", "1us", "--min-queries", "20")
    said = fails(1, "bench", bundle, *LOADGEN, *args)
    assert "FAILED onnxruntime (fp32, cpu), server: a latency bound of 0.001 ms cannot be met" in said


def test_a_backend_that_dies_in_bench_is_exit_code_3_and_the_others_finish(bundle: Path, monkeypatch: Any) -> None:
    from resnet_deploy.backends.onnxruntime.backend import OrtBackend

    load(run("verify", bundle, "--data", "digits", "--backend", "eager", "--backend", "onnxruntime", "--json"))
    args = ("bench", bundle, *LOADGEN, "--backend", "eager", "--scenario", "single-stream,offline", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(OrtBackend, "enqueue", lambda self: 1 / 0)
        done = run(*args)
    assert done.exit_code == 3 and "FAILED onnxruntime (fp32, cpu), single-stream: " in done.stderr
    rows = json.loads(done.stdout)["scenarios"]
    assert [(row["backend"], row["valid"]) for row in rows] == [("onnxruntime", False)] * 2 + [("eager", True)] * 2
    assert "ZeroDivisionError" in rows[0]["error"] and rows[1]["error"] == "not run, since single-stream failed"
    assert rows[0]["log_files"] == [] and rows[2]["log_files"]
    after = load(run(*args))["scenarios"]
    assert all(row["valid"] for row in after) and after[2:] == rows[2:], "what failed is run again, what did not is kept"


def test_ctrl_c_keeps_what_was_found(bundle: Path, monkeypatch: Any) -> None:
    known = Runner.run

    def press(self: Runner, scenario: str) -> Figures:
        if scenario == "offline":
            raise KeyboardInterrupt
        return known(self, scenario)

    args = ("bench", bundle, *LOADGEN, "--scenario", "single-stream,offline", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "run", press)
        assert run(*args).exit_code == 130
    (kept,) = Bundle.open(bundle).manifest.scenarios.values()
    assert load(run(*args))["scenarios"][0]["metrics"] == kept.metrics


def test_a_signal_during_a_run(bundle: Path) -> None:
    """The real one: LoadGen is in C++ by then, and its callbacks in a thread."""
    args = ["bench", str(bundle), *LOADGEN, "--min-duration", "1s", "--scenario", "single-stream,server"]
    command = [sys.executable, str(ROOT / "cli.py"), *args]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not json.loads((bundle / "manifest.json").read_bytes()).get("scenarios"):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.7)  # into the search
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in said and "Traceback" not in said
    (kept,) = Bundle.open(bundle).manifest.scenarios.values()
    assert kept.scenario == "single-stream" and kept.valid


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--scenario", "burst"), "unknown scenario"),
        (("--scenario", "server", "--latency-bound", "15"), "with its unit"),
        (("--scenario", "server", "--min-duration", "soon"), "with its unit"),
        (("--scenario", "offline", "--data", "random:4", "--accuracy"), "has no labels"),
        (("--accuracy",), "choose a scenario"),
    ],
)
def test_what_cannot_be_meant(args: tuple[str, ...], said: str, bundle: Path) -> None:
    assert said in fails(2, "bench", bundle, *args)


def test_a_missing_loadgen_is_exit_code_3_with_its_command(bundle: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    assert 'pip install "resnet-deploy[loadgen]"' in fails(3, "bench", bundle, "--scenario", "offline")
