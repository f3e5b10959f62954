"""Decode an uploaded file once, in a process of its own, which may take little time and memory.

What passes here is decoded in the studio's own process later. The command is `python -m impasto.studio.inspection
FILE PIXELS`; it prints the suffix for the file's format, or exits with 1 and prints why the file is refused.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from impasto import files
from impasto.errors import RefusedError
from impasto.studio import films

PIXELS = 50_000_000  # the most of a picture
SECONDS, PROCESSOR = 120.0, 8  # for all files of a form; of one picture, the processor's time
BYTES = 3_000_000_000  # of address space
SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "WEBP": ".webp",
    "TIFF": ".tiff",
    "GIF": ".gif",
    "BMP": ".bmp",
    "AVIF": ".avif",
}
MARKUP = re.compile(rb"<(!doctype|html|script|svg|iframe|\?php)[\s/>!][\s\x21-\x7e]{2}", re.IGNORECASE)
NEITHER = "not a picture or a film; upload a PNG, JPEG, WebP or TIFF, or an MP4"
AT_ONCE = asyncio.Semaphore(2)


async def inspect(paths: Sequence[Path], *, most_pixels: int) -> list[str]:
    """Check that each file of a form is a picture or a film, and nothing else.

    Returns:
        The suffix for the format of each.

    Raises:
        RefusedError: one is neither, too large, or also a page, a script, a PDF or an archive; or all take too long.
    """
    async with AT_ONCE:
        try:
            async with asyncio.timeout(SECONDS):
                return [await _inspect(path, most_pixels) for path in paths]
        except TimeoutError:
            raise RefusedError(
                f"the upload takes more than {SECONDS:.0f} seconds to read; save it again as PNG, or shorten the film"
            ) from None


async def _inspect(path: Path, most_pixels: int) -> str:
    command = (sys.executable, "-m", "impasto.studio.inspection", str(path), str(most_pixels))
    few = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # each thread would take address space
    none = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *command, stdin=none, stdout=asyncio.subprocess.PIPE, stderr=none, env=os.environ | few
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = said.decode().strip()
    if process.returncode == 0 and text in (*SUFFIXES.values(), *films.FORMATS.values()):
        return text
    raise RefusedError(
        text if process.returncode == 1 and text
        else "the file cannot be read; save it again as PNG, or shorten the film"
    )  # fmt: skip


def check(path: Path, most_pixels: int) -> str:
    """The suffix for the format of a picture or a film; raises RefusedError as `inspect` says."""
    import PIL.Image

    restrict()
    PIL.Image.MAX_IMAGE_PIXELS = None  # our own limit follows
    if not path.stat().st_size:
        raise RefusedError("the file is empty")
    try:
        with path.open("rb") as file:
            if fault := files.too_many_strips(file):
                raise RefusedError(f"the picture {fault}; save it again as PNG")
        with PIL.Image.open(path) as picture:
            _limit(*picture.size, most_pixels)
            kind, size, suffix = str(picture.format), picture.size, SUFFIXES[str(picture.format)]
            picture.load()
        if kind == "TIFF":
            _check_tiff(path, size, most_pixels)
    except RefusedError:
        raise
    except MemoryError:
        raise RefusedError("the picture needs too much memory; make it smaller") from None
    except PIL.UnidentifiedImageError:
        suffix = _film(path)
    except Exception:
        raise RefusedError(NEITHER) from None
    data = path.read_bytes()
    if MARKUP.search(data) or data[:1024].find(b"%PDF-") >= 0 or zipfile.is_zipfile(path):
        raise RefusedError("the file contains more than a picture or a film; save it again")
    return suffix


def _film(path: Path) -> str:
    allow(films.PROCESSOR)
    suffix = films.check(path)
    if suffix is None:
        raise RefusedError(NEITHER)
    return suffix


def restrict() -> None:
    """Leave Pillow only the decoders of these formats, in this process."""
    import PIL.Image

    PIL.Image.init()
    PIL.Image.ID[:] = [kind for kind in PIL.Image.ID if kind in SUFFIXES]
    PIL.Image.register_open = lambda *_, **__: None  # none is added later, such as that of HEIC


def _check_tiff(path: Path, size: tuple[int, int], most_pixels: int) -> None:
    """Check a TIFF as tifffile reads it: `images.read` uses it for 16 bits and more."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        _limit(page.imagewidth, page.imagelength, most_pixels)
        if (page.imagewidth, page.imagelength) != size or page.imagedepth != 1 or page.samplesperpixel > 8:
            raise RefusedError("the TIFF states two sizes; save it again as PNG")


def allow(seconds: int) -> None:
    """Limit this process's memory, and its processor's time from its start on."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, max(PROCESSOR, films.PROCESSOR)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError):  # Windows; a lower limit
        pass


def _limit(width: int, height: int, most_pixels: int) -> None:
    if width * height > most_pixels:
        raise RefusedError(f"{width} x {height} is more than {most_pixels // 1_000_000} megapixels")


def main() -> int:
    path, most_pixels = sys.argv[1:]
    allow(PROCESSOR)
    try:
        print(check(Path(path), int(most_pixels)))
    except RefusedError as refusal:
        print(refusal)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
