"""Plans in a bundle, by TensorRT-RTX's real builder; what has a GPU to run them on is in tests/gpu."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import resnet_deploy as rd
from resnet_deploy.bundle.manifest import GraphFile, PlanFile
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.cli import main
from resnet_deploy.engine.build import Built, build_plan
from resnet_deploy.engine.flavours import TENSORRT_RTX
from resnet_deploy.engine.options import BuildOptions
from resnet_deploy.engine.report import EngineLayer
from resnet_deploy.errors import EngineError, IntegrityError, PrecisionError, UnavailableError, UsageError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.pipeline import build as building
from resnet_deploy.pipeline.build import _prove, graph_layers
from resnet_deploy.specs import Precision
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")

RTX = "tensorrt-rtx"


@pytest.fixture(scope="module")
def calibrated(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FP32, INT8 and the calibration of the digits network."""
    path = tmp_path_factory.mktemp("plans") / "bundle"
    shutil.copytree(digits_bundle.path, path)
    rd.bench(path, precision="int8", int8_target="tensorrt", calibration="digits:train", calibration_images=64,
             backend="eager", batch=1, duration=0.01)  # fmt: skip
    return path


@pytest.fixture
def bundle(calibrated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calibrated, tmp_path / "bundle"))


def test_plans_are_built_proven_and_recorded(bundle: Path) -> None:
    plans = rd.build(bundle, precision="fp32,fp16,int8", batch=("1", "2:4:8"), flavour=RTX, compute_capability="sm86,sm89")
    manifest = Bundle.open(bundle).manifest
    for plan, kind in zip(plans, ("fp32", "fp16", "int8"), strict=True):
        entry = manifest.artifacts[plan.name]
        assert plan.name == f"model.{kind}.tensorrt-rtx-{TENSORRT_RTX.version}.sm86-sm89.plan" and not plan.reused
        assert isinstance(entry, PlanFile) and entry.made_from == manifest.artifacts[f"model.{kind}.onnx"].sha256
        assert entry.profiles == ("1:1:1", "2:4:8") and entry.flags["tf32"] is False
        assert entry.origin.targets == ("sm86", "sm89") and entry.origin.gpu is None
        assert 0 < entry.builder_s < 600 and not entry.warnings
        assert plan.report.convolutions == {kind: 19}, "every convolution of a ResNet-20"
    assert len(plans[2].report.unfused_adds) == 9 and plans[1].report.unfused_adds == ()
    assert len(plans[2].report.float_outputs) == 19 and plans[1].report.float_outputs == (), "facts of TensorRT-RTX's kernels"
    Bundle.open(bundle).artifact(plans[0].name)


def test_nothing_is_built_twice_and_a_damaged_plan_again(bundle: Path) -> None:
    (first,) = rd.build(bundle, batch="4", flavour=RTX)
    (again,) = rd.build(bundle, batch="4", flavour=RTX)
    assert again.reused and again.entry == first.entry
    (other,) = rd.build(bundle, batch="2", flavour=RTX)
    assert not other.reused and other.name == first.name
    (bundle / other.name).write_bytes(b"damaged")
    (mended,) = rd.build(bundle, batch="2", flavour=RTX)
    assert not mended.reused
    Bundle.open(bundle).artifact(mended.name)


def test_a_graph_that_is_missing_is_made_and_one_that_is_there_is_kept(bundle: Path) -> None:
    rd.bench(bundle, precision="int8", int8_target="tensorrt", keep="layer1", backend=["eager"], batch=1, duration=0.01)
    mixed = Bundle.open(bundle).manifest.artifacts["model.int8.onnx"].sha256
    fp16, int8 = rd.build(bundle, precision="fp16,int8", flavour=RTX, batch="8")
    assert fp16.report.convolutions == {"fp16": 19}
    assert int8.report.convolutions == {"int8": 13, "fp16": 6}, "a tuned mix stays the mix that it is"
    assert int8.entry.made_from == mixed


def test_int8_needs_a_calibration(digits_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(digits_bundle.path, tmp_path / "b")
    with pytest.raises(rd.DeployError, match="--calibration"):
        rd.build(tmp_path / "b", precision="int8", flavour=RTX, batch="8")


def test_an_int8_request_without_int8_convolutions_fails(bundle: Path) -> None:
    """The trap that this is for: a scale of shape [1] is valid ONNX, and TensorRT-RTX drops the pair without a word."""
    graph = Graph.read(bundle / "model.int8.onnx")
    for node in graph.nodes:
        name = node.input[1] if node.op_type in {"QuantizeLinear", "DequantizeLinear"} else None
        if name is not None and not graph.constants[name].dims:
            graph.constants[name].dims.append(1)
    opened = Bundle.open(bundle)
    old = opened.manifest.files(GraphFile)["model.int8.onnx"]
    with opened.transaction() as change:
        onnx.save(graph.model, change.stage("model.int8.onnx"))
        kept = ("precision", "key", "made_from", "settings", "calibration")
        change.add("model.int8.onnx", GraphFile, **{name: getattr(old, name) for name in kept})
    with pytest.raises(PrecisionError, match=r"has 19 int8 convolutions, and the plan computes 19 in fp") as caught:
        rd.build(bundle, precision="int8", flavour=RTX, batch="8")
    assert caught.value.exit_code == 1
    assert not [name for name in Bundle.open(bundle).manifest.artifacts if name.endswith(".plan")]
    assert not list(bundle.glob("*.plan"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch": "1:8:64"}, "checked up to batch 8, not 64"),
        ({"batch": "8:4:2"}, "smallest <= best <= largest"),
        ({"compute_capability": "sm75", "precision": "int8"}, "sm75 has no int8 convolutions"),
        ({"compute_capability": "sm86", "precision": "fp8"}, "sm86 has no fp8 convolutions"),
        ({"hardware_compatible": "ampere-plus"}, "has no --hardware-compatible"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"flavour": "trt"}, "unknown flavour"),
    ],
)
def test_wrong_requests(bundle: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        rd.build(bundle, **{"flavour": RTX, "batch": "8", **given})


def test_an_unsupported_operator_is_named(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    node = helper.make_node("Sharpen", ["x"], ["y"], name="layer7.sharpen", domain="com.example")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    graph = helper.make_graph([node], "g", [tensors[0]], [tensors[1]])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(EngineError, match=r"cannot parse .*layer7\.sharpen.*Sharpen"):
        build_plan(tmp_path / "m.onnx", BuildOptions(batch="1"), TENSORRT_RTX, ("sm86",), lambda *_: None)


def test_a_damaged_graph(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="cannot parse"):
        build_plan(tmp_path / "m.onnx", BuildOptions(batch="1"), TENSORRT_RTX, ("sm86",), lambda *_: None)


def test_a_workspace_that_is_too_small(bundle: Path) -> None:
    with pytest.raises(EngineError, match="raise --workspace-mib"):
        rd.build(bundle, precision="int8", flavour=RTX, batch="8", workspace_mib=1)


def test_without_a_gpu_a_plan_is_refused_before_it_is_read(bundle: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    rd.build(bundle, flavour=RTX, batch="8")
    with pytest.raises(UnavailableError, match="no NVIDIA GPU that can be used"):
        rd.verify(bundle, "random:2", backend=[RTX])
    with pytest.raises(UsageError, match=r"resnet-deploy build .* --precision int8"):
        rd.verify(bundle, "random:2", backend=[f"{RTX}:int8"])


def test_ctrl_c_stops_the_builder_and_leaves_nothing(bundle: Path) -> None:
    before, steps = sorted(bundle.iterdir()), []

    def press(what: str, done: int, total: int | None) -> None:
        if what == "build":
            steps.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        rd.build(bundle, flavour=RTX, batch="8", progress=press)
    assert len(steps) == 1, "the builder went on"
    assert sorted(bundle.iterdir()) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert rd.build(bundle, flavour=RTX, batch="8")


def test_a_killed_build_loses_nothing(bundle: Path) -> None:
    script = (
        "import os, signal, resnet_deploy as rd\n"
        "kill = lambda what, *_: os.kill(os.getpid(), signal.SIGKILL) if what == 'build' else None\n"
        f"rd.build({str(bundle)!r}, flavour={RTX!r}, batch='8', progress=kill)\n"
    )
    manifest = Bundle.open(bundle).manifest
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert Bundle.open(bundle).manifest == manifest and not (bundle / ".staging").exists()
    assert rd.build(bundle, flavour=RTX, batch="8")


def test_two_builds_of_one_bundle_lose_nothing(bundle: Path) -> None:
    """Building holds no lock: each plan is there when its own build ends."""
    seen = []

    def second(what: str, done: int, total: int | None) -> None:
        if what == "build" and not seen:
            options = ["--flavour", RTX, "--compute-capability", "sm89", "--batch", "4"]
            command = [sys.executable, "cli.py", "build", str(bundle), *options]
            seen.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True))

    (first,) = rd.build(bundle, flavour=RTX, batch="8", progress=second)
    assert seen[0].returncode == 0, seen[0].stderr
    plans = Bundle.open(bundle).manifest.files(PlanFile)
    assert {plan.profiles for plan in plans.values()} == {("8:8:8",), ("4:4:4",)} and first.name in plans
    for name in plans:
        Bundle.open(bundle).artifact(name)


def test_progress_goes_up(bundle: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    rd.build(bundle, flavour=RTX, batch="8", progress=lambda *step: told.append(step))
    steps = [step for what, step, _ in told if what == "build"]
    assert steps == sorted(steps) and len(steps) >= 3


def corruptions(data: bytes, count: int) -> list[bytes]:
    """Bits flipped, bytes cut, bytes added, blocks of zeros and noise: each another, none the file itself."""
    rng = np.random.default_rng(0)
    found = [b"", b"\0", data[:27], data[:-1], data + b"\0", b"garbage" * 100, data[::-1]]
    while len(found) < count:
        at, kind = int(rng.integers(len(data))), len(found) % 4
        if kind == 0:
            found.append(data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :])
        elif kind == 1:
            found.append(data[:at])
        elif kind == 2:
            found.append(data[:at] + rng.bytes(64) + data[at + 64 :])
        else:
            found.append(data[:at] + rng.bytes(9) + data[at:])
    return [damaged for damaged in found if damaged != data]


def test_each_of_200_damaged_plans_is_refused_before_it_is_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_deploy.engine import plan as module

    monkeypatch.setattr(module, "deserialize", lambda *_: pytest.fail("native code saw a damaged plan"))
    (plan,) = rd.build(bundle, flavour=RTX, batch="8")
    path = bundle / plan.name
    cases = corruptions(path.read_bytes(), 205)
    assert len(cases) >= 200
    for damaged in cases:
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"was changed after it was made.*resnet-deploy build"):
            rd.inspect(path)
        with pytest.raises(IntegrityError):
            Bundle.open(bundle).artifact(plan.name)


def test_damaged_plans_that_are_trusted_end_in_an_error_too(bundle: Path, tmp_path: Path) -> None:
    """With --trust, TensorRT itself reads them: in a process of its own, so that a crash would be seen."""
    (plan,) = rd.build(bundle, flavour=RTX, batch="8")
    for number, damaged in enumerate(corruptions((bundle / plan.name).read_bytes(), 12)):
        (tmp_path / f"{number}.plan").write_bytes(damaged)
    script = (
        "import sys, resnet_deploy as rd\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        rd.inspect(path, trust=True)\n        print('read', path)\n"
        "    except rd.DeployError as exc:\n        print('refused', exc)\n"
    )
    files = sorted(map(str, tmp_path.glob("*.plan")))
    done = subprocess.run([sys.executable, "-c", script, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.count("refused") == len(files)


def test_inspect(bundle: Path, tmp_path: Path) -> None:
    rd.build(bundle, precision="int8", flavour=RTX, batch="8", compute_capability="sm86")
    (path,) = bundle.glob("*.plan")
    done = CliRunner().invoke(main, ["inspect", str(path)])
    assert done.exit_code == 0, done.output
    assert "computes 19 int8 convolutions in" in done.output and "9 unfused additions" in done.output
    assert f"tensorrt-rtx {TENSORRT_RTX.version} for sm86" in done.output and "layer3.2.conv2" in done.output
    details = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).output)
    assert details["report"]["convolutions"] == {"int8": 19} and details["origin"]["targets"] == ["sm86"]
    shutil.copy(path, tmp_path / "foreign.engine")
    done = CliRunner().invoke(main, ["inspect", str(tmp_path / "foreign.engine")])
    assert done.exit_code == 2 and f"one of tensorrt-rtx {TENSORRT_RTX.version}" in done.output and "--trust" in done.output


def test_the_command_line(bundle: Path) -> None:
    arguments = ["build", str(bundle), "--precision", "fp16", "--batch", "1", "--batch", "2:4:8", "--flavour", RTX]
    done = CliRunner().invoke(main, [*arguments, "--optimization-level", "0", "--sparse-weights", "--tf32", "--json"])
    assert done.exit_code == 0, done.output
    (plan,) = json.loads(done.stdout)["plans"]
    assert plan["profiles"] == ["1:1:1", "2:4:8"]
    assert plan["flags"]["sparse_weights"] and plan["flags"]["tf32"] and plan["flags"]["optimization_level"] == 0
    done = CliRunner().invoke(main, ["build", str(bundle), "--timing-cache", "--flavour", RTX])
    assert done.exit_code == 2 and "has no --timing-cache" in done.output
    done = CliRunner().invoke(main, ["build", str(bundle), "--flavour", "tensorrt"])
    assert done.exit_code == 3 and "resnet-deploy[gpu]" in done.output


def test_a_static_graph_takes_its_own_batch_alone(digits_bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load(digits_bundle.artifact("model.fp32.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="has a fixed batch of 4"):
        build_plan(tmp_path / "m.onnx", BuildOptions(batch="1:4:8"), TENSORRT_RTX, ("sm86",), lambda *_: None)
    assert build_plan(tmp_path / "m.onnx", BuildOptions(batch="4"), TENSORRT_RTX, ("sm86",), lambda *_: None).layers


def test_the_layers_of_a_graph(calibrated: Path) -> None:
    convolutions, additions = graph_layers(calibrated / "model.int8.onnx")
    assert len(convolutions) == 19 and set(convolutions.values()) == {"int8"}
    assert len(additions) == 9 and "layer1.0.add" in additions


def test_a_timing_cache_is_kept_and_given_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX has none: the builder's part is played here, the bundle's is real."""
    given: list[bytes | None] = []
    real = building.build_plan

    def with_cache(*arguments: Any, timing_cache: bytes | None = None) -> Any:
        given.append(timing_cache)
        built = real(*arguments)
        return replace(built, timing_cache=b"times")

    monkeypatch.setattr(building, "build_plan", with_cache)
    rd.build(bundle, flavour=RTX, batch="8", compute_capability="sm86")
    rd.build(bundle, flavour=RTX, batch="4", compute_capability="sm86")
    rd.build(bundle, flavour=RTX, batch="4", compute_capability="sm89")
    assert given == [None, b"times", None], "a cache is for the device that it was made on"
    (name,) = [name for name in Bundle.open(bundle).manifest.artifacts if name.endswith("sm86.cache")]
    (bundle / name).write_bytes(b"changed")
    rd.build(bundle, flavour=RTX, batch="2", compute_capability="sm86")
    assert given[-1] is None, "a cache that was changed is not given to a builder"


@pytest.mark.parametrize("logged", [True, False])
def test_the_builders_log_decides_where_the_inspector_proves_nothing(logged: bool) -> None:
    """An inspector that spells the nodes in another way; what neither of them shows is an error."""
    names = {"conv1": "int8", "conv2": "int8"}

    def layers(prefix: str, precision: str) -> list[EngineLayer]:
        return [EngineLayer(name=n, kind="conv", precision=precision, output="fp32", onnx=(prefix + n,)) for n in names]

    built = Built(
        plan=b"",
        layers=layers("other/", "int8"),
        logged=layers("", "int8" if logged else "fp32"),
        timing_cache=None,
        builder_s=0.0,
    )
    if logged:
        report, warnings = _prove("model.int8.onnx", (names, []), built, Precision("int8"))
        assert report.convolutions == {"int8": 2} and not warnings
    else:
        with pytest.raises(PrecisionError, match="has 2 int8 convolutions"):
            _prove("model.int8.onnx", (names, []), built, Precision("int8"))
