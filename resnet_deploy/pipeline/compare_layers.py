"""Block by block: where eager, the FP32 graph and the graphs made from it part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy._deprecated import renamed
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.names import FP32, WEIGHTS
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import UsageError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.limits import check_option
from resnet_deploy.parity.metrics import cosines
from resnet_deploy.pipeline.restore import restore
from resnet_deploy.precision.auto import simulated
from resnet_deploy.precision.blocks import leaving
from resnet_deploy.specs import Progress, listed, silent

BATCH = 16
STEM = "stem"
PARTED = 0.99  # a mean cosine below it: the same as INT8's gate on the outputs
Values = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One block's output in one file against eager's.

    Attributes:
        relative_error: the norm of the difference over that of eager's output, over all images.
        cosine: the mean over images.
    """

    relative_error: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Where the files of a bundle part from eager, block by block.

    Attributes:
        files: of the bundle, the FP32 graph first.
        blocks: by name, in order, the difference in each file.
        images: how many were compared.
        first: the block at which each file parts from eager (a mean cosine under 0.99), None where it does not.
    """

    files: tuple[str, ...]
    blocks: dict[str, dict[str, Difference]]
    images: int
    first: dict[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Sums:
    difference: float = 0.0
    energy: float = 0.0
    cosine: float = 0.0
    images: int = 0

    def add(self, expected: NDArray[Any], outputs: NDArray[Any]) -> None:
        a = expected.reshape(len(expected), -1).astype(np.float64)
        b = outputs.reshape(len(outputs), -1).astype(np.float64)
        self.difference += float(((a - b) ** 2).sum())
        self.energy += float((a**2).sum())
        self.cosine += float(cosines(a, b).sum())
        self.images += len(a)

    def result(self) -> Difference:
        error = math.sqrt(self.difference / self.energy) if self.energy else math.sqrt(self.difference)
        return Difference(relative_error=error, cosine=self.cosine / max(self.images, 1))


@dataclass
class _File:
    """A graph that also puts out what leaves its blocks."""

    graph: Graph
    tensors: dict[str, str]
    sums: dict[str, _Sums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [block for block, name in self.tensors.items() if name not in self.graph.made_by]
        if missing:
            raise UsageError(f"{self.graph.source} has no {self.tensors[missing[0]]}: its layers are not the FP32 graph's")
        self.graph.expose(self.tensors.values())
        self.sums = {block: _Sums() for block in self.tensors}
        self._session = simulated(self.graph)

    def add(self, images: NDArray[Any], expected: Values) -> None:
        names = list(self.tensors.values())
        outputs = dict(zip(names, self._session.run(names, {self.graph.input.name: images}), strict=True))
        for block, name in self.tensors.items():
            self.sums[block].add(expected[block], outputs[name])


@renamed(backends="backend")
def compare_layers(
    bundle: Bundle | str | Path,
    data: str | Path,
    *,
    backend: str | Iterable[str] = (),
    limit: int = 64,
    strict: bool = False,
    progress: Progress = silent,
) -> Divergence:
    """Compare what leaves every block, in the FP32 graph and in the files of some backends, with eager's.

    Graphs are run as they are written, each Q/DQ pair in FP32: this is about the graph, not about a runtime's kernels.

    Args:
        bundle: a bundle, or its folder; graphs of it that are gone are made again.
        data: images, as in `verify`.
        backend: one or several, whose graphs are compared beside the FP32 one, as in `onnxruntime:int8`.
        limit: so many images, evenly spaced.
        strict: fail at the first image that cannot be read.
        progress: told what is being done.

    Returns:
        The relative error after each block, of each graph, and the first block where it is large.

    Raises:
        UsageError, DataError, IntegrityError: what cannot be meant, read or trusted.
    """
    check_option("limit", limit)
    bundle = Bundle.open(bundle)
    opened = OpenedBundle(bundle)
    names = [FP32, *(Candidate.parse(text).artifact for text in listed(backend))]
    wanted = [name for name in dict.fromkeys(names) if name.endswith(".onnx")]
    restore(bundle, [WEIGHTS, *wanted], progress)
    tensors = _tensors(Graph.read(bundle.artifact(FP32)))
    files = {name: _File(Graph.read(bundle.artifact(name)), tensors) for name in wanted}
    dataset, seen = opened.data(data, limit=limit, strict=strict), 0
    with _eager(opened.model, tensors) as run:
        for part in dataset.batches(min(BATCH, opened.max_batch), lambda done: progress("layers", done, len(dataset))):
            expected = run(part.images)
            for file in files.values():
                file.add(part.images, expected)
            seen += len(part.images)
    blocks = {block: {name: file.sums[block].result() for name, file in files.items()} for block in tensors}
    first = {name: next((b for b, compared in blocks.items() if compared[name].cosine < PARTED), None) for name in files}
    return Divergence(files=tuple(files), blocks=blocks, images=seen, first=first)


def _tensors(graph: Graph) -> dict[str, str]:
    """By block, the tensor that leaves it; what enters a network's first block is its stem."""
    tensors: dict[str, str] = {}
    for block, tensor in leaving(graph).items():
        member, _, stage = block.rpartition("layer")
        if not stage or "layer" not in block:
            continue
        if stage == "1.0":
            tensors[f"{member}{STEM}"] = next(n for n in graph.nodes if n.name.startswith(f"{block}.")).input[0]
        tensors[block] = tensor
    if not tensors:
        raise UsageError(f"{graph.source} has no blocks that can be told apart by their names")
    return tensors


@contextmanager
def _eager(model: Any, tensors: dict[str, str]) -> Iterator[Any]:
    """A function from images to what leaves eager's blocks, by the same names."""
    import torch

    values: Values = {}

    def keep(name: str, value: Any) -> None:
        values[name] = value.detach().float().cpu().numpy().copy()  # later layers may work in place

    hooks = []
    for name in tensors:
        if name.endswith(STEM):
            first = model.network.get_submodule(f"{name.removesuffix(STEM)}layer1.0")
            hooks.append(first.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0])))
        else:
            block = model.network.get_submodule(name)
            hooks.append(block.register_forward_hook(lambda _, inputs, output, name=name: keep(name, output)))

    def run(images: NDArray[Any]) -> Values:
        with torch.inference_mode():
            model(torch.from_numpy(images))
        return dict(values)

    try:
        yield run
    finally:
        for hook in hooks:
            hook.remove()
