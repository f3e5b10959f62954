"""Colours for a grey photograph: a small network on a frozen encoder's features (Zhang2016).

With little data, a network trained on the distance to the true colours learns their mean, a brown. This one predicts
a distribution over colours at every fourth pixel; rare colours weigh more in its loss. What it needs to know about
objects comes from the perceptual encoder, which was trained on far more pictures.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import hdr

STEP, REACH = 10, 110  # as of `color.bins`
LAYERS = ("relu3_4", "relu4_4", "relu5_1")  # at a quarter, an eighth and a sixteenth of the picture's size
CHANNELS = (48, 128, 112)  # of these layers in the compact encoder
STRIDE = 16
SPREAD = 5.0  # standard deviation of the smoothing of how often colours occur, in units of a and b
TEMPERATURE = 0.38  # of the annealed mean: 1 is the mean, which is pale; 0 the likeliest colour, which is spotty


def grey(lightness: Tensor) -> Tensor:
    """The grey photograph of a lightness: (B, 1, H, W) in [-1, 1] -> (B, 3, H, W) sRGB in [0, 1]."""
    y = (50 * lightness + 66) / 116
    light = torch.where(y > 6 / 29, y**3, (116 * y - 16) * 27 / 24389)
    return hdr.linear_to_srgb(light).clamp(0, 1).expand(-1, 3, -1, -1)


def nearest(ab: Tensor, centres: Tensor) -> Tensor:
    """(B, 2, H, W) colours -> (B, H, W) the index of the nearest bin."""
    side = 2 * REACH // STEP + 1
    line = torch.arange(side, device=ab.device, dtype=torch.float32) * STEP - REACH
    grid = torch.cartesian_prod(line, line)
    table: Tensor = torch.cdist(grid, centres.float()).argmin(1)
    a, b = ((ab / STEP).round().clamp(-REACH // STEP, REACH // STEP).long() + REACH // STEP).unbind(1)
    return table[a * side + b]


def balance(counts: Tensor, centres: Tensor, mix: float = 0.5) -> Tensor:
    """Weights of the bins in the loss, of mean 1 over the colours of the pictures.

    Equation 4 in Zhang2016 to the power of 3/4: with a thousand pictures instead of a million, its full weights make
    white walls yellow.

    Args:
        counts: (Q,) how often each bin occurs; smoothed over the neighbours.
        centres: (Q, 2) the centres of the bins.
        mix: share of the even distribution that is added to that of the pictures, in [0, 1].

    Returns:
        (Q,); rare colours weigh more.
    """
    nearby = torch.cdist(centres, centres).square().div(-2 * SPREAD**2).exp()
    smooth = (counts[:, None] * nearby / nearby.sum(1, keepdim=True)).sum(0)
    share = smooth / smooth.sum()
    weights: Tensor = ((1 - mix) * share + mix / len(share)) ** -0.75
    weights /= (share * weights).sum()
    return weights


class _Layer(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class _Context(nn.Module):
    """A residual layer that also sees the mean of the whole picture."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layer, self.whole = _Layer(width, width, dilation), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.layer(x) + self.whole(x.mean((2, 3)))[..., None, None]
        return x + residual


class Colorizer(nn.Module):
    """The distribution of colours from the encoder's features.

    Args:
        centres: (Q, 2) the colours of the bins, from `color.bins`.
        widths: channels at a quarter, an eighth and a sixteenth of the picture's size.
        dropout: share of channels that are switched off in training.
    """

    centres: Tensor

    def __init__(self, centres: Tensor, widths: tuple[int, int, int] = (48, 96, 128), dropout: float = 0.1) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.widths = widths
        self.register_buffer("centres", centres.clone())
        self.scales = nn.ModuleList(nn.BatchNorm2d(channels, affine=False) for channels in CHANNELS)
        self.dropout = nn.Dropout2d(dropout)
        self.coarse = nn.Sequential(nn.Conv2d(CHANNELS[2], coarse, 1), _Context(coarse, 1), _Context(coarse, 2))
        self.middle = _Layer(coarse + CHANNELS[1], middle)
        self.refine = _Layer(middle, middle)
        self.fine = _Layer(middle + CHANNELS[0], fine)
        self.last = nn.Conv2d(fine, len(self.centres), 1)

    def forward(self, features: Mapping[str, Tensor], window: tuple[int, int, int] | None = None) -> Tensor:
        """Features of the grey photograph -> (B, Q, H / 4, W / 4) logits.

        Args:
            features: of `LAYERS`.
            window: top, left and side, in units of eight pixels: only there are logits computed, from the context of
                the whole picture, which makes a training step three times as fast.
        """
        fine, middle, coarse = (
            self.dropout(norm(features[layer])) for norm, layer in zip(self.scales, LAYERS, strict=True)
        )
        x = _double(self.dropout(self.coarse(coarse)))
        if window is not None:
            (x, middle), fine = (_cut(part, *window) for part in (x, middle)), _cut(fine, *(2 * at for at in window))
        x = self.refine(self.middle(torch.cat([x, middle], 1)))
        x = self.fine(torch.cat([_double(x), fine], 1))
        logits: Tensor = self.last(x)
        return logits

    def colors(self, logits: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """The annealed mean of the colours (Zhang2016, equation 5): (B, Q, h, w) -> (B, 2, h, w), a and b."""
        return torch.einsum("bqhw,qc->bchw", (logits.float() / temperature).softmax(1), self.centres)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


def _cut(x: Tensor, top: int, left: int, side: int) -> Tensor:
    return x[..., top : top + side, left : left + side]
