"""Scores → probabilities and the classes that have most of them, in Triton's Python backend. Needs numpy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TritonPythonModel:
    """`scores` [classes], floats → `probabilities`, `topk_values`, `topk_indices`, and `topk_labels` where there are names."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read from the model's configuration what the scores are, and how many classes are asked for."""
        config = json.loads(args["model_config"])
        self.top_k = int(config["parameters"]["top_k"]["string_value"])
        self.logits = config["parameters"]["scores"]["string_value"] == "logits"
        names = Path(__file__).parent / "labels.txt"
        # Not splitlines, which knows a dozen ends of a line: a name that had one would shift all that follow.
        lines = names.read_bytes().decode().removesuffix("\n").split("\n") if names.is_file() else None
        self.labels = None if lines is None else np.array(lines, np.object_)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests of one or more images each."""
        import triton_python_backend_utils as pb_utils

        answers = []
        for request in requests:
            scores = pb_utils.get_input_tensor_by_name(request, "scores").as_numpy()
            tensors = [pb_utils.Tensor(name, value) for name, value in self.classify(scores).items()]
            answers.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return answers

    def classify(self, scores: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """(N, classes) → outputs by name."""
        scores = scores.astype(np.float32, copy=False)
        probabilities = softmax(scores) if self.logits else scores
        indices = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top_k].astype(np.int64)
        outputs: dict[str, NDArray[Any]] = {
            "probabilities": probabilities,
            "topk_values": np.take_along_axis(probabilities, indices, axis=1),
            "topk_indices": indices,
        }
        return outputs if self.labels is None else outputs | {"topk_labels": self.labels[indices]}


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, classes) → probabilities, of the largest score's distance, so that none overflows."""
    powers: NDArray[np.float32] = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
