"""`export`: a checked FP32 graph in a bundle, and the other precisions that are made from it. What is there is added to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_deploy import _json, limits
from resnet_deploy._arguments import takes
from resnet_deploy._deprecated import renamed
from resnet_deploy.bundle.disk import check_folder, has_manifest
from resnet_deploy.bundle.fields import Source
from resnet_deploy.bundle.manifest import (
    CalibrationFile,
    GraphFile,
    Manifest,
    ModelDescription,
    Request,
    WeightsFile,
    WeightsOrigin,
)
from resnet_deploy.bundle.names import FP32, WEIGHTS
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.bundle.transaction import changing
from resnet_deploy.errors import BundleError, UsageError
from resnet_deploy.models import registry
from resnet_deploy.models.in_memory import SOURCE, as_file, is_network, name_of
from resnet_deploy.pipeline.lower import lower
from resnet_deploy.pipeline.lowering_options import LoweringOptions
from resnet_deploy.pipeline.restore import restore
from resnet_deploy.pipeline.write import write_graph, write_weights
from resnet_deploy.specs import MAX_BATCH, OPSET, Head, InputFormat, OptionGroup, Preprocessing, Progress, silent

if TYPE_CHECKING:
    from torch import nn

_ARGUMENT = "the architecture"


@dataclass(frozen=True, kw_only=True)
class ExportOptions(OptionGroup):
    """What is exported. The names and defaults are those of `resnet-deploy export`.

    Attributes:
        weights: a .pth, .pt or .safetensors file, a state dict, IMAGENET1K_V1, IMAGENET1K_V2 or DEFAULT; by default random
            values (seed 0).
        num_classes: of the classifier; by default the checkpoint's, else the architecture's.
        new_head: start a fresh classifier of num_classes classes.
        head: what the model answers with: logits, probabilities, embedding, features or topk:K.
        l2_normalize: scale embeddings to unit length.
        input: what clients send: float (normalized NCHW float32) or uint8 (NHWC pixels, which the graph normalizes).
        image_size: the input's width and height in pixels; by default the checkpoint's, else the architecture's.
        resize: pixels of the shorter edge before the crop; likewise.
        mean, std: of red, green and blue, of pixels in [0, 1]; likewise.
        max_batch: the largest batch at which the export is checked.
        opset: of ONNX, 18 to 23.
    """

    weights: str | Path | Mapping[str, Any] | None = None
    num_classes: int | None = None
    new_head: bool = False
    head: str = "logits"
    l2_normalize: bool = False
    input: str = "float"
    image_size: int | None = None
    resize: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    max_batch: int = MAX_BATCH
    opset: int = OPSET

    def __post_init__(self) -> None:
        Head.parse(self.head, l2_normalize=self.l2_normalize)
        if self.input not in {f.value for f in InputFormat}:
            raise UsageError(f"unknown input {self.input!r}; choose float or uint8")
        for name in ("num_classes", "image_size", "resize", "mean", "std", "max_batch", "opset"):
            limits.check_option(name, getattr(self, name))
        super().__post_init__()

    def preprocessing(self, known: Preprocessing) -> Preprocessing:
        """A checkpoint's preprocessing with what was asked for in its place."""
        crop = self.image_size or known.crop
        # A size of its own keeps the ratio of resize to crop: 256 to 224.
        resize = self.resize or round(known.resize * crop / known.crop)
        return replace(known, crop=crop, resize=resize, mean=self.mean or known.mean, std=self.std or known.std)

    def request(self, row: registry.Architecture) -> Request:
        """What the exported files depend on, without loading anything heavy: equal requests, equal files."""
        return Request(
            weights=_digest(row, self.weights), num_classes=self.num_classes, new_head=self.new_head, head=self.head,
            l2_normalize=self.l2_normalize, input=InputFormat(self.input), image_size=self.image_size, resize=self.resize,
            mean=self.mean, std=self.std, max_batch=self.max_batch, opset=self.opset,
        )  # fmt: skip


@dataclass(frozen=True)
class ExportArguments(ExportOptions, LoweringOptions):
    """The arguments of `export`, which describes them."""

    architecture: Bundle | str | Path | nn.Module
    output: str | Path | None = None
    _: KW_ONLY
    overwrite: bool = False
    progress: Progress = silent


@renamed(targets="int8_target")
@takes(ExportArguments)
def export(call: ExportArguments) -> Bundle:
    """Make a bundle with a checked FP32 ONNX model, or add to one; then make the other precisions that are asked for.

    A folder that holds a bundle keeps all that is in it: what is not said is taken from it, what is there is not made again,
    and a file that was removed is.

    Args:
        architecture: a name, as `list_models` has it; a network that `create_model` made, with its weights; or a bundle,
            to which is added.
        output: the bundle's folder; needed for a name.
        overwrite: make the bundle new, whatever the folder's bundle holds.
        progress: told what is being done.

    Returns:
        The opened bundle.

    Raises:
        UsageError: an argument that cannot be meant.
        CheckpointError: weights that are not this architecture's.
        BundleError: the folder's bundle was made by another request (and overwrite is not given), or cannot be written.
        ExportError: the graph does not answer as the eager model does.
        CalibrationError: images or ranges that cannot be this model's.
    """
    weights = call.weights
    if is_network(call.architecture):
        if weights is not None:
            raise UsageError("a network has its own weights: give the name of its architecture, or leave weights out")
        weights = call.architecture.state_dict()  # type: ignore[union-attr]
        call = call.but(architecture=name_of(call.architecture))  # type: ignore[arg-type]
    with as_file(weights) as file:
        named = call if file is None else call.but(weights=file)
        return _export(named, source=None if file is weights else SOURCE)


def _export(call: ExportArguments, *, source: str | None) -> Bundle:
    """As `export`, of what has a name. source: what to call the weights; their own name where None."""
    precisions, request, progress = call.part(LoweringOptions), call.part(ExportOptions), call.progress
    name, path = _place(call.architecture, call.output)  # type: ignore[arg-type]
    if has_manifest(path) and not call.overwrite:
        bundle = Bundle.open(call.architecture if isinstance(call.architecture, Bundle) else path)
        _check_request(bundle, name, request, request.explicit)
        # Of what nobody asked for now, a file that cannot be made again is no reason to fail.
        needed = [WEIGHTS, FP32] if "precision" in precisions.explicit else list(bundle.manifest.artifacts)
        restore(bundle, needed, progress)
        for needed_name in needed:
            if isinstance(bundle.manifest.artifacts.get(needed_name), (WeightsFile, GraphFile, CalibrationFile)):
                bundle.artifact(needed_name)
    elif name is None:
        raise UsageError(f"--overwrite makes a bundle new: give its architecture, as in `export ARCH -o {path} --overwrite`")
    else:
        check_folder(path)
        bundle = _make(registry.architecture(name), path, request, source, call.overwrite, progress)
    lower(bundle, precisions, progress)
    return bundle


def _place(architecture: Bundle | str | Path, output: str | Path | None) -> tuple[str | None, Path]:
    """The architecture that is named, if one is, and the bundle's folder."""
    if isinstance(architecture, Bundle):
        own: Path | None = architecture.path
    else:
        named = str(architecture) in registry.ARCHITECTURES
        own = Path(architecture) if not named and has_manifest(Path(architecture)) else None
    if own is None and output is None:
        raise UsageError(f"give a folder for the bundle of {architecture}: -o DIR")
    if own is not None and output is not None and Path(output).resolve() != own.resolve():
        raise UsageError(f"{own} is a bundle, and cannot be exported to {output}: leave out -o, or name an architecture")
    return (None, own) if own is not None else (str(architecture), Path(output or ""))


def _check_request(bundle: Bundle, name: str | None, options: ExportOptions, explicit: Iterable[str]) -> None:
    """Raise BundleError where something that was said is otherwise in a bundle: what differs, and what would be lost."""
    model, request = bundle.manifest.model, bundle.manifest.model.request
    row = registry.architecture(model.architecture)
    transform = model.preprocessing
    known: dict[str, Any] = {
        "weights": request.weights, "num_classes": model.num_classes, "new_head": request.new_head, "head": request.head,
        "l2_normalize": request.l2_normalize, "input": request.input.value, "image_size": transform.crop,
        "resize": transform.resize, "mean": transform.mean, "std": transform.std, "max_batch": request.max_batch,
        "opset": request.opset,
    }  # fmt: skip
    different = []
    if name is not None and registry.architecture(name).name != model.architecture:
        different.append(f"{_ARGUMENT} is {model.architecture} there, {name} here")
        row = registry.architecture(name)
    for option in sorted(explicit):
        value = getattr(options, option)
        there, here = known[option], _digest(row, value) if option == "weights" else value
        if isinstance(here, (tuple, list)):
            there, here = tuple(there), tuple(map(float, here))
        if value is not None and there != here:
            different.append(f"--{option.replace('_', '-')} is {_shown(there)} there, {_shown(here)} here")
    if different:
        raise BundleError(
            f"{bundle.path} holds a bundle that was made otherwise: {'; '.join(different)}. Choose another folder, or replace "
            f"it with --overwrite, which loses {contents(bundle.manifest)}"
        )


def _shown(value: Any) -> str:
    return "random weights" if value is None else str(value)[:40]


def contents(manifest: Manifest) -> str:
    """What a bundle holds, in words."""
    counts = {
        "verdict": len(manifest.parity), "measurement": len(manifest.measurements), "scenario": len(manifest.scenarios)
    }  # fmt: skip
    records = [f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count]
    return ", ".join([*manifest.artifacts, *records]) or "nothing"


def _digest(row: registry.Architecture, weights: Any) -> str | None:
    from resnet_deploy.models.checkpoint import weights_digest

    return None if weights is None else weights_digest(row, str(weights))


def _make(
    row: registry.Architecture, path: Path, options: ExportOptions, source: str | None, overwrite: bool, progress: Progress
) -> Bundle:
    """A new bundle of an architecture: its weights and its FP32 graph."""
    request = options.request(row)
    progress("load", 0, None)
    from resnet_deploy.models.create import load_model
    from resnet_deploy.models.deploy import DeployModel

    loaded = load_model(row.name, weights=options.weights, num_classes=options.num_classes, new_head=options.new_head)  # type: ignore[arg-type]
    if source is not None:
        loaded = replace(loaded, weights=loaded.weights | {"source": source})
    model = DeployModel(
        loaded.network, head=Head.parse(options.head, l2_normalize=options.l2_normalize),
        input_format=InputFormat(options.input), preprocessing=options.preprocessing(loaded.preprocessing),
    )  # fmt: skip
    description = _describe(model, loaded, row, request)
    with changing(path, None) as change:
        change.describe(description, overwrite=overwrite)
        weights = write_weights(change, model.network, description, made_from=loaded.weights["sha256"])
        write_graph(change, model, description.request, weights.sha256, progress)
    return Bundle.open(path)


def _describe(model: Any, loaded: Any, row: registry.Architecture, request: Request) -> ModelDescription:
    from resnet_deploy.models.complexity import complexity

    known: Source = "checkpoint" if loaded.known else "assumed"
    chosen = {"crop": request.image_size, "resize": request.resize, "mean": request.mean, "std": request.std}
    sources: dict[str, Source] = {name: known if value is None else "option" for name, value in chosen.items()}
    if request.image_size is not None and request.resize is None:
        sources["resize"] = "assumed"  # it keeps the checkpoint's ratio to the crop
    sources["interpolation"] = "assumed"  # bilinear, as torchvision's presets have it: no checkpoint says it

    classes = model.network.num_classes
    cost = complexity(row, num_classes=classes, image_size=model.preprocessing.crop)
    return ModelDescription(
        architecture=row.name, request=request, family=row.family, paper=row.paper, num_classes=classes,
        class_names=loaded.class_names, weights=_json.convert(loaded.weights, WeightsOrigin), head=model.head,
        input_format=model.input_format, preprocessing=model.preprocessing, preprocessing_source=sources,
        input=model.input_spec, outputs=tuple(model.output_specs()), parameters=cost.parameters, macs=cost.macs,
    )  # fmt: skip
