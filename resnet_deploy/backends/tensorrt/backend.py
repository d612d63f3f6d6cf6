"""TensorRT, TensorRT-RTX and the lean runtime: a plan on a GPU, with a context and a CUDA graph for each batch size."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.cuda import CudaDevice
from resnet_deploy.backends.layers import WARM_UPS, LayerTimes, median
from resnet_deploy.backends.streams import SHAPES, Buffers, Stream, StreamBackend
from resnet_deploy.backends.tensorrt.layers import name_layers
from resnet_deploy.engine import rtx
from resnet_deploy.engine.flavours import FLAVOURS, TENSORRT_LEAN, TENSORRT_RTX
from resnet_deploy.engine.formats import LINEAR, layout_of
from resnet_deploy.engine.options import OptimizationProfile, best_profile
from resnet_deploy.engine.plan import Origin, deserialize, here, preflight
from resnet_deploy.engine.profiler import attach, engine_layers, make_profiler
from resnet_deploy.errors import EngineError, IntegrityError, UnavailableError, UsageError
from resnet_deploy.specs import TensorSpec

if TYPE_CHECKING:  # the signatures of each package in turn: tests/typing
    from tensorrt_types import DataType, ICudaEngine, IExecutionContext

    from resnet_deploy.engine.profiler import Profiler


class PlanStream(Stream):
    """A stream with contexts that take turns on it, and so share their scratch memory."""

    def __init__(self, owner: TensorRtBackend) -> None:
        super().__init__(owner.device, captures=owner.captures)
        self._owner = owner
        self._scratch = owner.device.empty((max(1, owner.scratch_bytes),), "uint8")

    def execute(self, buffers: Buffers) -> None:
        context: IExecutionContext = buffers.context
        if not context.execute_async_v3(self.handle.cuda_stream):
            raise EngineError(f"{self._owner.candidate}: TensorRT could not start the inference")

    def allocate(self, batch: int) -> Buffers:
        owner, device = self._owner, self.device
        context = owner.new_context()
        index = owner.profile_for(batch)
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        shape = (batch, *owner.image_shape)
        if not context.set_optimization_profile_async(index, self.handle.cuda_stream):
            raise EngineError(f"{owner.candidate}: TensorRT refused profile {index}")
        self.handle.synchronize()
        if not context.set_input_shape(owner.input_spec.name, shape):
            raise EngineError(f"{owner.candidate}: TensorRT refused the shape {list(shape)}")
        dtype, held = owner.input_spec.dtype, shape
        if owner.layout is not None:
            channels, *sides = owner.image_shape
            held = (batch, *sides, owner.layout.channels or channels)
        buffers = Buffers(context=context, input=device.empty(held, dtype), staging=device.pinned(held, dtype))
        buffers.staging.zero_()  # channels beside the image's stay zero: NaN there would reach the answers
        for name, kind in owner.output_types.items():
            size = tuple(context.get_tensor_shape(name))
            buffers.outputs[name], buffers.answers[name] = device.empty(size, kind), device.pinned(size, kind)
        for name, tensor in {owner.input_spec.name: buffers.input, **buffers.outputs}.items():
            if not context.set_tensor_address(name, tensor.data_ptr()):
                raise EngineError(f"{owner.candidate}: TensorRT refused the address of {name}")
        return buffers

    def staged(self, buffers: Buffers) -> Any:
        if self._owner.layout is None:
            return buffers.staging
        return buffers.staging[..., : self._owner.image_shape[0]].permute(0, 3, 1, 2)

    def close(self) -> None:
        super().close()
        self._scratch = None


class TensorRtBackend(StreamBackend):
    """A plan on the current CUDA device, by TensorRT, TensorRT-RTX or the lean runtime, which has version-compatible ones.

    origin: where it was built, of a plan that a manifest vouches for; without one, trust must be given, since deserialising
    runs native code. cache: where the kernels are kept that TensorRT-RTX compiles, read now and written when the backend is
    closed. Options: no_cuda_graph; graph_copies, a graph of a whole query with its copies; no_runtime_cache; streams=N,
    inferences that run beside each other: `enqueue` takes them in turn, `outputs` are the last one's. Raises UnavailableError
    where it cannot run here or memory is short, IntegrityError for a foreign plan, EngineError for a damaged one.
    """

    kept_shapes = SHAPES
    _profiler: Profiler | None
    _engine: ICudaEngine
    max_batch: int

    def __init__(
        self,
        path: Path,
        candidate: Candidate,
        *,
        origin: Origin | None = None,
        trust: bool = False,
        cache: rtx.CacheStore | None = None,
    ) -> None:
        flavour = FLAVOURS[candidate.backend]
        if origin is not None:
            preflight(origin, here(flavour))
        elif not trust:
            raise IntegrityError(f"no manifest vouches for {path}, and a plan can run any code: trust it only if you know it")
        self.candidate, self.path = candidate, path
        self._flavour, self._profiler = flavour, None
        host_code = trust if origin is None else origin.version_compatible
        self._trt, self._engine = deserialize(path, flavour, host_code=host_code)
        self._read(self._engine)
        self._kernels = None
        if flavour is TENSORRT_RTX and cache is not None and "no_runtime_cache" not in candidate.options:
            self._kernels = rtx.KernelCache(self._engine, cache)
        self.cuda_graph = "no_cuda_graph" not in candidate.options
        self.graph_copies = "graph_copies" in candidate.options
        if self.graph_copies and not self.cuda_graph:
            raise UsageError(f"{candidate} contradicts itself: graph_copies is a CUDA graph; leave out no_cuda_graph")
        self.captures = self.cuda_graph and flavour is not TENSORRT_RTX  # which captures by itself, as its kernels settle
        self._open(CudaDevice(), candidate.count("streams"))

    def _read(self, engine: ICudaEngine) -> None:
        """Inputs, outputs and profiles of the engine."""
        trt = self._trt
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        dtypes = {name: _dtype(engine.get_tensor_dtype(name)) for name in names}
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if len(inputs) != 1:
            raise EngineError(f"{self.path} has {len(inputs)} inputs; a residual network has one")
        if dtypes[inputs[0]] == "bfloat16":
            raise EngineError(f"{self.path} takes bfloat16, which numpy has no type for: export it without --native-io")
        # The lean runtime has no type for formats, and `build` makes no plan for it that is not linear.
        told = None if self._flavour is TENSORRT_LEAN else engine.get_tensor_format(inputs[0])
        self.input_format = str(getattr(told, "name", LINEAR.upper()))
        self.layout = layout_of(self.input_format)
        self.image_shape = tuple(int(size) for size in engine.get_tensor_shape(inputs[0]))[1:]
        self.input_spec = TensorSpec(name=inputs[0], dtype=dtypes[inputs[0]], shape=("batch", *self.image_shape))
        self.output_types = {name: dtypes[name] for name in names if name != inputs[0]}
        self.output_names = tuple(self.output_types)
        self.profiles = tuple(
            OptimizationProfile(**dict(zip(("min", "opt", "max"), (shape[0] for shape in shapes), strict=True)))
            for shapes in (
                engine.get_tensor_profile_shape(inputs[0], index) for index in range(engine.num_optimization_profiles)
            )
        )
        self.max_batch = max(profile.max for profile in self.profiles)
        self.scratch_bytes = int(engine.device_memory_size_v2)

    def _open(self, device: CudaDevice, streams: int) -> None:
        """Open streams with their scratch memory, which is checked beforehand: TensorRT would fail late and without a size."""
        self.device = device
        needed, free = self.scratch_bytes * streams, device.free_bytes()
        if needed > free:
            largest = max(profile.max for profile in self.profiles)
            # Scratch memory grows with the batch.
            fits = largest * free // max(1, needed)
            advice = f"build it for at most batch {fits}" if fits >= 1 else "use a GPU with more memory"
            raise UnavailableError(
                f"{self.candidate} needs {needed / 1e6:,.0f} MB of device memory for batch {largest} on {streams} "
                f"stream(s), and {free / 1e6:,.0f} MB are free: {advice}, or free some"
            )
        self.open_streams(device, [PlanStream(self) for _ in range(streams)])

    def new_context(self) -> IExecutionContext:
        """An execution context that uses scratch memory which is given to it."""
        trt, config = self._trt, self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._flavour is TENSORRT_RTX:
            rtx.set_strategies(trt, config, cuda_graph=self.cuda_graph)
        if self._kernels is not None:
            self._kernels.use(config)
        context = self._engine.create_execution_context(config)
        if context is None:
            raise EngineError(f"{self.candidate}: TensorRT made no execution context for {self.path}")
        if self._profiler is not None:
            attach(context, self._profiler)
        return context

    def check(self, images: NDArray[Any]) -> None:
        """As `Backend.check`, and a profile of the plan must hold the batch."""
        super().check(images)
        self.profile_for(len(images))

    def runnable_batch(self, images: int) -> int:
        if best_profile(self.profiles, images) is not None:
            return images
        return min((profile.min for profile in self.profiles if profile.min > images), default=self.max_batch)

    def profile_for(self, batch: int) -> int:
        """The index of the plan's profile for a batch. Raises UsageError where none holds it."""
        index = best_profile(self.profiles, batch)
        if index is None:
            ranges = ", ".join(map(str, self.profiles))
            raise UsageError(
                f"no profile of {self.path.name} holds batch {batch}: it has {ranges}. "
                f"Build it with `--batch 1:8:{max(8, batch)}`"
            )
        return index

    def bind(self, images: NDArray[Any]) -> None:
        try:
            super().bind(images)
        except RuntimeError as exc:  # torch.cuda.OutOfMemoryError is one
            if "out of memory" not in str(exc):
                raise
            half = max(1, len(images) // 2)
            raise UnavailableError(f"no device memory for batch {len(images)}: try {half}, or fewer streams") from exc

    def describe(self) -> dict[str, Any]:
        cache = {} if self._flavour is not TENSORRT_RTX else {"runtime_cache": self._cache_in_words()}
        return cache | {
            self._flavour.package: self._flavour.version, "plan": self.path.name, "profiles": list(map(str, self.profiles)),
            "input_format": self.input_format.lower(),
            **self.settings(), "scratch_bytes": self.scratch_bytes,
        }  # fmt: skip

    def _cache_in_words(self) -> str:
        return "none" if self._kernels is None else "read" if self._kernels.was_read else "new"

    def summary(self) -> str:
        return str(here(self._flavour).gpu)

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        """By IProfiler, which times layers one by one on the device: in a context and on a stream of their own, without CUDA
        graphs, which would hide the layers."""
        other, walls_s = copy.copy(self), []
        other.cuda_graph = other.captures = other.graph_copies = False
        other._profiler = profiler = make_profiler(self._trt)
        other._open(self.device, 1)
        with other:
            other.bind(images)
            other.synchronize()
            for _ in range(WARM_UPS + runs):
                start = time.perf_counter()
                other.enqueue()
                other.synchronize()
                walls_s.append(time.perf_counter() - start)
                if not profiler.context.report_to_profiler():
                    raise EngineError(f"{self.candidate}: TensorRT told no layers' times")
        layers = name_layers(profiler.times_s, engine_layers(self._trt, self._engine))
        return LayerTimes(layers=layers, wall_s=median(walls_s))

    def close(self) -> None:
        if self._kernels is not None and self.streams:
            self._kernels.keep()
        super().close()
        self._kernels = None
        vars(self).pop("_engine", None)  # closing twice is no error


def _dtype(kind: DataType) -> str:
    """TensorRT's type by numpy's name."""
    names = {
        "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32",
        "INT64": "int64", "BOOL": "bool",
    }  # fmt: skip
    return names[kind.name]
