"""Does `embed` keep its model or its decoders busy, is its memory flat, and does it survive SIGKILL? ResNet-50, JPEG files.

    python benchmarks/embed.py [--json benchmarks/results/embed.json]

A round is: all decoders alone, the model alone on decoded images, and `rd.embed`, each in a process of its own over the same
files; the rate of `embed` is compared with the slower one of that round. Where both are on one CPU they share its cores, and
could reach 1 / (1 + model / decoder) of it at most: that row is shown too. Memory is the sum over all processes, sampled.
Images are photographs' size, 500x375, made from seeds.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Limit, Row, alone, compare, finish, fresh, parser

KEPT_UP = Limit(bound="at least", value=0.9)
FLAT = Limit(bound="at most", value=1.1)
ALL = Limit(bound="at least", value=10)
IMAGES, SMALL, LARGE, KILLS, BATCH = 600, 2_000, 20_000, 10, 8


def decoders(bundle: Path, images: Path) -> float:
    """Images a second of the decoders, with nobody to wait for."""
    from resnet_deploy._machine import cores
    from resnet_deploy.bundle.opened import OpenedBundle
    from resnet_deploy.bundle.store import Bundle
    from resnet_deploy.serving.embedding.decoders import Decoders
    from resnet_deploy.serving.embedding.job import EmbedOptions, Job
    from resnet_deploy.serving.embedding.listing import list_images

    listing = list_images(images, images)
    options = EmbedOptions(batch=BATCH)
    job = Job(opened=OpenedBundle(Bundle.open(bundle)), options=options, listing=listing, missing=[(0, listing.count)])
    with Decoders(job.decoder, workers=cores(), batch=BATCH) as found:
        parts = found.decoded(listing.batches(job.missing, BATCH))
        next(parts)  # the processes are there
        start, done = time.perf_counter(), 0
        for part in parts:
            done += len(part.paths)
        return done / (time.perf_counter() - start)


def model(bundle: Path, images: Path) -> float:
    """Images a second of the backend, on the first batch over and over."""
    import numpy as np

    from resnet_deploy.backends.candidate import Candidate
    from resnet_deploy.bundle.opened import OpenedBundle
    from resnet_deploy.bundle.store import Bundle

    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), np.uint8)
    count = len(list(images.glob("*.jpg")))
    with OpenedBundle(Bundle.open(bundle)).backend(Candidate.parse("onnxruntime"), None) as backend:
        backend.infer(pixels)
        start = time.perf_counter()
        for _ in range(count // BATCH):
            backend.infer(pixels)
        return count // BATCH * BATCH / (time.perf_counter() - start)


def ours(bundle: Path, images: Path) -> float:
    """Images a second of `rd.embed`, from the first answer to the file on disk."""
    import resnet_deploy as rd

    begun: list[tuple[float, int]] = []

    def watch(what: str, done: int, total: int | None) -> None:
        if what == "embed" and done and not begun:
            begun.append((time.perf_counter(), done))  # the model is loaded

    with tempfile.TemporaryDirectory() as folder:
        found = rd.embed(bundle, images, Path(folder) / "out.parquet", batch=BATCH, progress=watch)
        end = time.perf_counter()
    start, done = begun[0]
    return (found.images - done) / (end - start)


WAYS = {"decoders": decoders, "model": model, "ours": ours}


def photographs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """JPEG files from seeds: smooth noise, about as many bytes as a photograph has; every hundredth differs, others are links
    to one of a hundred, as the disk is not what is measured."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if number >= 100:
            path.hardlink_to(folder / f"{number % 100:06}.jpg")
            continue
        coarse = np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=85)
    return folder


def take_turns(bundle: Path, images: Path, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(rounds):
        for way in sorted(WAYS, reverse=bool(turn % 2)):
            done = fresh([sys.executable, __file__, "--one", way, str(bundle), str(images)])
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {turn + 1}: {way} {found[way][-1]:,.1f} images/s", flush=True)
    return found


def peak_bytes(bundle: Path, images: Path, output: Path) -> int:
    """Of `resnet-deploy embed` with its decoders: the largest sum of resident memory, seen every 20 ms."""
    embed = [sys.executable, "-m", "resnet_deploy.cli", "embed", str(bundle), str(images), "-o", str(output)]
    peak = 0
    with subprocess.Popen([*embed, "--checkpoint", "2s"], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(resident_bytes, [process.pid, *children(process.pid)])))
            time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"embed ended with {process.returncode}")
    return peak


def children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # a thread that has ended
            continue
    return found


def resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def survive(bundle: Path, images: Path, folder: Path, longest_s: float) -> tuple[int, bool]:
    """Kill `embed` at random moments until it was killed ten times, then let it end: how often, and whether the file is that of
    an undisturbed run, byte for byte."""
    outputs = [folder / "whole.parquet", folder / "killed.parquet"]
    embed = [
        [sys.executable, "-m", "resnet_deploy.cli", "embed", str(bundle), str(images), "-o", str(path)] for path in outputs
    ]
    fresh(embed[0])
    chosen, kills = random.Random(0), 0
    for _ in range(KILLS):
        with subprocess.Popen([*embed[1], "--checkpoint", "0s"], stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(chosen.uniform(0.5, longest_s))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
    fresh(embed[1])
    return kills, outputs[0].read_bytes() == outputs[1].read_bytes()


def rows(rates: dict[str, list[float]], peaks: dict[str, list[float]], kills: int, exact: bool) -> list[Row]:
    slower = [min(pair) for pair in zip(rates["decoders"], rates["model"], strict=True)]
    shared = [1 / (1 / d + 1 / m) for d, m in zip(rates["decoders"], rates["model"], strict=True)]
    seconds = {
        name: [IMAGES / rate for rate in found] for name, found in (rates | {"slower": slower, "shared": shared}).items()
    }
    return [
        compare(f"embed {IMAGES} images against the slower of decoders and model", seconds["ours"], seconds["slower"],
                limit=KEPT_UP, speedup=True),
        compare("the same against both on the cores that they share", seconds["ours"], seconds["shared"], speedup=True),
        compare(f"peak memory of {LARGE:,} images against {SMALL:,}", peaks["large"], peaks["small"], unit="bytes", limit=FLAT),
        alone("SIGKILLs at random moments, after which the file is exact to the byte", kills if exact else 0, unit="count",
              limit=ALL),
    ]  # fmt: skip


def main() -> None:
    made = parser(__doc__, rounds=7)
    made.add_argument("--one", nargs=3, metavar=("WAY", "BUNDLE", "IMAGES"), help="one measurement, for a process of its own")
    made.add_argument("--quick", action="store_true", help="fewer images, to see that it works")
    options = made.parse_args()
    if options.one:
        way, bundle, images = options.one
        print(json.dumps(WAYS[way](Path(bundle), Path(images))))
        return
    count, small, large = (64, 100, 300) if options.quick else (IMAGES, SMALL, LARGE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export = [sys.executable, "-m", "resnet_deploy.cli", "export", "--input", "uint8", "--head", "embedding"]
        fresh([*export, "resnet50", "-o", str(folder / "resnet50")])
        digits = ["--weights", str(Path(__file__).parent.parent / "examples/digits/resnet20.safetensors")]
        fresh([*export, "resnet20", *digits, "-o", str(folder / "small")])
        rates = take_turns(folder / "resnet50", photographs(folder / "images", count, (500, 375)), options.rounds)
        peaks: dict[str, list[float]] = {"small": [], "large": []}
        folders = {name: photographs(folder / name, n, (64, 48)) for name, n in (("small.d", small), ("large.d", large))}
        for turn in range(max(1, options.rounds // 3)):
            for name in peaks:
                peaks[name].append(peak_bytes(folder / "small", folders[f"{name}.d"], folder / f"{name}{turn}.parquet"))
        kills, exact = survive(folder / "small", folders["large.d"], folder, 2.0 if options.quick else 4.0)
    finish("embed", rows(rates, peaks, kills, exact), rates | peaks, options, batch=BATCH)


if __name__ == "__main__":
    main()
