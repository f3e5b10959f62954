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
# A sector with this standard deviation, of the three channels together, weighs half as much as an even one.
EVEN = 3 / 255
LENGTH = 4  # pixels along an edge, to either side, over which it is smoothed
REACH = RADIUS + LENGTH + 1  # pixels, to either side, that a result depends on
BAND = 1 << 18  # pixels that are filtered at once; each takes 440 bytes


def filtered(image: Tensor, amount: float = 1.0) -> Tensor:
    """A painting without fine marks, and with crisp edges.

    Args:
        image: (B, 3, H, W) float32 in [0, 1].
        amount: 0 changes nothing, 1 is the filtered painting; in between, a mixture.

    Returns:
        (B, 3, H, W) in [0, 1]; ``image`` itself if the amount is 0.
    """
    if amount == 0:
        return image
    batch, _, height, width = image.shape
    rows, result = max(1, BAND // (batch * width)), torch.empty_like(image)
    for top in range(0, height, rows):
        first = max(0, top - REACH)
        band = filtered_at_once(image[..., first : top + rows + REACH, :])[..., top - first : top - first + rows, :]
        result[..., top : top + rows, :] = image[..., top : top + rows, :].lerp(band, amount)
    return result


def filtered_at_once(image: Tensor) -> Tensor:
    """`filtered` without bands, which ONNX can express for pictures of any size: (B, 3, H, W) in [0, 1]."""
    return along_edges(evenest(image)).clamp(0, 1)


def evenest(image: Tensor) -> Tensor:
    """The means of the sectors around each pixel, weighted by how even the sectors are (Papari2007): (B, 3, H, W)."""
    (batch, _, height, width), kernels = image.shape, _sectors().to(image)
    padded = F.pad(image, [RADIUS] * 4, "replicate")
    planes = torch.cat([padded, padded.square().sum(1, keepdim=True)], 1).flatten(0, 1)[:, None]
    planes = planes.contiguous(memory_format=torch.channels_last)  # twice as fast
    # Variances need all digits of a float32.
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        sums = F.conv2d(planes, kernels)
    sums = sums.contiguous().view(batch, 4, SECTORS, height, width)
    means, squares = sums[:, :3], sums[:, 3]
    variance = (squares - means.square().sum(1)).clamp_min(0)
    weights = 1 / (1 + (variance / EVEN**2).square().square())
    return (weights[:, None] * means).sum(2) / weights.sum(1, keepdim=True)


def along_edges(image: Tensor) -> Tensor:
    """Smooth a picture along its edges, by a Gaussian on a straight line through each pixel: (B, 3, H, W).

    The less certain an edge's direction is, the shorter is the line.
    """
    direction, total = _directions(image), 1.0
    result = image.clone()
    for distance in range(1, LENGTH, 2):
        near, far = (math.exp(-2 * (d / LENGTH) ** 2) for d in (distance, distance + 1))
        place = distance + far / (near + far)  # bilinear interpolation reads both pixels at once
        for step in (place, -place):
            result += (near + far) * flow.warp(image, step * direction, "bilinear")
            total += near + far
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
    """The direction of the edge at each pixel, x before y: (B, 2, H, W). Its length is its certainty, 0 to 1.

    It is the eigenvector of the structure tensor with the smaller eigenvalue.
    """
    luma = F.pad(color.luma(image), [1] * 4, "replicate")
    dx, dy = luma[..., 1:-1, 2:] - luma[..., 1:-1, :-2], luma[..., 2:, 1:-1] - luma[..., :-2, 1:-1]
    tensor = torch.cat([dx * dx, dx * dy, dy * dy], 1)
    xx, xy, yy = F.avg_pool2d(F.pad(tensor, [2] * 4, "replicate"), 5, 1).chunk(3, 1)
    difference = ((xx - yy).square() + 4 * xy.square()).sqrt()  # of the eigenvalues
    angle = torch.atan2(2 * xy, xx - yy) / 2  # of the normal
    certain = difference / (xx + yy + 1e-8)
    return certain * torch.cat([-angle.sin(), angle.cos()], 1)
