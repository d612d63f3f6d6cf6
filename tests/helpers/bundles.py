"""Small bundles whose content does not matter: what is written together belongs together."""

from __future__ import annotations

from pathlib import Path

from resnet_deploy.bundle.codec import now
from resnet_deploy.bundle.manifest import ModelDescription, Request, SamplesFile, WeightsOrigin
from resnet_deploy.bundle.records import JudgedData, ParityRecord
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.bundle.transaction import changing
from resnet_deploy.parity.metrics import ParityReport
from resnet_deploy.specs import Head, InputFormat, Preprocessing, TensorSpec

REPORT = ParityReport(
    images=9, finite=True, max_abs_error=0.5, mean_abs_error=0.1, max_rel_error=0.1, cosine_mean=0.99, cosine_min=0.98
)
FILES = ("weights.bin", "graph.bin")


def describe(version: int, architecture: str = "resnet18") -> ModelDescription:
    """A model; its number of parameters is the version."""
    request = Request(
        weights=None, num_classes=None, new_head=False, head="logits", l2_normalize=False, input=InputFormat.FLOAT,
        image_size=None, resize=None, mean=None, std=None, max_batch=8, opset=20,
    )  # fmt: skip
    spec = TensorSpec(name="input", dtype="float32", shape=("batch", 3, 32, 32))
    return ModelDescription(
        architecture=architecture, request=request, family="ResNet", paper=None, num_classes=3, class_names=None,
        weights=WeightsOrigin(source="random", seed=0), head=Head(), input_format=InputFormat.FLOAT,
        preprocessing=Preprocessing(resize=32, crop=32), input=spec, outputs=(spec,), parameters=version, macs=1,
    )  # fmt: skip


def make(path: Path, version: int) -> Bundle:
    """A bundle with two files that belong together, as weights and graph do, in place of any that is there."""
    with changing(path, None) as change:
        change.describe(describe(version), overwrite=True)
        for name in FILES:
            change.stage(name).write_text(f"{name} {version}")
            change.add(name, SamplesFile)
    return Bundle.open(path)


def state(path: Path) -> int:
    """The one version that everything in a bundle is of; an error where it is a mixture."""
    bundle = Bundle.open(path)
    versions = {int(bundle.artifact(name).read_text().split()[1]) for name in bundle.manifest.artifacts}
    assert versions == {bundle.manifest.model.parameters}
    return versions.pop()


def parity(bundle: Bundle, candidate: str = "onnxruntime", made_from: str | None = None) -> ParityRecord:
    """A verdict on the graph that a bundle holds."""
    data = JudgedData(source="digits", sha256="0" * 64, crops=1, images=9, calibrated_on=0)
    return ParityRecord(
        candidate=candidate, made_from=made_from or bundle.sha256("graph.bin"), reference=bundle.sha256("weights.bin"),
        data=data, batch=8, runtime={}, created=now(), report=REPORT,
    )  # fmt: skip
