"""An opened bundle as something that can be run: its eager model, its files behind backends, its data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.manifest import CalibrationUse, GraphFile, Manifest, ModelDescription, PlanFile
from resnet_deploy.bundle.names import WEIGHTS
from resnet_deploy.bundle.runtime_cache import RuntimeCacheStore
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.data.dataset import Dataset
from resnet_deploy.data.sources import open_data
from resnet_deploy.engine.plan import Origin
from resnet_deploy.errors import BundleError, DataError, StorageError, UnavailableError, UsageError
from resnet_deploy.specs import HeadKind, Preprocessing, TensorSpec


@dataclass
class OpenedBundle:
    """A bundle that can be run: its description, its data and its backends. The eager model is loaded once.

    Attributes:
        bundle: the folder and its manifest.
    """

    bundle: Bundle

    @property
    def description(self) -> ModelDescription:
        """What the bundle is a model of."""
        return self.bundle.manifest.model

    @property
    def max_batch(self) -> int:
        """The largest batch at which the graphs were checked against eager."""
        return self.description.request.max_batch

    @property
    def preprocessing(self) -> Preprocessing:
        """From a decoded image to what the model takes."""
        return self.description.preprocessing

    @property
    def input_spec(self) -> TensorSpec:
        """Name, dtype and shape of the input."""
        return self.description.input

    @cached_property
    def model(self) -> Any:
        """The eager DeployModel, from the bundle's own weights."""
        from resnet_deploy.models.create import load_model
        from resnet_deploy.models.deploy import DeployModel

        description = self.description
        loaded = load_model(description.architecture, weights=self.bundle.artifact(WEIGHTS))
        return DeployModel(
            loaded.network, head=description.head, input_format=description.input_format, preprocessing=self.preprocessing
        )

    def backend(self, candidate: Candidate, threads: int | None) -> Backend:
        """Load a candidate.

        Args:
            candidate: what is to run.
            threads: of the CPU; the runtime's default where None.

        Returns:
            The backend, on the bundle's verified file.

        Raises:
            UsageError: its file has not been made.
            UnavailableError: it cannot run here.
        """
        from resnet_deploy.backends.load import load_backend
        from resnet_deploy.engine.flavours import FLAVOURS, TENSORRT_RTX
        from resnet_deploy.engine.plan import here

        def cache(plan: str) -> RuntimeCacheStore:
            return RuntimeCacheStore(bundle=self.bundle, plan=plan, machine=here(FLAVOURS[candidate.backend]))

        return load_backend(
            candidate, model=lambda: self.model, artifact=lambda: self._artifact(candidate), threads=threads,
            cache=cache if candidate.backend == TENSORRT_RTX.name else None,
        )  # fmt: skip

    def _artifact(self, candidate: Candidate) -> tuple[Path, Origin | None]:
        """The verified file that a candidate runs and, of a plan, its origin."""
        name = self.file(candidate)
        entry = self.bundle.entry(name)
        return self.bundle.artifact(name), entry.origin if isinstance(entry, PlanFile) else None

    def data(
        self, source: str | Path, *, limit: int | None = None, strict: bool = False, crops: int = 1, labels_needed: bool = True
    ) -> Dataset:
        """Open images as the model takes them, labels matched with its classes by name.

        Args:
            source: a folder, an .npz file, `digits` or `random:N`, as `open_data` takes them.
            limit: at most this many images, evenly spaced.
            strict: fail at the first image that cannot be read.
            crops: 1, or 10 views of each image.
            labels_needed: False for images alone, as for calibration.

        Returns:
            The images, in a fixed order.

        Raises:
            UsageError, DataError: as `open_data` does.
        """
        kind = self.description.head.kind
        if crops > 1 and kind not in {HeadKind.LOGITS, HeadKind.PROBABILITIES}:
            raise UsageError(
                f"{crops} crops are averaged as probabilities; a bundle with the head {kind.value} has none to average"
            )
        return open_data(
            source, preprocessing=self.preprocessing, input_format=self.description.input_format,
            num_classes=self.description.num_classes, class_names=self.description.class_names, labels_needed=labels_needed,
            limit=limit, strict=strict, crops=crops,
        )  # fmt: skip

    def keep_names(self, dataset: Dataset) -> str | None:
        """Keep the names of the classes of the first labelled data that has them; why they are not kept, where they are not.

        Raises DataError where another process gave the classes other names meanwhile.
        """
        names = dataset.class_names
        if self.description.class_names is not None or names is None or len(names) != self.description.num_classes:
            return None

        def named(manifest: Manifest) -> Manifest:
            if manifest.model.class_names not in (None, names):
                raise DataError(f"{dataset.source} has other classes than those of the bundle; run the command again")
            return msgspec.structs.replace(manifest, model=msgspec.structs.replace(manifest.model, class_names=names))

        try:
            with self.bundle.transaction() as change:
                change.update(named)
        except (BundleError, StorageError) as exc:  # read-only, full, or another process is at it
            return f"the names of the classes are not kept in the bundle: {exc}"
        return None

    def calibration_of(self, candidate: Candidate) -> CalibrationUse | None:
        """What a candidate's file was calibrated on; None where it was not quantized."""
        entry = self.bundle.manifest.artifacts.get(candidate.artifact)
        return entry.calibration if isinstance(entry, GraphFile) else None

    def seen(self, candidate: Candidate) -> frozenset[str]:
        """Digests of the images that a candidate's file was calibrated on: it is not judged on them."""
        use = self.calibration_of(candidate)
        return frozenset() if use is None else frozenset(use.images)

    def made_from(self, candidate: Candidate) -> str:
        """The digest of the file that a candidate runs."""
        return self.bundle.sha256(self.file(candidate))

    def graph(self, candidate: Candidate) -> str:
        """The artifact that a candidate runs, or that its plan is built from. Raises UsageError where it has not been made."""
        if candidate.artifact not in self.bundle.manifest.artifacts:
            data = " --calibration DATA" if candidate.precision.row.quantized else ""
            raise UsageError(
                f"{self.bundle.path} has no {candidate.artifact} for {candidate}; make it with `resnet-deploy export "
                f"{self.bundle.path} --precision {candidate.precision.value}{data}`"
            )
        return candidate.artifact

    def file(self, candidate: Candidate) -> str:
        """The artifact that a candidate runs. Raises UsageError where it has not been made, UnavailableError for plans that
        cannot run here."""
        graph = self.graph(candidate)
        return self._plan(candidate) if candidate.row.runs == "plan" else graph

    def plans(self, candidate: Candidate) -> dict[str, PlanFile]:
        """The plans that a candidate's package runs, built from its graph as it is now: those for one version of it first,
        which are faster. Raises UsageError where there is none."""
        from resnet_deploy.engine.flavours import FLAVOURS
        from resnet_deploy.engine.plan import is_for

        flavour = FLAVOURS[candidate.backend]
        graph = self.bundle.sha256(self.graph(candidate))
        plans = {
            name: plan
            for name, plan in self.bundle.manifest.files(PlanFile).items()
            if plan.made_from == graph and is_for(plan.origin, flavour)
        }
        if not plans:
            raise UsageError(
                f"{self.bundle.path} has no plan of {candidate.artifact} for {candidate.backend}; make one with `resnet-deploy "
                f"build {self.bundle.path} --precision {candidate.precision.value} {flavour.build_options}`"
            )
        return dict(sorted(plans.items(), key=lambda item: item[1].origin.version_compatible))

    def _plan(self, candidate: Candidate) -> str:
        """The plan that runs here, of those that were built."""
        from resnet_deploy.engine.flavours import FLAVOURS
        from resnet_deploy.engine.plan import here, preflight

        plans = self.plans(candidate)
        machine, refusal = here(FLAVOURS[candidate.backend]), None
        for name, plan in plans.items():
            try:
                preflight(plan.origin, machine)
            except UnavailableError as exc:
                refusal = refusal or exc
            else:
                return name
        raise refusal or UnavailableError(f"no plan of {candidate} runs here")
