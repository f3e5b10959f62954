"""Repaint photographs in one pass: by a network that was trained for one style (Johnson2016), see `onepass_training`,
or by that of any painting, see `anystyle`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from impasto import (
    anystyle,
    bundled,
    color,
    contrast,
    faces,
    halos,
    images,
    interop,
    kuwahara,
    machine,
    masks as guidance,
    matting,
    recipes,
    weights,
)
from impasto.errors import InputError, WeightsError
from impasto.networks import JOHNSON, MARGIN, Architecture, Network, Statistics

SIZE = 900  # long edge in pixels at which larger photographs are painted, so that strokes stay large enough
BAND = 1 << 20  # pixels that a layer computes at a time, so that padded copies stay small


@dataclass(frozen=True)
class Model:
    """A network with one style, and its metadata: architecture, training recipe and card.

    Attributes:
        network: repaints a photograph; it first adds noise if told to.
        metadata: of the network's file, and its sha256; with a painting, the painting's name and sha256.
        style: the painting's statistics, if the network is that of `anystyle`.
    """

    network: Network | anystyle.Repainter
    metadata: Mapping[str, str]
    style: anystyle.Style | None = None

    @property
    def grain(self) -> float:
        """Noise level to apply: as in training; `GRAIN` for our older models, 0 for those of others."""
        return self._from_recipe("grain", recipes.GRAIN)

    @property
    def clarity(self) -> float:
        """How far faint forms are brought out: fully, but not for paintings and for third-party networks."""
        return 1.0 if "recipe" in self.metadata and self.style is None else 0.0

    @property
    def crispness(self) -> float:
        """How far fine marks are removed afterwards: as in the recipe; 1 for paintings, 0 for third-party networks."""
        return 1.0 if self.style is not None else self._from_recipe("crispness", 1)

    @property
    def underpainting(self) -> float:
        """How strongly the strokes of a first painting are added to the photograph: as in the recipe, or 0."""
        return self._from_recipe("underpainting", 0)

    def _from_recipe(self, setting: str, default: float) -> float:
        """A setting of the training recipe, ``default`` if it says nothing; 0 for third-party networks."""
        return float(json.loads(self.metadata["recipe"]).get(setting, default)) if "recipe" in self.metadata else 0.0

    @property
    def margin(self) -> int:
        """Pixels by which a picture is extended before it is painted; 0 for third-party networks."""
        return MARGIN if "recipe" in self.metadata else 0


def require_network(model: Model, source: str) -> Network:
    """The network of one style; WeightsError, which names the ``source``, if it is that of any painting."""
    if isinstance(model.network, anystyle.Repainter):
        raise WeightsError(f"{source}: a painting, not a model; impasto train makes one")
    return model.network


def finish(model: Model) -> Callable[[Tensor], Tensor] | None:
    """The filter that `apply` uses with this model, for `interop.to_onnx`; None: no filter."""
    crispness = model.crispness
    return (lambda painted: painted.lerp(kuwahara.filtered_at_once(painted), crispness)) if crispness else None


def save(path: Path, model: Network, metadata: Mapping[str, str]) -> None:
    """Write a network as float16 safetensors.

    Args:
        path: of the file.
        model: the network.
        metadata: stored in the file's header, with the network's architecture.

    Raises:
        DivergedError: the weights are not finite.
        OSError: the file cannot be written.
    """
    weights.save_network(path, model, {**metadata, "architecture": json.dumps(asdict(model.architecture))})


def load(source: str | Path, style_scale: float = 1.0) -> Model:
    """Load a bundled style by its name, a file that `save` wrote, a checkpoint of PyTorch's fast_neural_style, or a
    painting; see `from_painting`.

    Raises:
        InputError: the scale is not positive.
        WeightsError: the file is missing, damaged, or not such a model.
        ImageError: the painting cannot be read.
    """
    check_scale(style_scale)
    path = bundled.network(str(source)) or Path(source)
    if path.suffix.lower() in images.SUFFIXES:
        return from_painting(path, style_scale)
    if not path.exists() and not path.suffix:
        names = ", ".join(bundled.STYLES)
        raise WeightsError(f"{source}: neither a bundled style ({names}) nor a file")
    try:
        state, metadata = weights.load(path)
    except WeightsError as error:
        remedy = "; a style can also be a picture or a bundled name" if path.exists() else ""
        raise WeightsError(f"{error}{remedy}") from None
    try:
        if "architecture" in metadata:
            network = Network(_architecture(metadata["architecture"], state))
        else:
            network, state = Network(replace(JOHNSON, bounded=False)), interop.from_fast_neural_style(state)
        network.load_state_dict(state)
        model = Model(network.requires_grad_(False).eval(), {**metadata, "sha256": weights.sha256(path)})
        if not all(0 <= share <= 1 for share in (model.grain, model.crispness, model.underpainting)):
            raise ValueError
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError):
        raise WeightsError(f"{path}: not a one-pass model; impasto train makes one") from None
    return model


def _architecture(text: str, state: Mapping[str, Tensor]) -> Architecture:
    """The architecture in a model's metadata; ValueError if it needs more numbers than there are in the file."""
    shape = json.loads(text)
    found = Architecture(**{**shape, "widths": tuple(shape["widths"])})
    widths, sizes = found.widths, (*found.widths, found.blocks, found.kernel)
    if not all(type(size) is int and 0 <= size <= 4096 for size in sizes) or found.kernel > 31:
        raise ValueError
    least = 9 * (2 * found.blocks * widths[-1] ** 2 + sum(one * two for one, two in pairwise(widths)))
    if least > sum(tensor.numel() for tensor in state.values()):
        raise ValueError
    return found


@torch.no_grad()
def from_painting(painting: images.Source, style_scale: float = 1.0) -> Model:
    """A model that paints like this painting, without training. Its statistics are kept, so reuse it for many pictures.

    Args:
        painting: a path, PIL image, array or tensor.
        style_scale: size of the strokes: the painting is studied at this multiple of `anystyle.STYLE_SIZE` pixels.

    Raises:
        InputError: the scale is not positive.
        ImageError, WeightsError: the painting or the network cannot be read.
    """
    check_scale(style_scale)
    picture = images.read(painting)
    network, metadata = anystyle.load()
    device: torch.device = next(network.parameters()).device  # another thread may be using it there
    side = min(anystyle.WHOLE, max(anystyle.LEAST, round(style_scale * anystyle.STYLE_SIZE)))
    small = images.to_size(picture.image.to(device), side)
    seen = None if picture.alpha is None else images.resize(picture.alpha.to(device), *small.shape[-2:])
    about = {"name": Path(picture.name).name, "sha256": picture.sha256, "scale": style_scale}
    half = machine.precision("auto", device) == torch.bfloat16
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        style = network.style_of(small, seen)
    return Model(network, {**metadata, "painting": json.dumps(about)}, style)


@torch.no_grad()
def apply(
    image: images.Source,
    style: str | Path | Model | Sequence[str | Path | Model],
    *,
    style_weights: Sequence[float] = (),
    masks: Sequence[images.Source] = (),
    strength: float = 1.0,
    style_scale: float = 1.0,
    keep_colors: Literal["none", "luma", "histogram"] = "none",
    grain: float | None = None,
    clarity: float | None = None,
    crispness: float | None = None,
    underpainting: float | None = None,
    fine_faces: bool = True,
    size: int | None = None,
    precision: str = "auto",
    device: str = "",
    film: Statistics | None = None,
    settle: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Repaint photographs in one pass.

    The photograph is extended by a few pixels, and the result cut, so that no frame appears along the border. In the
    style of any painting, halos are removed, see `halos`. A photograph longer than `SIZE` is painted at that size: at
    its own, the strokes would be too fine to see. The result is enlarged to the photograph's size, and sharpened where
    it follows the photograph; see `matting.joint_upsample`.

    Args:
        image: a path, PIL image, array or tensor; a tensor may be a batch.
        style: the name of a bundled style, a painting's or a model's file, or a model; several are mixed: paintings by
            their statistics, the others' results pixel by pixel.
        style_weights: shares of several styles; empty: equal shares.
        masks: one for each style, which is painted where its mask is white; empty: everywhere.
        strength: 0 is the photograph, 1 the full style.
        style_scale: size of the strokes of paintings, as in `from_painting`.
        keep_colors: luma: paint only the brightness; histogram: match the result's channels to the photograph's.
        grain: noise added to the photograph first, as a fraction of its contrast, so that even areas get no regular
            pattern. None: as in each style's training; 0 for third-party models.
        clarity: how far faint forms, such as clouds, are brought out before and after the network, from 0 to 1; see
            `contrast.clarify`. None: 1; 0 for pictures as styles, where it strengthens halos, and for third-party
            models.
        crispness: how far fine marks are removed from the result and strokes get crisp edges, from 0 to 1; see
            `kuwahara.filtered`. None: as in each style's recipe, 1 if it says nothing; 1 for pictures as styles, 0 for
            third-party models.
        underpainting: how strongly the strokes of a first painting, of half the size and filtered, are added to faint
            forms of the photograph, from 0 to 1; see `contrast.underpaint`. None: as in each style's recipe, 0 if it
            says nothing. For pictures as styles, clarity, crispness and underpainting are multiplied by the strength.
        fine_faces: paint faces again, small ones with finer strokes; see `faces.repaint`. Not with third-party models
            and not with ``film``.
        size: long edge of the result in pixels, at which it is also painted; 0: the photograph's own.
        precision: auto, float32 or bfloat16.
        device: auto, cpu, cuda or mps; default: the device of a tensor, otherwise auto.
        film: for one frame of a film, the statistics that its frames share.
        settle: for one frame of a film, a function of the photograph and the painting, both at the size of painting,
            that returns the painting to keep (`steady.Carrier`).

    Returns:
        (B, 3, H, W) sRGB in [0, 1].

    Raises:
        InputError: strength, weights, masks, scale, grain, clarity, crispness, underpainting or size are out of range.
        ImageError, WeightsError: a picture or a model cannot be read.
    """
    styles = [style] if isinstance(style, str | Path | Model) else list(style)
    parts = check_mixture(
        len(styles), style_weights, strength, grain=grain, clarity=clarity, crispness=crispness,
        underpainting=underpainting, size=size, masks=masks,
    )  # fmt: skip
    if keep_colors not in ("none", "luma", "histogram"):
        raise InputError(f"`keep_colors` must be none, luma or histogram, not {keep_colors!r}")
    if isinstance(image, Tensor) and image.ndim == 4 and len(image) > 1:
        photograph = torch.cat([images.to_tensor(each) for each in image])
    else:
        photograph = images.to_tensor(image)
    if device or not isinstance(image, Tensor):
        photograph = photograph.to(machine.pick_device(device or "auto"))
    original = photograph
    edge = max(photograph.shape[-2:])
    if size or (size is None and edge > SIZE):
        photograph = images.to_size(photograph, size or SIZE)
    if size is not None:
        original = photograph
    half = machine.precision(precision, photograph.device) == torch.bfloat16
    models = [each if isinstance(each, Model) else load(each, style_scale) for each in styles]
    fine = fine_faces and film is None and strength > 0
    found = [faces.find(each[None]) for each in photograph] if fine else []
    paint = partial(
        _paint, photograph, strength=strength, grain=grain, clarity=clarity, crispness=crispness,
        underpainting=underpainting, half=half, found=found, original=original,
    )  # fmt: skip
    if masks:
        result = guidance.compose(
            photograph,
            lambda index, mask: paint(models[index], mask=mask, film=film and film.part(index)),
            [guidance.read(mask) for mask in masks],
            parts,
        )
    else:
        shown = [(model, part) for model, part in zip(models, parts, strict=True) if part > 0]
        result = torch.zeros(())
        for model, part in _merged(shown):
            painted = paint(model, film=film)
            result = painted if part == 1 else result + painted.mul_(part)
            del painted
    if settle is not None:
        result = settle(photograph, result)
    if original is not photograph:
        result = matting.joint_upsample(result, photograph, original)
    if keep_colors == "luma":
        return color.keep_luma(original, result)
    return color.match_histogram(result, original) if keep_colors == "histogram" else result


def _paint(
    photograph: Tensor, model: Model, *, strength: float, grain: float | None, clarity: float | None,
    crispness: float | None, underpainting: float | None, half: bool, mask: Tensor | None = None,
    film: Statistics | None = None, found: Sequence[Sequence[faces.Face]] = (), original: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """One style over the whole photograph, with statistics of the part in ``mask``.

    The faces ``found`` in each photograph of the batch are painted again, from the ``original`` and without the mask.
    """
    if strength == 0:
        return photograph.clone()
    network, noise = model.network.to(photograph.device), model.grain if grain is None else grain
    style = model.style and model.style.to(photograph.device)
    clarity = model.clarity if clarity is None else clarity
    crispness = model.crispness if crispness is None else crispness
    underpainting = model.underpainting if underpainting is None else underpainting
    part = 1.0 if style is None else strength  # a weak painting is nearly the photograph
    clarity, underpainting = part * clarity, part * underpainting

    def run(seen: Tensor, mask: Tensor | None, film: Statistics | None) -> Tensor:
        margin = min(model.margin, *(side - 1 for side in seen.shape[-2:]))
        extended = images.extend(contrast.clarify(seen, clarity), margin)
        mask = None if mask is None else images.extend(mask, margin)
        with torch.autocast(extended.device.type, torch.bfloat16, enabled=half):
            if isinstance(network, Network):
                painted: Tensor = network(extended, band=max(16, BAND // extended.shape[-1]), grain=noise, film=film)
            else:
                painted = network(extended, style, strength=strength, grain=noise, mask=mask, film=film)
        return images.cut(painted, margin).clamp_(0, 1)

    seen = photograph
    if underpainting:
        sides = [-(-side // 2) for side in photograph.shape[-2:]]
        small_mask = None if mask is None else images.resize(mask, *sides)
        first = run(images.resize(photograph, *sides), small_mask, film and film.part("underpainting"))
        # Filtered in every style: dots and meshes would become strokes.
        seen = contrast.underpaint(photograph, kuwahara.filtered(first), underpainting)
        del first
    painted = run(seen, mask, film)
    painted = contrast.clarify(painted, clarity, photograph)
    if style is not None:
        painted = halos.removed(painted, photograph)
    painted = kuwahara.filtered(painted, part * crispness)
    if original is not None and any(found) and "recipe" in model.metadata:
        again = partial(_paint, model=model, grain=grain, crispness=crispness, clarity=0, underpainting=0, half=half)
        painted = faces.repaint(painted, partial(again, strength=part), original, found)
    return painted if strength == 1 or style is not None else torch.lerp(photograph, painted, strength)


def _merged(models: Sequence[tuple[Model, float]]) -> list[tuple[Model, float]]:
    """The models and their shares, with all paintings mixed into one."""
    paintings = [(model, model.style, part) for model, part in models if model.style is not None]
    if len(paintings) < 2:
        return list(models)
    whole = sum(part for *_, part in paintings)
    style = anystyle.mix([style for _, style, _ in paintings], [part / whole for *_, part in paintings])
    return [(replace(paintings[0][0], style=style), whole), *((m, part) for m, part in models if m.style is None)]


def check_scale(style_scale: float) -> None:
    """Raise InputError if the scale of a painting's strokes is not positive."""
    if not 0 < style_scale < math.inf:
        raise InputError(f"`style_scale` must be more than 0, not {style_scale:g}")


def check_mixture(
    styles: int, style_weights: Sequence[float], strength: float, *, grain: float | None = None,
    clarity: float | None = None, crispness: float | None = None, underpainting: float | None = None,
    size: int | None = None, masks: Sequence[Any] = (),
) -> list[float]:  # fmt: skip
    """Check settings of `apply` before long work.

    Args:
        styles: number of styles.
        style_weights, strength, grain, clarity, crispness, underpainting, size, masks: those of `apply`; of the masks,
            only the number counts.

    Returns:
        The share of each style; they sum to 1.

    Raises:
        InputError: no style is given; there are too many or too few weights or masks; weights are negative or all 0;
            the strength or another setting is not in [0, 1]; or the size is not in [0, `recipes.LARGEST`].
    """
    if not styles:
        raise InputError("`style`: give a painting, the name of a bundled style or a model's file")
    shares = {"strength": strength, "grain": grain, "clarity": clarity, "crispness": crispness}
    for name, share in {**shares, "underpainting": underpainting}.items():
        if share is not None and not 0 <= share <= 1:
            raise InputError(f"`{name}` must lie between 0 and 1, not {share:g}")
    if size is not None and not 0 <= size <= recipes.LARGEST:
        raise InputError(f"`size` must lie between 0 (the photograph's own) and {recipes.LARGEST:,}, not {size}")
    if masks and len(masks) != styles:
        raise InputError(f"{len(masks)} masks for {styles} styles: give one for each style, or none")
    parts = list(style_weights) or [1.0] * styles
    if len(parts) != styles or min(parts) < 0 or not 0 < sum(parts) < math.inf:
        raise InputError(f"`style_weights`: give one for each of {styles} styles, none negative, not all 0")
    return [part / sum(parts) for part in parts]
