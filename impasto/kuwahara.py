"""The Kuwahara filter: fine marks disappear, and strokes get crisp edges (Kuwahara1976, Papari2007).

Around each pixel lie eight overlapping sectors of a disc. The filter takes the mean colour of the most even ones, so it
does not blur across an edge. The edges that it leaves are jagged; smoothing along them makes them clean, as in
Kyprianidis2011.

`onepass.apply` filters what a network paints.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import color, flow

RADIUS = 3  # of the disc, in pixels
SECTORS = 8
EVEN = 3 / 255  # standard deviation over the three channels together at which a sector's weight is a half
LENGTH = 4  # pixels along an edge, to either side, over which it is smoothed
REACH = RADIUS + LENGTH + 5  # pixels, to either side, that a result depends on
BAND = 1 << 20  # pixels that are filtered at once


def filtered(image: Tensor, amount: float = 1.0) -> Tensor:
    """A painting without fine marks, and with crisp edges.

    Args:
        image: (B, 3, H, W) in [0, 1].
        amount: 0 changes nothing, 1 is the filtered painting; in between, a mixture.

    Returns:
        (B, 3, H, W) in [0, 1]; ``image`` itself if the amount is 0.
    """
    if amount == 0:
        return image
    height, width = image.shape[-2:]
    rows, result = max(1, BAND // width), torch.empty_like(image)
    for top in range(0, height, rows):
        first = max(0, top - REACH)
        band = whole(image[..., first : top + rows + REACH, :])[..., top - first : top - first + rows, :]
        result[..., top : top + rows, :] = image[..., top : top + rows, :].lerp(band, amount)
    return result


def whole(image: Tensor) -> Tensor:
    """`filtered` in one piece, which can be exported to ONNX for pictures of any size: (B, 3, H, W) in [0, 1]."""
    return along_edges(kuwahara(image)).clamp(0, 1)


def kuwahara(image: Tensor) -> Tensor:
    """The means of the sectors around each pixel, weighted by how even the sectors are (Papari2007): (B, 3, H, W)."""
    (batch, _, height, width), kernels = image.shape, _sectors().to(image)
    padded = F.pad(image, [RADIUS] * 4, "replicate")
    planes = torch.cat([padded, padded.square().sum(1, keepdim=True)], 1).flatten(0, 1)[:, None]
    sums = F.conv2d(planes.contiguous(memory_format=torch.channels_last), kernels)  # twice as fast as contiguous
    sums = sums.contiguous().view(batch, 4, SECTORS, height, width)
    means, squares = sums[:, :3], sums[:, 3]
    variance = (squares - means.square().sum(1)).clamp_min(0)
    weights = 1 / (1 + (variance / EVEN**2).square().square())
    return (weights[:, None] * means).sum(2) / weights.sum(1, keepdim=True)


def along_edges(image: Tensor) -> Tensor:
    """Smooth a picture along its edges, by line integral convolution (Cabral1993): (B, 3, H, W).

    Where no direction prevails, nothing is smoothed.
    """
    direction, total = _directions(image), 1.0
    result = image.clone()
    for distance in range(2, LENGTH + 1, 2):  # interpolation covers the pixels between
        weight = math.exp(-2 * (distance / LENGTH) ** 2)
        for step in (distance, -distance):
            result += weight * flow.warp(image, step * direction, "bilinear")
            total += weight
    return result / total


def _sectors() -> Tensor:
    """The weights of the pixels in each sector, (SECTORS, 1, side, side): Gaussian in distance and in angle."""
    places = torch.arange(2.0 * RADIUS + 1) - RADIUS
    y, x = torch.meshgrid(places, places, indexing="ij")
    distance, angle = (x.square() + y.square()) / RADIUS**2, torch.atan2(y, x)
    middles = 2 * math.pi / SECTORS * torch.arange(SECTORS).view(-1, 1, 1)
    apart = (angle - middles + math.pi) % (2 * math.pi) - math.pi
    weights = torch.exp(-2 * distance - (apart * SECTORS / math.pi).square() / 2) * (distance <= 1)
    weights[:, RADIUS, RADIUS] = 1 / SECTORS  # the pixel itself belongs to all of them
    return (weights / weights.sum((1, 2), keepdim=True))[:, None]


def _directions(image: Tensor) -> Tensor:
    """The direction of the edge at each pixel, x before y: (B, 2, H, W), as long as it is certain, 0 to 1.

    The eigenvector of the structure tensor that belongs to its smaller eigenvalue.
    """
    luma = F.pad(color.luma(image), [1] * 4, "replicate")
    dx, dy = luma[..., 1:-1, 2:] - luma[..., 1:-1, :-2], luma[..., 2:, 1:-1] - luma[..., :-2, 1:-1]
    tensor = torch.cat([dx * dx, dx * dy, dy * dy], 1)
    xx, xy, yy = F.avg_pool2d(F.pad(tensor, [2] * 4, "replicate"), 5, 1).chunk(3, 1)
    difference = ((xx - yy).square() + 4 * xy.square()).sqrt()  # of the eigenvalues
    angle = torch.atan2(2 * xy, xx - yy) / 2  # of the normal
    certain = difference / (xx + yy + 1e-8)
    return certain * torch.cat([-angle.sin(), angle.cos()], 1)
