"""Guidance masks: where each style is painted, at the size of every layer."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def at_layer(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask at a layer's size, each position the mean of the pixels that it covers: edges stay soft.

    Args:
        mask: (1, 1, H, W) in [0, 1].

    Returns:
        (1, 1, height, width) in [0, 1].
    """
    return F.adaptive_avg_pool2d(mask, (height, width))


def share(mask: Tensor) -> float:
    """The part of the picture that a mask covers, in [0, 1]."""
    return float(mask.mean())
