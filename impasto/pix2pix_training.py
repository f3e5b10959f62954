"""Training of paired image-to-image translation, with a conditional adversarial network (Isola2017).

A generator learns from pairs to turn the first picture into the second. Its loss is the distance to the second picture
and the verdict of a discriminator, which learns at the same time to distinguish the generator's pairs from real ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from impasto import color, colorizer, encoder, fitting, generators, machine, pairs as pairing, pix2pix
from impasto.colorizer import Colorizer
from impasto.errors import RecipeError
from impasto.generators import GENERATORS, PatchGAN, Shape
from impasto.pairs import Kind, Pairs
from impasto.pix2pix import Model
from impasto.recipes import Translation


def shape(recipe: Translation) -> Shape:
    """The shape of a recipe's generator.

    Raises:
        RecipeError: there is no such generator, or the crops do not fit it.
    """
    name = re.fullmatch(r"(unet|resnet)(\d+)", recipe.generator)
    kind, number = ("resnet", 0) if name is None else (name[1], int(name[2]))
    unet = kind == "unet"
    depth = number.bit_length() - 1 if unet else number
    if name is None or depth < (3 if unet else 1) or (unet and number != 1 << depth):
        raise RecipeError(
            f"`generator` must be features, or a name such as unet256 or resnet9, not {recipe.generator!r}"
        )
    if not 0 < depth <= generators.DEEPEST:
        raise RecipeError(f"`generator` {recipe.generator} is too deep: at most {generators.DEEPEST} layers or blocks")
    result = Shape(kind, *recipe.channels, recipe.width, depth, recipe.norm, recipe.dropout, recipe.resize)  # type: ignore[arg-type]
    check_crop(recipe, result.stride)
    return result


def check_crop(recipe: Translation, stride: int) -> None:
    if recipe.crop % stride or recipe.load < recipe.crop:
        raise RecipeError(
            f"`crop` must be a multiple of {stride} for {recipe.generator} and at most `load`, "
            f"not {recipe.crop} of {recipe.load}"
        )
    least = 1 << (recipe.critic_layers + 2)
    if recipe.gan != "none" and recipe.critic_layers and recipe.crop < least:
        raise RecipeError(f"`crop` must be at least {least} for `critic_layers` {recipe.critic_layers}")


def begin(recipe: Translation) -> nn.Module:
    """The generator that a training starts from, with random weights by the seed.

    Raises:
        RecipeError: as in `shape`, or the generator `features` without `pairs` colorize or with another encoder.
    """
    if recipe.generator == "features":
        if recipe.pairs != "colorize":
            raise RecipeError("`generator` features predicts colours: it needs `pairs` colorize")
        if recipe.encoder != "compact":
            raise RecipeError("`generator` features needs the `encoder` compact")
        check_crop(recipe, colorizer.STRIDE)
        torch.manual_seed(recipe.seed)
        return Colorizer(color.bins())
    described = shape(recipe)
    torch.manual_seed(recipe.seed)
    return GENERATORS[described.kind](described)


def length(recipe: Translation, pairs: int) -> int:
    """Number of training steps."""
    return recipe.steps or max(1, round(recipe.epochs * pairs / recipe.batch))


def train(
    pairs: Pairs,
    recipe: Translation,
    *,
    network: nn.Module,
    device: torch.device | str = "cpu",
    state: Mapping[str, Any] | None = None,
) -> Iterator[fitting.TrainingStep]:
    """Train a generator on pairs.

    All randomness depends only on the seed and the step's number. If torch.distributed is initialised, each process
    takes its part of every batch; batch normalisation then uses the statistics of that part.

    Args:
        pairs: to learn from.
        recipe: what to train and how.
        network: from `begin`; trained in place.
        device: where to compute.
        state: from an earlier step, to resume from; None: a new training.

    Yields:
        Every step, as `fitting.fit` does.

    Raises:
        RecipeError: the batch cannot be divided among the processes.
        InputError: none of the pairs can be read.
        DivergedError: the loss is not finite, even with a sixteenth of the rate.
    """
    device = torch.device(device)
    steps = length(recipe, len(pairs))
    if isinstance(network, Colorizer):
        objective = _classes(network.to(device), pairs, recipe, device)
        yield from fitting.fit(
            network, objective, steps=steps, rate=recipe.rate, warmup=steps // 50, weight_decay=0.03, state=state,
            retries=4,
        )  # fmt: skip
        return
    critic = None
    if recipe.gan != "none":
        torch.manual_seed(recipe.seed + 1)
        critic = PatchGAN(sum(recipe.channels), recipe.critic_width, recipe.critic_layers, recipe.norm).to(device)
    objective, rival = game(network.to(device), critic, pairs, recipe, device)
    yield from fitting.fit(
        network, objective, steps=steps, rate=recipe.rate, schedule=partial(fitting.linear, constant=recipe.constant),
        betas=(0.5, 0.999), rival=None if critic is None else (critic, rival), state=state, retries=4,
    )  # fmt: skip


class _Verdicts(nn.Module):
    """Both verdicts of a discriminator in one call, as DistributedDataParallel expects."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return self.critic(real), self.critic(fake)


def game(
    network: nn.Module, critic: nn.Module | None, pairs: Pairs, recipe: Translation, device: torch.device
) -> tuple[Callable[[int], dict[str, Tensor]], Callable[[int], dict[str, Tensor]]]:
    """The objectives of generator and discriminator in a step (Isola2017, equations 1 to 4).

    The discriminator moves first. Both use the same translation; its loss is halved to slow it down.

    Args:
        network, critic: the generator; the discriminator, or None to train only on L1.
        pairs: to learn from.
        recipe: the weights of the losses, the crops, the seed.
        device: where to compute.

    Returns:
        Step index -> the terms of the generator's loss, and of the discriminator's.

    Raises:
        RecipeError: the batch cannot be divided among the processes.
    """
    rank, world = fitting.processes(recipe.batch)
    half = machine.precision(recipe.precision, device) == torch.bfloat16
    layout = torch.channels_last if half else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    translate: nn.Module = DistributedDataParallel(network) if world > 1 else network
    if critic is not None:
        critic.to(memory_format=layout)  # type: ignore[call-overload]
        verdicts: nn.Module = DistributedDataParallel(_Verdicts(critic)) if world > 1 else _Verdicts(critic)
    mixed = partial(torch.autocast, device.type, torch.bfloat16, enabled=half)

    def translated(index: int) -> tuple[Tensor, Tensor, Tensor]:
        drawn = pairs.draw(index, recipe.batch, recipe.crop, mirror=recipe.mirror, seed=recipe.seed)
        source, target = (x[rank::world].to(device).contiguous(memory_format=layout) for x in drawn)
        with pix2pix.noise(device, recipe.seed * 1_000_003 + index * world + rank), mixed():
            return source, target, translate(source)

    now: list[tuple[Tensor, Tensor, Tensor]] = []  # the translation of this step, once the discriminator has seen it

    def judge(index: int) -> dict[str, Tensor]:
        now[:] = [translated(index)]
        source, target, output = now[0]
        with mixed():
            real, fake = verdicts(torch.cat([source, target], 1), torch.cat([source, output.detach()], 1))
        gan: Any = recipe.gan
        terms = {"real": generators.judged(real, True, gan) / 2, "fake": generators.judged(fake, False, gan) / 2}
        return _shared(terms, world)

    def learn(index: int) -> dict[str, Tensor]:
        source, target, output = now.pop() if critic is not None else translated(index)
        terms = {"l1": recipe.l1 * F.l1_loss(output, target)}
        if critic is not None:
            critic.requires_grad_(False)  # its weights need no gradient here
            with mixed():
                verdict = critic(torch.cat([source, output], 1))
            critic.requires_grad_(True)
            terms["gan"] = recipe.gan_weight * generators.judged(verdict, True, recipe.gan)  # type: ignore[arg-type]
        return _shared(terms, world)

    return learn, judge


def _classes(
    network: Colorizer, pairs: Pairs, recipe: Translation, device: torch.device
) -> Callable[[int], dict[str, Tensor]]:
    """The objective of `Colorizer`: cross-entropy with the true bins, in which rare colours weigh more (Zhang2016)."""
    rank, world = fitting.processes(recipe.batch)
    dtype = machine.precision(recipe.precision, device)
    half = dtype == torch.bfloat16
    frozen = encoder.Frozen(encoder.load(recipe.encoder).to(device), colorizer.LAYERS, dtype)
    sample = range(0, len(pairs), -(-len(pairs) // 500))
    counts = sum(
        torch.bincount(colorizer.nearest(F.avg_pool2d(pairing.CHROMA * pairs.usable(i)[1], 4), network.centres.cpu())
                       .flatten(), minlength=len(network.centres))
        for i in sample
    )  # fmt: skip
    balance = colorizer.balance(torch.as_tensor(counts).float(), network.centres.cpu()).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    predict: nn.Module = DistributedDataParallel(network, broadcast_buffers=False) if world > 1 else network

    def loss(index: int) -> dict[str, Tensor]:
        drawn = pairs.draw(index, recipe.batch, recipe.crop, mirror=recipe.mirror, seed=recipe.seed)
        source, target = (x[rank::world].to(device) for x in drawn)
        classes = colorizer.nearest(F.avg_pool2d(pairing.CHROMA * target, 4), network.centres)
        features = frozen.forward(colorizer.grey(source)).features
        network.train()
        with (
            pix2pix.noise(device, recipe.seed * 1_000_003 + index * world + rank),
            torch.autocast(device.type, torch.bfloat16, enabled=half),
        ):
            logits = predict(features)
        return _shared({"bins": F.cross_entropy(logits.float(), classes, weight=balance)}, world)

    return loss


def _shared(terms: dict[str, Tensor], world: int) -> dict[str, Tensor]:
    """The terms with their mean over all processes as the value, so that they stop together, and their own gradient."""
    if world == 1:
        return terms
    for name, term in terms.items():
        mean = term.detach().clone()
        distributed.all_reduce(mean)
        terms[name] = term + (mean / world - term.detach())
    return terms


def measure(model: Model, pairs: Pairs, *, seed: int = 0, most: int = 50) -> dict[str, float]:
    """How close the translations of held-out pairs come to their targets.

    Args:
        model: the network.
        pairs: held out from training; `broken` ones are left out.
        seed: of the dropout.
        most: the largest number of pairs, evenly chosen.

    Returns:
        Means over the pairs: "l1", of values in [-1, 1] as in training; "psnr" in dB and "ssim", of the pictures in
        [0, 1]. PSNR and SSIM are those of scikit-image. Empty if no pair can be read.
    """
    from skimage import metrics

    found: list[tuple[float, float, float]] = []
    ssim: Any = metrics.structural_similarity
    psnr: Any = metrics.peak_signal_noise_ratio
    for pair in pairs.some(most):
        source, target = (each.to(model.device) for each in pair)  # the network is in training: it must stay there
        output = pix2pix.translate(source, model, seed=seed)
        picture, truth = (_shown(source, x, model.kind)[0].double().cpu().numpy() for x in (output, target))
        closeness = psnr(truth, picture, data_range=1) if (picture != truth).any() else float("inf")
        likeness = ssim(picture, truth, channel_axis=0, data_range=1)
        found.append((float((output - target).abs().mean()), float(closeness), float(likeness)))
    if not found:
        return {}
    means = (sum(values) / len(found) for values in zip(*found, strict=True))
    return dict(zip(("l1", "psnr", "ssim"), means, strict=True))


def _shown(source: Tensor, output: Tensor, kind: Kind) -> Tensor:
    """The picture of an output for a network's input."""
    if kind == "colorize":
        return color.from_lab(torch.cat([50 * (source + 1), pairing.CHROMA * output], 1))
    return ((output + 1) / 2).clamp(0, 1)


def preview(model: Model, pairs: Pairs, *, rows: int = 3, seed: int = 0) -> list[tuple[str, Tensor]]:
    """Panels for a sheet of three columns: input, output and truth of a few pairs, evenly chosen.

    Args:
        model: the network.
        pairs: pictures.
        rows: the largest number of pairs.
        seed: of the dropout.

    Returns:
        The label and the picture, (1, 3, H, W) in [0, 1], of each panel, three for each pair.
    """
    panels: list[tuple[str, Tensor]] = []
    for index in range(0, len(pairs), max(1, -(-len(pairs) // rows))):
        source, target = (each.to(model.device) for each in pairs.usable(index))
        shown = [
            (source + 1) / 2,
            *(_shown(source, x, model.kind) for x in (pix2pix.translate(source, model, seed=seed), target)),
        ]
        panels += [
            (
                label,
                (x if x.shape[1] in (1, 3) else x[:, :3] if x.shape[1] > 3 else x[:, :1]).expand(-1, 3, -1, -1).cpu(),
            )
            for label, x in zip(("input", "output", "truth"), shown, strict=True)
        ]
    return panels
