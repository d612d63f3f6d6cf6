"""Generated image files, what they should become, and runs of `embed` over them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resnet_deploy as rd
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from tests.helpers.paths import ROOT


def photograph(seed: int, width: int = 40, height: int = 36) -> Image.Image:
    """Smooth noise, as a JPEG keeps it."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def photographs(folder: Path, count: int) -> Path:
    """So many JPEG files in folders of ten, named by number."""
    for seed in range(count):
        path = folder / f"{seed // 10:03}" / f"{seed:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(seed).save(path)
    return folder


def answers(bundle: Bundle, paths: Iterable[str | Path], backend: str = "onnxruntime", batch: int = 1) -> dict[str, np.ndarray]:
    """What a backend of the bundle says of files, one after the other, through `verify`'s own reader."""
    from resnet_deploy.backends.candidate import Candidate
    from resnet_deploy.data.preprocessing import Transform

    opened = OpenedBundle(bundle)
    transform = Transform(preprocessing=opened.preprocessing, input_format=opened.description.input_format)
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(transform(image))
    stacked, found = np.stack(images), []
    with opened.backend(Candidate.parse(backend), 1) as loaded:
        for start in range(0, len(stacked), batch):
            found.append({name: np.array(value) for name, value in loaded.infer(stacked[start : start + batch]).items()})
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def column(table: Any, name: str) -> np.ndarray:
    """A fixed-size list column as (rows, k)."""
    values = table[name].combine_chunks()
    return values.flatten().to_numpy().reshape(len(values), values.type.list_size)


def command(*args: str | Path, prefix: Iterable[str] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    """`resnet-deploy embed ...` in a process of its own."""
    done = [*prefix, sys.executable, str(ROOT / "cli.py"), "embed", *map(os.fspath, args)]
    return subprocess.run(done, capture_output=True, text=True, errors="replace", **options)


def killed(bundle: Bundle, images: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of parts that a run leaves which ends before the output is made of them."""

    def stop(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("resnet_deploy.serving.embedding.output.Output.finish", stop)
        with pytest.raises(KeyboardInterrupt):
            rd.embed(bundle, images, output, batch=4, threads=1, checkpoint=0)
    return output.with_name(f"{output.name}.parts")
