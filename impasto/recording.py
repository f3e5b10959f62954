"""Frames -> film files, and what these may be called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor

from impasto import encoding, files, images
from impasto.errors import OutputError, VideoError
from impasto.video import BT709, NUMBER, VIDEO_RANGE, Film, is_film, library

# What can be written: the format and the encoder. The last three are animated pictures, without sound.
WRITTEN = {
    ".mp4": ("mp4", "libx264"), ".m4v": ("mp4", "libx264"), ".mov": ("mov", "libx264"), ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"), ".ts": ("mpegts", "libx264"), ".mts": ("mpegts", "libx264"),
    ".m2ts": ("mpegts", "libx264"), ".3gp": ("3gp", "libx264"), ".gif": ("gif", "gif"),
    ".webp": ("webp", "libwebp_anim"), ".apng": ("apng", "apng"),
}  # fmt: skip
ENDLESS = {"gif": {"loop": "0"}, "webp": {"loop": "0"}, "apng": {"plays": "0"}}  # how often an animation plays
OPTIONS = {
    # No frame refers to a later one, so that a film that was cut off can be continued.
    "libx264": {"crf": "{crf}", "preset": "medium", "bf": "0"},
    "libvpx-vp9": {"crf": "{crf}", "b": "0", "cpu-used": "4", "row-mt": "1"},
    "libwebp_anim": {"quality": "90"},
    "gif": {},
    "apng": {},
}
CRF = 18


def is_written(out: Path) -> bool:
    """Whether a result under this name can be a film."""
    return out.suffix.lower() in WRITTEN or bool(NUMBER.search(out.name))


def as_pattern(path: Path, out: Path) -> Path:
    """The result of a film: if ``out`` is or names a folder, the pattern of numbered pictures in it."""
    folder = is_film(path) and not is_written(out) and (out.is_dir() or not out.suffix)
    return out / "frame_%04d.png" if folder else out


class Encoder:
    """Encodes frames into a container that is open for writing.

    Args:
        container: from av.open.
        codec: the encoder, one of `WRITTEN`.
        height, width: of the film, rounded down to even numbers where the encoder requires it.
        film: the rate, the unit of times and the aspect of pixels.
        crf: the quality: lower is better and larger.
    """

    def __init__(self, container: Any, codec: str, height: int, width: int, film: Film, crf: int = CRF) -> None:
        self.container, self.codec, self.av = container, codec, library(film.path)
        animated = codec in ("gif", "libwebp_anim", "apng")
        if animated and film.aspect != 1:  # they have square pixels only
            width = max(1, round(width * film.aspect))
        even = 1 if animated else 2
        options = {name: value.format(crf=crf) for name, value in OPTIONS[codec].items()}
        stream = container.add_stream(codec, rate=film.rate.limit_denominator(100_000), options=options)
        stream.height, stream.width = max(even, height // even * even), max(even, width // even * even)
        stream.pix_fmt = {"gif": "pal8", "apng": "rgb24", "libwebp_anim": "bgra"}.get(codec, "yuv420p")
        context = stream.codec_context
        context.time_base = Fraction(1, 100 if codec == "gif" else 1000) if animated else film.time_base
        if not animated:
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = VIDEO_RANGE
            context.sample_aspect_ratio = film.aspect
        self.stream, self.last = stream, -1

    def add(self, image: Tensor, time: Fraction) -> None:
        """Add a frame, (1, 3, H, W) sRGB in [0, 1] of any size, at ``time`` in seconds."""
        picture = images.to_pil(images.resize(image, self.stream.height, self.stream.width))
        if self.codec == "gif":
            flat = picture.quantize(256, dither=PIL.Image.Dither.NONE)
            palette = np.zeros((256, 4), np.uint8)
            colors = np.asarray(flat.getpalette(), np.uint8).reshape(-1, 3)
            palette[: len(colors), 1:], palette[:, 0] = colors, 255
            frame = self.av.VideoFrame.from_ndarray((np.asarray(flat), palette), format="pal8")
        else:
            frame = self.av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            if self.stream.pix_fmt == "yuv420p":
                target = {"format": "yuv420p", "dst_colorspace": BT709, "dst_color_range": VIDEO_RANGE}
                frame = frame.reformat(**target, threads=1)  # as in `video.picture`
            elif self.stream.pix_fmt == "bgra":
                frame = frame.reformat(format="bgra", threads=1)
        base = self.stream.codec_context.time_base
        self.last = max(self.last + 1, round(time / base))
        frame.pts, frame.time_base = self.last, base
        self.container.mux(self.stream.encode(frame))

    def finish(self) -> None:
        self.container.mux(self.stream.encode())


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn errors of the disk and of the encoder into an OutputError that names ``out``."""
    try:
        yield
    except (OSError, library(out).FFmpegError) as error:
        raise files.unwritable(out, error) from error


@contextmanager
def writer(path: Path, height: int, width: int, *, fps: int) -> Iterator[Callable[[Tensor], None]]:
    """Write an H.264 film.

    The film, with all frames so far, appears under its name when the context ends without an error.

    Args:
        path: of the film, .mp4.
        height, width: in pixels, rounded down to even numbers, which the format requires.
        fps: frames per second.

    Yields:
        The function that adds a frame, (1, 3, H, W) sRGB in [0, 1] of any size.

    Raises:
        VideoError: PyAV is not installed, or the suffix is not .mp4.
        OutputError: the file cannot be written.
    """
    av = library(path)
    if path.suffix.lower() != ".mp4":
        raise VideoError(f"{path}: films of an optimisation are written as .mp4; choose such a name")
    files.check_output(path)
    with files.atomic(path) as part:
        with writing(path):
            container = av.open(str(part), "w")
            film = Film(path, rate=Fraction(fps), time_base=Fraction(1, fps))
            encoder = Encoder(container, "libx264", height, width, film)
        done = 0

        def add(image: Tensor) -> None:
            nonlocal done
            with writing(path):
                encoder.add(image, Fraction(done, fps))
            done += 1

        try:
            yield add
        finally:
            with writing(path):
                encoder.finish()
                container.close()


def check_output(path: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check that a film can be written, as `files.check_output` does; of numbered pictures, every one.

    Raises:
        VideoError: films cannot have this name.
        OutputError: it cannot be written, or an input would be overwritten.
    """
    number = NUMBER.search(path.name)
    if path.suffix.lower() not in (encoding.FORMATS if number else WRITTEN):
        kinds = ", ".join(WRITTEN)
        raise VideoError(f"{path}: films are written as {kinds}, or as pictures named like frame_%04d.png")
    originals = {Path(each).resolve() for each in inputs}
    if number and not path.parent.exists():  # it will be made
        files.check_output(path.parent)
        return
    files.check_output(path, originals)
    written = re.compile(r"\d+".join(map(re.escape, NUMBER.split(path.name, maxsplit=1))))
    for each in path.parent.iterdir() if number else ():
        if written.fullmatch(each.name) and each.resolve() in originals:
            raise OutputError(f"{path}: would overwrite the input {each}; choose another folder")


def numbered(pattern: Path, number: int) -> Path:
    """frame_%04d.png and 7 -> frame_0007.png."""
    return pattern.with_name(NUMBER.sub(lambda found: found[0] % number, pattern.name, count=1))
