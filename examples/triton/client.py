"""Image files → their best classes, from the ensemble that `resnet-deploy triton --ensemble jpeg` writes.

    python examples/triton/client.py localhost:8000 resnet50_jpeg cat.jpg dog.jpg

Needs `pip install 'tritonclient[http]'`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput


def classify(address: str, model: str, files: list[str]) -> list[list[tuple[str, float]]]:
    """Of each file, the names of its best classes (or their numbers, where the model has no names) and their probabilities."""
    images = InferInput("jpeg", [len(files), 1], "BYTES")
    images.set_data_from_numpy(np.array([[Path(file).read_bytes()] for file in files], np.object_))
    answer = InferenceServerClient(address).infer(model, [images])
    names, values = answer.as_numpy("topk_labels"), answer.as_numpy("topk_values")
    if names is None:
        names = answer.as_numpy("topk_indices").astype(str).astype(np.bytes_)
    return [
        [(name.decode(), float(value)) for name, value in zip(*row, strict=True)] for row in zip(names, values, strict=True)
    ]


if __name__ == "__main__":
    address, model, *files = sys.argv[1:]
    for file, best in zip(files, classify(address, model, files), strict=True):
        print(file, *(f"{name} {value:.1%}" for name, value in best))
