"""Videos of an optimisation, and repainted videos."""

import builtins
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import film, frames

from impasto import video
from impasto.errors import VideoError


def test_frames_are_brought_to_one_even_size_and_keep_their_colour(tmp_path: Path) -> None:
    red = torch.tensor([0.8, 0.2, 0.1]).view(1, 3, 1, 1)
    with video.writer(tmp_path / "film.mp4", 33, 47, fps=10) as add:
        for side in (8, 16, 33):
            add(red.expand(1, 3, side, side + 1))
    film = frames(tmp_path / "film.mp4")
    assert [frame.shape for frame in film] == [(32, 46, 3)] * 3
    assert np.abs(film[2].mean((0, 1)) - [204, 51, 25.5]).max() < 6


def test_an_error_while_writing_keeps_the_old_video(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"what was there")

    def broken() -> None:
        with video.writer(path, 16, 16, fps=10) as add:
            add(torch.zeros(1, 3, 16, 16))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "said"), [("film.gif", ".mp4"), ("none/film.mp4", "does not exist")])
def test_invalid_output_paths(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=said), video.writer(tmp_path / name, 16, 16, fps=10):
        pass


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "av":
            raise ImportError
        return honest(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        pytest.raises(VideoError, match=r"pip install 'impasto\[video\]'"),
        video.writer(tmp_path / "film.mp4", 16, 16, fps=10),
    ):
        pass


def sideways(path: Path) -> None:
    """Set a rotation by 90 degrees in the video's track header, as phones do."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    turn = [0, one, 0, -one & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30]
    data[start : start + 36] = b"".join(value.to_bytes(4, "big") for value in turn)
    path.write_bytes(data)


@pytest.mark.parametrize(("name", "codec"), [("film.mp4", "aac"), ("film.mkv", "pcm_s16le")])
def test_repainting_keeps_times_and_sound(name: str, codec: str, tmp_path: Path) -> None:
    source, out = film(tmp_path / name, codec=codec), tmp_path / "out.mp4"
    seen = list(video.repaint(source, out, lambda image: 1 - image))
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5, 6]
    painted = frames(out)
    assert np.abs(painted[3][10:20, 5:25].mean((0, 1)) - [55, 255, 255]).max() < 12
    with av.open(str(source)) as before, av.open(str(out)) as after:
        rates = [float(each.streams.video[0].average_rate or 0) for each in (before, after)]
        assert rates[1] == pytest.approx(rates[0], rel=1e-3)  # Matroska stores whole milliseconds
        times = [[frame.time for frame in each.decode(video=0)] for each in (before, after)]
        assert times[1] == pytest.approx(times[0], abs=1e-3)
        assert after.streams.audio[0].codec_context.name == "aac"
    with av.open(str(out)) as after:
        heard = np.concatenate([f.to_ndarray()[0] for f in after.decode(audio=0)])
    assert 0.7 < len(heard) / 8000 < 1.5 and 0.1 < heard.std() < 0.4


def test_a_rotated_video_is_written_upright(tmp_path: Path) -> None:
    source, out = film(tmp_path / "film.mp4"), tmp_path / "out.mp4"
    sideways(source)
    list(video.repaint(source, out, lambda image: image))
    painted = frames(out)
    assert painted[0].shape == (64, 48, 3)
    top, bottom = painted[0][:24].mean((0, 1)), painted[0][40:].mean((0, 1))
    assert top[0] > 150 > 60 > top[2] and bottom[2] > 150 > 60 > bottom[0]  # rotated clockwise: left becomes top


def test_stopping_keeps_the_frames_so_far(tmp_path: Path) -> None:
    steps = video.repaint(film(tmp_path / "film.mp4"), tmp_path / "out.mp4", lambda image: image)
    next(steps), next(steps)
    steps.close()
    assert len(frames(tmp_path / "out.mp4")) == 2


@pytest.mark.parametrize("content", [b"", b"no film at all", None])
def test_files_that_are_not_videos(content: bytes | None, tmp_path: Path) -> None:
    source, out = tmp_path / "film.mp4", tmp_path / "out.mp4"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(VideoError, match=r"film\.mp4"):
        list(video.repaint(source, out, lambda image: image))
    assert not out.exists()


def test_errors_keep_the_old_output(tmp_path: Path) -> None:
    source, out = film(tmp_path / "film.mkv", count=40, codec="pcm_s16le"), tmp_path / "out.mp4"
    out.write_bytes(b"what was there")
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="contains no film"):
        list(video.repaint(sound, out, lambda image: image))
    with pytest.raises(VideoError, match=r"\.mp4"):
        list(video.repaint(source, tmp_path / "out.avi", lambda image: image))
    assert out.read_bytes() == b"what was there"
