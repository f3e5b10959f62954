"""Films: files -> frames and their times (PyAV)."""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from impasto import decoding, encoding, hdr, images
from impasto.errors import VideoError, lack_of_memory

SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".mts", ".m2ts", ".ts",
    ".3gp", ".apng",
)  # fmt: skip
MAYBE = (".gif", ".webp", ".png")  # animations or still pictures
BT709, BT601, BT2020 = 1, 5, 9  # matrices, as swscale numbers them
MATRICES = {1: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: BT2020, 10: BT2020}  # by the code of ITU-T H.273
VIDEO_RANGE = 1
NUMBER = re.compile(r"%\d{0,2}d")
PICTURES_RATE = Fraction(25)  # of an image sequence
JUMP = 10  # seconds: a step back this large begins a new count, a smaller one is disorder
ATTEMPTS = 100  # damaged packets in a row before the rest of a film is given up
EARLIER = 10  # seconds: more than between two keyframes of most cameras

Frame = tuple[Tensor, Fraction]


@dataclass
class Film:
    """A film to read.

    Attributes:
        path: a film, an animated picture, a folder of pictures, or a pattern such as frame_%04d.png.
        start, end: the seconds to read; end infinite: to the end.
        rate: frames per second.
        total: about how many frames will be read; 0: unknown.
        aspect: width of a pixel divided by its height, as the film is shown.
        time_base: the unit of the times, in seconds.
        damaged, disordered: packets that could not be decoded and times that were corrected, so far.
        pictures: the files of a sequence.
    """

    path: Path
    start: Fraction = Fraction(0)
    end: Fraction | float = math.inf
    rate: Fraction = PICTURES_RATE
    total: int = 0
    aspect: Fraction = Fraction(1)
    time_base: Fraction = Fraction(1, 1000)
    damaged: int = 0
    disordered: int = 0
    pictures: list[Path] = field(default_factory=list, repr=False)

    def frames(self) -> Iterator[Frame]:
        """The frames, upright, (1, 3, H, W) 8-bit sRGB, with their times in seconds, which increase.

        Raises:
            VideoError, ImageError: the film cannot be read at all.
        """
        if self.pictures:
            return self._sequence()
        return self._animation() if self.path.suffix.lower() in MAYBE else self._film()

    def _sequence(self) -> Iterator[Frame]:
        for index, path in enumerate(self.pictures):
            if self.start <= index / self.rate < self.end:
                picture = images.read(path)
                image = picture.image
                if picture.alpha is not None:
                    image = image * picture.alpha + 1 - picture.alpha
                yield image.mul(255).round().byte(), index / self.rate - self.start

    def _animation(self) -> Iterator[Frame]:
        time = Fraction(0)
        with PIL.Image.open(self.path) as picture:
            for index in range(_count(picture) or sys.maxsize):
                try:
                    picture.seek(index)
                    rgba = picture.convert("RGBA")
                except Exception as error:  # Pillow's decoders raise nearly any exception on damaged files
                    if lack_of_memory(error):
                        raise
                    self.damaged += 1
                    return
                if self.start <= time < self.end:
                    white = PIL.Image.new("RGBA", rgba.size, "white")
                    pixels = np.asarray(PIL.Image.alpha_composite(white, rgba).convert("RGB")).copy()
                    yield torch.from_numpy(pixels).permute(2, 0, 1)[None], time - self.start
                time += _duration(picture)

    def _film(self) -> Iterator[Frame]:
        av = library(self.path)
        with opened(av, self.path) as container:
            video = container.streams.video[0]
            video.thread_type = "AUTO"
            origin = Fraction(container.start_time or 0, 1_000_000)
            seek(av, container, self.start)
            clock = Clock(1 / self.rate)
            for frame in self._decoded(av, container, video):
                stated = None if frame.pts is None else frame.pts * frame.time_base - origin
                time = clock(stated)
                self.disordered = clock.disordered
                if time >= self.end:
                    return
                if time >= self.start:
                    yield picture(frame), time - self.start

    def _decoded(self, av: Any, container: Any, video: Any) -> Iterator[Any]:
        """All frames that can be decoded; what is damaged is counted."""
        for packet in packets(av, container, video):
            frames = None
            with suppress(av.FFmpegError, OverflowError, ValueError):
                frames = None if packet is None else packet.decode()
            self.damaged += frames is None
            yield from frames or ()


def seek(av: Any, container: Any, time: Fraction | float) -> None:
    """Go to a keyframe before the wanted time; if that fails, stay.

    Args:
        av: PyAV.
        container: of the film, opened by PyAV.
        time: in seconds from the start of the film; 0: stay.
    """
    if container.format.name == "mpegts":  # it has no index: seeking may end at a later keyframe
        time -= EARLIER
    if time > 0:
        with suppress(av.FFmpegError):
            container.seek(int(time * 1_000_000) + (container.start_time or 0))


def packets(av: Any, container: Any, streams: Any) -> Iterator[Any]:
    """Read the packets of a film, up to `ATTEMPTS` in a row that cannot be read.

    Args:
        av: PyAV.
        container: of the film, opened by PyAV.
        streams: of the container, one or a list.

    Yields:
        Each packet; None for one that cannot be read.
    """
    failures, found = 0, container.demux(streams)
    while failures < ATTEMPTS:
        try:
            packet, failures = next(found), 0
        except StopIteration:
            return
        except (av.FFmpegError, OverflowError, ValueError):
            packet, failures, found = None, failures + 1, container.demux(streams)
        yield packet


class Clock:
    """Makes times increase: a repeated time or a small step back is set right, a large step back is bridged."""

    def __init__(self, step: Fraction) -> None:
        self.step, self.last, self.shift, self.disordered = step, Fraction(-1, 1), Fraction(0), 0
        self.started = False

    def __call__(self, stated: Fraction | None) -> Fraction:
        time = self.last + self.step if stated is None else stated + self.shift
        if not self.started:
            self.started = True
        elif time <= self.last:
            self.disordered += stated is not None
            if time < self.last - JUMP:
                self.shift += self.last + self.step - time
                time = self.last + self.step
            else:
                time = self.last + self.step / 4  # the next stated time is still to come
        self.last = time
        return time


def seconds(text: str) -> float:
    """Seconds of a time such as 12.5, 0:10 or 1:02:03; VideoError for anything else."""
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if not 0 < len(values) < 4 or not all(0 <= value < math.inf for value in values):
        raise VideoError(f"{text}: not a time; write 12.5, 0:10 or 1:02:03")
    return sum(value * 60.0**power for power, value in enumerate(reversed(values)))


def is_film(path: Path) -> bool:
    """Whether a path is a film by its name, or an animated picture."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or NUMBER.search(path.name):
        return True
    if suffix not in MAYBE or not path.is_file():
        return False
    with suppress(Exception), PIL.Image.open(path) as picture:
        return bool(getattr(picture, "is_animated", False))
    return False


def find(path: Path, *, start: float = 0.0, end: float = math.inf, rate: float = 0.0) -> Film:
    """Read what is needed to decode a film.

    Args:
        path: as in `Film`.
        start, end: the seconds to read.
        rate: frames per second of a folder or pattern of pictures; 0: 25.

    Returns:
        The film, of which `Film.frames` reads the frames.

    Raises:
        VideoError: PyAV is not installed, the film is missing or not a film, or the times are outside it.
        ImageError: an animation is larger than pictures may be.
    """
    if not 0 <= start < end:
        raise VideoError(f"{path}: nothing lies between {start:g} and {end:g} seconds")
    film = Film(path, Fraction(start).limit_denominator(1000), end if math.isinf(end) else Fraction(end))
    length = Fraction(0)  # unknown
    if path.is_dir() or NUMBER.search(path.name):
        film.pictures = _pictures(path)
        film.rate, film.total = Fraction(rate or PICTURES_RATE).limit_denominator(1001), len(film.pictures)
        film.time_base, length = 1 / film.rate, film.total / film.rate
    elif not path.is_file():
        raise VideoError(f"{path}: does not exist; check the path")
    elif path.suffix.lower() in MAYBE:
        with PIL.Image.open(path) as animation:
            decoding.check_size(str(path), *animation.size)
            film.total = _count(animation)
            film.rate = 1 / _duration(animation)
    else:
        with opened(library(path), path) as container:
            video = container.streams.video[0]
            film.rate = Fraction(video.average_rate or video.guessed_rate or PICTURES_RATE)
            length = Fraction(container.duration or 0, 1_000_000)
            film.total = video.frames or round(length * film.rate)
            film.time_base = (video.time_base or Fraction(1, 90_000)) / 4  # finer, for corrected times
            film.aspect = Fraction(video.sample_aspect_ratio or 1) or Fraction(1)
            frame = next(iter(film._decoded(library(path), container, video)), None)
            if frame is None:
                raise VideoError(f"{path}: contains no readable frame")
            if orientation(frame)[0]:
                film.aspect = 1 / film.aspect
    if length and start >= length:
        raise VideoError(f"{path}: ends after {float(length):.1f} seconds, before {start:g}")
    length = length or film.total / film.rate
    film.total = max(0, min(film.total, round((min(film.end, length) - film.start) * film.rate)))
    return film


def _count(animation: PIL.Image.Image) -> int:
    """The number of frames of an animated picture; 0: unknown, because it is damaged."""
    try:
        return getattr(animation, "n_frames", 1)
    except Exception:  # as above
        return 0


def _duration(animation: PIL.Image.Image) -> Fraction:
    """How long a frame of an animated picture is shown, in seconds; if unknown, 0.1 as in browsers."""
    return Fraction(round(animation.info.get("duration") or 0) or 100, 1000)


def _pictures(path: Path) -> list[Path]:
    """The pictures of a sequence, in the order of their numbers."""
    folder = path if path.is_dir() else path.parent
    before, after = ("", "") if path.is_dir() else NUMBER.split(path.name, maxsplit=1)
    found = []
    for each in folder.iterdir() if folder.is_dir() else ():
        named = each.name.startswith(before) and each.name.endswith(after) and not each.name.startswith(".")
        if named and each.suffix.lower() in encoding.FORMATS:
            middle = each.name[len(before) : len(each.name) - len(after)] if after else each.stem
            numbers = re.findall(r"\d+", middle)
            if path.is_dir() or middle.isdigit():
                found.append(([int(number) for number in numbers], each.name, each))
    if not found:
        raise VideoError(f"{path}: no pictures found; a sequence is a folder or a pattern such as frame_%04d.png")
    return [each for *_, each in sorted(found)]


def orientation(frame: Any) -> tuple[bool, bool, bool]:
    """How a frame is to be shown: whether to transpose it, then to flip it left to right, then upside down."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = struct.unpack("<5i", bytes(data)[:20])
            return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)
    return False, False, False


def picture(frame: Any) -> Tensor:
    """A decoded frame, upright, as (1, 3, H, W) 8-bit sRGB."""
    transfer, primaries = int(frame.color_trc), int(frame.color_primaries)
    deep = hdr.needed(transfer, primaries)
    code = int(frame.colorspace)
    # Unmarked films: BT.709 since high definition, BT.601 before.
    matrix = MATRICES.get(code, BT709 if frame.height > 576 or frame.width > 1024 else BT601)
    kind = "rgb48le" if deep else "rgb24"
    # More threads would be started for each frame, and live until it is collected.
    rgb = frame.reformat(format=kind, src_colorspace=matrix, dst_colorspace=matrix, threads=1)
    turn, across, down = orientation(frame)
    pixels = rgb.to_ndarray()
    pixels = pixels.transpose(1, 0, 2) if turn else pixels
    pixels = pixels[:: -1 if down else 1, :: -1 if across else 1]
    image = torch.from_numpy(pixels.astype(np.int32 if deep else np.uint8)).permute(2, 0, 1)[None]
    if not deep:
        return image.contiguous()
    return hdr.to_srgb(image.float() / 65535, transfer, primaries).mul(255).round().byte()


def library(path: Path) -> Any:
    """PyAV; VideoError if it is not installed."""
    try:
        import av
    except ImportError:
        raise VideoError(f"{path}: films need PyAV: pip install 'impasto[video]'") from None
    return av


@contextmanager
def opened(av: Any, path: Path) -> Iterator[Any]:
    """Open a film to read; VideoError if it is not a film."""
    try:
        container = av.open(str(path), metadata_errors="replace")  # titles may be in any encoding
    except (av.FFmpegError, OverflowError, ValueError) as error:
        raise VideoError(f"{path}: not a film, or damaged ({error})") from None
    with container:
        if not container.streams.video:
            raise VideoError(f"{path}: contains no film; if it is a picture, correct its suffix")
        yield container
