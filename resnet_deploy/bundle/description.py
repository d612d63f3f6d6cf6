"""What a bundle's model sees, in words."""

from __future__ import annotations

from resnet_deploy.bundle.manifest import ModelDescription


def describe_preprocessing(model: ModelDescription) -> str:
    """The preprocessing, and where each part of it is from: checkpoint, option or assumed."""
    transform, sources = model.preprocessing, model.preprocessing_source
    parts = {
        "resize": f"resize {transform.resize}", "interpolation": "bilinear", "crop": f"crop {transform.crop}",
        "mean": f"mean {_channels(transform.mean)}", "std": f"std {_channels(transform.std)}",
    }  # fmt: skip
    return "; ".join(f"{text} ({sources[name]})" if name in sources else text for name, text in parts.items())


def _channels(values: tuple[float, float, float]) -> str:
    """Red, green and blue; once where they are the same."""
    shown = values if len(set(values)) > 1 else values[:1]
    return ", ".join(f"{value:g}" for value in shown)
