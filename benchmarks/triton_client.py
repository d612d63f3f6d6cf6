"""The load of benchmarks/triton_server.py, in the server's own environment: one image a request, gRPC, from several threads.

    triton_client.py ADDRESS MODEL images.npy

Each line of standard input is `CONCURRENCY SECONDS`; each answer is a line of JSON: the latency of every request, seconds,
and how long all of them took.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import np_to_triton_dtype


def main() -> None:
    address, model, path = sys.argv[1:]
    images = np.load(path)
    request = InferInput("input", [1, *images.shape[1:]], np_to_triton_dtype(images.dtype))
    request.set_data_from_numpy(images[:1])
    clients: list[InferenceServerClient] = []
    for line in sys.stdin:
        concurrency, seconds = line.split()
        while len(clients) < int(concurrency):
            clients.append(InferenceServerClient(address))
        taken: list[list[float]] = [[] for _ in range(int(concurrency))]
        end = time.perf_counter() + float(seconds)

        def run(client: InferenceServerClient, times: list[float], end: float = end) -> None:
            while (start := time.perf_counter()) < end:
                client.infer(model, [request])
                times.append(time.perf_counter() - start)

        began = time.perf_counter()
        threads = [threading.Thread(target=run, args=pair) for pair in zip(clients, taken, strict=False)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(
            json.dumps({"wall_s": time.perf_counter() - began, "latency_s": [*itertools.chain.from_iterable(taken)]}),
            flush=True,
        )


if __name__ == "__main__":
    main()
