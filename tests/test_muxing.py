"""What of a source a film keeps: sound tracks, subtitles, chapters."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import film, frames
from torch import Tensor

from impasto.errors import InputError, VideoError
from impasto.runs.film import Settings, repaint


def run(source: Path, out: Path, *, resume: bool = False, **settings: Any) -> Path:
    def same(image: Tensor, statistics: object, settle: object) -> Tensor:
        return image

    repaint(source, out, same, Settings(False, **settings), receipt={}, quiet=True, resume=resume)
    return out


def rich(path: Path) -> Path:
    """Two seconds with two sound tracks of different languages, a subtitle and two chapters."""
    text = path.with_name("text.srt")
    text.write_text("1\n00:00:00,500 --> 00:00:01,500\nHello there\n")
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
