"""Files <-> tensors: (1, 3, H, W) float32 sRGB in [0, 1], with orientation, colour profile, alpha and receipt."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL import ImageCms
from torch import Tensor
from torch.nn import functional as F

from impasto import deep, files
from impasto.decoding import MAX_PIXELS, check_size, convert, decoder, deep_tiff, opened, pixels_of, refusal
from impasto.encoding import DESCRIPTION, FORMATS, encode, levels, planes_of, srgb_profile, to_pil as to_pil
from impasto.errors import ImageError
from impasto.files import atomic as atomic

VISIBLE = 0.5 / 255  # the least alpha that 8 bits can show
# EXIF orientation -> the axes to flip, after the transposition of 5 to 8.
FLIPS = {2: (-1,), 3: (-2, -1), 4: (-2,), 6: (-1,), 7: (-2, -1), 8: (-2,)}
# Files that are taken for pictures in a folder; HEIC needs pillow-heif, all others only Pillow.
HEIC = (".heic", ".heif", ".hif")
SUFFIXES = {*FORMATS, *HEIC, ".apng", ".avif", ".bmp", ".dds", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpf",
            ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".qoi", ".sgi", ".tga"}  # fmt: skip


@dataclass(frozen=True, eq=False)  # comparing tensors gives no bool
class Picture:
    """A picture as ``read`` returns it; of an animation, the first frame.

    Attributes:
        image: (1, 3, H, W) float32 sRGB in [0, 1]; invisible pixels are filled from visible ones, see `fill_hidden`.
        alpha: (1, 1, H, W) float32 in [0, 1]; None if the picture is opaque.
        profile: the file's ICC profile, for ``write``; None without one, or if it is broken or CMYK.
        name: the path as given, or "<array>", "<tensor>", "<image>".
        sha256: of the file's bytes, or of the pixels if the source was in memory.
        note: a one-line message for the user, or None.
        bits: of a channel in the source, 8 or 16, for ``write``.
    """

    image: Tensor = field(repr=False)
    alpha: Tensor | None = field(repr=False)
    profile: bytes | None = field(repr=False)
    name: str
    sha256: str
    note: str | None
    bits: int = 8


Source = str | Path | PIL.Image.Image | NDArray[Any] | Tensor | Picture


def read(source: Source, *, pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture, turned upright and converted to sRGB.

    Args:
        source: a file, a Pillow image, an array (H, W) or (H, W, 1 to 4), or a tensor (1 or 3, H, W) or
            (1, 1 or 3, H, W). Integers are unsigned and use their full range; floats lie in [0, 1].
        pixels: the largest number of pixels that a file may declare.

    Returns:
        The picture; a `Picture` is returned unchanged.

    Raises:
        ImageError: the source is missing, damaged, too large or not a picture.
        TypeError: the source has another type.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, str | Path):
        return _from_file(source, pixels)
    profile = None
    if isinstance(source, Tensor):
        name, alpha, image = "<tensor>", None, to_tensor(source)
    elif isinstance(source, PIL.Image.Image):
        name = "<image>"
        try:
            image, alpha, profile = _assemble(*pixels_of(source, name), name)
        except (OSError, SyntaxError) as error:  # Pillow decodes late: the file behind it may be damaged
            raise refusal(name, f"cannot be decoded ({error}); the file may be damaged, get it again") from error
    elif isinstance(source, np.ndarray):
        name = "<array>"
        image, alpha = _from_array(source, name)
    else:
        raise TypeError(f"a picture is a path, a Pillow image, an array or a tensor, not {type(source).__name__}")
    values = image if alpha is None else torch.cat([image, alpha], 1)
    digest = hashlib.sha256(str(tuple(values.shape)).encode() + values.cpu().numpy().tobytes())
    bits = _bits(source) if isinstance(source, np.ndarray) else 8
    return Picture(image, alpha, profile, name, digest.hexdigest(), None, bits)


def to_tensor(source: Source) -> Tensor:
    """Read only the colours of a source: (1, 3, H, W) float32 sRGB in [0, 1]; raises what ``read`` raises."""
    return _unit(planes_of(source)).expand(3, -1, -1)[None] if isinstance(source, Tensor) else read(source).image


def fit(height: int, width: int, size: int) -> tuple[int, int]:
    """The size of a picture with another long edge, its aspect ratio kept to the nearest pixel.

    Args:
        height, width: of the picture, in pixels.
        size: the long edge of the result, in pixels.

    Returns:
        Height and width, at least 1 pixel each.

    Raises:
        ValueError: one of the three is less than 1.
    """
    if min(height, width, size) < 1:
        raise ValueError(f"sizes must be at least 1 pixel, not {height} x {width} to {size}")
    long = max(height, width)
    return max(1, (2 * height * size + long) // (2 * long)), max(1, (2 * width * size + long) // (2 * long))


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize an image by antialiased bicubic interpolation.

    Args:
        image: (B, C, H, W).
        height, width: of the result, in pixels.

    Returns:
        (B, C, height, width), clamped to [0, 1]; an image of that size is returned unchanged.
    """
    return image if image.shape[-2:] == (height, width) else interpolate(image, height, width).clamp_(0, 1)


def interpolate(x: Tensor, height: int, width: int) -> Tensor:
    """As `resize`, without clamping: for differences of images.

    Args:
        x: (B, C, H, W).
        height, width: of the result, in pixels.

    Returns:
        (B, C, height, width).
    """
    return F.interpolate(x, (height, width), mode="bicubic", align_corners=False, antialias=True)


def means(x: Tensor, height: int, width: int) -> Tensor:
    """Reduce a picture by means.

    Args:
        x: (B, C, H, W).
        height, width: of the result, in positions.

    Returns:
        (B, C, height, width): each position is the mean of the pixels that it covers.
    """
    where = "cpu" if x.device.type == "mps" else x.device  # which lacks it for sides that do not divide
    return F.adaptive_avg_pool2d(x.to(where), (height, width)).to(x.device)


def to_size(image: Tensor, size: int) -> Tensor:
    """Resize (B, C, H, W) so that its long edge is ``size`` pixels: `fit`, then `resize`."""
    return resize(image, *fit(image.shape[-2], image.shape[-1], size))


def at_most(image: Tensor, size: int) -> Tensor:
    """Reduce (B, C, H, W) to a long edge of ``size`` pixels, if it is longer."""
    return to_size(image, size) if max(image.shape[-2:]) > size else image


def extend(image: Tensor, margin: int) -> Tensor:
    """Extend (B, C, H, W) by ``margin`` pixels on each side, by reflection; both sides must be longer than that."""
    return F.pad(image, [margin] * 4, "reflect") if margin else image


def cut(image: Tensor, margin: int) -> Tensor:
    """Remove what `extend` added."""
    return image[..., margin:-margin, margin:-margin] if margin else image


def write(
    path: str | Path,
    image: Tensor,
    *,
    alpha: Tensor | None = None,
    profile: bytes | None = None,
    receipt: Mapping[str, Any] | None = None,
    bits: int = 8,
    dither: bool = False,
) -> None:
    """Write a picture as PNG, JPEG, WebP or TIFF by its extension, completely or not at all.

    Args:
        path: of the file.
        image: (1, 3, H, W) or (3, H, W) sRGB in [0, 1].
        alpha: (1, 1, h, w), resized to the image. JPEG has none, so the picture is blended onto white.
        profile: an RGB profile, which the picture is converted to and which is embedded; any other is ignored.
        receipt: stored as JSON in the EXIF ImageDescription.
        bits: 8 or 16 a channel; 16 only in PNG and TIFF, the others have 8.
        dither: hide the steps of smooth gradients in 8 bits under noise of less than a step, always the same.

    Raises:
        ImageError: the picture cannot be written.
    """
    path = check_output(path)
    kind, _ = FORMATS[path.suffix.lower()]
    planes = planes_of(image, str(path))
    if alpha is not None:
        alpha = resize(planes_of(alpha, str(path))[None].to(planes).clamp(0, 1), planes.shape[-2], planes.shape[-1])[0]
        if kind == "JPEG":
            planes, alpha = planes.clamp(0, 1) * alpha + (1 - alpha), None
    description = None if receipt is None else json.dumps(dict(receipt), sort_keys=True)  # ASCII: all decode it alike
    data = encode(path, planes, alpha, profile, description, bits=bits, dither=dither)
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise files.unwritable(path, error) from error


def check_output(path: str | Path, inputs: Iterable[str | Path] = ()) -> Path:
    """Return the path if ``write`` can write there, else raise ImageError; to be called before long work.

    Args:
        path: of the picture.
        inputs: files that must not be overwritten.
    """
    path = Path(path)
    if path.is_dir():
        raise refusal(path, "is a folder; name a picture inside it, such as result.png")
    if path.suffix.lower() not in FORMATS:
        raise refusal(path, f"cannot write {path.suffix or 'a file without extension'}; use {', '.join(FORMATS)}")
    return files.check_output(path, inputs)


def has_receipt(path: str | Path) -> bool:
    """Whether ``write`` made a picture, by its receipt."""
    try:
        read_receipt(path)
    except ImageError:
        return False
    return True


def read_receipt(path: str | Path) -> dict[str, Any]:
    """Read the receipt that ``write`` stored in a picture; raises ImageError if it has none or is unreadable."""
    name = str(path)
    with opened(name) as file, decoder(file) as picture:
        receipt = None
        # `write` stores it before the pixels of a PNG; to look behind them, Pillow would decode them.
        if picture.format != "PNG" or "exif" in picture.info:
            with suppress(TypeError, ValueError):
                receipt = json.loads(picture.getexif().get(DESCRIPTION))  # type: ignore[arg-type]  # None: TypeError
        if not isinstance(receipt, dict):
            raise refusal(name, "has no receipt; use a picture that impasto wrote and no other program re-saved")
        return receipt


def _from_file(path: str | Path, pixels: int) -> Picture:
    name, note = str(path), None
    with opened(name) as file:
        raw = deep_tiff(file, name, pixels)
        if raw is None:
            file.seek(0)
            picture = decoder(file)
            check_size(name, picture.width, picture.height, pixels)
            # Not n_frames, which walks through all of them. MPO, PSD: a phone's extra views, layers.
            if getattr(picture, "is_animated", False) and picture.format not in ("MPO", "PSD"):
                note = f"{name}: only the first frame is used"
            raw = pixels_of(picture, name)
            array = deep.read_png(file) if picture.format == "PNG" else None
            raw = raw if array is None else (array, *raw[1:])
        image, alpha, profile = _assemble(*raw, name)
        file.seek(0)
        return Picture(
            image, alpha, profile, name, hashlib.file_digest(file, "sha256").hexdigest(), note, _bits(raw[0])
        )


def _assemble(array: NDArray[Any], profile: bytes | None, turn: int, name: str) -> tuple[Tensor, Tensor | None, Any]:
    """Image and alpha, upright and in sRGB, and the profile if it could be used."""
    image, alpha = _from_array(array, name)
    if profile and _bits(array) > 8:
        values = levels(image[0], 65535)
        grey = array.ndim == 2 or array.shape[2] < 3
        found = deep.convert(values[..., 0], profile, srgb_profile()) if grey else None
        found = deep.convert(values, profile, srgb_profile()) if found is None else found
        image, profile = (image, None) if found is None else (_from_array(found, name)[0], profile)
    elif profile:  # Pillow's colour management supports no more than 8 bits
        grey, rgb, target = array.ndim == 2 or array.shape[2] < 3, to_pil(image), ImageCms.createProfile("sRGB")
        srgb = convert(rgb.convert("L"), io.BytesIO(profile), target) if grey else None
        srgb = srgb or convert(rgb, io.BytesIO(profile), target)
        image, profile = (_from_array(np.asarray(srgb), name)[0], profile) if srgb else (image, None)
    return _upright(image, turn), None if alpha is None else _upright(alpha, turn), profile


def _bits(array: NDArray[Any]) -> int:
    return 8 if array.dtype in (np.uint8, np.bool_) else 16


def _upright(image: Tensor, orientation: int) -> Tensor:
    image = image.transpose(-2, -1) if orientation in (5, 6, 7, 8) else image
    return image.flip(FLIPS.get(orientation, ())).contiguous()


def _from_array(array: NDArray[Any], name: str) -> tuple[Tensor, Tensor | None]:
    """(H, W) or (H, W, 1 to 4) -> image and alpha; alpha is None if opaque."""
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        raise refusal(name, f"has the shape {array.shape}; an array is (H, W) or (H, W, 1 to 4)")
    try:
        values = torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")).copy())
    except TypeError as error:
        raise refusal(name, f"holds {array.dtype}; use uint8, uint16 or float in [0, 1]") from error
    planes = _unit(values.permute(2, 0, 1), name)
    colours = 3 if len(planes) > 2 else 1
    alpha = planes[None, colours:] if len(planes) > colours and planes[colours:].min() < 1 else None
    image = planes[:colours].expand(3, -1, -1)[None].contiguous()
    if alpha is None:
        return image, None
    if float(alpha.max()) < VISIBLE:
        raise refusal(name, "is entirely transparent; give it a visible part, or remove its transparency")
    return fill_hidden(image, alpha), alpha


def fill_hidden(image: Tensor, alpha: Tensor) -> Tensor:
    """Replace the colours of invisible pixels by those of the visible ones around them (Gortler1996, pull-push).

    Programs store anything there, which must not decide the result.

    Args:
        image: (1, 3, H, W).
        alpha: (1, 1, H, W) in [0, 1], not 0 everywhere.

    Returns:
        (1, 3, H, W), unchanged where it is visible.
    """
    seen = (alpha >= VISIBLE).float()
    if bool(seen.all()):
        return image
    colour, weight = image * seen, seen
    levels = []
    while bool((weight == 0).any()):
        levels.append((colour, weight))
        colour, weight = (F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (colour, weight))
    filled = colour / weight
    for colour, weight in reversed(levels):
        around = F.interpolate(filled, colour.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(weight > 0, colour / weight.clamp_min(1e-6), around)
    return torch.where(seen > 0, image, filled)


def _unit(values: Tensor, name: str = "<tensor>") -> Tensor:
    """Any values -> float32 in [0, 1]."""
    if values.numel() == 0:
        raise refusal(name, "has no pixels; give it at least one")
    full = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}.get(values.dtype)
    if full is not None:
        return values.float() / full
    if not values.is_floating_point():
        raise refusal(name, f"holds {values.dtype}; use uint8, uint16 or float in [0, 1]")
    least, most = (float(end) for end in values.aminmax())  # NaN if there is one
    if not -torch.inf < least <= most < torch.inf:
        raise refusal(name, "holds NaN or infinite values; replace them first")
    if least < -1e-3 or most > 1 + 1e-3:
        raise refusal(name, "holds values outside [0, 1]; divide 8-bit values by 255, or clamp")
    return values.float().clamp(0, 1)
