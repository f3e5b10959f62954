"""Film files: a painted film is written in parts that survive a crash, then joined with the source's sound.

Each run encodes into a part of its own, a NUT file, which can be read as far as it was written. A run that is resumed
adds a part. `assemble` copies the parts into the format that was asked for, with the source's sound tracks, subtitles
and chapters.
"""

from __future__ import annotations

import heapq
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from impasto import files, recording, video
from impasto.errors import InputError
from impasto.video import Clock, Film

# The codecs that each format can hold; None: any. Other sound is encoded again, other subtitles are left out.
AUDIO: dict[str, set[str] | None] = {
    "mp4": {"aac", "mp3", "mp2", "ac3", "eac3", "opus", "flac", "alac"},
    "mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be"},
    "matroska": None,
    "webm": {"opus", "vorbis"},
    "mpegts": {"aac", "mp3", "mp2", "ac3", "eac3"},
    "3gp": {"aac", "amr_nb", "amr_wb"},
}
SUBTITLES: dict[str, set[str]] = {
    "mp4": {"mov_text"},
    "mov": {"mov_text"},
    "matroska": {"subrip", "ass", "webvtt", "dvd_subtitle", "hdmv_pgs_subtitle"},
    "webm": {"webvtt"},
}
TEXT = {"mov_text", "subrip", "ass", "webvtt"}  # can be encoded as one another
TEXT_AS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
Todo = tuple[Fraction, int, Callable[[], None]]  # what to write: its time, its place among those of that time, and how


class Parts:
    """The parts of a film that is being painted, in a folder next to it.

    Args:
        folder: OUT.resume.
        receipt: what determines the film.
        resume: continue with the parts that are there; otherwise they are removed.

    Raises:
        InputError: the parts are those of another film or of other settings, or the folder holds something else.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, film: Film, receipt: Mapping[str, Any], *, resume: bool) -> None:
        self.folder, self.film = folder, film
        note = folder / "receipt.json"
        if resume and note.is_file():
            if not _holds(note, receipt):
                raise InputError(f"{folder}: from another film or other settings; remove it to start again")
        else:
            if folder.exists() and not note.is_file() and not _killed_early(folder):
                raise InputError(f"{folder}: is needed for the unfinished film, but holds something else; move it away")
            self.remove()
            folder.mkdir(exist_ok=True)
            with files.atomic(note) as part:
                part.write_text(json.dumps(receipt))
        self.done = {self.tick(packet) for packet in self.packets()}

    def paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.nut"))

    def new(self) -> Path:
        return self.folder / f"{len(self.paths()):04d}.nut"

    def tick(self, packet: Any) -> int:
        """The time of a packet in the film's units."""
        ticks: int = round(packet.pts * packet.time_base / self.film.time_base)
        return ticks

    def packets(self) -> Iterator[Any]:
        """All packets in the order of decoding; of each part, those before the first frame of the next part."""
        paths = self.paths()
        begins = [min(map(self.tick, _packets(path)), default=math.inf) for path in paths] + [math.inf]
        for index, path in enumerate(paths):
            for packet in _packets(path):
                if self.tick(packet) < min(begins[index + 1 :]):
                    yield packet

    def last(self) -> Any:
        """The last frame of the parts, decoded, as a (1, 3, H, W) 8-bit picture; None if there are none."""
        for path in reversed(self.paths()):  # the newest may be empty: of a run that was killed early
            image = None
            with suppress(Exception), video.library(path).open(str(path)) as container:
                for frame in container.decode(video=0):
                    image = frame
            if image is not None:
                return video.picture(image)
        return None

    def remove(self) -> None:
        for path in [*self.paths(), self.folder / "receipt.json"]:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()


def _killed_early(folder: Path) -> bool:
    """Whether a folder of parts was made by a run that was killed before it could write more."""
    return folder.is_dir() and all(files.TEMPORARY.fullmatch(path.name) for path in folder.iterdir())


def _holds(note: Path, receipt: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(note.read_text()) == json.loads(json.dumps(receipt)))
    except (ValueError, RecursionError):
        return False


def _packets(path: Path) -> Iterator[Any]:
    """The packets of a part, as far as it can be read."""
    av = video.library(path)
    with suppress(av.FFmpegError), av.open(str(path), metadata_errors="replace") as container:
        for packet in container.demux(video=0):
            if packet.pts is not None and packet.size:
                yield packet


def assemble(parts: Parts, out: Path, *, complete: bool) -> list[str]:
    """Write the film: the painted frames, with the source's sound, subtitles, chapters and metadata.

    Args:
        parts: the painted film, of one frame at least.
        out: its path; the suffix decides the format.
        complete: otherwise the sound ends with the last painted frame.

    Returns:
        What could not be kept, in words.

    Raises:
        OutputError: the file cannot be written.
        VideoError: the source is not there any more.
    """
    film, av = parts.film, video.library(out)
    kind = recording.WRITTEN[out.suffix.lower()][0]
    until = film.end - film.start
    if not complete:
        until = min(until, max(map(parts.tick, parts.packets())) * film.time_base + 1 / film.rate)
    lost: list[str] = []
    others: Iterator[Todo] = iter(())
    packets = parts.packets()
    first = next(packets)
    silent = film.pictures or film.path.suffix.lower() in video.MAYBE
    with nullcontext() if silent else video.opened(av, film.path) as source:
        try:
            with files.atomic(out) as part, av.open(str(part), "w", format=kind) as container:
                stream = container.add_stream_from_template(first.stream)
                stream.time_base = film.time_base
                if source is not None:
                    others = _others(av, source, container, kind, film, until, lost)

                def mux(packet: Any) -> None:
                    packet.stream = stream
                    container.mux(packet)

                def pictures() -> Iterator[Todo]:
                    for packet in chain([first], packets):
                        packet.dts = packet.pts
                        packet.duration = round(1 / film.rate / packet.time_base)
                        yield packet.pts * packet.time_base, 0, partial(mux, packet)

                for _, _, do in heapq.merge(pictures(), others, key=lambda each: each[:2]):
                    do()
        except (OSError, av.FFmpegError) as error:
            raise files.unwritable(out, error) from error
    return lost


def _others(
    av: Any, source: Any, container: Any, kind: str, film: Film, until: Fraction | float, lost: list[str]
) -> Iterator[Todo]:
    """Add the source's other streams to the container; returns what to do for each of their packets, by time."""
    origin = Fraction(source.start_time or 0, 1_000_000)
    streams: dict[Any, tuple[Any, Any]] = {}  # source's stream -> its stream in the container, and how it gets there
    for each in source.streams.audio:
        if not each.codec_context or not each.codec_context.sample_rate:
            lost.append("sound in an unknown format")
            continue
        codec = each.codec_context.codec.canonical_name
        held = AUDIO.get(kind, set())
        if (held is None or codec in held) and _fits(av, each, kind):
            streams[each] = container.add_stream_from_template(each), None
        else:
            streams[each] = _sound(av, each, container, "libopus" if kind == "webm" else "aac"), "sound"
    for each in source.streams.subtitles:
        codec = each.codec_context.codec.canonical_name if each.codec_context else ""
        if codec in SUBTITLES.get(kind, set()) and _fits(av, each, kind):
            streams[each] = container.add_stream_from_template(each), None
        elif codec in TEXT and kind in TEXT_AS:
            each.codec_context.open(strict=False)
            streams[each] = container.add_stream(TEXT_AS[kind]), "text"
            streams[each][0].codec_context.subtitle_header = each.codec_context.subtitle_header
        else:
            lost.append(f"subtitles in {codec or 'an unknown format'}")
    for each, (stream, _) in streams.items():
        with suppress(Exception):
            stream.metadata.update(
                {name: value for name, value in each.metadata.items() if name in ("language", "title")}
            )
            stream.disposition = each.disposition
    for name in ("title", "artist", "album", "date", "comment", "copyright"):
        if name in source.metadata:
            container.metadata[name] = source.metadata[name]
    chapters = []
    for chapter in source.chapters():
        begin, end = (chapter[name] * chapter["time_base"] - film.start for name in ("start", "end"))
        if end > 0 and begin < until:
            base = chapter["time_base"]
            times = {"start": round(max(begin, Fraction(0)) / base), "end": round(min(end, until) / base)}
            chapters.append({**chapter, **times})
    if chapters:
        container.set_chapters(chapters)
    video.seek(av, source, film.start)

    def todo() -> Iterator[Todo]:
        clocks = {each: Clock(each.time_base) for each in streams}
        for packet in video.packets(av, source, list(streams)) if streams else ():
            if packet is None or packet.dts is None or packet.pts is None or not packet.size:
                continue
            each, clock = packet.stream, clocks[packet.stream]
            stated = packet.dts * packet.time_base - origin
            if each.type == "audio":
                clock.step = (packet.duration or 1) * packet.time_base
                if clock.step <= clock.last - clock.shift - stated <= video.JUMP:
                    continue  # its time is in the film already
            time = clock(stated) - film.start
            if 0 <= time < until:
                yield time, 1, partial(pass_on, packet, each, time)
        yield Fraction(10**9), 1, flush

    def pass_on(packet: Any, each: Any, time: Fraction) -> None:
        stream, how = streams[each]
        moved = time - packet.dts * packet.time_base
        with _noting(av, each, lost):
            if how is None:
                late = packet.pts - packet.dts
                packet.dts = round(time / packet.time_base)
                packet.pts = packet.dts + late
                packet.stream = stream
                container.mux(packet)
            elif how == "text":
                _text(packet, each, stream, container, time)
            else:
                frames = []
                with suppress(av.FFmpegError):  # damaged
                    frames = packet.decode()
                for frame in frames:
                    if frame.pts is not None:  # in samples, since a coarser unit leaves gaps
                        frame.pts = round((frame.pts * frame.time_base + moved) * frame.sample_rate)
                        frame.time_base = Fraction(1, frame.sample_rate)
                    container.mux(stream.encode(frame))

    def flush() -> None:
        for each, (stream, how) in streams.items():
            if how == "sound":
                with _noting(av, each, lost):
                    container.mux(stream.encode())

    return todo()


@contextmanager
def _noting(av: Any, source: Any, lost: list[str]) -> Iterator[None]:
    """Note a packet that cannot be written instead of losing the film; errors of the disk are raised."""
    try:
        yield
    except OSError:
        raise
    except (av.FFmpegError, ValueError):
        what = f"some packets of {'sound' if source.type == 'audio' else 'subtitles'}"
        if what not in lost:
            lost.append(what)


def _fits(av: Any, source: Any, kind: str) -> bool:
    """Whether a format takes a stream as it is. Even with a supported codec, the sample rate may be unsupported."""
    try:
        with av.open(io.BytesIO(), "w", format=kind) as trial:
            trial.add_stream_from_template(source)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _sound(av: Any, source: Any, container: Any, codec: str) -> Any:
    """A stream for sound that is encoded again."""
    rate = source.codec_context.sample_rate
    known = av.Codec(codec, "w").audio_rates or [rate]
    layout = source.codec_context.layout
    layout = layout.name if layout.name in ("mono", "stereo", "5.1", "7.1") else "stereo"
    return container.add_stream(codec, rate=rate if rate in known else 48_000, layout=layout)


def _text(packet: Any, source: Any, stream: Any, container: Any, time: Fraction) -> None:
    """Encode a subtitle of text in another format."""
    subtitle = source.codec_context.decode2(packet)
    if subtitle is None:
        return
    encoded = stream.codec_context.encode_subtitle(subtitle)
    encoded.time_base, encoded.stream = packet.time_base, stream
    encoded.pts = encoded.dts = round(time / packet.time_base)
    encoded.duration = packet.duration
    container.mux(encoded)
