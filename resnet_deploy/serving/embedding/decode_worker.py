"""A process that decodes: paths on standard input, pixels or reasons on standard output. It ends when its input does."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
from typing import BinaryIO

import numpy as np
from PIL import Image

from resnet_deploy.errors import StorageError
from resnet_deploy.serving.embedding.decoding import Decoder

PIXELS, REASON, FAILURE = range(3)
HEADER = struct.Struct("<BI")  # which of them, and how many bytes follow


def main() -> None:
    """Answer requests, each a pickled list of paths, until there are no more. The first object is the Decoder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; ours ends with its parent
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    decoder: Decoder = pickle.load(requests)
    Image.MAX_IMAGE_PIXELS = None  # the decoder has a limit of its own
    while True:
        try:
            paths: list[bytes] = pickle.load(requests)
        except EOFError:
            return
        for path in paths:
            _answer(decoder, path, answers)
            answers.flush()  # one by one: what is missing when a codec crashes is its doing


def _answer(decoder: Decoder, path: bytes, answers: BinaryIO) -> None:
    kind = REASON
    try:
        decoded = decoder(path)
    except (StorageError, MemoryError) as exc:
        kind, decoded = FAILURE, str(exc) or type(exc).__name__
    if isinstance(decoded, str):
        body = decoded.encode(errors="replace")
        answers.write(HEADER.pack(kind, len(body)) + body)
    else:
        answers.write(HEADER.pack(PIXELS, decoded.nbytes))
        answers.write(np.ascontiguousarray(decoded).data)


if __name__ == "__main__":
    main()
