"""Check an uploaded film by decoding all of it, in the process that `inspection.py` starts.

FFmpeg reads hundreds of formats; some of them name other files. Only those below are opened and decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from impasto.errors import RefusedError

SECONDS = 60  # the longest film
FRAMES = 60 * SECONDS
PIXELS = 4096 * 2304  # the most of a frame
PROCESSOR = 60  # seconds of the processor's time for decoding
FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2": ".mp4", "matroska,webm": ".mkv", "avi": ".avi", "mpegts": ".ts"}
CODECS = {
    "video": {
        *("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4", "mpeg2video", "mpeg1video"),
        *("mjpeg", "prores", "h263", "dvvideo", "flv", "msmpeg4", "msmpeg4v2", "vc1", "wmv3", "theora"),
    },
    "audio": {
        *("aac", "mp3", "mp3float", "mp2", "mp2float", "ac3", "eac3", "opus", "libopus", "vorbis", "flac", "alac"),
        *("amrnb", "amr_nb", "amrwb", "amr_wb", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_u8"),
    },
    "subtitle": {"mov_text", "subrip", "srt", "ass", "webvtt"},
}  # fmt: skip
WANTED = "upload it as MP4 with H.264"


def check(path: Path) -> str | None:
    """The suffix for a film's format; None if the file is not a film.

    Raises:
        RefusedError: the film is too long or too large, has no pictures, or needs a decoder that is not allowed.
    """
    try:
        import av
    except ImportError:
        return None
    allowed = {
        "format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file",
        "codec_whitelist": ",".join(sorted(set().union(*CODECS.values()))),
    }  # fmt: skip
    try:
        container = av.open(str(path), options=allowed, metadata_errors="replace")
    except (av.FFmpegError, OverflowError, ValueError):
        return None
    with container:
        suffix = FORMATS.get(container.format.name)
        if suffix is None:
            return None
        if not container.streams.video:
            raise RefusedError("the film has no pictures, only sound")
        if container.duration and container.duration > 1_000_000 * (SECONDS + 1):
            raise RefusedError(f"the film is {container.duration / 1e6:.0f} seconds long; cut it to {SECONDS}")
        streams = [stream for stream in container.streams if stream.type in CODECS]
        for stream in streams:
            _check_stream(stream)
        if _decode(av, container, streams) == 0:
            raise RefusedError(f"the film has no picture that can be read; {WANTED}")
    return suffix


def _check_stream(stream: Any) -> None:
    context = stream.codec_context
    name = context.name if context is not None else "an unknown format"
    if name not in CODECS[stream.type]:
        what = {"video": "pictures are", "audio": "sound is", "subtitle": "subtitles are"}[stream.type]
        raise RefusedError(f"the film's {what} in {name}; {WANTED}")
    if stream.type == "video":
        context.thread_type = "NONE"  # threads would take address space
        _limit(context.width, context.height)


def _decode(av: Any, container: Any, streams: list[Any]) -> int:
    """Decode everything; returns the number of pictures. Damage is left to the reader, which counts it."""
    pictures, packets, failures = 0, container.demux(streams), 0
    while failures < 100:
        try:
            packet = next(packets, None)
            decoded = packet.decode() if packet is not None else []
        except (av.FFmpegError, OverflowError, ValueError):
            failures, packets = failures + 1, container.demux(streams)
            continue
        if packet is None:
            break
        for frame in decoded if packet.stream.type == "video" else ():
            pictures += 1
            _limit(frame.width, frame.height)
            if pictures > FRAMES:
                raise RefusedError(f"the film has more than {FRAMES} frames; cut it to {SECONDS} seconds")
    return pictures


def _limit(width: int, height: int) -> None:
    if width * height > PIXELS:
        raise RefusedError(f"the film's {width} x {height} pixels are too many; make it 3840 x 2160 or smaller")
