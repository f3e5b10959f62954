"""A change of light, given to each region of a photograph by itself.

The light of a region has three parts. A table moves every colour alike, wherever it is; it comes from optimal
transport (Pitie2007). A curve is an affine map of colour for each luma, which an optimisation may add. Exposure, which
it may add too, also varies with the place: a coarse grid over luma and position (Chen2007). Only exposure depends on
the place, since light that is uneven in colour looks like stains. All three are smooth by construction: no edge appears
that the photograph lacks, noise is not amplified, and the same light can be given to the photograph at any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import color

NODES = 33  # of a table along each axis
NOISE = 0.03  # standard deviation, in sRGB, of the colours that a table does not tell apart
DOUBT = 0.01  # share of a region that may belong to others: colours that it lacks move as they do there
LUMA, PLACE = 6, 8  # cells of curves and exposure along luma; of exposure along height and width
SEEN = 1e-3  # least share of a pixel that counts
STRIP = 500_000  # pixels that are lit at once


def displacements(colors: Tensor, moved: Tensor, weights: Tensor) -> Tensor:
    """Collect how far colours move at the nodes of a table.

    Args:
        colors, moved: (P, 3) in [0, 1], before and after.
        weights: (P,), of each colour.

    Returns:
        (1, 4, N, N, N) over red, green and blue: the weighted sums of the differences, and of the weights.
    """
    position = colors.clamp(0, 1) * (NODES - 1)
    low = position.floor().clamp(max=NODES - 2)
    above, low = position - low, low.long()
    values = weights * torch.cat([(moved - colors).T, torch.ones_like(weights)[None]])
    sums = values.new_zeros(4, NODES**3)
    for corner in torch.cartesian_prod(*[torch.arange(2, device=low.device)] * 3):
        red, green, blue = (low + corner).unbind(1)
        share = torch.where(corner.bool(), above, 1 - above).prod(1)
        sums.index_add_(1, (red * NODES + green) * NODES + blue, values * share)
    return sums.view(1, 4, NODES, NODES, NODES)


def tables(sums: Sequence[Tensor]) -> Tensor:
    """The tables of all regions, (K, 3, N, N, N), from what `displacements` returned for each.

    A displacement is the mean over colours up to about NOISE away (Nadaraya1964), so slopes grow only with what stands
    out of the noise. Colours that a region lacks move as the other regions' do, or else as the nearest that it has. So
    a pixel on the wrong side of a border does not shine, and a region without counterpart follows the others.
    """
    masses = torch.cat([*sums])
    masses = masses / masses[:, 3:].sum((2, 3, 4), keepdim=True).clamp_min(1e-9)
    near, far = (_blurred(masses, factor * NOISE) for factor in (1, 3))
    whole = masses.sum((0, 2, 3, 4)).view(1, 4, 1, 1, 1) / NODES**3
    found = near + DOUBT * near.sum(0) + DOUBT**2 * (far + DOUBT * far.sum(0)) + DOUBT**4 * whole
    return found[:, :3] / found[:, 3:]


def _blurred(sums: Tensor, sigma: float) -> Tensor:
    """Gaussian blur over colour."""
    at = torch.linspace(0, 1, NODES, device=sums.device)
    kernel = (-((at[:, None] - at) / sigma).square() / 2).exp() / (sigma * NODES)
    for _ in range(3):
        sums = torch.tensordot(sums, kernel, ([2], [0]))  # moves the axis to the end: three times, all are in place
    return sums


def neutral(count: int) -> Tensor:
    """The curves and exposures of so many regions that change nothing, (K, 12 L + L Y X) for L, Y, X cells."""
    return torch.zeros(count, LUMA * (12 + PLACE**2))


def _split(added: Tensor) -> tuple[Tensor, Tensor]:
    """(K, 12, L, 1, 1) curves and (K, 1, L, Y, X) exposures."""
    return (
        added[:, : 12 * LUMA].view(-1, 12, LUMA, 1, 1),
        added[:, 12 * LUMA :].view(-1, 1, LUMA, PLACE, PLACE),
    )


def unevenness(added: Tensor) -> Tensor:
    """Sum of squared differences between neighbouring cells, mean over regions; a curve counts at every place."""
    curve, exposure = _split(added)
    across = [exposure.diff(dim=axis).square().sum() for axis in (2, 3, 4)]
    return (PLACE**2 * curve.diff(dim=2).square().sum() + torch.stack(across).sum()) / len(added)


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
        """The photograph in this light, (1, 3, H, W) in [0, 1].

        Args:
            added: curves and exposures, of the shape of `neutral`; the result is differentiable in them.
        """
        result = added.new_zeros(3, self.shape[-2] * self.shape[-1])
        for curve, exposure, (inside, share, moved, affine, place) in zip(*_split(added), self.parts, strict=True):
            change = (_sample(curve[None], place).view(3, 4, -1) * affine).sum(1)
            gain = _sample(exposure[None], place).exp()
            result = result.index_add(1, inside, share * gain * (moved + change))
        return result.view(self.shape).clamp(0, 1)


def lit(photograph: Tensor, shares: Sequence[Tensor], tables: Tensor, added: Tensor) -> Tensor:
    """A photograph in this light, computed in strips.

    Args:
        photograph: (1, 3, H, W) sRGB in [0, 1], of any size.
        shares: of each region, (1, 1, H, W); they sum to 1.
        tables: from `tables`, (K, 3, N, N, N).
        added: curves and exposures, of the shape of `neutral`.
    """
    height, width = photograph.shape[-2:]
    rows = max(1, STRIP // width)
    strips = []
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        cut = [each[..., top:bottom, :] for each in (photograph, *shares)]
        strips.append(Scene(cut[0], cut[1:], tables, top / height, bottom / height).lit(added))
    return torch.cat(strips, 2)


def _sample(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear interpolation: (1, C, D, H, W) at (P, 3) in [-1, 1], last axis first -> (C, P)."""
    at = points.view(1, 1, 1, -1, 3)
    return F.grid_sample(grid, at, mode="bilinear", padding_mode="border", align_corners=True)[0, :, 0, 0]
