"""A photograph in another photograph's light (after Luan2017).

Each region's colours are moved to those of its counterpart by optimal transport, over colour and place; the change of
light that comes nearest is fitted, see `light`. The paper optimises the picture itself with a style loss, and a term
that keeps it locally affine in the photograph's colours, and smooths the result. Here, iterations with that style loss
may follow the fit; judges preferred the pictures without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import color, encoder, images, light, masks, objective, optimize
from impasto.errors import InputError
from impasto.matting import Guide
from impasto.recipes import REGION_COLORS, Photo

PALETTE_SIZE = 112  # long edge in pixels at which colours are transported: some ten thousand of them
ROUNDS = 24  # of the transport
ALIKE = (
    0.07  # distance in sRGB between affine map and transport at which colour counts half, and colour with place half
)
DRAWN = 14  # pixels, at --size, by which a hand-drawn border may miss the photograph's edges
BORDER = 6  # pixels, at --size, within which a border is as sharp as the photograph
PLACED = 0.3  # distance in sRGB that counts as much as a standard deviation of place
FITTING = 1e5  # weight of the mean squared distance to the transported colours
FITS = 60  # iterations of L-BFGS of the fit to them
CLIPPING = 300.0  # weight of the mean square beyond black and white, where relief is lost
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

    def picture(self, side: Sequence[Tensor]) -> Tensor:
        """The regions of one side as flat colours, (1, 3, H, W): a mask to edit."""
        rest = (1 - torch.cat([*side], 1).sum(1, keepdim=True)).clamp(0, 1)
        labels = torch.cat([*side, rest], 1).argmax(1)[0].cpu()
        colours = torch.cat([self.colours, REST[0 if side is self.content else 1, None].to(self.colours)])
        return colours[labels].permute(2, 0, 1)[None]


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
    return Regions(sides[0], sides[1], palette[kept], notes)


def _reduced(mask: Tensor) -> Tensor:
    """Reduce a mask to at most MASK pixels, without mixing its colours."""
    scale = MASK / max(mask.shape[-2:])
    return F.interpolate(mask, scale_factor=scale, mode="nearest-exact") if scale < 1 else mask


def _hex(color: Tensor) -> str:
    return "#" + "".join(f"{round(255 * float(v)):02x}" for v in color)


def find(content: Tensor, style: Tensor, recipe: Photo) -> Regions:
    """Find matching regions in both photographs, by k-means over encoder features, colour and height.

    What one photograph shows and the other does not is in no region.

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
    if len(kept) == 1:
        labels, kept = torch.zeros_like(labels), [0]
    for k in range(count):
        if max(float(share[k]) for share in shares) < LEAST_REGION:  # too small to be anything by itself
            near = min(kept, key=lambda other: float(((centres[k] - centres[other]) ** 2).sum()))
            labels[labels == k] = near
    sides = []
    for part, shape, picture in zip((labels[:first], labels[first:]), shapes, small, strict=True):
        guide = Guide(picture, radius=min(6, _widest(picture)), epsilon=1e-3)
        hard = torch.stack([(part == k).float() for k in kept])
        hard = torch.cat([hard, 1 - hard.sum(0, keepdim=True)])  # and what has no counterpart
        hard = hard.view(1, -1, *shape).to(picture.device)
        soft = guide.filter(images.resize(hard, picture.shape[-2], picture.shape[-1])).clamp(1e-4, 1)
        soft = soft / soft.sum(1, keepdim=True)
        sides.append([soft[:, k : k + 1] for k in range(len(kept))])
    return Regions(sides[0], sides[1], PALETTE[: len(kept)])


def check_size(content: Tensor, recipe: Photo) -> None:
    """Check that a photograph, (1, 3, H, W), is not too narrow; raises InputError."""
    if _widest(images.at_most(content, recipe.size)) < 1:
        raise InputError("the photograph is too narrow: at `size`, the short side needs 3 pixels")


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


class Borders:
    """The regions of a photograph, with borders that follow its edges at any size.

    Args:
        small: the photograph, (1, 3, H, W), at the working size.
        regions: its soft masks, (1, 1, H, W).
    """

    def __init__(self, small: Tensor, regions: Sequence[Tensor]) -> None:
        rest = (1 - torch.cat([*regions]).sum(0, keepdim=True)).clamp(0, 1)
        self.masks = _to_edges([*regions, rest] if float(rest.max()) > 0.5 else regions, small)
        self.guide = Guide(small, radius=min(BORDER, _widest(small)), epsilon=1e-4)

    def shares(self, photograph: Tensor) -> list[Tensor]:
        """The share of each region, and of the rest if there is any, in each pixel, (1, 1, H', W'); they sum to 1."""
        shares = [self.guide.lift(mask, photograph).clamp(1e-4, 1) for mask in self.masks]
        total = sum(shares[1:], shares[0])
        return [share / total for share in shares]


def transported(
    content: Tensor, style: Tensor, shares: Sequence[Tensor], what: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Move each region's colours to those of its counterpart.

    An affine map matches mean and covariance, optimal transport matches all. If the two differ little, the counterpart
    shows the same things, and colour is enough to tell what becomes what. If they differ much, it holds several lights
    or other things. Then colour and place are transported together: a glow low in the sky stays low, lit walls stay
    in the middle.

    Args:
        content, style: (1, 3, H, W) sRGB in [0, 1]; some ten thousand pixels are enough.
        shares: of each region of the content, (1, 1, H, W).
        what: its counterpart, (1, 1, H, W); the last region may have none.

    Returns:
        the tables for `light`, (K, 3, N, N, N), and the photograph in the moved colours, (1, 3, H, W), which the
        tables match as far as a colour moves alike wherever it is.
    """
    colors = content[0].flatten(1).T
    weights, maps, residuals = [], [], []
    goal = torch.zeros_like(content)
    for inside, counterpart in zip(shares, what, strict=False):
        matrix, mean, centre = color.affine_transport(content, style, inside, counterpart, ridge=light.NOISE**2)
        affine = torch.cat([matrix, centre - matrix @ mean], 2)[0]
        even = torch.einsum("ij,bjhw->bihw", affine[:, :3], content) + affine[:, 3, None, None]
        moved = color.transport_colors(content, style, inside, counterpart, rounds=ROUNDS)
        apart = float((inside * (moved - even).square()).sum() / inside.sum().clamp_min(1e-6))
        # From the affine map on, little is left to be moved: fewer colours cross.
        ours, theirs = _placed(even, inside), _placed(style, counterpart)
        joint = color.transport_colors(ours, theirs, inside, counterpart, rounds=ROUNDS)[:, :3]
        moved = torch.lerp(joint, moved, ALIKE**8 / (ALIKE**8 + apart**4))
        goal += inside * moved
        weights.append(inside.flatten())
        maps.append(affine)
        residuals.append((moved - even)[0].flatten(1).T)
    if len(what) < len(shares):
        weights.append(torch.zeros_like(weights[0]))
        maps.append(torch.eye(3, 4).to(content))
        residuals.append(torch.zeros_like(colors))
    known = torch.cat([*shares[: len(what)]]).sum(0, keepdim=True)
    return light.tables(colors, weights, maps, residuals), goal / known.clamp_min(1e-3)


def _placed(picture: Tensor, inside: Tensor) -> Tensor:
    """A picture with two more channels: the place within a region, in standard deviations, times PLACED."""
    height, width = picture.shape[-2:]
    down, along = (torch.arange(length, device=picture.device) / length for length in (height, width))
    place = torch.stack(torch.meshgrid(down, along, indexing="ij"))[None]
    share = inside / inside.sum().clamp_min(1e-6)
    place = place - (share * place).sum((2, 3), keepdim=True)
    spread = (share * place.square()).sum((2, 3), keepdim=True).sqrt()
    return torch.cat([picture, PLACED * place / spread.clamp_min(1e-3)], 1)


@dataclass(frozen=True, eq=False)
class PhotoStep:
    """One iteration.

    Attributes:
        index, total: steps done, from 1, and in all; the first is the fit, iterations with the style loss follow.
        loss, terms: the weighted sum and its terms: distance and evenness of the fit, later style, evenness, clipping.
        small, borders: the photograph at the working size, and its regions.
        tables, added: the light found so far, see `light`.
        strength: how much of it is applied.
        state: returns what `steps` needs to resume from here; call it before the next iteration.
    """

    index: int
    total: int
    loss: float
    terms: Mapping[str, float]
    small: Tensor
    borders: Borders
    tables: Tensor
    added: Tensor
    strength: float
    state: Callable[[], dict[str, Any]]

    @property
    def image(self) -> Tensor:
        """(1, 3, H, W) the result so far, at the working size, sRGB in [0, 1]."""
        return self.lift(self.small)

    def lift(self, photograph: Tensor) -> Tensor:
        """The photograph at any size, (1, 3, H, W), in the light found so far."""
        lit = light.lit(photograph, self.borders.shares(photograph), self.tables, self.added)
        return torch.lerp(photograph, lit, self.strength).clamp_(0, 1)


def steps(
    content: Tensor, style: Tensor, regions: Regions, recipe: Photo, *, state: Mapping[str, Any] | None = None
) -> Iterator[PhotoStep]:
    """Give a photograph another one's light, yielding the fit, then every iteration with the style loss.

    Args:
        content, style: (1, 3, H, W) sRGB in [0, 1], on the device to compute on.
        regions: from `from_masks` or `find`.
        recipe: what to optimise and how.
        state: from an earlier ``PhotoStep.state()``, to resume from.

    Raises:
        InputError: the photograph is too narrow.
        DivergedError: a loss or gradient is not finite.
    """
    check_size(content, recipe)
    small, other = (images.at_most(each, recipe.size) for each in (content, style))
    regions = regions.at(small, other)
    borders = Borders(small, regions.content)
    ours, theirs = (images.at_most(each, PALETTE_SIZE) for each in (small, other))
    shares = [images.resize(share, *ours.shape[-2:]) for share in borders.shares(small)]
    what = [images.resize(mask, *theirs.shape[-2:]) for mask in regions.style]
    tables, moved = transported(ours, theirs, shares, what)
    known = torch.cat(shares[: len(what)]).sum(0, keepdim=True)
    fit = fitted(light.Scene(ours, shares, tables), moved, known, recipe.evenness)

    def found(step: optimize.Iteration, index: int, added: Tensor, state: Callable[[], dict[str, Any]]) -> PhotoStep:
        total = 1 + recipe.steps
        return PhotoStep(index, total, step.loss, step.terms, small, borders, tables, added, recipe.strength, state)

    start = torch.zeros_like(fit.image)
    if state is None:
        yield found(fit, 1, fit.image, lambda: {"image": start, "optimizer": {}, "index": 0, "losses": []})
    elif not state["index"]:
        state = None
    if not recipe.steps:
        return
    goal = objective_of(light.Scene(small, borders.shares(small), tables), fit.image, small, other, regions, recipe)
    for step in optimize.minimize(start, goal, optimizer="lbfgs", steps=recipe.steps, rate=1.0, state=state):
        yield found(step, 1 + step.index, fit.image + step.image, step.state)


def fitted(scene: light.Scene, moved: Tensor, known: Tensor, evenness: float) -> optimize.Iteration:
    """Find the curves and fields, of the shape of `light.neutral`, with which a scene comes nearest to a picture.

    Args:
        scene: of the content.
        moved: what it is to look like, (1, 3, H, W), from `transported`.
        known: share of each pixel that has a counterpart, (1, 1, H, W).
        evenness: weight of their unevenness.

    Returns:
        the last iteration; its image holds the curves and fields.
    """

    def distance(added: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        added = added.detach().requires_grad_()
        with torch.enable_grad():
            apart = FITTING * (known * (scene.lit(added) - moved)).square().mean()
            uneven = evenness * light.unevenness(added)
            (gradient,) = torch.autograd.grad(apart + uneven, added)
        return {"distance": apart.detach(), "evenness": uneven.detach()}, gradient

    start = light.neutral(len(scene.parts)).to(moved)
    *_, last = optimize.minimize(start, distance, optimizer="lbfgs", steps=FITS, rate=1.0)
    return last


def objective_of(
    scene: light.Scene, base: Tensor, content: Tensor, style: Tensor, regions: Regions, recipe: Photo
) -> optimize.ValueAndGradient:
    """The weighted terms as a function of what is added to curves and fields, with their gradient.

    Args:
        scene: of the content.
        base: curves and fields to start from.
        content, style: the photographs, at the working size.
        regions: of their sizes.
        recipe: for the weights.
    """
    vgg = encoder.load(recipe.encoder).to(content.device)
    goal = objective.build(
        vgg, recipe.loss_recipe(), content, [style] * len(regions.style), regions.content, regions.style
    )  # fmt: skip

    def relight(added: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        added = added.detach().requires_grad_()
        with torch.enable_grad():
            result = scene.lit(base + added)
            uneven = recipe.evenness * (light.unevenness(added) + light.size(added))
            clipped = CLIPPING * (result - result.clamp(0, 1)).square().mean()
        terms, slope = goal(result.detach())
        one = torch.ones_like(uneven)
        (gradient,) = torch.autograd.grad([result, uneven, clipped], added, [slope, one, one])
        return {**terms, "evenness": uneven.detach(), "clipping": clipped.detach()}, gradient

    return relight


def keep_highlights(photograph: Tensor, result: Tensor, amount: float) -> Tensor:
    """Keep near-white areas of the photograph (lamps, snow, the sun) as bright as they were.

    (1, 3, H, W) both; an ``amount`` of 0 leaves the result as it is, 1 fully restores what is white.
    """
    bright = ((color.luma(photograph) - 0.85) / 0.15).clamp(0, 1)
    bright = amount * bright.square() * (3 - 2 * bright)  # smoothstep
    lifted = (result + color.luma(photograph) - color.luma(result)).clamp(0, 1)
    return torch.lerp(result, lifted, bright)
