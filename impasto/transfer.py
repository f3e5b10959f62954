"""Optimisation-based transfer (Gatys2016): reconstruction of content, of style, and of both at once.

`steps` reads the inputs (`prepare`) and plans the scales (`plan`). At each scale, coarse to fine, `paint` builds the
objective once, and `optimize.minimize` iterates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from impasto import (
    anystyle,
    color,
    encoder,
    faces,
    images,
    machine,
    masks,
    objective,
    optimize,
    palette,
    presets,
    schema,
)
from impasto.errors import InputError
from impasto.recipes import Transfer

USABLE = 0.7  # share of free memory that a run takes, and of its memory that tiles are planned with
LIBRARIES = 330_000_000  # bytes for kernels and small buffers, whatever the size


@dataclass(frozen=True)
class Pictures:
    """What a run paints from, on its device.

    Attributes:
        photograph: (1, 3, H, W) the content.
        content: the same, in the styles' colours if the recipe has `palette`.
        styles: (1, 3, h, w) each.
        content_masks, style_masks: empty, or (1, 1, h, w) for each style.
        guidance: (1, 1, h, w) whose square is how strongly styles are painted, less on faces; None: fully.
    """

    photograph: Tensor
    content: Tensor
    styles: Sequence[Tensor]
    content_masks: Sequence[Tensor]
    style_masks: Sequence[Tensor]
    guidance: Tensor | None = None


@dataclass(frozen=True)
class Scale:
    """One scale of a run: its fraction of the full size, its height and width, the iterations before it and its own."""

    fraction: float
    size: tuple[int, int]
    before: int
    steps: int


@dataclass(frozen=True)
class Resumed:
    """Where an earlier run stopped: its iterations, its picture, and the state of `optimize.minimize`."""

    done: int = 0
    image: Tensor | None = None
    inner: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Step:
    """One iteration of a transfer. Use `image` and `state` before the next one, which paints on the same tensors.

    Attributes:
        index, total: iterations done, from 1, and in all.
        scale: the current fraction of the full size.
        loss, terms: the weighted sum, and its terms: content, style and smoothness.
        size: height and width of the picture at this scale.
        iteration: of `optimize.minimize` at this scale.
        colors: (1, 3, H, W) the photograph whose colours the picture takes; None: it keeps its own.
    """

    index: int
    total: int
    scale: float
    loss: float
    terms: Mapping[str, float]
    size: tuple[int, int]
    iteration: optimize.Iteration = field(repr=False)
    colors: Tensor | None = field(repr=False)

    @cached_property
    def image(self) -> Tensor:
        """(1, 3, H, W) the picture so far, sRGB in [0, 1], at the scale's size."""
        image = self.iteration.x.clamp(0, 1)
        return image if self.colors is None else color.keep_luma(images.resize(self.colors, *self.size), image)

    def state(self) -> dict[str, Any]:
        """A copy of what `steps` needs to resume from here."""
        return {"done": self.index, "inner": self.iteration.state()}


def stylize(content: images.Source, style: images.Source | Sequence[images.Source], recipe: Transfer = presets.impasto,
            **options: Any) -> Tensor:  # fmt: skip
    """Repaint ``content`` in the manner of ``style``: run `steps` to its end.

    Args:
        content, style, recipe, options: those of `steps`.

    Returns:
        (1, 3, H, W) sRGB in [0, 1], with the content's aspect ratio.
    """
    last = deque(steps(content, style, recipe, **options), maxlen=1)
    if not last:
        raise InputError("no steps are left to do")
    return last[0].image


def steps(
    content: images.Source,
    style: images.Source | Sequence[images.Source] = (),
    recipe: Transfer = presets.impasto,
    *,
    content_masks: Sequence[images.Source] = (),
    style_masks: Sequence[images.Source] = (),
    device: str = "auto",
    memory: float = 0.0,
    state: Mapping[str, Any] | None = None,
    follow: tuple[Tensor, Tensor] | None = None,
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
        follow: for a frame of a film, a picture (1, 3, H, W) to start from and to stay close to, and how far it is to
            be followed, (1, 1, H, W) in [0, 1] (Ruder2016).

    Yields:
        Every iteration, with the picture so far; if ``state`` leaves none, its own again.

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
    target = machine.pick_device(device)
    network = encoder.load(recipe.encoder).to(target)
    pictures = prepare(content, styles, recipe, content_masks, style_masks, target)
    spare = _spare_memory(pictures, recipe, network, memory)
    resumed = Resumed()
    if state is not None:
        resumed = Resumed(int(state["done"]), state["inner"]["image"].to(target), state["inner"])
    if follow is not None:
        follow = follow[0].to(target), follow[1].to(target)
    image = resumed.image
    colors = pictures.photograph if recipe.keep_colors == "luma" else None
    for scale in plan(recipe, pictures):
        end = scale.before + scale.steps
        if end <= resumed.done and end < recipe.steps:  # the last scale yields a finished run's step again
            continue
        inner = resumed.inner if resumed.done > scale.before else None
        for each in paint(image, pictures, scale, recipe, network, spare, inner, follow):
            image, index = each.x, scale.before + each.index
            yield Step(index, recipe.steps, scale.fraction, each.loss, each.terms, scale.size, each, colors)


def prepare(
    content: images.Source,
    styles: Sequence[images.Source],
    recipe: Transfer,
    content_masks: Sequence[images.Source],
    style_masks: Sequence[images.Source],
    device: torch.device,
) -> Pictures:
    """Read the inputs of `steps`, and recolour them as the recipe says.

    Args:
        content, styles, recipe, content_masks, style_masks: those of `steps`.
        device: of the run.

    Returns:
        The pictures, at their own sizes.

    Raises:
        ImageError, InputError: one of them cannot be read, or is not a mask.
    """
    styles = [each if isinstance(each, Tensor) else images.read(each) for each in styles]
    photograph = images.to_tensor(content).to(device)
    paintings = [images.to_tensor(source).to(device) for source in styles]
    inside = [masks.read(mask).to(device) for mask in content_masks]
    counted = [mask.to(device) for mask in masks.visible(styles, style_masks)]
    if recipe.keep_colors == "luma":
        paintings = [color.match_luma(painting, photograph) for painting in paintings]
    elif recipe.keep_colors == "histogram":
        paintings = [color.match_histogram(painting, photograph) for painting in paintings]
    colored = photograph
    if recipe.palette:
        colored = palette.recolor(photograph, paintings, recipe.style_weights, inside, counted)
    return Pictures(photograph, colored, paintings, inside, counted, faces.guidance(photograph, recipe.face_strength))


def plan(recipe: Transfer, pictures: Pictures) -> list[Scale]:
    """The scales of a run, coarse to fine; those that get no iteration are left out."""
    height, width = pictures.photograph.shape[-2:]
    if recipe.size:
        height, width = images.fit(height, width, recipe.size)
    fractions = recipe.scales or halvings(max(height, width))
    scales, before = [], 0
    for fraction, count in zip(fractions, shares(recipe.steps, len(fractions)), strict=True):
        if count:
            size = max(1, round(fraction * height)), max(1, round(fraction * width))
            scales.append(Scale(fraction, size, before, count))
        before += count
    return scales


def paint(
    image: Tensor | None,
    pictures: Pictures,
    scale: Scale,
    recipe: Transfer,
    network: encoder.VGG,
    spare: float,
    state: Mapping[str, Any] | None = None,
    follow: tuple[Tensor, Tensor] | None = None,
) -> Iterator[optimize.Iteration]:
    """Paint one scale: build its objective, then minimise it.

    Args:
        image: the picture of the scale before; None: `start` makes one.
        pictures, scale: from `prepare` and `plan`, for the recipe.
        recipe, network: what to optimise and how, and the encoder.
        spare: bytes for the optimiser and the objective.
        state: of an iteration at this scale, to resume from; None: from the first.
        follow: as in `steps`.

    Yields:
        Every iteration that is left at this scale.
    """
    content = images.resize(pictures.content, *scale.size)
    longest = max(1, round(recipe.style_scale * max(scale.size)))
    goal: optimize.ValueAndGradient = objective.build(
        network,
        recipe,
        content,
        [images.to_size(style, longest) for style in pictures.styles],
        [images.resize(mask, *scale.size) for mask in pictures.content_masks],
        pictures.style_masks,
        guidance=None if pictures.guidance is None else images.resize(pictures.guidance, *scale.size),
        budget=USABLE * (spare - optimize.memory(content, recipe.optimizer)),
    )
    if follow is not None:
        wanted, trusted = (images.resize(each, *scale.size) for each in follow)
        goal = objective.following(goal, wanted, trusted)
    if image is not None:
        image = image if state is not None else to_next_scale(image, pictures.content, content, recipe)
    elif follow is not None:
        image = content.lerp(wanted, trusted)
    elif recipe.init == "one-pass":
        image = in_one_pass(recipe, content, pictures)
    else:
        image = start(recipe, content, pictures.styles)
    return optimize.minimize(
        image, goal, optimizer=recipe.optimizer, steps=scale.steps, rate=recipe.rate, clip=recipe.clip,
        flat=recipe.flat, state=state,
    )  # fmt: skip


def start(recipe: Transfer, content: Tensor, styles: Sequence[Tensor]) -> Tensor:
    """The picture that a run starts from.

    Args:
        recipe: for `init`, and for the noise and its seed.
        content, styles: (1, 3, H, W), the content at the size to paint; (1, 3, h, w) each.

    Returns:
        (1, 3, H, W); noise may exceed [0, 1].

    Raises:
        InputError, ImageError: ``init`` is style, and there is none; or it is not a known start or a readable picture.
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


def in_one_pass(recipe: Transfer, content: Tensor, pictures: Pictures) -> Tensor:
    """The picture of the network of any painting (`anystyle`).

    Args:
        recipe: for the styles' scale and shares.
        content: (1, 3, H, W) the photograph at the size to paint.
        pictures: from `prepare`.

    Returns:
        (1, 3, H, W) in [0, 1].

    Raises:
        InputError: no style is given.
        WeightsError: the network cannot be read.
    """
    if not pictures.styles:
        raise InputError("`init` one-pass needs a style")
    given = recipe.style_weights or (1.0,) * len(pictures.styles)
    return anystyle.repaint(
        content, pictures.styles, [part / sum(given) for part in given], style_scale=recipe.style_scale,
        content_masks=pictures.content_masks, style_masks=pictures.style_masks,
    )  # fmt: skip


def to_next_scale(image: Tensor, full: Tensor, content: Tensor, recipe: Transfer) -> Tensor:
    """Enlarge a picture painted at one scale to the next, and add the detail that the content has only there.

    This is a step of the Laplacian pyramid (BurtAdelson1983). Without that detail, the next scale would spend a
    third of its iterations on sharpening what the enlargement blurred.

    Args:
        image: (1, 3, h, w) the picture.
        full, content: the content at its own size, and at the next scale, (1, 3, H, W).
        recipe: without a content term, no detail is added.

    Returns:
        (1, 3, H, W), which may exceed [0, 1].
    """
    shape = content.shape[-2], content.shape[-1]
    large = images.resize(image, *shape)
    if not (recipe.content_weight and recipe.content_layers):
        return large
    blurred = images.resize(images.resize(full, image.shape[-2], image.shape[-1]), *shape)
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
    if recipe.style_weights and not any(recipe.style_weights):
        raise InputError("`style_weights` must not all be 0")


def _spare_memory(pictures: Pictures, recipe: Transfer, network: encoder.VGG, memory: float) -> float:
    """Bytes of ``memory`` (GB; 0: of the free memory) that the pictures leave for painting."""
    inputs = [pictures.photograph, *pictures.styles, *pictures.content_masks, *pictures.style_masks]
    if pictures.content is not pictures.photograph:
        inputs.append(pictures.content)
    held = LIBRARIES + sum(x.nbytes for x in inputs)
    spare = (memory * 1e9 or USABLE * machine.free_memory(pictures.photograph.device)) - held
    height, width = plan(recipe, pictures)[-1].size
    image = pictures.photograph[..., :1, :1].expand(1, 3, height, width)  # of this size, without its memory
    tile = objective.least_memory(network, recipe, image, len(pictures.styles))
    least = optimize.memory(image, recipe.optimizer) + tile / USABLE
    if spare <= least:
        need = (least + held) / 1e9
        raise InputError(f"not enough memory: {width} x {height} needs over {need:.1f} GB; raise `memory`")
    return spare
