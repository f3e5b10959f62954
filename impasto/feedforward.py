"""One network, one style, one pass (Johnson, Alahi and Fei-Fei 2016, "Perceptual losses for real-time style transfer").

An image transformation network is trained once against the objective of optimisation-based transfer, over a folder of
photographs; from then on a photograph is repainted in one pass.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from impasto import (
    color,
    datasets,
    encoder,
    exchange,
    images,
    losses,
    machine,
    objective,
    pictures,
    recipes,
    training,
    weights,
)
from impasto.recipes import RecipeError
from impasto.weights import WeightsError


@dataclass(frozen=True)
class Architecture:
    """The shape of a network.

    Attributes:
        widths: channels at full, half, ... resolution on the way down; 0: nothing is done at full resolution.
        blocks: residual blocks at the lowest resolution.
        kernel: side of the first and the last kernel.
        bounded: the last values go through a tanh, scaled by 150 as in source 004; False: they are the picture.
        smooth: bilinear instead of nearest-neighbour upsampling, and a 1-2-1 filter over the last values.
    """

    widths: tuple[int, ...]
    blocks: int = 5
    kernel: int = 9
    bounded: bool = True
    smooth: bool = False


# Johnson et al. 2016, supplement, table 1, with instance normalisation (Ulyanov et al. 2016), reflection padding
# and nearest-neighbour upsampling before a convolution (Odena et al. 2016) as in source 004.
JOHNSON = Architecture((32, 64, 128))
# Ours: no activations at full resolution. The first convolution halves, the last one's channels are shuffled to pixels.
# It is smooth: a training this short would otherwise leave checkerboards.
SLIM = Architecture((0, 32, 64), kernel=5, smooth=True)

RAMP_FROM = 0.03  # of the strength, at the first step of a training
BAND = 1 << 19  # pixels of a layer that are worked at a time: what is upsampled and padded stays in the cache


def as_it_is(x: Tensor) -> torch.autocast:
    """No autocast: it would take what is only moved about to float32 and back, which takes as long as convolving."""
    return torch.autocast(x.device.type, enabled=False)


class Layer(nn.Module):
    """Upsampling, reflection padding, convolution, instance normalisation, rectifier."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, up: int = 1, smooth: bool = False,
                 rectify: bool = True, normalise: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride)
        self.norm = nn.InstanceNorm2d(outputs, affine=True) if normalise else None
        self.up, self.mode = up, "bilinear" if smooth else "nearest"
        self.rectify, self.margin = rectify, kernel // 2

    def forward(self, x: Tensor, band: int = 0) -> Tensor:
        """(B, C, H, W) -> (B, C', H * up / stride, W * up / stride).

        Args:
            x: features.
            band: rows that are convolved at a time, so that what is upsampled and padded stays small; 0: all.
                The statistics are those of all rows: bands change nothing.
        """
        height = -(-x.shape[-2] * self.up // self.convolution.stride[0])
        if 0 < band < height:
            y = x.new_empty(0)
            for top in range(0, height, band):
                rows = self.rows(x, top, min(height, top + band))
                if not top:
                    shape = (*rows.shape[:2], height, rows.shape[-1])
                    y = torch.empty(
                        shape, dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last
                    )  # fmt: skip
                y[..., top : top + band, :] = rows
        else:
            y = self.convolve(self.enlarge(x), self.margin, self.margin)
        del x
        if self.norm is not None:
            # The group norm of single channels is as fast as it gets on channels-last, but its derivative is not.
            y = (
                F.instance_norm(y, weight=self.norm.weight, bias=self.norm.bias)
                if torch.is_grad_enabled()
                else F.group_norm(y, y.shape[1], self.norm.weight.to(y.dtype), self.norm.bias.to(y.dtype))
            )
        return y.relu_() if self.rectify else y

    def rows(self, x: Tensor, top: int, bottom: int) -> Tensor:
        """The rows from ``top`` to ``bottom`` of the convolution, from those of x that they see."""
        stride, height = self.convolution.stride[0], x.shape[-2] * self.up
        first, last = top * stride - self.margin, (bottom - 1) * stride + self.margin + 1
        above, below = max(0, -first), max(0, last - height)
        first, last = first + above, last - below
        start = max(0, first // self.up - 1)  # a row more, for what is between two rows
        x = self.enlarge(x[..., start : -(-last // self.up) + 1, :])
        return self.convolve(x[..., first - start * self.up : last - start * self.up, :], above, below)

    def enlarge(self, x: Tensor) -> Tensor:
        with as_it_is(x):
            return F.interpolate(x, scale_factor=self.up, mode=self.mode) if self.up > 1 else x

    def convolve(self, x: Tensor, above: int, below: int) -> Tensor:
        with as_it_is(x):
            x = F.pad(x, [self.margin, self.margin, above, below], "reflect")
        return F.conv2d(x, self.convolution.weight, self.convolution.bias, self.convolution.stride)


class Block(nn.Module):
    """Two layers around which the input goes (He et al. 2016); no rectifier after the sum (Gross and Wilber 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = Layer(channels, channels, 3), Layer(channels, channels, 3, rectify=False)

    def forward(self, x: Tensor, band: int = 0) -> Tensor:
        residual: Tensor = self.second(self.first(x, band), band)
        return residual.add_(x)


def _smoothing(side: int) -> Tensor:
    """A 1-2-1 filter, down and across, of pixels that are shuffled into positions of side x side, as one kernel.

    At full resolution the same takes a tenth of a pass.
    """
    line = torch.tensor([0.25, 0.5, 0.25])
    square = torch.outer(line, line).expand(3, 1, 3, 3)
    channels = 3 * side**2
    impulses = F.pixel_shuffle(F.pad(torch.eye(channels).view(channels, channels, 1, 1), [1] * 4), side)
    answers = F.pixel_unshuffle(F.conv2d(impulses, square, padding=1, groups=3), side)
    return answers.transpose(0, 1).flip(2, 3).contiguous()


class Network(nn.Module):
    """An image transformation network.

    Args:
        architecture: its shape.
    """

    smoothing: Tensor

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
                layers.append(Layer(channels, width, 3, up=2, smooth=architecture.smooth))
                channels = width
        kernel, outputs = (architecture.kernel, 3) if full else (3, 12)
        last = Layer(channels, outputs, kernel, rectify=False, normalise=False)
        self.layers = nn.ModuleList([*layers, last])
        if architecture.smooth:
            self.register_buffer("smoothing", _smoothing(1 if full else 2), persistent=False)
        if not full:
            # The four pixels of a position begin alike, or a checkerboard stays (Aitken et al. 2017); and near grey.
            weight = last.convolution.weight.data
            weight.copy_(0.3 * weight[::4].repeat_interleave(4, 0))
            nn.init.zeros_(last.convolution.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor, band: int = 0) -> Tensor:
        """(B, 3, H, W) sRGB in [0, 1] -> the repainted picture, a little beyond [0, 1].

        Args:
            image: of any size.
            band: rows of a layer that are worked at a time; 0: all. The result is the same.
        """
        height, width = image.shape[-2:]
        least = 4 << len(self.architecture.widths)  # every layer needs something to reflect
        x = (2 * image).sub_(1)
        if height < least or width < least:
            x = F.pad(x, [0, max(0, least - width), 0, max(0, least - height)], "replicate")
        for layer in self.layers:
            x = layer(x, band)
        shuffled = not self.architecture.widths[0]
        if self.architecture.smooth:
            with as_it_is(x):
                # The pixel beside the border reflects: in a position of four it is the position's own.
                x = F.pad(x, [1] * 4, "replicate" if shuffled else "reflect")
            x = F.conv2d(x, self.smoothing)
        if shuffled:
            x = F.pixel_shuffle(x, 2)
        x = x[..., :height, :width].float()  # an odd side has come out a little longer
        return torch.tanh(x).mul(150 / 255).add_(0.5) if self.architecture.bounded else x


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
    as its own content. All randomness comes from the seed and the step's number. Where torch.distributed is
    initialised each process takes its part of every batch, which comes to the same as one process with all of it.

    Args:
        style: (1, 3, H, W) sRGB in [0, 1].
        pool: photographs.
        recipe: what to train and how.
        network: to be trained, in place.
        state: of an earlier step, to go on from.

    Raises:
        RecipeError: the batch cannot be divided among the processes.
    """
    torch.manual_seed(recipe.seed)
    network = (network or Network()).to(style.device)
    loss = task(network, style, pool, recipe)
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


def task(
    network: Network, style: Tensor, pool: datasets.Pool, recipe: recipes.Training
) -> Callable[[int], dict[str, Tensor]]:
    """What a network is trained to do: the loss of a step by its index, as `training.fit` wants it; see `train`."""
    device = style.device
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    several = distributed.is_available() and distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
    if recipe.batch % world:
        raise RecipeError(f"--batch {recipe.batch} cannot be divided among {world} processes")
    painter = DistributedDataParallel(network) if several else network
    eye = encoder.load(recipe.encoder).to(device)
    edge = max(1, round(recipe.style_scale * recipe.style_size))
    blank = style.new_zeros(1, 3, recipe.crop, recipe.crop)
    goal = objective.build(eye, recipe.objective(), blank, [images.to_size(style, edge)])

    def loss(index: int) -> dict[str, Tensor]:
        generator = torch.Generator(device).manual_seed(recipe.seed * 1_000_003 + index)
        crops = datasets.random_crops(pool, recipe.batch, recipe.crop, generator, zoom=(0.6, 1.1))[rank::world]
        with torch.autocast(device.type, torch.bfloat16, enabled=goal.dtype == torch.bfloat16):
            painted = painter(crops.contiguous(memory_format=torch.channels_last))
        strength = recipe.strength * RAMP_FROM ** (1 - min(1, (index + 1) / max(1, recipe.ramp * recipe.steps)))
        gentle = replace(goal, recipe=replace(goal.recipe, strength=strength))
        terms, gradient = objective.for_content(gentle, crops)(painted)
        if several:  # the same numbers everywhere: no process may stop alone
            for term in terms.values():
                distributed.all_reduce(term.div_(world))
        first, *others = terms
        known = _Known.apply(painted, terms[first], gradient)  # type: ignore[no-untyped-call]
        grid = {"lattice": recipe.lattice * losses.lattice(painted)} if recipe.lattice else {}
        return {first: known} | {name: terms[name] for name in others} | grid

    return loss


def save(path: Path, model: Network, metadata: Mapping[str, str]) -> None:
    """Write a model as float16 safetensors."""
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, {**metadata, "architecture": json.dumps(asdict(model.architecture))})


def load(source: str | Path) -> Model:
    """A style that ships, by its name; a file that `save` wrote; or a checkpoint of PyTorch's fast_neural_style.

    Raises:
        WeightsError: the file is missing, damaged, or holds no such model.
    """
    path = pictures.network(str(source)) or Path(source)
    if not path.exists() and not path.suffix:
        names = ", ".join(pictures.STYLES)
        raise WeightsError(f"{source}: no style of that name ({names}), and no file")
    state, metadata = weights.load(path)
    try:
        if "architecture" in metadata:
            shape = json.loads(metadata["architecture"])
            network = Network(Architecture(**{**shape, "widths": tuple(shape["widths"])}))
        else:
            network, state = Network(replace(JOHNSON, bounded=False)), exchange.from_fast_neural_style(state)
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (KeyError, ValueError, TypeError, RuntimeError):
        raise WeightsError(f"{path}: no one-pass model: impasto train makes them") from None
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network.requires_grad_(False).eval(), metadata)


@torch.no_grad()
def apply(
    image: images.Source,
    style: str | Path | Model | Sequence[str | Path | Model],
    *,
    style_weights: Sequence[float] = (),
    strength: float = 1.0,
    keep_colors: Literal["none", "luma", "histogram"] = "none",
    precision: str = "auto",
    device: str = "",
) -> Tensor:
    """Repaint photographs in one pass; (B, 3, H, W) sRGB in [0, 1].

    Args:
        image: a path, PIL image, array or tensor; a tensor may be a batch.
        style: a style that ships, a model's file, or a model; several are painted each, and mixed.
        style_weights: the parts of several styles in the mixture; none: equal parts.
        strength: 0 is the photograph, 1 the full style.
        keep_colors: as of optimisation-based transfer.
        precision: auto, float32 or bfloat16.
        device: where to compute: auto, cpu, cuda or mps. Left out: where a tensor is, else as auto.

    Raises:
        RecipeError: strength or weights that make no sense.
        ImageError, WeightsError: the image or a model cannot be read.
    """
    styles = [style] if isinstance(style, str | Path | Model) else list(style)
    parts = check_mixture(len(styles), style_weights, strength)
    if isinstance(image, Tensor) and image.ndim == 4 and len(image) > 1:
        photograph = torch.cat([images.to_tensor(each) for each in image])
    else:
        photograph = images.to_tensor(image)
    if device or not isinstance(image, Tensor):
        photograph = photograph.to(machine.pick_device(device or "auto"))
    dtype = machine.precision(precision, photograph.device)
    result = (1 - strength) * photograph if strength < 1 else torch.zeros(())
    for each, part in zip(styles, parts, strict=True):
        network = (each if isinstance(each, Model) else load(each)).network.to(photograph.device)
        with torch.autocast(photograph.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            painted = network(photograph, band=max(16, BAND // photograph.shape[-1]))
        painted.clamp_(0, 1)
        result = painted if strength * part == 1 else result + painted.mul_(strength * part)
        del painted
    if keep_colors == "luma":
        return color.keep_luma(photograph, result)
    return color.match_histogram(result, photograph) if keep_colors == "histogram" else result


def check_mixture(styles: int, style_weights: Sequence[float], strength: float) -> list[float]:
    """The parts of a mixture, which sum to 1.

    Raises:
        RecipeError: they are too many or too few, negative or all nothing; or the strength is not in [0, 1].
    """
    if not 0 <= strength <= 1:
        raise RecipeError(f"--strength must lie between 0 (the photograph) and 1 (the full style), not {strength:g}")
    parts = list(style_weights) or [1.0] * styles
    if len(parts) != styles or min(parts) < 0 or not 0 < sum(parts) < math.inf:
        raise RecipeError(f"--style-weights: one for each of {styles} styles, none negative, not all 0")
    return [part / sum(parts) for part in parts]
