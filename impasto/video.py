"""Films: files <-> frames and their times (PyAV)."""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from impasto import encoding, files, hdr, images
from impasto.errors import OutputError, VideoError, lack_of_memory

SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".mts", ".m2ts", ".ts",
    ".3gp", ".apng",
)  # fmt: skip
# What can be written: the format and the encoder. The last three are animated pictures, without sound.
WRITTEN = {
    ".mp4": ("mp4", "libx264"), ".m4v": ("mp4", "libx264"), ".mov": ("mov", "libx264"), ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"), ".ts": ("mpegts", "libx264"), ".mts": ("mpegts", "libx264"),
    ".m2ts": ("mpegts", "libx264"), ".3gp": ("3gp", "libx264"), ".gif": ("gif", "gif"),
    ".webp": ("webp", "libwebp_anim"), ".apng": ("apng", "apng"),
}  # fmt: skip
MAYBE = (".gif", ".webp", ".png")  # animations or still pictures
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
BT709, BT601, BT2020 = 1, 5, 9  # matrices, as swscale numbers them
MATRICES = {1: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: BT2020, 10: BT2020}  # by the code of ITU-T H.273
UNKNOWN, VIDEO_RANGE = 2, 1
NUMBER = re.compile(r"%\d{0,2}d")
PICTURES_RATE = Fraction(25)  # of an image sequence
JUMP = 10  # seconds: a step back this large begins a new count, a smaller one is disorder
ATTEMPTS = 100  # damaged packets in a row before the rest of a film is given up

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
            if self.start:
                with suppress(av.FFmpegError):  # otherwise all of it is decoded
                    container.seek(int((self.start + origin) * 1_000_000))
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


def packets(av: Any, container: Any, streams: Any) -> Iterator[Any]:
    """The packets of the ``streams`` of a ``container`` of ``av``, PyAV; None for one that cannot be read.

    `ATTEMPTS` of those in a row end the film.
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


def is_written(out: Path) -> bool:
    """Whether a result under this name can be a film."""
    return out.suffix.lower() in WRITTEN or bool(NUMBER.search(out.name))


def find(path: Path, *, start: float = 0.0, end: float = math.inf, rate: float = 0.0) -> Film:
    """Read what is needed to decode a film.

    Args:
        path: as in `Film`.
        start, end: the seconds to read.
        rate: frames per second of a folder or pattern of pictures; 0: 25.

    Raises:
        VideoError: PyAV is not installed, the film is missing or not a film, or the times are outside it.
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
    """The seconds that a frame of an animated picture is shown; as in browsers 0.1 if it does not say."""
    return Fraction(round(animation.info.get("duration") or 0) or 100, 1000)


def _pictures(path: Path) -> list[Path]:
    """The pictures of a sequence, in the order of their numbers."""
    folder = path if path.is_dir() else path.parent
    before, after = ("", "") if path.is_dir() else NUMBER.split(path.name, maxsplit=1)
    found = []
    for each in folder.iterdir() if folder.is_dir() else ():
        if each.suffix.lower() in encoding.FORMATS and each.name.startswith(before) and each.name.endswith(after):
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
    rgb = frame.reformat(format="rgb48le" if deep else "rgb24", src_colorspace=matrix, dst_colorspace=matrix)
    turn, across, down = orientation(frame)
    pixels = rgb.to_ndarray()
    pixels = pixels.transpose(1, 0, 2) if turn else pixels
    pixels = pixels[:: -1 if down else 1, :: -1 if across else 1]
    image = torch.from_numpy(pixels.astype(np.int32 if deep else np.uint8)).permute(2, 0, 1)[None]
    if not deep:
        return image.contiguous()
    return hdr.to_srgb(image.float() / 65535, transfer, primaries).mul(255).round().byte()


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
                frame = frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=VIDEO_RANGE)
            elif self.stream.pix_fmt == "bgra":
                frame = frame.reformat(format="bgra")
        base = self.stream.codec_context.time_base
        self.last = max(self.last + 1, round(time / base))
        frame.pts, frame.time_base = self.last, base
        self.container.mux(self.stream.encode(frame))

    def finish(self) -> None:
        self.container.mux(self.stream.encode())


@contextmanager
def writer(path: Path, height: int, width: int, *, fps: int) -> Iterator[Callable[[Tensor], None]]:
    """Write an H.264 film of ``fps`` frames a second to ``path``; yields the function that adds a frame.

    Frames are (1, 3, H, W) sRGB in [0, 1], of any size. Each is resized to ``height`` x ``width``, rounded down to
    even numbers, which the format requires. The film appears under its name when it is complete; leaving early keeps
    the frames written so far.

    Raises:
        VideoError: PyAV is not installed, the suffix is not .mp4, or the folder is missing.
    """
    av = library(path)
    if path.suffix.lower() != ".mp4":
        raise VideoError(f"{path}: films of an optimisation are written as .mp4; choose such a name")
    files.check_output(path)
    with files.atomic(path) as part:
        container = av.open(str(part), "w")
        film = Film(path, rate=Fraction(fps), time_base=Fraction(1, fps))
        encoder = Encoder(container, "libx264", height, width, film)
        done = 0

        def add(image: Tensor) -> None:
            nonlocal done
            encoder.add(image, Fraction(done, fps))
            done += 1

        try:
            yield add
        finally:
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
    files.check_output(path, originals)
    written = re.compile(r"\d+".join(map(re.escape, NUMBER.split(path.name, maxsplit=1))))
    for each in path.parent.iterdir() if number else ():
        if written.fullmatch(each.name) and each.resolve() in originals:
            raise OutputError(f"{path}: would overwrite the input {each}; choose another folder")


def numbered(pattern: Path, number: int) -> Path:
    """frame_%04d.png and 7 -> frame_0007.png."""
    return pattern.with_name(NUMBER.sub(lambda found: found[0] % number, pattern.name, count=1))


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
        container = av.open(str(path))
    except (av.FFmpegError, OverflowError, ValueError) as error:
        raise VideoError(f"{path}: not a film, or damaged ({error})") from None
    with container:
        if not container.streams.video:
            raise VideoError(f"{path}: contains no film; if it is a picture, correct its suffix")
        yield container
