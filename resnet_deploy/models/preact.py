"""The rearranged blocks of 1603.05027, figure 4: where batch norms and ReLUs stand around the addition."""

from __future__ import annotations

from torch import Tensor, nn

from resnet_deploy.models.blocks import SqueezeExcitation, convolutions, shortcut
from resnet_deploy.models.config import ResNetConfig


def steps(activation: str, convolutions: int) -> tuple[list[str], list[str]]:
    """Names of a block's layers before and after the addition.

    bn-after-add (b): conv BN ReLU conv, add, BN ReLU. relu-before-add (c): conv BN ReLU conv BN ReLU, add.
    relu-only (d): ReLU conv BN ReLU conv BN, add. full (e): BN ReLU conv BN ReLU conv, add.
    """
    unit = {"full": ("bn", "relu", "conv"), "relu-only": ("relu", "conv", "bn")}.get(activation, ("conv", "bn", "relu"))
    flat = [f"{kind}{number}" for number in range(1, convolutions + 1) for kind in unit]
    return (flat[:-2], flat[-2:]) if activation == "bn-after-add" else (flat, [])


class RearrangedBlock(nn.Module):
    """A basic or bottleneck block with any `config.activation` but original; shapes are those of the original blocks.

    enters: this is the network's first block: the stem's BN and ReLU stand just before it, and it has none of its own.
    With full pre-activation, a shortcut that changes the shape starts behind the block's first BN and ReLU, as in the
    authors' implementation.
    """

    def __init__(
        self,
        config: ResNetConfig,
        in_channels: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        entry_dilation: int,
        enters: bool,
    ) -> None:
        super().__init__()
        convs = convolutions(config, in_channels, width, stride=stride, dilation=dilation, entry_dilation=entry_dilation)
        before, after = steps(config.activation, len(convs))
        if enters and config.activation in {"full", "relu-only"}:
            before = before[before.index("conv1") :]
        for name in before + after:
            conv = convs[int(name[-1]) - 1]
            if name.startswith("conv"):
                self.add_module(name, conv)
            elif name.startswith("bn"):
                self.add_module(name, nn.BatchNorm2d(conv.in_channels if config.activation == "full" else conv.out_channels))
            else:  # not in place on the block's input, which the shortcut needs
                self.add_module(name, nn.ReLU(inplace=name != "relu1" or config.activation not in {"full", "relu-only"}))
        out_channels = convs[-1].out_channels
        if config.squeeze:
            self.se = SqueezeExcitation(out_channels, config.squeeze)
            before = [*before, "se"]
        self.downsample = shortcut(config, in_channels, out_channels, stride=stride)
        shares = config.activation == "full" and self.downsample is not None and not enters
        self._shared, self._before = (before[:2], before[2:]) if shares else ([], before)
        self._after, self._residual = after, config.shortcut != "none"

    def forward(self, x: Tensor) -> Tensor:
        for name in self._shared:
            x = getattr(self, name)(x)
        out = x
        for name in self._before:
            out = getattr(self, name)(out)
        if self._residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        for name in self._after:
            out = getattr(self, name)(out)
        return out
