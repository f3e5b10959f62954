"""A photograph in another photograph's light (Luan2017).

The objective is the paper's: content, style region by region, and the photorealism energy p . M p of the matting
Laplacian. Two terms are added. One keeps luma's gradients those of the photograph; the other is the distance from the
photograph with each region simply recoloured. Light changes a whole region; a change of only a part of it looks like a
stain.

The energy of the picture p is stiff, so p is not optimised itself. Instead p = W q, the fast guided filter of a small
picture q with the photograph as guide, in windows of one region each; q is optimised. So p is locally affine in the
photograph's colours from the first iteration on, and the energy keeps it so between the windows too. This departs from
the paper, which optimises p and smooths the result afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import color, encoder, images, masks, objective, optimize
from impasto.errors import InputError, RecipeError
from impasto.matting import Guide
from impasto.recipes import Photo

COARSE = 128  # long edge in pixels at which the light is computed
EPSILON = 5e-4  # of the guided filter: fainter contrasts, below about 0.02, are noise
FAINT = 1e-3  # variance of colours below which a region is even, and squared gradient below which it has no texture
PLAIN = 1e-4  # variance of nearby colours at which the photograph is half even
NEAR = 8  # pixels, at --size, around a pixel that decide whether the photograph is even there
EVEN = 100.0  # weight of the distance in even areas, relative to elsewhere
TINT = 3.0  # weight of the distance in chroma, relative to the distance: stains show as colour
STAIN = 0.1  # distance in chroma at which it counts twice: many small changes are better than a few large ones
UNEVEN = 0.15  # weight of the distance's gradients, relative to the distance
DRAWN = 14  # pixels, at --size, by which a hand-drawn border may miss the photograph's edges
BORDER = 6  # pixels, at --size, within which a border is as sharp as the photograph
MASK = 1024  # largest long edge of a mask in pixels: more than the working size
LEAST_REGION = 0.02  # of a photograph; the statistics of smaller regions are not worth matching
REACH = 0.35  # largest distance, in colour space, between two masks' colours of the same class
PALETTE = torch.tensor(
    [[0, 0, 255], [0, 255, 0], [255, 255, 255], [255, 0, 0], [255, 255, 0], [128, 128, 128], [0, 255, 255],
     [255, 0, 255], [0, 0, 0], [255, 128, 0], [128, 0, 255], [0, 128, 64]]
) / 255  # fmt: skip


@dataclass(frozen=True)
class Regions:
    """Matching regions of two photographs.

    Attributes:
        content, style: for each region a soft mask over each photograph, (1, 1, H, W) in [0, 1], of any size.
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

    def picture(self, side: Sequence[Tensor]) -> Tensor:
        """The regions of one side as flat colours, (1, 3, H, W): a mask to edit."""
        labels = torch.cat([*side], 1).argmax(1)[0].cpu()
        return self.colours[labels].permute(2, 0, 1)[None]


def from_masks(content_mask: Tensor, style_mask: Tensor, content: Tensor, style: Tensor) -> Regions:
    """The regions of two masks of flat colours; equal colours mean the same region.

    Args:
        content_mask, style_mask: (1, 3, H, W), of any size.
        content, style: the photographs, (1, 3, H, W).

    Raises:
        ValueError: a mask does not consist of flat colours, or the two have no colour in common.
    """
    (ours, palette), (theirs, others) = (masks.classes(_reduced(mask)) for mask in (content_mask, style_mask))
    distance = (palette[:, None] - others[None]).abs().amax(2)  # (K, L)
    partner = {k: int(distance[k].argmin()) for k in range(len(palette)) if float(distance[k].min()) <= REACH}
    if not partner:
        raise ValueError("the two masks have no colour in common")
    notes: list[str] = []
    kept = sorted(partner)
    merged = {k: k for k in kept} | _merge(ours, content, kept, len(palette), palette, "content", notes)
    shared = sorted(set(partner.values()))
    back = {k: k for k in shared} | _merge(theirs, style, shared, len(others), others, "style", notes)
    sides = []
    for labels, into, chosen in ((ours, merged, kept), (theirs, back, [partner[k] for k in kept])):
        hard = torch.tensor([into[k] for k in range(max(into) + 1)])[labels]
        sides.append([(hard == k)[None, None].float() for k in chosen])
    return Regions(sides[0], sides[1], palette[kept], notes)


def _reduced(mask: Tensor) -> Tensor:
    """Reduce a mask to at most MASK pixels, without mixing its colours."""
    scale = MASK / max(mask.shape[-2:])
    return F.interpolate(mask, scale_factor=scale, mode="nearest-exact") if scale < 1 else mask


def _merge(
    labels: Tensor, picture: Tensor, kept: Sequence[int], count: int, palette: Tensor, side: str, notes: list[str]
) -> dict[int, int]:
    """Merge each class that the other side lacks into the one that looks most like it."""
    shape = (int(labels.shape[0]), int(labels.shape[1]))
    small = images.resize(picture, *shape)[0]
    looks = torch.stack([small[:, labels == k].mean(1) for k in range(count)])
    into = {}
    for k in set(range(count)) - set(kept):
        into[k] = min(kept, key=lambda other: float((looks[k] - looks[other]).square().sum()))
        names = ["#" + "".join(f"{round(255 * float(v)):02x}" for v in palette[each]) for each in (k, into[k])]
        notes.append(f"the {side} mask's {names[0]} is not in the other mask; it is treated as {names[1]}")
    return into


def find(content: Tensor, style: Tensor, recipe: Photo) -> Regions:
    """Find matching regions in both photographs, by k-means over encoder features, colour and height.

    Args:
        content, style: (1, 3, H, W) sRGB in [0, 1].
        recipe: for the number of regions, the encoder and the seed.
    """
    from scipy.cluster.vq import kmeans2  # imported late: it is slow to load

    vgg = encoder.load(recipe.encoder).to(content.device)
    small = [images.to_size(picture, 384) for picture in (content, style)]
    described, shapes = [], []
    for picture in small:
        with torch.no_grad():
            features = vgg(picture, ["relu4_1"])["relu4_1"][0]  # (C, h, w)
        shapes.append(features.shape[-2:])
        colour = F.adaptive_avg_pool2d(picture, shapes[-1])[0].flatten(1).T
        # Relative to each photograph's own mean, a night sky matches a day sky despite its colours.
        colour = (colour - colour.mean(0)) / (colour.std() + 0.05)
        features = features.flatten(1).T
        height = torch.linspace(-1, 1, shapes[-1][0], device=features.device)[:, None].expand(shapes[-1]).reshape(-1, 1)
        described.append(torch.cat([F.normalize(features - features.mean(0)), 0.12 * colour, 1.2 * height], 1))
    points = torch.cat(described).double().cpu().numpy()
    centres, labels = kmeans2(points, recipe.regions, minit="++", seed=recipe.seed, iter=30)
    labels = torch.from_numpy(labels).long()
    first = shapes[0][0] * shapes[0][1]
    count = len(centres)
    shares = [torch.bincount(part, minlength=count) / len(part) for part in (labels[:first], labels[first:])]
    kept = [k for k in range(count) if min(float(share[k]) for share in shares) >= LEAST_REGION] or [0]
    where = torch.from_numpy(centres)
    into = torch.tensor([min(kept, key=lambda o: float((where[k] - where[o]).square().sum())) for k in range(count)])
    labels = into[labels] if len(kept) > 1 else torch.zeros_like(labels)
    kept = kept if len(kept) > 1 else [0]
    sides = []
    for part, shape, picture in zip((labels[:first], labels[first:]), shapes, small, strict=True):
        guide = Guide(picture, radius=min(6, _widest(picture)), epsilon=1e-3)
        hard = torch.stack([(part == k).float() for k in kept]).view(1, len(kept), *shape).to(picture.device)
        soft = guide.filter(images.resize(hard, picture.shape[-2], picture.shape[-1])).clamp(1e-4, 1)
        soft = soft / soft.sum(1, keepdim=True)
        sides.append([soft[:, k : k + 1] for k in range(len(kept))])
    return Regions(sides[0], sides[1], PALETTE[torch.arange(len(kept)) % len(PALETTE)])


def recoloured(content: Tensor, style: Tensor, regions: Regions) -> Tensor:
    """Give each region the mean and covariance of its counterpart's colours: the optimisation starts from this.

    Args:
        content, style: (1, 3, H, W) sRGB in [0, 1].
        regions: of their sizes.
    """
    total = torch.cat([*regions.content], 1).sum(1, keepdim=True).clamp_min(1e-6)
    result = torch.zeros_like(content)
    for ours, theirs in zip(regions.content, regions.style, strict=True):
        result += ours / total * color.match_color(content, style, ours, theirs, ridge=FAINT)
    # Outside all regions, keep the photograph's own colours.
    return torch.lerp(content, result, total.clamp_max(1))


def check_size(content: Tensor, recipe: Photo) -> None:
    """Check that a photograph, (1, 3, H, W), is at least as large as a window.

    Raises:
        InputError: the photograph is too narrow.
        RecipeError: the radius is too large; the message names one that fits.
    """
    edge = min(COARSE, recipe.size, max(content.shape[-2:]))
    image = images.to_size(content, edge)
    widest = _widest(image)
    if widest < 1:
        raise InputError("the photograph is too narrow: the short side needs 3 pixels, and 1/40 of the long side")
    if widest < _radius(image, recipe):
        fits = widest * recipe.size // edge
        raise RecipeError(f"`radius` {recipe.radius}: the photograph is smaller than its windows; try {fits}")


def _radius(image: Tensor, recipe: Photo) -> int:
    """The radius, given in pixels at --size, scaled to a smaller picture."""
    return max(1, round(recipe.radius * max(image.shape[-2:]) / recipe.size))


def _widest(image: Tensor) -> int:
    """The largest radius of a window that fits."""
    return (min(image.shape[-2:]) - 1) // 2


def _to_edges(masks: Sequence[Tensor], photograph: Tensor) -> list[Tensor]:
    """Move the masks' borders to the photograph's edges: a pixel goes where most of its colour nearby belongs."""
    guide = Guide(photograph, radius=min(DRAWN, _widest(photograph)), epsilon=1e-4)
    shares = torch.cat([*masks], 1)
    for _ in range(2):
        shares = guide.filter(shares).clamp(1e-4, 1).square()
        shares = shares / shares.sum(1, keepdim=True)
    return [shares[:, k : k + 1] for k in range(len(masks))]


class Windows:
    """Windows of one region each, in which a picture is affine in the photograph's colours.

    Args:
        small: the photograph, (1, 3, H, W), at the working size.
        regions: of its size.
        recipe: for the radius.
    """

    def __init__(self, small: Tensor, regions: Regions, recipe: Photo) -> None:
        self.small, self.masks = small, _to_edges(regions.content, small)
        self.border = Guide(small, radius=min(BORDER, _widest(small)), epsilon=1e-4)
        image = images.to_size(small, min(COARSE, max(small.shape[-2:])))  # the slow variation
        self.shape = image.shape[-2:]
        self.guides = [
            Guide(image, radius=_radius(image, recipe), epsilon=EPSILON, weight=images.resize(share, *self.shape))
            for share in self.shares(small)
        ]

    def shares(self, photograph: Tensor) -> list[Tensor]:
        """Each region's share of each pixel, (1, 1, H', W'), for the photograph at any size; they sum to 1."""
        shares = [self.border.lift(mask, photograph).clamp(1e-4, 1) for mask in self.masks]
        total = sum(shares[1:], shares[0])
        return [share / total for share in shares]

    def evenness(self, shares: Sequence[Tensor]) -> Tensor:
        """How even the photograph is around each pixel, (1, 1, H, W) in [0, 1]; in even areas, changes show as stains.

        A pixel is as even as the most even window that contains it; otherwise halos would show next to edges.
        """
        result = torch.zeros_like(self.small[:, :1])
        for share in shares:
            near = Guide(self.small, radius=min(NEAR, _widest(self.small)), weight=share)
            even = PLAIN / (PLAIN + near.variance) * (2 * near.mass).clamp(max=1)  # of windows well inside the region
            margin = near.side - 1
            result = result + share * F.max_pool2d(F.pad(even, [margin] * 4), near.side, 1)
        return result

    def lift(self, q: Tensor, photograph: Tensor, shares: Sequence[Tensor]) -> Tensor:
        """The picture of the small q, (1, 3, h, w), at the size of the photograph."""
        result = torch.zeros_like(photograph)
        for guide, share in zip(self.guides, shares, strict=True):
            result = result + share * guide.lift(q, photograph)
        return result


@dataclass(frozen=True, eq=False)
class PhotoStep:
    """One iteration.

    Attributes:
        index, total: iterations done, from 1, and in all.
        loss, terms: the weighted sum, and content, style, photorealism, detail and evenness.
        windows, q: the windows, and the small picture that is optimised.
        state: returns what `steps` needs to resume from here; call it before the next iteration.
    """

    index: int
    total: int
    loss: float
    terms: Mapping[str, float]
    windows: Windows
    q: Tensor
    state: Callable[[], dict[str, Any]]

    @property
    def image(self) -> Tensor:
        """(1, 3, H, W) the result so far, at the working size, sRGB in [0, 1]."""
        return self.lift(self.windows.small)

    def lift(self, photograph: Tensor) -> Tensor:
        """The result for the photograph at any size, (1, 3, H, W): all of its detail, in the light found so far."""
        return self.windows.lift(self.q, photograph, self.windows.shares(photograph)).clamp(0, 1)


def steps(
    content: Tensor, style: Tensor, regions: Regions, recipe: Photo, *, state: Mapping[str, Any] | None = None
) -> Iterator[PhotoStep]:
    """Give a photograph another one's light, yielding every iteration.

    Args:
        content, style: (1, 3, H, W) sRGB in [0, 1], on the device to compute on.
        regions: from `from_masks` or `find`.
        recipe: what to optimise and how.
        state: from an earlier ``PhotoStep.state()``, to resume from.

    Raises:
        RecipeError: the photograph is smaller than a window.
        DivergedError: a loss or gradient is not finite.
    """
    check_size(content, recipe)
    small, other = (images.to_size(each, min(recipe.size, max(each.shape[-2:]))) for each in (content, style))
    regions = regions.at(small, other)
    windows = Windows(small, regions, recipe)
    plain = recoloured(small, other, replace(regions, content=windows.shares(small))).clamp(0, 1)
    goal = objective_of(windows, plain, other, regions, recipe)
    start = images.resize(plain, *windows.shape)
    for step in optimize.minimize(start, goal, optimizer="lbfgs", steps=recipe.steps, rate=1.0, state=state):
        yield PhotoStep(step.index, recipe.steps, step.loss, step.terms, windows, step.image, step.state)


def objective_of(
    windows: Windows, plain: Tensor, style: Tensor, regions: Regions, recipe: Photo
) -> optimize.ValueAndGradient:
    """The weighted terms of the picture W q as a function of q, with their gradient.

    Args:
        windows: of the photograph.
        plain: the photograph with each region recoloured, (1, 3, H, W).
        style: the other photograph, at the working size.
        regions: of their sizes.
        recipe: the weights of the terms.
    """
    content = windows.small
    vgg = encoder.load(recipe.encoder).to(content.device)
    goal = objective.build(
        vgg, recipe.loss_recipe(), content, [style] * len(regions.style), regions.content, regions.style
    )  # fmt: skip
    shares = windows.shares(content)
    fine = Guide(content.double())  # its windows' variances are near 1e-8
    weight = recipe.photorealism / content[0, 0].numel()
    grey = color.luma(content)
    texture = _steepness(grey)
    # All textures count the same: a bush's leaves as much as the edge of a roof.
    nearby = F.avg_pool2d(texture, 2 * NEAR + 1, 1, NEAR, count_include_pad=False)
    alike = 1 / (nearby + FAINT)
    alike = alike / (alike * texture).sum().clamp_min(1e-6)
    uneven = (plain - plain.mean((2, 3), keepdim=True)).square().sum().clamp_min(1e-4)
    spread = (1 + EVEN * windows.evenness(shares)) / uneven
    rough = UNEVEN / _steepness(plain).sum().clamp_min(1e-6)

    def ours(p: Tensor) -> dict[str, Tensor]:
        lost = (alike * _steepness(color.luma(p) - grey)).sum()
        away = p - plain
        tint = (away - color.luma(away)).square().sum(1, keepdim=True)
        distance = away.square().sum(1, keepdim=True) + TINT * (tint + tint.square() / STAIN**2)
        return {
            # The square limits how far even a change from day to night may alter edges.
            "detail": recipe.detail * (lost + lost.square()),
            "evenness": recipe.evenness * ((spread * distance).sum() + rough * _steepness(away).sum()),
        }

    def photoreal(q: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        q = q.detach().requires_grad_()
        with torch.enable_grad():
            result = windows.lift(q, content, shares)
            p = result.detach().requires_grad_()
            added = ours(p)
            (slope,) = torch.autograd.grad(torch.stack([*added.values()]).sum(), p)
        p = p.detach()
        terms, gradient = goal(p)
        forced = fine.laplacian(p.double())
        terms = {**terms, "photorealism": weight * (p * forced).sum()} | {name: t.detach() for name, t in added.items()}
        (back,) = torch.autograd.grad(result, q, gradient + (2 * weight * forced).float() + slope)
        return terms, back

    return photoreal


def _steepness(x: Tensor) -> Tensor:
    """Squared differences from the pixels below and to the right: (B, C, H, W) -> (B, C, H - 1, W - 1)."""
    corner = x[..., :-1, :-1]
    return (x[..., 1:, :-1] - corner).square() + (x[..., :-1, 1:] - corner).square()


def keep_highlights(photograph: Tensor, result: Tensor, amount: float) -> Tensor:
    """Keep near-white areas of the photograph (lamps, snow, the sun) as bright as they were.

    (1, 3, H, W) both; an ``amount`` of 0 leaves the result as it is, 1 fully restores what is white.
    """
    bright = ((color.luma(photograph) - 0.85) / 0.15).clamp(0, 1)
    bright = amount * bright.square() * (3 - 2 * bright)  # smoothstep
    lifted = (result + color.luma(photograph) - color.luma(result)).clamp(0, 1)
    return torch.lerp(result, lifted, bright)
