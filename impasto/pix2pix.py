"""Paired image-to-image translation with conditional adversarial networks (Isola2017).

A generator learns from pairs to turn the first picture into the second. Its loss is the distance to the second picture
and the verdict of a discriminator, which learns at the same time to tell the generator's pairs from real ones.

Training, applying and model files share this file, as in `onepass`: each needs the two kinds of network of the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from impasto import (
    bundled,
    color,
    colorizer,
    encoder,
    fitting,
    generators,
    images,
    machine,
    matting,
    pairs as pairing,
    weights,
)
from impasto.colorizer import Colorizer
from impasto.errors import DivergedError, InputError, RecipeError, WeightsError
from impasto.generators import GENERATORS, PatchGAN, Shape
from impasto.pairs import Kind, Pairs
from impasto.recipes import Translation

TILE = 1024  # side in pixels of the largest picture that is translated at once
OVERLAP = 128  # pixels that neighbouring tiles share, in which one fades into the other
WORKING = 192  # short side in pixels at which `Colorizer` looks at a photograph: at 288 skies came out patchy


@dataclass(frozen=True)
class Model:
    """A trained network and its metadata: how its pairs were made, training recipe and card."""

    network: nn.Module
    kind: Kind
    metadata: Mapping[str, str]

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the pictures that it reads and makes, as files have them."""
        if self.kind == "given":
            shape: Shape = self.network.shape  # type: ignore[assignment]
            return shape.inputs, shape.outputs
        return (3, 3)


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
            f"`generator` must be unet256, unet128, resnet9 or alike, or features, not {recipe.generator!r}"
        )
    result = Shape(kind, *recipe.channels, recipe.width, depth, recipe.norm, recipe.dropout, recipe.resize)  # type: ignore[arg-type]
    check_crop(recipe, result.stride)
    return result


def check_crop(recipe: Translation, stride: int) -> None:
    if recipe.crop % stride or recipe.load < recipe.crop:
        raise RecipeError(
            f"`crop` must be a multiple of {stride} for {recipe.generator} and at most `load`, "
            f"not {recipe.crop} of {recipe.load}"
        )
    if not 0 <= recipe.validation < 1 or recipe.dropout == 1:
        raise RecipeError("`validation` and `dropout` must be less than 1")
    least = 1 << (recipe.critic_layers + 2)
    if recipe.gan != "none" and recipe.critic_layers and recipe.crop < least:
        raise RecipeError(f"`crop` must be at least {least} for `critic_layers` {recipe.critic_layers}")


def begin(recipe: Translation) -> nn.Module:
    """The generator that a training starts from, with random weights by the seed.

    Raises:
        RecipeError: as in `shape`, or the generator `features` without `pairs` colorize.
    """
    if recipe.generator == "features":
        if recipe.pairs != "colorize":
            raise RecipeError("`generator` features predicts colours: it needs `pairs` colorize")
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
    """Train a generator on pairs, yielding every step.

    All randomness depends only on the seed and the step's number. If torch.distributed is initialised, each process
    takes its part of every batch; batch normalisation then uses the statistics of that part.

    Args:
        pairs: to learn from.
        recipe: what to train and how.
        network: from `begin`; trained in place.
        device: where to compute.
        state: from an earlier step, to resume from.

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
        network, critic: the generator; the discriminator, or None to train on L1 alone.
        pairs: to learn from.
        recipe: the weights of the losses, the crops, the seed.
        device: where to compute.

    Returns:
        Step index -> the terms of the generator's loss, and of the discriminator's.

    Raises:
        RecipeError: the batch cannot be divided among the processes.
    """
    rank, world = _processes(recipe)
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
        with noise(device, recipe.seed * 1_000_003 + index * world + rank), mixed():
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
    rank, world = _processes(recipe)
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
            noise(device, recipe.seed * 1_000_003 + index * world + rank),
            torch.autocast(device.type, torch.bfloat16, enabled=half),
        ):
            logits = predict(features)
        return _shared({"bins": F.cross_entropy(logits.float(), classes, weight=balance)}, world)

    return loss


def _processes(recipe: Translation) -> tuple[int, int]:
    """This process and their number."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    if recipe.batch % (world := distributed.get_world_size()):
        raise RecipeError(f"`batch` {recipe.batch} cannot be divided among {world} processes")
    return distributed.get_rank(), world


def _shared(terms: dict[str, Tensor], world: int) -> dict[str, Tensor]:
    """The terms with their mean over all processes as the value, so that none stops alone, and their own gradient."""
    if world == 1:
        return terms
    for name, term in terms.items():
        mean = term.detach().clone()
        distributed.all_reduce(mean)
        terms[name] = term + (mean / world - term.detach())
    return terms


@contextmanager
def noise(device: torch.device, seed: int) -> Iterator[None]:
    """Draw the noise of dropout by a seed, and leave torch's random state as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def measure(model: Model, pairs: Pairs, *, seed: int = 0, most: int = 50) -> dict[str, float]:
    """How close the translations of held-out pairs come to their targets.

    Args:
        model: the network.
        pairs: held out from training; `broken` ones are left out.
        seed: of the dropout.
        most: the largest number of pairs, evenly chosen.

    Returns:
        Means over the pairs: "l1", of values in [-1, 1] as in training; "psnr" in dB and "ssim", of the pictures in
        [0, 1]. PSNR and SSIM are those of scikit-image.
    """
    from skimage import metrics

    found: list[tuple[float, float, float]] = []
    ssim: Any = metrics.structural_similarity
    psnr: Any = metrics.peak_signal_noise_ratio
    for index in range(0, len(pairs), max(1, -(-len(pairs) // most))):
        source, target = pairs.usable(index)
        output = translate(source, model, seed=seed)
        picture, truth = (_shown(source, x, model.kind)[0].double().cpu().numpy() for x in (output, target))
        closeness = psnr(truth, picture, data_range=1) if (picture != truth).any() else float("inf")
        likeness = ssim(picture, truth, channel_axis=0, data_range=1)
        found.append((float((output - target).abs().mean()), float(closeness), float(likeness)))
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
        rows: number of pairs.
        seed: of the dropout.
    """
    panels: list[tuple[str, Tensor]] = []
    for index in range(0, len(pairs), max(1, -(-len(pairs) // rows))):
        source, target = pairs.usable(index)
        shown = [
            (source + 1) / 2,
            *(_shown(source, x, model.kind) for x in (translate(source, model, seed=seed), target)),
        ]
        panels += [
            (label, (x if x.shape[1] in (1, 3) else x[:, :3] if x.shape[1] > 3 else x[:, :1]).expand(-1, 3, -1, -1))
            for label, x in zip(("input", "output", "truth"), shown, strict=True)
        ]
    return panels


@torch.no_grad()
def translate(source: Tensor, model: Model, *, seed: int | None = 0, precision: str = "auto") -> Tensor:
    """The output of a network of any size: padded by reflection to a multiple of its stride, cropped back.

    Larger pictures are cut into tiles of `TILE` pixels, which fade into each other.

    Args:
        source: (1, C, H, W) in [-1, 1].
        model: the network.
        seed: of the dropout; None: no dropout.
        precision: auto, float32 or bfloat16.

    Returns:
        (1, C', H, W) in [-1, 1].
    """
    network, device = model.network, source.device
    network.to(device)
    half = machine.precision(precision, device) == torch.bfloat16
    if isinstance(network, Colorizer):
        return _colors(source, network, model, torch.bfloat16 if half else torch.float32)
    network.train(seed is not None)
    height, width = source.shape[-2:]
    shape: Shape = network.shape  # type: ignore[assignment]

    def whole(part: Tensor) -> Tensor:
        rows, columns = (_reflected(side, shape.stride).to(device) for side in part.shape[-2:])
        padded = part[..., rows, :][..., columns]
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            output: Tensor = network(padded.contiguous(memory_format=torch.channels_last))
        return output[..., : part.shape[-2], : part.shape[-1]]

    with noise(device, seed or 0):
        if max(height, width) <= TILE:
            return whole(source)
        result = source.new_zeros(1, shape.outputs, height, width)
        for top, bottom, rows in _tiles(height):
            for left, right, columns in _tiles(width):
                share = rows.to(device)[:, None] * columns.to(device)
                result[..., top:bottom, left:right] += share * whole(source[..., top:bottom, left:right])
    return result


def _reflected(length: int, stride: int) -> Tensor:
    """The indices of a line that is padded by reflection, as often as needed, to a multiple of the stride."""
    places = torch.arange(-(-length // stride) * stride)
    period = max(1, 2 * (length - 1))
    return (length - 1) - ((length - 1) - places % period).abs()


def _tiles(length: int) -> Iterator[tuple[int, int, Tensor]]:
    """Start, end and weights of overlapping tiles of a line; the weights of a position add up to 1."""
    if length <= TILE:
        yield 0, length, torch.ones(length)
        return
    count = -(-(length - OVERLAP) // (TILE - OVERLAP))
    starts = [round(i * (length - TILE) / (count - 1)) for i in range(count)]
    ramp = torch.arange(0.5, TILE)
    shares = [torch.full((TILE,), float(OVERLAP)) for _ in starts]
    for i, share in enumerate(shares):
        if i:
            share.clamp_max_(ramp)
        if i < count - 1:
            share.clamp_max_(ramp.flip(0))
    total = torch.zeros(length)
    for start, share in zip(starts, shares, strict=True):
        total[start : start + TILE] += share
    for start, share in zip(starts, shares, strict=True):
        yield start, start + TILE, share / total[start : start + TILE]


def _colors(source: Tensor, network: Colorizer, model: Model, dtype: torch.dtype) -> Tensor:
    """The colours of a lightness: predicted at `WORKING` pixels, and brought to its size along its edges (He2015)."""
    height, width = source.shape[-2:]
    scale = min(1.0, WORKING / min(height, width))
    rows, columns = (max(1, round(scale * side)) for side in (height, width))
    small = F.interpolate(source, (rows, columns), mode="bilinear", antialias=True) if scale < 1 else source
    down, across = (_reflected(side, colorizer.STRIDE).to(source.device) for side in (rows, columns))
    padded = small[..., down, :][..., across]
    recorded = json.loads(model.metadata.get("recipe", "{}")).get("encoder", "compact")
    frozen = encoder.Frozen(encoder.load(recorded).to(source.device), colorizer.LAYERS, dtype)
    network.eval()
    with torch.autocast(source.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = network(frozen.forward(colorizer.grey(padded)).features)
    ab = F.interpolate(network.colors(logits), padded.shape[-2:], mode="bilinear")[..., :rows, :columns]
    ab = ab / pairing.CHROMA
    radius = min(4, (min(rows, columns) - 1) // 2)
    if not radius:
        return F.interpolate(ab, (height, width), mode="bilinear")
    guide = matting.Guide(((small + 1) / 2).expand(-1, 3, -1, -1), radius=radius, epsilon=1e-3)
    return guide.lift(ab, ((source + 1) / 2).expand(-1, 3, -1, -1)).clamp(-1, 1)


def apply(
    image: images.Source,
    model: str | Path | Model,
    *,
    seed: int | None = 0,
    precision: str = "auto",
    device: str = "",
) -> Tensor:
    """Translate a picture of any size.

    Args:
        image: a path, PIL image, array or tensor. A tensor (1, C, H, W) in [0, 1] may have any number of channels.
        model: the name of a bundled model, a file that `save` wrote, or a model.
        seed: of the dropout, the network's noise; None: no dropout.
        precision: auto, float32 or bfloat16.
        device: auto, cpu, cuda or mps; default: the device of a tensor, otherwise auto.

    Returns:
        (1, C', H, W) in [0, 1], of the picture's size.

    Raises:
        InputError: the picture has another number of channels than the network reads.
        ImageError, WeightsError: the picture or the model cannot be read.
    """
    model = model if isinstance(model, Model) else load(model)
    several = isinstance(image, Tensor) and image.ndim == 4 and image.shape[1] not in (1, 3)
    picture: Tensor = image if several else images.to_tensor(image)  # type: ignore[assignment]
    if device or not isinstance(image, Tensor):
        picture = picture.to(machine.pick_device(device or "auto"))
    into, _ = model.channels
    if into == 1 and picture.shape[1] == 3:
        picture = color.luma(picture)
    if picture.shape[1] != into:
        raise InputError(f"this model reads pictures of {into} channels, not {picture.shape[1]}")
    output = translate(pairing.to_network(picture, model.kind), model, seed=seed, precision=precision)
    return pairing.to_picture(output, picture, model.kind).clamp(0, 1)


def save(path: Path, model: Model) -> None:
    """Write a model to ``path`` as float16 safetensors, with its metadata.

    Raises:
        DivergedError: the weights are not finite.
        OSError: the file cannot be written.
    """
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().contiguous()
        for name, tensor in model.network.state_dict().items()
    }
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise DivergedError("the network's weights are not finite, so they are not written: try a lower `rate`")
    network: Any = model.network
    built = {"widths": network.widths} if isinstance(network, Colorizer) else asdict(network.shape)
    try:
        save_file(tensors, path, {**model.metadata, "translation": json.dumps(built), "pairs": model.kind})
    except SafetensorError as error:
        raise OSError(0, f"cannot be written ({error})", str(path)) from None


def load(source: str | Path) -> Model:
    """Load a bundled model by its name, or a file that `save` wrote.

    Raises:
        WeightsError: the file is missing, damaged, or not such a model.
    """
    path = bundled.translator(str(source)) or Path(source)
    if not path.exists() and not path.suffix:
        names = ", ".join(bundled.TRANSLATORS)
        raise WeightsError(f"{source}: neither a bundled model ({names}) nor a file")
    state, metadata = weights.load(path)
    try:
        built, kind = json.loads(metadata["translation"]), metadata["pairs"]
        if kind not in ("given", "colorize", "edges"):
            raise ValueError
        network: nn.Module
        if "widths" in built:
            network = Colorizer(state["centres"].float(), tuple(built["widths"]))
        else:
            network = GENERATORS[built["kind"]](Shape(**built))
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError):
        raise WeightsError(f"{path}: not a model of impasto pix2pix; impasto pix2pix train makes one") from None
    return Model(network.requires_grad_(False).eval(), kind, metadata)  # type: ignore[arg-type]


def made(path: Path) -> bool:
    """Whether a file is a model of pix2pix, by its metadata alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return "translation" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


class _Exported(nn.Module):
    """A generator as a picture in [0, 1] -> a picture in [0, 1], without dropout."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = self.network(2 * image - 1)
        return (output + 1) / 2


def exportable(model: Model) -> tuple[nn.Module, int, int]:
    """The network for `interop.to_onnx`, its channels, and the stride of its pictures' sides.

    Lightness and colours of `colorize` are scaled to [0, 1] in the file: L / 100, and a and b / 220 + 1 / 2.

    Raises:
        InputError: the model predicts colours from the encoder's features, which the file would lack.
    """
    if isinstance(model.network, Colorizer):
        raise InputError("a model of `generator` features cannot be exported: it needs the encoder")
    shape: Shape = model.network.shape  # type: ignore[assignment]
    return _Exported(model.network.eval()), shape.inputs, shape.stride
