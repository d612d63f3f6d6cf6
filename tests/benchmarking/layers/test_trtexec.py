"""trtexec beside our figures. It comes with no Python package: the outputs are written as its sources print them
(samples/common/sampleReporting.cpp and logging.h of 10.16 and 11.1), and a script on PATH stands in for it. So this tests our
command line and our reading, not trtexec.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import resnet_deploy as rd
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.tensorrt import backend as trt_module
from resnet_deploy.benchmarking import run as run_module
from resnet_deploy.benchmarking.layers.trtexec import (
    Settings,
    compare_figures,
    find_tools,
    parse_summary,
    run_trtexec,
    trtexec_command,
)
from resnet_deploy.benchmarking.report import Latency
from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.cli import main
from resnet_deploy.engine import plan as plan_module
from resnet_deploy.engine.plan import Origin
from resnet_deploy.engine.report import summarize
from resnet_deploy.errors import BackendError, UnavailableError, UsageError
from resnet_deploy.specs import Precision
from resnet_deploy.terminal import profiles as text
from tests.helpers.fake_tensorrt import Engine, TensorRt
from tests.helpers.results import latency, row

TEN = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --loadEngine=model.plan
[11/24/2026-10:47:55] [I] === Model Options ===
[11/24/2026-10:47:56] [I] Starting inference
[11/24/2026-10:47:59] [I] Warmup completed 34 queries over 200 ms
[11/24/2026-10:47:59] [I] Timing trace has 392 queries over 3.00851 s
[11/24/2026-10:47:59] [I]
[11/24/2026-10:47:59] [I] === Trace details ===
[11/24/2026-10:47:59] [I] Trace averages of 10 runs:
[11/24/2026-10:47:59] [I] Average on 10 runs - GPU latency: 7.58404 ms - Host latency: 7.60628 ms (enqueue 2.63062 ms)
[11/24/2026-10:47:59] [I]
[11/24/2026-10:47:59] [I] === Performance summary ===
[11/24/2026-10:47:59] [I] Throughput: 130.298 qps
[11/24/2026-10:47:59] [I] Latency: min = 5.38672 ms, max = 13.3664 ms, mean = 7.60628 ms, median = 7.16092 ms, percentile(90%) = 10.2996 ms, percentile(99%) = 12.9675 ms
[11/24/2026-10:47:59] [I] Enqueue Time: min = 2.72876 ms, max = 15.0201 ms, mean = 7.63062 ms, median = 0.86694 ms, percentile(90%) = 10.1792 ms, percentile(99%) = 14.1848 ms
[11/24/2026-10:47:59] [I] H2D Latency: min = 0.0065918 ms, max = 0.0698242 ms, mean = 0.0122212 ms, median = 0.00814819 ms, percentile(90%) = 0.0253906 ms, percentile(99%) = 0.0515137 ms
[11/24/2026-10:47:59] [I] GPU Compute Time: min = 5.34595 ms, max = 13.3388 ms, mean = 7.58404 ms, median = 7.14139 ms, percentile(90%) = 10.2881 ms, percentile(99%) = 12.9485 ms
[11/24/2026-10:47:59] [I] D2H Latency: min = 0.00390625 ms, max = 0.110596 ms, mean = 0.0100141 ms, median = 0.00439453 ms, percentile(90%) = 0.0254517 ms, percentile(99%) = 0.0994873 ms
[11/24/2026-10:47:59] [I] Total Host Walltime: 3.00851 s
[11/24/2026-10:47:59] [I] Total GPU Compute Time: 2.97294 s
[11/24/2026-10:47:59] [W] * GPU compute time is unstable, with coefficient of variance = 19.3%.
[11/24/2026-10:47:59] [I] Explanations of the performance metrics are printed in the verbose logs.
[11/24/2026-10:47:59] [I]
&&&& PASSED TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --loadEngine=model.plan
"""  # noqa: E501
# 11 by default, without data transfers: the copies take no time, which is printed as 0.
ELEVEN = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v110100] [b106] # trtexec --loadEngine=model.plan
[11/24/2026-10:47:59] [I] === Performance summary ===
[11/24/2026-10:47:59] [I] Throughput: 10321.4 qps
[11/24/2026-10:47:59] [I] Latency: min = 0.0947266 ms, max = 0.117188 ms, mean = 0.0961914 ms, median = 0.0957031 ms, percentile(90%) = 0.0976562 ms, percentile(99%) = 0.103516 ms
[11/24/2026-10:47:59] [I] Enqueue Time: min = 0.00146484 ms, max = 0.0268555 ms, mean = 0.0017 ms, median = 1.5e-03 ms, percentile(90%) = 0.00195312 ms, percentile(99%) = 0.00341797 ms
[11/24/2026-10:47:59] [I] H2D Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(90%) = 0 ms, percentile(99%) = 0 ms
[11/24/2026-10:47:59] [I] GPU Compute Time: min = 0.0947266 ms, max = 0.117188 ms, mean = 0.0961914 ms, median = 0.0957031 ms, percentile(90%) = 0.0976562 ms, percentile(99%) = 0.103516 ms
[11/24/2026-10:47:59] [I] D2H Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(90%) = 0 ms, percentile(99%) = 0 ms
[11/24/2026-10:47:59] [I] Total Host Walltime: 3.00023 s
[11/24/2026-10:47:59] [I] Total GPU Compute Time: 2.97872 s
&&&& PASSED TensorRT.trtexec [TensorRT v110100] [b106] # trtexec --loadEngine=model.plan
"""  # noqa: E501
REFUSED = """\
[11/24/2026-10:47:59] [E] Error[6]: IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is \
not compatible with this version of TensorRT, expecting library version 10.13.3 got 11.1.0)
[11/24/2026-10:47:59] [E] Engine deserialization failed
"""
SETTINGS = Settings(plan=Path("a b.plan"), input="input", shape=(8, 3, 224, 224), profile=2, duration_s=1.5)
COMMON = ["T", "--loadEngine=a b.plan", "--shapes=input:8x3x224x224", "--useProfile=2", "--infStreams=1", "--warmUp=200",
          "--duration=1.5", "--percentile=90,99"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Staged(type(row(1.0))):  # type: ignore[misc]
    """A result with trtexec's terms and the options that it was taken with."""

    h2d_latency_s: Latency | None = None
    compute_latency_s: Latency | None = None
    d2h_latency_s: Latency | None = None
    host_latency_s: Latency | None = None
    throughput_images_per_s: float | None = None


def staged(**given: float | None) -> Staged:
    parts = {name: None if value is None else latency(value) for name, value in given.items() if name.endswith("_s")}
    plain = {name: value for name, value in given.items() if not name.endswith("latency_s")}
    return Staged(**vars(row(9.0, batch=4, device_ms=8.0, enqueue_ms=0.5)) | parts | plain)  # type: ignore[arg-type]


def test_what_it_prints_is_read() -> None:
    throughput, medians = parse_summary(TEN)
    assert throughput == 130.298
    assert medians == pytest.approx(
        {"Latency": 7.16092e-3, "Enqueue Time": 0.86694e-3, "H2D Latency": 8.14819e-6, "GPU Compute Time": 7.14139e-3,
         "D2H Latency": 4.39453e-6}
    )  # fmt: skip
    throughput, medians = parse_summary(ELEVEN)
    assert throughput == 10321.4 and medians["H2D Latency"] == 0 and medians["Enqueue Time"] == pytest.approx(1.5e-6)
    bare = re.sub(r"^\[11.*?\] \[I\] ", "", TEN, flags=re.MULTILINE)
    assert parse_summary(bare) == parse_summary(TEN), "lines without time and severity are read too"


@pytest.mark.parametrize("output", ["", "no such thing", TEN.split("=== Perf")[0], TEN.replace("GPU Compute Time: ", "GPU: "),
                                    TEN.replace("Throughput: 130.298", "Throughput: -nan")])  # fmt: skip
def test_output_without_figures(output: str) -> None:
    with pytest.raises(BackendError, match="no performance summary"):
        parse_summary(output)


@pytest.mark.parametrize(
    ("flavour", "version", "changes", "expected"),
    [
        ("tensorrt", "10.16.1.11", {}, ["--useCudaGraph", "--useSpinWait"]),
        ("tensorrt", "10.16.1.11", {"cuda_graph": False, "spin_wait": False, "data_transfers": False}, ["--noDataTransfers"]),
        ("tensorrt", "11.4.0.106", {}, ["--includeDataTransfers"]),
        ("tensorrt", "11.4.0", {"data_transfers": False}, []),
        ("tensorrt", "11.4.0", {"cuda_graph": False, "spin_wait": False, "data_transfers": False},
         ["--noCudaGraph", "--noSpinWait"]),
        ("tensorrt", "11.4.0", {"data_transfers": False, "version_compatible": True}, ["--versionCompatible"]),
        ("tensorrt-lean", "10.16.1.11", {"version_compatible": True},
         ["--versionCompatible", "--useRuntime=lean", "--useCudaGraph", "--useSpinWait"]),
        ("tensorrt-rtx", "1.7.1.116", {"data_transfers": False},
         ["--rtxCudaGraphStrategy=wholeGraph", "--specializeStrategyDS=eager"]),
        ("tensorrt-rtx", "1.7.1.116", {"cuda_graph": False, "spin_wait": False},
         ["--rtxCudaGraphStrategy=disable", "--specializeStrategyDS=eager", "--noSpinWait", "--includeDataTransfers"]),
    ],
)  # fmt: skip
def test_the_command_line_has_our_settings(flavour: str, version: str, changes: dict[str, bool], expected: list[str]) -> None:
    from dataclasses import replace

    assert trtexec_command("T", replace(SETTINGS, **changes), flavour, version) == [*COMMON, *expected]
    assert "--infStreams=3" in trtexec_command("T", replace(SETTINGS, streams=3), flavour, version)


def test_ours_beside_theirs() -> None:
    medians = parse_summary(TEN)[1]
    both = staged(
        h2d_latency_s=1e-5, compute_latency_s=7e-3, d2h_latency_s=2e-5, host_latency_s=7.1e-3, throughput_images_per_s=600.0
    )
    found = {figure.name: figure for figure in compare_figures(both, 130.0, medians)}
    assert list(found) == ["Throughput", "Latency", "Enqueue Time", "H2D Latency", "GPU Compute Time", "D2H Latency"]
    assert (found["Throughput"].ours, found["Throughput"].trtexec, found["Throughput"].unit) == (600.0, 520.0, "images/s")
    assert found["Throughput"].difference == pytest.approx(600 / 520 - 1)
    assert found["Latency"].ours == 7.1e-3 and found["H2D Latency"].ours == 1e-5
    assert found["GPU Compute Time"].ours == 7e-3 and found["Enqueue Time"].ours == 0.5e-3
    host = {figure.name: figure for figure in compare_figures(row(9.0, batch=4, device_ms=8.0), 130.0, medians)}
    assert (host["Latency"].ours, host["GPU Compute Time"].ours) == (9e-3, 8e-3), "what the host's clock has"
    assert host["H2D Latency"].ours is None and host["H2D Latency"].difference is None and host["Throughput"].ours is None
    none = {figure.name: figure for figure in compare_figures(both, 130.0, parse_summary(ELEVEN)[1])}
    assert list(none) == ["Throughput", "Latency", "Enqueue Time", "GPU Compute Time"], "no copies, nothing to compare"
    assert none["Latency"].ours == 7e-3, "what trtexec calls latency without data transfers"


def program(path: Path, body: str) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def printing(path: Path, output: str, code: int = 0, errors: str = "") -> Path:
    """A tool that keeps what it was asked, and prints."""
    kept = path.with_suffix(".asked")
    body = f"import json\nwith open({str(kept)!r}, 'a') as file:\n    file.write(json.dumps(sys.argv[1:]) + '\\n')\n"
    return program(path, f"{body}sys.stdout.write({output!r})\nsys.stderr.write({errors!r})\nsys.exit({code})")


def asked(path: Path) -> list[list[str]]:
    return [json.loads(line) for line in path.with_suffix(".asked").read_text().splitlines()]


def test_it_is_run_and_its_reasons_are_told(tmp_path: Path) -> None:
    tool = printing(tmp_path / "trtexec", TEN)
    assert run_trtexec([str(tool), "--loadEngine=a b.plan"], 1.0) == parse_summary(TEN) and asked(tool) == [
        ["--loadEngine=a b.plan"]
    ]
    for name, output, code, errors, said in (
        ("a", "", 1, REFUSED, r"ended with 1: Error\[6\]: IRuntime::deserializeCudaEngine.*expecting library version 10.13.3"),
        ("b", "", 3, "", "ended with 3: it gave no reason"),
        ("c", "Segmentation fault", -11 & 0xFF, "", "ended with 245: it gave no reason"),
        ("d", "nothing", 0, "", "no performance summary"),
    ):
        with pytest.raises(BackendError, match=said):
            run_trtexec([str(printing(tmp_path / name, output, code, errors))], 1.0)
    (tmp_path / "e").write_text("not a program")
    (tmp_path / "e").chmod(0o755)
    with pytest.raises(BackendError, match="cannot be started: Exec format error"):
        run_trtexec([str(tmp_path / "e")], 1.0)


def test_a_tool_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_deploy.benchmarking.layers.trtexec.PATIENCE_S", 0.2)
    tool = program(tmp_path / "trtexec", "import time\ntime.sleep(3600)")
    with pytest.raises(BackendError, match="did not end within"):
        run_trtexec([str(tool)], 0.1)


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, plan, rtx, lean = map(Candidate.parse, ("onnxruntime", "tensorrt:int8", "tensorrt-rtx", "tensorrt-lean"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UsageError, match="measure one too, with --backend tensorrt"):
        find_tools([plain])
    with pytest.raises(UnavailableError, match=r"^trtexec is not on PATH\. It comes with .*--trtexec PATH") as caught:
        find_tools([plain, plan])
    assert caught.value.exit_code == 3
    with pytest.raises(UnavailableError, match="tensorrt_rtx is not on PATH"):
        find_tools([rtx])
    on_path = printing(tmp_path / "bin" / "trtexec", TEN)
    assert find_tools([plain, plan, plan]) == {"tensorrt": str(on_path)}
    assert find_tools([plan, lean], on_path) == {"tensorrt": str(on_path), "tensorrt-lean": str(on_path)}
    with pytest.raises(UnavailableError, match="tensorrt_rtx is not on PATH"):
        find_tools([plan, rtx])
    other = printing(tmp_path / "other" / "mine", TEN)
    assert find_tools([rtx], other) == {"tensorrt-rtx": str(other)}
    with pytest.raises(UsageError, match=r"cannot run plans of both .* give the folder"):
        find_tools([plan, rtx], other)
    with pytest.raises(UnavailableError, match=r"trtexec is not in .*other"):
        find_tools([plan], other.parent)
    both = {"tensorrt": "trtexec", "tensorrt-rtx": "tensorrt_rtx"}
    for name in both.values():
        printing(tmp_path / "other" / name, TEN)
    assert find_tools([plan, rtx], other.parent) == {one: str(other.parent / name) for one, name in both.items()}
    for wrong in (tmp_path / "nowhere", tmp_path / "other" / "text"):
        (tmp_path / "other" / "text").write_text("no program")
        with pytest.raises(UsageError, match="is not a program that can be run"):
            find_tools([plan], wrong)


@pytest.fixture
def planned(fake_cuda: None, digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle with a plan of TensorRT 11, on a runtime in host memory: what a GPU's machine would have."""
    bundle = Bundle.open(shutil.copytree(digits_bundle.path, tmp_path / "a bundle"))
    origin = Origin(
        flavour="tensorrt", version="11.4.0.106", platform="Linux-x86_64", gpu="NVIDIA H200", compute_capability="9.0"
    )
    graph = bundle.artifact("model.fp32.onnx")
    with bundle.transaction() as change:
        change.write("model.fp32.plan", graph.read_bytes())
        change.add(
            "model.fp32.plan", PlanFile, precision=Precision.FP32, made_from=bundle.sha256(graph.name), origin=origin,
            profiles=("1:8:8", "1:1:1"), flags={}, builder_s=1.0, key="0" * 16, report=summarize([], [], []),
        )  # fmt: skip
    monkeypatch.setattr(run_module, "ensure_plan", lambda *_, **__: None)
    for module in (plan_module, trt_module):
        monkeypatch.setattr(module, "here", lambda flavour: origin)
        monkeypatch.setattr(module, "preflight", lambda plan, machine: None)
    monkeypatch.setattr(trt_module, "deserialize", lambda path, flavour, **_: (TensorRt, Engine(path, [(1, 8, 8), (1, 1, 1)])))
    return bundle


def bench(bundle: Bundle, *more: str) -> Any:
    return CliRunner().invoke(
        main, ["bench", str(bundle.path), "--batch", "1,4", "--backend", "eager", "--backend", "tensorrt:no_cuda_graph",
               "--duration", "0.05", "--threads", "1", *more],
    )  # fmt: skip


@pytest.mark.slow
def test_bench_runs_it_on_the_same_plan(planned: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = printing(tmp_path / "bin" / "trtexec", TEN)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    done = bench(planned, "--check-trtexec", "--profile", "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    report = json.loads(done.stdout)
    plan = (planned.path / "model.fp32.plan").resolve()
    shapes = ["--shapes=input:1x32x32x3", "--shapes=input:4x32x32x3"]
    runs = asked(tool)
    assert [line[0] for line in runs] == [f"--loadEngine={plan}"] * 2
    assert [line[1] for line in runs] == shapes and [line[2] for line in runs] == ["--useProfile=1", "--useProfile=0"]
    assert all("--noCudaGraph" in line and "--duration=0.05" in line for line in runs)
    assert [one["batch"] for one in report["trtexec"]] == [1, 4] and not any(one["error"] for one in report["trtexec"])
    for one, line in zip(report["trtexec"], runs, strict=True):
        assert shlex.split(one["command"]) == [str(tool), *line], "what is shown can be run again"
        assert one["backend"] == "tensorrt:no_cuda_graph" and one["trtexec_s"] == pytest.approx(7.14139e-3)
        assert one["difference"] == pytest.approx(one["ours_s"] / one["trtexec_s"] - 1)
        assert len(one["figures"]) == 6 and one["settings"]["cuda_graph"] is False
    names = {
        layer["name"] for one in report["profiles"] if one["backend"] == "tensorrt:no_cuda_graph" for layer in one["layers"]
    }
    assert {"conv1", "layer3.2.conv2", "fc"} <= names and {one["batch"] for one in report["profiles"]} == {1, 4}
    shown = bench(planned, "--trtexec", str(tool)).stdout
    assert "beside trtexec, medians:" in shown and "7.1414 ms" in shown and str(plan) in shown


@pytest.mark.slow
def test_one_that_fails_leaves_the_figures(planned: Bundle, tmp_path: Path) -> None:
    tool = printing(tmp_path / "trtexec", "", 1, REFUSED)
    done = bench(planned, "--trtexec", str(tool))
    assert done.exit_code == 3 and "expecting library version 10.13.3" in done.stderr and "p50 ms" in done.stdout
    assert "tensorrt:no_cuda_graph (fp32, cuda) at batch 1: trtexec: it ended with 1" in done.stdout


def test_a_missing_one_is_said_before_anything_is_measured(planned: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(OpenedBundle, "backend", lambda *_: pytest.fail("a backend was loaded"))
    done = bench(planned, "--check-trtexec")
    assert done.exit_code == 3 and "trtexec is not on PATH" in done.stderr and not done.stdout
    done = bench(planned, "--trtexec", "nowhere")
    assert done.exit_code == 2 and "not a program" in done.stderr


def test_without_a_sweep_there_is_nothing_to_compare(planned: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen", reason="LoadGen is not installed: the extra loadgen")
    tool = printing(tmp_path / "trtexec", TEN)
    report = rd.bench(
        planned, batch=1, backend=["tensorrt"], scenario="offline", min_duration=0.05, min_queries=1, trtexec=tool, threads=1
    )
    assert not report.trtexec and any("trtexec was not run" in said for said in report.warnings)
    assert not tool.with_suffix(".asked").exists() and text.trtexec_text([]) == ""
