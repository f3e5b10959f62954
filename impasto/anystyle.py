"""Any painting in one pass: a network that takes the style from a painting's statistics.

The photograph's features, from the frozen encoder, get the painting's mean and covariance by optimal transport. A
decoder paints them, coarse to fine, and its own features get the painting's statistics twice more on the way. The
covariances carry the texture: with only means and deviations (Huang2017), little more than the colours change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import encoder, images, masks, weights
from impasto.encoder import VGG
from impasto.errors import WeightsError
from impasto.moments import Affine, Moments, affine, blend, moments, transport
from impasto.networks import MARGIN, Layer, Statistics, as_it_is, uneven_
from impasto.tiling import Tile, tiles

WIDTHS = {"relu1_1": 32, "relu2_1": 64, "relu3_1": 160, "relu4_1": 80, "relu5_1": 112}  # of the compact encoder
CONTENT = ("relu3_1", "relu4_1")  # what the decoder sees of the photograph
STRIDES = {"relu4_1": 8, "relu3_1": 4, "relu2_1": 2, "rgb": 1}  # of what is matched, in the decoder's order
STYLE_SIZE = 512  # long edge in pixels at which a painting is studied
WHOLE = 2048  # side in pixels up to which a picture is painted at once
LEAST = 32  # smallest side in pixels: every layer needs pixels to reflect


@dataclass(frozen=True)
class Style:
    """What the network knows of paintings: the moments to match, and a vector of all layers' means and deviations."""

    moments: Mapping[str, Moments]
    vector: Tensor

    def to(self, device: torch.device) -> Style:
        levels = {level: Moments(each.mean.to(device), each.second.to(device)) for level, each in self.moments.items()}
        return Style(levels, self.vector.to(device))

    def over(self, film: Statistics) -> Style:
        """Add a frame's style; returns the mean over all frames so far."""
        levels = {level: Moments(*film.average(level, each.mean, each.second)) for level, each in self.moments.items()}
        return Style(levels, *film.average("vector", self.vector))


def mix(styles: Sequence[Style], shares: Sequence[float]) -> Style:
    """The style of a collage in which each style covers its share; shares sum to 1."""
    vector = torch.stack([share * style.vector for style, share in zip(styles, shares, strict=True)]).sum(0)
    levels = {level: blend([style.moments[level] for style in styles], shares) for level in STRIDES}
    return Style(levels, vector)


Modulation = Mapping[str, tuple[Tensor, Tensor]]


class Decoder(nn.Module):
    """The decoder: paints a photograph's features with the statistics of a `Style`."""

    vector_mean: Tensor
    vector_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        for layer, width in WIDTHS.items():
            self.register_buffer(f"{layer}_mean", torch.zeros(width))
            self.register_buffer(f"{layer}_scale", torch.ones(width))
        size = 2 * sum(WIDTHS.values())
        self.register_buffer("vector_mean", torch.zeros(size))
        self.register_buffer("vector_scale", torch.ones(size))
        shapes = {
            "deep": (80, 112),
            "first": (112, 112),
            "second": (112, 112),
            "up3": (112, 80),
            "merge": (80 + 64, 96),
            "third": (96, 96),
            "up2": (96, 64),
            "fine": (64, 48),
            "up1": (48, 24),
            "last": (24, 3),
        }
        self.layers = nn.ModuleDict(
            {
                name: Layer(*shape, 3, up=name.startswith("up"), smooth=True, rectify=False, normalise=False)
                for name, shape in shapes.items()
            }
        )
        self.layers["reduce"] = Layer(160, 64, 1, rectify=False, normalise=False)
        self.modulated = {name: shape[1] for name, shape in shapes.items() if name not in ("up2", "last")}
        self.predict = nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 2 * sum(self.modulated.values())))
        nn.init.zeros_(self.predict[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.predict[2].bias)  # type: ignore[arg-type]
        for name, each in self.layers.items():
            kernel = each.get_submodule("convolution").weight
            nn.init.kaiming_normal_(kernel, nonlinearity="linear" if name == "last" else "relu")  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def units(self, layer: str, features: Tensor) -> Tensor:
        """The encoder's features in units of their deviation over many pictures, so that no channel dominates."""
        mean, scale = (getattr(self, f"{layer}_{part}")[:, None, None] for part in ("mean", "scale"))
        scaled: Tensor = (features - mean) * scale
        return scaled

    def style_of(self, paintings: Tensor, features: Mapping[str, Tensor], mask: Tensor | None = None) -> Style:
        """The style of each of (B, 3, H, W) paintings, with the encoder's features at `WIDTHS`' layers.

        ``mask``, (1, 1, H, W) in [0, 1], is the part of the paintings that counts.
        """
        known = {"rgb": moments(paintings, mask)}
        parts = []
        for layer, raw in features.items():
            x = self.units(layer, raw)
            inside = None if mask is None else masks.at_layer(mask, *x.shape[-2:])
            known[layer] = moments(x, inside)
            mean = known[layer].mean
            variance = known[layer].second.diagonal(dim1=1, dim2=2) - mean.square()
            parts += [mean, variance.clamp_min(0).sqrt()]
        reduce = self.layers["reduce"].get_submodule("convolution")
        known["relu3_1"] = known["relu3_1"].through(reduce.weight[:, :, 0, 0], reduce.bias)  # type: ignore[index, arg-type]
        return Style({level: known[level] for level in STRIDES}, torch.cat(parts, 1))

    def modulation(self, style: Style) -> Modulation:
        """layer -> factor and offset of its channels, (B, C, 1, 1) each, predicted from the style."""
        values = self.predict(((style.vector - self.vector_mean) * self.vector_scale).clamp(-4, 4))
        split = values[:, :, None, None].split([width for width in self.modulated.values() for _ in range(2)], 1)
        return {name: (1 + split[2 * i], split[2 * i + 1]) for i, name in enumerate(self.modulated)}

    def _layer(self, name: str, x: Tensor, modulation: Modulation) -> Tensor:
        factor, offset = modulation[name]
        y: Tensor = self.layers[name](x)
        return y * factor.to(y.dtype) + offset.to(y.dtype)

    def enter(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The photograph's features at relu3_1 and relu4_1, as they are matched to the style's."""
        side = self.layers["reduce"](self.units("relu3_1", features["relu3_1"]))
        return {"relu4_1": self.units("relu4_1", features["relu4_1"]), "relu3_1": side.float()}

    def coarse(self, matched: Mapping[str, Tensor], modulation: Modulation) -> Tensor:
        """The matched features of `enter` -> the decoder's features at half resolution."""
        x = F.relu(self._layer("deep", matched["relu4_1"], modulation))
        x = F.relu(x + self._layer("second", F.relu(self._layer("first", x, modulation)), modulation))
        x = F.relu(self._layer("up3", x, modulation))
        x = F.relu(self._layer("merge", torch.cat([x, matched["relu3_1"].to(x.dtype)], 1), modulation))
        x = F.relu(x + self._layer("third", x, modulation))
        rough: Tensor = self.layers["up2"](x)
        return rough.float()

    def detail(self, matched: Tensor, modulation: Modulation) -> Tensor:
        """The matched features of `coarse` -> the picture, before its colours are matched."""
        x = F.relu(self._layer("fine", matched, modulation))
        x = F.relu(self._layer("up1", x, modulation))
        painted: Tensor = self.layers["last"](x)
        return painted.float()


class Canvas:
    """A photograph while it is painted: the maps that give it the style's statistics, level by level.

    Args:
        decoder, style: what paints it, and how.
        mask: (1, 1, H, W), the part of the photograph whose statistics are replaced.
        half: compute in bfloat16, except for the statistics.
        film: the photograph's statistics over the frames of a film.
    """

    def __init__(
        self, decoder: Decoder, style: Style, mask: Tensor | None = None, *, half: bool = False,
        film: Statistics | None = None,
    ) -> None:  # fmt: skip
        self.decoder, self.style, self.mask, self.half, self.film = decoder, style, mask, half, film
        self.modulation = decoder.modulation(style)
        self.maps: dict[str, Affine] = {}

    def paint(self, features: Mapping[str, Tensor]) -> Tensor:
        """The encoder's features at `CONTENT` of the whole photograph -> (B, 3, H, W)."""
        entered = self.enter(features)
        for level, x in entered.items():
            self.match(level, moments(x, self._inside(x)))
        self.rough = self.coarse(entered)
        self.match("relu2_1", moments(self.rough, self._inside(self.rough)))
        painted = self.detail(self.rough)
        self.match("rgb", moments(painted, self.mask))
        return affine(painted, *self.maps["rgb"])

    def enter(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self._precision():
            return self.decoder.enter(features)

    def coarse(self, entered: Mapping[str, Tensor]) -> Tensor:
        matched = {level: affine(x, *self.maps[level]) for level, x in entered.items()}
        with self._precision():
            return self.decoder.coarse(matched, self.modulation)

    def detail(self, rough: Tensor) -> Tensor:
        matched = affine(rough, *self.maps["relu2_1"])
        with self._precision():
            return self.decoder.detail(matched, self.modulation)

    def match(self, level: str, source: Moments) -> None:
        if self.film is not None:
            source = Moments(*self.film.average(level, source.mean, source.second))
        self.maps[level] = transport(source, self.style.moments[level])

    def collect(self, features: Iterable[tuple[Tile, Mapping[str, Tensor]]]) -> None:
        """Match levels, given the features of each outer tile."""
        found: dict[str, list[tuple[float, Moments]]] = {}
        for tile, levels in features:
            for level, outer in levels.items():
                x, mask = tile.within(outer, STRIDES[level]), None
                if self.mask is not None:
                    mask = masks.at_layer(tile.within(self.mask, 1, outer=False), *x.shape[-2:])
                area = x[0, 0].numel() if mask is None else float(mask.sum())
                found.setdefault(level, []).append((area, moments(x, mask)))
        for level, parts in found.items():
            total = sum(area for area, _ in parts)
            self.match(level, blend([each for _, each in parts], [area / max(total, 1e-6) for area, _ in parts]))

    def _inside(self, x: Tensor) -> Tensor | None:
        return None if self.mask is None else masks.at_layer(self.mask, *x.shape[-2:])

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.modulation["deep"][0].device.type, torch.bfloat16, enabled=self.half)


class Repainter(nn.Module):
    """Paints photographs with any style: the frozen encoder and the `Decoder`."""

    def __init__(self, vgg: VGG, decoder: Decoder) -> None:
        super().__init__()
        self.vgg, self.decoder = vgg, decoder

    def style_of(self, paintings: Tensor, mask: Tensor | None = None) -> Style:
        """The style of each of (B, 3, H, W) pictures, sRGB in [0, 1]; it can be kept and used again.

        ``mask``, (1, 1, H, W) in [0, 1], is the part of the paintings that counts.
        """
        features = {layer: x.float() for layer, x in self.vgg(paintings, WIDTHS).items()}
        with as_it_is(paintings):
            return self.decoder.style_of(paintings, features, mask)

    def forward(
        self, image: Tensor, style: Style, *, strength: float = 1.0, mask: Tensor | None = None, grain: float = 0.0,
        film: Statistics | None = None,
    ) -> Tensor:  # fmt: skip
        """Paint (B, 3, H, W) sRGB in [0, 1]; the result may exceed [0, 1].

        Args:
            image: photographs of any size; large ones are painted in tiles, with the statistics of the whole.
            style: of one painting, or one for each photograph.
            strength: 1 is the style, 0 the photograph; between them, the statistics of both are mixed.
            mask: (1, 1, H, W), the part of the photograph whose statistics are replaced by the style's.
            grain: standard deviation of the smooth noise added first, relative to the image's own.
            film: what the frames of a film share.
        """
        half = torch.is_autocast_enabled(image.device.type)
        own = None if strength == 1 else self.style_of(images.at_most(image, WHOLE))
        with as_it_is(image):
            if own is None:
                return self._paint(image, style, mask, grain, half, film)
            if film is not None:
                own = own.over(film.part("own style"))
            mixed = mix([own, style], [1 - strength, strength])
            # What the network cannot reproduce of the photograph is added in proportion.
            lost = image - self._paint(image, own, None, 0.0, half, film and film.part("own"))
            return self._paint(image, mixed, mask, strength * grain, half, film).add_(lost, alpha=1 - strength)

    def _paint(
        self, image: Tensor, style: Style, mask: Tensor | None, grain: float, half: bool, film: Statistics | None
    ) -> Tensor:
        height, width = image.shape[-2:]
        if grain:
            image = uneven_((2 * image).sub_(1), grain).add_(1).div_(2)
        below, right = -height % 8, -width % 8  # every layer divides evenly
        if height < LEAST or width < LEAST:
            below, right = max(below, LEAST - height), max(right, LEAST - width)
        if below or right:  # it is a copy, of hundreds of megabytes at 8K
            image = F.pad(image, [0, right, 0, below], "replicate")
            mask = None if mask is None else F.pad(mask, [0, right, 0, below], "replicate")
        canvas = Canvas(self.decoder, style, mask, half=half, film=film)
        if max(image.shape[-2:]) <= WHOLE:
            painted = canvas.paint(self._encode(image, half))
        else:
            painted = self._in_tiles(image, canvas)
        return painted[..., :height, :width]

    def _encode(self, image: Tensor, half: bool) -> dict[str, Tensor]:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=half):
            return dict(self.vgg(image, CONTENT))

    def _in_tiles(self, image: Tensor, canvas: Canvas) -> Tensor:
        """As `Canvas.paint`, but each level's statistics are collected from all tiles before the next is painted."""
        parts = list(tiles(*image.shape[-2:]))

        def entered(tile: Tile) -> dict[str, Tensor]:
            return canvas.enter(self._encode(image[..., tile.outer_rows, tile.outer_columns], canvas.half))

        def detailed(tile: Tile) -> Tensor:
            outer = canvas.detail(canvas.coarse(entered(tile)))
            painted[..., tile.rows, tile.columns] = tile.within(outer, 1)
            return outer

        painted = torch.empty_like(image)
        canvas.collect((tile, entered(tile)) for tile in parts)
        canvas.collect((tile, {"relu2_1": canvas.coarse(entered(tile))}) for tile in parts)
        canvas.collect((tile, {"rgb": detailed(tile)}) for tile in parts)
        for tile in parts:
            inner = painted[..., tile.rows, tile.columns]
            inner.copy_(affine(inner, *canvas.maps["rgb"]))
        return painted


class Immediate(nn.Module):
    """A `Repainter` that takes the painting itself, as other software runs it."""

    def __init__(self, network: Repainter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, painting: Tensor) -> Tensor:
        """(B, 3, H, W) photographs and (B, 3, h, w) paintings -> (B, 3, H, W)."""
        painted: Tensor = self.network(image, self.network.style_of(painting))
        return painted


def save(path: Path, decoder: Decoder, metadata: Mapping[str, str]) -> None:
    """Write a decoder as float16 safetensors, without the encoder.

    Args:
        path: of the file.
        decoder: whose weights are written.
        metadata: stored in the file's header.

    Raises:
        DivergedError: the weights are not finite.
        OSError: the file cannot be written.
    """
    weights.save_network(path, decoder, metadata)


@cache
def load() -> tuple[Repainter, Mapping[str, str]]:
    """The embedded network, frozen, and its metadata; the same one at every call.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    path = weights.path("any-style")
    state, metadata = weights.load(path)
    decoder = Decoder()
    try:
        decoder.load_state_dict(state)
    except RuntimeError:
        raise WeightsError(f"{path}: not the `any-style` decoder; reinstall impasto") from None
    return Repainter(encoder.load("compact"), decoder.requires_grad_(False)).eval(), metadata


@torch.no_grad()
def repaint(
    photograph: Tensor, paintings: Sequence[Tensor], shares: Sequence[float], *, style_scale: float,
    content_masks: Sequence[Tensor] = (), style_masks: Sequence[Tensor] = (),
) -> Tensor:  # fmt: skip
    """Paint a photograph after several paintings, by the embedded network.

    Args:
        photograph: (1, 3, H, W) sRGB in [0, 1].
        paintings: (1, 3, h, w) each.
        shares: of the paintings; they sum to 1.
        style_scale: size of the strokes: the paintings' long edge as a multiple of the photograph's.
        content_masks: empty, or for each painting the part of the photograph where it is painted.
        style_masks: empty, or for each painting the part of it that counts.

    Returns:
        (1, 3, H, W) in [0, 1].

    Raises:
        WeightsError: the network cannot be read.
    """
    network = load()[0].to(photograph.device)
    longest = max(LEAST, round(style_scale * max(photograph.shape[-2:])))
    styles = []
    for index, each in enumerate(paintings):
        painting = images.to_size(each, longest)
        counted = images.resize(style_masks[index], *painting.shape[-2:]) if style_masks else None
        styles.append(network.style_of(painting, counted))
    margin = min(MARGIN, *(side - 1 for side in photograph.shape[-2:]))
    extended = images.extend(photograph, margin)

    def paint(style: Style, mask: Tensor | None = None) -> Tensor:
        return images.cut(network(extended, style, mask=mask), margin)

    if not content_masks:
        return paint(mix(styles, shares)).clamp(0, 1)
    return masks.compose(
        photograph, lambda index, mask: paint(styles[index], images.extend(mask, margin)), content_masks, shares
    ).clamp(0, 1)
