"""A client of a running server, in the server's own environment: tritonclient needs an older protobuf than the tests.

    client.py ask http|grpc ADDRESS MODEL in.npz out.npz [--classes K]     one request; prints its error, if any, as JSON
    client.py load ADDRESS MODEL in.npz --threads N [--requests N]         requests of one image each from several threads

`load` prints {"version": V} when it first meets an answer of version V, and {"requests": N, "failed": [...]} at its end, which
is after so many requests of each thread, or when its standard input closes.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

PROTOCOLS: dict[str, ModuleType] = {"http": tritonclient.http, "grpc": tritonclient.grpc}


def tensor(protocol: ModuleType, name: str, value: Any) -> Any:
    made = protocol.InferInput(name, value.shape, np_to_triton_dtype(value.dtype))
    made.set_data_from_numpy(value)
    return made


def arrays(path: str) -> dict[str, Any]:
    with np.load(path) as found:  # bytes of files come as uint8, one array each
        plain = {name: found[name] for name in found.files if not name.startswith("file.")}
        files = [found[name].tobytes() for name in sorted(found.files) if name.startswith("file.")]
    return plain | ({"jpeg": np.array(files, np.object_).reshape(-1, 1)} if files else {})


def ask(options: argparse.Namespace) -> None:
    protocol = PROTOCOLS[options.protocol]
    client = protocol.InferenceServerClient(options.address)
    inputs = [tensor(protocol, name, value) for name, value in arrays(options.inputs).items()]
    names = [entry["name"] for entry in describe(client, options)["outputs"]]
    outputs = [protocol.InferRequestedOutput(name, class_count=options.classes) for name in names]
    try:
        answer = client.infer(options.model, inputs, outputs=outputs)
    except InferenceServerException as exc:
        print(json.dumps({"error": str(exc)}))
        return
    found = {name: answer.as_numpy(name) for name in names}
    np.savez(options.outputs, **{n: v.astype(np.bytes_) if v.dtype == np.object_ else v for n, v in found.items()})
    print(json.dumps({"error": None}))


def describe(client: Any, options: argparse.Namespace) -> Any:
    if options.protocol == "http":
        return client.get_model_metadata(options.model)
    return client.get_model_metadata(options.model, as_json=True)


def load(options: argparse.Namespace) -> None:
    inputs = arrays(options.inputs)
    expected = {name.removeprefix("expected."): inputs.pop(name) for name in list(inputs) if name.startswith("expected.")}
    (name, images), seen, failed, counted = next(iter(inputs.items())), set[str](), list[str](), list[int]()
    stop, lock = threading.Event(), threading.Lock()

    def run(number: int) -> None:
        protocol, done = tritonclient.grpc, 0
        client = protocol.InferenceServerClient(options.address)
        while not stop.is_set() and (options.requests is None or done < options.requests):
            index = (number + done) % len(images)
            try:
                answer = client.infer(options.model, [tensor(protocol, name, images[index : index + 1])])
                version = answer.get_response().model_version
                (output,) = [entry.name for entry in answer.get_response().outputs]
                if version in expected and not np.allclose(answer.as_numpy(output), expected[version][index], atol=1e-4):
                    failed.append(f"image {index} of version {version} has another answer")
            except InferenceServerException as exc:
                failed.append(str(exc))
                return
            done += 1
            with lock:
                if version not in seen:
                    seen.add(version)
                    print(json.dumps({"version": version}), flush=True)
        counted.append(done)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(options.threads)]
    for thread in threads:
        thread.start()
    if options.requests is None:
        sys.stdin.read()
        stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"requests": sum(counted), "failed": failed[:5]}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    asking = commands.add_parser("ask")
    asking.set_defaults(run=ask)
    asking.add_argument("protocol", choices=PROTOCOLS)
    loading = commands.add_parser("load")
    loading.set_defaults(run=load)
    for command in (asking, loading):
        command.add_argument("address")
        command.add_argument("model")
        command.add_argument("inputs")
    asking.add_argument("outputs")
    asking.add_argument("--classes", type=int, default=0)
    loading.add_argument("--threads", type=int, required=True)
    loading.add_argument("--requests", type=int)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
