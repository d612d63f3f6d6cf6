"""A device and a TensorRT runtime in host memory, ONNX Runtime behind them: what the real ones promise, and no more.

Work on a stream happens when somebody waits for the stream, as late as a device may do it; buffers are known by address
alone; a context without a profile, a shape, addresses or scratch memory refuses to run.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(uint8)": "UINT8", "tensor(int64)": "INT64"}
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT64": np.int64}


class Stream:
    def __init__(self) -> None:
        self.pending: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.cuda_stream = id(self)
        STREAMS[id(self)] = self

    def start(self, work: Callable[[], None]) -> None:
        (self.pending if self.captured is None else self.captured).append(work)

    def synchronize(self) -> None:
        assert self.captured is None, "nobody may wait while a graph is captured"
        pending, self.pending = self.pending, []
        for work in pending:
            work()


STREAMS: dict[int, Stream] = {}


class Mark:
    """A CUDA event: reached when the stream is, and never before."""

    def __init__(self, stream: Stream, timed: bool) -> None:
        self.time_s: float | None = None
        self.stream, self.timed = stream, timed
        stream.start(self._reach)

    def _reach(self) -> None:
        self.time_s = time.perf_counter()

    def synchronize(self) -> None:
        if self.time_s is None:
            self.stream.synchronize()


class HostDevice:
    """As backends.cuda.CudaDevice."""

    kind = "cpu"

    def __init__(self, free: int = 1 << 40) -> None:
        self.free, self.captures, self.largest = free, 0, 1 << 40
        self.spins: set[bool] = set()

    def free_bytes(self) -> int:
        return self.free

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        if np.prod(shape) > self.largest:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot")
        return torch.full(shape, 77, dtype=getattr(torch, dtype))  # what memory held before is nobody's answer

    def pinned(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.full(shape, 66, dtype=getattr(torch, dtype))

    def stream(self) -> Stream:
        return Stream()

    def run(self, work: Callable[[], None], stream: Stream) -> None:
        stream.start(work)

    def mark(self, stream: Stream, *, timed: bool = False, spin: bool = True) -> Mark:
        self.spins.add(spin)
        return Mark(stream, timed)

    def seconds(self, begin: Mark, end: Mark) -> float:
        assert begin.timed and end.timed and begin.time_s is not None and end.time_s is not None
        return end.time_s - begin.time_s

    def wait(self, stream: Stream, *, spin: bool = True) -> None:
        self.spins.add(spin)
        stream.synchronize()

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        stream.start(lambda: target.copy_(source))  # type: ignore[arg-type, return-value]

    def capture(self, run: Callable[[], None], stream: Stream) -> Callable[[], None]:
        assert not stream.pending, "a capture begins on an idle stream"
        stream.captured, self.captures = [], self.captures + 1
        run()
        work, stream.captured = stream.captured, None
        return lambda: [stream.start(each) for each in work] and None


class Mode(Enum):
    INPUT, OUTPUT = 0, 1


class DataType(Enum):
    FLOAT, HALF, UINT8, INT64 = range(4)


class Config:
    strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy


class RtxConfig(Config):
    cuda_graph_strategy = None
    dynamic_shapes_kernel_specialization_strategy = None


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
    """An ONNX file as an engine. profiles: (min, opt, max) batches."""

    def __init__(self, graph: Path, profiles: list[tuple[int, int, int]], *, rtx: bool = False, scratch: int = 4096) -> None:
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
        self.scratch = size

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return stream in STREAMS

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        smallest, _, largest = self.engine.profiles[self.profile]
        self.shape = shape
        return smallest <= shape[0] <= largest and shape[1:] == self.engine.get_tensor_shape(name)[1:]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape is not None
        return (self.shape[0], *self.engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address != 0

    def execute_async_v3(self, stream: int) -> bool:
        ready = self.profile is not None and self.shape is not None and set(self.addresses) == set(self.engine.tensors)
        if not ready or self.scratch < self.engine.device_memory_size_v2:
            return False
        STREAMS[stream].start(self._run)
        return True

    def _run(self) -> None:
        given = {n: self._memory(n) for n, (mode, _) in self.engine.tensors.items() if mode is Mode.INPUT}
        names = [n for n, (mode, _) in self.engine.tensors.items() if mode is Mode.OUTPUT]
        start = time.perf_counter()
        for name, answer in zip(names, self.engine.session.run(names, given), strict=True):
            self._memory(name)[...] = answer
        self.ran_s = time.perf_counter() - start

    def _memory(self, name: str) -> Any:
        kind = np.dtype(NUMPY[self.engine.get_tensor_dtype(name).name])
        shape = self.get_tensor_shape(name)
        raw = (ctypes.c_char * int(np.prod(shape) * kind.itemsize)).from_address(self.addresses[name])
        return np.frombuffer(raw, kind).reshape(shape)
