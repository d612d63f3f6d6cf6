"""`make lint` finds wrong calls into TensorRT: each of these faults, with every package that has no such call, and no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.typing.check import CACHE, check, files_of
from tests.typing.stubs import STUBS, clean

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STUBS.is_dir(), reason="no stubs of TensorRT's packages; make setup makes them"),
]
PACKAGES = ("tensorrt-10.13", "tensorrt-10.16", "tensorrt-11.4", "tensorrt-lean-11.4", "tensorrt-rtx-1.7")
TEN, ELEVEN, LEAN, RTX = PACKAGES[:2], PACKAGES[2:3], PACKAGES[3:4], PACKAGES[4:]

# File, what stands there, what is written instead, what mypy says of it, and with which packages.
FAULTS = [
    ("backends/tensorrt/backend.py", "context.get_tensor_shape(name)", "context.get_tensor_shape(batch)",
     'Argument 1 to "get_tensor_shape" of "IExecutionContext" has incompatible type "int"; expected "str"', PACKAGES),
    ("backends/tensorrt/backend.py", "set_optimization_profile_async(index, self.handle.cuda_stream)",
     "set_optimization_profile_async(index)", 'Missing positional argument "stream_handle"', PACKAGES),
    ("backends/tensorrt/backend.py", "trt.TensorIOMode.INPUT", "trt.TensorIOMode.INPUTS",
     '"type[TensorIOMode]" has no attribute "INPUTS"', PACKAGES),
    ("backends/tensorrt/backend.py", "execute_async_v3(self", "execute_async_v2(self",
     '"IExecutionContext" has no attribute "execute_async_v2"', PACKAGES),
    ("backends/tensorrt/backend.py", "engine.device_memory_size_v2", "engine.device_memory_size_v3",
     '"ICudaEngine" has no attribute "device_memory_size_v3"', PACKAGES),
    ("engine/profiler.py", "layer_name: str, ms: float", "layer_name: str, ms: str",
     'Argument 2 of "report_layer_time" is incompatible with supertype', PACKAGES),
    ("engine/report.py", "trt.LayerInformationFormat.JSON", "trt.ProfilingVerbosity.DETAILED",
     'Argument 1 to "get_engine_information" of "EngineInspector" has incompatible type', (*TEN, *ELEVEN, *RTX)),
    ("engine/report.py", '    if not hasattr(trt, "EngineInspector"):\n        return []\n', "",
     '"TensorRt" has no attribute "EngineInspector"', LEAN),
    ("engine/build.py", "trt.BuilderFlag.TF32", "trt.BuilderFlag.FP16", 'no attribute "FP16"', (*ELEVEN, *RTX)),
    ("engine/build.py", "config.create_timing_cache(timing_cache or b\"\")", "config.create_timing_cache(timing_cache)",
     'Argument 1 to "create_timing_cache" of "IBuilderConfig" has incompatible type "bytes | None"',
     (*TEN[1:], *ELEVEN, *RTX)),
    ("engine/build.py", "rtx.set_targets(trt, config, targets)", "config.num_compute_capabilities = len(targets)",
     '"IBuilderConfig" has no attribute "num_compute_capabilities"', (*TEN, *ELEVEN)),
    ("engine/rtx.py", "set_compute_capability(capability, index)", "set_compute_capability(index, capability)",
     'Argument 1 to "set_compute_capability" of "IBuilderConfig" has incompatible type "int"', RTX),
]  # fmt: skip


def stubs_of(package: str) -> Path:
    found = sorted(STUBS.glob(f"{package}.*"))
    if not found:
        pytest.skip(f"no stubs of {package}: it was not installed, or its wheel not downloaded, when make setup made them")
    return found[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_faults(package: str, tmp_path: Path) -> None:
    stubs, copy = stubs_of(package), tmp_path / "resnet_deploy"
    shutil.copytree(ROOT / "resnet_deploy", copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    if (CACHE / stubs.name).is_dir():  # what make lint found of other packages stays true
        shutil.copytree(CACHE / stubs.name, tmp_path / "cache" / stubs.name)
    wanted = []
    for name, old, new, said, packages in FAULTS:
        path = copy / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name} has no {old}"
        path.write_text(text.replace(old, new))
        wanted += [(name, said)] if package in packages else []
    lines = [line for line in check(stubs, copy, tmp_path / "cache").splitlines() if ": error: " in line]
    for name, said in wanted:
        assert any(line.startswith(f"resnet_deploy/{name}:") and said in line for line in lines), "\n".join([said, *lines])
    assert len({line.partition(": error: ")[0] for line in lines}) == len(wanted), lines


def test_every_file_that_calls_it_is_checked() -> None:
    names = {str(path.relative_to(ROOT / "resnet_deploy")) for path in files_of("tensorrt-rtx-1.7")}
    engine = {f"engine/{name}.py" for name in ("build", "flavours", "formats", "plan", "profiler", "report", "rtx")}
    assert names == engine | {"backends/tensorrt/backend.py"}


def test_what_a_binding_says_becomes_python() -> None:
    """A broken default, a name that is a keyword, types of C++, a shape, and an enumeration's value."""
    said = '''
class Dims:
    """Its text."""
    def __getitem__(self, arg0: typing.SupportsInt) -> int:
        ...
class ParserError:
    ...
class OnnxParser:
    def get_error(self, in: typing.SupportsInt, b: str = None, c: Dims) -> nvonnxparser::IParserError:
        ...
    def other(self, what: nvinfer1::Unknown<int>, kind: Kind = <Kind.A: 0>) -> nvinfer1::Unknown:
        ...
bool: Kind
'''
    text = clean(said)
    assert "def get_error(self, in_: int, b: str, c: Dims | collections.abc.Sequence[int]) -> ParserError:" in text
    assert "def other(self, what: typing.Any, kind: Kind=...) -> object:" in text
    assert "text" not in text and "bool: Kind" not in text
    assert "def __iter__" in text and "    OnnxParser = tensorrt_types.OnnxParser" in text
