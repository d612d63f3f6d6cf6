"""A bundle as models of a Triton repository, which a server loads as they are."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from resnet_deploy._arguments import takes
from resnet_deploy._deprecated import renamed
from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.bundle.names import slug
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import DataError, UsageError
from resnet_deploy.serving.triton.artifacts import ServedArtifact, choose_artifact
from resnet_deploy.serving.triton.ensemble import ensemble
from resnet_deploy.serving.triton.model_config import new_config, string_parameters
from resnet_deploy.serving.triton.options import TritonOptions
from resnet_deploy.serving.triton.repository import IDENTITY, Added, File, RepositoryModel, add
from resnet_deploy.specs import HeadKind, InputFormat, Progress, TensorSpec, silent

_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16", "int64": "TYPE_INT64"}
LABELS = "labels.txt"


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What was added to a Triton model repository.

    Attributes:
        path: its folder.
        models: as they are in the repository now, what a client calls last.
        warnings: what the server needs.
    """

    path: Path
    models: list[Added]
    warnings: list[str]

    @property
    def entry(self) -> Added:
        """The model that clients call."""
        return self.models[-1]

    def to_dict(self) -> dict[str, Any]:
        return {
            "repository": str(self.path),
            "models": [{**vars(model), "path": str(model.path)} for model in self.models],
            "warnings": self.warnings,
        }


@dataclass(frozen=True)
class TritonArguments(TritonOptions):
    """The arguments of `write_triton`, which describes them."""

    bundle: Bundle | str | Path
    output: str | Path
    _: KW_ONLY
    progress: Progress = silent


@renamed(max_delay_s="max_delay", latency_bound_s="latency_bound", server="release")
@takes(TritonArguments)
def write_triton(call: TritonArguments) -> Repository:
    """Add a bundle's model to a Triton model repository: as a new model, or as the next version of the same one.

    What the repository held stays as it was, and a server that polls it sees a version whole or not at all.

    Args:
        bundle: a bundle, or its folder.
        output: the repository's folder; made where it is missing.
        progress: told what is being done.

    Returns:
        What was added: the models, the one that clients call last.

    Raises:
        UsageError: what the bundle does not have.
        ServingError: a server of that release could not read the plan, or no batch keeps the latency bound.
        RepositoryError: the folder is another model's, or its configuration was edited.
    """
    settings, output = call.part(TritonOptions), Path(call.output)
    opened = OpenedBundle(Bundle.open(call.bundle))
    artifact = choose_artifact(opened, settings)
    name = settings.name or slug(opened.description.architecture)
    labels = _labels(opened, settings)
    call.progress("copy", 0, None)
    models = [_model(opened, artifact, settings, name, labels)]
    warnings = list(artifact.warnings)
    if settings.ensemble is not None:
        models += ensemble(opened, models[0], settings, labels)
        warnings.append(f"{name}_decode needs Pillow in the server's Python: pip install pillow in its image")
    if settings.response_cache:
        warnings.append("start the server with --cache-config=local,size=BYTES: without it nothing is cached")
    return Repository(path=output, models=add(output, models), warnings=warnings)


def _model(
    opened: OpenedBundle, artifact: ServedArtifact, options: TritonOptions, name: str, labels: list[str] | None
) -> RepositoryModel:
    files = {
        file: File(path=opened.bundle.artifact(source), sha256=opened.bundle.sha256(source))
        for file, source in artifact.files.items()
    }
    beside = {} if labels is None else {LABELS: File(content="".join(f"{label}\n" for label in labels).encode())}
    return RepositoryModel(config=_config(opened, artifact, options, name, bool(labels)), version=files, beside=beside)


def _config(opened: OpenedBundle, artifact: ServedArtifact, options: TritonOptions, name: str, labelled: bool) -> Any:
    layout = "FORMAT_NHWC" if opened.description.input_format is InputFormat.UINT8 else "FORMAT_NCHW"
    fields: dict[str, Any] = {
        "name": name, "platform": BACKENDS[options.platform].triton, "backend": options.platform,
        "max_batch_size": artifact.max_batch,
        "input": [_tensor(spec) | {"format": layout} for spec in artifact.inputs],
        "output": [_tensor(spec) | ({"label_filename": LABELS} if labelled else {}) for spec in artifact.outputs],
        "version_policy": options.policy, "instance_group": [_instances(artifact, options)],
        "dynamic_batching": {
            "preferred_batch_size": artifact.preferred, "max_queue_delay_microseconds": round(artifact.delay_s * 1e6)
        },
        "parameters": string_parameters({IDENTITY: _identity(opened), **_backend_parameters(options)}),
    }  # fmt: skip
    if artifact.by_capability is None:
        fields["default_model_filename"] = next(iter(artifact.files))
    else:
        fields["cc_model_filenames"] = artifact.by_capability
    if options.runs_plans and options.cuda_graphs:  # of batch 1, the preferred ones and the largest
        fields["optimization"] = {"cuda": {"graphs": True}}
    if options.response_cache:
        fields["response_cache"] = {"enable": True}
    if options.warm_up:
        fields["model_warmup"] = _warm_up(artifact)
    return new_config(**fields)


def _identity(opened: OpenedBundle) -> str:
    """Whose model it is: what all its versions share. Weights and precision are a version's own."""
    model = opened.description
    transform = model.preprocessing
    return (
        f"{model.architecture}, {model.num_classes} classes, {model.input_format.value} input of {transform.crop} pixels "
        f"(resize {transform.resize}, mean {list(transform.mean)}, std {list(transform.std)}), head "
        f"{model.request.head}{' of unit length' if model.head.l2_normalize else ''}"
    )


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """An input or output as config.pbtxt has it: without the batch, which Triton adds."""
    return {"name": spec.name, "data_type": _TYPES[spec.dtype], "dims": spec.shape[1:]}


def _instances(artifact: ServedArtifact, options: TritonOptions) -> dict[str, Any]:
    profiles = [str(index) for index, profile in enumerate(artifact.profiles) if profile.min <= artifact.max_batch]
    return {"count": options.copies, "kind": "KIND_GPU" if options.on_gpu else "KIND_CPU", "profile": profiles}


def _backend_parameters(options: TritonOptions) -> dict[str, str]:
    return {"intra_op_thread_count": str(options.threads)} if options.threads else {}


def _warm_up(artifact: ServedArtifact) -> list[dict[str, Any]]:
    """Every batch that has kernels of its own, and the smallest and the largest."""
    inputs = {
        spec.name: {"data_type": _TYPES[spec.dtype], "dims": spec.shape[1:], "random_data": True} for spec in artifact.inputs
    }
    sizes = sorted({1, *artifact.preferred, artifact.max_batch})
    return [{"name": f"batch_{size}", "batch_size": size, "inputs": inputs} for size in sizes]


def _labels(opened: OpenedBundle, options: TritonOptions) -> list[str] | None:
    """Names of the classes, where the head scores classes and they are known. Raises DataError for a file that cannot be."""
    model = opened.description
    scores = model.head.kind in {HeadKind.LOGITS, HeadKind.PROBABILITIES}
    if options.labels is None:
        return list(model.class_names) if scores and model.class_names is not None else None
    if not scores:
        raise UsageError(f"labels name the classes of logits and probabilities; the head is {model.head.kind.value}")
    path = Path(options.labels)
    try:
        names = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path} cannot be read as labels, one name a line: {exc}") from exc
    if len(names) != model.num_classes:
        raise DataError(f"{path} has {len(names)} lines; the model has {model.num_classes} classes, one a line each")
    return names
