"""Paired image-to-image translation (Isola2017): applying a trained network, and model files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import bundled, color, colorizer, encoder, files, images, machine, matting, pairs as pairing, weights
from impasto.colorizer import Colorizer
from impasto.errors import InputError, WeightsError
from impasto.generators import DEEPEST, GENERATORS, Shape
from impasto.pairs import Kind

TILE = 1024  # side in pixels of the largest picture that is translated at once
OVERLAP = 128  # pixels that neighbouring tiles share, in which one fades into the other
RADIUS = 4  # of the windows in which colours follow the photograph's edges, in pixels at `WORKING`
WORKING = 192  # short side in pixels at which `Colorizer` predicts colours: at 288 skies were patchy


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

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


@contextmanager
def noise(device: torch.device, seed: int) -> Iterator[None]:
    """Draw the noise of dropout by a seed, and leave torch's random state as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


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
    least = 2 * shape.stride if shape.kind == "resnet" else 0  # its normalisations need more than one position

    def whole(part: Tensor) -> Tensor:
        rows, columns = (_reflected(side, shape.stride, least).to(device) for side in part.shape[-2:])
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


def _reflected(length: int, stride: int, least: int = 0) -> Tensor:
    """The indices of a line that is padded by reflection.

    Args:
        length: of the line.
        stride: the result's length is a multiple of it.
        least: the result's smallest length, such a multiple too.

    Returns:
        (L,) the indices.
    """
    places = torch.arange(max(least, -(-length // stride) * stride))
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
    frozen = encoder.Frozen(encoder.load(_encoder_of(model)).to(source.device), colorizer.LAYERS, dtype)
    network.eval()
    with torch.autocast(source.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = network(frozen.forward(colorizer.grey(padded)).features)
    ab = F.interpolate(network.colors(logits), padded.shape[-2:], mode="bilinear")[..., :rows, :columns]
    ab = ab / pairing.CHROMA
    radius = min(RADIUS, (min(rows, columns) - 1) // 2)
    if not radius:
        return F.interpolate(ab, (height, width), mode="bilinear")
    guide = matting.Guide(((small + 1) / 2).expand(-1, 3, -1, -1), radius=radius, epsilon=1e-3)
    return guide.lift(ab, ((source + 1) / 2).expand(-1, 3, -1, -1)).clamp(-1, 1)


def _encoder_of(model: Model) -> str:
    """The encoder whose features a `Colorizer` reads."""
    name: str = json.loads(model.metadata.get("recipe", "{}")).get("encoder", "compact")
    return name


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
    network: Any = model.network
    built = {"widths": network.widths} if isinstance(network, Colorizer) else asdict(network.shape)
    facts = {**model.metadata, "translation": json.dumps(built), "pairs": model.kind}
    weights.save_network(path, model.network, facts)


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
        if "widths" in built:
            make: Callable[[], nn.Module] = partial(Colorizer, state["centres"], tuple(built["widths"]))
        else:
            make = partial(GENERATORS[built["kind"]], _shape(built))
        with torch.device("meta"):  # takes no memory
            shapes = {name: each.shape for name, each in make().named_parameters()}
        if any(state[name].shape != shape for name, shape in shapes.items()):
            raise ValueError
        network = make()
        network.load_state_dict(state)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError):
        raise WeightsError(f"{path}: not a model of impasto pix2pix; impasto pix2pix train makes one") from None
    metadata["sha256"] = weights.sha256(path)
    return Model(network.requires_grad_(False).eval(), kind, metadata)  # type: ignore[arg-type]


def _shape(built: Mapping[str, Any]) -> Shape:
    """The shape in a model's metadata; ValueError for sizes out of range."""
    found = Shape(**built)
    sizes = (found.inputs, found.outputs, found.width, found.depth)
    if not all(type(size) is int and 0 < size <= 1024 for size in sizes) or found.depth > DEEPEST:
        raise ValueError
    return found


def made(path: Path) -> bool:
    """Whether a file is a model of pix2pix, by its metadata."""
    try:
        if files.special(path):
            return False
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


class _Coloured(nn.Module):
    """A `Colorizer` with its encoder, as a picture in [0, 1] -> the picture in colour, without resizing."""

    def __init__(self, network: Colorizer, vgg: nn.Module) -> None:
        super().__init__()
        self.network, self.vgg = network, vgg

    def forward(self, image: Tensor) -> Tensor:
        lightness = pairing.to_network(image, "colorize")
        features = self.vgg(colorizer.grey(lightness), colorizer.LAYERS)
        ab = F.interpolate(self.network.colors(self.network(features)), scale_factor=4.0, mode="bilinear")
        grey = ((lightness + 1) / 2).expand(-1, 3, -1, -1)
        guide = matting.Guide(grey, radius=RADIUS, epsilon=1e-3)
        return pairing.to_picture(guide.lift(ab / pairing.CHROMA, grey).clamp(-1, 1), image, "colorize")


def exportable(model: Model) -> tuple[nn.Module, int, int]:
    """The network for `interop.to_onnx`, its channels, and the stride of its pictures' sides.

    Lightness and colours of a U-Net for `colorize` are scaled to [0, 1]: L / 100, and a and b / 220 + 1 / 2.
    A `Colorizer` comes with its encoder, and colours pictures as they are; it learnt on about `WORKING` pixels.
    """
    if isinstance(model.network, Colorizer):
        return _Coloured(model.network.eval(), encoder.load(_encoder_of(model))), 3, colorizer.STRIDE
    shape: Shape = model.network.shape  # type: ignore[assignment]
    return _Exported(model.network.eval()), shape.inputs, shape.stride
