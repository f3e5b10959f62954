"""Tensors -> the bytes of a picture file, in 8 or 16 bits a channel, with alpha, colour profile and receipt."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL import ImageCms
from torch import Tensor

from impasto import deep
from impasto.decoding import convert, refusal

DESCRIPTION = 0x010E  # EXIF tag that holds the receipt
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".tif": ("TIFF", {"compression": "tiff_lzw"}),
    ".tiff": ("TIFF", {"compression": "tiff_lzw"}),
}


def encode(
    path: Path,
    planes: Tensor,
    alpha: Tensor | None,
    profile: bytes | None,
    description: str | None,
    *,
    bits: int,
    dither: bool,
) -> bytes:
    """Encode a picture.

    Args:
        path: of the file; its suffix, one of `FORMATS`, decides the format.
        planes: (1 or 3, H, W) sRGB in [0, 1].
        alpha: (1, H, W) in [0, 1]; None: opaque.
        profile: an RGB profile to convert to and to embed; any other is ignored. None: sRGB, and none is embedded.
        description: stored in the EXIF ImageDescription; None: nothing.
        bits: 8 or 16 a channel; 16 only in PNG and TIFF.
        dither: hide the steps of smooth gradients in 8 bits under noise of less than a step, always the same.

    Returns:
        The content of the file.

    Raises:
        ImageError: the format cannot hold the picture.
    """
    if bits > 8 and path.suffix.lower() in deep.SUFFIXES:
        return _in_16_bits(FORMATS[path.suffix.lower()][0], planes, alpha, profile, description)
    if dither:
        noise = torch.rand(planes.shape, generator=torch.Generator().manual_seed(0))
        planes = planes + (noise.to(planes) - 0.5) / 255
    return _in_8_bits(path, planes, alpha, profile, description)


def _in_8_bits(
    path: Path, planes: Tensor, alpha: Tensor | None, profile: bytes | None, description: str | None
) -> bytes:
    kind, options = FORMATS[path.suffix.lower()]
    picture = to_pil(planes)
    converted = convert(picture, ImageCms.createProfile("sRGB"), io.BytesIO(profile)) if profile else None
    if converted is not None:
        picture, options = converted, {**options, "icc_profile": profile}
    if alpha is not None:
        picture.putalpha(to_pil(alpha).convert("L"))
    if description:
        options = {**options, "exif": _exif(description)}
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind, **options)
    except (OSError, ValueError) as error:  # WebP and JPEG limit the size, JPEG the receipt
        raise refusal(path, f"cannot be saved as {kind} ({error}); use .png") from error
    return buffer.getvalue()


def _in_16_bits(
    kind: str, planes: Tensor, alpha: Tensor | None, profile: bytes | None, description: str | None
) -> bytes:
    values = levels(planes, 65535)
    converted = deep.convert(values, srgb_profile(), profile) if profile else None
    values, profile = (values, None) if converted is None else (converted, profile)
    if alpha is not None:
        values = np.concatenate([values, levels(alpha, 65535)[..., :1]], 2)
    exif = _exif(description).tobytes() if description else None
    return deep.encode(kind, values, profile=profile, exif=exif, description=description)


def _exif(description: str) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[DESCRIPTION] = description
    return exif


def to_pil(image: Tensor) -> PIL.Image.Image:
    """Convert a tensor to an 8-bit RGB image.

    Args:
        image: (1, 3, H, W) or (3, H, W) sRGB, clamped to [0, 1]; one channel is repeated.

    Returns:
        A Pillow image.

    Raises:
        ImageError: the tensor has another shape, or holds NaN.
    """
    return PIL.Image.fromarray(levels(planes_of(image), 255))


def levels(planes: Tensor, top: int) -> NDArray[Any]:
    """(1 or 3, H, W) in [0, 1] -> (H, W, 3) integers up to 255 or 65535."""
    planes = planes.float()
    if planes.isnan().any():
        raise refusal("<tensor>", "holds NaN; the run that made it has diverged, use a smaller step")
    values = planes.clamp(0, 1).mul(top).round().to(torch.uint8 if top == 255 else torch.uint16).expand(3, -1, -1)
    return values.permute(1, 2, 0).cpu().contiguous().numpy()


def planes_of(image: Tensor, name: str = "<tensor>") -> Tensor:
    """(1, C, H, W) or (C, H, W) -> (C, H, W), C 1 or 3."""
    planes = image.detach()[0] if image.ndim == 4 and len(image) == 1 else image.detach()
    if planes.ndim != 3 or len(planes) not in (1, 3) or planes.numel() == 0:
        raise refusal(name, f"has the shape {tuple(image.shape)}; a tensor is (1, 3, H, W) or (3, H, W)")
    return planes


def srgb_profile() -> bytes:
    """The ICC profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
