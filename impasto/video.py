"""Films: frames in, frames out (PyAV)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from impasto import images
from impasto.errors import VideoError

if TYPE_CHECKING:
    import av

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv")
BT709, VIDEO_RANGE = 1, 1  # codes of ITU-T H.273 and FFmpeg: what players assume for unmarked films
COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")  # sound that MP4 can hold; other sound becomes AAC


@contextmanager
def writer(path: Path, height: int, width: int, *, fps: int) -> Iterator[Callable[[Tensor], None]]:
    """Write an H.264 film of ``fps`` frames a second to ``path``; yields the function that adds a frame.

    Frames are (1, 3, H, W) sRGB in [0, 1], of any size. Each is resized to ``height`` x ``width``, rounded down to
    even numbers, which the format requires. The film appears under its name when it is complete; leaving early keeps
    the frames written so far.

    Raises:
        VideoError: PyAV is not installed, the suffix is not .mp4, or the folder is missing.
    """
    av = _av(path)
    check_output(path)
    with images.atomic(path) as part:
        container = av.open(str(part), "w")
        stream = _stream(container, height, width, Fraction(fps))
        try:
            yield lambda image: container.mux(stream.encode(_frame(av, stream, image)))
        finally:
            container.mux(stream.encode())
            container.close()


def repaint(source: Path, out: Path, paint: Callable[[Tensor], Tensor]) -> Iterator[tuple[int, int]]:
    """Repaint a film frame by frame; yields the frames done and in all, the latter 0 if the file does not state it.

    The times of the frames and the sound are kept; a rotation stored in the file is applied. The film appears under
    its name when it is complete; stopping the iteration keeps the frames written so far.

    Args:
        source: a film in any format that FFmpeg reads.
        out: .mp4.
        paint: (1, 3, H, W) sRGB in [0, 1] -> the same.

    Raises:
        VideoError: PyAV is not installed, the source is missing, damaged or not a film, or ``out`` cannot be written.
    """
    av = _av(source)
    check_output(out)
    if not source.is_file():
        raise VideoError(f"{source}: does not exist; check the path")
    done = 0
    with images.atomic(out) as part:
        try:
            with av.open(str(source)) as film, av.open(str(part), "w", format="mp4") as container:
                if not film.streams.video:
                    raise VideoError(f"{source}: contains no film; if it is a picture, correct its suffix")
                video, audio = film.streams.video[0], next(iter(film.streams.audio), None)
                video.thread_type = "AUTO"
                stream = sound = None
                if audio is not None and audio.codec_context.name in COPIED:
                    sound = container.add_stream_from_template(audio)
                elif audio is not None:
                    sound = container.add_stream("aac", rate=audio.codec_context.sample_rate)
                waiting = []  # sound, until the first frame gives the film's size
                try:
                    for packet in film.demux([each for each in (video, audio) if each is not None]):
                        if packet.stream is audio:
                            waiting.append(packet)
                        for frame in packet.decode() if packet.stream is video else ():
                            image = paint(_image(frame))
                            if stream is None:
                                rate = video.average_rate or Fraction(25)
                                stream = _stream(container, image.shape[-2], image.shape[-1], rate, video.time_base)
                            painted = _frame(av, stream, image)
                            painted.pts, painted.time_base = frame.pts, frame.time_base
                            container.mux(stream.encode(painted))
                            done += 1
                            yield done, video.frames
                        while stream is not None and waiting:
                            _pass_on(waiting.pop(0), sound, container)
                except GeneratorExit:
                    if stream is None:
                        raise
                if stream is None:
                    raise VideoError(f"{source}: contains no readable frame")
                for each in (stream, sound if audio is not None and audio.codec_context.name not in COPIED else None):
                    if each is not None:
                        container.mux(each.encode())
        except (av.FFmpegError, OverflowError) as error:
            where = f"damaged after {done} frames" if done else "not a film, or damaged"
            raise VideoError(f"{source}: {where} ({error})") from None


def check_output(path: Path) -> None:
    """Raise VideoError if no film can be written there."""
    if path.suffix.lower() != ".mp4":
        raise VideoError(f"{path}: films are written as .mp4; choose such a name")
    if not path.parent.is_dir():
        raise VideoError(f"{path}: the folder {path.parent} does not exist; create it first")


def _av(path: Path) -> Any:
    try:
        import av
    except ImportError:
        raise VideoError(f"{path}: films need PyAV: pip install 'impasto[video]'") from None
    return av


def _stream(
    container: av.container.OutputContainer, height: int, width: int, rate: Fraction, time_base: Fraction | None = None
) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "medium"})
    stream.height, stream.width, stream.pix_fmt = max(2, height // 2 * 2), max(2, width // 2 * 2), "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = VIDEO_RANGE
    if time_base is not None:
        context.time_base = time_base
    return stream


def _frame(library: Any, stream: av.VideoStream, image: Tensor) -> av.VideoFrame:
    pixels = np.asarray(images.to_pil(images.resize(image, stream.height, stream.width)))
    frame = library.VideoFrame.from_ndarray(pixels, format="rgb24")
    ready: av.VideoFrame = frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=VIDEO_RANGE)
    return ready


def _image(frame: av.VideoFrame) -> Tensor:
    """A frame upright, (1, 3, H, W) sRGB in [0, 1]."""
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def _pass_on(packet: Any, sound: Any, container: av.container.OutputContainer) -> None:
    """Copy sound from film to film: unchanged if MP4 can hold it, otherwise encoded again."""
    if packet.stream.codec_context.name in COPIED:
        if packet.dts is not None:  # the last, empty one has none
            packet.stream = sound
            container.mux(packet)
        return
    for frame in packet.decode():
        container.mux(sound.encode(frame))
