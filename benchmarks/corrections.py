"""What INT8 gains from clipped weights, corrected biases and equalized channels, and what `tune` keeps where it fails.

    python benchmarks/corrections.py [--json benchmarks/results/corrections.json]

TensorRT's graph, each Q/DQ pair run as it is written, on images that no calibration saw. `ours` is 1 - the mean cosine of the
logits with an option, `peer` without any; below 1 the option helps. The last network is the first with a quarter of the
channels in each of two blocks 400 times as large (and the next layer's weights so much smaller): the same function, which 8
bits cannot hold.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import train_noisy
from common import Limit, Ratio, Row, alone, arguments, finish
from quantization import NETWORKS

import resnet_deploy as rd
from resnet_deploy.models.checkpoint import read_checkpoint, save
from resnet_deploy.models.registry import architecture

EXAMPLES = Path(__file__).parent.parent / "examples"
OPTIONS = ("clip_weights", "correct_bias", "equalize")
BROKEN = Limit(bound="at most", value=0.985)  # the gate: 99 % of FP32's
RESCUED = Limit(bound="at least", value=0.985)


def spoil(path: Path) -> Path:
    found = read_checkpoint(architecture("resnet20"), EXAMPLES / "digits" / "resnet20.safetensors")
    state = {name: tensor.clone() for name, tensor in found.state.items()}
    for block in ("layer2.1", "layer3.1"):
        for name, channels in ((f"{block}.bn1.weight", 0), (f"{block}.bn1.bias", 0), (f"{block}.conv2.weight", 1)):
            quarter = state[name].movedim(channels, 0)[::4]
            quarter *= 1 / 400 if channels else 400
    save(state, path, found.metadata)
    return path


def judged(bundle: rd.Bundle, test: str) -> Any:
    (verdict,) = rd.verify(bundle, test, backend=["onnxruntime:int8,simulate"])
    return verdict.report


def made(folder: Path, name: str, weights: Path, train: str, **options: bool) -> rd.Bundle:
    return rd.export(
        name, folder, weights=weights, precision="int8", int8_target="tensorrt", other_layers="fp32", grouped="quantize",
        calibration=train, calibration_images=256, **options,
    )  # fmt: skip


def main() -> None:
    options, rows, samples = arguments(__doc__, rounds=1), list[Row](), dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        noisy = train_noisy.write(folder / "noisy")
        places = {"digits": ("digits:train", "digits"), "noisy": (str(noisy["train"]), str(noisy["test"]))}
        networks = {what: (EXAMPLES / file, name, images) for what, (file, name, images) in NETWORKS.items()}
        networks["ResNet-20 with outliers, digits"] = (spoil(folder / "w.safetensors"), "resnet20", "digits")
        for what, (weights, name, images) in networks.items():
            train, test = places[images]
            plain = judged(made(folder / what, name, weights, train), test)
            for option in OPTIONS:
                report = judged(made(folder / what, name, weights, train, **{option: True}), test)
                ours, peer = 1 - report.cosine_mean, 1 - plain.cosine_mean
                rows.append(
                    Row(what=f"{what}: {option}", unit="fraction", ours=ours, peer=peer, ratio=Ratio.of([ours], [peer]))
                )
                samples[f"{what}.{option}"] = [report.cosine_mean, report.top1_accuracy]
            samples[f"{what}.plain"] = [plain.cosine_mean, plain.top1_accuracy]
            print(what, samples[f"{what}.plain"], *(samples[f"{what}.{option}"] for option in OPTIONS), flush=True)
        rows.append(alone("with outliers: top-1 of plain INT8", plain.top1_accuracy, unit="fraction", limit=BROKEN))
        rows.append(alone("with outliers: top-1 with equalize", report.top1_accuracy, unit="fraction", limit=RESCUED))
        bundle = made(folder / "tuned", name, weights, train)
        found = rd.tune(bundle, test, int8_target="tensorrt", other_layers="fp32")
        tuned = judged(bundle, test).top1_accuracy
        rows.append(alone("with outliers: top-1 after tune", tuned, unit="fraction", limit=RESCUED))
        rows.append(alone("with outliers: operations that tune keeps", found.chosen.macs / found.macs, unit="fraction"))
    finish("corrections", rows, samples, options, kept=list(found.chosen.keep))


if __name__ == "__main__":
    main()
