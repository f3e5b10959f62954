"""Image transformation networks (Johnson2016), the paper's and ours: a picture in, a picture out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Architecture:
    """The shape of a network.

    Attributes:
        widths: channels at full, half, ... resolution on the way down; 0: no layers at full resolution.
        blocks: residual blocks at the lowest resolution.
        kernel: side of the first and the last kernel.
        bounded: the output goes through a tanh, scaled by 150 as in OwlBook; False: it is the picture as it is.
        smooth: bilinear instead of nearest-neighbour upsampling; with a width of 0, also a 1-2-1 filter at the end.
        skip: the last layer also sees the output of the first one, so that it can draw what the deeper layers lost.
    """

    widths: tuple[int, ...]
    blocks: int = 5
    kernel: int = 9
    bounded: bool = True
    smooth: bool = False
    skip: bool = False


# Johnson2016, supplement, table 1, with instance normalisation (Ulyanov2016), reflection padding and nearest-neighbour
# upsampling before a convolution (Odena2016) as in OwlBook.
JOHNSON = Architecture((32, 64, 128))
# Ours: half the paper's multiplications in as many layers. Bilinear upsampling leaves no checkerboards; with the skip
# connection, thin lines and windows stay sharp.
IMPASTO = Architecture((16, 48, 96), kernel=5, smooth=True, skip=True)
MARGIN = 16  # pixels by which a picture is extended, and cut again: networks paint a frame along the border
SPREAD = 1.6  # standard deviation, in units of four pixels, of the Gaussian that smooths the noise


def as_it_is(x: Tensor) -> torch.autocast:
    """Disable autocast: it would convert tensors that are only moved to float32 and back, as slow as a convolution."""
    return torch.autocast(x.device.type, enabled=False)


class Layer(nn.Module):
    """Upsampling, reflection padding, convolution, instance normalisation, rectifier.

    The upsampled tensor is never stored: each of the four pixels that one becomes has its own kernel, which combines
    upsampling and convolution (Shi2016).
    """

    spread: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, up: bool = False,
                 smooth: bool = False, rectify: bool = True, normalise: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride)
        self.norm = nn.InstanceNorm2d(outputs, affine=True) if normalise else None
        self.up, self.rectify, self.margin = up, rectify, kernel // 2
        if up:
            self.register_buffer("spread", _spread(smooth), persistent=False)

    def forward(self, x: Tensor, band: int = 0, film: Statistics | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'): twice the sides when upsampling, half of them with a stride.

        Args:
            x: features.
            band: rows computed at a time, without gradients, so that only x and the result are large; 0: all. The
                statistics are those of all rows, so the result is the same.
            film: smooths the statistics from frame to frame; with ``band`` only.
        """
        weight: Tensor
        bias: Tensor
        weight, bias = self.convolution.parameters()
        if self.up:
            with as_it_is(x):
                weight = torch.einsum("ocab,ipa,jqb->pqocij", weight, self.spread, self.spread).flatten(0, 2)
            bias = bias.repeat(4)
        y = self.bands(x, weight, bias, band) if band else self.convolve(x, weight, bias, self.margin, self.margin)
        if self.norm is not None:
            weight, bias = self.norm.weight, self.norm.bias
            if band:
                normalise_(y, weight, bias, band, partial(film.smooth, self) if film else None)
            else:
                y = F.instance_norm(y, weight=weight, bias=bias)
        return y.relu_() if self.rectify else y

    def bands(self, x: Tensor, weight: Tensor, bias: Tensor, band: int) -> Tensor:
        """The convolution, ``band`` rows at a time."""
        height = -(-x.shape[-2] // self.convolution.stride[0])
        y = part = self.rows(x, weight, bias, 0, min(height, band))
        if band < height:
            scale = part.shape[-2] // band
            shape = (*part.shape[:2], scale * height, part.shape[-1])
            y = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
            y[..., : scale * band, :] = part
        for top in range(band, height, band):
            part = self.rows(x, weight, bias, top, min(height, top + band))
            y[..., scale * top : scale * top + part.shape[-2], :] = part
        return y

    def rows(self, x: Tensor, weight: Tensor, bias: Tensor, top: int, bottom: int) -> Tensor:
        """The rows from ``top`` to ``bottom`` of the convolution, from the rows of x that they depend on."""
        stride, height = self.convolution.stride[0], x.shape[-2]
        first, last = top * stride - self.margin, (bottom - 1) * stride + self.margin + 1
        above, below = max(0, -first), max(0, last - height)
        return self.convolve(x[..., first + above : last - below, :], weight, bias, above, below)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor, above: int, below: int) -> Tensor:
        with as_it_is(x):
            # Replicate padding before nearest-neighbour upsampling equals reflection padding after it.
            x = F.pad(x, [self.margin, self.margin, above, below], "replicate" if self.up else "reflect")
        y = F.conv2d(x, weight, bias, self.convolution.stride)
        with as_it_is(x):
            return shuffle(y) if self.up else y


def shuffle(x: Tensor) -> Tensor:
    """(B, 4 C, H, W) -> (B, C, 2 H, 2 W), where all channels of a position's first pixel precede those of the next.

    F.pixel_shuffle expects the four pixels of each channel together, and takes four times as long.
    """
    batch, channels, height, width = x.shape
    pixels = x.view(batch, 2, 2, channels // 4, height, width).permute(0, 4, 1, 5, 2, 3)
    return pixels.reshape(batch, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


def _spread(smooth: bool) -> Tensor:
    """(3, 2, 3): weights of a pixel and its neighbours in the three inputs of a kernel at each of its two pixels."""
    doubled = F.interpolate(torch.eye(5)[None], scale_factor=2.0, mode="linear" if smooth else "nearest")
    return doubled[0, 1:4, 3:7].unfold(1, 3, 1)


class Statistics:
    """The means and variances of a network's normalisations, smoothed over the frames of a film.

    Each frame's own would change with what moves in and out, and the brightness and the strokes with them.

    Attributes:
        rate: the share of a new frame; 0 holds the statistics as they are.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.known: dict[object, tuple[Tensor, ...]] = {}
        self.parts: dict[object, Statistics] = {}

    def part(self, key: object) -> Statistics:
        """Those of a part that is painted by itself, such as a region of the picture."""
        self.parts.setdefault(key, Statistics(self.rate)).rate = self.rate
        return self.parts[key]

    def average(self, place: object, *values: Tensor) -> tuple[Tensor, ...]:
        """Add a frame's values, such as moments, at a ``place``; returns their means over all frames so far."""
        before = self.known.get(place, values)
        self.known[place] = tuple(old.lerp(new, self.rate) for old, new in zip(before, values, strict=True))
        return self.known[place]

    def smooth(self, layer: nn.Module, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Add a frame's mean and variance; returns those over all frames so far."""
        if layer in self.known:
            before, spread = self.known[layer]
            step = mean - before
            mean = before + self.rate * step
            variance = spread.lerp(variance, self.rate) + self.rate * (1 - self.rate) * step.square()
        self.known[layer] = mean, variance
        return mean, variance


def normalise_(x: Tensor, weight: Tensor, bias: Tensor, band: int,
               smooth: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None) -> Tensor:  # fmt: skip
    """Instance normalisation (Ulyanov2016) in place, in float32, ``band`` rows at a time.

    Memory is the bottleneck for large pictures, and PyTorch's own function allocates a copy. The batch-norm kernel can
    safely run in place.

    Args:
        x: (B, C, H, W), changed in place.
        weight, bias: (C,), applied after it.
        band: rows computed at a time.
        smooth: changes the mean and variance of each picture before they are used; None: they are used as they are.

    Returns:
        ``x`` itself.
    """
    for each in x.unsqueeze(1):
        if x.device.type == "mps":  # it lacks the kernel below
            variance, mean = torch.var_mean(each.to(bias), (0, 2, 3), correction=0)
        else:
            mean, variance = torch.batch_norm_update_stats(each, torch.zeros_like(bias), torch.zeros_like(bias), 0.0)
        if smooth is not None:
            mean, variance = smooth(mean, variance)
        unused = mean.new_empty(0), mean.new_empty(0)  # statistics, computed only in training
        for top in range(0, x.shape[-2], band):
            part = each[..., top : top + band, :]
            torch.native_batch_norm(part, weight, bias, mean, variance, False, 0.0, 1e-5, out=(part, *unused))
    return x


class Block(nn.Module):
    """Two layers with a skip connection (He2016); no rectifier after the sum (Gross2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = Layer(channels, channels, 3), Layer(channels, channels, 3, rectify=False)

    def forward(self, x: Tensor, band: int = 0, film: Statistics | None = None) -> Tensor:
        residual: Tensor = self.second(self.first(x, band, film), band, film)
        return residual.add_(x)


def _smoothing(side: int) -> Tensor:
    """A 1-2-1 filter, down and across, over pixels stored in positions of side x side, as one kernel.

    The same filter at full resolution takes a tenth of a pass. Input channels are ordered as for F.pixel_shuffle,
    output channels as for `shuffle`.
    """
    line = torch.tensor([0.25, 0.5, 0.25])
    square = torch.outer(line, line).expand(3, 1, 3, 3)
    channels = 3 * side**2
    impulses = F.pixel_shuffle(F.pad(torch.eye(channels).view(channels, channels, 1, 1), [1] * 4), side)
    answers = F.pixel_unshuffle(F.conv2d(impulses, square, padding=1, groups=3), side)
    kernel = answers.transpose(0, 1).flip(2, 3).reshape(3, -1, channels, 3, 3)
    return kernel.transpose(0, 1).flatten(0, 1).contiguous()


def uneven_(x: Tensor, amount: float) -> Tensor:
    """Add smooth noise to (B, C, H, W) in [-1, 1], in place; the same noise for all pictures of one size.

    It is scaled by each picture's contrast, because instance normalisation would amplify it in a faint picture.
    """
    height, width = x.shape[-2:]
    values = _grain(height // 4 + 1, width // 4 + 1).to(x.device)
    noise = F.interpolate(values, scale_factor=4.0, mode="bilinear")[..., :height, :width]
    deviation = x[..., ::4, ::4].std((1, 2, 3), correction=0, keepdim=True)  # every fourth pixel is enough
    return x.addcmul_(noise, amount * deviation).clamp_(-1, 1)


@lru_cache(maxsize=2)  # all frames of a film use the same, at two sizes if they are underpainted
def _grain(height: int, width: int) -> Tensor:
    """(1, 1, H, W) smooth noise of standard deviation 1."""
    line = torch.arange(-4.0, 5).div(SPREAD).square().div(-2).exp()
    kernel = torch.outer(line, line) / line.square().sum()  # of unit norm: the noise keeps its deviation
    values = torch.randn((1, 1, height + 8, width + 8), generator=torch.Generator().manual_seed(0))
    return F.conv2d(values, kernel[None, None])


class Network(nn.Module):
    """An image transformation network.

    Args:
        architecture: its shape.
    """

    smoothing: Tensor

    def __init__(self, architecture: Architecture = IMPASTO) -> None:
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
                layers.append(Layer(channels, width, 3, up=True, smooth=architecture.smooth))
                channels = width
        kernel, outputs = (architecture.kernel, 3) if full else (3, 12)
        last = Layer(channels * (2 if architecture.skip else 1), outputs, kernel, rectify=False, normalise=False)
        self.layers = nn.ModuleList([*layers, last])
        self.filtered = architecture.smooth and not full
        if self.filtered:
            self.register_buffer("smoothing", _smoothing(2), persistent=False)
        if not full:
            # The four pixels of a position start alike, which avoids checkerboards (Aitken2017), and near grey.
            weight = last.convolution.weight.data
            weight.copy_(0.3 * weight[::4].repeat_interleave(4, 0))
            nn.init.zeros_(last.convolution.bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor, band: int = 0, grain: float = 0.0, film: Statistics | None = None) -> Tensor:
        """(B, 3, H, W) sRGB in [0, 1] -> the repainted picture, which may slightly exceed [0, 1].

        Args:
            image: of any size.
            band: rows of a layer computed at a time; 0: all. The result is the same.
            grain: standard deviation of the smooth noise added to the image, relative to the image's own. Without it,
                even areas get a regular pattern.
            film: what the frames of a film share; with ``band`` only.
        """
        height, width = image.shape[-2:]
        least = 4 << len(self.architecture.widths)  # smallest side: every layer needs pixels to reflect
        x = (2 * image).sub_(1)
        if grain:
            with as_it_is(x):
                uneven_(x, grain)
        if height < least or width < least:
            x = F.pad(x, [0, max(0, least - width), 0, max(0, least - height)], "replicate")
        first, *between, last = self.layers
        x = detail = first(x, band, film)
        for layer in between:
            x = layer(x, band, film)
        if self.architecture.skip:
            x = torch.cat([x[..., : detail.shape[-2], : detail.shape[-1]], detail], 1)
        x = last(x, band, film)
        shuffled = not self.architecture.widths[0]
        if self.filtered:
            with as_it_is(x):
                # Replicating a position reflects its pixels: the one next to the border is in the same position.
                x = F.pad(x, [1] * 4, "replicate")
            x = F.conv2d(x, self.smoothing)
        x = x.float()
        if shuffled:
            x = shuffle(x) if self.architecture.smooth else F.pixel_shuffle(x, 2)
        x = x[..., :height, :width]  # odd sides come out slightly longer
        # 0.5 + 150 / 255 tanh(x), as 1 + tanh(x) = 2 sigmoid(2 x), which PyTorch computes five times as fast.
        return torch.sigmoid(2 * x).mul(300 / 255).add_(0.5 - 150 / 255) if self.architecture.bounded else x
