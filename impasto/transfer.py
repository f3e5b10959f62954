"""Optimisation-based transfer (Gatys et al. 2016): reconstruction of content, of style, and of both at once.

The way of a picture: targets once (`objective`), then for each scale, coarse to fine, `optimize.minimize`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from impasto import color, encoder, images, losses, masks, optimize, recipes
from impasto.encoder import VGG
from impasto.recipes import RecipeError, Transfer


@dataclass(frozen=True)
class Step:
    """One iteration of a transfer, seen from outside.

    Attributes:
        index: iterations done, from 1.
        total: iterations to do.
        scale: fraction of the full size that is being painted.
        loss: the weighted sum of the terms.
        terms: content, style and smoothness, weighted.
        image: (1, 3, H, W) the picture so far, sRGB in [0, 1], at the scale's size.
        state: gives what `steps` needs to go on from here.
    """

    index: int
    total: int
    scale: float
    loss: float
    terms: Mapping[str, float]
    image: Tensor
    state: Callable[[], dict[str, Any]]


def stylize(content: images.Source, style: images.Source | Sequence[images.Source], recipe: Transfer = recipes.impasto,
            **options: Any) -> Tensor:  # fmt: skip
    """Repaint ``content`` in the manner of ``style``: `steps`, run to its end.

    Returns:
        (1, 3, H, W) sRGB in [0, 1], of the content's aspect ratio.
    """
    image = None
    for step in steps(content, style, recipe, **options):
        image = step.image
    if image is None:
        raise RecipeError("--steps must be 1 or more, to paint anything")
    return image


def steps(
    content: images.Source,
    style: images.Source | Sequence[images.Source] = (),
    recipe: Transfer = recipes.impasto,
    *,
    content_masks: Sequence[images.Source] = (),
    style_masks: Sequence[images.Source] = (),
    device: str = "auto",
    state: Mapping[str, Any] | None = None,
) -> Iterator[Step]:
    """Repaint ``content`` in the manner of one style or several, yielding every iteration.

    Args:
        content: a path, PIL image, array or tensor.
        style: the same, or a sequence of them.
        recipe: what to optimise and how.
        content_masks: one for each style: it is painted where its mask is white. None: everywhere.
        style_masks: one for each style: only what is white there counts as the style.
        device: auto, cpu, cuda or mps.
        state: what an earlier ``Step.state()`` gave, to go on from there.

    Raises:
        RecipeError: the recipe does not fit itself or its inputs.
        ImageError, WeightsError: an input or the encoder's file cannot be read.
        DivergedError: a loss that is not finite.
    """
    recipes.check(recipe)
    styles = list(style) if isinstance(style, Sequence) and not isinstance(style, str) else [style]
    _check_counts(recipe, styles, content_masks, style_masks)
    target = pick_device(device)
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
    full = (photograph.shape[-2], photograph.shape[-1])
    full = images.fit(*full, recipe.size) if recipe.size else full

    def finish(image: Tensor) -> Tensor:
        image = image.clamp(0, 1)
        if recipe.keep_colors == "luma":
            image = color.keep_luma(images.resize(photograph, *image.shape[-2:]), image)
        return image

    done = 0
    resumed = int(state["done"]) if state is not None else 0
    image = state["inner"]["image"].to(target) if state is not None else None
    for scale, count in zip(recipe.scales, shares(recipe.steps, len(recipe.scales)), strict=True):
        done += count
        if count == 0 or resumed >= done:
            continue
        before = done - count
        shape = (max(1, round(scale * full[0])), max(1, round(scale * full[1])))
        small = images.resize(photograph, *shape)
        edge = recipe.style_scale * max(shape)
        goal = objective(
            network,
            recipe,
            small,
            [images.to_size(painting, max(1, round(edge))) for painting in paintings],
            [images.resize(mask, *shape) for mask in where],
            what,
        )
        image = start(recipe, small, paintings) if image is None else images.resize(image, *shape)
        for step in optimize.minimize(
            image,
            goal,
            optimizer=recipe.optimizer,
            steps=count,
            rate=recipe.rate,
            clip=recipe.clip,
            state=state["inner"] if state is not None and resumed > before else None,
        ):
            image, index = step.image, before + step.index

            def snapshot(step: optimize.Step = step, index: int = index) -> dict[str, Any]:
                return {"done": index, "inner": step.state()}

            yield Step(index, recipe.steps, scale, step.loss, step.terms, finish(image), snapshot)


def objective(
    network: VGG,
    recipe: Transfer,
    content: Tensor,
    styles: Sequence[Tensor],
    content_masks: Sequence[Tensor] = (),
    style_masks: Sequence[Tensor] = (),
) -> optimize.Objective:
    """The recipe's loss as a function of the picture: alpha content + beta style + smoothness.

    Targets are computed here, once. Without masks the styles' Gram matrices are blended into one target, which has
    the gradient of the blended losses; with masks each style has a target of its own in its own region, weighted by
    the region's share of the picture.

    Args:
        content: (1, 3, H, W) sRGB in [0, 1].
        styles: of any size.
        content_masks: none, or for each style (1, 1, H, W).
        style_masks: none, or for each style, of any size.
    """
    content_layers = recipe.content_layers if recipe.content_weight else ()
    style_layers = recipe.style_layers if recipe.style_weight * recipe.strength and styles else ()
    wanted = encoder.check_layers((*content_layers, *style_layers), network.places)
    precision = _precision(recipe, content.device)

    def features(image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(image.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            activations = network(image, layers)
        return {layer: x.float() * scales.get(layer, 1.0) for layer, x in activations.items()}

    scales: dict[str, float] = {}
    with torch.no_grad():
        if recipe.feature_scale:
            reference = features(content if content_layers else styles[0], wanted)
            scales = {
                layer: recipe.feature_scale / max(float(losses.root_mean_square(x)), 1e-12)
                for layer, x in reference.items()
            }
        kept = features(content, content_layers) if content_layers else {}
        grams = []
        for index, style in enumerate(styles if style_layers else ()):
            layers = features(style, style_layers)
            mask = images.resize(style_masks[index], *style.shape[-2:]) if style_masks else None
            grams.append(
                {
                    layer: losses.gram(x, None if mask is None else masks.at_layer(mask, *x.shape[-2:]))
                    for layer, x in layers.items()
                }
            )
    blend = torch.tensor(recipe.style_weights or [1.0] * len(grams))
    shared = [float(weight) for weight in blend / blend.sum().clamp_min(1e-12)]
    regions: list[tuple[Tensor | None, float, dict[str, Tensor]]]
    if content_masks:
        regions = [
            (mask, masks.share(mask) * weight * len(grams), target)
            for mask, weight, target in zip(content_masks, shared, grams, strict=True)
        ]
    elif grams:
        blended = {
            layer: sum((weight * target[layer] for weight, target in zip(shared, grams, strict=True)), torch.zeros(()))
            for layer in style_layers
        }
        regions = [(None, 1.0, blended)]
    else:
        regions = []
    layer_weights = dict(zip(style_layers, recipe.layer_weights or [1.0] * len(style_layers), strict=False))

    def loss(image: Tensor) -> dict[str, Tensor]:
        activations = features(image, wanted)
        terms: dict[str, Tensor] = {}
        for layer, target in kept.items():
            term = losses.content_loss(activations[layer], target, recipe.content_term)
            terms["content"] = terms.get("content", 0.0) + recipe.content_weight * term
        for mask, weight, targets in regions:
            for layer, target in targets.items():
                x = activations[layer]
                at_layer = None if mask is None else masks.at_layer(mask, *x.shape[-2:])
                positions = x.shape[-2] * x.shape[-1]
                term = losses.style_loss(losses.gram(x, at_layer), target, positions, recipe.style_term)
                beta = recipe.style_weight * recipe.strength * layer_weights[layer] * weight
                terms["style"] = terms.get("style", 0.0) + beta * term
        if recipe.smoothness:
            terms["smoothness"] = recipe.smoothness * losses.total_variation(image)
        return terms

    return loss


def start(recipe: Transfer, content: Tensor, styles: Sequence[Tensor]) -> Tensor:
    """The picture that the optimisation starts from, of the content's size.

    Raises:
        RecipeError: a start from the style where there is none.
        ImageError: ``init`` is neither a known start nor a picture.
    """
    if recipe.init == "content":
        return content
    if recipe.init == "noise":
        generator = torch.Generator().manual_seed(recipe.seed)
        noise = torch.randn(content.shape, generator=generator)
        return (0.5 + recipe.noise * noise).to(content.device)
    if recipe.init == "style":
        if not styles:
            raise RecipeError("--init style needs a style")
        return images.resize(styles[0], *content.shape[-2:])
    return images.resize(images.to_tensor(recipe.init).to(content.device), *content.shape[-2:])


def sweep(recipe: Transfer) -> list[tuple[str, Transfer]]:
    """The recipe at each style weight of its sweep, labelled; itself alone when it has none."""
    if not recipe.sweep:
        return [("", recipe)]
    return [(f"style weight {weight:g}", replace(recipe, style_weight=weight, sweep=())) for weight in recipe.sweep]


def shares(total: int, parts: int) -> list[int]:
    """``total`` iterations in even parts, the last ones the larger: 8 in 3 -> 2, 3, 3."""
    return [(part + 1) * total // parts - part * total // parts for part in range(parts)]


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name; auto is cuda, else mps, else cpu.

    Raises:
        RecipeError: this machine has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there.get(name, False):
        raise RecipeError(f"--device {name}: this machine has none; try --device auto")
    return torch.device(name)


def _precision(recipe: Transfer, device: torch.device) -> torch.dtype:
    if recipe.precision != "auto":
        return torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast else torch.float32


def _check_counts(recipe: Transfer, styles: Sequence[Any], *masks_given: Sequence[Any]) -> None:
    if not styles and recipe.style_layers and recipe.style_weight * recipe.strength:
        raise RecipeError("a style is needed")
    for kind, given in zip(("content", "style"), masks_given, strict=True):
        if given and len(given) != len(styles):
            raise RecipeError(f"{len(given)} {kind} masks for {len(styles)} styles: give one for each style, or none")
    if recipe.style_weights and len(recipe.style_weights) != len(styles):
        raise RecipeError(f"{len(recipe.style_weights)} style weights for {len(styles)} styles")
