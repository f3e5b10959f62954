"""Removal of the halos that networks paint around what stands in front of an even area, such as a tower's before a sky.

A network sees an edge from some distance, so it paints the area near it in other colours. In the photograph the area is
even. What the painting has there in broad shapes, and what colour does not explain over a wider area, is the halo.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import color, images
from impasto.matting import Guide, widest

SIDE = 240  # long edge in pixels at which halos are found; they are broader than a stroke
NEAR = 3  # radius of the windows that separate halo and strokes, in pixels
COARSE, WIDE = 80, 6  # long edge and radius, in pixels, for the windows that know an area's colours
EPSILON = 2e-3  # of both regressions, see `matting.Guide`
REACH = 9  # pixels from an edge
EDGE, FULL, EVEN = 0.04, 0.14, 0.05  # deviation of luma in 3 x 3 pixels: of no edge, of a strong edge; of no even area


def removed(painted: Tensor, photograph: Tensor) -> Tensor:
    """A painting with its halos taken away.

    Args:
        painted, photograph: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    if widest(images.at_most(photograph, SIDE)) < NEAR:
        return painted
    pairs = zip(*(images.at_most(x, SIDE).chunk(len(x)) for x in (painted, photograph)), strict=True)
    found = torch.cat([_halo(*pair) for pair in pairs])
    return images.resize(found, *painted.shape[-2:]).neg_().add_(painted).clamp_(0, 1)


def _halo(painted: Tensor, photograph: Tensor) -> Tensor:
    """What a painting, (1, 3, h, w), has too much near edges of the photograph."""
    coarse = [images.at_most(x, COARSE) for x in (painted, photograph)]
    wide = Guide(coarse[1], radius=min(WIDE, widest(coarse[1])), epsilon=EPSILON).lift(coarse[0], photograph)
    return _where(photograph) * Guide(photograph, radius=NEAR, epsilon=EPSILON).filter(painted - wide)


def _where(photograph: Tensor) -> Tensor:
    """How much each pixel of (1, 3, h, w) lies in an even area near an edge, (1, 1, h, w) in [0, 1]."""
    luma = color.luma(photograph)
    rough = (_mean(luma.square(), 1) - _mean(luma, 1).square()).clamp_min(0).sqrt()
    edges = _mean(F.max_pool2d(rough, 2 * REACH + 1, 1, REACH), REACH)
    return ((edges - EDGE) / (FULL - EDGE)).clamp(0, 1) * (1 - rough / EVEN).clamp(0, 1)


def _mean(x: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(F.pad(x, [radius] * 4, "replicate"), 2 * radius + 1, 1)
