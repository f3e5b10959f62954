"""What of a source a film keeps: sound tracks, subtitles, chapters."""

import errno
import json
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import film, frames
from torch import Tensor

from impasto import muxing, video
from impasto.errors import InputError, OutputError, VideoError
from impasto.runs.film import Settings, repaint


def run(source: Path, out: Path, *, resume: bool = False, **settings: Any) -> Path:
    def same(image: Tensor, statistics: object, settle: object) -> Tensor:
        return image

    repaint(source, out, same, Settings(False, **settings), receipt={}, quiet=True, resume=resume)
    return out


def rich(path: Path, subtitles: str = "1\n00:00:00,500 --> 00:00:01,500\nHello there\n") -> Path:
    """Two seconds with two sound tracks of different languages, a subtitle and two chapters."""
    text = path.with_name("text.srt")
    text.write_text(subtitles)
    with av.open(str(path), "w") as container, av.open(str(text)) as words:
        stream = container.add_stream("mpeg4", rate=6)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        tracks = [container.add_stream("libmp3lame", rate=44_100, layout="stereo") for _ in range(2)]
        for track, language in zip(tracks, ("eng", "ita"), strict=True):
            track.metadata["language"] = language
        subtitle = container.add_stream_from_template(words.streams.subtitles[0])
        base = Fraction(1, 1000)
        chapters = [
            {
                "id": index,
                "start": index * 1000,
                "end": (index + 1) * 1000,
                "time_base": base,
                "metadata": {"title": name},
            }
            for index, name in enumerate(("first", "second"))
        ]
        container.set_chapters(chapters)
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for packet in words.demux():
            if packet.pts is not None and packet.size:
                packet.stream = subtitle
                container.mux(packet)
        for index, track in enumerate(tracks):
            tone = (9000 * np.sin(np.arange(2 * 44_100) / (5 + index))).astype(np.int16)
            sound = av.AudioFrame.from_ndarray(np.repeat(tone, 2)[None], format="s16", layout="stereo")
            sound.sample_rate = 44_100
            container.mux(track.encode(sound))
            container.mux(track.encode())
    return path


def words(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        found = []
        for packet in container.demux(stream):
            decoded = stream.codec_context.decode2(packet) if packet.size else None
            found += [rect.dialogue.decode() for rect in decoded.rects] if decoded else []
        return [each for each in found if each]


@pytest.mark.parametrize(
    ("name", "subtitles"), [("out.mkv", "subrip"), ("out.mp4", "mov_text"), ("out.mov", "mov_text")]
)
def test_all_tracks_subtitles_and_chapters_are_kept(name: str, subtitles: str, tmp_path: Path) -> None:
    out = run(rich(tmp_path / "film.mkv"), tmp_path / name)
    with av.open(str(out)) as container:
        assert [each.codec_context.codec.canonical_name for each in container.streams.audio] == ["mp3", "mp3"]
        assert [each.metadata.get("language") for each in container.streams.audio] == ["eng", "ita"]
        assert [each.codec_context.codec.canonical_name for each in container.streams.subtitles] == [subtitles]
        assert [each["metadata"]["title"] for each in container.chapters()] == ["first", "second"]
        starts = [float(each["start"] * each["time_base"]) for each in container.chapters()]
        assert starts == pytest.approx([0, 1])
    assert words(out) == ["Hello there"]


def test_chapters_move_with_a_range(tmp_path: Path) -> None:
    out = run(rich(tmp_path / "film.mkv"), tmp_path / "out.mkv", start=0.5, end=1.5)
    with av.open(str(out)) as container:
        spans = [[float(each[name] * each["time_base"]) for name in ("start", "end")] for each in container.chapters()]
    assert np.allclose(spans, [[0, 0.5], [0.5, 1.0]])


def test_what_cannot_be_kept_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(rich(tmp_path / "film.mkv"), tmp_path / "out.ts")
    assert "subtitles in subrip" in capsys.readouterr().err


def test_mp3_in_avi_is_copied(tmp_path: Path) -> None:
    source = film(tmp_path / "film.avi", codec="libmp3lame", sound_rate=44_100)
    with av.open(str(run(source, tmp_path / "out.mp4"))) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == "mp3"


def test_sound_of_192_khz(tmp_path: Path) -> None:
    source = film(tmp_path / "film.mov", codec="pcm_s16le", sound_rate=192_000)
    with av.open(str(run(source, tmp_path / "out.mp4"))) as container:
        heard = [(frame.samples, frame.sample_rate) for frame in container.decode(audio=0)]
    assert sum(samples / rate for samples, rate in heard) == pytest.approx(1, abs=0.1)


def joined(path: Path, seconds: int) -> Path:
    """A film that was appended to itself: all times step back in the middle."""
    one = film(path, count=4 * seconds, rate=4, seconds=seconds, sound_rate=48_000)
    one.write_bytes(2 * one.read_bytes())
    return one


def heard(path: Path) -> list[tuple[float, float]]:
    """When each piece of the sound begins and ends, in seconds."""
    with av.open(str(path)) as container:
        pieces = [(float(frame.time), frame.samples / frame.sample_rate) for frame in container.decode(audio=0)]
    return [(begin, begin + length) for begin, length in pieces]


def gaps(sound: list[tuple[float, float]]) -> list[float]:
    return [after[0] - before[1] for before, after in pairwise(sound)]


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.ts"])
@pytest.mark.parametrize(("seconds", "length"), [(2, 2), (12, 24)])  # less than `JUMP` is disorder, more a new count
def test_sound_whose_times_step_back(
    seconds: int, length: int, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(joined(tmp_path / "film.ts", seconds), tmp_path / name)
    sound = heard(out)
    assert len(frames(out)) == 8 * seconds
    assert sound[-1][1] == pytest.approx(length, abs=0.15) and np.abs(gaps(sound)).max() < 0.03
    assert "cannot hold" not in capsys.readouterr().err


@pytest.mark.parametrize(("limits", "length"), [({"end": 14}, 14), ({"start": 5}, 19), ({"start": 5, "end": 14}, 9)])
def test_a_range_over_a_step_back(limits: dict[str, float], length: int, tmp_path: Path) -> None:
    out = run(joined(tmp_path / "film.ts", 12), tmp_path / "out.mp4", **limits)
    sound = heard(out)
    assert len(frames(out)) == pytest.approx(4 * length, abs=2)
    assert sound[-1][1] == pytest.approx(length, abs=0.15) and np.abs(gaps(sound)).max() < 0.03


@pytest.mark.parametrize(
    ("source", "codec", "rate", "name"),
    [("film.mov", "pcm_f32be", 8000, "out.mkv"), ("film.mov", "adpcm_ima_qt", 8000, "out.mkv"),
     ("film.avi", "libmp3lame", 11_025, "out.mp4")],
)  # fmt: skip
def test_sound_that_a_format_cannot_hold_is_encoded_again(
    source: str, codec: str, rate: int, name: str, tmp_path: Path
) -> None:
    out = run(film(tmp_path / source, codec=codec, sound_rate=rate), tmp_path / name)
    with av.open(str(out)) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == "aac"
    sound = heard(out)
    assert sound[-1][1] == pytest.approx(1, abs=0.25) and np.abs(gaps(sound)).max() < 0.003


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("kind", ["empty", "unknown"])
def test_sound_that_cannot_be_read_is_named(
    kind: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = film(tmp_path / ("film.mkv" if kind == "unknown" else "film.ts"), seconds=kind == "unknown")
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    assert len(frames(run(source, tmp_path / name))) == 6
    assert f"{name} cannot hold sound in an unknown format" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["audio", "subtitle"])
def test_a_packet_that_cannot_be_written_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = video.packets

    def odd(*arguments: Any) -> Iterator[Any]:
        for index, packet in enumerate(honest(*arguments)):
            if packet is not None and packet.stream.type == kind and (index % 8 == 4 or kind == "subtitle"):
                packet.pts = (packet.pts or 0) - 500  # before it is decoded
            yield packet

    monkeypatch.setattr(video, "packets", odd)
    out = run(rich(tmp_path / "film.mkv"), tmp_path / "out.mkv")
    name = {"audio": "sound", "subtitle": "subtitles"}[kind]
    assert len(frames(out)) == 12 and heard(out)[-1][1] == pytest.approx(2, abs=0.1)
    assert f"out.mkv cannot hold some packets of {name}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_subtitles_of_one_time_or_out_of_order(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest, odd = video.packets, iter([0.5, 0.5, 0.2, 0.5])

    def packets(*arguments: Any) -> Iterator[Any]:
        for packet in honest(*arguments):
            if packet is not None and packet.stream.type == "subtitle" and packet.size:
                packet.pts = packet.dts = round(next(odd) / packet.time_base)
            yield packet

    source = rich(tmp_path / "film.mkv", "".join(f"{n}\n00:00:00,{n}00 --> 00:00:01,000\n{n}\n\n" for n in range(1, 5)))
    monkeypatch.setattr(video, "packets", packets)
    assert words(run(source, tmp_path / name)) == ["1", "2", "3", "4"]
    assert "cannot hold" not in capsys.readouterr().err


def test_a_full_disk_is_not_a_packet_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise av.error.OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(muxing, "_text", full)
    with pytest.raises(OutputError, match=r"out\.mp4.*No space left"):
        run(rich(tmp_path / "film.mkv"), tmp_path / "out.mp4")


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.resume").mkdir()
    (tmp_path / "out.resume" / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        run(film(tmp_path / "film.mp4"), tmp_path / "out.mp4")
    assert (tmp_path / "out.resume" / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_killed_before_its_first_part_is_no_obstacle(resume: bool, tmp_path: Path) -> None:
    (tmp_path / "out.resume").mkdir()
    (tmp_path / "out.resume" / ".impasto-00000000-1-00000000.json").touch()
    os.utime(tmp_path / "out.resume" / ".impasto-00000000-1-00000000.json", (0, 0))
    run(film(tmp_path / "film.mp4"), tmp_path / "out.mp4", resume=resume)
    assert len(frames(tmp_path / "out.mp4")) == 6 and not (tmp_path / "out.resume").exists()


def test_a_part_without_a_frame_is_no_obstacle(tmp_path: Path) -> None:
    source, out = film(tmp_path / "film.mp4"), tmp_path / "out.mp4"
    numbers = iter(range(6))

    def failing(image: Tensor, statistics: object, settle: object) -> Tensor:
        if next(numbers):
            raise InputError("no more")
        return image

    with pytest.raises(InputError, match="no more"):
        repaint(source, out, failing, Settings(False), receipt={}, quiet=True)
    (part,) = (tmp_path / "out.resume").glob("*.nut")
    part.write_bytes(b"")  # as if killed before the first frame was written
    run(source, out, resume=True)
    assert len(frames(out)) == 6


@pytest.mark.parametrize("newest", ["no bytes", "no frame"])
def test_the_last_frame_is_found_before_an_empty_part(newest: str, tmp_path: Path) -> None:
    source, out = film(tmp_path / "film.mp4"), tmp_path / "out.mp4"
    numbers = iter(range(6))

    def failing(image: Tensor, statistics: object, settle: object) -> Tensor:
        if next(numbers) == 3:
            raise InputError("no more")
        return image

    with pytest.raises(InputError, match="no more"):
        repaint(source, out, failing, Settings(False), receipt={}, quiet=True)
    receipt = json.loads((tmp_path / "out.resume" / "receipt.json").read_text())
    parts = muxing.Parts(tmp_path / "out.resume", video.find(source), receipt, resume=True)
    whole = parts.last()
    assert whole is not None
    part = parts.new()  # of a run that was killed while the encoder looked ahead
    part.write_bytes(parts.paths()[0].read_bytes()[:600] if newest == "no frame" else b"")
    again = parts.last()
    assert again is not None and torch.equal(again, whole)


def test_a_source_that_is_gone_is_named(tmp_path: Path) -> None:
    source = film(tmp_path / "film.mp4")

    def losing(image: Tensor, statistics: object, settle: object) -> Tensor:
        source.unlink(missing_ok=True)
        return image

    with pytest.raises(VideoError, match=r"film\.mp4: not a film"):
        repaint(source, tmp_path / "out.mp4", losing, Settings(False), receipt={}, quiet=True)


@pytest.mark.parametrize("receipt", ["", "[" * 100_000, "null", "{}"])
def test_a_damaged_receipt_of_parts(receipt: str, tmp_path: Path) -> None:
    (tmp_path / "out.resume").mkdir()
    (tmp_path / "out.resume" / "receipt.json").write_text(receipt)
    with pytest.raises(InputError, match="other settings; remove it"):
        run(film(tmp_path / "film.mp4"), tmp_path / "out.mp4", resume=True)
