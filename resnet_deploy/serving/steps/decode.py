"""JPEG, PNG or WebP files → what the model takes, in Triton's Python backend.

Runs in the server, from a model repository alone: numpy, Pillow and, beside it, this package's own preprocessing, so that
what a client sends is prepared as what the model was verified on. An image that cannot be used fails its request alone.
"""

from __future__ import annotations

import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # what is beside this file, before an installed package
sys.dont_write_bytecode = True  # a file more in a version's folder is a change to a server that polls

from resnet_deploy.preprocessing import Transform  # noqa: E402
from resnet_deploy.specs import InputFormat, Preprocessing  # noqa: E402

FORMATS = ("JPEG", "PNG", "WEBP")
DTYPES = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_FP16": np.float16}


class TritonPythonModel:
    """`image` BYTES [1] → `pixels`: one image each, as the model's input. Images are decoded on all cores."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the preprocessing from the model's configuration."""
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        self.dtype = DTYPES[config["output"][0]["data_type"]]
        self.transform = Transform(
            preprocessing=Preprocessing.from_dict(json.loads(parameters["preprocessing"]["string_value"])),
            input_format=InputFormat(parameters["input_format"]["string_value"]),
        )
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests of one or more images each."""
        import triton_python_backend_utils as pb_utils

        files = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1) for request in requests]
        waiting = [[self.pool.submit(self.decode, data) for data in request] for request in files]
        return [self._answer(pb_utils, images) for images in waiting]

    def decode(self, data: bytes) -> NDArray[Any]:
        """One file's bytes as the model takes them. Raises OSError or ValueError."""
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return self.transform(image).astype(self.dtype, copy=False)

    def _answer(self, pb_utils: Any, images: list[Any]) -> Any:
        prepared = []
        for number, future in enumerate(images):
            try:
                prepared.append(future.result())
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:  # PIL raises all of these
                text = f"image {number} cannot be used: {str(exc) or type(exc).__name__}"
                error = pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG)  # the client's, not the server's
                return pb_utils.InferenceResponse(output_tensors=[], error=error)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("pixels", np.stack(prepared))])

    def finalize(self) -> None:
        """Let the threads go."""
        self.pool.shutdown()
