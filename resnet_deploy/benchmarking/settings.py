"""How backends run while they are measured, and which ceilings they are held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from resnet_deploy import limits
from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.roofline.devices import DEVICES, find_roof
from resnet_deploy.errors import UsageError
from resnet_deploy.specs import OptionGroup
from resnet_deploy.timing.measure import MeasureConfig


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(OptionGroup):
    """How backends on a GPU are measured, beside what `--backend` says of each; trtexec's options in brackets.

    Attributes:
        cuda_graph: start each inference as one CUDA graph (--useCudaGraph), or do not; None leaves it to each backend.
        streams: inferences that run beside each other (--infStreams).
        spin_wait: ask the GPU again and again until it is done (--useSpinWait), or sleep.
        data_transfers: copy inputs and answers with each query of the queue; without, neither (--noDataTransfers).
        inputs_on_device: of these copies the answers' alone, as in MLPerf.
        sustained: seconds of queries without a pause, after the others, with the GPU's clocks and power beside them.
        roof: a GPU of the table of published ceilings, by default the one that is here.
        measure_roof: this machine's own ceilings, of the CPU too, in place of the table's.
    """

    cuda_graph: bool | None = None
    streams: int | None = None
    spin_wait: bool = True
    data_transfers: bool = False
    inputs_on_device: bool = False
    sustained: float | None = None
    roof: str | None = None
    measure_roof: bool = False

    def __post_init__(self) -> None:
        limits.check("streams", self.streams)
        limits.check("sustained", self.sustained)
        if self.roof is not None and find_roof(self.roof) is None:
            known = ", ".join(roof.name for roof in DEVICES)
            raise UsageError(f"there are no published ceilings of {self.roof!r}; choose from {known}, or give --measure-roof")
        if self.roof is not None and self.measure_roof:
            raise UsageError("the ceilings are either published ones or measured here: give --roof or --measure-roof, not both")

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
        found = backend.settings()
        if not found:
            return {}
        return {
            **found, "spin_wait": backend.spin_wait, "data_transfers": self.downloads, "inputs_on_device": not self.uploads,
            "queued_ahead": 1,
        }  # fmt: skip
