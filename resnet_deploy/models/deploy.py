"""The deployed model: input format → network → head. What is exported, and what every file is measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnet_deploy.errors import UsageError
from resnet_deploy.models.ensemble import Ensemble
from resnet_deploy.models.resnet import ResNet
from resnet_deploy.specs import INPUT_NAME, Head, HeadKind, InputFormat, Preprocessing, TensorSpec


class PixelInput(nn.Module):
    """(N, H, W, 3) uint8 pixels → (N, 3, H, W) normalized float32, as one multiply and one subtract a channel.

    The cast comes first: TensorRT takes uint8 as a network input alone, and refuses to transpose it.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std)).float().view(1, 3, 1, 1))
        self.register_buffer("shift", (mean / std).float().view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).permute(0, 3, 1, 2) * self.scale - self.shift


class DeployModel(nn.Module):
    """Images in, the head's tensors out, always float32 (and int64 class indices) whatever the network computes in.

    Args:
        network: gives logits.
        head: what comes out.
        input_format: what goes in; of pixels, normalization is part of the model.
        preprocessing: has mean and std.
    """

    def __init__(
        self, network: ResNet | Ensemble, *, head: Head, input_format: InputFormat, preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        if head.k is not None and head.k > network.num_classes:
            raise UsageError(f"topk:{head.k} asks for more classes than the {network.num_classes} that there are")
        if isinstance(network, Ensemble) and head.kind in {HeadKind.FEATURES, HeadKind.EMBEDDING}:
            raise UsageError(f"an ensemble has no {head.kind.value} of its own; choose logits, probabilities or topk:K")
        self.head = head
        self.input_format = input_format
        self.preprocessing = preprocessing
        self.pixels = PixelInput(preprocessing) if input_format is InputFormat.UINT8 else nn.Identity()
        self.network = network
        self.eval()

    @property
    def output_names(self) -> tuple[str, ...]:
        stages = len(self.network.config.layers) if isinstance(self.network, ResNet) else 0
        return self.head.output_names(stages)

    @property
    def input_spec(self) -> TensorSpec:
        size = self.preprocessing.crop
        if self.input_format is InputFormat.UINT8:
            return TensorSpec(name=INPUT_NAME, dtype="uint8", shape=("batch", size, size, 3))
        return TensorSpec(name=INPUT_NAME, dtype="float32", shape=("batch", 3, size, size))

    def output_specs(self) -> tuple[TensorSpec, ...]:
        """Names, dtypes and shapes of the outputs, found by running one image on the CPU."""
        spec = self.input_spec
        image = torch.zeros((1, *spec.shape[1:]), dtype=getattr(torch, spec.dtype))
        with torch.inference_mode():
            outputs = self(image)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(
            TensorSpec(name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=("batch", *tensor.shape[1:]))
            for name, tensor in zip(self.output_names, outputs, strict=True)
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.pixels(images)
        if self.network.dtype != torch.float32:  # kept out of the FP32 graph
            x = x.to(self.network.dtype)
        if self.head.kind is HeadKind.FEATURES:
            return tuple(features.float() for features in self.network.forward_features(x))
        if self.head.kind is HeadKind.EMBEDDING:
            embedding = self.network.forward_embedding(x).float()
            return nn.functional.normalize(embedding, dim=1) if self.head.l2_normalize else embedding
        logits = self.network(x).float()
        if self.head.kind is HeadKind.LOGITS:
            return logits
        probabilities = torch.softmax(logits, dim=1)
        if self.head.k is None:
            return probabilities
        values, indices = torch.topk(probabilities, self.head.k, dim=1)
        return values, indices
