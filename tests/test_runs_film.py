"""Repainted films: times, sound, flaws, ranges, formats, stopping and resuming."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import film, frames, save_picture
from PIL import Image
from torch import Tensor

from impasto import faces, images, presets, recording, transfer, video
from impasto.cli import main
from impasto.errors import InputError, OutputError, Stopped, VideoError
from impasto.runs.film import Settings, by_optimisation, repaint


def negative(image: Tensor, statistics: object, settle: object) -> Tensor:
    return 1 - image


def same(image: Tensor, statistics: object, settle: object) -> Tensor:
    return image


def run(
    source: Path, out: Path, paint: Any = same, *, resume: bool = False, steady: bool = False, **settings: Any
) -> Path:
    repaint(source, out, paint, Settings(steady, **settings), receipt={}, quiet=True, resume=resume)
    assert not out.with_suffix(".resume").exists()
    return out


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("name", "codec"), [("film.mp4", "aac"), ("film.mkv", "pcm_s16le")])
def test_repainting_keeps_times_and_sound(name: str, codec: str, tmp_path: Path) -> None:
    source = film(tmp_path / name, codec=codec)
    out = run(source, tmp_path / "out.mp4", negative)
    painted = frames(out)
    assert np.abs(painted[3][10:20, 5:25].mean((0, 1)) - [55, 255, 255]).max() < 12
    assert times(out) == pytest.approx(times(source), abs=1e-3)
    with av.open(str(source)) as before, av.open(str(out)) as after:
        rates = [float(each.streams.video[0].average_rate or 0) for each in (before, after)]
        assert rates[1] == pytest.approx(rates[0], rel=1e-3)
        assert after.streams.audio[0].codec_context.name == "aac"
    with av.open(str(out)) as after:
        heard = np.concatenate([f.to_ndarray()[0] for f in after.decode(audio=0)])
    assert 0.7 < len(heard) / 8000 < 1.5 and 0.1 < heard.std() < 0.4


FORMATS = {".mp4": "aac", ".m4v": "aac", ".mov": "aac", ".mkv": "aac", ".webm": "opus", ".ts": "aac", ".mts": "aac",
           ".m2ts": "aac", ".3gp": "aac"}  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats_with_sound(suffix: str, tmp_path: Path) -> None:
    source = film(tmp_path / "film.mp4", sound_rate=48_000)
    if suffix != ".webm":
        source = run(source, tmp_path / f"source{suffix}")
    out = run(source, tmp_path / f"out{suffix}")
    assert times(out) == pytest.approx([index / 6 for index in range(6)], abs=2e-3)
    assert np.abs(frames(out)[3][10:20, 5:25].mean((0, 1)) - [200, 0, 0]).max() < 12
    with av.open(str(out)) as container:
        assert container.streams.audio[0].codec_context.name.startswith(FORMATS[suffix])
        assert sum(frame.samples for frame in container.decode(audio=0)) > 40_000


def darker() -> Any:
    """Paint each frame a little darker: of an animated picture, equal frames would become one."""
    shades = iter(range(100))
    return lambda image, *_: image - next(shades) / 20


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_animated_pictures(suffix: str, tmp_path: Path) -> None:
    animation = run(film(tmp_path / "film.mp4"), tmp_path / f"one{suffix}", darker())
    with Image.open(animation) as picture:
        assert picture.n_frames == 6 and picture.info["loop"] == 0
        picture.seek(3)
        assert np.abs(np.asarray(picture.convert("RGB"))[10:20, 5:25].mean((0, 1)) - [162, 0, 0]).max() < 14
        assert 150 <= picture.info["duration"] <= 180
    out = run(animation, tmp_path / "again.mp4")
    assert times(out) == pytest.approx([index / 6 for index in range(6)], abs=0.02)


def test_image_sequences(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    run(film(tmp_path / "film.mp4"), folder / "f_%04d.png")
    assert [path.name for path in sorted(folder.iterdir())] == [f"f_{index:04d}.png" for index in range(1, 7)]
    (folder / "f_0010.png").write_bytes((folder / "f_0001.png").read_bytes())
    for source in (folder, folder / "f_%04d.png"):
        out = run(source, tmp_path / "out.mp4", fps=10)
        assert times(out) == pytest.approx([index / 10 for index in range(7)])
    with pytest.raises(VideoError, match="no pictures"):
        run(folder / "g_%d.png", tmp_path / "out.mp4")


@pytest.mark.parametrize("source", ["f_%04d.png", ""])
def test_a_sequence_does_not_overwrite_its_source(source: str, tmp_path: Path) -> None:
    originals = [save_picture(tmp_path / f"f_{index:04d}.png", seed=index).read_bytes() for index in (1, 2)]
    with pytest.raises(OutputError, match=r"f_%04d\.png: would overwrite the input .*f_000[12]\.png"):
        run(tmp_path / source, tmp_path / "f_%04d.png", negative)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == originals
    run(tmp_path / "f_%04d.png", tmp_path / "f_%04d.jpg", negative)  # other files


@pytest.mark.parametrize(
    "command", [["apply", "FILM", "--style", "STYLE"], ["transfer", "FILM", "STYLE", "--encoder", "TINY"]]
)
def test_a_sequence_does_not_overwrite_its_style(
    command: list[str], tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style = save_picture(tmp_path / "f_0003.png")
    places = {"FILM": str(film(tmp_path / "film.mp4")), "STYLE": str(style), "TINY": tiny}
    before = style.read_bytes()
    assert main([*(places.get(each, each) for each in command), "-o", str(tmp_path / "f_%04d.png")]) == 1
    assert "f_%04d.png: would overwrite the input" in capsys.readouterr().err and style.read_bytes() == before


@pytest.mark.parametrize(("name", "second"), [("50%_%04d.png", "50%_0002.png"), ("%d_%d.png", "2_%d.png")])
def test_percent_signs_in_names(name: str, second: str, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for index in range(2):
        save_picture(tmp_path / "frames" / f"{index}.png", seed=index)
    run(tmp_path / "frames", tmp_path / name)
    assert (tmp_path / second).read_bytes() and len(list(tmp_path.glob("*.png"))) == 2


@pytest.mark.parametrize("where", ["in a frame", "before a frame"])
def test_the_rest_of_a_truncated_animation_is_counted(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = run(film(tmp_path / "film.mp4"), tmp_path / "film.gif", darker())
    data = source.read_bytes()
    source.write_bytes(data[:-60] if where == "in a frame" else data[: data.rindex(b"!\xf9") + 4])
    run(source, tmp_path / "out_%d.png")
    assert len(list(tmp_path.glob("out_*.png"))) == 5 and "film.gif: 1 damaged" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "total"), [("sequence", 2), ("film.gif", 2), ("film.mp4", 2)])
def test_the_number_of_frames_in_a_range(kind: str, total: int, tmp_path: Path) -> None:
    source = film(tmp_path / "film.mp4")
    if kind != "film.mp4":
        source = run(source, tmp_path / (kind if "." in kind else "f_%d.png"), darker())
    found = video.find(source, start=0.5, end=0.83, rate=6)
    assert found.total == len(list(found.frames())) == total


def test_a_range_keeps_picture_and_sound_together(tmp_path: Path) -> None:
    source = film(tmp_path / "film.mp4", count=12)
    out = run(source, tmp_path / "out.mp4", start=0.25, end=0.75)
    assert times(out) == pytest.approx([0, 1 / 12, 2 / 12, 3 / 12, 4 / 12, 5 / 12], abs=1e-3)
    with av.open(str(out)) as container:
        assert 0.3 < sum(frame.samples for frame in container.decode(audio=0)) / 8000 < 0.8
    with pytest.raises(VideoError, match="ends after"):
        run(source, tmp_path / "late.mp4", start=5)
    with pytest.raises(VideoError, match="nothing lies between"):
        run(source, tmp_path / "none.mp4", start=2, end=1)


def test_damaged_packets_are_skipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = film(tmp_path / "film.mp4", count=12)
    with av.open(str(source)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(source.read_bytes())
    position, size = places[5]
    data[position : position + size] = bytes(size)
    source.write_bytes(data)
    out = run(source, tmp_path / "out.mp4")
    assert 10 <= len(times(out)) <= 12
    assert "1 damaged packets" in capsys.readouterr().err


@pytest.mark.parametrize(("odd", "corrected"), [([0, 1, 1, 3, 4, 5], 1), ([0, 1, 3, 2, 4, 5], 1)])
def test_odd_times_are_corrected(
    odd: list[int], corrected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = video.Film._decoded

    def decoded(self: video.Film, *arguments: Any) -> Iterator[Any]:
        for frame, time in zip(honest(self, *arguments), odd, strict=True):
            frame.pts = round(time / 6 / frame.time_base)
            yield frame

    monkeypatch.setattr(video.Film, "_decoded", decoded)
    found = times(run(film(tmp_path / "film.mp4"), tmp_path / "out.mp4"))
    assert len(found) == 6 and sorted(set(found)) == found
    assert found[-1] == pytest.approx(5 / 6, abs=2e-3)
    assert f"times of {corrected} frames" in capsys.readouterr().err


def interrupting(after: int) -> Any:
    """Paint as `same`, and press Ctrl-C at one frame."""
    count = 0

    def paint(image: Tensor, statistics: object, settle: object) -> Tensor:
        nonlocal count
        count += 1
        if count == after:
            os.kill(os.getpid(), signal.SIGINT)
        return image

    return paint


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "p_%02d.png"])
def test_a_stopped_film_is_playable_and_can_be_continued(name: str, tmp_path: Path) -> None:
    source, out = film(tmp_path / "film.mp4", count=12), tmp_path / name
    with pytest.raises(Stopped, match="after 4 frames"):
        run(source, out, interrupting(4))
    if "%" not in name:
        assert len(frames(out)) == 4
        with av.open(str(out)) as container:
            assert sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0)) < 0.8
    seen = 0

    def counting(image: Tensor, statistics: object, settle: object) -> Tensor:
        nonlocal seen
        seen += 1
        return image

    run(source, out, counting, resume=True)
    assert seen == 8
    if "%" in name:
        assert len(list(tmp_path.glob("p_*.png"))) == 12
        return
    assert times(out) == pytest.approx([index / 12 for index in range(12)], abs=2e-3)
    assert np.abs(np.stack(frames(out))[:, 10:20, 5:25].mean((1, 2)) - [200, 0, 0]).max() < 12


def test_a_refused_film_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["transfer", "missing.mp4", "candy"], ["apply", "missing.mp4", "--style", "candy"]):
        assert main([*command, "-o", str(tmp_path / "out")]) == 1
        assert "missing.mp4" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_highest_rate_of_numbered_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        save_picture(tmp_path / f"in_{number:04d}.png")
    command = ["apply", str(tmp_path / "in_%04d.png"), "--style", "candy", "-o", str(tmp_path / "out.mp4"), "--quiet"]
    assert main([*command, "--fps", "1000.5"]) == 1
    assert "--fps between 0 and 1000" in capsys.readouterr().err
    assert main([*command, "--fps", "1000"]) == 0
    assert times(tmp_path / "out.mp4") == [0, 0.001, 0.002]


def test_a_higher_crf_makes_a_smaller_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def grainy(image: Tensor, *_: object) -> Tensor:
        return torch.rand(image.shape, generator=torch.Generator().manual_seed(0))

    source = film(tmp_path / "film.mp4")
    sizes = [run(source, tmp_path / f"{crf}.mp4", grainy, crf=crf).stat().st_size for crf in (10, 40)]
    assert sizes[0] > 1.2 * sizes[1]  # most of both is the sound
    assert main(["apply", str(source), "--style", "candy", "-o", str(tmp_path / "o.mp4"), "--crf", "60"]) == 1
    assert "--crf must lie between 0 and 51" in capsys.readouterr().err


def test_a_film_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    source, out = film(tmp_path / "film.mp4"), tmp_path / "out.mp4"
    with pytest.raises(Stopped):
        run(source, out, interrupting(2))
    with pytest.raises(InputError, match="other settings"):
        run(source, out, resume=True, crf=30)
    with pytest.raises(InputError, match="other settings"):  # its parts are of another codec
        run(source, tmp_path / "out.webm", resume=True)


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_a_film_that_is_not_half_done_is_not_painted_again(name: str, tmp_path: Path) -> None:
    source = film(tmp_path / "film.mp4", count=2)
    out = run(source, tmp_path / name)
    before = out.stat().st_mtime_ns
    with pytest.raises(InputError, match=r"out\.resume: no such half-done film; repaint without `resume`"):
        run(source, out, resume=True)
    assert out.stat().st_mtime_ns == before


def test_a_transfer_of_a_film_resumes_only_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = film(tmp_path / "film.mp4", count=2)
    command = ["transfer", str(source), "candy", "--size", "16", "--steps", "1", "--quiet"]
    for out, wanted in ((tmp_path / "out.mp4", "out.resume"), (tmp_path, "frame_%04d.png")):
        assert main([*command, "-o", str(out), "--resume", str(tmp_path / "other.resume")]) == 1
        assert f"other.resume: for this film it is {tmp_path / wanted}" in capsys.readouterr().err
    assert main([*command, "-o", str(tmp_path)]) == 0
    first, second = (tmp_path / f"frame_000{number}.png" for number in (1, 2))
    before = first.stat().st_mtime_ns
    second.unlink()
    assert main([*command, "-o", str(tmp_path), "--resume", str(tmp_path)]) == 0
    assert second.exists() and first.stat().st_mtime_ns == before


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".apng"])
def test_an_error_while_painting_keeps_what_was_painted(suffix: str, tmp_path: Path) -> None:
    numbers, shade = iter(range(9)), darker()

    def failing(image: Tensor, statistics: object, settle: object) -> Tensor:
        if next(numbers) == 3:
            raise InputError("no more")
        return shade(image)  # type: ignore[no-any-return]

    out = tmp_path / f"out{suffix}"
    with pytest.raises(InputError, match="no more"):
        repaint(film(tmp_path / "film.mp4"), out, failing, Settings(False), receipt={}, quiet=True)
    if suffix == ".mp4":
        assert len(frames(out)) == 3
    else:
        with Image.open(out) as picture:
            assert picture.n_frames == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_an_animation_that_cannot_be_written_is_kept_beside(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, out, numbers = recording.Encoder.add, tmp_path / f"out{suffix}", iter(range(9))
    out.write_bytes(b"what was there")

    def full(*given: Any) -> None:
        if next(numbers) == 3:
            raise OSError(28, "No space left on device")
        honest(*given)

    monkeypatch.setattr(recording.Encoder, "add", full)
    with pytest.raises(OutputError, match=r"No space left.*; what was made is kept as") as failure:
        run(film(tmp_path / "film.mp4"), out, darker())
    assert out.read_bytes() == b"what was there"
    with Image.open(str(failure.value).partition("kept as ")[2]) as picture:
        assert picture.n_frames == 3  # type: ignore[attr-defined]
    assert not [path for path in tmp_path.iterdir() if path.name[0] == "."]


@pytest.mark.parametrize("content", [b"", b"no film at all", None])
def test_files_that_are_not_films(content: bytes | None, tmp_path: Path) -> None:
    source, out = tmp_path / "film.mp4", tmp_path / "out.mp4"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(VideoError, match=r"film\.mp4"):
        run(source, out)
    assert not out.exists()


def test_errors_of_the_output_name_it(tmp_path: Path) -> None:
    source, out = film(tmp_path / "film.mkv", codec="pcm_s16le"), tmp_path / "out.mp4"
    out.write_bytes(b"what was there")
    with pytest.raises(VideoError, match=r"out\.xyz.*\.mp4"):
        run(source, tmp_path / "out.xyz")
    with pytest.raises(OutputError, match="does not exist"):
        run(source, tmp_path / "none" / "out.mp4")
    with pytest.raises(OutputError, match="also an input"):
        run(source, source)
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="contains no film"):
        run(sound, out)
    assert out.read_bytes() == b"what was there"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_names_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: recording.Encoder, image: Tensor, time: Fraction) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording.Encoder, "add", full)
    with pytest.raises(OutputError, match=r"out\.mp4.*No space left"):
        run(film(tmp_path / "film.mp4"), tmp_path / "out.mp4")


def test_steady_films_hold_static_noise_still(tmp_path: Path) -> None:
    """A network that amplifies noise, on a still picture with noise."""
    generator = np.random.default_rng(0)
    still = np.kron(generator.integers(60, 200, (6, 8, 3)), np.ones((8, 8, 1)))
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(10):
        noisy = np.clip(still + 4 * generator.standard_normal(still.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index}.png")

    def paint(image: Tensor, statistics: object, settle: Any) -> Tensor:
        painted = (0.5 + 1.5 * (image - 0.5)).clamp(0, 1)
        return settle(image, painted) if settle else painted

    moved = []
    for steady in (False, True):
        run(folder, tmp_path / "out_%d.png", paint, steady=steady)
        made = np.stack([np.asarray(Image.open(tmp_path / f"out_{index}.png"), float) for index in range(1, 11)])
        moved.append(np.square(np.diff(made, axis=0)).mean())
    assert moved[1] < 0.1 * moved[0]
    assert torch.is_grad_enabled()


def test_a_film_by_optimisation_moves_less_than_its_frames_alone(tiny: str, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    generator = np.random.default_rng(0)
    wide = Image.fromarray(generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)).resize(
        (80, 48), Image.Resampling.BICUBIC
    )
    for index in range(4):
        wide.crop((2 * index, 0, 2 * index + 64, 48)).save(folder / f"{index}.png")
    save_picture(tmp_path / "style.png", 40, 40, seed=3)
    out = tmp_path / "out_%d.png"
    recipe = ["--encoder", tiny, "--size", "64", "--steps", "6", "--init", "content", "--quiet"]
    recipe += ["--style-layers", "relu1_1", "--content-layers", "relu2_1"]
    assert main(["transfer", str(folder / "%d.png"), str(tmp_path / "style.png"), "-o", str(out), *recipe]) == 0
    made = [images.read(tmp_path / f"out_{index}.png").image for index in range(1, 5)]
    assert all((each - images.read(folder / "0.png").image).abs().mean() > 0.01 for each in made)
    alone = []
    for index in range(4):
        one = [str(folder / f"{index}.png"), str(tmp_path / "style.png"), "-o", str(tmp_path / f"alone_{index}.png")]
        assert main(["transfer", *one, *recipe, "--init", "noise", "--seed", str(index)]) == 0
        alone.append(images.read(tmp_path / f"alone_{index}.png").image)

    def moved(frames: list[Tensor]) -> float:
        return max(float((b[..., 4:-6] - a[..., 6:-4]).square().mean()) for a, b in pairwise(frames))

    assert moved(made) < 0.002 < moved(alone)


def test_no_faces_are_looked_for_in_films(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in one frame and missed in the next, they would flicker; a picture by the same recipe finds them."""
    strengths: list[float] = []
    monkeypatch.setattr(faces, "guidance", lambda photograph, strength: strengths.append(strength))
    recipe = replace(presets.impasto, size=32, steps=1)
    style = torch.rand(1, 3, 32, 32)
    by_optimisation([style], recipe)(torch.rand(1, 3, 32, 32), None, None)
    transfer.stylize(torch.rand(1, 3, 32, 32), style, recipe)
    assert strengths == [1.0, 0.3]


def test_part_of_a_film_by_optimisation_in_a_folder(tiny: str, tmp_path: Path) -> None:
    save_picture(tmp_path / "style.png", 40, 40, seed=3)
    source = film(tmp_path / "film.mp4")
    recipe = ["--encoder", tiny, "--size", "32", "--steps", "2", "--quiet"]
    recipe += ["--style-layers", "relu1_1", "--content-layers", "relu2_1", "--from", "0.3", "--to", "0.6"]
    assert main(["transfer", str(source), str(tmp_path / "style.png"), "-o", str(tmp_path / "out"), *recipe]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"frame_{n:04d}.png" for n in (1, 2)]


def test_a_frame_stays_close_to_what_it_follows(tiny: str) -> None:
    torch.manual_seed(0)
    frame, style, wanted = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    trusted = torch.zeros(1, 1, 32, 32)
    trusted[..., :16] = 1
    recipe = replace(
        presets.impasto, encoder=tiny, steps=6, size=0, scales=(1.0,), style_layers=("relu1_1",),
        content_layers=("relu2_1",), layer_weights=(), content_layer_weights=(),
    )  # fmt: skip
    *_, last = transfer.steps(frame, style, recipe, follow=(wanted, trusted))
    apart = (last.image - wanted).square().mean(1)[0]
    assert "motion" in last.terms and apart[:, :16].mean() < 0.1 * apart[:, 16:].mean()
