"""A photograph in the colours of paintings, to start an optimisation from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from impasto import color, images, matting

PALETTE = 128  # long edge of the photograph when its colours are matched


def recolor(
    photograph: Tensor,
    styles: Sequence[Tensor],
    style_weights: Sequence[float] = (),
    content_masks: Sequence[Tensor] = (),
    style_masks: Sequence[Tensor] = (),
) -> Tensor:
    """Recolour a photograph with the styles' palettes: each in its region, or all of them blended.

    Args:
        photograph: (1, 3, H, W) sRGB in [0, 1].
        styles: (1, 3, h, w) each.
        style_weights: of the styles; empty: equal weights.
        content_masks: empty, or (1, 1, H', W') for each style: the part of the photograph that it recolours.
        style_masks: empty, or (1, 1, h', w') for each style: the part of the style that counts.

    Returns:
        (1, 3, H, W) sRGB in [0, 1]; the photograph where no style is painted.
    """
    shares = style_weights or (1.0,) * len(styles)
    inside: Sequence[Tensor | None] = [images.resize(mask, *photograph.shape[-2:]) for mask in content_masks]
    total, weight = torch.zeros_like(photograph), torch.zeros_like(photograph[:, :1])
    for index, (style, share) in enumerate(zip(styles, shares, strict=True)):
        mask = inside[index] if content_masks else None
        part = share * (torch.ones_like(weight) if mask is None else mask)
        total += part * _in_palette(photograph, style, mask, style_masks[index] if style_masks else None)
        weight += part
    # Where no style is painted, the photograph stays.
    return torch.where(weight > 1e-6, total / weight.clamp_min(1e-6), photograph)


def _in_palette(photograph: Tensor, style: Tensor, content_mask: Tensor | None, style_mask: Tensor | None) -> Tensor:
    """The photograph in the style's colours.

    Colours are moved in a small copy. The photograph then follows it as a smooth affine map of its own colours
    (He2015), which keeps edges and does not amplify noise.
    """
    small = images.at_most(photograph, PALETTE)
    sample = images.at_most(style, 2 * PALETTE)  # smaller, strokes would mix to grey
    inside = None if content_mask is None else images.resize(content_mask, *small.shape[-2:])
    counted = None if style_mask is None else images.resize(style_mask, *sample.shape[-2:])
    moved = color.transport_colors(small, sample, inside, counted)
    radius = min(4, matting.widest(small))
    guide = matting.Guide(small, radius=radius, epsilon=1e-3, weight=inside)
    return guide.lift(moved, photograph).clamp_(0, 1)
