"""Guidance masks: where each style is painted, at the size of every layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_SHARE = 1e-3  # of a mask, that a colour must cover to be a class
SAME_COLOUR = 40  # of 255: the largest difference in a channel between two shades of one class
MOST_CLASSES, MOST_UNSURE = 24, 0.2


def at_layer(mask: Tensor, height: int, width: int) -> Tensor:
    """Resize a mask to a layer: each position is the mean of the pixels that it covers, so edges stay soft.

    Args:
        mask: (1, 1, H, W) in [0, 1].

    Returns:
        (1, 1, height, width) in [0, 1].
    """
    return F.adaptive_avg_pool2d(mask, (height, width))


def share(mask: Tensor) -> float:
    """The fraction of the picture that a mask covers, in [0, 1]."""
    return float(mask.mean())


def classes(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The classes of a mask of flat colours; mixed colours at a border go to the nearer class.

    Args:
        mask: (1, 3, H, W) sRGB in [0, 1].

    Returns:
        labels (H, W), and the colours (K, 3) in [0, 1], the most frequent first.

    Raises:
        ValueError: the mask does not consist of a few flat colours.
    """
    pixels = (255 * mask[0].permute(1, 2, 0)).round().to(torch.int64).reshape(-1, 3)
    found, counts = torch.unique(pixels, dim=0, return_counts=True)
    order = counts.argsort(descending=True)
    colours: list[Tensor] = []
    for colour, count in zip(found[order], counts[order].tolist(), strict=True):
        if count < LEAST_SHARE * len(pixels) or len(colours) > MOST_CLASSES:
            break
        if all(int((colour - other).abs().max()) > SAME_COLOUR for other in colours):
            colours.append(colour)
    if not colours or len(colours) > MOST_CLASSES:
        raise ValueError(f"not a mask of at most {MOST_CLASSES} flat colours")
    palette = torch.stack([colour for colour in colours if _thick(pixels, colour, mask.shape[-2:])] or colours[:1])
    distance = torch.stack([(pixels - colour).abs().amax(1) for colour in palette])  # (K, H*W)
    nearest, labels = distance.min(0)
    unsure = (nearest > SAME_COLOUR).view(mask.shape[-2:]).numpy()
    if unsure.mean() > MOST_UNSURE:
        raise ValueError(f"not a mask of flat colours: {unsure.mean():.0%} of it lies between them")
    labels = labels.view(mask.shape[-2:])
    from scipy.ndimage import distance_transform_edt  # imported late: it is slow to load

    rows, columns = distance_transform_edt(unsure, return_distances=False, return_indices=True)
    return labels[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()], palette / 255


def _thick(pixels: Tensor, colour: Tensor, shape: torch.Size) -> bool:
    """Whether a colour is more than a line between two others."""
    there = ((pixels - colour).abs().amax(1) <= SAME_COLOUR).view(1, 1, *shape).float()
    inside = 1 - F.max_pool2d(1 - there, 5, 1, 2)
    return float(inside.sum()) > 0.1 * float(there.sum())
