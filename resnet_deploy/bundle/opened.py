"""An opened bundle as something that can be run: its eager model, its files behind backends, its data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_deploy.backends.base import PLANS, Backend, Candidate
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.data import Dataset, open_data
from resnet_deploy.errors import UnavailableError, UsageError
from resnet_deploy.specs import Head, HeadKind, InputFormat, Precision, Preprocessing, TensorSpec

if TYPE_CHECKING:
    from resnet_deploy.engine.plan import Origin

WEIGHTS = "weights.safetensors"
CALIBRATION = "calibration.json"


@dataclass
class Subject:
    """What the steps work on. The eager model is loaded once."""

    bundle: Bundle

    @property
    def description(self) -> dict[str, Any]:
        return dict(self.bundle.manifest["model"])

    @property
    def max_batch(self) -> int:
        return int(self.description["request"]["max_batch"])

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_dict(self.description["preprocessing"])

    @property
    def input_spec(self) -> TensorSpec:
        return TensorSpec.from_dict(self.description["input"])

    @cached_property
    def model(self) -> Any:
        """The eager DeployModel, from the bundle's own weights."""
        from resnet_deploy.models.create import load_model
        from resnet_deploy.models.deploy import DeployModel

        described = self.description
        loaded = load_model(described["architecture"], weights=self.bundle.artifact(WEIGHTS))
        head = Head.parse(described["request"]["head"], l2_normalize=described["head"]["l2_normalize"])
        return DeployModel(
            loaded.network, head=head, input_format=InputFormat(described["input_format"]), preprocessing=self.preprocessing
        )

    def backend(self, candidate: Candidate, threads: int | None) -> Backend:
        from resnet_deploy.backends.load import load_backend

        def artifact() -> tuple[Path, dict[str, Any]]:
            name = self.file(candidate)
            return self.bundle.artifact(name), self.bundle.manifest["artifacts"][name]

        return load_backend(candidate, model=lambda: self.model, artifact=artifact, threads=threads)

    def data(self, source: str | Path, *, limit: int | None = None, strict: bool = False, crops: int = 1) -> Dataset:
        described = self.description
        kind = described["head"]["kind"]
        if crops > 1 and kind not in {HeadKind.LOGITS.value, HeadKind.PROBABILITIES.value}:
            raise UsageError(f"{crops} crops are averaged as probabilities; a bundle with the head {kind} has none to average")
        return open_data(
            source, preprocessing=self.preprocessing, input_format=InputFormat(described["input_format"]),
            num_classes=described["num_classes"], limit=limit, strict=strict, crops=crops,
        )  # fmt: skip

    def seen(self) -> frozenset[str]:
        """Digests of the images that the bundle was calibrated on: nothing in it is judged on them."""
        if CALIBRATION not in self.bundle.manifest["artifacts"]:
            return frozenset()
        from resnet_deploy.precision.calibrate import Calibration

        return frozenset(Calibration.load(self.bundle.artifact(CALIBRATION)).images)

    def seen_key(self) -> str | None:
        """What identifies those images."""
        entry = self.bundle.manifest["artifacts"].get(CALIBRATION)
        return None if entry is None else str(entry["sha256"])

    def made_from(self, candidate: Candidate) -> str:
        """The hash of the file that a candidate runs."""
        return str(self.bundle.manifest["artifacts"][self.file(candidate)]["sha256"])

    def graph(self, candidate: Candidate) -> str:
        """The artifact that a candidate runs, or that its plan is built from. Raises UsageError where it has not been made."""
        if candidate.artifact not in self.bundle.manifest["artifacts"]:
            data = " --calibration DATA" if candidate.precision in {Precision.INT8, Precision.FP8} else ""
            raise UsageError(
                f"{self.bundle.path} has no {candidate.artifact} for {candidate}; make it with `resnet-deploy export "
                f"{self.description['architecture']} -o {self.bundle.path} --precision {candidate.precision.value}{data}`"
            )
        return candidate.artifact

    def file(self, candidate: Candidate) -> str:
        """The artifact that a candidate runs. Raises UsageError where it has not been made, UnavailableError for plans that
        cannot run here."""
        graph = self.graph(candidate)
        return self._plan(candidate) if candidate.backend in PLANS else graph

    def plans(self, candidate: Candidate) -> dict[str, Origin]:
        """The plans of a candidate's flavour that were built from its graph as it is now, and where. Raises UsageError where
        there is none."""
        from resnet_deploy.engine.plan import Origin

        artifacts = self.bundle.manifest["artifacts"]
        graph = artifacts[self.graph(candidate)]["sha256"]
        found = {
            name: Origin.from_dict(entry["origin"])
            for name, entry in artifacts.items()
            if entry["kind"] == "plan" and entry["made_from"] == graph and entry["origin"]["flavour"] == candidate.backend
        }
        if not found:
            raise UsageError(
                f"{self.bundle.path} has no plan of {candidate.artifact} for {candidate.backend}; make one with `resnet-deploy "
                f"build {self.bundle.path} --precision {candidate.precision.value} --flavour {candidate.backend}`"
            )
        return found

    def _plan(self, candidate: Candidate) -> str:
        """The plan that runs here, of those that were built."""
        from resnet_deploy.engine.flavours import FLAVOURS
        from resnet_deploy.engine.plan import here, preflight

        found = self.plans(candidate)
        machine, refusal = here(FLAVOURS[candidate.backend]), None
        for name, origin in found.items():
            try:
                preflight(origin, machine)
            except UnavailableError as exc:
                refusal = refusal or exc
            else:
                return name
        raise refusal or UnavailableError(f"no plan of {candidate} runs here")
