"""Halos and weave: what a network paints in even areas, where the photograph has nothing.

Halos are rims of another colour near an edge, for example in the sky around a tower. A network sees the edge from some
distance, so it paints the sky there in other colours. In wide windows, a linear regression predicts the painting from
the photograph's colours. The halo is what it does not explain near an edge, smoothed so that strokes are not part of
it. A weave is made of dots, meshes and other fine marks.

`onepass.apply` removes halos in the style of any painting. Training can penalise both.
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
REACH = 9  # pixels: radius of a maximum and of a mean, so an edge counts up to 18 pixels away
EDGE, FULL = 0.04, 0.14  # deviation of luma around a pixel: up to EDGE no edge, from FULL a strong one
EVEN = 0.05  # deviation of luma around a pixel from which an area is not even


def removed(painted: Tensor, photograph: Tensor) -> Tensor:
    """A painting with its halos taken away.

    Args:
        painted, photograph: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    halos = found(painted, photograph)
    return images.interpolate(halos, *painted.shape[-2:]).neg_().add_(painted).clamp_(0, 1)


def found(painted: Tensor, photograph: Tensor) -> Tensor:
    """The halos of a painting; they are linear in it within [0, 1], so a network can be trained not to paint them.

    Args:
        painted, photograph: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 3, h, w), the painting minus what it would be without halos, with a long edge of at most `SIDE` pixels.
    """
    ours, theirs = (images.at_most(x, SIDE) for x in (painted, photograph))
    if widest(theirs) < NEAR:
        return torch.zeros_like(ours)
    return torch.cat([_halo(ours[i : i + 1], theirs[i : i + 1]) for i in range(len(ours))])


def weave(painted: Tensor, photograph: Tensor) -> Tensor:
    """How strong the fine marks of a painting are where the photograph is even.

    Args:
        painted, photograph: (B, 3, H, W) in [0, 1].

    Returns:
        A scalar: the mean squared difference of the painting and its means of 3 x 3 pixels, weighted by evenness.
    """
    even = (1 - _roughness(photograph, 3) / EVEN).clamp(0, 1)
    return (even * (painted - _mean(painted, 1)).square()).mean()


def _halo(painted: Tensor, photograph: Tensor) -> Tensor:
    """The halos of one painting, both (1, 3, h, w)."""
    ours, theirs = (images.at_most(x, COARSE) for x in (painted, photograph))
    wide = Guide(theirs, radius=min(WIDE, widest(theirs)), epsilon=EPSILON).lift(ours, photograph)
    return _where(photograph) * Guide(photograph, radius=NEAR, epsilon=EPSILON).filter(painted - wide)


def _where(photograph: Tensor) -> Tensor:
    """How much each pixel of (1, 3, h, w) lies in an even area near an edge, (1, 1, h, w) in [0, 1]."""
    rough = _roughness(photograph, 1)
    edges = _mean(F.max_pool2d(rough, 2 * REACH + 1, 1, REACH), REACH)
    return ((edges - EDGE) / (FULL - EDGE)).clamp(0, 1) * (1 - rough / EVEN).clamp(0, 1)


def _roughness(photograph: Tensor, radius: int) -> Tensor:
    """The standard deviation of luma around each pixel: (B, 3, h, w) -> (B, 1, h, w)."""
    luma = color.luma(photograph)
    return (_mean(luma.square(), radius) - _mean(luma, radius).square()).clamp_min(0).sqrt()


def _mean(x: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(F.pad(x, [radius] * 4, "replicate"), 2 * radius + 1, 1)
