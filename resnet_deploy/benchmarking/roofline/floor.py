"""How fast could it be? The time below which an architecture cannot go on a device, and how near a measurement comes.

An image is a list of kernels (`models.complexity.kernels`): each convolution with its batch norm, ReLU and addition,
each pooling, the classifier. A kernel reads its inputs whole and writes its output, in the precision's size, and reads
its weights once for a batch. Four figures follow, in seconds an image:

    compute   2 x MACs over the device's operations a second in that precision: the tensor cores never wait
    memory    bytes of all kernels over the memory's bytes a second: arithmetic is free
    kernels   the sum over kernels of the larger of the two: one kernel after the other, each at its own limit
    host      bytes of an image as it is sent, over the host link's bytes a second

The floor of the device is the third, that of host to host the larger of the third and the fourth: copies can overlap with
kernels. With H200's 1,979 TOPS (INT8, dense), 4.8 TB/s and 64 GB/s and a large batch, ResNet-50's 8.178 GFLOP and 28.4 M
elements give 242k, 169k, 138k and, sent as uint8, 425k images a second.

Compute and host link are hard limits. Memory is a model of an engine that fuses no two convolutions and finds nothing in
its cache: small batches that stay in the last-level cache, and deeper fusion, can pass it. Launching kernels costs time
that no ceiling here has, and small batches are bound by it. Everything counts as computed in the one precision; the first
conversion of the input and activations' scales are left out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from resnet_deploy.benchmarking.roofline.devices import Ceiling
from resnet_deploy.errors import UsageError
from resnet_deploy.models.complexity import kernels
from resnet_deploy.models.registry import Architecture
from resnet_deploy.precisions import PRECISIONS

VALUE_BYTES = {row.name: row.value_bytes for row in PRECISIONS.values()} | {"tf32": 4}  # of those with published ceilings
INPUT_BYTES = {"uint8": 1, "float16": 2, "float": 4}
CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The least time of one image, of batches in a row, and what it follows from.

    Attributes:
        architecture, device, precision: what computes where.
        source: of the device's ceilings.
        input: how an image is sent.
        batch: images.
        operations: of one image.
        activations: elements that its kernels read and write.
        weight_bytes: read once a batch.
        memory_bytes: of one image, with its part of the weights.
        host_bytes: of one image as it is sent.
        kernels: how many.
        compute_s, memory_s, kernels_s: of one image: by the arithmetic, by the memory, and by each kernel's own larger one.
        host_s: of one image, by the copy to the device; None where the device is the host.
    """

    architecture: str
    device: str
    source: str
    precision: str
    input: str
    batch: int
    operations: int
    activations: int
    weight_bytes: int
    memory_bytes: float
    host_bytes: int
    kernels: int
    compute_s: float
    memory_s: float
    kernels_s: float
    host_s: float | None

    @property
    def device_images_per_s(self) -> float:
        """The most that the device can do, the images being there."""
        return 1 / self.kernels_s

    @property
    def host_images_per_s(self) -> float | None:
        """The most that the host link can bring."""
        return None if self.host_s is None else 1 / self.host_s

    @property
    def image_s(self) -> float:
        """The floor from host to host."""
        return max(self.kernels_s, self.host_s or 0.0)

    @property
    def images_per_s(self) -> float:
        return 1 / self.image_s

    @property
    def bound(self) -> str:
        """What sets the floor: `host link`, `compute` or `memory`."""
        if self.host_s is not None and self.host_s > self.kernels_s:
            return "host link"
        return "compute" if self.compute_s >= self.memory_s else "memory"

    def reached_percent(self, images_per_s: float) -> float:
        """How much of the floor's throughput one measured from host to host is."""
        return 100 * images_per_s * self.image_s

    def device_reached_percent(self, images_per_s: float) -> float:
        """The same of a throughput of the device alone."""
        return 100 * images_per_s * self.kernels_s

    def to_dict(self) -> dict[str, Any]:
        """Fields, with the throughputs beside the times."""
        return {
            **asdict(self), "image_s": self.image_s, "images_per_s": self.images_per_s, "bound": self.bound,
            "device_images_per_s": self.device_images_per_s, "host_images_per_s": self.host_images_per_s,
        }  # fmt: skip


def floor(
    architecture: Architecture,
    ceiling: Ceiling,
    *,
    precision: str = "fp32",
    batch: int = 1,
    input: str = "float",
    image_size: int | None = None,
    num_classes: int | None = None,
) -> Floor:
    """The least time of an architecture on a device.

    Args:
        architecture: what computes.
        ceiling: the device's ceilings.
        precision: fp32, tf32, fp16, bf16, fp8 or int8.
        batch: images.
        input: how an image is sent: uint8, float16 or float (4 bytes a value).
        image_size, num_classes: by default the architecture's own.

    Returns:
        Seconds an image, and what they follow from.

    Raises:
        UsageError: another name, a batch below 1, or a precision that the device has no units for.
    """
    for what, value, known in (("precision", precision, VALUE_BYTES), ("input", input, INPUT_BYTES)):
        if value not in known:
            raise UsageError(f"unknown {what} {value!r}; choose from {', '.join(known)}")
    if batch < 1:
        raise UsageError(f"a batch size must be at least 1; found {batch}")
    if precision not in ceiling.flop_s:
        raise UsageError(f"there is no ceiling of {ceiling.name} in {precision}; there is one in {', '.join(ceiling.flop_s)}")
    operations = kernels(architecture, num_classes=num_classes, image_size=image_size)
    size, flop_s = VALUE_BYTES[precision], ceiling.flop_s[precision]
    compute_s = [2 * kernel.macs / flop_s for kernel in operations]
    values = [kernel.reads + kernel.writes + kernel.weights / batch for kernel in operations]
    memory_s = [size * count / ceiling.memory_bytes_s for count in values]
    host_bytes = CHANNELS * (image_size or architecture.image_size) ** 2 * INPUT_BYTES[input]
    return Floor(
        architecture=architecture.name, device=ceiling.name, source=ceiling.source, precision=precision, input=input,
        batch=batch,
        operations=2 * sum(kernel.macs for kernel in operations),
        activations=sum(kernel.reads + kernel.writes for kernel in operations),
        weight_bytes=size * sum(kernel.weights for kernel in operations), memory_bytes=size * sum(values),
        host_bytes=host_bytes, kernels=len(operations), compute_s=sum(compute_s), memory_s=sum(memory_s),
        kernels_s=sum(max(pair) for pair in zip(compute_s, memory_s, strict=True)),
        host_s=None if ceiling.host_bytes_s is None else host_bytes / ceiling.host_bytes_s,
    )  # fmt: skip
