"""What a benchmark is asked for beyond its figures: layers, and trtexec's word on the same plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.crashes import Crashes
from resnet_deploy.benchmarking.layers.profile import LayerProfile, profile_all
from resnet_deploy.benchmarking.layers.trtexec import TrtexecComparison, compare_plans, find_tools
from resnet_deploy.benchmarking.report import BenchReport
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.specs import OptionGroup, Progress


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        opened: the bundle.
        candidates, batches: of the rows.
        duration_s: of each measurement, and of trtexec's.
        threads: of the CPU.
        fresh: measure again what was measured before.
        progress: told what is being done.
        crashes: candidates that took an earlier process with them.
    """

    opened: OpenedBundle
    candidates: list[Candidate]
    batches: tuple[int, ...]
    duration_s: float
    threads: int
    fresh: bool
    progress: Progress
    crashes: Crashes = field(default_factory=Crashes)


@dataclass(frozen=True, kw_only=True)
class DetailOptions(OptionGroup):
    """What is measured beside latencies. The names are those of `resnet-deploy bench`.

    Attributes:
        profile: how long each layer takes, at every batch size.
        check_trtexec: run trtexec (of TensorRT-RTX: tensorrt_rtx) on the plans that are measured, and compare.
        trtexec: the program or its folder, instead of the one on PATH; implies check_trtexec.
    """

    profile: bool = False
    check_trtexec: bool = False
    trtexec: str | Path | None = None

    def tools(self, candidates: Iterable[Candidate]) -> dict[str, str]:
        """The programs that are to be run, by flavour. Raises, as `find_tools` does, before anything is measured."""
        return find_tools(candidates, self.trtexec) if self.check_trtexec or self.trtexec is not None else {}

    def added(
        self, report: BenchReport, job: Measured, tools: dict[str, str], images: Callable[[int], NDArray[Any]]
    ) -> BenchReport:
        """Add to a finished report what was asked for.

        Args:
            report: with its rows.
            job: what was measured.
            tools: trtexec's programs, as `tools` gives them.
            images: gives a batch of a size.

        Returns:
            The report with profiles and trtexec's figures.
        """
        warnings = list(report.warnings)
        if tools and not report.results:
            warnings.append("trtexec was not run: it is compared with the figures of --scenario sweep")
        compared: list[TrtexecComparison] = []
        profiles: list[LayerProfile] = []
        interrupted = False
        try:
            for comparison in compare_plans(job.opened, tools, job.candidates, report.results, job.duration_s, job.progress):
                compared.append(comparison)
            for layer_profile in profile_all(
                job.opened, job.candidates, job.batches if self.profile else (), images, threads=job.threads, fresh=job.fresh,
                progress=job.progress, warn=warnings.append, crashes=job.crashes,
            ):  # fmt: skip
                profiles.append(layer_profile)
        except KeyboardInterrupt:  # what there is is reported
            interrupted = True
        profiles.sort(key=lambda layer_profile: job.batches.index(layer_profile.batch))
        return replace(
            report, profiles=profiles, trtexec=compared, warnings=list(dict.fromkeys(warnings)), interrupted=interrupted
        )
