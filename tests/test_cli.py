"""The command line: results, and errors. Bad input gives one line and exit code 1 or 2, and loses no data."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import frames, one_line, opened, save_picture, wait_for
from PIL import Image
from safetensors.torch import load_file, save_file

from impasto import cli, files, images, objective, presets, recipes, recording, schema
from impasto.errors import DivergedError
from impasto.runs import receipts, transfer as run_transfer

SMALL = ["--size", "32", "--steps", "2", "--scales", "1"]
Capture = pytest.CaptureFixture[str]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(opened(path).convert("RGB"))


@pytest.fixture
def run(photo: Path, painting: Path, tiny: str, tmp_path: Path, capsys: Capture) -> Callable[..., int]:
    """Runs a transfer of small pictures; the given arguments override the defaults."""

    def run(*arguments: str | Path, content: object = photo, styles: tuple[object, ...] = (painting,)) -> int:
        inputs = [str(content), *map(str, styles)]
        return cli.main(["transfer", *inputs, "-o", str(tmp_path / "out.png"), *SMALL, "--encoder", tiny,
                         *map(str, arguments)])  # fmt: skip

    return run


# Results


def test_transfer_writes_a_picture_of_the_contents_shape(
    run: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    assert run() == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.png'}\n"
    assert opened(tmp_path / "out.png").size == (32, 21)


def test_quiet_prints_only_the_path(run: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    assert run("--quiet") == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{tmp_path / 'out.png'}\n", "")


def test_flags_in_any_order_keep_the_preset(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--rate", "0.05", "--recipe", "owl", "--checkpoint-every", "1") == 0
    recipe = schema.from_json(images.read_receipt(tmp_path / "out.png")["recipe"], recipes.Transfer)
    assert (recipe.style_term, recipe.rate, recipe.steps) == ("owl", 0.05, 2)
    assert (tmp_path / "out_0001.png").exists()
    assert (tmp_path / "out_0002.png").exists()


@pytest.mark.parametrize("name", presets.TRANSFERS)
def test_every_preset_paints(name: str, run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--recipe", name, "--checkpoint-every", "2") == 0
    assert opened(tmp_path / "out.png").width >= 32
    if name == "keras-descent":
        assert (tmp_path / "out.mp4").stat().st_size > 0
    if name == "pytorch-blog":
        content, picture, style = 32, 32, 14
        assert opened(tmp_path / "out_0002_figure.png").width > content + picture + style
    if name == "pytorch-five":
        assert {path.name for path in tmp_path.glob("out_*.png")} >= {"out_0.1.png", "out_100.png", "out_100000.png"}
        assert opened(tmp_path / "out.png").width > 3 * 32


def test_recipes_from_a_picture_and_from_json(run: Callable[..., int], tmp_path: Path) -> None:
    import json

    assert run("--strength", "0.25", "--seed", "7") == 0
    (tmp_path / "out.png").rename(tmp_path / "first.png")
    assert run("--recipe", tmp_path / "first.png") == 0
    assert images.read_receipt(tmp_path / "out.png")["recipe"]["strength"] == 0.25
    (tmp_path / "own.json").write_text(json.dumps({"strength": 0.5}))
    assert run("--recipe", tmp_path / "own.json") == 0
    assert images.read_receipt(tmp_path / "out.png")["recipe"]["strength"] == 0.5


def test_the_video_has_all_frames(run: Callable[..., int], tmp_path: Path) -> None:
    import av

    assert run("--video", tmp_path / "film.mp4", "--steps", "6", "--frame-every", "2", "--fps", "5") == 0
    with av.open(str(tmp_path / "film.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert film.streams.video[0].average_rate == 5
    assert len(frames) == 3
    assert frames[0].shape == (20, 32, 3)


def test_transparency_and_profile_are_kept(run: Callable[..., int], tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = opened(save_picture(tmp_path / "rgba.png", 32, 20))
    picture.putalpha(Image.linear_gradient("L").resize((32, 20)))
    picture.save(tmp_path / "rgba.png", icc_profile=profile)
    assert run(content=tmp_path / "rgba.png") == 0
    result = opened(tmp_path / "out.png")
    assert result.mode == "RGBA"
    assert result.info["icc_profile"] == profile
    assert np.array_equal(np.asarray(result)[..., 3], np.asarray(picture)[..., 3])


def cut_out(path: Path, below: int, seed: int) -> Path:
    """A picture whose left half is hidden, with the given grey stored below."""
    pixels = np.asarray(opened(save_picture(path, seed=seed)).convert("RGBA")).copy()
    pixels[:, :20] = (below, below, below, 0)
    Image.fromarray(pixels).save(path)
    return path


def test_colours_under_transparency_do_not_count(
    run: Callable[..., int], photo: Path, painting: Path, tmp_path: Path
) -> None:
    made = {}
    for below in (0, 255):
        cut, style = cut_out(tmp_path / "cut.png", below, 3), cut_out(tmp_path / "style.png", below, 4)
        assert run(content=cut) == 0
        assert run("-o", tmp_path / "styled.png", styles=(style,)) == 0
        made[below] = [pixels(tmp_path / name) for name in ("out.png", "styled.png")]
    for black, white in zip(*made.values(), strict=True):
        assert np.array_equal(black, white)


def test_a_styles_alpha_is_its_mask(run: Callable[..., int], tmp_path: Path) -> None:
    """Two styles that differ only in alpha, with the same colours everywhere, paint differently."""
    style = opened(save_picture(tmp_path / "style.png", seed=5)).convert("RGBA")
    style.save(tmp_path / "style.png")
    assert run(styles=(tmp_path / "style.png",)) == 0
    whole = pixels(tmp_path / "out.png")
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:, :24] = 255
    mask = save_picture(tmp_path / "mask.png")
    Image.fromarray(alpha).save(mask)
    style.putalpha(Image.fromarray(np.maximum(alpha, 1)))  # visible everywhere, a little
    style.save(tmp_path / "style.png")
    assert run(styles=(tmp_path / "style.png",)) == 0
    part = pixels(tmp_path / "out.png")
    style.convert("RGB").save(tmp_path / "style.png")
    assert run("--style-masks", mask, styles=(tmp_path / "style.png",)) == 0
    masked = pixels(tmp_path / "out.png").astype(float)
    near, far = np.abs(part - masked).mean(), np.abs(part - whole.astype(float)).mean()
    assert near < 1.5 and far > 4 * near, (near, far)


@pytest.mark.parametrize(
    ("values", "said"), [((0, 0), "black everywhere"), ((255, 255), "note"), ((0, 5), "labels 0 to 5"), ((0, 1), "")]
)
def test_masks_that_mean_nothing(
    values: tuple[int, int], said: str, run: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    mask = np.full((32, 48), values[0], np.uint8)
    mask[:, 24:] = values[1]
    Image.fromarray(mask).save(tmp_path / "mask.png")
    refused = said not in ("", "note")
    assert run("--content-masks", tmp_path / "mask.png", "--quiet") == refused
    err = capsys.readouterr().err
    assert said in err
    assert ("mask.png" in err) == bool(said) and "Traceback" not in err


def test_masks_limit_a_style_to_their_area(run: Callable[..., int], photo: Path, tmp_path: Path) -> None:
    mask = np.zeros((32, 48), np.uint8)
    mask[:, :12] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    only = [
        "--content-weight",
        "0",
        "--smoothness",
        "0",
        "--style-layers",
        "relu1_1",
        "--size",
        "48",
        "--optimizer",
        "adam",
        "--rate",
        "0.1",
    ]
    assert run(*only, "--content-masks", tmp_path / "mask.png") == 0
    change = np.abs(pixels(tmp_path / "out.png").astype(int) - pixels(photo)).max(axis=(0, 2))
    assert change[:12].min() > 0
    assert change[16:].max() == 0  # beyond the receptive field of relu1_1 and the mask's soft edge


def test_replay_is_exact_to_the_bit(run: Callable[..., int], tiny: str, tmp_path: Path) -> None:
    assert run("--init", "noise", "--seed", "5") == 0
    again = tmp_path / "elsewhere" / "again.png"
    again.parent.mkdir()
    (tmp_path / "out.png").rename(again.parent / "out.png")
    inputs = [str(tmp_path), str(Path(tiny).parent)]
    assert cli.main(["replay", str(again.parent / "out.png"), "-o", str(again), "--inputs", *inputs]) == 0
    assert np.array_equal(pixels(again), pixels(again.parent / "out.png"))


def test_replay_with_an_initial_picture(run: Callable[..., int], tiny: str, tmp_path: Path) -> None:
    """The receipt also has the name and sha256 of the initial picture, but not its path."""
    start = save_picture(tmp_path / "start.png", seed=8)
    assert run("--init", start) == 0
    receipt = images.read_receipt(tmp_path / "out.png")
    assert receipt["begun"]["name"] == receipt["recipe"]["init"] == "start.png"
    again = tmp_path / "again.png"
    inputs = ["--inputs", str(Path(tiny).parent)]
    assert cli.main(["replay", str(tmp_path / "out.png"), "-o", str(again), *inputs]) == 0
    assert np.array_equal(pixels(again), pixels(tmp_path / "out.png"))


def test_replay_reports_a_changed_input(
    run: Callable[..., int], tiny: str, photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run() == 0
    save_picture(photo, seed=9)
    capsys.readouterr()
    inputs = ["--inputs", str(Path(tiny).parent)]
    assert cli.main(["replay", str(tmp_path / "out.png"), "-o", str(tmp_path / "again.png"), *inputs]) == 1
    assert "photo.png" in capsys.readouterr().err


@pytest.mark.parametrize("of", ["content", "style"])
def test_reconstruct(of: str, photo: Path, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "re.png"
    layers = ["--layers", "relu1_1", "relu2_1"]
    assert cli.main(["reconstruct", str(photo), "--of", of, *layers, "-o", str(out), "--encoder", tiny, *SMALL]) == 0
    recipe = images.read_receipt(out)["recipe"]
    assert recipe[f"{of}_layers"] == ["relu1_1", "relu2_1"]


def test_reconstruct_resumes_and_saves_its_video(photo: Path, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "re.png"
    command = ["reconstruct", str(photo), "--of", "content", "--layers", "relu2_1", "-o", str(out), "--encoder", tiny]
    command += ["--size", "32", "--steps", "4", "--checkpoint-every", "2", "--frame-every", "1", "--quiet"]
    kept = out.with_suffix(".resume")

    def stop(*_: object) -> None:
        shutil.copy(receipts.resume_file(out), tmp_path / "at-2")

    with pytest.MonkeyPatch.context() as patch:
        honest = run_transfer.save_checkpoint
        patch.setattr(run_transfer, "save_checkpoint", lambda *each: (honest(*each), each[3].index == 2 and stop()))
        assert cli.main(command) == 0
    wanted = out.read_bytes()
    assert len(frames(out.with_suffix(".mp4"))) == 4
    (tmp_path / "at-2").rename(kept)
    assert cli.main([*command, "--resume", str(kept)]) == 0
    assert out.read_bytes() == wanted and len(frames(out.with_suffix(".mp4"))) == 2


def test_the_video_of_a_recipe_overwrites_no_other_film(
    run: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    film = tmp_path / "out.mp4"
    film.write_bytes(b"holidays")
    assert run("--frame-every", "1") == 1
    one_line(capsys, "out.mp4: the recipe's video would overwrite it", "--video", only=True)
    assert film.read_bytes() == b"holidays"
    film.unlink()
    for _ in range(2):  # the second run overwrites its own
        assert run("--frame-every", "1") == 0
        assert len(frames(film)) == 2


def test_each_result_of_a_sweep_has_its_video(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--sweep", "1", "2", "--video", tmp_path / "film.mp4") == 0
    assert sorted(path.name for path in tmp_path.glob("film*")) == ["film_1.mp4", "film_2.mp4"]


def test_a_sweep_resumes(
    run: Callable[..., int], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the checkpoint of one result: those before it are not painted again, unless they are missing."""
    sweep = ["--sweep", "1", "2", "3", "--steps", "4", "--checkpoint-every", "2", "--quiet"]
    assert run(*sweep) == 0
    wanted = {path.name: pixels(path).astype(int) for path in tmp_path.glob("out*.png")}
    honest, weights, state = run_transfer.save_checkpoint, list[float](), tmp_path / "out_2.resume"

    def killed(watch: run_transfer.Watch, recipe: recipes.Transfer, *others: Any) -> None:
        honest(watch, recipe, *others)
        weights.append(recipe.style_weight)
        if len(weights) == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_transfer, "save_checkpoint", killed)
    for missing in ([], ["out_1.png"]):
        weights.clear()
        last = 3
        assert run(*sweep) == 130 and state.exists()
        last = 0
        for name in ("out.png", "out_3.png", *missing):
            (tmp_path / name).unlink()
        weights.clear()
        assert run(*sweep, "--resume", state) == 0
        assert weights == [1, 1] * len(missing) + [2, 3, 3]
        assert len(wanted) == len([*tmp_path.glob("out*.png")]) == 10
        for name, before in wanted.items():  # the sheet is made of pictures that were rounded
            assert np.abs(pixels(tmp_path / name) - before).max() <= (name == "out.png")
    weights.clear()
    last = 3
    assert run(*sweep) == 130
    capsys.readouterr()
    assert run(*sweep, "--sweep", "1", "3", "--resume", state) == 1
    one_line(capsys, "differ from the checkpoint: --style-weight")


def test_a_sweep_that_diverges_shows_the_results_before(
    run: Callable[..., int], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = run_transfer.paint

    def paint(inputs: run_transfer.Inputs, recipe: recipes.Transfer, watch: run_transfer.Watch) -> torch.Tensor:
        if recipe.style_weight == 3:
            raise DivergedError("the loss is not finite")
        return honest(inputs, recipe, watch)

    monkeypatch.setattr(run_transfer, "paint", paint)
    assert run("--sweep", "1", "2", "3", "--quiet") == 1
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out.png'}\n" and "not finite" in said.err
    assert opened(tmp_path / "out.png").width > 2 * 32


def test_the_picture_to_start_from_is_not_overwritten(run: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    start = save_picture(tmp_path / "out_0002.png", 32, 21)
    before = start.read_bytes()
    assert run("--init", start, "--checkpoint-every", "2", "--quiet") == 1
    one_line(capsys, "would overwrite the input", only=True)
    assert start.read_bytes() == before


def test_a_study_at_the_pictures_own_size(photo: Path, painting: Path, tiny: str, tmp_path: Path) -> None:
    command = ["study", str(photo), str(painting), "--over", "strengths", "-o", str(tmp_path / "s.png"), "--size", "0"]
    assert cli.main([*command, "--steps", "1", "--encoder", tiny, "--quiet"]) == 0
    assert opened(tmp_path / "s.png").width > 2 * opened(photo).width


@pytest.mark.parametrize("over", ["content", "style", "descent", "strengths"])
def test_study(over: str, photo: Path, painting: Path, tiny: str, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "sheet.png"
    command = ["study", str(photo), str(painting), "--over", over, "-o", str(out), "--size", "32", "--steps", "1"]
    if over == "descent":  # the tiny encoder ends at relu5_1, as the compact one does
        command += ["--quiet"]
    else:
        command += ["--encoder", tiny]
    assert cli.main(command) == 0
    assert opened(out).width > 4 * 32
    assert capsys.readouterr().out == f"{out}\n"


@pytest.mark.parametrize("what", ["recipes", "styles", "contents", "weights"])
def test_list(what: str, capsys: Capture) -> None:
    assert cli.main(["list", what]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_list_shows_the_styles_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["list", "styles"]) == 0
    said = capsys.readouterr().out
    assert said.count("▀") > 12 * 32 * 8 and "Hokusai" in said


def test_help(capsys: Capture) -> None:
    assert cli.main(["pix2pix", "--help"]) == 0
    assert capsys.readouterr().out == "impasto pix2pix train --help\nimpasto pix2pix apply --help\n"
    assert cli.main(["--help"]) == 0
    assert "transfer" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        cli.main(["transfer", "--help", "--recipe", "owl"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "default: 250" in text
    assert "How strongly the style is painted" in text


def test_help_fills_the_lines(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    said = capsys.readouterr().out
    assert "Unreadable ones are skipped" in said  # an option of the command
    assert "it varies the strokes in skies." in said  # a field of the recipe


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["study", "--help"], ["list", "styles"]])
def test_a_closed_pipe_is_no_error(arguments: list[str]) -> None:
    command = [sys.executable, "-u", "-m", "impasto", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        complaints = process.stderr.read()
    assert (process.returncode, complaints) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["study", "--help"], ["list", "styles"]])
def test_output_that_cannot_be_written(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "impasto", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    said = "impasto: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


# Interruption


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "impasto", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},  # as conftest.py sets it here: sums depend on it
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # `nohup make test` ignores it
    )  # fmt: skip


def test_resume_after_kill_gives_the_same_bits(photo: Path, painting: Path, tiny: str, tmp_path: Path) -> None:
    def command(out: Path, *more: str) -> list[str]:
        return ["transfer", str(photo), str(painting), "-o", str(out), "--encoder", tiny, "--size", "64", "--steps",
                "30", "--checkpoint-every", "5", "--quiet", *more]  # fmt: skip

    assert cli.main(command(tmp_path / "whole.png")) == 0
    process = start(command(tmp_path / "cut.png"))
    wait_for((tmp_path / "cut.resume").exists, "cut.resume")  # written after the picture
    process.kill()
    process.communicate()
    assert not (tmp_path / "cut.png").exists()
    assert cli.main(command(tmp_path / "cut.png", "--resume", str(tmp_path / "cut.resume"))) == 0
    assert np.array_equal(pixels(tmp_path / "cut.png"), pixels(tmp_path / "whole.png"))
    assert not (tmp_path / "cut.resume").exists()


@pytest.mark.parametrize("colors", ["none", "luma"])
def test_resume_after_the_last_step_writes_the_picture(
    colors: str, run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, state = tmp_path / "out.png", tmp_path / "out.resume"
    command = ["--steps", "4", "--scales", "0.5", "1", "--keep-colors", colors, "--checkpoint-every", "2"]
    assert run(*command) == 0
    wanted = out.read_bytes()
    out.unlink()
    with monkeypatch.context() as killed:
        killed.setattr(run_transfer, "save", lambda *given: given[3:] and images.write(given[3], given[2]))
        killed.setattr(Path, "unlink", lambda *given, **options: None)
        assert run(*command) == 0
    assert state.exists() and not out.exists()
    assert run(*command, "--resume", state) == 0
    assert out.read_bytes() == wanted and not state.exists()


def test_interrupt_keeps_the_picture_so_far(photo: Path, painting: Path, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    process = start(["transfer", str(photo), str(painting), "-o", str(out), "--encoder", tiny, "--size", "96",
                     "--steps", "100000", "--checkpoint-every", "2"])  # fmt: skip
    wait_for((tmp_path / "out_0002.png").exists, "out_0002.png")
    process.send_signal(signal.SIGINT)
    said, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == str(out)
    assert "stopped at step" in complaint
    assert "Traceback" not in complaint
    assert opened(out).size == (96, 64)


def test_a_film_that_cannot_be_completed_does_not_cost_the_picture(
    run: Callable[..., int], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording.Encoder, "finish", full)
    assert run("--video", tmp_path / "film.mp4", "--quiet") == 1
    one_line(capsys, "film.mp4", "No space left on device", only=True)
    assert opened(tmp_path / "out.png").size == (32, 21)
    assert not (tmp_path / "film.mp4").exists()


def test_divergence_keeps_the_last_good_picture_and_the_film(
    run: Callable[..., int], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = objective.Objective.weigh, []

    def poisoned(*arguments: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms = honest(*arguments)
        return terms if len(calls) < 4 else {name: term * float("nan") for name, term in terms.items()}

    monkeypatch.setattr(objective.Objective, "weigh", poisoned)
    film = tmp_path / "film.mp4"
    settings = ["--optimizer", "adam", "--rate", "0.01", "--steps", "20", "--video", film, "--frame-every", "1"]
    assert run(*settings, "--quiet") == 1
    assert "step 4 of 20" in capsys.readouterr().err
    assert opened(tmp_path / "out.png").size == (32, 21)
    assert len(frames(film)) == 3


# Bad input


def bomb(path: Path) -> None:
    """A small PNG that declares 20000 x 20000 pixels."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )


def bad_pictures(folder: Path) -> dict[str, Path]:
    whole = save_picture(folder / "whole.jpg", 200, 150).read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    (folder / "page.jpg").write_text("<!doctype html><html></html>")
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "folder.png").mkdir()
    bomb(folder / "bomb.png")
    names = [
        "truncated.jpg",
        "empty.png",
        "text.png",
        "page.jpg",
        "drawing.svg",
        "folder.png",
        "bomb.png",
        "missing.jpg",
    ]
    return {name: folder / name for name in names}


BAD_PICTURES = ["truncated.jpg", "empty.png", "text.png", "page.jpg", "drawing.svg", "folder.png", "bomb.png",
                "missing.jpg"]  # fmt: skip


@pytest.mark.parametrize("role", ["content", "style", "mask", "init"])
@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures(name: str, role: str, run: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    bad = bad_pictures(tmp_path)[name]
    (tmp_path / "out.png").write_bytes(b"what was there")
    if role == "content":
        code = run(content=bad)
    elif role == "style":
        code = run(styles=(bad,))
    else:
        code = run({"mask": "--content-masks", "init": "--init"}[role], bad)
    assert code == 1
    one_line(capsys, name)
    assert (tmp_path / "out.png").read_bytes() == b"what was there"


BAD_FLAGS = {
    "negative steps": (["--steps", "-1"], "--steps"),
    "no steps": (["--steps", "0"], "--steps"),
    "negative size": (["--size", "-5"], "--size"),
    "negative strength": (["--strength", "-1"], "--strength"),
    "strength not a number": (["--strength", "nan"], "--strength"),
    "a rate beyond float32": (["--rate", "1e38"], "--rate"),
    "a seed of 67 bits": (["--seed", "100000000000000000000"], "--seed"),
    "a size beyond 64 bits": (["--size", "999999999999999999"], "--size"),
    "strokes beyond the memory": (["--style-scale", "1e9"], "--style-scale"),
    "output is a pipe": (["-o", "{folder}/pipe.png"], "pipe"),
    "output is a loop of links": (["-o", "{folder}/loop.png"], "loop"),
    "output name too long": (["-o", "{folder}/" + 300 * "a" + ".png"], "too long"),
    "output and video are the current folder": (["-o", ".", "--frame-every", "1"], "is a folder"),
    "videos of a sweep are the current folder": (["--video", ".", "--sweep", "1", "2"], ".mp4"),
    "film in a loop of links": (["--video", "{folder}/loop.mp4"], "loop"),
    "endless rate": (["--rate", "inf"], "--rate"),
    "no rate": (["--rate", "0"], "--rate"),
    "no style scale": (["--style-scale", "0"], "--style-scale"),
    "scales that stop short": (["--scales", "0.5"], "--scales"),
    "memory below nothing": (["--memory", "-1"], "--memory"),
    "scales beyond": (["--scales", "2", "1"], "--scales"),
    "unknown recipe": (["--recipe", "vermeer"], "vermeer"),
    "unknown layer": (["--content-layers", "relu9_9"], "relu9_9"),
    "layer by number": (["--style-layers", "22"], "22"),
    "layer beyond the encoder": (["--style-layers", "relu5_4"], "relu5_4"),
    "layer weights miscounted": (["--layer-weights", "1", "2"], "--layer-weights: 2 weights for 5 layers"),
    "style weights miscounted": (["--style-weights", "1", "2"], "2 style weights for 1"),
    "style weights of 0": (["--style-weights", "0"], "must not all be 0"),
    "negative style weight": (["--style-weights", "-1"], "--style-weights"),
    "more masks than styles": (["--content-masks", "{photo}", "{photo}"], "2 content masks for 1"),
    "more style masks than styles": (["--style-masks", "{photo}", "{photo}"], "2 style masks for 1"),
    "unknown encoder": (["--encoder", "resnet"], "resnet"),
    "encoder that is a picture": (["--encoder", "{photo}"], "photo.png"),
    "unknown extension": (["-o", "{folder}/out.bmpx"], "out.bmpx"),
    "no extension": (["-o", "{folder}/out"], "out"),
    "output folder missing": (["-o", "{folder}/none/out.png"], "none"),
    "output is a folder": (["-o", "{folder}"], "is a folder"),
    "film without .mp4": (["--video", "{folder}/film.gif"], "film.gif"),
    "film in a missing folder": (["--video", "{folder}/none/film.mp4"], "none"),
    "a device that is not there": (["--device", "mps" if torch.cuda.is_available() else "cuda"], "--device"),
    "resume from nothing": (["--resume", "{folder}/none.resume"], "none.resume"),
    "resume from a picture": (["--resume", "{photo}"], "photo.png"),
    "recipe from a picture without one": (["--recipe", "{photo}"], "photo.png"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags(case: str, run: Callable[..., int], photo: Path, tmp_path: Path, capsys: Capture) -> None:
    flags, named = BAD_FLAGS[case]
    os.mkfifo(tmp_path / "pipe.png")
    for suffix in ("png", "mp4"):
        (tmp_path / f"loop.{suffix}").symlink_to(tmp_path / f"loop.{suffix}")
    assert run(*(flag.format(photo=photo, folder=tmp_path) for flag in flags)) in (1, 2)
    one_line(capsys, named)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    "flags", [["--stepz", "3"], ["--steps", "many"], ["--keep-colors", "sepia"], ["--device", "abacus"]]
)
def test_unparsable_flags(flags: list[str], run: Callable[..., int], capsys: Capture) -> None:
    assert run(*flags) == 2
    one_line(capsys, f"{flags[0]}")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--size", "big"], "--size must be a whole number, not 'big'; see impasto apply --help"),
        (["--size", "1.5"], "--size must be a whole number, not '1.5'; see"),
        (["--grain", "much"], "--grain must be a number, not 'much'; see"),
        (["--strength", "1,5"], "--strength must be a number, not '1,5'; see"),
    ],
)
def test_words_instead_of_numbers(flags: list[str], told: str, capsys: Capture) -> None:
    assert cli.main(["apply", "a.png", "--style", "udnie", "-o", "out.png", *flags]) == 2
    one_line(capsys, told)


def test_a_misspelt_flag_gets_a_suggestion(run: Callable[..., int], capsys: Capture) -> None:
    assert run("--strenght", "2") == 2
    one_line(capsys, "Unrecognized options: --strenght, 2 Perhaps you meant: --strength FLOAT; see impasto transfer")


@pytest.mark.parametrize("arguments", [["paint"], ["transfer-all", "x"]])
def test_unknown_commands(arguments: list[str], capsys: Capture) -> None:
    assert cli.main(arguments) == 2
    one_line(capsys, arguments[0])


def test_no_style(photo: Path, tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["transfer", str(photo), "-o", str(tmp_path / "out.png")]) == 1
    one_line(capsys, "a style is needed")


@pytest.mark.parametrize("damage", ["nan", "shape", "missing", "truncated", "text", "other"])
def test_bad_weights(damage: str, run: Callable[..., int], tiny: str, tmp_path: Path, capsys: Capture) -> None:
    state, bad = load_file(tiny), tmp_path / "bad.safetensors"
    if damage == "nan":
        state["conv2_1.weight"][0, 0, 0, 0] = float("nan")
    elif damage == "shape":
        state["conv2_1.weight"] = torch.zeros(4, 4, 5, 5)
    elif damage == "missing":
        del state["conv2_1.bias"]
    elif damage == "other":
        state = {"classifier.weight": torch.zeros(2, 2)}
    save_file(state, bad)
    if damage == "truncated":
        bad.write_bytes(bad.read_bytes()[:400])
    elif damage == "text":
        bad.write_text("no weights")
    assert run("--encoder", bad) == 1
    one_line(capsys, "bad.safetensors")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 400), (400, 1), (3, 2)])
def test_the_smallest_pictures_are_painted(width: int, height: int, run: Callable[..., int], tmp_path: Path) -> None:
    content = save_picture(tmp_path / "small.png", width, height)
    assert run("--size", "0", content=content) == 0
    assert opened(tmp_path / "out.png").size == (width, height)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_any_kind_of_picture_is_painted(mode: str, run: Callable[..., int], tmp_path: Path) -> None:
    picture = opened(save_picture(tmp_path / "any.png"))
    suffix = "tif" if mode == "CMYK" else "png"
    converted = (
        Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    )
    converted.save(tmp_path / f"any.{suffix}")
    assert run(content=tmp_path / f"any.{suffix}") == 0
    assert opened(tmp_path / "out.png").size == (32, 21)


def test_styles_and_masks_of_other_sizes(run: Callable[..., int], tmp_path: Path) -> None:
    style = save_picture(tmp_path / "large.jpg", 300, 500)
    mask = save_picture(tmp_path / "mask.png", 77, 13, mode="L")
    assert run("--content-masks", mask, "--style-masks", mask, styles=(style,)) == 0


def test_animations_give_their_first_frame_with_a_note(
    run: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    frames = [opened(save_picture(tmp_path / f"{seed}.png", seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert run(content=tmp_path / "moving.gif") == 0
    assert "only the first frame" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["content", "style", "--content-masks", "--init", "--recipe", "--resume", "--encoder"])
def test_pipes_and_devices_are_refused_at_once(
    role: str, run: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    suffix = {"--recipe": "json", "--encoder": "pth"}.get(role, "png")
    pipe, zeros = tmp_path / f"pipe.{suffix}", tmp_path / f"zeros.{suffix}"
    os.mkfifo(pipe)
    zeros.symlink_to("/dev/zero")
    for path in (pipe, zeros):
        given = {"content": path} if role == "content" else {"styles": (path,)} if role == "style" else {}
        assert run(*([] if given else [role, path]), **given) == 1
        one_line(capsys, path.stem)


@pytest.mark.parametrize("name", ["pipe.csv", "pipe.npy", "pipe.safetensors"])
def test_commands_refuse_pipes(name: str, tmp_path: Path) -> None:
    pipe, out = tmp_path / name, str(tmp_path / "out")
    os.mkfifo(pipe)
    command = {
        "pipe.csv": ["transfer", str(pipe), "-o", out],
        "pipe.npy": ["pix2pix", "apply", "colorize", str(pipe), "-o", f"{out}.png"],
        "pipe.safetensors": ["export", str(pipe), "-o", f"{out}.onnx"],
    }[name]
    done = subprocess.run([sys.executable, "-m", "impasto", *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and name in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("role", ["content", "style", "mask"])
def test_inputs_are_never_overwritten(role: str, run: Callable[..., int], photo: Path, painting: Path, tmp_path: Path,
                                      capsys: Capture) -> None:  # fmt: skip
    mask = save_picture(tmp_path / "mask_0001.png", mode="L")
    before = {path: path.read_bytes() for path in (photo, painting, mask)}
    out = {"content": photo, "style": painting, "mask": tmp_path / "mask.png"}[role]
    assert run("-o", out, "--style-masks", mask, "--checkpoint-every", "1") == 1
    one_line(capsys, "would overwrite the input", only=True)
    assert before == {path: path.read_bytes() for path in before}


def test_what_cannot_be_written_is_kept(
    run: Callable[..., int], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills during the run: the picture goes to the folder for temporary files, and the error says so."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    real, calls = files.atomic, []

    def full(path: Path) -> Any:
        calls.append(path)
        if Path(path).parent == tmp_path:
            raise OSError(28, "No space left on device", str(path))
        return real(path)

    monkeypatch.setattr(images, "atomic", full)
    assert run("--quiet") == 1
    (kept,) = elsewhere.iterdir()
    one_line(capsys, "out.png: cannot be written (No space left on device)", f"kept as {kept}", only=True)
    assert opened(kept).size == (32, 21)
    assert images.read_receipt(kept)["command"] == "transfer"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_other_signals_act_as_ctrl_c(name: str, photo: Path, painting: Path, tiny: str, tmp_path: Path) -> None:
    out, moving = tmp_path / "out.png", tmp_path / "moving.mp4"
    process = start(["transfer", str(photo), str(painting), "-o", str(out), "--encoder", tiny, "--size", "96",
                     "--steps", "100000", "--checkpoint-every", "2", "--video", str(moving),
                     "--frame-every", "1"])  # fmt: skip
    wait_for((tmp_path / "out_0002.png").exists, "out_0002.png")
    process.send_signal(getattr(signal, name))
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped at step" in complaint and "Traceback" not in complaint
    assert opened(out).size == (96, 64) and moving.stat().st_size
    assert not [*tmp_path.glob(".impasto*")]


def test_a_name_that_the_terminal_cannot_show(photo: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "b\u00fcro \u65e5.png"
    command = [sys.executable, "-m", "impasto", "apply", str(photo), "--style", str(model), "-o", str(out), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith("b\\xfcro \\u65e5.png") and out.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_keeps_earlier_files(
    run: Callable[..., int], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.png").write_bytes(b"what was there")
    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: real(Path("/dev/full"), data))
    assert run() == 1
    monkeypatch.undo()
    one_line(capsys, "out.png", "No space left", only=True)  # found before any work
    assert (tmp_path / "out.png").read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root can write anywhere")
def test_an_unwritable_folder(run: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert run("-o", locked / "out.png") == 1
    one_line(capsys, "locked")


def test_neither_the_initial_picture_nor_another_file_is_overwritten(
    run: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    before = save_picture(tmp_path / "out.png", seed=5).read_bytes()
    assert run("--init", tmp_path / "out.png") == 1
    one_line(capsys, "out.png: is also an input", only=True)
    assert (tmp_path / "out.png").read_bytes() == before
    assert run("--sweep", "1", "2", content=tmp_path / "out.png") == 1
    one_line(capsys, "out.png: would overwrite the input", only=True)
    assert (tmp_path / "out.png").read_bytes() == before
    (tmp_path / "out.resume").mkdir()  # a half-done out.mp4
    assert run("--checkpoint-every", "1") == 1
    one_line(capsys, "out.resume: is needed for the checkpoint, but holds something else", only=True)
    assert run() == 0 and (tmp_path / "out.resume").is_dir()


def test_resume_with_other_settings_is_refused(run: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    assert run("--checkpoint-every", "1", "--steps", "3") == 0
    state = tmp_path / "kept.resume"
    arguments = ["--checkpoint-every", "1", "--steps", "3"]
    from impasto.runs import receipts

    unlink = Path.unlink
    session_file = receipts.resume_file(tmp_path / "out.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path, **k: None if path == session_file else unlink(path, **k))
        assert run(*arguments) == 0
    session_file.rename(state)
    capsys.readouterr()
    assert run(*arguments, "--resume", state, "--strength", "0.5") == 1
    one_line(capsys, "--strength")
    assert run(*arguments, "--resume", state, content=save_picture(tmp_path / "other.png", seed=4)) == 1
    one_line(capsys, "content")


def test_torch_is_imported_only_when_needed_without_garbage_collection_and_with_few_spins() -> None:
    code = """
import gc, sys
from impasto.cli import main
main(["list", "recipes"])
assert "torch" not in sys.modules and not gc.get_freeze_count()
main(["replay", "nothing.png", "-o", "out.png"])
assert "torch" in sys.modules and gc.isenabled() and gc.get_freeze_count()
"""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, env=environment | {"OMP_DISPLAY_ENV": "verbose"}
    )
    assert sys.platform != "linux" or b"GOMP_SPINCOUNT = '5000'" in done.stderr  # what the library read


def test_the_users_own_way_of_waiting_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    cli.share_cores()
    assert "GOMP_SPINCOUNT" not in os.environ
