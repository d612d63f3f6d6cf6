"""Embedding on a Ray cluster, with Ray Data: each GPU has an actor that infers, fed by tasks that decode on every CPU; without
GPUs, each CPU has an actor that does both. This process writes what comes back.

Every machine needs this package, and the images and the bundle under the same paths. https://docs.ray.io/en/latest/data
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy._deps import require, version
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BackendError, DeployError, IntegrityError, UnavailableError
from resnet_deploy.serving.embedding.decoding import Decoder
from resnet_deploy.serving.embedding.job import Job, Result
from resnet_deploy.serving.embedding.locks import FolderLock

_PATIENCE_S = 20.0
_BATCHES = 8  # in a block: what a decoding task is given
Columns = Mapping[str, NDArray[Any]]


def ray_answers(job: Job, describe: Callable[[dict[str, Any]], None]) -> Iterator[Result]:
    """The answers for what is missing, in whatever order they come. describe: told what runs.

    Raises UnavailableError where there is no such cluster, or no GPU in it for a backend that needs one; BackendError where
    the cluster fails.
    """
    ray = require("ray", extra="ray")
    data = require("ray.data", extra="ray")
    with _connected(ray, job.options.ray_address):
        resources = ray.cluster_resources()
        describe({"ray": version("ray"), **{name: resources.get(name, 0.0) for name in ("CPU", "GPU")}})
        data.DataContext.get_current().enable_progress_bars = False
        # The paths lie in the object store, 100 bytes each, which Ray moves to disk where they are many.
        blocks = [ray.put(_block(*piece)) for piece in job.listing.batches(job.missing, _BATCHES * job.batch)]
        answers = _pipeline(data.from_arrow_refs(blocks), job, resources)
        try:
            for block in answers.iter_batches(batch_size=None, batch_format="numpy"):
                yield from _runs(block)
        except ray.exceptions.RayError as exc:
            raise _cause(exc) from exc


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """A cluster that is there, or one of this machine's own for as long as it is needed."""
    if ray.is_initialized():  # the calling program's
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports to nobody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters arrives as exceptions
    local = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as exc:
        where = "Ray does not start here"
        if address:
            where = (
                f"no Ray cluster answers at {address}, or it has another token than this user (RAY_AUTH_MODE, RAY_AUTH_TOKEN)"
            )
        raise UnavailableError(f"{where}: {(str(exc).splitlines() or [''])[0]}") from exc
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise UnavailableError where nobody listens, which Ray itself would need minutes to say."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
        except (OSError, OverflowError) as exc:
            raise UnavailableError(f"no Ray cluster answers at {address}: {exc}. Start one with `ray start --head`") from exc


def _block(start: int, paths: list[bytes]) -> Any:
    pa = require("pyarrow", extra="parquet")
    return pa.table({"position": np.arange(start, start + len(paths)), "path": pa.array(paths, pa.binary())})


def _model(job: Job) -> dict[str, Any]:
    """What an actor loads; the hash is what this machine would run."""
    candidate, threads = job.options.candidate, job.options.threads
    threads = threads or (1 if candidate.device == "cpu" else None)
    bundle = str(job.opened.bundle.path.resolve())
    return {"bundle": bundle, "backend": str(candidate), "threads": threads, "sha256": job.opened.made_from(candidate)}


def _pipeline(paths: Any, job: Job, resources: Mapping[str, float]) -> Any:
    """From a dataset of paths to one of answers, on what the cluster was found to have."""
    candidate, shared = job.options.candidate, {"batch_size": job.batch, "batch_format": "numpy"}
    model, decoding = _model(job), {"decoder": job.decoder, "folder": os.getcwdb()}
    if candidate.device == "cpu":
        actors = (1, max(1, int(resources.get("CPU", 1))))
        return paths.map_batches(
            EmbeddingActor, fn_constructor_kwargs=model | {"decoding": decoding}, concurrency=actors, **shared
        )
    gpus = int(resources.get("GPU", 0))
    if gpus < 1:
        raise UnavailableError(f"{candidate} needs a GPU, and the Ray cluster has none")
    images = paths.map_batches(decode_block, fn_kwargs=decoding, **shared)
    return images.map_batches(
        EmbeddingActor, fn_constructor_kwargs=model, concurrency=(1, gpus), num_gpus=1, num_cpus=0, **shared
    )


def decode_block(block: Columns, *, decoder: Decoder, folder: bytes) -> dict[str, Any]:
    """Ray's task: images for paths, relative ones from `folder`; zeros and a reason where there is none."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the decoder has a limit of its own
    paths = [bytes(path) for path in block["path"]]
    images, reasons = np.zeros((len(paths), *decoder.shape), decoder.dtype), [""] * len(paths)
    # This package's folder is there on every machine, wherever the output is.
    decoder = replace(decoder, large_lock=FolderLock(os.path.dirname(__file__)))
    for number, path in enumerate(paths):
        decoded = decoder(os.path.join(folder, path))
        if isinstance(decoded, str):
            reasons[number] = decoded
        else:
            images[number] = decoded
    return {**block, "reason": np.array(reasons, object), "image": images}


class EmbeddingActor:
    """Ray's actor: the bundle's backend on one machine.

    decoding: what `decode_block` takes, where it is given paths. Raises IntegrityError where its file is not the caller's.
    """

    def __init__(
        self, *, bundle: str, backend: str, threads: int | None, sha256: str, decoding: dict[str, Any] | None = None
    ) -> None:
        candidate, opened = Candidate.parse(backend), OpenedBundle(Bundle.open(bundle))
        if (digest := opened.made_from(candidate)) != sha256:
            raise IntegrityError(
                f"{bundle} is another one on {os.uname().nodename}: its file for {backend} has the SHA-256 {digest[:16]}…, "
                f"not {sha256[:16]}…"
            )
        self._backend = opened.backend(candidate, threads)
        self._decoding = decoding

    def __call__(self, block: Columns) -> dict[str, Any]:
        if self._decoding is not None:
            block = decode_block(block, **self._decoding)
        outputs = self._backend.infer_any(np.ascontiguousarray(block["image"]))
        return {**{name: block[name] for name in ("position", "path", "reason")}, **outputs}


def _runs(block: Columns) -> Iterator[Result]:
    """Rows of consecutive positions, which Ray may have joined otherwise."""
    order = np.argsort(block["position"])
    positions = block["position"][order]
    for rows in np.split(order, np.flatnonzero(np.diff(positions) != 1) + 1):
        reasons = [reason or None for reason in block["reason"][rows]]
        outputs = {name: values[rows] for name, values in block.items() if name not in {"position", "path", "reason"}}
        yield int(block["position"][rows[0]]), [bytes(path) for path in block["path"][rows]], reasons, outputs


def _cause(exc: BaseException) -> DeployError:
    """Our own error, where one is at the bottom of Ray's."""
    error: BaseException | None = exc
    while error is not None:
        if isinstance(error, DeployError):
            return type(error)(str(error.args[0]) if error.args else str(error))
        error = getattr(error, "cause", None) or error.__cause__
    return BackendError(f"the Ray cluster failed: {str(exc).strip().splitlines()[-1][:300]}")
