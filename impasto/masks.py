"""Guidance masks: where each style is painted, at the size of every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import images
from impasto.errors import InputError

LEAST_SHARE = 1e-3  # of a mask, that a colour must cover to be a class
SAME_COLOUR = 40  # of 255: the largest difference in a channel between two shades of one class
MOST_CLASSES, MOST_UNSURE = 24, 0.2
MISFIT = 0.02  # the largest difference of two aspect ratios that is rounding
EMPTY = 0.02  # smaller values of a mask count as 0, smaller differences as none
MOST_LABEL, VOID = 150, 255  # of ADE20K and of Cityscapes; VOID is no class
# Labels above MOST_CLASSES are told from greys, which are a mask, by two values this near each other.
NEAR, OFTEN, MOST_FOUND = 8, 0.01, 50
# The colours of labels, more than SAME_COLOUR apart: black, white, the mixtures of full channels, and others.
LABELS = torch.tensor(sorted(product(range(6), repeat=3), key=lambda c: (not {*c} <= {0, 5}, len({*c}), c))) / 5


def read(source: images.Source) -> Tensor:
    """Read where a style is painted, or which part of a style is used.

    Args:
        source: white areas count. In a picture of 0 and 1, those with 1; in a picture of one colour on transparency,
            the opaque ones. A tensor is taken as it is.

    Returns:
        (1, 1, H, W) in [0, 1].

    Raises:
        InputError: the mask is black everywhere, or a map of several labels.
        ImageError: the source cannot be read.
    """
    if isinstance(source, Tensor):
        return images.to_tensor(source).mean(1, keepdim=True)
    picture = images.read(source)
    mask = picture.image.mean(1, keepdim=True)
    if picture.alpha is not None:
        seen = mask[picture.alpha > 0.5]
        flat = not seen.numel() or float(seen.max() - seen.min()) < EMPTY
        mask = picture.alpha if flat else mask * picture.alpha
    elif (labels := _labels(picture.image)) is not None:
        if int(labels.max()) > 1:
            most = int(labels.max())
            raise InputError(f"{picture.name}: has the labels 0 to {most}; give a mask that is white in one area")
        mask = (labels == 1)[None, None].float()
    if float(mask.max()) < EMPTY:
        raise InputError(f"{picture.name}: is black everywhere; a mask is white where its style counts")
    return mask


def visible(styles: Sequence[images.Source], style_masks: Sequence[images.Source]) -> list[Tensor]:
    """The masks of styles, (1, 1, H, W) each: the given ones, without what is transparent in a style; or none."""
    alphas = [each.alpha if isinstance(each, images.Picture) else None for each in styles]
    if not style_masks and all(alpha is None for alpha in alphas):
        return []
    given = [read(each) for each in style_masks] or [torch.ones_like(images.to_tensor(each)[:, :1]) for each in styles]
    return [
        mask if alpha is None else alpha * images.resize(mask, alpha.shape[-2], alpha.shape[-1])
        for mask, alpha in zip(given, alphas, strict=True)
    ]


def stretched(mask: images.Picture, picture: images.Picture) -> str | None:
    """A note if a mask has another shape than its picture, to which it is stretched; None otherwise."""
    (height, width), (tall, wide) = mask.image.shape[-2:], picture.image.shape[-2:]
    if abs(height * wide / (width * tall) - 1) <= MISFIT:
        return None
    return f"{mask.name}: {width} x {height} pixels, stretched to the shape of {picture.name}, {wide} x {tall}"


def read_classes(source: images.Source) -> Tensor:
    """Read a mask of flat colours, for `classes`; a map of labels 0, 1, 2, ... gets colours.

    Args:
        source: a picture; what is transparent is a class of its own.

    Returns:
        (1, 3, H, W) sRGB in [0, 1].

    Raises:
        ImageError: the source cannot be read.
    """
    picture = images.read(source)
    if picture.alpha is not None:
        seen = picture.alpha > 0.5
        dark = bool((picture.image.amax(1, keepdim=True)[seen] < EMPTY).any())
        return torch.where(seen, picture.image, 1.0 if dark else 0.0)
    labels = _labels(picture.image)
    return picture.image if labels is None else LABELS[labels].permute(2, 0, 1)[None]


def _labels(image: Tensor) -> Tensor | None:
    """The labels (H, W) in a picture of small integers, -1 for `VOID`; None for any other."""
    for full in (65535, 255):
        numbers = image[0] * full
        if float(numbers.max()) < VOID + 0.5 and bool((numbers == numbers[:1]).all()):
            found = numbers[0].round().long()
            if float((numbers[0] - found).abs().max()) < 0.01 and _are_labels(found.flatten().bincount()):
                return torch.where(found == VOID, -1, found)
    return None


def _are_labels(counts: Tensor) -> bool:
    """Whether these are labels and no greys, by how often each value occurs."""
    if len(counts) <= MOST_CLASSES + 1:  # nearly black
        return len(counts) > 1
    values = counts[:VOID].nonzero().flatten()
    often = (counts[:VOID] >= OFTEN * counts.sum()).nonzero().flatten()
    return 1 < len(values) <= MOST_FOUND and int(values[-1]) <= MOST_LABEL and bool((often.diff() < NEAR).any())


def at_layer(mask: Tensor, height: int, width: int) -> Tensor:
    """Resize a mask to a layer: each position is the mean of the pixels that it covers, so edges stay soft.

    Args:
        mask: (1, 1, H, W) in [0, 1].
        height, width: of the layer.

    Returns:
        (1, 1, height, width) in [0, 1].
    """
    return images.means(mask, height, width)


def share(mask: Tensor) -> float:
    """The fraction of the picture that a mask covers, in [0, 1]."""
    return float(mask.mean())


def compose(
    base: Tensor, paint: Callable[[int, Tensor], Tensor], regions: Sequence[Tensor], parts: Sequence[float]
) -> Tensor:
    """Pictures in their regions, mixed where regions overlap; elsewhere the ``base``.

    Args:
        base: (B, 3, H, W).
        paint: number and mask of a region -> its picture, (B, 3, H, W), which is changed; not called for empty masks
            or shares of 0, where the base stays.
        regions: (1, 1, h, w) in [0, 1] for each region.
        parts: the share of each picture where regions overlap.

    Returns:
        (B, 3, H, W).
    """
    regions = [images.resize(mask.to(base), *base.shape[-2:]) for mask in regions]
    total = torch.stack([part * mask for part, mask in zip(parts, regions, strict=True)]).sum(0).clamp_min(1e-6)
    painted = [mask for part, mask in zip(parts, regions, strict=True) if part]
    covered = torch.stack(painted).sum(0).clamp(max=1)
    result = base * (1 - covered)
    for index, (part, mask) in enumerate(zip(parts, regions, strict=True)):
        if part and mask.any():
            result += paint(index, mask).mul_(covered * part * mask / total)
    return result


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
    """Whether a colour fills areas; mixed colours form only thin lines between two others."""
    there = ((pixels - colour).abs().amax(1) <= SAME_COLOUR).view(1, 1, *shape).float()
    inside = 1 - F.max_pool2d(1 - there, 5, 1, 2)
    return float(inside.sum()) > 0.1 * float(there.sum())
