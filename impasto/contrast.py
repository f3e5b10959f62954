"""Faint forms of a photograph, such as clouds: brought out before it is painted, and painted with bold strokes.

`onepass.apply` does both.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import color, images

CELLS = 48  # along the long edge, in which the local contrast is measured
CONTRAST = 0.16  # standard deviation of luma up to which local contrast is raised
GAIN = 3.0  # by which it is raised at most
NOISE, FORM = 0.01, 0.03  # standard deviation up to which nothing is raised; from which all of it
STRONG = 0.15  # standard deviation from which no strokes are added; below half of it, all of them
# Standard deviation of details, without gradients and noise: up to `EVEN`, an area gets no strokes; from `UNEVEN` on,
# all of them.
EVEN, UNEVEN = 0.004, 0.007


def clarify(image: Tensor, amount: float = 1.0, like: Tensor | None = None) -> Tensor:
    """Bring out faint forms, such as clouds: raise the local contrast of luma where it is low (Wallis1976).

    Areas that are even, apart from noise, stay as they are.

    Args:
        image: (B, 3, H, W) in [0, 1].
        amount: 0 changes nothing; 1 raises the local standard deviation up to `CONTRAST`, by `GAIN` at most.
        like: a picture of the same scene and size. Areas that are even in it stay as they are, too, and what lies near
            them, within a sixteenth of the long edge. So strokes in a clear sky do not become stronger.

    Returns:
        (B, 3, H, W) in [0, 1]; ``image`` itself if the amount is 0.
    """
    if amount == 0:
        return image
    brightness, shape, grid = color.luma(image), image.shape[-2:], _grid(image)
    mean, deviation = _mean_and_deviation(F.interpolate(_moments(brightness, grid), shape, mode="bilinear"))
    gain = (CONTRAST / deviation).clamp(1, GAIN) - 1
    gain *= _ramp(deviation, NOISE, FORM)
    if like is not None:
        # The lowest deviation nearby, so that a tower does not make the sky around it count as uneven.
        least = _least(_deviation(color.luma(like), grid), 7)
        gain *= F.interpolate(_ramp(least, NOISE, FORM), shape, mode="bilinear")
    return (image + amount * gain * (brightness - mean)).clamp_(0, 1)


def underpaint(photograph: Tensor, painted: Tensor, amount: float = 1.0) -> Tensor:
    """Add a painting's strokes to the photograph where its forms are faint, before it is painted again.

    Networks paint faint forms with weak strokes. Where they find strokes, they paint bold ones. Areas that are even in
    the photograph, and those with strong forms, such as windows, stay as they are.

    Args:
        photograph: (B, 3, H, W) in [0, 1].
        painted: (B, 3, h, w) in [0, 1], of any size.
        amount: 0 changes nothing; 1 adds the strokes as they are painted.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    shape, where = photograph.shape[-2:], _faintness(photograph)
    brightness = images.resize(color.luma(painted), *shape)
    # The mean nearby is that of the faint parts: a dark tower would make the sky around it count as a light stroke.
    sums = _nearby(torch.cat([where * brightness, where], 1), _grid(photograph))
    total, share = F.interpolate(sums, shape, mode="bilinear").chunk(2, 1)
    return (photograph + amount * where * (brightness - total / share.clamp_min(1e-6))).clamp_(0, 1)


def _faintness(photograph: Tensor) -> Tensor:
    """Where a photograph has faint forms: (B, 3, H, W) -> (B, 1, H, W) in [0, 1]."""
    brightness, grid = color.luma(photograph), _grid(photograph)
    strongest = F.max_pool2d(_deviation(brightness, grid), 3, 1, 1)
    # Means of three by three pixels or more have less noise.
    fine = (max(cells, min(4 * cells, side // 3)) for cells, side in zip(grid, photograph.shape[-2:], strict=True))
    small = images.means(brightness, *fine)
    detail = small - F.interpolate(_nearby(small, grid), small.shape[-2:], mode="bilinear")
    weakest = _least(_deviation(detail, grid), 7)
    where = _ramp(weakest, EVEN, UNEVEN) * _ramp(strongest, STRONG, STRONG / 2)
    return F.interpolate(_smooth(where), photograph.shape[-2:], mode="bilinear")


def _grid(image: Tensor) -> tuple[int, int]:
    """Rows and columns of the cells in which local contrast is measured."""
    sides = image.shape[-2:]
    rows, columns = (max(1, min(side, round(CELLS * side / max(sides)))) for side in sides)
    return rows, columns


def _nearby(planes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means around each cell: (B, C, H, W) -> (B, C, rows, columns)."""
    return _smooth(_smooth(images.means(planes, *grid)))


def _moments(brightness: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means of a channel and of its square around each cell: (B, 1, H, W) -> (B, 2, rows, columns)."""
    return _nearby(torch.cat([brightness, brightness.square()], 1), grid)


def _mean_and_deviation(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (B, 1, h, w) each, from the means of values and of their squares."""
    mean, square = moments.chunk(2, 1)
    return mean, (square - mean.square()).clamp_min(1e-8).sqrt()


def _deviation(brightness: Tensor, grid: tuple[int, int]) -> Tensor:
    """The standard deviation of a channel around each cell: (B, 1, H, W) -> (B, 1, rows, columns)."""
    return _mean_and_deviation(_moments(brightness, grid))[1]


def _smooth(x: Tensor) -> Tensor:
    """Means of 3 x 3 cells; along a border, of the cells on it only: a gradient keeps its slope. Corners stay."""
    for axis in (2, 3):
        if x.shape[axis] > 2:
            x = torch.cat([x.narrow(axis, 0, 1), x.unfold(axis, 3, 1).mean(-1), x.narrow(axis, -1, 1)], axis)
    return x


def _least(x: Tensor, side: int) -> Tensor:
    """The smallest value in the square around each cell."""
    return -F.max_pool2d(-x, side, 1, side // 2)


def _ramp(x: Tensor, zero: float, one: float) -> Tensor:
    """0 at ``zero`` and 1 at ``one``, linear between them, constant beyond; ``zero`` may be the larger one."""
    return ((x - zero) / (one - zero)).clamp(0, 1)
