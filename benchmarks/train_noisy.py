"""Train examples/noisy/*.safetensors: small networks on a task hard enough that INT8 can cost accuracy, on the CPU.

    python benchmarks/train_noisy.py            # both networks, about five minutes on two cores
    python benchmarks/train_noisy.py --data DIR # only the images: DIR/train.npz and DIR/test.npz

The task: which of scikit-learn's handwritten digits is in a 24x24 colour picture, turned, scaled, in any colour and at any
place, over a mottled ground with pieces of other digits and noise. Test images are made of the digits that
`--data digits` holds out. Everything follows from a seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from resnet_deploy.data.sources import DIGITS_HELD_OUT
from resnet_deploy.models.checkpoint import save
from resnet_deploy.models.create import create_model
from resnet_deploy.specs import Preprocessing, to_dict

SIZE = 24
PARTS = {"train": 16384, "test": 3000}
NETWORKS = {
    "resnet20": ("resnet20", 6),  # architecture, epochs
    "resnext": ("resnet:layers=2-2-2,block=bottleneck,stem=cifar,widths=16-32-64,groups=4,width_per_group=32", 4),
}
FOLDER = Path(__file__).parent.parent / "examples" / "noisy"
PREPROCESSING = Preprocessing(resize=SIZE, crop=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
Pixels = NDArray[np.uint8]


def make(part: str, count: int, seed: int = 0) -> tuple[Pixels, NDArray[np.int64]]:
    """Images uint8 (N, 24, 24, 3) and labels of a part."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))  # as resnet_deploy.data holds them out
    chosen = order[:DIGITS_HELD_OUT] if part == "test" else order[DIGITS_HELD_OUT:]
    digits = np.rint(found.images[chosen] * (255 / 16)).astype(np.uint8)
    rng = np.random.default_rng([seed, sorted(PARTS).index(part)])
    numbers = np.arange(count) % len(digits)
    images = np.stack([_picture(digits, number, rng) for number in numbers])
    return images, found.target[chosen][numbers].astype(np.int64)


def _picture(digits: Pixels, number: int, rng: np.random.Generator) -> Pixels:
    ground = rng.uniform(30, 225, (4, 4, 3)).astype(np.uint8)
    canvas = np.asarray(Image.fromarray(ground).resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
    for other in rng.integers(0, len(digits), 4):  # strokes that belong to no digit
        piece = _turned(digits[other], rng)
        top, left = rng.integers(0, len(piece) - 5, 2)
        canvas = _painted(canvas, piece[top : top + 6, left : left + 6], rng, 40.0)
    canvas = _painted(canvas, _turned(digits[number], rng), rng, 75.0)
    noisy = canvas + rng.normal(0, rng.uniform(5, 30), canvas.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _turned(digit: Pixels, rng: np.random.Generator) -> NDArray[np.float32]:
    """Opacity of a digit of 13 to 20 pixels, turned by up to 20 degrees."""
    size = int(rng.integers(13, 21))
    image = Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image.rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR), np.float32) / 255


def _painted(
    canvas: NDArray[np.float32], opacity: NDArray[np.float32], rng: np.random.Generator, contrast: float
) -> NDArray[np.float32]:
    """A shape at a random place, lighter or darker than its ground by `contrast` at least, with a tint."""
    height, width = opacity.shape
    top, left = rng.integers(0, SIZE - height + 1), rng.integers(0, SIZE - width + 1)
    shade = rng.choice([-1.0, 1.0]) * rng.uniform(contrast, 2 * contrast) + rng.uniform(-25, 25, 3)
    done = canvas.copy()
    done[top : top + height, left : left + width] += opacity[..., None] * shade
    return done


def write(folder: Path, seed: int = 0) -> dict[str, Path]:
    """Both parts as .npz files that `--data` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, count in PARTS.items():
        images, labels = make(part, count, seed)
        files[part] = folder / f"{part}.npz"
        np.savez(files[part], images=images, labels=labels)
    return files


def tensor(images: Pixels) -> torch.Tensor:
    """Normalized as `PREPROCESSING` has it."""
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return ((values - PREPROCESSING.mean[0]) / PREPROCESSING.std[0]).contiguous(memory_format=torch.channels_last)


def _batches(count: int, epochs: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator)[: count // 64 * 64].view(-1, 64)


def train(name: str, images: Pixels, labels: torch.Tensor, epochs: int, seed: int) -> nn.Module:
    """SGD with momentum, one-cycle learning rate (1512.03385's recipe, shortened)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = create_model(name, num_classes=10).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)
    for step, chosen in enumerate(_batches(len(images), epochs, generator), start=1):
        loss = nn.functional.cross_entropy(network(tensor(images[chosen.numpy()])), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 128 == 0:
            print(f"step {step:5d} of {steps}  loss {float(loss.detach()):.4f}", flush=True)
    return network.eval().to(memory_format=torch.contiguous_format)


def accuracy(network: nn.Module, images: Pixels, labels: torch.Tensor) -> float:
    with torch.inference_mode():
        found = torch.cat([network(tensor(images[at : at + 250])).argmax(1) for at in range(0, len(images), 250)])
    return float((found == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, metavar="DIR", help="write the images, train nothing")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER)
    options = parser.parse_args()
    if options.data is not None:
        print(*write(options.data, options.seed).values(), sep="\n")
        return
    (images, labels), (held, truth) = (make(part, count, options.seed) for part, count in PARTS.items())
    options.output.mkdir(parents=True, exist_ok=True)
    for file, (name, epochs) in NETWORKS.items():
        start = time.perf_counter()
        network = train(name, images, torch.from_numpy(labels), epochs, options.seed)
        right = accuracy(network, held, torch.from_numpy(truth))
        names = [str(digit) for digit in range(10)]
        metadata = {"architecture": name, "preprocessing": to_dict(PREPROCESSING), "class_names": names}
        target = options.output / f"{file}.safetensors"
        save(network.state_dict(), target, metadata)
        seconds = time.perf_counter() - start
        print(f"{target}: {right:.2%} of {len(truth)} test images, {seconds:.0f} s, seed {options.seed}")


if __name__ == "__main__":
    main()
