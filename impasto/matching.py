"""Matching regions of two photographs, drawn or found, and their borders at any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import encoder, images, masks
from impasto.matting import Guide, widest
from impasto.recipes import REGION_COLORS, Photo

DRAWN = 14  # pixels, at --size, by which a hand-drawn border may miss the photograph's edges
BORDER = 6  # pixels, at --size, within which a border is as sharp as the photograph
MASK = 1024  # largest long edge of a mask in pixels: more than the working size
LEAST_REGION = 0.02  # of a photograph; the statistics of smaller regions are not worth matching
REACH = 0.35  # largest distance, in colour space, between two masks' colours of the same class
PALETTE = torch.tensor([[*bytes.fromhex(color[1:])] for color in REGION_COLORS]) / 255
REST = torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.5, 0.0]])  # colours of what has no counterpart, in content and style


@dataclass(frozen=True)
class Regions:
    """Matching regions of two photographs.

    Attributes:
        content, style: for each region a soft mask over each photograph, (1, 1, H, W) in [0, 1], of any size. What is
            in no region has no counterpart: in the content, it follows the others; in the style, it is ignored.
        colours: (K, 3) in [0, 1], to display the regions.
        notes: messages for the user, one line each.
    """

    content: Sequence[Tensor]
    style: Sequence[Tensor]
    colours: Tensor
    notes: Sequence[str] = ()

    def at(self, content: Tensor, style: Tensor) -> Regions:
        """The same regions at the sizes and on the devices of these photographs."""
        sides = [
            [images.resize(mask.to(picture.device), picture.shape[-2], picture.shape[-1]) for mask in side]
            for side, picture in ((self.content, content), (self.style, style))
        ]
        return replace(self, content=sides[0], style=sides[1])

    def picture(self, of: Literal["content", "style"], height: int, width: int) -> Tensor:
        """The regions of one side as flat colours, (1, 3, height, width): a mask to edit."""
        side, colour = (self.content, REST[0]) if of == "content" else (self.style, REST[1])
        labels = torch.full((height, width), len(side), dtype=torch.uint8)
        rest, largest = torch.ones(height, width), torch.zeros(height, width)
        for index, mask in enumerate(side):  # one at a time: they are as large as the photograph
            share = images.resize(mask, height, width)[0, 0].cpu()
            labels[share > largest] = index
            torch.maximum(largest, share, out=largest)
            rest -= share
        labels[rest > largest] = len(side)
        colours = torch.cat([self.colours, colour[None].to(self.colours)])
        return torch.stack([channel[labels.int()] for channel in colours.T])[None]


def from_masks(content_mask: Tensor, style_mask: Tensor) -> Regions:
    """The regions of two masks of flat colours; equal colours mean the same region.

    Args:
        content_mask, style_mask: (1, 3, H, W), of any size.

    Raises:
        ValueError: a mask does not consist of flat colours, or the two have no colour in common.
    """
    (ours, palette), (theirs, others) = (masks.classes(_reduced(mask)) for mask in (content_mask, style_mask))
    distance = (palette[:, None] - others[None]).abs().amax(2)  # (K, L)
    partner = {k: int(distance[k].argmin()) for k in range(len(palette)) if float(distance[k].min()) <= REACH}
    if not partner:
        raise ValueError("the two masks have no colour in common")
    kept = sorted(partner)
    notes = [
        f"the {side} mask's {_hex(colors[k])} is not in the other mask; it {what}"
        for side, colors, found, what in (
            ("content", palette, kept, "follows the other regions"),
            ("style", others, partner.values(), "is ignored"),
        )
        for k in range(len(colors))
        if k not in found
    ]
    sides = [
        [(labels == k)[None, None].float() for k in chosen]
        for labels, chosen in ((ours, kept), (theirs, [partner[k] for k in kept]))
    ]
    if len(palette) == len(others) == 1:
        notes.append("the masks have one colour: the whole photographs are one region")
    return Regions(sides[0], sides[1], palette[kept], notes)


def find(content: Tensor, style: Tensor, recipe: Photo) -> Regions:
    """Find matching regions in both photographs, by k-means over encoder features, colour and height.

    What one photograph shows and the other does not is in no region.

    Args:
        content, style: (1, 3, H, W) sRGB in [0, 1].
        recipe: for the number of regions, the encoder and the seed.

    Returns:
        The regions, at least one, with masks of 384 pixels along the long edge.
    """
    from scipy.cluster.vq import kmeans2  # imported late: it is slow to load

    vgg = encoder.load(recipe.encoder).to(content.device)
    small = [images.to_size(picture, 384) for picture in (content, style)]
    described, shapes = [], []
    for picture in small:
        with torch.no_grad():
            features = vgg(picture, ["relu4_1"])["relu4_1"][0]  # (C, h, w)
        shapes.append(features.shape[-2:])
        colour = images.means(picture, *shapes[-1])[0].flatten(1).T
        # Relative to each photograph's own mean, a night sky matches a day sky despite its colours.
        colour = (colour - colour.mean(0)) / (colour.std() + 0.05)
        features = features.flatten(1).T
        height = torch.linspace(-1, 1, shapes[-1][0], device=features.device)[:, None].expand(shapes[-1]).reshape(-1, 1)
        described.append(torch.cat([F.normalize(features - features.mean(0)), 0.12 * colour, 1.2 * height], 1))
    points = torch.cat(described).cpu().double().numpy()
    centres, labels = kmeans2(points, recipe.regions, minit="++", seed=recipe.seed, iter=30)
    labels = torch.from_numpy(labels).long()
    first = shapes[0][0] * shapes[0][1]
    count = len(centres)
    shares = [torch.bincount(part, minlength=count) / len(part) for part in (labels[:first], labels[first:])]
    kept = [k for k in range(count) if min(float(share[k]) for share in shares) >= LEAST_REGION] or [0]
    if len(kept) == 1:
        labels, kept = torch.zeros_like(labels), [0]
    for k in range(count):
        if max(float(share[k]) for share in shares) < LEAST_REGION:  # too small in both: it joins the most similar one
            near = min(kept, key=lambda other: float(((centres[k] - centres[other]) ** 2).sum()))
            labels[labels == k] = near
    sides = []
    for part, shape, picture in zip((labels[:first], labels[first:]), shapes, small, strict=True):
        guide = Guide(picture, radius=min(6, widest(picture)), epsilon=1e-3)
        hard = torch.stack([(part == k).float() for k in kept])
        hard = torch.cat([hard, 1 - hard.sum(0, keepdim=True)])  # and what has no counterpart
        hard = hard.view(1, -1, *shape).to(picture.device)
        soft = guide.filter(images.resize(hard, picture.shape[-2], picture.shape[-1])).clamp(1e-4, 1)
        soft = soft / soft.sum(1, keepdim=True)
        sides.append([soft[:, k : k + 1] for k in range(len(kept))])
    return Regions(sides[0], sides[1], PALETTE[: len(kept)])


class Borders:
    """The regions of a photograph, with borders that follow its edges at any size.

    Args:
        small: the photograph, (1, 3, H, W), at the working size.
        regions: its soft masks, (1, 1, H, W).
    """

    def __init__(self, small: Tensor, regions: Sequence[Tensor]) -> None:
        rest = (1 - torch.cat([*regions]).sum(0, keepdim=True)).clamp(0, 1)
        self.masks = _to_edges([*regions, rest] if float(rest.max()) > 0.5 else regions, small)
        self.guide = Guide(small, radius=min(BORDER, widest(small)), epsilon=1e-4)

    def shares(self, photograph: Tensor) -> list[Tensor]:
        """The share of each region, and of the rest if there is any, in each pixel, (1, 1, H', W'); they sum to 1."""
        shares = [self.guide.lift(mask, photograph).clamp(1e-4, 1) for mask in self.masks]
        total = sum(shares[1:], shares[0])
        return [share / total for share in shares]


def _to_edges(masks: Sequence[Tensor], photograph: Tensor) -> list[Tensor]:
    """Move the masks' borders to the photograph's edges: a pixel goes where most of its colour nearby belongs."""
    guide = Guide(photograph, radius=min(DRAWN, widest(photograph)), epsilon=1e-4)
    shares = torch.cat([*masks], 1)
    for _ in range(2):
        shares = guide.filter(shares).clamp(1e-4, 1).square()
        shares = shares / shares.sum(1, keepdim=True)
    return [shares[:, k : k + 1] for k in range(len(masks))]


def _reduced(mask: Tensor) -> Tensor:
    """Reduce a mask to at most MASK pixels, without mixing its colours."""
    scale = MASK / max(mask.shape[-2:])
    return F.interpolate(mask, scale_factor=scale, mode="nearest-exact") if scale < 1 else mask


def _hex(color: Tensor) -> str:
    return "#" + "".join(f"{round(255 * float(v)):02x}" for v in color)
