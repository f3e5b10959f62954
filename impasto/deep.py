"""Pictures of 16 bits a channel: PNG, TIFF and colour profiles. Pillow has these in 8 bits only."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SUFFIXES = (".png", ".tif", ".tiff")  # of the files that can hold them
HEADER = 33  # bytes of a PNG up to the end of its first chunk, which states the depth
RELATIVE, COMPENSATED = 1, 0x2000  # lcms: relative colorimetric, with black point compensation


def read_png(file: IO[bytes]) -> Array | None:
    """Read a PNG of 16 bits, (H, W) or (H, W, 2 to 4) uint16; None for any other file."""
    file.seek(0)
    head = file.read(HEADER)
    if not head.startswith(b"\x89PNG\r\n") or len(head) < HEADER or head[24] != 16:
        return None
    import imagecodecs  # imported late, here and below: few pictures need it

    file.seek(0)
    return np.asarray(imagecodecs.png_decode(file.read()))


def convert(colors: Array, source: bytes, target: bytes) -> Array | None:
    """Convert colours from one ICC profile to another.

    Args:
        colors: (H, W, 3) uint16, or (H, W) if ``source`` is a profile of grey.
        source, target: the profiles; the target is one of RGB.

    Returns:
        (H, W, 3) uint16; None if a profile is broken or of another colour space.
    """
    import imagecodecs

    with suppress(imagecodecs.CmsError, ValueError):
        space = "gray" if colors.ndim == 2 else "rgb"
        return np.asarray(
            imagecodecs.cms_transform(
                np.ascontiguousarray(colors), source, target, colorspace=space, outcolorspace="rgb", intent=RELATIVE,
                flags=COMPENSATED,
            )
        )  # fmt: skip
    return None


def encode(kind: str, values: Array, *, profile: bytes | None, exif: bytes | None, description: str | None) -> bytes:
    """Encode a picture of 16 bits a channel.

    Args:
        kind: PNG or TIFF.
        values: (H, W, 3) or, with alpha, (H, W, 4), uint16.
        profile: an ICC profile to embed; None: none is embedded.
        exif: stored in a PNG; None: nothing.
        description: the ImageDescription of a TIFF; None: nothing.

    Returns:
        The content of the file.
    """
    if kind == "TIFF":
        import tifffile

        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer, values, photometric="rgb", compression="adobe_deflate", predictor=True, iccprofile=profile,
            extrasamples=["unassalpha"] * (values.shape[2] - 3), description=description, metadata=None, software=False,
        )  # fmt: skip
        return buffer.getvalue()
    import imagecodecs

    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(values)))
    chunks = [(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))] if profile else []
    chunks += [(b"eXIf", exif.removeprefix(b"Exif\0\0"))] if exif else []
    return data[:HEADER] + b"".join(_chunk(*each) for each in chunks) + data[HEADER:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
