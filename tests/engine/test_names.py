"""Every name of TensorRT that we use exists in the bindings of 11, 10 and TensorRT-RTX: a package that cannot be installed
here cannot be broken by a typo.

`make setup` downloads the bindings' wheels of tensorrt. They are looked into without the libraries that they need: stubs of
a few lines stand in for those, so that the classes and their members can be listed.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

import resnet_deploy

PACKAGE = Path(resnet_deploy.__file__).parent
WHEELS = sorted((Path(sys.prefix) / "bindings").glob("tensorrt*_bindings-*.whl"))
FILES = [path for room in ("backends/tensorrt", "engine") for path in sorted((PACKAGE / room).glob("*.py"))]

# Which classes a variable of a name can be.
CLASSES = {
    "builder": ["Builder"], "network": ["INetworkDefinition"], "parser": ["OnnxParser"], "error": ["ParserError"],
    "config": ["IBuilderConfig", "IRuntimeConfig"], "profile": ["IOptimizationProfile"], "runtime": ["Runtime"],
    "engine": ["ICudaEngine"], "_engine": ["ICudaEngine"], "context": ["IExecutionContext"],
}  # fmt: skip
# What a method gives that is used at once.
GIVEN = {
    "create_engine_inspector": "EngineInspector", "get_timing_cache": "ITimingCache", "create_runtime_config": "IRuntimeConfig",
    "Runtime": "Runtime",
}  # fmt: skip
OURS = {"profile.min", "profile.max", "profile.opt", "error.strerror"}  # variables of the same names that are not TensorRT's
RTX_ONLY = {
    "ComputeCapability", "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability",
    "CudaGraphStrategy", "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE", "CudaGraphStrategy.DISABLED",
    "IRuntimeConfig.cuda_graph_strategy", "DynamicShapesKernelSpecializationStrategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER", "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
}  # fmt: skip
LIST = """
import json, sys
sys.path.insert(0, sys.argv[1])
trt = __import__(sys.argv[2])
names = {n: sorted(dir(v)) if isinstance(v := getattr(trt, n), type) else [] for n in dir(trt)}
print(json.dumps(names))
"""


def attribute(node: ast.Attribute) -> str | None:
    """`trt.A`, `A.B` of `trt.A.B`, `config.x`, or the member of what a method gave."""
    base = node.value
    if isinstance(base, ast.Name):
        return f"{base.id}.{node.attr}"
    if isinstance(base, ast.Attribute):
        return f"{base.attr}.{node.attr}"
    if isinstance(base, ast.Call) and isinstance(base.func, ast.Attribute) and base.func.attr in GIVEN:
        return f"{GIVEN[base.func.attr]}.{node.attr}"
    return None


@cache
def used() -> frozenset[tuple[str, ...]]:
    """Names that are used: (`A`,), (`A.b`,), or (`A.b`, `C.b`) where a variable can be of several classes."""
    found = set()
    for path in FILES:
        tree = ast.parse(path.read_text())
        direct = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "trt"}
        found |= {(name,) for name in direct if not name.startswith("__")}
        for node in (n for n in ast.walk(tree) if isinstance(n, ast.Attribute)):
            text = attribute(node)
            if text is None or text in OURS:
                continue
            owner, _, member = text.partition(".")
            if owner in direct or owner in GIVEN.values():
                found.add((text,))
            elif owner in CLASSES:
                found.add(tuple(f"{name}.{member}" for name in CLASSES[owner]))
    return frozenset(found)


def members(folder: Path, module: str, libraries: Path | None = None) -> set[str]:
    """`A` and `A.b` of everything in a package."""
    import os

    environment = os.environ | ({} if libraries is None else {"LD_LIBRARY_PATH": str(libraries)})
    done = subprocess.run([sys.executable, "-c", LIST, str(folder), module], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    names: dict[str, list[str]] = json.loads(done.stdout)
    return set(names) | {f"{name}.{member}" for name, inside in names.items() for member in inside}


def missing(known: set[str], rtx: bool) -> list[str]:
    wanted = {names for names in used() if rtx or not set(names) <= RTX_ONLY}
    return sorted(" or ".join(names) for names in wanted if not known & set(names) and not (not rtx and set(names) & RTX_ONLY))


def test_the_search_finds_what_is_used() -> None:
    names = {name for group in used() for name in group}
    assert len(used()) > 60
    assert {"Builder", "BuilderFlag", "IBuilderConfig.progress_monitor", "IExecutionContext.execute_async_v3"} <= names
    assert {"IProfiler", "IExecutionContext.enqueue_emits_profile", "IExecutionContext.report_to_profiler"} <= names
    assert {"ITimingCache.serialize", "EngineInspector.get_engine_information", "ParserError.node_operator"} <= names
    assert missing({"Builder"}, rtx=True), "an empty package would pass"


def test_tensorrt_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")
    import tensorrt_rtx

    known = members(Path(tensorrt_rtx.__file__).parent.parent, "tensorrt_rtx")
    assert not missing(known, rtx=True) and "IProfiler.report_layer_time" in known
    assert {f"ComputeCapability.{name}" for name in ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121", "CURRENT")} <= known


@pytest.mark.skipif(not WHEELS, reason="the bindings of tensorrt are not there: make setup downloads them")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make stubs with")
@pytest.mark.parametrize("wheel", WHEELS, ids=lambda path: path.name.split("-")[1])
def test_tensorrt(tmp_path: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    library = tmp_path / "tensorrt_bindings" / "tensorrt.so"
    needed = set(re.findall(rb"lib(?:nvinfer|nvinfer_plugin|nvonnxparser)\.so\.\d+", library.read_bytes()))
    functions = set(re.findall(rb"\0((?:create|get|init)\w*(?:_INTERNAL|Registry|ParserVersion|InferPlugins|LibVersion))\0",
                               library.read_bytes()))  # fmt: skip
    source = tmp_path / "stub.c"
    source.write_text("".join(f"void *{name.decode()}(void) {{ return 0; }}\n" for name in sorted(functions)))
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in needed:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(stubs / name.decode()), str(source)], check=True)
    known = members(tmp_path, "tensorrt_bindings", stubs)
    assert not missing(known, rtx=False) and "IProfiler.report_layer_time" in known
    assert {f"BuilderFlag.{name}" for name in ("TF32", "SPARSE_WEIGHTS", "VERSION_COMPATIBLE")} <= known
    assert {f"HardwareCompatibilityLevel.{name}" for name in ("AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")} <= known
    assert not {"ComputeCapability", "CudaGraphStrategy"} & known, "RTX_ONLY is out of date"
