"""Train examples/digits/resnet20.safetensors: a ResNet-20 on scikit-learn's handwritten digits, on the CPU.

    python benchmarks/train_digits.py

600 of the 1,797 digits are held out (`--data digits`) and never seen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from resnet_deploy.data.sources import open_data
from resnet_deploy.models.checkpoint import save
from resnet_deploy.models.create import create_model
from resnet_deploy.specs import InputFormat, Preprocessing, to_dict

TARGET = Path(__file__).parent.parent / "examples" / "digits" / "resnet20.safetensors"


def load(part: str, preprocessing: Preprocessing) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = open_data(part, preprocessing=preprocessing, input_format=InputFormat.FLOAT)
    batches = list(dataset.batches(256))
    images = torch.from_numpy(np.concatenate([batch.images for batch in batches]))
    return images, torch.from_numpy(np.concatenate([batch.labels for batch in batches if batch.labels is not None]))


def statistics() -> Preprocessing:
    """Resize 8x8 to 32x32, normalize by the training part's own mean and deviation."""
    plain = Preprocessing(resize=32, crop=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    images, _ = load("digits:train", plain)
    mean, std = round(float(images.mean()), 4), round(float(images.std()), 4)
    return Preprocessing(resize=32, crop=32, mean=(mean,) * 3, std=(std,) * 3)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random shift of up to 4 pixels; digits are not flipped."""
    padded = nn.functional.pad(images, (4, 4, 4, 4), mode="replicate")
    top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
    return padded[:, :, top : top + 32, left : left + 32]


def train(epochs: int, seed: int, preprocessing: Preprocessing) -> nn.Module:
    """SGD with momentum, one-cycle learning rate (1512.03385's recipe, shortened)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = load("digits:train", preprocessing)
    network = create_model("resnet20", num_classes=10).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator)[: len(images) // 64 * 64].view(-1, 64):
            batch = augment(images[chosen], generator).contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(network(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1:2d}  loss {total / (len(images) // 64):.4f}")
    return network.eval().to(memory_format=torch.contiguous_format)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=TARGET)
    options = parser.parse_args()
    start = time.perf_counter()
    preprocessing = statistics()
    network = train(options.epochs, options.seed, preprocessing)
    images, labels = load("digits", preprocessing)
    with torch.inference_mode():
        accuracy = float((network(images).argmax(1) == labels).float().mean())
    options.output.parent.mkdir(parents=True, exist_ok=True)
    names = [str(digit) for digit in range(10)]
    metadata = {"architecture": "resnet20", "preprocessing": to_dict(preprocessing), "class_names": names}
    save(network.state_dict(), options.output, metadata)
    seconds = time.perf_counter() - start
    print(f"{options.output}: {accuracy:.2%} of {len(labels)} held-out images, {seconds:.0f} s, seed {options.seed}")


if __name__ == "__main__":
    main()
