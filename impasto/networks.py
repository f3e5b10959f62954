"""Image transformation networks (Johnson, Alahi and Fei-Fei 2016): the paper's and ours, picture in, picture out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Architecture:
    """The shape of a network.

    Attributes:
        widths: channels at full, half, ... resolution on the way down; 0: nothing is done at full resolution.
        blocks: residual blocks at the lowest resolution.
        kernel: side of the first and the last kernel.
        bounded: the last values go through a tanh, scaled by 150 as in OwlBook; False: they are the picture.
        smooth: bilinear instead of nearest-neighbour upsampling; with a width of 0, a 1-2-1 filter over the result too.
    """

    widths: tuple[int, ...]
    blocks: int = 5
    kernel: int = 9
    bounded: bool = True
    smooth: bool = False


# Johnson et al. 2016, supplement, table 1, with instance normalisation (Ulyanov et al. 2016), reflection padding
# and nearest-neighbour upsampling before a convolution (Odena et al. 2016) as in OwlBook.
JOHNSON = Architecture((32, 64, 128))
# Ours: half the paper's multiplications, with as many of its layers. Bilinear upsampling leaves no checkerboards.
IMPASTO = Architecture((16, 48, 96), kernel=5, smooth=True)
SPREAD = 1.6  # of four pixels each: the deviation of the Gaussian that makes grain of noise


def as_it_is(x: Tensor) -> torch.autocast:
    """No autocast: it would take what is only moved about to float32 and back, which takes as long as convolving."""
    return torch.autocast(x.device.type, enabled=False)


class Layer(nn.Module):
    """Upsampling, reflection padding, convolution, instance normalisation, rectifier.

    What is upsampled is never written down: the four pixels that come of one have each a kernel of their own, of what
    upsampling and convolution come to (Shi et al. 2016).
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

    def forward(self, x: Tensor, band: int = 0) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'), of twice the sides where it upsamples, and of half where it strides.

        Args:
            x: features.
            band: rows that are worked at a time, without a derivative, so that nothing but x and the result is large;
                0: all. The statistics are those of all rows: bands change nothing.
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
            y = normalise_(y, weight, bias, band) if band else F.instance_norm(y, weight=weight, bias=bias)
        return y.relu_() if self.rectify else y

    def bands(self, x: Tensor, weight: Tensor, bias: Tensor, band: int) -> Tensor:
        """The convolution, that many rows at a time."""
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
        """The rows from ``top`` to ``bottom`` of the convolution, from those of x that they see."""
        stride, height = self.convolution.stride[0], x.shape[-2]
        first, last = top * stride - self.margin, (bottom - 1) * stride + self.margin + 1
        above, below = max(0, -first), max(0, last - height)
        return self.convolve(x[..., first + above : last - below, :], weight, bias, above, below)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor, above: int, below: int) -> Tensor:
        with as_it_is(x):
            # Where nearest neighbours are doubled, to repeat them first is to reflect them then.
            x = F.pad(x, [self.margin, self.margin, above, below], "replicate" if self.up else "reflect")
        y = F.conv2d(x, weight, bias, self.convolution.stride)
        with as_it_is(x):
            return shuffle(y) if self.up else y


def shuffle(x: Tensor) -> Tensor:
    """(B, 4 C, H, W), the channels of a position's four pixels one pixel after the other -> (B, C, 2 H, 2 W).

    Where F.pixel_shuffle has the four of a channel together, and takes four times as long to part them.
    """
    batch, channels, height, width = x.shape
    pixels = x.view(batch, 2, 2, channels // 4, height, width).permute(0, 4, 1, 5, 2, 3)
    return pixels.reshape(batch, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


def _spread(smooth: bool) -> Tensor:
    """(3, 2, 3): how much of a pixel and its neighbours is in what a kernel of 3 sees around either of its two."""
    doubled = F.interpolate(torch.eye(5)[None], scale_factor=2.0, mode="linear" if smooth else "nearest")
    return doubled[0, 1:4, 3:7].unfold(1, 3, 1)


def normalise_(x: Tensor, weight: Tensor, bias: Tensor, band: int) -> Tensor:
    """Instance normalisation (Ulyanov et al. 2016) in place, in float32, that many rows at a time.

    Memory is what a large picture waits for: PyTorch's own takes as much again. The kernel of batch normalisation does
    not mind that it writes where it reads.
    """
    for each in x.unsqueeze(1):
        if x.device.type == "mps":  # which has no such kernel as the others
            variance, mean = torch.var_mean(each.to(bias), (0, 2, 3), correction=0)
        else:
            mean, variance = torch.batch_norm_update_stats(each, torch.zeros_like(bias), torch.zeros_like(bias), 0.0)
        unused = mean.new_empty(0), mean.new_empty(0)  # the statistics, which it would only find in training
        for top in range(0, x.shape[-2], band):
            part = each[..., top : top + band, :]
            torch.native_batch_norm(part, weight, bias, mean, variance, False, 0.0, 1e-5, out=(part, *unused))
    return x


class Block(nn.Module):
    """Two layers around which the input goes (He et al. 2016); no rectifier after the sum (Gross and Wilber 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = Layer(channels, channels, 3), Layer(channels, channels, 3, rectify=False)

    def forward(self, x: Tensor, band: int = 0) -> Tensor:
        residual: Tensor = self.second(self.first(x, band), band)
        return residual.add_(x)


def _smoothing(side: int) -> Tensor:
    """A 1-2-1 filter, down and across, of the pixels in positions of side x side, as one kernel.

    At full resolution the same takes a tenth of a pass. The pixels come as F.pixel_shuffle takes them, and go as
    `shuffle` does.
    """
    line = torch.tensor([0.25, 0.5, 0.25])
    square = torch.outer(line, line).expand(3, 1, 3, 3)
    channels = 3 * side**2
    impulses = F.pixel_shuffle(F.pad(torch.eye(channels).view(channels, channels, 1, 1), [1] * 4), side)
    answers = F.pixel_unshuffle(F.conv2d(impulses, square, padding=1, groups=3), side)
    kernel = answers.transpose(0, 1).flip(2, 3).reshape(3, -1, channels, 3, 3)
    return kernel.transpose(0, 1).flatten(0, 1).contiguous()


def uneven_(x: Tensor, amount: float) -> Tensor:
    """Add smooth noise to (B, C, H, W) in [-1, 1], in place; the same for all pictures of a size.

    Its deviation is that part of a picture's own: normalised, a faint picture is as strong as any, and so is noise.
    """
    height, width = x.shape[-2:]
    values = _grain(height // 4 + 1, width // 4 + 1).to(x.device)
    noise = F.interpolate(values, scale_factor=4.0, mode="bilinear")[..., :height, :width]
    deviation = x[..., ::4, ::4].std((1, 2, 3), correction=0, keepdim=True)  # every fourth pixel tells
    return x.addcmul_(noise, amount * deviation).clamp_(-1, 1)


@lru_cache(maxsize=1)  # the next picture of a film has the same
def _grain(height: int, width: int) -> Tensor:
    """(1, 1, H, W) of smooth noise of deviation 1."""
    line = torch.arange(-4.0, 5).div(SPREAD).square().div(-2).exp()
    kernel = torch.outer(line, line) / line.square().sum()  # of unit norm, so that the noise keeps its deviation
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
        last = Layer(channels, outputs, kernel, rectify=False, normalise=False)
        self.layers = nn.ModuleList([*layers, last])
        self.filtered = architecture.smooth and not full
        if self.filtered:
            self.register_buffer("smoothing", _smoothing(2), persistent=False)
        if not full:
            # The four pixels of a position begin alike, or a checkerboard stays (Aitken et al. 2017); and near grey.
            weight = last.convolution.weight.data
            weight.copy_(0.3 * weight[::4].repeat_interleave(4, 0))
            nn.init.zeros_(last.convolution.bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor, band: int = 0, grain: float = 0.0) -> Tensor:
        """(B, 3, H, W) sRGB in [0, 1] -> the repainted picture, a little beyond [0, 1].

        Args:
            image: of any size.
            band: rows of a layer that are worked at a time; 0: all. The result is the same.
            grain: deviation, as a part of the image's, of the smooth noise that it is lent: of an even area a network
                makes a regular pattern.
        """
        height, width = image.shape[-2:]
        least = 4 << len(self.architecture.widths)  # every layer needs something to reflect
        x = (2 * image).sub_(1)
        if grain:
            with as_it_is(x):
                uneven_(x, grain)
        if height < least or width < least:
            x = F.pad(x, [0, max(0, least - width), 0, max(0, least - height)], "replicate")
        for layer in self.layers:
            x = layer(x, band)
        shuffled = not self.architecture.widths[0]
        if self.filtered:
            with as_it_is(x):
                # The pixel beside the border reflects: in a position of four it is the position's own.
                x = F.pad(x, [1] * 4, "replicate")
            x = F.conv2d(x, self.smoothing)
        x = x.float()
        if shuffled:
            x = shuffle(x) if self.architecture.smooth else F.pixel_shuffle(x, 2)
        x = x[..., :height, :width]  # an odd side has come out a little longer
        # 0.5 + 150 / 255 tanh(x), as 1 + tanh(x) = 2 sigmoid(2 x), which PyTorch computes five times as fast.
        return torch.sigmoid(2 * x).mul(300 / 255).add_(0.5 - 150 / 255) if self.architecture.bounded else x
