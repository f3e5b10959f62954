"""The loss of a picture and its gradient: alpha content + beta style + smoothness (Gatys2016, eq. 7).

The loss L depends on the features F of a layer only through sums over positions: e = |F - P|^2 for the content P and
S = (m F)(m F)^T for a style, where m is the guidance mask, if there is one. So

    dL/dF = 2 dL/de (F - P) + m^2 (dL/dS + dL/dS^T) F,

which needs autograd only for L(e, S), on a few small matrices. The content term ``normalized`` has sums of its own
(`losses.normalized_sums`). Sums add up over tiles, so a large picture can be computed in tiles: first the sums over all
tiles, then the gradient of each tile, at the price of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from impasto import encoder, images, losses, machine, masks, optimize
from impasto.encoder import VGG, Frozen
from impasto.recipes import Transfer
from impasto.tiling import Window, everything, smallest, windows

MOTION = 100.0  # weight of the temporal term, for sRGB in [0, 1] and losses near 1

Key = tuple[str, int, str]  # (what, which region, layer): ("content", 0, "relu4_2"), ("style", 1, "relu1_1")
Sums = dict[Key, Tensor]


@dataclass(frozen=True)
class Region:
    """A style, and where it is painted.

    Attributes:
        targets: layer -> (1, C, C) Gram matrix of the style, per position.
        weight: of this style's losses.
        masks: layer -> (1, 1, h, w) guidance; empty: everywhere.
    """

    targets: Mapping[str, Tensor]
    weight: float = 1.0
    masks: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """The loss of a picture as a function: picture -> named terms, and the gradient of their sum.

    Attributes:
        recipe: weights and normalisations.
        network: the encoder, called as ``network(image, layers)``.
        layers: the layers that the loss needs.
        dtype: of the encoder's computation.
        frozen: the encoder without autograd; None: autograd computes everything, without tiles.
        budget: bytes that a pass may take; 0: no limit.
        scales: layer -> factor on its activations (recipe.feature_scale).
        content: layer -> (B, C, h, w) activations to keep, normalised if the content term is.
        regions: the styles.
    """

    recipe: Transfer
    network: VGG
    layers: Sequence[str]
    dtype: torch.dtype
    frozen: Frozen | None = None
    budget: float = 0
    scales: Mapping[str, float] = field(default_factory=dict)
    content: Mapping[str, Tensor] = field(default_factory=dict)
    regions: Sequence[Region] = ()

    @property
    def normalized(self) -> bool:
        """Whether content is measured on normalised activations; ``content`` then holds those."""
        return self.recipe.content_term == "normalized"

    @cached_property
    def energies(self) -> dict[str, Tensor]:
        """layer -> (B,) `losses.energy` of the content, computed once."""
        return {layer: losses.energy(target) for layer, target in self.content.items()}

    def __call__(self, image: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        """The terms, scalars, and the gradient of their sum, (B, 3, H, W) float32.

        Args:
            image: (B, 3, H, W) sRGB.
        """
        image = image.detach()
        if self.frozen is None:
            return optimize.by_autograd(self.terms)(image)
        tiles = windows(image, self.frozen, self.budget)
        sums: Sums = {}
        for tile in tiles:
            record = self.frozen.forward(tile.crop(image))
            for key, value in self.sums(record.features, tile, image).items():
                sums[key] = sums[key] + value if key in sums else value
        leaves = {key: value.requires_grad_() for key, value in sums.items()}
        with torch.enable_grad():
            terms = self.weigh(leaves, image)
            total = torch.stack([*terms.values()]).sum()
            slopes = dict(zip(leaves, torch.autograd.grad(total, [*leaves.values()]), strict=True))
        gradient = torch.zeros_like(image)
        for tile in tiles:
            if len(tiles) > 1:
                record = self.frozen.forward(tile.crop(image))
            add = partial(self.add_gradient, record.features, slopes, tile)
            tile.crop(gradient).add_(self.frozen.backward(record, add))
            if self.recipe.smoothness:
                slope = float(slopes["smoothness", 0, ""])
                losses.add_variation_gradient(gradient, image, slope, tile.top, tile.left, tile.bottom, tile.right)
        return {name: term.detach() for name, term in terms.items()}, gradient

    def terms(self, image: Tensor) -> dict[str, Tensor]:
        """Only the terms, differentiable by autograd: the reference for the hand-written passes."""
        features = activations(self.network, image, self.layers, self.dtype)
        return self.weigh(self.sums(features, everything(image), image), image)

    def sums(self, features: Mapping[str, Tensor], tile: Window, image: Tensor) -> Sums:
        """e and S over the positions of a tile, and the variation of its pixels."""
        sums: Sums = {}
        for layer, target in self.content.items():
            x = features[layer]
            measure = losses.normalized_sums if self.normalized else losses.squared_error
            sums["content", 0, layer] = measure(x, tile.at_layer(target, x, layer), tile.inside(x, layer))
        for index, region in enumerate(self.regions):
            for layer in region.targets:
                x = features[layer]
                sums["style", index, layer] = losses.gram_sum(x, _guidance(region, x, layer, tile))
        if self.recipe.smoothness:
            sums["smoothness", 0, ""] = losses.variation(image, tile.top, tile.left, tile.bottom, tile.right)
        return sums

    def weigh(self, sums: Sums, image: Tensor) -> dict[str, Tensor]:
        """L(e, S): the terms of the loss from the sums over all positions."""
        recipe = self.recipe
        alphas, betas = (
            dict(zip(layers, weights or (1.0,) * len(layers), strict=True))
            for layers, weights in (
                (recipe.content_layers, recipe.content_layer_weights),
                (recipe.style_layers, recipe.layer_weights),
            )
        )
        terms: dict[str, Tensor] = {}
        for (what, index, layer), value in sums.items():
            if what == "smoothness":
                terms[what] = recipe.smoothness * value / image.numel()
                continue
            height, width = encoder.layer_size(layer, image.shape[-2], image.shape[-1])
            scale = self.scales.get(layer, 1.0) ** 2
            if what == "content":
                whole, channels = self.energies[layer], self.content[layer].shape[1]
                if self.normalized:
                    error = losses.normalized_error(value, whole, height * width)
                else:
                    error = losses.normalize_error(
                        scale * value, scale * whole, channels, height * width, recipe.content_term
                    )
                term = recipe.content_weight * alphas[layer] * error
            else:
                region = self.regions[index]
                count = region.masks[layer].square().sum().clamp_min(1e-6) if region.masks else height * width
                term = losses.style_loss(
                    scale * value / count, region.targets[layer], height * width, recipe.style_term
                )
                term = recipe.style_weight * recipe.strength * betas[layer] * region.weight * term
            terms[what] = terms[what] + term if what in terms else term
        return terms

    def add_gradient(
        self, features: Mapping[str, Tensor], slopes: Mapping[Key, Tensor], tile: Window, layer: str, gradient: Tensor
    ) -> None:
        """Add dL/dF of a layer of a tile to its ``gradient``, in place; ``slopes`` are dL/de and dL/dS."""
        x = features[layer]
        if layer in self.content and self.normalized:
            mean, square, product = (slope[..., None, None].to(x.dtype) for slope in slopes["content", 0, layer])
            change = 2 * square * x + mean + product * tile.at_layer(self.content[layer], x, layer)
            inside = tile.inside(x, layer)
            gradient.add_(change if inside is None else change * inside)
        elif layer in self.content:
            difference = x - tile.at_layer(self.content[layer], x, layer)
            if (inside := tile.inside(x, layer)) is not None:
                difference *= inside
            slope = 2 * slopes["content", 0, layer].view(-1, 1, 1, 1)
            gradient.addcmul_(difference, slope.to(x.dtype))
        for index, region in enumerate(self.regions):
            if layer not in region.targets:
                continue
            slope = slopes["style", index, layer]
            slope = (slope + slope.transpose(1, 2)).to(x.dtype)
            guidance = _guidance(region, x, layer, tile)
            rows = losses.positions(x if guidance is None else x * guidance.square())
            gradient.permute(0, 2, 3, 1).view(rows.shape).baddbmm_(rows, slope)


def build(
    network: VGG, recipe: Transfer, content: Tensor, styles: Sequence[Tensor],
    content_masks: Sequence[Tensor] = (), style_masks: Sequence[Tensor] = (), *, guidance: Tensor | None = None,
    by_hand: bool = True, budget: float = 0,
) -> Objective:  # fmt: skip
    """The recipe's objective for these pictures, with its targets computed, once.

    Without masks, the styles' Gram matrices are blended into one target: for terms that are not divided by the target,
    that has the gradient of the blended losses. With masks, each style has its own target in its own region, weighted
    by the region's share of the picture and by the style's weight relative to the mean.

    Args:
        network: the encoder; one that is not a `VGG` is left to autograd.
        recipe: the layers, the weights and normalisations of the terms, and the precision.
        content: (B, 3, H, W) sRGB in [0, 1].
        styles: (1, 3, H, W) each, of any size.
        content_masks: empty, or (1, 1, H, W) for each style.
        style_masks: empty, or one for each style, of any size.
        guidance: (1, 1, H, W) in [0, 1], whose square is how strongly styles are painted (Gatys2017); None: fully.
        by_hand: False leaves everything to autograd, as a reference.
        budget: bytes that targets and a pass may take; 0: no limit.

    Returns:
        The objective of pictures of the content's size.

    Raises:
        InputError: the budget is too small for any tile.
    """
    content_layers, style_layers = layers_of(recipe, len(styles))
    layers = encoder.check_layers((*content_layers, *style_layers), network.places)
    dtype = machine.precision(recipe.precision, content.device)
    frozen = None
    if by_hand and isinstance(network, VGG):
        frozen = Frozen(network, layers, dtype, minimal=recipe.precision == "auto")
    bare = Objective(recipe, network, layers, dtype, frozen, budget)
    with torch.no_grad():
        scales: dict[str, float] = {}
        if recipe.feature_scale:
            means = _mean_squares(bare, content if content_layers else styles[0])
            scales = {layer: recipe.feature_scale / max(mean**0.5, 1e-12) for layer, mean in means.items()}
        kept = _activations_to_keep(bare, content, content_layers)
        if budget:
            held = sum(x.nbytes for x in kept.values()) + (frozen.tables if frozen else 0)
            budget = max(1.0, budget - held)
        bare = replace(bare, scales=scales, content=kept, budget=budget)
        grams = []
        for index, style in enumerate(styles if style_layers else ()):
            mask = images.resize(style_masks[index], *style.shape[-2:]) if style_masks else None
            grams.append(_grams(bare, style, style_layers, mask))
    blend = torch.tensor(recipe.style_weights or [1.0] * len(grams))
    shared = [float(weight) for weight in blend / blend.sum().clamp_min(1e-12)]
    regions: list[Region] = []
    if content_masks:
        covers = content_masks if guidance is None else [mask * guidance for mask in content_masks]
        regions = [
            Region(targets, masks.share(mask) * weight * len(grams), _at_layers(guided, style_layers, content))
            for mask, guided, weight, targets in zip(content_masks, covers, shared, grams, strict=bool(grams))
        ]
    elif grams:
        blended = {
            layer: torch.stack([weight * targets[layer] for weight, targets in zip(shared, grams, strict=True)]).sum(0)
            for layer in style_layers
        }
        regions = [Region(blended, masks=_at_layers(guidance, style_layers, content))]
    return replace(bare, regions=regions)


def layers_of(recipe: Transfer, styles: int) -> tuple[Sequence[str], Sequence[str]]:
    """The layers of the content and of the style that count, for a number of styles."""
    content = recipe.content_layers if recipe.content_weight else ()
    return content, recipe.style_layers if recipe.style_weight * recipe.strength and styles else ()


def least_memory(network: VGG, recipe: Transfer, content: Tensor, styles: int) -> int:
    """Bytes that the objective needs at least: what it keeps of the content, and a pass over the smallest tile.

    Args:
        network, recipe, content: those of `build`.
        styles: their number.

    Returns:
        Bytes.
    """
    content_layers, style_layers = layers_of(recipe, styles)
    dtype = machine.precision(recipe.precision, content.device)
    frozen = Frozen(network, (*content_layers, *style_layers), dtype, minimal=recipe.precision == "auto")
    kept = 0
    for layer in content_layers:
        height, width = encoder.layer_size(layer, *content.shape[-2:])
        kept += getattr(network, f"conv{layer[4:]}").out_channels * height * width * dtype.itemsize
    return kept + frozen.tables + smallest(frozen)


def for_content(goal: Objective, content: Tensor) -> Objective:
    """The same objective for another content, (B, 3, H, W)."""
    with torch.no_grad():
        return replace(goal, content=_activations_to_keep(goal, content, [*goal.content]))


def activations(network: VGG, image: Tensor, layers: Sequence[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """The encoder's features with autograd.

    Args:
        network: the encoder.
        image: (B, 3, H, W) sRGB.
        layers: the wanted ones.
        dtype: of the computation.

    Returns:
        layer -> (B, C, H, W) float32.
    """
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.autocast(image.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        return {layer: x.float() for layer, x in network(image, layers).items()}


def _passes(bare: Objective, image: Tensor) -> Iterator[tuple[Mapping[str, Tensor], Window]]:
    if bare.frozen is None:
        yield activations(bare.network, image, bare.layers, bare.dtype), everything(image)
        return
    for tile in windows(image, bare.frozen, bare.budget):
        yield bare.frozen.forward(tile.crop(image)).features, tile


def _mean_squares(bare: Objective, image: Tensor) -> dict[str, float]:
    means = dict.fromkeys(bare.layers, 0.0)
    for features, tile in _passes(bare, image):
        for layer, x in features.items():
            height, width = encoder.layer_size(layer, image.shape[-2], image.shape[-1])
            whole = losses.energy(x, tile.inside(x, layer)).sum()
            means[layer] += float(whole) / (len(x) * x.shape[1] * height * width)
    return means


def _activations_to_keep(bare: Objective, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}
    for features, tile in _passes(bare, image) if layers else ():
        for layer in layers:
            x = features[layer]
            inside = tile.inside(x, layer)
            if inside is None:
                kept[layer] = x
                continue
            if layer not in kept:
                size = encoder.layer_size(layer, image.shape[-2], image.shape[-1])
                kept[layer] = x.new_zeros(*x.shape[:2], *size)
            tile.at_layer(kept[layer], x, layer).add_(x * inside)
    if bare.normalized:
        for x in kept.values():
            for part in torch.split(x, 16, 1):  # all channels at once would take several times the memory
                part.copy_(losses.normalize(part))
    return kept


def _grams(bare: Objective, style: Tensor, layers: Sequence[str], mask: Tensor | None) -> dict[str, Tensor]:
    """layer -> (1, C, C), per position."""
    region = Region({}, masks=_at_layers(mask, layers, style))
    grams: dict[str, Tensor] = {}
    for features, tile in _passes(bare, style):
        for layer in layers:
            x = features[layer]
            height, width = encoder.layer_size(layer, style.shape[-2], style.shape[-1])
            count = region.masks[layer].square().sum().clamp_min(1e-6) if region.masks else height * width
            part = losses.gram_sum(x, _guidance(region, x, layer, tile)) / count
            grams[layer] = grams[layer] + part if layer in grams else part
    return {layer: bare.scales.get(layer, 1.0) ** 2 * gram for layer, gram in grams.items()}


def _at_layers(mask: Tensor | None, layers: Sequence[str], image: Tensor) -> dict[str, Tensor]:
    if mask is None:
        return {}
    return {
        layer: masks.at_layer(mask, *encoder.layer_size(layer, image.shape[-2], image.shape[-1])) for layer in layers
    }


def _guidance(region: Region, x: Tensor, layer: str, tile: Window) -> Tensor | None:
    """(1, 1, h, w) where a region's style counts in a tile; None: everywhere."""
    inside = tile.inside(x, layer)
    if not region.masks:
        return inside
    mask = tile.at_layer(region.masks[layer], x, layer).to(x.dtype)
    return mask if inside is None else mask * inside


def following(goal: optimize.ValueAndGradient, wanted: Tensor, trusted: Tensor) -> optimize.ValueAndGradient:
    """An objective with the temporal term: the squared difference from a picture to follow (Ruder2016).

    Args:
        goal: the objective without it.
        wanted: (1, 3, H, W), the picture to follow.
        trusted: (1, 1, H, W) in [0, 1], how far each pixel is to be followed.

    Returns:
        ``goal`` with one more term, "motion".
    """

    def followed(image: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        terms, gradient = goal(image)
        difference = image - wanted
        weighted = trusted * difference * (MOTION / image.numel())
        return {**terms, "motion": (weighted * difference).sum()}, gradient + 2 * weighted

    return followed
