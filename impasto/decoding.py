"""Picture files -> arrays as they are stored, with colour profile and orientation; what cannot be read is refused."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL import ImageCms

from impasto import files, machine
from impasto.errors import ImageError

BYTES_PER_PIXEL = 44  # that reading takes at its peak: 8 bits, floats, alpha, and copies of them
SMALL = 4_000_000  # pixels up to which memory is not checked
MAX_PIXELS = 178_956_970  # Pillow's hard limit, which also holds if a caller asks for more
# A file with more than LARGE pixels is refused if it has less than a byte for every SPARSE pixels. A scanned drawing in
# two colours has a byte for every 1,400. Only empty pictures have less, and decoding them would take 15 s.
LARGE, SPARSE = 25_000_000, 10_000
DNG_VERSION, SUB_IFDS, ORIENTATION = 0xC612, 0x014A, 0x0112  # tags of TIFF and EXIF
RAW_HINT = "is a RAW photograph; develop it first, for example with darktable, and save it as TIFF or PNG"
RAW_HEADS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"II*\0\x10\0\0\0CR")
RAW = {".3fr", ".arw", ".cr2", ".cr3", ".dng", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"}


@contextmanager
def opened(name: str) -> Iterator[io.BufferedReader]:
    """Open a file, and turn any error into one clear line."""
    if re.match("https?:/", name, re.IGNORECASE):
        raise refusal(name, "is a web address; download it first and name the file")
    if Path(name).is_dir():
        raise refusal(name, "is a folder; name a picture inside it")
    head = b""
    try:
        if files.special(name):
            raise refusal(name, "is a device or a pipe, not a file; save the picture to a file first")
        if not Path(name).stat().st_size:  # also of the endless files in /proc
            raise refusal(name, "is empty (0 bytes); get the file again")
        with Path(name).open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = file.read(1024)
            if Path(name).suffix.lower() in RAW or head.startswith(RAW_HEADS) or head[4:12] == b"ftypcrx ":
                raise refusal(name, RAW_HINT)
            file.seek(0)
            yield file
    except (ImageError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise refusal(name, "does not exist; check the path") from error
    except PermissionError as error:
        raise refusal(name, "cannot be read: permission denied; change its permissions") from error
    except PIL.Image.DecompressionBombError as error:
        raise refusal(name, f"declares more than {MAX_PIXELS} pixels; make it smaller first") from error
    except PIL.UnidentifiedImageError as error:
        raise refusal(name, _hint(head)) from error
    except Exception as error:  # Pillow's decoders raise nearly any exception on damaged files
        raise refusal(name, f"cannot be decoded ({error}); it may be damaged, get it or save it again") from error


def refusal(name: object, problem: str) -> ImageError:
    """The error for a picture, in one line."""
    return ImageError(" ".join(f"{name}: {problem}".splitlines()))


def _hint(head: bytes) -> str:
    text = head.lower()
    if b"<svg" in text:
        return "is an SVG drawing; export it as PNG first"
    if b"<html" in text or b"<!doctype html" in text:
        return "is a web page, not a picture; open it in a browser and save the picture itself"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "is a HEIC photograph: pip install 'impasto[heic]', or export it as JPEG first"
    return "is not a picture, or has an unsupported format; save it as PNG or JPEG"


def check_size(name: str, width: int, height: int, pixels: int = MAX_PIXELS) -> None:
    """Check that a picture of this size may be read, before it is.

    Args:
        name: of the file.
        width, height: as the file declares them.
        pixels: the largest number of pixels allowed.

    Raises:
        ImageError: it has more, or more than its bytes can hold, or the free memory cannot hold it.
    """
    if width * height > pixels:
        raise refusal(name, f"declares {width} x {height} pixels, more than {pixels}; make it smaller first")
    length = Path(name).stat().st_size
    if width * height > max(LARGE, SPARSE * length):
        raise refusal(name, f"declares {width} x {height} pixels in {length} bytes; make it smaller first")
    if width * height > SMALL:
        need, free = BYTES_PER_PIXEL * width * height / 1e9, machine.free_memory(torch.device("cpu")) / 1e9
        if need > free:
            raise refusal(
                name, f"declares {width} x {height} pixels, which take {need:.1f} GB of memory; {free:.1f} GB are free"
            )


@cache
def _register_heic() -> None:
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def decoder(file: io.BufferedReader) -> PIL.Image.Image:
    """Open a file with Pillow, and with pillow-heif if that is installed and needed; nothing is decoded yet."""
    if file.peek(12)[4:8] == b"ftyp":
        _register_heic()
    elif fault := files.too_many_strips(file):
        raise refusal(file.name, f"{fault}; save it again")
    return PIL.Image.open(file)


def pixels_of(picture: PIL.Image.Image, name: str) -> tuple[NDArray[Any], bytes | None, int]:
    """A Pillow image's (H, W) or (H, W, 2 to 4) array, ICC profile and EXIF orientation."""
    picture.load()
    profile, orientation = picture.info.get("icc_profile"), 1
    with suppress(Exception):  # broken EXIF; exif_transpose would also rewrite all of it
        orientation = picture.getexif().get(ORIENTATION, 1)
    if picture.mode == "CMYK":
        srgb = convert(picture, io.BytesIO(profile), ImageCms.createProfile("sRGB")) if profile else None
        return np.asarray(srgb or picture.convert("RGB")), None, orientation
    if picture.mode[0] in "IF":  # I: 16 bits in 32; larger values are refused like floats above 1
        array = np.asarray(picture)
        return array / 65535 if picture.mode == "I" else array, profile, orientation
    clear, grey = picture.has_transparency_data, picture.mode in ("1", "L", "LA")
    try:
        array = np.asarray(picture.convert("RGBA" if clear else "L" if grey else "RGB"))
        return array[..., ::3] if clear and grey else array, profile, orientation
    except ValueError as error:
        raise refusal(name, f"has the mode {picture.mode}, which is unsupported; save it as an RGB PNG") from error


def deep_tiff(file: io.BufferedReader, name: str, pixels: int) -> tuple[NDArray[Any], bytes | None, int] | None:
    """As `pixels_of`, for a TIFF of 16 bits or more: Pillow cannot read floats there, and misreads planes.

    Args:
        file: at its start.
        name: for messages.
        pixels: the largest number of pixels allowed.

    Returns:
        None for any other file.
    """
    if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    import tifffile  # imported late: few pictures need it

    page, planar = None, False
    file.seek(0)
    try:
        page = tifffile.TiffFile(file).pages.first
        if DNG_VERSION in page.tags or (page.is_reduced and SUB_IFDS in page.tags):  # a thumbnail comes first
            raise refusal(name, RAW_HINT)
        planar = page.planarconfig == 2 and page.samplesperpixel > 1
    except ImageError:
        raise
    except Exception:  # fall back to Pillow
        return None
    if not isinstance(page, tifffile.TiffPage) or page.bitspersample not in (16, 32, 64) or page.photometric > 2:
        return None
    if page.extrasamples[:1] == (1,) and not planar:
        return None  # premultiplied alpha, which Pillow undoes
    check_size(name, page.imagewidth, page.imagelength, pixels)
    try:
        array = page.asarray()
    except Exception:
        if planar:
            raise
        return None  # most likely a codec that only Pillow has; it reads 8 bits
    array = np.moveaxis(array, 0, -1) if planar else array
    if page.photometric == 0:  # white is zero
        array = np.iinfo(array.dtype).max - array
    profile, orientation = (page.tags.valueof(code) for code in (34675, ORIENTATION))
    return array, profile, int(orientation or 1)


def convert(picture: PIL.Image.Image, source: Any, target: Any) -> PIL.Image.Image | None:
    """Convert a picture from one colour profile to another.

    Args:
        picture: in the colours of ``source``.
        source, target: each an open file of an ICC profile, or a profile of ImageCms; the target is one of RGB.

    Returns:
        An RGB picture of 8 bits a channel; None if a profile does not fit.
    """
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    try:
        return ImageCms.profileToProfile(picture, source, target, intent, "RGB", flags=flags)
    except ImageCms.PyCMSError:
        return None
