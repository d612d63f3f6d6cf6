"""The calls that TensorRT-RTX alone has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from resnet_deploy.errors import EngineError, UnavailableError

if TYPE_CHECKING:  # the signatures of each package in turn: tests/typing
    from tensorrt_types import IBuilderConfig, ICudaEngine, IRuntimeCache, IRuntimeConfig, Runtime, TensorRt


class CacheStore(Protocol):
    """Where compiled kernels are kept between processes."""

    def read(self) -> bytes | None: ...
    def write(self, data: bytes) -> None: ...


def targets(trt: TensorRt) -> list[str]:
    """The compute capabilities that it has kernels for, as sm86."""
    return [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]


def set_targets(trt: TensorRt, config: IBuilderConfig, names: Iterable[str]) -> None:
    """Build for these compute capabilities, as sm86; current: that of this machine's GPU."""
    capabilities = [trt.ComputeCapability.__members__[name.upper()] for name in names]
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(capability, index)


def set_strategies(trt: TensorRt, config: IRuntimeConfig, *, cuda_graph: bool) -> None:
    """Let it capture CUDA graphs by itself, or not; and compile kernels for a shape before its first answer, not lazily: one
    by fall-back kernels would be timed, and differ in the last bits."""
    graphs = trt.CudaGraphStrategy
    config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if cuda_graph else graphs.DISABLED
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER


def check_validity(trt: TensorRt, runtime: Runtime, data: bytes, path: Path) -> None:
    """Raise what it says of a plan before it loads it: EngineError for a bad file, UnavailableError for another machine's."""
    validity, diagnostics = runtime.get_engine_validity(data)
    if validity != trt.EngineValidity.INVALID:
        return
    reasons = [name for name, flag in trt.EngineInvalidityDiagnostics.__members__.items() if int(diagnostics) & int(flag)]
    words = ", ".join(name.lower().replace("_", " ") for name in reasons) or "it gives no reason"
    what = f"{trt.__name__} {trt.__version__} cannot load {path}: {words}"
    raise EngineError(what) if set(reasons) <= {"MALFORMED_ENGINE", "VERSION_MISMATCH"} else UnavailableError(what)


class KernelCache:
    """The kernels that it compiles for an engine on this machine, shared by all contexts.

    Args:
        engine: whose kernels they are.
        store: where they are read from now, and written to by `keep`.
    """

    def __init__(self, engine: ICudaEngine, store: CacheStore) -> None:
        self._store, self._known = store, store.read()
        self._cache: IRuntimeCache = engine.create_runtime_config().create_runtime_cache()
        # What another release wrote is refused, and compiled again.
        self.was_read = self._known is not None and self._cache.deserialize(self._known)

    def use(self, config: IRuntimeConfig) -> None:
        """Let a context take kernels from it, and add those that it compiles."""
        if not config.set_runtime_cache(self._cache):
            raise EngineError("TensorRT-RTX refused its own runtime cache; add no_runtime_cache")

    def keep(self) -> None:
        """Write what there is by now, where that is more than was read."""
        data = bytes(self._cache.serialize())
        if data and data != self._known:
            self._known = data
            self._store.write(data)
