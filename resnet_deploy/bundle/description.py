"""What a bundle's model sees, in words."""

from __future__ import annotations

from resnet_deploy.bundle.manifest import ModelDescription


def describe_preprocessing(model: ModelDescription) -> str:
    """The preprocessing, and where each part of it is from: checkpoint, option or assumed."""
    transform, sources = model.preprocessing, model.preprocessing_source
    parts = {
        "resize": f"resize {transform.resize}", "interpolation": "bilinear", "crop": f"crop {transform.crop}",
        "mean": f"mean {', '.join(f'{value:g}' for value in transform.mean)}",
        "std": f"std {', '.join(f'{value:g}' for value in transform.std)}",
    }  # fmt: skip
    return "; ".join(f"{text} ({sources[name]})" if name in sources else text for name, text in parts.items())
