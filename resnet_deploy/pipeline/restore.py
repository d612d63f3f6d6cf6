"""Files of a bundle that were removed are made again, from what is there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_deploy.bundle.manifest import GraphFile, ModelDescription, WeightsFile
from resnet_deploy.bundle.names import FP32, WEIGHTS
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import DeployError, IntegrityError
from resnet_deploy.models import registry
from resnet_deploy.pipeline.write import write_graph, write_weights
from resnet_deploy.specs import Progress


def restore(bundle: Bundle, names: Iterable[str], progress: Progress) -> None:
    """Make files again that are gone: weights from where they came from, the FP32 graph from the weights, other graphs from it.

    A file that was changed is left for its user: whoever needs it is told so. Plans are built again by whoever runs them, and
    samples, profiles and reports are what the next run writes.

    Args:
        bundle: the opened bundle.
        names: the files that are needed.
        progress: told what is being done.

    Raises:
        IntegrityError: a file is gone that cannot be made again from what is there; the message has the command that made it.
    """
    needed = dict.fromkeys(names)
    gone = [name for name in bundle.manifest.artifacts if not os.path.lexists(bundle.path / name)]
    if any(name in needed and isinstance(bundle.entry(name), GraphFile) for name in gone):
        needed |= {FP32: None}
    if FP32 in gone and FP32 in needed:
        needed |= {WEIGHTS: None}
    for name in sorted(set(gone) & set(needed), key=lambda name: (name != WEIGHTS, name != FP32)):
        entry = bundle.entry(name)
        if isinstance(entry, WeightsFile):
            progress(f"make {name} again", 0, None)
            _restore_weights(bundle, entry)
        elif name == FP32:
            progress(f"make {name} again", 0, None)
            _restore_graph(bundle, progress)
        elif isinstance(entry, GraphFile):
            _lower_again(bundle, name, entry, progress)


def _restore_weights(bundle: Bundle, entry: WeightsFile) -> None:
    """From the checkpoint, where it is as it was; random ones from their seed."""
    from resnet_deploy.models.checkpoint import weights_digest
    from resnet_deploy.models.create import load_model

    model = bundle.manifest.model
    source = None if model.request.weights is None else model.weights.source
    try:
        if source is not None:
            digest = weights_digest(registry.architecture(model.architecture), source)
            if digest != model.request.weights:
                raise IntegrityError(f"{source} is not what it was: its digest is {digest[:16]}…")
        loaded = load_model(
            model.architecture, weights=source, num_classes=model.request.num_classes, new_head=model.request.new_head
        )
    except DeployError as exc:
        raise IntegrityError(
            f"{bundle.path / WEIGHTS} is gone, and cannot be made again: {exc}. Put {source or 'it'} back, or make the bundle "
            f"again with `{entry.command} --overwrite`"
        ) from exc
    with bundle.transaction() as change:
        write_weights(change, loaded.network, model, made_from=entry.made_from)


def _restore_graph(bundle: Bundle, progress: Progress) -> None:
    model: ModelDescription = bundle.manifest.model
    with bundle.transaction() as change:
        write_graph(change, OpenedBundle(bundle).model, model.request, bundle.sha256(WEIGHTS), progress)


def _lower_again(bundle: Bundle, name: str, entry: GraphFile, progress: Progress) -> None:
    """By the settings that it was made with, and the calibration that the bundle keeps."""
    from resnet_deploy.pipeline.lower import lower
    from resnet_deploy.pipeline.lowering_options import LoweringOptions

    settings: dict[str, Any] = {key: value for key, value in entry.settings.items() if key != "target"}
    target = "cpu" if entry.settings.get("target") == "cpu" else "tensorrt"
    options = LoweringOptions(precision=(entry.precision.value,), int8_target=(target,), **settings)
    try:
        lower(bundle, options, progress)
    except DeployError as exc:
        raise IntegrityError(
            f"{Path(bundle.path) / name} is gone, and cannot be made again from what is there: {exc}. The command that made "
            f"it: `{entry.command}`"
        ) from exc
