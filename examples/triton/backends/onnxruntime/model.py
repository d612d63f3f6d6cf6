"""A CPU stand-in for NVIDIA's ONNX Runtime backend, which no Python package carries.

Triton loads `backends/onnxruntime/model.py` as a Python-based backend where it finds no `libtriton_onnxruntime.so`. It runs
the same models with the same config.pbtxt, on ONNX Runtime's CPU provider alone: for tests and a first look, not for
production. Of the backend's own parameters it knows intra_op_thread_count and optimization.graph.level. Needs numpy < 2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

LEVELS = {-1: "ORT_ENABLE_BASIC", 0: "ORT_ENABLE_ALL", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}


class TritonPythonModel:
    """One instance of one version of a model."""

    def initialize(self, args: dict[str, str]) -> None:
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(f"numpy {np.__version__}: this server's Python backend needs numpy < 2")
        config = json.loads(args["model_config"])
        file = config["default_model_filename"] or "model.onnx"
        options = ort.SessionOptions()
        threads = config["parameters"].get("intra_op_thread_count", {}).get("string_value", "0")
        options.intra_op_num_threads = int(threads)
        level = config.get("optimization", {}).get("graph", {}).get("level", 0)
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
        path = Path(args["model_repository"]) / args["model_version"] / file
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """The requests of one dynamic batch as one inference."""
        parts = [[pb_utils.get_input_tensor_by_name(r, name).as_numpy() for name in self.inputs] for r in requests]
        feed = {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(self.inputs)}
        answers = self.session.run(self.outputs, feed)
        ends = np.cumsum([len(part[0]) for part in parts])[:-1]
        split = [np.split(answer, ends) for answer in answers]
        return [
            pb_utils.InferenceResponse(
                output_tensors=[pb_utils.Tensor(name, rows[i]) for name, rows in zip(self.outputs, split, strict=True)]
            )
            for i in range(len(requests))
        ]
