"""Several networks as one: the average of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resnet_deploy.models.resnet import ResNet


class Ensemble(nn.Module):
    """Networks over the same classes that see the same image: (N, 3, H, W) float → (N, num_classes).

    What comes out is the logarithm of the members' mean probability (1512.03385, section 4.1, combined six depths so): its
    softmax is that mean, so an ensemble is exported, judged and served as one network's logits are.
    """

    def __init__(self, members: Sequence[ResNet]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def num_classes(self) -> int:
        return int(self.members[0].num_classes)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self.members[0].dtype
        return dtype

    def forward(self, x: Tensor) -> Tensor:
        # Of logarithms, so that a class that all members rule out stays finite.
        scores = torch.stack([torch.log_softmax(member(x), dim=1) for member in self.members])
        return torch.logsumexp(scores, dim=0) - math.log(len(self.members))
