"""An INT8 graph in torch, with fake quantization that lets gradients through, and what of it can be trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import onnx
import torch

from resnet_deploy.errors import GraphError, UsageError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.precision.channels import channels_of
from resnet_deploy.precision.placement import depths
from resnet_deploy.precision.quantize import weight_scales
from resnet_deploy.precision.torch_ops import OPS, attributes

Tensors = dict[str, torch.Tensor]

LEVELS = 127
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass
class Parameters:
    """What is trained. scales: logarithms, by quantized tensor. weights, biases: by layer, before the channels' factors.
    channels: logarithms, by group of channels; the first is 0."""

    scales: Tensors
    weights: Tensors
    biases: Tensors
    channels: torch.Tensor

    def kinds(self) -> Iterator[tuple[str, str, torch.Tensor]]:
        """Every tensor with its kind and name."""
        for field in fields(self):
            value = getattr(self, field.name)
            for name, tensor in value.items() if isinstance(value, dict) else [("", value)]:
                yield field.name, name, tensor

    def copy(self) -> Parameters:
        def copied(values: Tensors) -> Tensors:
            return {name: tensor.detach().clone() for name, tensor in values.items()}

        return Parameters(copied(self.scales), copied(self.weights), copied(self.biases), self.channels.detach().clone())


class QuantizedNetwork:
    """An INT8 graph in torch, with fake quantization. Raises GraphError for what it cannot compute."""

    def __init__(self, graph: Graph, quantized: Graph) -> None:
        self.graph = quantized
        self.constants = {name: torch.from_numpy(np.array(quantized.value(name))) for name in quantized.constants}
        self.layers = {node.name: node for node in quantized.nodes if node.op_type in {"Conv", "Gemm"}}
        self.attributes = {node.name: attributes(node) for node in quantized.nodes}
        self.start = Parameters({}, {}, {}, torch.zeros(1))
        for name, node in self.layers.items():
            self._take(graph, name, node)
        weights = [self.source(node) for node in self.layers.values()]
        for node in quantized.nodes:
            if node.op_type not in OPS and node.op_type not in _PAIR:
                raise GraphError(f"{quantized.source} has {node.op_type} ({node.name}), which cannot be trained through")
            if node.op_type == "QuantizeLinear":
                scale, zero = (quantized.value(name) for name in node.input[1:3])
                if zero.dtype != np.int8:
                    raise UsageError("only INT8 graphs of the target tensorrt can be reconstructed")
                self.start.scales[node.input[0]] = torch.tensor(math.log(float(scale)))
        if len(set(weights)) < len(weights):
            raise GraphError(f"{quantized.source} has layers that share their weights, which cannot be trained separately")
        behind = depths(quantized)
        # An image's range is known, and its grid of 256 levels beats with ours: there is no gradient to follow.
        self.fixed = {name for name in self.start.scales if not behind.get(name, 0)}
        self.channels, count = channels_of(quantized, {name: len(w) for name, w in self.start.weights.items()})
        self.start.channels = torch.zeros(count)

    def source(self, node: onnx.NodeProto) -> str:
        """The name of a layer's weight in FP32."""
        return str(node.input[1]).removesuffix(".dq")

    def _take(self, graph: Graph, name: str, node: onnx.NodeProto) -> None:
        if self.source(node) not in graph.constants:
            raise GraphError(f"{graph.source}: the weight of {name} is no constant, and cannot be trained")
        weight = torch.from_numpy(graph.value(self.source(node)).copy())
        if node.op_type == "Gemm" and not self.attributes[name].get("transB", 0):
            weight = weight.T.contiguous()
        self.start.weights[name] = weight
        has_bias = len(node.input) > 2 and node.input[2]
        self.start.biases[name] = self.constants[node.input[2]].clone() if has_bias else torch.zeros(len(weight))

    def layer(self, name: str, values: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (output channels first) and bias, with the channels' factors."""
        node, weight, bias = self.layers[name], values.weights[name], values.biases[name]
        logarithms = torch.cat([torch.zeros(1), values.channels[1:]])
        writes, reads = (logarithms[self.channels[tensor]] for tensor in (node.output[0], node.input[0]))
        if node.op_type == "Conv" and len(reads) > 1:  # each group of filters reads channels of its own
            groups = int(self.attributes[name].get("group", 1))
            reads = reads.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1)
        factors = torch.exp(writes.reshape(-1, 1) - reads)
        return weight * factors.reshape(*factors.shape, *[1] * (weight.ndim - 2)), bias * torch.exp(writes)

    def __call__(
        self, images: torch.Tensor, values: Parameters, *, rounds: bool = True, seen: Tensors | None = None
    ) -> list[torch.Tensor]:
        """The outputs. rounds: with quantization. seen: is given every quantized tensor."""
        known = {self.graph.input.name: images} | self.constants
        for node in self.graph.nodes:
            inputs = [known.get(name) for name in node.input]
            if node.op_type == "QuantizeLinear":
                if seen is not None:
                    seen[node.input[0]] = inputs[0]
                done = _Rounded.apply(inputs[0], values.scales[node.input[0]]) if rounds else inputs[0]
            elif node.op_type == "DequantizeLinear":
                done = inputs[0]
            elif node.name in self.layers:
                weight, bias = self.layer(node.name, values)
                if rounds and node.input[1].endswith(".dq"):
                    weight = _rounded_weight(weight)
                done = OPS[node.op_type]([inputs[0], weight, bias], self.attributes[node.name])
            else:
                done = OPS[node.op_type](inputs, self.attributes[node.name])
            known[node.output[0]] = done
        return [known[name] for name in self.graph.outputs]

    def written(self, values: Parameters) -> Graph:
        """The INT8 graph with these values: the same nodes and pairs."""
        done = self.graph.copy()
        for name, scale in values.scales.items():
            done.add_constant(f"{name}.scale", np.float32(float(held(torch.exp(scale.detach())))))
        for node in [node for node in done.nodes if node.name in self.layers]:
            weight, bias = (tensor.detach().numpy() for tensor in self.layer(node.name, values))
            named, axis = self.source(node), 0
            if node.op_type == "Gemm" and not self.attributes[node.name].get("transB", 0):
                weight, axis = np.ascontiguousarray(weight.T), 1
            if node.input[1].endswith(".dq"):
                scales = weight_scales(weight, axis, LEVELS)
                shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
                done.add_constant(f"{named}.scale", scales)
                integers = np.clip(np.rint(weight / scales.reshape(shape)), -LEVELS, LEVELS)
                done.add_constant(f"{named}.q", integers.astype(np.int8))
            else:
                done.add_constant(named, weight)
            node.input[:] = [*node.input[:2], done.add_constant(f"{node.name}.trained_bias", bias)]
        done.index()
        return done


def held(scale: torch.Tensor) -> torch.Tensor:
    """The nearest that FP16 has, so that FP32 and FP16 graphs have one grid. Trained with, because the background of an image
    is rounded alike everywhere: a thousandth of a scale can change what all of it becomes."""
    return scale.clamp(min=2**-24).half().float()


class _Rounded(torch.autograd.Function):  # type: ignore[misc]
    """Values on the grid of a scale, given as its logarithm. One function: step by step it takes half as long again."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, logarithm: torch.Tensor) -> torch.Tensor:
        scale = held(torch.exp(logarithm))
        exact = values / scale
        rounded = exact.round().clamp_(-LEVELS - 1, LEVELS)
        context.save_for_backward(exact, rounded, scale)
        return rounded * scale

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        exact, rounded, scale = context.saved_tensors
        passed = gradient * ((rounded - exact).abs_() <= 0.5)  # what is clipped has none
        return passed, scale * ((gradient * rounded).sum() - (passed * exact).sum())


def _rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """Per output channel, with scales that follow the largest magnitude and that FP16 holds, as `weight_scales` has them."""
    flat = weight.detach().flatten(1)
    scale = held(flat.abs().amax(1, keepdim=True) / LEVELS * (1 + 2**-11))
    rounded = (flat / scale).round().clamp(-LEVELS, LEVELS) * scale
    return weight + (rounded.reshape(weight.shape) - weight).detach()
