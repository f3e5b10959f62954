"""Optimisation-based transfer (Gatys2016): reconstruction of content, of style, and of both at once.

For each scale, coarse to fine, `objective.build` computes the targets once, then `optimize.minimize` iterates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from impasto import color, encoder, images, machine, masks, matting, objective, optimize, recipes, schema
from impasto.errors import InputError, RecipeError
from impasto.recipes import Transfer

PALETTE = 128  # long edge at which colours are matched
LIBRARIES = 330_000_000  # bytes for kernels and small buffers, whatever the size


@dataclass(frozen=True)
class Step:
    """One iteration of a transfer.

    Attributes:
        index: iterations done, from 1.
        total: iterations in all.
        scale: the current fraction of the full size.
        loss: the weighted sum of the terms.
        terms: content, style and smoothness, weighted.
        size: height and width of the picture at this scale.
        state: returns what `steps` needs to resume from here; call it before the next iteration.
        look: returns the picture like `image`, but computes it again each time.
    """

    index: int
    total: int
    scale: float
    loss: float
    terms: Mapping[str, float]
    size: tuple[int, int]
    state: Callable[[], dict[str, Any]]
    look: Callable[[], Tensor] = field(repr=False)

    @cached_property
    def image(self) -> Tensor:
        """(1, 3, H, W) the picture so far, sRGB in [0, 1], at the scale's size; read it before the next step."""
        return self.look()


def stylize(content: images.Source, style: images.Source | Sequence[images.Source], recipe: Transfer = recipes.impasto,
            **options: Any) -> Tensor:  # fmt: skip
    """Repaint ``content`` in the manner of ``style``: run `steps` to its end.

    Args:
        content, style, recipe, options: those of `steps`.

    Returns:
        (1, 3, H, W) sRGB in [0, 1], with the content's aspect ratio.
    """
    last = None
    for last in steps(content, style, recipe, **options):  # noqa: B007
        pass
    if last is None:
        raise RecipeError("`steps` must be 1 or more")
    return last.image


def steps(
    content: images.Source,
    style: images.Source | Sequence[images.Source] = (),
    recipe: Transfer = recipes.impasto,
    *,
    content_masks: Sequence[images.Source] = (),
    style_masks: Sequence[images.Source] = (),
    device: str = "auto",
    memory: float = 0.0,
    state: Mapping[str, Any] | None = None,
) -> Iterator[Step]:
    """Repaint ``content`` in the manner of one style or several, yielding every iteration.

    Args:
        content: a path, PIL image, array or tensor.
        style: the same, or a sequence of them.
        recipe: what to optimise and how.
        content_masks: one for each style, which is painted where its mask is white; empty: everywhere.
        style_masks: one for each style, of which only the white area counts; empty: all of it.
        device: auto, cpu, cuda or mps.
        memory: GB that the run may use, in tiles if needed; 0: most of the free memory.
        state: from an earlier ``Step.state()``, to resume from.

    Yields:
        Every iteration, with the picture so far.

    Raises:
        InputError: the recipe (RecipeError) or an input is invalid, or they do not match.
        ImageError, WeightsError: an input or the encoder's file cannot be read.
        DivergedError: a loss or gradient is not finite.
    """
    schema.check(recipe)
    if not memory >= 0:
        raise InputError(f"`memory` must be 0 or more GB, not {memory:g}")
    styles = list(style) if isinstance(style, Sequence) and not isinstance(style, str) else [style]
    _check_counts(recipe, styles, content_masks, style_masks)
    styles = [each if isinstance(each, Tensor) else images.read(each) for each in styles]
    where, what = [masks.read(each) for each in content_masks], visible(styles, style_masks)
    yield from _steps(content, styles, recipe, where, what, machine.pick_device(device), memory, state)


def visible(styles: Sequence[images.Source], style_masks: Sequence[images.Source]) -> list[Tensor]:
    """The masks of styles, (1, 1, H, W) each: the given ones, without what is transparent in a style; or none."""
    alphas = [each.alpha if isinstance(each, images.Picture) else None for each in styles]
    if not style_masks and all(alpha is None for alpha in alphas):
        return []
    given = [masks.read(each) for each in style_masks] or [
        torch.ones_like(images.to_tensor(each)[:, :1]) for each in styles
    ]
    return [
        mask if alpha is None else alpha * images.resize(mask, alpha.shape[-2], alpha.shape[-1])
        for mask, alpha in zip(given, alphas, strict=True)
    ]


def _steps(
    content: images.Source,
    styles: Sequence[images.Source],
    recipe: Transfer,
    content_masks: Sequence[images.Source],
    style_masks: Sequence[images.Source],
    target: torch.device,
    memory: float,
    state: Mapping[str, Any] | None,
) -> Iterator[Step]:
    network = encoder.load(recipe.encoder).to(target)
    photograph = images.to_tensor(content).to(target)
    paintings = [images.to_tensor(source).to(target) for source in styles]
    where, what = (
        [images.to_tensor(mask).to(target).mean(1, keepdim=True) for mask in group]
        for group in (content_masks, style_masks)
    )
    if recipe.keep_colors == "luma":
        paintings = [color.match_luma(painting, photograph) for painting in paintings]
    elif recipe.keep_colors == "histogram":
        paintings = [color.match_histogram(painting, photograph) for painting in paintings]
    colored = recolor(photograph, paintings, recipe, where, what) if recipe.palette else photograph
    full = (photograph.shape[-2], photograph.shape[-1])
    full = images.fit(*full, recipe.size) if recipe.size else full

    def finish(image: Tensor) -> Tensor:
        image = image.clamp(0, 1)
        if recipe.keep_colors == "luma":
            image = color.keep_luma(images.resize(photograph, *image.shape[-2:]), image)
        return image

    pictures = sum(t.nbytes for t in (photograph, *paintings, *where, *what))
    available = (memory * 1e9 or 0.7 * machine.free_memory(target)) - pictures - LIBRARIES
    done = 0
    resumed = int(state["done"]) if state is not None else 0
    image = state["inner"]["image"].to(target) if state is not None else None
    least = optimize.memory(torch.empty(1, 3, *full, device="meta"), recipe.optimizer)
    if available <= least:
        need = (least + pictures + LIBRARIES) / 1e9
        raise InputError(f"not enough memory: {full[1]} x {full[0]} needs over {need:.1f} GB; raise `memory`")
    scales = recipe.scales or halvings(max(full))
    for scale, count in zip(scales, shares(recipe.steps, len(scales)), strict=True):
        done += count
        if count == 0 or resumed >= done:
            continue
        before = done - count
        shape = (max(1, round(scale * full[0])), max(1, round(scale * full[1])))
        small = images.resize(colored, *shape)
        edge = recipe.style_scale * max(shape)
        goal = objective.build(
            network,
            recipe,
            small,
            [images.to_size(painting, max(1, round(edge))) for painting in paintings],
            [images.resize(mask, *shape) for mask in where],
            what,
            budget=0.7 * (available - optimize.memory(small, recipe.optimizer)),
        )
        engine = optimize.minimize(
            start(recipe, small, paintings) if image is None else enlarge(image, colored, small, recipe),
            goal,
            optimizer=recipe.optimizer,
            steps=count,
            rate=recipe.rate,
            clip=recipe.clip,
            flat=recipe.flat,
            state=state["inner"] if state is not None and resumed > before else None,
        )
        image = state["inner"]["image"] if state is not None and resumed > before else None
        del small  # so that only the engine holds the large picture
        for step in engine:
            image, index = step.look(), before + step.index

            def snapshot(step: optimize.Iteration = step, index: int = index) -> dict[str, Any]:
                return {"done": index, "inner": step.state()}

            def look(step: optimize.Iteration = step) -> Tensor:
                return finish(step.look())

            yield Step(index, recipe.steps, scale, step.loss, step.terms, shape, snapshot, look)


def start(recipe: Transfer, content: Tensor, styles: Sequence[Tensor]) -> Tensor:
    """The picture that ``recipe`` starts from, of the size of ``content``; ``styles`` are the paintings.

    Raises:
        InputError: ``init`` is style, and there is none.
        ImageError: ``init`` is neither a known start nor a readable picture.
    """
    if recipe.init == "content":
        return content
    if recipe.init == "noise":
        generator = torch.Generator().manual_seed(recipe.seed)
        noise = torch.randn(content.shape, generator=generator)
        return (0.5 + recipe.noise * noise).to(content.device)
    if recipe.init == "style":
        if not styles:
            raise InputError("`init` style needs a style")
        return images.resize(styles[0], *content.shape[-2:])
    return images.resize(images.to_tensor(recipe.init).to(content.device), *content.shape[-2:])


def recolor(
    photograph: Tensor, styles: Sequence[Tensor], recipe: Transfer, where: Sequence[Tensor], what: Sequence[Tensor]
) -> Tensor:
    """Recolour a photograph with the styles' palettes: each in its region, or all of them blended.

    Args:
        photograph: (1, 3, H, W) sRGB in [0, 1].
        styles: (1, 3, h, w) each.
        recipe: for the styles' shares.
        where: empty, or (1, 1, H', W') for each style: the part of the photograph that it recolours.
        what: empty, or (1, 1, h', w') for each style: the part of the style that counts.

    Returns:
        (1, 3, H, W) sRGB in [0, 1]; the photograph where no style is painted.
    """
    shares = recipe.style_weights or (1.0,) * len(styles)
    inside: Sequence[Tensor | None] = [images.resize(mask, *photograph.shape[-2:]) for mask in where]
    total, weight = torch.zeros_like(photograph), torch.zeros_like(photograph[:, :1])
    for index, (style, share) in enumerate(zip(styles, shares, strict=True)):
        mask = inside[index] if where else None
        part = share * (torch.ones_like(weight) if mask is None else mask)
        total += part * _in_palette(photograph, style, mask, what[index] if what else None)
        weight += part
    # Where no style is painted, the photograph stays.
    return torch.where(weight > 1e-6, total / weight.clamp_min(1e-6), photograph)


def _in_palette(photograph: Tensor, style: Tensor, where: Tensor | None, what: Tensor | None) -> Tensor:
    """The photograph in the style's colours.

    Colours are moved in a small copy. The photograph then follows it as a smooth affine map of its own colours
    (He2015), which keeps edges and does not amplify noise.
    """
    small, sample = (images.to_size(x, min(PALETTE, max(x.shape[-2:]))) for x in (photograph, style))
    inside = None if where is None else images.resize(where, *small.shape[-2:])
    counted = None if what is None else images.resize(what, *sample.shape[-2:])
    moved = color.transport_colors(small, sample, inside, counted)
    radius = min(4, (min(small.shape[-2:]) - 1) // 2)
    guide = matting.Guide(small, radius=radius, epsilon=1e-3, weight=inside)
    return guide.lift(moved, photograph).clamp_(0, 1)


def sweep(recipe: Transfer) -> list[tuple[str, Transfer]]:
    """The recipe at each style weight of its sweep, with labels; only itself if it has none."""
    if not recipe.sweep:
        return [("", recipe)]
    return [(f"style weight {weight:g}", replace(recipe, style_weight=weight, sweep=())) for weight in recipe.sweep]


def enlarge(image: Tensor, photograph: Tensor, content: Tensor, recipe: Transfer) -> Tensor:
    """Enlarge a picture painted at one scale to the next, and add the detail that the content has only there.

    This is a step of Burt and Adelson's (1983) Laplacian pyramid. Without that detail, the next scale would spend a
    third of its iterations on sharpening what the enlargement blurred.

    Args:
        image: (1, 3, h, w) the picture.
        photograph: the content at its own size.
        content: (1, 3, H, W) the content at the next scale.
        recipe: without a content term, no detail is added.
    """
    shape = content.shape[-2], content.shape[-1]
    large = images.resize(image, *shape)
    if not (recipe.content_weight and recipe.content_layers):
        return large
    blurred = images.resize(images.resize(photograph, image.shape[-2], image.shape[-1]), *shape)
    return large + (content - blurred)


def halvings(longest: int, least: int = 96) -> tuple[float, ...]:
    """Scales for a long edge of ``longest`` pixels: 1, 1/2, 1/4, ... above ``least`` pixels, the smallest first."""
    scales = [1.0]
    while longest * scales[0] / 2 > least:
        scales.insert(0, scales[0] / 2)
    return tuple(scales)


def shares(total: int, parts: int) -> list[int]:
    """Divide ``total`` iterations into even parts, the larger ones last: 8 in 3 -> 2, 3, 3."""
    return [(part + 1) * total // parts - part * total // parts for part in range(parts)]


def _check_counts(recipe: Transfer, styles: Sequence[Any], *masks_given: Sequence[Any]) -> None:
    if not styles and recipe.style_layers and recipe.style_weight * recipe.strength:
        raise InputError("a style is needed")
    for kind, given in zip(("content", "style"), masks_given, strict=True):
        if given and len(given) != len(styles):
            raise InputError(f"{len(given)} {kind} masks for {len(styles)} styles: give one for each style, or none")
    if recipe.style_weights and len(recipe.style_weights) != len(styles):
        raise InputError(f"{len(recipe.style_weights)} style weights for {len(styles)} styles")
