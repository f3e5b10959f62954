"""A change of light, given to each region of a photograph by itself.

The light of a region has three parts. A table moves every colour alike, wherever it is. A curve, an affine map of
colour for each luma, and a field, an affine map and exposure for each place, add what depends on the place. All three
are smooth by construction: no edge appears that the photograph lacks, noise is not amplified, and the same light can be
given to the photograph at any size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import color

NODES = 33  # of a table along each axis
NOISE = 0.03  # standard deviation, in sRGB, of the colours that a table does not tell apart
DOUBT = 0.01  # share of a region that may belong to others: colours that it lacks move as they do there
LUMA, PLACE = 6, 8  # cells of curves along luma; of fields along height and width
COLOUR = 16.0  # price of uneven colour, relative to uneven exposure
SEEN = 1e-3  # least share of a pixel that counts
STRIP = 500_000  # pixels that are lit at once


def tables(colors: Tensor, weights: Sequence[Tensor], affine: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
    """Make the tables of all regions: how far each colour moves.

    A colour moves by its region's affine map and by the mean residual of colours up to about NOISE away (Nadaraya1964),
    so that noise does not make slopes steep. Colours that a region does not contain move as in the other regions. So
    a pixel on the wrong side of a border does not stand out, and a region without counterpart follows the others.

    Args:
        colors: (P, 3) in [0, 1], of the photograph.
        weights: (P,) for each region, of each colour.
        affine: (3, 4) for each region, the matrix and the offset.
        residuals: (P, 3) for each region, what is added to the affine map.

    Returns:
        (K, 3, N, N, N) over red, green and blue.
    """
    masses = torch.cat([_sums(colors, *each) for each in zip(residuals, weights, strict=True)])
    near, far = (_blurred(masses, factor * NOISE) for factor in (1, 3))
    axis = torch.linspace(0, 1, NODES, device=colors.device)
    nodes = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    maps = torch.stack([*affine])
    moves = torch.einsum("kij,jrgb->kirgb", maps[:, :, :3], nodes) + maps[:, :, 3, None, None, None] - nodes
    moves = moves + near[:, :3] / near[:, 3:].clamp_min(1e-9)
    mass = near[:, 3:] + DOUBT**2 * far[:, 3:]
    own, others = mass + 1e-9, DOUBT * mass.sum(0)
    moves = (own * moves + DOUBT * (mass * moves).sum(0)) / (own + others)
    luma = color.luma(nodes + moves)
    return moves + in_order(luma, own + others) - luma


def in_order(luma: Tensor, mass: Tensor) -> Tensor:
    """The nearest brightness that never falls along a line of a table that is parallel to the axis of greys.

    Where it falls, the table would draw dark and bright outlines, as in a solarised photograph.

    Args:
        luma: (K, 1, N, N, N) for each node of the tables.
        mass: of the same shape, how much each node counts.
    """
    from scipy.optimize import isotonic_regression  # imported late: it is slow to load

    values, weights = (each.cpu().double().numpy().copy() for each in (luma, mass))
    count = luma.shape[-1]
    for red, green, blue in itertools.product(range(count), repeat=3):
        if min(red, green, blue):
            continue  # a line starts where one channel is 0
        steps = np.arange(count - max(red, green, blue))
        at = (slice(None), 0, red + steps, green + steps, blue + steps)
        pairs = zip(values[at], weights[at], strict=True)
        values[at] = [isotonic_regression(line, weights=weight).x for line, weight in pairs]
    return torch.from_numpy(values).to(luma)


def _sums(colors: Tensor, moved: Tensor, weights: Tensor) -> Tensor:
    """The weighted sums of ``moved``, and the weights, at the nodes of a table: (1, 4, N, N, N).

    The weights are scaled so that they add up to 1.
    """
    position = colors.clamp(0, 1) * (NODES - 1)
    low = position.floor().clamp(max=NODES - 2)
    above, low = position - low, low.long()
    weights = weights / weights.sum().clamp_min(1e-9)
    values = weights * torch.cat([moved.T, torch.ones_like(weights)[None]])
    sums = values.new_zeros(4, NODES**3)
    for corner in torch.cartesian_prod(*[torch.arange(2, device=low.device)] * 3):
        red, green, blue = (low + corner).unbind(1)
        share = torch.where(corner.bool(), above, 1 - above).prod(1)
        sums.index_add_(1, (red * NODES + green) * NODES + blue, values * share)
    return sums.view(1, 4, NODES, NODES, NODES)


def _blurred(sums: Tensor, sigma: float) -> Tensor:
    """Gaussian blur over colour."""
    at = torch.linspace(0, 1, NODES, device=sums.device)
    kernel = (-((at[:, None] - at) / sigma).square() / 2).exp() / (sigma * NODES)
    for _ in range(3):
        sums = torch.tensordot(sums, kernel, ([2], [0]))  # moves the axis to the end: three times, all are in place
    return sums


def neutral(count: int) -> Tensor:
    """The curves and fields of so many regions that change nothing, (K, 12 L + 13 Y X) for L, Y, X cells."""
    return torch.zeros(count, 12 * LUMA + 13 * PLACE**2)


def _split(added: Tensor) -> tuple[Tensor, Tensor]:
    """Curves, (K, 12, L, 1, 1), and fields, (K, 13, 1, Y, X): affine maps and, last, exposure."""
    curves, fields = added[:, : 12 * LUMA], added[:, 12 * LUMA :]
    return curves.view(-1, 12, LUMA, 1, 1), fields.view(-1, 13, 1, PLACE, PLACE)


def unevenness(added: Tensor) -> Tensor:
    """Sum of squared differences between neighbouring cells, mean over regions; a curve counts at every place.

    Args:
        added: curves and fields, of the shape of `neutral`.
    """
    curves, fields = _split(added)
    return _priced([curves.diff(dim=2)], [fields.diff(dim=axis) for axis in (3, 4)]) / len(added)


def size(added: Tensor) -> Tensor:
    """Sum of squares of curves and fields, mean over regions, at the prices of `unevenness`."""
    curves, fields = _split(added)
    return _priced([curves], [fields]) / len(added)


def _priced(curves: Sequence[Tensor], fields: Sequence[Tensor]) -> Tensor:
    price = torch.tensor([COLOUR] * 12 + [1.0], device=fields[0].device)[:, None, None, None]
    sums = [PLACE**2 * each.square().sum() for each in curves] + [(price * each.square()).sum() for each in fields]
    return torch.stack(sums).sum()


class Scene:
    """A photograph, ready to be lit.

    Args:
        photograph: (1, 3, H, W) sRGB in [0, 1].
        shares: of each region, (1, 1, H, W); they sum to 1.
        tables: from `tables`, (K, 3, N, N, N).
        top, bottom: where the photograph's rows lie in the whole picture, from 0 to 1.
    """

    def __init__(
        self, photograph: Tensor, shares: Sequence[Tensor], tables: Tensor, top: float = 0.0, bottom: float = 1.0
    ) -> None:
        self.shape = photograph.shape
        colors = photograph[0].flatten(1)  # (3, P)
        height, width = photograph.shape[-2:]
        down = top + (bottom - top) * (torch.arange(height, device=colors.device) + 0.5) / height
        along = (torch.arange(width, device=colors.device) + 0.5) / width
        grid = torch.meshgrid(down, along, indexing="ij")
        place = 2 * torch.stack([grid[1].flatten(), grid[0].flatten(), color.luma(photograph).flatten()], 1) - 1
        self.parts = []
        for share, table in zip(shares, tables, strict=True):
            inside = (share.flatten() > SEEN).nonzero()[:, 0]
            own = colors[:, inside]
            moved = own + _sample(table[None], 2 * own.T.flip(1) - 1)
            affine = torch.cat([own - 0.5, torch.full_like(own[:1], 0.5)])
            self.parts.append((inside, share.flatten()[inside], moved, affine, place[inside]))

    def lit(self, added: Tensor) -> Tensor:
        """The photograph in this light, (1, 3, H, W), not clamped.

        Args:
            added: curves and fields, of the shape of `neutral`; the result is differentiable in them.
        """
        result = added.new_zeros(3, self.shape[-2] * self.shape[-1])
        curves, fields = _split(added)
        # Smoothly enlarged, or the cells' borders would show.
        fields = F.interpolate(fields[:, :, 0], [8 * PLACE] * 2, mode="bicubic", align_corners=True)[:, :, None]
        for curve, field, (inside, share, moved, affine, place) in zip(curves, fields, self.parts, strict=True):
            here = _sample(field[None], place)
            change = ((_sample(curve[None], place) + here[:12]).view(3, 4, -1) * affine).sum(1)
            result = result.index_add(1, inside, share * here[12].exp() * (moved + change))
        return result.view(self.shape)


def lit(photograph: Tensor, shares: Sequence[Tensor], tables: Tensor, added: Tensor) -> Tensor:
    """A photograph in this light, computed in strips.

    Args:
        photograph: (1, 3, H, W) sRGB in [0, 1], of any size.
        shares: of each region, (1, 1, H, W); they sum to 1.
        tables: from `tables`, (K, 3, N, N, N).
        added: curves and fields, of the shape of `neutral`.

    Returns:
        (1, 3, H, W) sRGB, clamped to [0, 1].
    """
    height, width = photograph.shape[-2:]
    rows = max(1, STRIP // width)
    strips = []
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        cut = [each[..., top:bottom, :] for each in (photograph, *shares)]
        strips.append(Scene(cut[0], cut[1:], tables, top / height, bottom / height).lit(added))
    return torch.cat(strips, 2).clamp_(0, 1)


def _sample(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear interpolation: (1, C, D, H, W) at (P, 3) in [-1, 1], last axis first -> (C, P)."""
    at = points.view(1, 1, 1, -1, 3)
    return F.grid_sample(grid, at, mode="bilinear", padding_mode="border", align_corners=True)[0, :, 0, 0]
