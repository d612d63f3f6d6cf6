"""bench as a whole: what is recorded beside each figure, backends that die, Ctrl-C, bundles that refuse."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_deploy as rd
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.onnxruntime.backend import OrtBackend
from resnet_deploy.benchmarking import sweep as timing
from resnet_deploy.benchmarking.settings import MeasureOptions
from resnet_deploy.bundle.manifest import GraphFile
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.results import ResultStore
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BackendError, PrecisionError, StorageError, UsageError
from resnet_deploy.pipeline.candidates import candidates_of, choose_candidates
from resnet_deploy.pipeline.compare_answers import unseen
from resnet_deploy.pipeline.lower import lower
from resnet_deploy.pipeline.lowering_options import LoweringOptions
from resnet_deploy.specs import Precision, silent
from resnet_deploy.timing.measure import Interrupted
from resnet_deploy.timing.nvml import Gpu
from tests.helpers.cli import fails, load, run
from tests.helpers.fake_nvml import FakeNvml
from tests.helpers.paths import ROOT
from tests.helpers.processes import COMMAND, in_namespace

pytestmark = pytest.mark.slow

BACKENDS = ("--backend", "eager", "--backend", "onnxruntime")
ARGS = ("--data", "digits", "--limit", "20", "--threads", "1", "--duration", "0.05", "--batch", "1,2,4", *BACKENDS)


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(digits_bundle.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def rows(report: dict[str, Any]) -> list[tuple[str, int]]:
    return [(row["backend"], row["batch"]) for row in report["results"]]


def dying(monkeypatch: Any, name: str, when: int, batch: int | None = None) -> None:
    """ONNX Runtime's method fails from a call on; at one batch size alone where that is given."""
    known, calls = getattr(OrtBackend, name), 0

    def fail(self: OrtBackend, *args: Any, **given: Any) -> Any:
        nonlocal calls
        if batch is None or (self._input is not None and len(self._input) == batch):
            calls += 1
            if calls > when:
                raise RuntimeError("CUDA error: an illegal memory access\nand much more")
        return known(self, *args, **given)

    monkeypatch.setattr(OrtBackend, name, fail)


@pytest.mark.parametrize(
    ("name", "when"), [("__init__", 0), ("__init__", 1), ("infer", 0), ("infer", 5), ("synchronize", 30)],
    ids=["before-parity", "load", "parity", "warm-up", "measurement"],
)  # fmt: skip
def test_a_backend_that_dies_leaves_its_rows_and_the_others_finish(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str, when: int
) -> None:
    with monkeypatch.context() as patch:
        dying(patch, name, when)
        done = run("bench", bundle, *ARGS, "--json")
        assert done.exit_code == 3
        report = json.loads(done.stdout)
        assert [row for row in rows(report) if row[0] == "eager"] == [("eager", 1), ("eager", 2), ("eager", 4)]
        assert report["unmeasured"] and {row["backend"] for row in report["unmeasured"]} == {"onnxruntime"}
        assert {row["error"] for row in report["unmeasured"]} == {"RuntimeError: CUDA error: an illegal memory access"}
        assert len(report["results"]) + len(report["unmeasured"]) == 6, "every row is there, one way or the other"
        assert "FAILED onnxruntime (fp32, cpu): RuntimeError: CUDA error" in done.stderr and "Traceback" not in done.stderr
    after = load(run("bench", bundle, *ARGS, "--json"))
    assert len(after["results"]) == 6 and after["unmeasured"] == []
    eager = [row for row in report["results"] if row["backend"] == "eager"]
    assert [row for row in after["results"] if row["backend"] == "eager"] == eager, "what did not fail is kept"


def test_one_batch_size_that_fails_is_that_rows_affair(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(run("verify", bundle, "--data", "digits", "--limit", "20", "--json"))
    dying(monkeypatch, "enqueue", 0, batch=2)
    done = run("bench", bundle, *ARGS)
    assert done.exit_code == 3
    assert "onnxruntime (fp32, cpu, batch 2): not measured: RuntimeError: CUDA error" in done.stdout
    report = json.loads(run("bench", bundle, *ARGS, "--json").stdout)
    assert [(row["backend"], row["batch"]) for row in report["unmeasured"]] == [("onnxruntime", 2)]
    assert ("onnxruntime", 4) in rows(report), "it was loaded again"


def test_where_nothing_is_left_the_error_is_the_answer(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying(monkeypatch, "infer", 0)
    said = fails(3, "bench", bundle, *ARGS[: -len(BACKENDS)], "--backend", "onnxruntime")
    assert said.startswith("Error: onnxruntime failed: RuntimeError: CUDA error")
    with pytest.raises(BackendError):
        rd.bench(bundle, data="digits", limit=20, backend=["onnxruntime"], batch=1)


def test_a_plan_in_another_precision_is_its_candidates_affair(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(*_: Any, **__: Any) -> None:
        raise PrecisionError("model.int8.onnx has 19 int8 convolutions, and the plan computes 19 in fp32")

    monkeypatch.setattr("resnet_deploy.benchmarking.run.ensure_plan", built)
    done = run("bench", bundle, *ARGS[: -len(BACKENDS)], "--backend", "onnxruntime", "--backend", "tensorrt-rtx", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 3 and rows(report) == [("onnxruntime", 1), ("onnxruntime", 2), ("onnxruntime", 4)]
    assert {(row["backend"], row["error"][:15]) for row in report["unmeasured"]} == {("tensorrt-rtx", "model.int8.onnx")}


def test_what_is_missing_here_does_not_keep_the_others(bundle: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    backends = ("--backend", "eager", "--backend", "eager:cuda", "--backend", "tensorrt")
    done = run("bench", bundle, *ARGS[: -len(BACKENDS)], *backends, "--json")
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    assert rows(report) == [("eager", 1), ("eager", 2), ("eager", 4)]
    errors = {row["backend"]: row["error"] for row in report["unmeasured"] if row["batch"] == 1}
    assert "CUDA" in errors["eager"] and "pip install" in errors["tensorrt"]


def test_ctrl_c_keeps_the_rounds_so_far(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the third round of the second batch size."""
    args, seen = ("bench", bundle, *ARGS, "--batch", "1,2"), 0

    def press(what: str, done: int, total: int | None) -> None:
        nonlocal seen
        if what == "measure batch 2" and done == 3:
            seen += 1
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("resnet_deploy.terminal.progress.Bars.__call__", lambda self, *said: press(*said))
        done = run(*args, "--json")
    assert done.exit_code == 130 and seen == 1 and "interrupted" in done.stderr
    report = json.loads(done.stdout)
    assert report["interrupted"] and rows(report) == [("eager", 1), ("onnxruntime", 1), ("eager", 2), ("onnxruntime", 2)]
    assert [row["partial"] for row in report["results"]] == [False, False, True, True]
    assert report["results"][-1]["samples"] >= 6, "of three rounds of at least two"
    assert any("interrupted before the measurement ended" in text for text in report["warnings"])
    after = load(run(*args, "--json"))
    assert after["results"][:2] == [{**row, "speedup": row["speedup"]} for row in report["results"][:2]]
    assert not after["interrupted"] and not any(row["partial"] for row in after["results"]), "measured again to the end"


def test_ctrl_c_before_anything_was_measured(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **given: Any) -> Any:
        raise Interrupted({})

    monkeypatch.setattr(timing, "measure", stop)
    assert "interrupted" in fails(130, "bench", bundle, *ARGS)


def test_a_signal_prints_and_keeps_what_was_measured(bundle: Path) -> None:
    """The real one, in the second batch size."""
    args = ["bench", str(bundle), "--data", "digits", "--limit", "9", "--threads", "1", "--backend", "onnxruntime"]
    command = [sys.executable, str(ROOT / "cli.py"), *args, "--batch", "1,2", "--duration", "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while not json.loads((bundle / "manifest.json").read_bytes())["measurements"]:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in said and "Traceback" not in said
    first = next(line for line in printed.splitlines() if line.startswith("onnxruntime"))
    assert first.split()[:4] == ["onnxruntime", "cpu", "fp32", "1"]
    kept = Bundle.open(bundle).manifest.measurements.values()
    assert any(not entry.partial for entry in kept)


def test_a_read_only_bundle_is_measured_and_it_is_said(digits_bundle: Bundle, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    bench = " ".join([*COMMAND, "bench", f"{disk}/b", *ARGS, "--batch", "1", "--backend", "onnxruntime"])
    done = in_namespace(
        f"mount -t tmpfs none {disk}; cp -r {digits_bundle.path} {disk}/b; mount -o remount,ro {disk}; cd {ROOT}; {bench}; "
        f"{bench} --scenario offline --min-duration 100ms"
    )
    assert done.returncode == 0, done.stderr
    assert "onnxruntime" in done.stdout and "VALID" in done.stdout
    assert done.stderr.count("the results are not kept in the bundle: cannot write") == 2


def test_a_full_disk_loses_no_figure(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Bundle) -> Any:
        raise StorageError("cannot write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Bundle, "transaction", full)
        report = load(run("bench", bundle, *ARGS, "--json"))
    assert len(report["results"]) == 6 and "No space left" in report["warnings"][-1]
    store = ResultStore(Bundle.open(bundle))
    assert store.keep("parity", {}) and store.warnings == []


def test_conditions_are_recorded_beside_each_figure(bundle: Path) -> None:
    args = (
        "bench",
        bundle,
        "--data",
        "digits",
        "--limit",
        "20",
        "--threads",
        "1",
        "--duration",
        "0.7",
        "--batch",
        "1",
        *BACKENDS,
    )
    report = load(run(*args, "--json"))
    for row in report["results"]:
        conditions = row["conditions"]
        assert conditions["duration_s"] >= 0.7 and conditions["samples"] >= 2 * 6, "before and after each of six turns"
        assert conditions["cpu"]["own_cores"] > 0 and conditions["cpu"]["load_1min_before"] is not None
        assert conditions["gpu"] is None and conditions["energy_per_image_j"] is None
        assert conditions["watching_share"] < 0.05
    assert [entry.conditions for entry in Bundle.open(bundle).manifest.measurements.values()] == [
        row["conditions"] for row in report["results"]
    ]
    assert "meanwhile load " in run(*args).stdout


def test_unsafe_conditions_are_warned_of_once_with_the_worst() -> None:
    from resnet_deploy.benchmarking.warnings import warnings_for
    from tests.helpers.results import row

    def under(share: str, **about: Any) -> Any:
        warnings = [f"other processes used {share} of 2 cores", "the clock fell"][: 1 + (share > "1")]
        return row(1.0, conditions={"warnings": warnings}, **about)

    described = {"weights": {"source": "file"}}
    (warning,) = warnings_for(
        [under("0.3", noisy=True), under("1.4", batch=8), row(1.0, batch=32, warm=False), row(1.0, backend="eager")], described
    )
    assert warning == (
        "the figures are not steady: latencies spread by up to 20% of their median, of which 10% is normal (onnxruntime at "
        "batch 1); the warm-up did not become stable (onnxruntime at batch 32); other processes used 1.4 of 2 cores "
        "(onnxruntime at batch 1, 8); the clock fell (onnxruntime at batch 8). Differences of that size mean nothing: stop "
        "other programs and measure again with --fresh, or for longer with --duration"
    )
    (warning,) = warnings_for([row(1.0, noisy=True), row(1.0, batch=8, noisy=True)], described)
    assert "is normal (every row). Differences" in warning
    assert warnings_for([row(1.0)], described) == []
    assert len(warnings_for([row(1.0, partial=True, noisy=True)], {"weights": {"source": "random"}})) == 3


def test_the_roof_and_what_the_results_say(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_deploy.benchmarking.roofline import ceilings as module
    from resnet_deploy.benchmarking.roofline.devices import Ceiling

    made: list[str] = []

    def measured(device: str) -> Ceiling:
        made.append(device)
        return Ceiling(name="here", flop_s={"fp32": 1e12}, memory_bytes_s=1e13, host_bytes_s=None, source="measured")

    monkeypatch.setattr(module, "measure_ceiling", measured)
    args = ("bench", bundle, *ARGS, "--measure-roof")
    report = load(run(*args, "--json"))
    for row in report["results"]:
        ceiling = row["roofline"]
        assert ceiling["device"] == "here" and ceiling["bound"] == "compute" and ceiling["batch"] == row["batch"]
        assert ceiling["reached_percent"] == pytest.approx(100 * row["images_per_s"] * ceiling["image_s"])
        alone = row["batch"] / row["compute_latency_s"]["p50"]
        assert ceiling["device_reached_percent"] == pytest.approx(100 * alone * ceiling["kernels_s"])
        assert row["compute_latency_s"] == row["device_latency_s"], "on a CPU the inference itself"
        assert row["h2d_latency_s"] is row["enqueue_latency_s"] is row["throughput_images_per_s"] is None
    text = run(*args).stdout
    assert "  of ceiling " in text and "floor" not in text and made == ["cpu"], "it is measured once"
    assert "floor" in run(*args, "--detail").stdout
    assert all(f"{said['severity']}: {said['text']}" in text for said in report["verdicts"])
    assert ("what the results say\n" in text) == bool(report["verdicts"])
    assert load(run("bench", bundle, *ARGS, "--json"))["results"][0]["roofline"] is None


def test_trtexecs_terms_with_their_settings(fake_cuda: None, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a fake device that takes its time on the CPU, watched by a fake NVML."""
    monkeypatch.setattr(Gpu, "open", classmethod(lambda cls: cls(FakeNvml(), "handle")))
    args = ("bench", bundle, "--data", "digits", "--limit", "9", "--threads", "1", "--batch", "2", "--duration", "2.5")
    args += ("--backend", "eager", "--backend", "eager:cuda", "--roof", "H200")
    cpu, cuda = load(run(*args, "--json"))["results"]
    assert cpu["settings"] == {} and cpu["roofline"] is None and cpu["conditions"]["gpu"] is None
    names = [f"{name}_latency_s" for name in ("enqueue", "h2d", "compute", "d2h", "host")]
    assert all(0 < cuda[name]["p50"] <= cuda[name]["p99"] for name in names)
    parts = sum(cuda[f"{name}_latency_s"]["mean"] for name in ("h2d", "compute", "d2h"))
    assert cuda["host_latency_s"]["mean"] == pytest.approx(parts)
    assert cuda["settings"] == {
        "cuda_graph": False, "graph_copies": False, "streams": 1, "spin_wait": True, "data_transfers": False,
        "inputs_on_device": True, "queued_ahead": 1,
    }  # fmt: skip
    ceiling = cuda["roofline"]
    assert ceiling["device"] == "H200" and ceiling["input"] == "uint8" and "nvidia.com" in ceiling["source"]
    queued = cuda["throughput_images_per_s"]
    assert queued > 0 and ceiling["device_reached_percent"] == pytest.approx(100 * queued * ceiling["kernels_s"])
    gpu = cuda["conditions"]["gpu"]
    assert gpu["name"] == "NVIDIA H200" and gpu["before"] and gpu["during"] and gpu["after"]
    assert cuda["conditions"]["energy_per_image_j"] > 0
    text = run(*args).stdout
    assert "medians in ms, as trtexec has them" in text and "queued/s" in text and "J/image" in text
    used = "no cuda graph, no graph copies, streams 1, spin wait, no data transfers, inputs on device, queued ahead 1"
    assert f"eager: {used}" in text
    assert max(len(line) for line in text.splitlines() if line.startswith(("backend ", "eager  "))) <= 160, "readable"
    samples = json.loads(Bundle.open(bundle).artifact("samples.json").read_bytes()).values()
    assert sum("h2d_s" in raw and len(raw["h2d_s"]) >= 6 for raw in samples) == 1


def test_named_options_reach_the_backend_and_the_figure(fake_cuda: None, bundle: Path) -> None:
    options = {"cuda_graph": True, "streams": 2, "spin_wait": False, "data_transfers": True}
    given: dict[str, Any] = {
        "data": "digits",
        "limit": 9,
        "backend": "eager:cuda",
        "batch": 2,
        "duration": 0.1,
        "threads": 1,
    }
    (row,) = rd.bench(bundle, **given, **options).results  # type: ignore[arg-type]
    assert row.backend == "eager:cuda_graph,streams=2" and row.settings["inputs_on_device"] is False
    assert {name: row.settings[name] for name in options} == options
    (other,) = rd.bench(bundle, **given, **options, inputs_on_device=True).results  # type: ignore[arg-type]
    assert other.settings["inputs_on_device"] and other.measured and other.latency_s != row.latency_s, "another figure"


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("eager:cuda", {"cuda_graph": True}, "eager:cuda,cuda_graph"),
        ("eager:cuda,cuda_graph", {"cuda_graph": False}, "eager:cuda"),
        ("eager:cuda", {"streams": 3}, "eager:cuda,streams=3"),
        ("eager:cuda", {"graph_copies": True}, "eager:graph_copies"),
        ("tensorrt-rtx", {"graph_copies": True}, "tensorrt-rtx"),
        ("eager", {"graph_copies": True}, "eager"),
        ("tensorrt:streams=4", {"streams": 1}, "tensorrt"),
        ("tensorrt", {"cuda_graph": False, "streams": 2}, "tensorrt:no_cuda_graph,streams=2"),
        ("tensorrt-rtx:no_cuda_graph", {"cuda_graph": True}, "tensorrt-rtx"),
        ("onnxruntime:cuda", {"cuda_graph": True, "streams": 2}, "onnxruntime:cuda,cuda_graph"),
        ("eager", {"cuda_graph": True, "streams": 2}, "eager"),
        ("eager:cuda,cuda_graph,streams=2", {}, "eager:cuda,cuda_graph,streams=2"),
    ],
)
def test_options_of_all_backends(text: str, options: dict[str, Any], expected: str) -> None:
    (found,) = candidates_of(text, [Precision.FP32], MeasureOptions(**options).applied)
    assert found == Candidate.parse(expected)


def test_default_backends_are_those_that_run_a_file_that_is_there(digits_bundle: Bundle, tmp_path: Path) -> None:
    """INT8 for ONNX Runtime's CPU kernels is no file for OpenVINO, which nobody named."""
    folder = tmp_path / "bundle"
    shutil.copytree(digits_bundle.path, folder)
    wanted = LoweringOptions(precision=("int8",), int8_target=("cpu",), calibration="digits:train", calibration_images=16)
    bundle = Bundle.open(folder)
    lower(bundle, wanted, silent)
    assert bundle.manifest.files(GraphFile).keys() == {"model.fp32.onnx", "model.int8-cpu.onnx"}
    found = choose_candidates(bundle, None, wanted.precisions)
    assert [str(candidate) for candidate in found] == ["eager", "onnxruntime:int8"]


@pytest.mark.parametrize("backends", [["onnxruntime"], ["eager", "onnxruntime"]])
def test_a_precision_that_a_backend_has_no_kernels_in(backends: list[str], bundle: Path) -> None:
    """Alone, or beside others: it is never left out in silence."""
    args = [part for name in backends for part in ("--backend", name)]
    message = fails(2, "bench", bundle, *args, "--precision", "bf16")
    assert "onnxruntime has no kernels in bf16; backends for bf16: eager:bf16, openvino, tensorrt" in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"streams": 0}, "at least 1"),
        ({"roof": "H300"}, "there are no published ceilings of 'H300'; choose from H200, "),
        ({"roof": "H200", "measure_roof": True}, "--roof or --measure-roof"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], said: str, bundle: Path) -> None:
    with pytest.raises(UsageError, match=said):
        MeasureOptions(**options)
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert said in fails(2, "bench", bundle, *[part for part in given if part != "True"])


def test_the_help_has_every_term_with_trtexecs_name() -> None:
    text = " ".join(run("bench", "--help").stdout.split())
    for term, name in (
        ("end-to-end", "[End-to-End Host Latency]"), ("enqueue", "[Enqueue Time]"), ("H2D, D2H", "[H2D Latency, D2H Latency]"),
        ("compute", "[GPU Compute Time]"), ("host", "[Latency; before, Host Latency]"), ("queued/s", "[Throughput,"),
        ("--cuda-graph", "--useCudaGraph"), ("--streams", "--infStreams"), ("--spin-wait", "--useSpinWait"),
        ("--data-transfers", "--noDataTransfers"), ("--inputs-on-device", "MLPerf"),
    ):  # fmt: skip
        assert term in text and name in text, term


def test_the_answers_are_those_of_the_images(fake_cuda: None, bundle: Path) -> None:
    """A fake device's backend passes the gates, so that what is timed is the network."""
    report = rd.bench(bundle, data="digits", backend=["eager:cuda,streams=2"], batch=4, duration=0.05, threads=1)
    assert report.passed and report.results[0].parity["top1_agreement"] == 1
    assert np.isfinite(report.results[0].host_latency_s.p50)  # type: ignore[union-attr]


def test_the_default_images_are_none_that_were_calibrated_on(digits_bundle: Bundle, tmp_path: Path) -> None:
    """Whatever seeds a calibration used: judged on images that it has seen, nothing would be left to judge."""
    copied = shutil.copytree(digits_bundle.path, tmp_path / "b")
    options = {"precision": "int8", "int8_target": "cpu", "calibration_method": "max"}
    calibrated = rd.export(copied, calibration="random:48:1000000", **options)
    report = rd.bench(calibrated, backend="onnxruntime:int8", batch=1, duration=0.05, threads=1, gate="cosine-min=0.5")
    (row,) = report.results
    assert row.parity_data.startswith("random:32:") and row.parity_data != "random:32:1000000"
    opened = OpenedBundle(calibrated)
    seen = opened.seen(Candidate.parse("onnxruntime:int8"))
    used = opened.data(row.parity_data)
    assert seen and len(unseen(next(used.batches(32)), seen).images) == 32
