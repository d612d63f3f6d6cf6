"""How backends run while they are measured, and which ceilings they are held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from resnet_deploy import limits
from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.roofline.devices import DEVICES, find_ceiling
from resnet_deploy.errors import UsageError
from resnet_deploy.specs import OptionGroup
from resnet_deploy.timing.measure import MeasureConfig


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(OptionGroup):
    """How backends on a GPU are measured, beside what each backend's own options say. In brackets, trtexec's name.

    Attributes:
        cuda_graph: start each inference as one CUDA graph (--useCudaGraph), or never; None leaves the choice to each backend.
        graph_copies: make a query with both its copies one CUDA graph, where the backend has that: for latency, host to host.
        streams: how many inferences run side by side (--infStreams).
        spin_wait: wait for the GPU by polling it (--useSpinWait); otherwise the host sleeps until it is done.
        data_transfers: copy images and answers with each queued query; without, neither is copied (--noDataTransfers).
        inputs_on_device: of these copies, make only that of the answers, as MLPerf does.
        sustained: seconds of queries without a pause, after the others, with the GPU's clocks and power beside them.
        roof: a GPU whose published ceilings figures are compared with, as H200; by default the one that is here.
        measure_roof: measure this machine's own ceilings, of the CPU too, instead of taking published ones.
    """

    cuda_graph: bool | None = None
    graph_copies: bool = False
    streams: int | None = None
    spin_wait: bool = True
    data_transfers: bool = False
    inputs_on_device: bool = False
    sustained: float | None = None
    roof: str | None = None
    measure_roof: bool = False

    def __post_init__(self) -> None:
        limits.check_option("streams", self.streams)
        limits.check_option("sustained", self.sustained)
        if self.roof is not None and find_ceiling(self.roof) is None:
            known = ", ".join(ceiling.name for ceiling in DEVICES)
            raise UsageError(f"there are no published ceilings of {self.roof!r}; choose from {known}, or give --measure-roof")
        if self.graph_copies and self.cuda_graph is False:
            raise UsageError("--graph-copies is a CUDA graph: leave out --no-cuda-graph")
        if self.roof is not None and self.measure_roof:
            raise UsageError("the ceilings are either published ones or measured here: give --roof or --measure-roof, not both")
        super().__post_init__()

    @property
    def uploads(self) -> bool:
        """Whether a queued query copies its input to the device."""
        return self.data_transfers and not self.inputs_on_device

    @property
    def downloads(self) -> bool:
        """Whether a queued query copies its answers back."""
        return self.data_transfers or self.inputs_on_device

    def config(self, duration_s: float) -> MeasureConfig:
        """How long is measured, and what is copied."""
        return MeasureConfig(
            duration_s=duration_s, uploads=self.uploads, downloads=self.downloads, sustained_s=self.sustained
        )  # fmt: skip

    def applied(self, candidate: Candidate) -> Candidate:
        """A candidate on a GPU with these options, where its backend has them; others as they are."""
        if candidate.device != "cuda":
            return candidate
        known, chosen = candidate.row.options, set(candidate.options)
        if self.cuda_graph is not None:
            chosen -= {"cuda_graph", "no_cuda_graph"}
            name = "cuda_graph" if self.cuda_graph else "no_cuda_graph"
            chosen |= {name} & {*known}
        if self.graph_copies and "graph_copies" in known:
            chosen |= {"graph_copies"}
        if self.streams is not None and "streams=" in known:
            chosen = {option for option in chosen if not option.startswith("streams=")}
            chosen |= {f"streams={self.streams}"} if self.streams > 1 else set()
        return replace(candidate, options=tuple(sorted(chosen)))

    def key(self, candidate: Candidate) -> dict[str, Any]:
        """What a candidate's figures depend on, besides its own options."""
        if candidate.device != "cuda":
            return {}
        key: dict[str, Any] = {"spin_wait": self.spin_wait, "uploads": self.uploads, "downloads": self.downloads}
        return key if self.sustained is None else key | {"sustained_s": self.sustained}

    def used(self, backend: Backend) -> dict[str, Any]:
        """The named options with which a loaded backend was measured; empty on the CPU."""
        settings = backend.settings()
        if not settings:
            return {}
        return {
            **settings, "spin_wait": backend.spin_wait, "data_transfers": self.downloads, "inputs_on_device": not self.uploads,
            "queued_ahead": 1,
        }  # fmt: skip
