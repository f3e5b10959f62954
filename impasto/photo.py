"""A photograph in another photograph's light (after Luan2017).

Each region's colours are moved to those of its counterpart by optimal transport, over colour and place; the change of
light that comes nearest is fitted, see `light`. The paper optimises the picture itself with a style loss, and a term
that keeps it locally affine in the photograph's colours, and smooths the result. Here, iterations with that style loss
may follow the fit; judges preferred the pictures without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from impasto import color, encoder, images, light, machine, objective, optimize
from impasto.errors import InputError
from impasto.matching import Borders, Regions
from impasto.matting import Guide, widest
from impasto.recipes import Photo

PALETTE_SIZE = 112  # long edge in pixels at which colours are transported: some ten thousand of them
ROUNDS = 24  # of the transport
ALIKE = 0.07  # distance in sRGB of affine map and transport at which transport with and without place count alike
PLACED = 0.3  # distance in sRGB that counts as much as a standard deviation of place
CONTRAST = 1.5  # limit of the slope of luma above black, relative to a linear stretch
FITTING = 1e5  # weight of the mean squared distance to the transported colours
FITS = 60  # iterations of L-BFGS of the fit to them
CALM_RADIUS = 8  # of the windows in which chroma is freed of noise, in pixels at the working size
CALM_NOISE = 0.015  # standard deviation of that noise, in sRGB
# Bytes at the peak, measured: of a pixel of the photograph; of one at the working size, and for each region there; of
# one with the style loss, without the encoder; of the encoder with its smallest tile.
PIXEL, WORKING, REGION, STYLED, TILE = 130, 180, 65, 300, 200_000_000
CLIPPING = 300.0  # weight of the mean square beyond black and white, where relief is lost


def check_size(content: Tensor, recipe: Photo) -> None:
    """Check that a photograph, (1, 3, H, W), is not too narrow; raises InputError."""
    if widest(images.at_most(content, recipe.size)) < 1:
        raise InputError("the photograph is too narrow: at `size`, the short side needs 3 pixels")


def spare_memory(content: Tensor, regions: int, recipe: Photo) -> float:
    """Bytes that the encoder may take, which works in tiles if needed.

    Args:
        content: the photograph, (1, 3, H, W), on the device to compute on.
        regions: their number.
        recipe: for the working size and the iterations.

    Returns:
        Bytes.

    Raises:
        InputError: the free memory is not enough for the rest.
    """
    height, width = content.shape[-2:]
    rows, columns = images.fit(height, width, min(recipe.size, max(height, width)))
    held = PIXEL * height * width
    need = held + (WORKING + REGION * (regions + 1)) * rows * columns
    styled = held + STYLED * rows * columns
    if recipe.steps:
        need = max(need, styled + TILE)
    free = machine.free_memory(content.device)
    if need > free:
        raise InputError(
            f"not enough memory: {width} x {height} at {columns} x {rows} needs {need / 1e9:.1f} GB, {free / 1e9:.1f} "
            "are free; use a smaller `size`, or a smaller photograph"
        )
    return max(TILE, 0.7 * (free - styled))


def transported(
    content: Tensor, style: Tensor, shares: Sequence[Tensor], what: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Move each region's colours to those of its counterpart.

    An affine map matches mean and covariance, optimal transport matches all. If the two differ little, the counterpart
    shows the same things, and colour is enough to tell what becomes what. If they differ much, it holds several lights
    or other things. Then colour and place are transported together: a glow low in the sky stays low, lit walls stay
    in the middle. What is black stays black, see `limited`.

    Args:
        content, style: (1, 3, H, W) sRGB in [0, 1]; some ten thousand pixels are enough.
        shares: of each region of the content, (1, 1, H, W).
        what: its counterpart, (1, 1, H, W); the last region may have none.

    Returns:
        the tables for `light`, (K, 3, N, N, N), and the photograph in the moved colours, (1, 3, H, W). The tables
        give the same colours, except where one colour moves differently in different places.
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
        moved = limited(moved, content, black_and_white(content, inside), black_and_white(style, counterpart))
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


def limited(moved: Tensor, content: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    """Limit how bright dark colours become. Pizer1987 limits the contrast of equalised histograms for the same reason.

    Transport matches quantiles: if much of a region is dark and little of its counterpart, black trunks turn bright.
    Light multiplies, so what is black must stay black. A linear stretch takes the region's black and white to those of
    its counterpart; luma may rise above black CONTRAST times as fast.

    Args:
        moved: (1, 3, H, W), the transported colours of ``content``.
        content: (1, 3, H, W) sRGB in [0, 1].
        ours, theirs: luma of black and white in the region and in its counterpart, from `black_and_white`.

    Returns:
        (1, 3, H, W) in [0, 1].
    """
    (black, white), (goal_black, goal_white) = ours, theirs
    stretch = (goal_white - goal_black).clamp_min(light.NOISE) / (white - black).clamp_min(light.NOISE)
    limit = goal_black + CONTRAST * stretch * (color.luma(content) - black).clamp_min(0)
    excess: Tensor = (color.luma(moved) - limit).clamp_min(0)
    return (moved - excess).clamp(0, 1)


def black_and_white(picture: Tensor, mask: Tensor) -> Tensor:
    """The luma below which 2 % and 98 % of a region lie, (2,)."""
    values, order = color.luma(picture).flatten().sort()
    mass = mask.flatten()[order].cumsum(0)
    return values[torch.searchsorted(mass, mass[-1] * mass.new_tensor([0.02, 0.98]))]


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
        calm = without_noise(photograph, self.small)
        lit = light.lit(calm, self.borders.shares(photograph), self.tables, self.added)
        # The removed chroma follows the new brightness, but does not become more vivid.
        darker = (color.luma(lit).clamp_min(0.02) / color.luma(photograph).clamp_min(0.02)).clamp_(max=1)
        lit = (lit + darker * (photograph - calm)).clamp_(0, 1)
        return torch.lerp(photograph, lit, self.strength).clamp_(0, 1)


def without_noise(photograph: Tensor, small: Tensor) -> Tensor:
    """The photograph, (1, 3, H, W), with its chroma smoothed where that hardly varies.

    A table that makes vivid colours of greys would show noise and the blocks of JPEG. ``small`` is the photograph at
    the working size.
    """
    guide = Guide(small, radius=min(CALM_RADIUS, widest(small)), epsilon=CALM_NOISE**2)
    smooth = guide.lift(small, photograph)
    return color.luma(photograph) + smooth - color.luma(smooth)


def steps(
    content: Tensor, style: Tensor, regions: Regions, recipe: Photo, *, state: Mapping[str, Any] | None = None
) -> Iterator[PhotoStep]:
    """Give a photograph another one's light.

    Args:
        content, style: (1, 3, H, W) sRGB in [0, 1], on the device to compute on.
        regions: from `from_masks` or `find`.
        recipe: what to optimise and how.
        state: from an earlier ``PhotoStep.state()``, to resume from; None: a new run.

    Yields:
        The fit, then every iteration with the style loss; a run that resumes yields the iterations that are left,
        or the state's own again.

    Raises:
        InputError: the photograph is too narrow, or needs more than the free memory.
        DivergedError: a loss or gradient is not finite.
    """
    check_size(content, recipe)
    spare = spare_memory(content, len(regions.content), recipe)
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
    goal = objective_of(
        light.Scene(small, borders.shares(small), tables), fit.image, small, other, regions, recipe, spare
    )
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
    scene: light.Scene, base: Tensor, content: Tensor, style: Tensor, regions: Regions, recipe: Photo,
    budget: float = 0,
) -> optimize.ValueAndGradient:  # fmt: skip
    """The objective of the iterations with the style loss.

    Args:
        scene: of the content.
        base: curves and fields to start from.
        content, style: the photographs, at the working size.
        regions: of their sizes.
        recipe: for the weights.
        budget: bytes that the encoder may take, see `objective.build`.

    Returns:
        What is added to curves and fields -> the weighted terms, and the gradient of their sum.
    """
    vgg = encoder.load(recipe.encoder).to(content.device)
    goal = objective.build(
        vgg, recipe.loss_recipe(), content, [style] * len(regions.style), regions.content, regions.style,
        budget=budget,
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

    Args:
        photograph, result: (1, 3, H, W) sRGB in [0, 1].
        amount: in [0, 1]; 0 leaves the result as it is, 1 fully restores what is white.

    Returns:
        (1, 3, H, W) sRGB in [0, 1].
    """
    bright = ((color.luma(photograph) - 0.85) / 0.15).clamp(0, 1)
    bright = amount * bright.square() * (3 - 2 * bright)  # smoothstep
    lifted = (result + color.luma(photograph) - color.luma(result)).clamp(0, 1)
    return torch.lerp(result, lifted, bright)
