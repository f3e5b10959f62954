"""Training of one-pass networks (Johnson2016).

A network learns to repaint photographs in one style: its loss is the objective of optimisation-based transfer, on crops
of a folder of photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from impasto import datasets, encoder, fitting, flow, halos, images, losses, objective, onepass, optimize, recipes
from impasto.networks import Network

NOISE = 0.02  # standard deviation of the noise that is added to a moved crop
RAMP_FROM = 0.03  # fraction of the strength at the first step of a training


def train(
    style: Tensor,
    pool: datasets.Pool,
    recipe: recipes.Training,
    *,
    mask: Tensor | None = None,
    network: Network | None = None,
    state: Mapping[str, Any] | None = None,
) -> Iterator[fitting.TrainingStep]:
    """Train a network to repaint photographs in one style.

    The objective is that of optimisation-based transfer (`objective.build`), for the network's output clamped to
    [0, 1], with each crop as its own content. All randomness depends only on the seed and the step's number. If
    torch.distributed is initialised, each process takes its part of every batch; the result is that of one process.

    Args:
        style: (1, 3, H, W) sRGB in [0, 1].
        pool: photographs.
        recipe: what to train and how.
        mask: (1, 1, H, W), the part of the style that is used; default: all of it.
        network: trained in place; default: that of `begin`.
        state: from an earlier step, to resume from; None: a new training.

    Yields:
        Every step, as `fitting.fit` does.

    Raises:
        RecipeError: the batch cannot be divided among the processes.
        WeightsError: as in `begin`.
        DivergedError: the loss is not finite, even with a sixteenth of the rate.
    """
    network = (network or begin(recipe)).to(style.device)
    loss = task(network, style, pool, recipe, mask=mask)
    yield from fitting.fit(
        network, loss, steps=recipe.steps, rate=recipe.rate, warmup=recipe.steps // 50, state=state, retries=4
    )


def begin(recipe: recipes.Training) -> Network:
    """The network that a training starts from: ``recipe.start``, or random weights by the seed.

    Raises:
        WeightsError: the file is missing, damaged, or not such a model.
    """
    torch.manual_seed(recipe.seed)
    if not recipe.start:
        return Network()
    return onepass.require_network(onepass.load(recipe.start), recipe.start).requires_grad_(True)


def task(
    network: Network,
    style: Tensor,
    pool: datasets.Pool,
    recipe: recipes.Training,
    strength: Callable[[int], float] | None = None,
    *,
    mask: Tensor | None = None,
) -> Callable[[int], dict[str, Tensor]]:
    """The loss of a training, for `fitting.fit`.

    Args:
        network: to train; its memory format is changed.
        style, pool, recipe, mask: those of `train`.
        strength: step index, from 0 -> the strength of the step; default: the recipe's, which rises in the first steps.

    Returns:
        Step index, from 0 -> the terms of the loss.
    """
    device = style.device
    rank, world = fitting.processes(recipe.batch)
    vgg = encoder.load(recipe.encoder).to(device)
    blank = style.new_zeros(1, 3, recipe.crop, recipe.crop)
    used = [] if mask is None else [mask.to(device)]
    goal = objective.build(vgg, recipe.loss_recipe(), blank, [prepare_style(style, recipe)], style_masks=used)
    half = goal.dtype == torch.bfloat16
    # In float32 the gradient of the kernels takes twice as long in channels-last layout.
    layout = torch.channels_last if half else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    painter = DistributedDataParallel(network) if world > 1 else network

    def ramped(index: int) -> float:
        done = min(1.0, (index + 1) / max(1, recipe.ramp * recipe.steps))
        return recipe.strength * math.exp((1 - done) * math.log(RAMP_FROM))

    def loss(index: int) -> dict[str, Tensor]:
        generator = torch.Generator(device).manual_seed(recipe.seed * 1_000_003 + index)
        crops = datasets.random_crops(
            pool, recipe.batch, recipe.crop, generator, zoom=(0.6, 1.1), contrast=datasets.FLAT
        )[rank::world]
        seen = crops
        if recipe.motion:  # both in one pass, which DistributedDataParallel needs
            moves = flow.wander(recipe.batch, recipe.crop, recipe.crop, generator)[rank::world]
            noise = torch.randn((recipe.batch, *crops.shape[1:]), generator=generator, device=device)[rank::world]
            seen = torch.cat([crops, moved(crops, moves, noise)])
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            painted = painter(seen.contiguous(memory_format=layout), grain=recipe.grain)
        extra = {}
        if recipe.motion:
            painted, again = painted.split(len(crops))
            extra["motion"] = recipe.motion * unsteadiness(painted, again, moves)
        if recipe.halos:
            extra["halos"] = recipe.halos * halos.found(painted, crops).square().mean()
        if recipe.weave:
            extra["weave"] = recipe.weave * halos.weave(painted, crops)
        if recipe.lattice:
            extra["lattice"] = recipe.lattice * losses.lattice(painted)
        current = replace(goal, recipe=replace(goal.recipe, strength=(strength or ramped)(index)))
        terms, gradient = objective.for_content(current, crops)(painted.clamp(0, 1))  # as it will be saved
        optimize.inward_(gradient, painted)
        if world > 1:  # the same values in all processes, so that they stop together
            for term in terms.values():
                distributed.all_reduce(term.div_(world))
            for name, term in extra.items():  # these have gradients
                mean = term.detach() / world
                distributed.all_reduce(mean)
                extra[name] = term + (mean - term.detach())
        # The surrogate term is 0 and only adds a gradient. The terms are summed, so it may go on any of them.
        first = next(iter(terms))
        return {**terms, first: terms[first] + optimize.handed_on(gradient, painted), **extra}

    return loss


def moved(crops: Tensor, moves: Tensor, noise: Tensor) -> Tensor:
    """Move crops, and add a little noise.

    Args:
        crops: (B, 3, H, W) in [0, 1].
        moves: a flow, (B, 2, H, W) pixels.
        noise: (B, 3, H, W), of variance 1, of which `NOISE` is added.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    return (flow.warp(crops, moves) + NOISE * noise).clamp(0, 1)


def unsteadiness(painted: Tensor, again: Tensor, moves: Tensor) -> Tensor:
    """How much a network's strokes do not move with the picture.

    Args:
        painted, again: paintings of crops and of the moved crops, (B, 3, H, W).
        moves: the flow that moved them, (B, 2, H, W) pixels.

    Returns:
        Mean squared difference of the moved painting and the painting of the moved crop, where both show the crop.
    """
    return ((again - flow.warp(painted, moves)).square() * flow.inside(moves)).mean()


def prepare_style(style: Tensor, recipe: recipes.Training) -> Tensor:
    """The painting, (1, 3, H, W), as it is used in training: resized, and descreened by a median of 3 x 3."""
    painting = images.to_size(style, max(1, round(recipe.style_scale * recipe.style_size)))
    if not recipe.descreen:
        return painting
    windows = F.pad(painting, [1] * 4, "replicate").unfold(2, 3, 1).unfold(3, 3, 1)
    return windows.flatten(4).median(4).values
