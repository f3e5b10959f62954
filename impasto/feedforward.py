"""One network, one style, one pass (Johnson, Alahi and Fei-Fei 2016, "Perceptual losses for real-time style transfer").

An image transformation network is trained once against the objective of optimisation-based transfer, over a folder of
photographs; from then on a photograph is repainted in one pass.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import datasets, encoder, images, machine, objective, recipes, training, weights
from impasto.weights import WeightsError


@dataclass(frozen=True)
class Architecture:
    """The shape of a network.

    Attributes:
        widths: channels at full, half, ... resolution on the way down; 0: nothing is done at full resolution.
        blocks: residual blocks at the lowest resolution.
        kernel: side of the first and the last kernel.
    """

    widths: tuple[int, ...]
    blocks: int = 5
    kernel: int = 9


# Johnson et al. 2016, supplement, table 1, with instance normalisation (Ulyanov et al. 2016), reflection padding
# and nearest-neighbour upsampling before a convolution (Odena et al. 2016) as in source 004.
JOHNSON = Architecture((32, 64, 128))
# Ours: no activations at full resolution. The first convolution halves, the last one's channels are shuffled to pixels.
SLIM = Architecture((0, 32, 64), kernel=5)


class Layer(nn.Module):
    """Nearest-neighbour upsampling, reflection padding, convolution, instance normalisation, rectifier."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, up: int = 1, rectify: bool = True,
                 normalise: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride)
        self.norm = nn.InstanceNorm2d(outputs, affine=True) if normalise else None
        self.up, self.rectify, self.margin = up, rectify, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.up > 1:
            x = F.interpolate(x, scale_factor=self.up, mode="nearest")
        x = F.pad(x, [self.margin] * 4, "reflect")
        x = F.conv2d(x, self.convolution.weight, self.convolution.bias, self.convolution.stride)
        if self.norm is not None:
            x = F.instance_norm(x, weight=self.norm.weight, bias=self.norm.bias)
        return x.relu() if self.rectify else x


class Block(nn.Module):
    """Two layers around which the input goes (He et al. 2016); no rectifier after the sum (Gross and Wilber 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = Layer(channels, channels, 3), Layer(channels, channels, 3, rectify=False)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(x))
        return x + residual


class Network(nn.Module):
    """An image transformation network.

    Args:
        architecture: its shape.
    """

    def __init__(self, architecture: Architecture = SLIM) -> None:
        super().__init__()
        self.architecture = architecture
        full, *deeper = architecture.widths
        layers: list[nn.Module] = []
        channels, first = 3, architecture.kernel
        if full:
            layers.append(Layer(3, full, first))
            channels, first = full, 3
        for width in deeper:
            layers.append(Layer(channels, width, first, stride=2))
            channels, first = width, 3
        layers += [Block(channels) for _ in range(architecture.blocks)]
        for width in reversed(architecture.widths[:-1]):
            if width:
                layers.append(Layer(channels, width, 3, up=2))
                channels = width
        if full:
            layers.append(Layer(channels, 3, architecture.kernel, rectify=False, normalise=False))
        else:
            layers += [Layer(channels, 12, 3, rectify=False, normalise=False), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)

    @property
    def stride(self) -> int:
        return 1 << (len(self.architecture.widths) - 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) sRGB in [0, 1] -> the repainted picture, a little beyond [0, 1] (source 004: 150 tanh)."""
        height, width = image.shape[-2:]
        least = 4 * self.stride  # reflection needs something to reflect
        bottom, right = (max(least, -(-side // self.stride) * self.stride) - side for side in (height, width))
        x = F.pad(2 * image - 1, [0, right, 0, bottom], "replicate")
        x = 0.5 + 150 / 255 * torch.tanh(self.layers(x))
        return x[..., :height, :width]


@dataclass(frozen=True)
class Model:
    """A trained network and what it is: architecture, recipe of its training, and card."""

    network: Network
    metadata: Mapping[str, str]


class _Known(torch.autograd.Function):
    """A value whose gradient by the image is known already."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return slopes[0] * gradient, None, None


def train(
    style: Tensor,
    pool: datasets.Pool,
    recipe: recipes.Training,
    *,
    network: Network | None = None,
    state: Mapping[str, Any] | None = None,
) -> Iterator[training.Step]:
    """Train a network to repaint photographs in one style; yields every step.

    The objective is that of optimisation-based transfer (`objective.build`), of the network's output, with each crop
    as its own content. All randomness comes from the seed and the step's number.

    Args:
        style: (1, 3, H, W) sRGB in [0, 1].
        pool: photographs.
        recipe: what to train and how.
        network: to be trained, in place.
        state: of an earlier step, to go on from.
    """
    device = style.device
    torch.manual_seed(recipe.seed)
    network = (network or Network()).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    eye = encoder.load(recipe.encoder).to(device)
    edge = max(1, round(recipe.style_scale * recipe.style_size))
    blank = style.new_zeros(1, 3, recipe.crop, recipe.crop)
    goal = objective.build(eye, recipe.objective(), blank, [images.to_size(style, edge)])

    def loss(index: int) -> dict[str, Tensor]:
        generator = torch.Generator(device).manual_seed(recipe.seed * 1_000_003 + index)
        crops = datasets.random_crops(pool, recipe.batch, recipe.crop, generator, zoom=(0.6, 1.1))
        with torch.autocast(device.type, torch.bfloat16, enabled=goal.dtype == torch.bfloat16):
            painted = network(crops).float()
        terms, gradient = objective.for_content(goal, crops)(painted)
        first, *others = terms
        known = _Known.apply(painted, terms[first], gradient)  # type: ignore[no-untyped-call]
        return {first: known} | {name: terms[name] for name in others}

    rate, good = recipe.rate, state
    while True:
        try:
            for step in training.fit(
                network, loss, steps=recipe.steps, rate=rate, warmup=recipe.steps // 50, state=good
            ):
                if step.index % 100 == 0:
                    good = copy.deepcopy(step.state())
                yield step
            return
        except FloatingPointError:
            if rate < recipe.rate / 10 or good is None:
                raise
            rate /= 2  # from where all was well, more slowly


def save(path: Path, model: Network, metadata: Mapping[str, str]) -> None:
    """Write a model as float16 safetensors."""
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, {**metadata, "architecture": json.dumps(asdict(model.architecture))})


def load(path: Path) -> Model:
    """Read a model that `save` wrote.

    Raises:
        WeightsError: the file is missing, damaged, or holds no such model.
    """
    state, metadata = weights.load(path)
    try:
        shape = json.loads(metadata["architecture"])
        network = Network(Architecture(tuple(shape["widths"]), shape["blocks"], shape["kernel"]))
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (KeyError, ValueError, TypeError, RuntimeError):
        raise WeightsError(f"{path}: no one-pass model: impasto train makes them") from None
    return Model(network.requires_grad_(False).eval(), metadata)


@torch.no_grad()
def apply(model: Model, image: Tensor, *, strength: float = 1.0, precision: str = "auto") -> Tensor:
    """Repaint photographs in one pass.

    Args:
        model: as `load` gives it.
        image: (B, 3, H, W) sRGB in [0, 1], on the model's device.
        strength: 0 is the photograph, 1 the full style.
        precision: auto, float32 or bfloat16.
    """
    dtype = machine.precision(precision, image.device)
    with torch.autocast(image.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        painted = model.network(image.contiguous(memory_format=torch.channels_last)).float()
    return torch.lerp(image, painted.clamp(0, 1), strength)
