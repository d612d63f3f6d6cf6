"""A TensorRT runtime on the package's fake CUDA device, ONNX Runtime behind it: what the real one promises, and no more.

Buffers are known by address alone; a context without a profile, a shape, addresses or scratch memory refuses to run.
"""

from __future__ import annotations

import ctypes
import json
import time
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from resnet_deploy.backends.fake.streams import stream_of
from resnet_deploy.backends.fake.tensors import kind_of

TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(uint8)": "UINT8", "tensor(int64)": "INT64"}
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT64": np.int64}


class Mode(Enum):
    INPUT, OUTPUT = 0, 1


class DataType(Enum):
    FLOAT, HALF, UINT8, INT64 = range(4)


class TensorFormat(Enum):
    LINEAR, CHW4, HWC8, CHW32, HWC = range(5)


CHANNELS = {TensorFormat.CHW4: 4, TensorFormat.HWC8: 8, TensorFormat.CHW32: 32}  # in memory; others have the image's own


class Config:
    strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy


class RuntimeCache:
    """Shapes that kernels were compiled for, as text; what begins otherwise is of another release."""

    def __init__(self) -> None:
        self.shapes: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"rtx "):
            return False
        self.shapes = set(blob.decode().split()[1:])
        return True

    def serialize(self) -> bytes:
        return f"rtx {' '.join(sorted(self.shapes))}".encode() if self.shapes else b""


class RtxConfig(Config):
    cuda_graph_strategy = None
    dynamic_shapes_kernel_specialization_strategy = None
    cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class Inspector:
    """What has weights is a layer with what follows it, in every optimization profile."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def get_engine_information(self, kind: Any) -> str:
        assert kind is TensorRt.LayerInformationFormat.JSON
        layers = [
            {"Name": name + suffix, "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Float"}], "Outputs": [],
             "Metadata": "\u001e".join(f"[ONNX Layer: {node}]" for node in nodes)}
            for number in range(self.engine.num_optimization_profiles)
            for suffix in [f" [profile {number}]" if number else ""]
            for name, nodes in self.engine.layers.items()
        ]  # fmt: skip
        return json.dumps({"Layers": layers, "Bindings": []})


class TensorRt:
    """The names of the package that the backend uses."""

    TensorIOMode = Mode
    EngineInspector = Inspector

    class ExecutionContextAllocationStrategy(Enum):
        STATIC, USER_MANAGED = 0, 1

    class CudaGraphStrategy(Enum):
        DISABLED, WHOLE_GRAPH_CAPTURE = 0, 1

    class DynamicShapesKernelSpecializationStrategy(Enum):
        LAZY, EAGER, NONE = range(3)

    class LayerInformationFormat(Enum):
        ONELINE, JSON = 0, 1

    class IProfiler:
        def report_layer_time(self, layer_name: str, ms: float) -> None:
            raise NotImplementedError


class Engine:
    """An ONNX file as an engine. profiles: (min, opt, max) batches. format: of its input."""

    def __init__(
        self,
        graph: Path,
        profiles: list[tuple[int, int, int]],
        *,
        rtx: bool = False,
        scratch: int = 4096,
        format: TensorFormat = TensorFormat.LINEAR,
    ) -> None:
        self.format = format
        self.session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.tensors = {t.name: (Mode.INPUT, t) for t in self.session.get_inputs()}
        self.tensors |= {t.name: (Mode.OUTPUT, t) for t in self.session.get_outputs()}
        self.profiles, self.rtx, self.device_memory_size_v2 = profiles, rtx, scratch
        self.num_io_tensors, self.num_optimization_profiles = len(self.tensors), len(profiles)
        self.contexts: list[Context] = []
        groups: list[list[str]] = [[]]
        for node in onnx.load(graph).graph.node:
            groups += [[]] if node.op_type in {"Conv", "Gemm"} else []
            groups[-1].append(node.name)
        self.layers = {" + ".join(nodes): nodes for nodes in groups if nodes}

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[TYPES[self.tensors[name][1].type]]

    def get_tensor_format(self, name: str) -> TensorFormat:
        return self.format if self.get_tensor_mode(name) is Mode.INPUT else TensorFormat.LINEAR

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.tensors[name][1].shape[1:])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(size, *self.get_tensor_shape(name)[1:]) for size in self.profiles[index]]

    def create_engine_inspector(self) -> Inspector:
        return Inspector(self)

    def create_runtime_config(self) -> Config:
        return RtxConfig() if self.rtx else Config()

    def create_execution_context(self, config: Config) -> Context:
        assert config.strategy is TensorRt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts.append(Context(self, config))
        return self.contexts[-1]


class Context:
    def __init__(self, engine: Engine, config: Config) -> None:
        self.engine, self.config = engine, config
        self.profile: int | None = None
        self.shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        self.scratch = 0
        self.profiler: Any = None
        self.compiled = True  # whether kernels for the shape had to be
        self.enqueue_emits_profile = True
        self.ran_s: float | None = None

    def report_to_profiler(self) -> bool:
        """Refused where nothing ran, or where it was reported already; a CUDA graph hides the layers."""
        if self.profiler is None or self.enqueue_emits_profile or self.ran_s is None:
            return False
        spent_s, self.ran_s = self.ran_s, None
        suffix = f" [profile {self.profile}]" if self.profile else ""
        for name in self.engine.layers:
            self.profiler.report_layer_time(name + suffix, spent_s * 1e3 / len(self.engine.layers))
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self.scratch = size if kind_of(memory) == "device" else 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return stream_of(stream) is not None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        smallest, _, largest = self.engine.profiles[self.profile]
        self.shape = shape
        cache = getattr(self.config, "cache", None)
        if cache is not None:
            self.compiled = str(shape[0]) not in cache.shapes
            cache.shapes.add(str(shape[0]))
        return smallest <= shape[0] <= largest and shape[1:] == self.engine.get_tensor_shape(name)[1:]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape is not None
        return (self.shape[0], *self.engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return kind_of(address) == "device"

    def execute_async_v3(self, stream: int) -> bool:
        ready = self.profile is not None and self.shape is not None and set(self.addresses) == set(self.engine.tensors)
        if not ready or self.scratch < self.engine.device_memory_size_v2:
            return False
        stream_of(stream).start(self._run)
        return True

    def _run(self) -> None:
        given = {n: self._input(n) for n, (mode, _) in self.engine.tensors.items() if mode is Mode.INPUT}
        names = [n for n, (mode, _) in self.engine.tensors.items() if mode is Mode.OUTPUT]
        start = time.perf_counter()
        for name, answer in zip(names, self.engine.session.run(names, given), strict=True):
            self._memory(name)[...] = answer
        self.ran_s = time.perf_counter() - start

    def _input(self, name: str) -> Any:
        """What is in memory in the engine's format, as [N][C][H][W]; channels beside the image's are to be zero."""
        kind = self.engine.get_tensor_format(name)
        if kind is TensorFormat.LINEAR:
            return self._memory(name)
        batch, channels, *sides = self.get_tensor_shape(name)
        held = self._memory(name, (batch, *sides, CHANNELS.get(kind, channels)))
        assert (held[..., channels:] == 0).all(), "garbage beside the image"
        return np.ascontiguousarray(held[..., :channels].transpose(0, 3, 1, 2))

    def _memory(self, name: str, shape: tuple[int, ...] | None = None) -> Any:
        kind = np.dtype(NUMPY[self.engine.get_tensor_dtype(name).name])
        shape = shape or self.get_tensor_shape(name)
        raw = (ctypes.c_char * int(np.prod(shape) * kind.itemsize)).from_address(self.addresses[name])
        return np.frombuffer(raw, kind).reshape(shape)
