"""Image files → what the model takes, in Triton's Python backend.

Runs in the server, from a model repository alone: numpy, Pillow and, beside it, this package's own preprocessing, so that
what a client sends is prepared as what the model was verified on. An image that cannot be used fails its request alone, and is
let go of at once; large images are decoded one at a time.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))  # what is beside this file, before an installed package
sys.dont_write_bytecode = True  # a file more in a version's folder is a change to a server that polls

from resnet_deploy.data.images import open_image, reason_of  # noqa: E402
from resnet_deploy.data.preprocessing import Transform  # noqa: E402
from resnet_deploy.specs import InputFormat, Preprocessing  # noqa: E402

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
        return [self._answer(pb_utils, images) for images in self.decode(files)]

    def decode(self, requests: Sequence[Sequence[bytes]]) -> list[NDArray[Any] | str]:
        """Requests of files' bytes → for each its images as the model takes them, (N, ...), or why they cannot be used."""
        waiting = [[self.pool.submit(self._prepare, data) for data in request] for request in requests]
        return [_gathered(images) for images in waiting]

    def _prepare(self, data: bytes) -> NDArray[Any] | str:
        """A reason in words, not an exception: its frames would hold what was decoded until the last image is answered."""
        try:
            with open_image(io.BytesIO(data)) as image:
                return self.transform(image).astype(self.dtype, copy=False)
        except (OSError, ValueError, MemoryError) as exc:
            return reason_of(exc)

    def _answer(self, pb_utils: Any, images: NDArray[Any] | str) -> Any:
        if isinstance(images, str):
            error = pb_utils.TritonError(images, pb_utils.TritonError.INVALID_ARG)  # the client's, not the server's
            return pb_utils.InferenceResponse(output_tensors=[], error=error)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("pixels", images)])

    def finalize(self) -> None:
        """Let the threads go."""
        self.pool.shutdown()


def _gathered(waiting: list[Future[NDArray[Any] | str]]) -> NDArray[Any] | str:
    """A request's images together; where one cannot be used, that one's reason, and the rest are not decoded."""
    prepared = []
    for number, future in enumerate(waiting):
        image = future.result()
        if isinstance(image, str):
            for rest in waiting[number + 1 :]:
                rest.cancel()
            return f"image {number} cannot be used: {image}"
        prepared.append(image)
    return np.stack(prepared)
