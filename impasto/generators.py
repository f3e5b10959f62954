"""The networks of paired image-to-image translation (Isola2017): two generators and the PatchGAN discriminator.

Pictures are (B, C, H, W) in [-1, 1] with any number of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["batch", "instance"]


DEEPEST = 64  # layers or blocks


@dataclass(frozen=True)
class Shape:
    """The shape of a generator.

    Attributes:
        kind: a U-Net, or a chain of residual blocks.
        inputs, outputs: channels of the two pictures.
        width: channels of the first layer.
        depth: of a U-Net, how often it halves the picture: 8 for 256 pixels; of the other, the number of blocks.
        norm: batch normalisation with the statistics of the batch itself, also when applied, or instance normalisation.
        dropout: probability at which channels are dropped: the noise of the paper, also when applied.
        resize: upsample by nearest neighbours before a convolution (Odena2016) instead of by a transposed one.
    """

    kind: Literal["unet", "resnet"] = "unet"
    inputs: int = 3
    outputs: int = 3
    width: int = 64
    depth: int = 8
    norm: Norm = "batch"
    dropout: float = 0.5
    resize: bool = False

    @property
    def stride(self) -> int:
        """The sides of a picture must be multiples of it."""
        return 1 << self.depth if self.kind == "unet" else 4


def _norm(kind: Norm, channels: int) -> nn.Module:
    # Without running statistics: the paper normalises by the statistics of the batch at test time too.
    return nn.BatchNorm2d(channels, track_running_stats=False) if kind == "batch" else nn.InstanceNorm2d(channels)


def _up(inputs: int, outputs: int, *, resize: bool, bias: bool) -> nn.Module:
    if resize:
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias))
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)


class UNet(nn.Module):
    """An encoder and a decoder with a skip connection at each resolution (Isola2017, section 6.1.1).

    C64-C128-C256-C512-C512-C512-C512-C512 down, CD512-CD512-CD512-C512-C256-C128-C64 up.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape.inputs, *(shape.width * min(8, 1 << level) for level in range(shape.depth))]
        bias = shape.norm == "instance"  # before batch normalisation it would have no effect
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (inputs, outputs) in enumerate(pairwise(widths)):
            layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if level else []
            layers.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=bias))
            # Not the innermost: normalising its single position would leave 0.
            if 0 < level < shape.depth - 1:
                layers.append(_norm(shape.norm, outputs))
            self.down.append(nn.Sequential(*layers))
        for level in reversed(range(1, shape.depth)):
            inputs = widths[level + 1] * (1 if level == shape.depth - 1 else 2)
            layers = [nn.ReLU(), _up(inputs, widths[level], resize=shape.resize, bias=bias)]
            layers.append(_norm(shape.norm, widths[level]))
            if shape.dropout and level >= shape.depth - 3:
                layers.append(nn.Dropout(shape.dropout))
            self.up.append(nn.Sequential(*layers))
        last = _up(2 * shape.width, shape.outputs, resize=shape.resize, bias=True)
        self.up.append(nn.Sequential(nn.ReLU(), last, nn.Tanh()))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) in [-1, 1] -> (B, outputs, H, W) in [-1, 1]; H and W are multiples of the stride."""
        skips: list[Tensor] = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        skips.pop()
        for layer in self.up:
            x = layer(x)
            if skips:
                x = torch.cat([skips.pop(), x], 1)
        return x.float()


class _Block(nn.Module):
    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        convolution = partial(
            nn.Conv2d, channels, channels, 3, padding=1, padding_mode="reflect", bias=shape.norm == "instance"
        )
        noise = [nn.Dropout(shape.dropout)] if shape.dropout else []
        self.layers = nn.Sequential(
            convolution(), _norm(shape.norm, channels), nn.ReLU(), *noise, convolution(), _norm(shape.norm, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.layers(x)
        return residual + x


class ResNet(nn.Module):
    """Residual blocks at a quarter of the resolution (Johnson2016); the other generator in the code of Isola2017.

    c7s1-64, d128, d256, R256 x depth, u128, u64, c7s1-3.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, bias = shape.width, shape.norm == "instance"
        layers: list[nn.Module] = [nn.Conv2d(shape.inputs, width, 7, padding=3, padding_mode="reflect", bias=bias)]
        for inputs in (width, 2 * width):
            layers += [_norm(shape.norm, inputs), nn.ReLU(), nn.Conv2d(inputs, 2 * inputs, 3, 2, 1, bias=bias)]
        layers += [_norm(shape.norm, 4 * width), nn.ReLU(), *(_Block(4 * width, shape) for _ in range(shape.depth))]
        for inputs in (4 * width, 2 * width):
            up = nn.ConvTranspose2d(inputs, inputs // 2, 3, 2, 1, output_padding=1, bias=bias)
            layers += [_up(inputs, inputs // 2, resize=True, bias=bias) if shape.resize else up]
            layers += [_norm(shape.norm, inputs // 2), nn.ReLU()]
        layers += [nn.Conv2d(width, shape.outputs, 7, padding=3, padding_mode="reflect"), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) in [-1, 1] -> (B, outputs, H, W) in [-1, 1]; H and W are multiples of four."""
        return self.layers(x).float()  # type: ignore[no-any-return]


GENERATORS: dict[str, Callable[[Shape], nn.Module]] = {"unet": UNet, "resnet": ResNet}


class PatchGAN(nn.Module):
    """A discriminator that judges overlapping patches of a pair (Isola2017, section 6.1.2): C64-C128-C256-C512.

    Args:
        channels: of input and target together.
        width: channels of the first layer.
        layers: 3 for patches of 70 pixels; 0 judges single pixels, 1 patches of 16, 5 patches of 286.
        norm: as in `Shape`.
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 3, norm: Norm = "batch") -> None:
        super().__init__()
        bias = norm == "instance"
        kernel, padding = (4, 1) if layers else (1, 0)
        widths = [width * min(8, 1 << level) for level in range(max(1, layers) + 1)]
        stack: list[nn.Module] = [nn.Conv2d(channels, width, kernel, 2 if layers else 1, padding), nn.LeakyReLU(0.2)]
        for level, (inputs, outputs) in enumerate(pairwise(widths), 1):
            stride = 2 if level < layers else 1
            stack += [
                nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias), _norm(norm, outputs), nn.LeakyReLU(0.2)
            ]  # fmt: skip
        self.layers = nn.Sequential(*stack, nn.Conv2d(widths[-1], 1, kernel, 1, padding))
        initialise(self)

    def forward(self, pair: Tensor) -> Tensor:
        """(B, channels, H, W) in [-1, 1] -> (B, 1, H', W') logits, one for each patch: above 0 is real."""
        return self.layers(pair).float()  # type: ignore[no-any-return]

    @property
    def patch(self) -> int:
        """The side in pixels of the patch that a logit depends on."""
        side = 1
        for layer in reversed(self.layers):
            if isinstance(layer, nn.Conv2d):
                side = (side - 1) * layer.stride[0] + layer.kernel_size[0]
        return side


def initialise(network: nn.Module) -> None:
    """Normal weights of deviation 0.02, around 1 for normalisations, and biases of 0 (Isola2017, section 6.2)."""
    if next(network.parameters()).is_meta:  # only the shapes are wanted; normal_ would import torch._dynamo, in seconds
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def judged(logits: Tensor, real: bool, loss: Literal["bce", "lsgan"]) -> Tensor:
    """The mean loss of a discriminator's logits that should all say real, or all say fake.

    Args:
        logits: (B, 1, H, W), from `PatchGAN`.
        real: what they should say; False: fake.
        loss: bce is binary cross-entropy, lsgan the squared distance from 1 or 0 (Mao2017).

    Returns:
        A scalar.
    """
    goal = torch.full_like(logits, float(real))
    return F.mse_loss(logits, goal) if loss == "lsgan" else F.binary_cross_entropy_with_logits(logits, goal)
