"""What each layer takes, beside the same inference without a profiler. Profiles are kept in the bundle."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.layers import WARM_UPS
from resnet_deploy.benchmarking.crashes import PROFILE, Crashes, Step
from resnet_deploy.benchmarking.report import BatchRow
from resnet_deploy.bundle.codec import key_of, now
from resnet_deploy.bundle.manifest import ProfilesFile
from resnet_deploy.bundle.names import PROFILES
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.results import environment
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BundleError, DeployError, StorageError
from resnet_deploy.specs import Progress

DURATION_S = 1.0  # of profiled inferences, as far as the bounds of their number allow
FEWEST_RUNS, MOST_RUNS = 5, 50


@dataclass(frozen=True, kw_only=True)
class LayerProfile(BatchRow):
    """The layers of one candidate at one batch size.

    Attributes:
        runs: inferences that were profiled.
        total_s: sum of the layers.
        profiled_s: median of a whole inference under the profiler, enqueue to synchronize.
        latency_s: the same without the profiler, taken just before: what is between the two is the profiler's own cost.
        layers: in the order in which they ran: name, kind, precision, time_s (median of the runs; OpenVINO: mean), share of
            total_s and, where there are any, the graph's nodes that it was made of (onnx).
        measured: when, in UTC.
        error: why there is no profile; the times are None then.
    """

    runs: int
    total_s: float | None
    profiled_s: float | None
    latency_s: float | None
    layers: list[dict[str, Any]]
    measured: str
    error: str | None = None


def profile_all(
    opened: OpenedBundle,
    candidates: Iterable[Candidate],
    batches: Iterable[int],
    images: Callable[[int], NDArray[Any]],
    *,
    threads: int,
    fresh: bool,
    progress: Progress,
    warn: Callable[[str], None],
    crashes: Crashes | None = None,
) -> Iterator[LayerProfile]:
    """Profile every candidate at every batch size, one backend at a time. One that fails has an error in its profile, and the
    others go on.

    Args:
        opened: the bundle.
        candidates, batches: what is profiled.
        images: gives a batch of a size.
        threads: of the CPU.
        fresh: profile again what the bundle has of the same file, versions, machine and threads.
        progress: told what is being done.
        warn: told why the bundle did not take what is new.
        crashes: candidates that took an earlier process with them, which are left out.

    Yields:
        A profile for each.
    """
    sizes, known, crashes = list(batches), _known(opened.bundle), crashes or Crashes()
    for candidate in candidates if sizes else ():
        keys = {size: _key(opened, candidate, size, threads) for size in sizes}
        profiles = {} if fresh else {size: LayerProfile(**known[key]) for size, key in keys.items() if key in known}
        made: dict[int, LayerProfile] = {}
        steps = {size: Step(candidate=str(candidate), batch=size, kind=PROFILE) for size in sizes}
        profiles |= {
            size: _failed(candidate, size, crashes.known[step]) for size, step in steps.items() if step in crashes.known
        }
        missing = [size for size in sizes if size not in profiles]
        try:
            if missing:
                with crashes.at(steps[missing[0]]), opened.backend(candidate, threads) as backend:
                    for size in missing:
                        progress(f"profile {candidate} batch {size}", 0, None)
                        with crashes.at(steps[size]):
                            made[size] = profile_layers(backend, images(size))
        except Exception as exc:  # a runtime's own error can be of any kind, and other backends are to be profiled
            error = str(exc) if isinstance(exc, DeployError) else f"{type(exc).__name__}: {exc}"
            profiles |= {size: _failed(candidate, size, error) for size in missing if size not in made}
        finally:  # Ctrl-C too loses nothing
            _keep(opened.bundle, {keys[size]: layer_profile for size, layer_profile in made.items()}, warn)
        yield from ((profiles | made)[size] for size in sizes)


def profile_layers(backend: Backend, images: NDArray[Any]) -> LayerProfile:
    """Profile a loaded backend on a batch. Raises whatever the backend raises."""
    latency_s = _latency_s(backend, images, FEWEST_RUNS)
    runs = max(FEWEST_RUNS, min(MOST_RUNS, round(DURATION_S / latency_s)))
    latency_s = _latency_s(backend, images, runs)
    times = backend.profile(images, runs)
    total_s = sum(layer.time_s for layer in times.layers)
    layers = [
        {"name": layer.name, "kind": layer.kind, "precision": layer.precision, "time_s": layer.time_s,
         "share": layer.time_s / total_s if total_s else 0.0, **({"onnx": list(layer.onnx)} if layer.onnx else {})}
        for layer in times.layers
    ]  # fmt: skip
    candidate = backend.candidate
    return LayerProfile(
        backend=candidate.name, device=candidate.device, precision=candidate.precision.value, batch=len(images), runs=runs,
        total_s=total_s, profiled_s=times.wall_s, latency_s=latency_s, layers=layers, measured=now(),
    )  # fmt: skip


def _latency_s(backend: Backend, images: NDArray[Any], runs: int) -> float:
    """Median seconds of an inference of a bound batch, one at a time."""
    backend.bind(images)
    times_s = []
    for _ in range(WARM_UPS + runs):
        start = time.perf_counter()
        backend.enqueue()
        backend.synchronize()
        times_s.append(time.perf_counter() - start)
    return statistics.median(times_s[WARM_UPS:])


def _failed(candidate: Candidate, batch: int, error: str) -> LayerProfile:
    return LayerProfile(
        backend=candidate.name, device=candidate.device, precision=candidate.precision.value, batch=batch, runs=0,
        total_s=None, profiled_s=None, latency_s=None, layers=[], measured=now(), error=error,
    )  # fmt: skip


def _key(opened: OpenedBundle, candidate: Candidate, batch: int, threads: int) -> str:
    return key_of(
        candidate=str(candidate), made_from=opened.made_from(candidate), batch=batch, threads=threads,
        **environment(candidate.device),
    )  # fmt: skip


def _known(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Kept profiles by key; none where the file is not as it was written."""
    try:
        return dict(json.loads(bundle.artifact(PROFILES).read_bytes()))
    except BundleError:
        return {}


def _keep(bundle: Bundle, made: dict[str, LayerProfile], warn: Callable[[str], None]) -> None:
    """Keep profiles, each in place of the last one of its candidate and batch."""
    if not made:
        return
    new = {key: layer_profile.to_dict() for key, layer_profile in made.items()}
    who = ("backend", "device", "precision", "batch")
    same = {tuple(entry[name] for name in who) for entry in new.values()}

    def replaced(kept: dict[str, Any]) -> dict[str, Any]:
        return {key: entry for key, entry in kept.items() if tuple(entry[name] for name in who) not in same} | new

    try:
        with bundle.transaction() as change:
            change.merge(PROFILES, ProfilesFile, replaced)
    except (BundleError, StorageError) as exc:  # read-only, full, or another process is at it
        warn(f"the profiles are not kept in the bundle: {exc}")
