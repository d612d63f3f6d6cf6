"""Small exported graphs of every block type, made once a run."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resnet_deploy.graph.graph import Graph
from resnet_deploy.models.create import load_model
from resnet_deploy.models.deploy import DeployModel
from resnet_deploy.pipeline.onnx_export import export_onnx
from resnet_deploy.precision.calibrate import Observer, observe
from resnet_deploy.specs import Head, InputFormat, Preprocessing
from tests.helpers.shared import once

SIZE = 32
BLOCKS = {
    "basic": "resnet:layers=1-1,block=basic",
    "bottleneck": "resnet:layers=1-1",
    "grouped": "resnet:layers=1-1,groups=32,width_per_group=4",
    "squeeze": "resnet:layers=1-1,squeeze=16",
    "deep stem, pooled shortcut": "resnet:layers=1-1,stem=deep,shortcut=D,block=basic",
    "padded shortcut": "resnet_cifar:8",
    "plain": "plain_cifar:8",
    "pre-activation": "preact_resnet_cifar:8",
    "pre-activation bottleneck": "preact_resnet50:layers=1-1",
    "ensemble": "ensemble:resnet_cifar:8+plain_cifar:8",
}
IMAGES: NDArray[np.float32] = np.random.default_rng(0).standard_normal((24, 3, SIZE, SIZE), np.float32)


@functools.cache
def content_of(name: str, head: str, input_format: str) -> bytes:
    """The bytes of an ONNX file of a network."""

    def make(path: Path) -> None:
        loaded = load_model(name)
        generator = torch.Generator().manual_seed(0)
        for layer in loaded.network.modules():
            if isinstance(layer, nn.BatchNorm2d):  # a trained network's convolutions have biases
                layer.bias.data.normal_(std=0.1, generator=generator)
        model = DeployModel(
            loaded.network, head=Head.parse(head), input_format=InputFormat(input_format),
            preprocessing=Preprocessing(resize=SIZE, crop=SIZE),
        )  # fmt: skip
        export_onnx(model, path, max_batch=2)

    return once(f"{name}-{head}-{input_format}.onnx", make).read_bytes()


def graph_of(name: str, head: str = "logits", input_format: str = "float") -> Graph:
    """A graph that may be changed."""
    import onnx

    return Graph(onnx.ModelProto.FromString(content_of(name, head, input_format)), name)


@functools.cache
def observed(name: str) -> Observer:
    return observe(graph_of(name), lambda size: (IMAGES[start : start + size] for start in range(0, len(IMAGES), size)))
