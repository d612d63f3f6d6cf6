"""The calls that TensorRT-RTX alone has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the signatures of each package in turn: tests/typing
    from tensorrt_types import IBuilderConfig, IRuntimeConfig, TensorRt


def set_targets(trt: TensorRt, config: IBuilderConfig, targets: Iterable[str]) -> None:
    """Build for these compute capabilities, as sm86; current: that of this machine's GPU."""
    found = [trt.ComputeCapability.__members__[target.upper()] for target in targets]
    config.num_compute_capabilities = len(found)
    for index, capability in enumerate(found):
        config.set_compute_capability(capability, index)


def set_strategies(trt: TensorRt, config: IRuntimeConfig, *, cuda_graph: bool) -> None:
    """Let it capture CUDA graphs by itself, or not; and compile kernels for a shape before its first answer, not lazily: one
    by fall-back kernels would be timed, and differ in the last bits."""
    graphs = trt.CudaGraphStrategy
    config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if cuda_graph else graphs.DISABLED
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
