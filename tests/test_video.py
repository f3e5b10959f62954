"""Films as they are read, and repainted."""

import gc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from conftest import film, save_picture
from PIL import Image

from impasto import decoding, recording, video
from impasto.errors import ImageError, VideoError
from impasto.runs.film import Settings, repaint


def encode(path: Path, pixels: np.ndarray, **marks: int) -> Path:
    """A film of three equal frames; ``marks`` are codes of the colours, which only the stream states."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
        aspect = marks.pop("aspect", None)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        matrix = marks.pop("matrix")
        for name, value in marks.items():
            setattr(stream.codec_context, name, value)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def first(path: Path) -> np.ndarray:
    image, _ = next(video.find(path).frames())
    return image[0].permute(1, 2, 0).numpy()


COLOR = (180, 90, 40)


@pytest.mark.parametrize(
    ("height", "width", "matrix", "marks"),
    [
        (720, 1280, video.BT709, {}),
        (48, 64, video.BT601, {}),
        (48, 64, video.BT709, {"colorspace": 1}),
        (720, 1280, video.BT601, {"colorspace": 6}),
    ],
)
def test_colours_by_the_matrix_that_is_stated_or_usual(
    height: int, width: int, matrix: int, marks: dict[str, int], tmp_path: Path
) -> None:
    pixels = np.full((height, width, 3), COLOR, np.uint8)
    found = first(encode(tmp_path / "film.mp4", pixels, matrix=matrix, **marks))
    assert np.abs(found.mean((0, 1)) - COLOR).max() < 4


def test_hdr_becomes_sdr(tmp_path: Path) -> None:
    grey = np.full((48, 64, 3), round(0.75 * 255), np.uint8)
    marks = {"colorspace": 9, "color_primaries": 9, "color_trc": 18}
    found = first(encode(tmp_path / "film.mp4", grey, matrix=video.BT2020, **marks)).mean((0, 1))
    assert found.min() > 240
    found = first(encode(tmp_path / "pq.mp4", grey, matrix=video.BT2020, **{**marks, "color_trc": 16})).mean((0, 1))
    assert found.min() > 250  # 75 % of PQ are 983 cd/m2


@pytest.mark.parametrize("aspect", [Fraction(64, 45), Fraction(2, 1)])
def test_the_aspect_of_pixels_is_kept(aspect: Fraction, tmp_path: Path) -> None:
    pixels = np.full((48, 64, 3), COLOR, np.uint8)
    source = encode(tmp_path / "film.mp4", pixels, matrix=video.BT601, aspect=aspect)
    assert video.find(source).aspect == aspect
    for name in ("out.mp4", "out.mkv", "out.ts"):
        repaint(source, tmp_path / name, lambda image, *_: image, Settings(False), receipt={}, quiet=True)
        with av.open(str(tmp_path / name)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.sample_aspect_ratio) == (64, 48, aspect)
    repaint(source, tmp_path / "out.gif", lambda image, *_: image, Settings(False), receipt={}, quiet=True)
    with Image.open(tmp_path / "out.gif") as picture:
        assert picture.size == (round(64 * aspect), 48)


ONE = 1 << 16
CORNERS = np.zeros((48, 64, 3), np.uint8)
CORNERS[:24, :32, 0] = CORNERS[:24, 32:, 1] = CORNERS[24:, :32, 2] = 220


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda pixels: pixels),
        ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),  # as phones do
        ((0, -1, 1, 0), lambda pixels: np.rot90(pixels, 1)),
        ((-1, 0, 0, -1), lambda pixels: pixels[::-1, ::-1]),
        ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),  # the mirror of a front camera
        ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
        ((0, 1, 1, 0), lambda pixels: pixels.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2)),
    ],
)
def test_films_are_turned_and_mirrored_upright(matrix: tuple[int, ...], shown: Any, tmp_path: Path) -> None:
    source = encode(tmp_path / "film.mp4", CORNERS, matrix=video.BT601)
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * ONE for value in matrix)
    data[start : start + 36] = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    )
    source.write_bytes(data)
    assert np.abs(first(source).astype(int) - shown(CORNERS)).mean() < 12


@pytest.mark.parametrize(("text", "seconds"), [("12.5", 12.5), ("0:10", 10), ("1:02:03", 3723)])
def test_times(text: str, seconds: float) -> None:
    assert video.seconds(text) == seconds
    with pytest.raises(VideoError, match="not a time"):
        video.seconds(text + "x")


def test_clocks_go_forward() -> None:
    clock = video.Clock(Fraction(1, 10))
    stated = [Fraction(value, 10) for value in (0, 1, 1, 2, 500, 501, 0, 1, 2)] + [None]
    found = [clock(each) for each in stated]
    assert found == sorted(set(found)) and clock.disordered == 2
    assert [float(each) for each in found[-4:]] == pytest.approx([50.2, 50.3, 50.4, 50.5])


def test_animations_and_films_by_name(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (0, 99)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:], duration=40)
    frames[0].save(tmp_path / "one.gif")
    assert video.is_film(tmp_path / "two.gif") and not video.is_film(tmp_path / "one.gif")
    assert video.is_film(Path("a.MTS")) and video.is_film(Path("f_%04d.png")) and not video.is_film(Path("a.png"))
    assert video.find(tmp_path / "two.gif").rate == 25


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_titles_in_other_encodings(suffix: str, tmp_path: Path) -> None:
    source = tmp_path / f"a{suffix}"
    with av.open(str(source), "w") as container:
        container.metadata["title"] = "Caf#"
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(3):
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    data = source.read_bytes()
    assert data.count(b"Caf#") == 1
    source.write_bytes(data.replace(b"Caf#", b"Caf\xe9"))
    repaint(source, tmp_path / "out.mp4", lambda image, *_: image, Settings(False), receipt={}, quiet=True)
    assert len(list(video.find(tmp_path / "out.mp4").frames())) == 3


def test_animations_are_as_large_as_pictures_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Image.new("L", (64, 64), value) for value in (0, 255))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    monkeypatch.setattr(decoding, "SPARSE", 0)
    monkeypatch.setattr(decoding, "LARGE", 1000)
    with pytest.raises(ImageError, match=r"a\.gif: declares 64 x 64"):
        video.find(tmp_path / "a.gif")


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    for number in range(3):
        save_picture(tmp_path / f"frame_{number}.png", seed=number)
    (tmp_path / "._frame_0.png").write_bytes(b"of a Mac")
    assert len(list(video.find(tmp_path).frames())) == 3


@pytest.mark.parametrize("start", [0.5, 12.5])
def test_a_transport_stream_begins_where_it_is_asked_to(start: float, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "clip.ts"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "40", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(160):
            pixels = np.full((32, 32, 3), index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    found = list(video.find(tmp_path / "clip.ts", start=start).frames())
    assert len(found) == 160 - 10 * start
    assert float(found[0][0].float().mean()) == pytest.approx(10 * start, abs=3)


def test_frames_leave_no_threads(tmp_path: Path) -> None:
    """Neither decoding nor encoding starts threads for each frame, which would live until it is collected."""
    clip = film(tmp_path / "clip.mp4", count=24, width=64, height=64)
    gc.disable()
    try:
        with recording.writer(tmp_path / "out.mp4", 64, 64, fps=10) as add:
            counts = []
            for frame, _ in video.find(clip).frames():
                add(frame.float() / 255)
                counts.append(psutil.Process().num_threads())
    finally:
        gc.enable()
    assert len(counts) == 24 and counts[-1] == counts[4]
