"""pix2pix from the command line: training, resuming, applying, exporting, and mistakes."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT
from typing import Any

import numpy as np
import pytest
import torch
from conftest import film, frames, one_line, opened, save_picture
from PIL import Image

from impasto import cli, images, pairs as pairing, pix2pix, steady
from impasto.errors import DivergedError, OutputError
from impasto.generators import Shape, UNet
from impasto.pix2pix import Model
from impasto.runs.pix2pix import Translator

Capture = pytest.CaptureFixture[str]
SMALL = ["--generator", "unet16", "--width", "2", "--critic-width", "2", "--critic-layers", "1"]
SMALL += ["--load", "18", "--crop", "16", "--steps", "4", "--quiet"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pairs").mkdir()
    for seed in range(4):
        save_picture(tmp_path / "pairs" / f"{seed}.png", 64, 32, seed=seed)
    return tmp_path / "pairs"


@pytest.fixture
def train(folder: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*flags: str) -> int:
        command = ["pix2pix", "train", str(folder), "-o", str(tmp_path / "mine.safetensors"), *SMALL]
        return cli.main([*command, "--validation", "0.25", *flags])

    return run


def test_a_training_whose_last_weights_are_not_finite_fails(
    train: Callable[..., int], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: object) -> None:
        raise DivergedError("weights are not finite")

    monkeypatch.setattr(pix2pix, "save", save)
    assert train() == 1
    one_line(capsys, "not finite", only=True)
    assert not (tmp_path / "mine.safetensors").exists()


def test_a_film_by_a_grey_network_stays_grey() -> None:
    torch.manual_seed(0)
    network = Model(UNet(Shape(width=2, depth=3, outputs=1)), "given", {})
    translator, carrier = Translator(network, None, False, torch.device("cpu")), steady.Carrier()
    for seed in range(2):
        frame = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(seed))
        painted = translator(frame, settle=carrier)
        assert painted.shape == frame.shape
        assert torch.equal(painted[:, 0], painted[:, 1]) and torch.equal(painted[:, 0], painted[:, 2])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    pix2pix.save(tmp_path / "model.safetensors", Model(UNet(Shape(width=2, depth=3)), "given", {}))
    return tmp_path / "model.safetensors"


def test_train_and_apply(
    train: Callable[..., int], folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("impasto.runs.torchrun.EVERY", 2)
    assert train() == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "mine.safetensors")]
    assert not (tmp_path / "mine.resume").exists()
    with (tmp_path / "mine.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2.0", "4.0"]
    names = {"step", "real", "fake", "l1", "gan", "held-out l1", "held-out psnr", "held-out ssim"}
    assert set(rows[0]) == names and all(float(value) for row in rows for value in row.values())
    assert opened(tmp_path / "mine.png").height > 120 * 7  # the pictures, and seven curves
    made = pix2pix.load(tmp_path / "mine.safetensors")
    assert made.metadata["steps"] == "4" and made.metadata["learnt"] == "3" and "held-out ssim" in made.metadata
    out = tmp_path / "out.png"
    command = ["pix2pix", "apply", str(tmp_path / "mine.safetensors"), str(folder / "0.png"), "-o", str(out)]
    assert cli.main(command) == 0
    assert opened(out).size == (64, 32)
    assert images.read_receipt(out)["command"] == "pix2pix apply"
    first = out.read_bytes()
    assert cli.main(command) == 0 and out.read_bytes() == first
    assert cli.main([*command, "--seed", "1"]) == 0 and out.read_bytes() != first
    capsys.readouterr()
    assert cli.main(["replay", str(out), "-o", str(tmp_path / "again.png")]) == 1
    one_line(capsys, "pix2pix apply", only=True)


def test_resume_is_exact_to_the_bit(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("impasto.runs.torchrun.EVERY", 2)
    assert train() == 0
    whole, table = pix2pix.load(tmp_path / "mine.safetensors"), (tmp_path / "mine.csv").read_bytes()
    presses = iter([False, True])
    monkeypatch.setattr("impasto.runs.terminal.interruption", lambda: _pressed(presses))
    assert train() == 130
    state = torch.load(tmp_path / "mine.resume")
    monkeypatch.undo()
    for damaged in ({}, {"history": 3}, {"history": [3]}, {"history": [{"step": "one"}]}):
        torch.save({**{name: fact for name, fact in state.items() if name != "history"}, **damaged}, tmp_path / "torn")
        shutil.move(tmp_path / "mine.resume", tmp_path / "kept")
        shutil.move(tmp_path / "torn", tmp_path / "mine.resume")
        capsys.readouterr()
        assert train("--resume") == 1
        one_line(capsys, "mine.resume: not a checkpoint of this training", only=True)
        shutil.move(tmp_path / "kept", tmp_path / "mine.resume")
    monkeypatch.setattr("impasto.runs.torchrun.EVERY", 2)
    capsys.readouterr()
    assert train("--resume", "--rate", "1") == 1
    one_line(capsys, "mine.resume", "other settings", only=True)
    assert train("--resume") == 0
    resumed = pix2pix.load(tmp_path / "mine.safetensors")
    assert resumed.metadata == whole.metadata and (tmp_path / "mine.csv").read_bytes() == table
    ours, theirs = whole.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_training_among_its_pairs(
    train: Callable[..., int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """It leaves out its own files. Names need not be UTF-8."""
    monkeypatch.setattr("impasto.runs.torchrun.EVERY", 2)
    os.rename(folder / "0.png", os.fsencode(folder) + b"/\xe9.png")
    (folder / "mine.csv").write_text("a table")
    out = str(folder / "mine.safetensors")
    assert train("-o", out) == 1
    one_line(capsys, "mine.csv: is needed for the training, but holds something else", only=True)
    (folder / "mine.csv").unlink()
    presses = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr("impasto.runs.terminal.interruption", lambda: _pressed(presses))
        assert train("-o", out) == 130
    assert train("-o", out, "--resume") == 0
    assert pix2pix.load(out).metadata["learnt"] == "3" and "left out" not in capsys.readouterr().err


class _pressed:
    def __init__(self, presses: object) -> None:
        self.presses = presses

    def __enter__(self) -> Callable[[], bool]:
        return lambda: next(self.presses)  # type: ignore[call-overload, no-any-return]

    def __exit__(self, *error: object) -> None:
        pass


def test_two_folders_and_other_pairs(tmp_path: Path, folder: Path, capsys: Capture) -> None:
    (tmp_path / "targets").mkdir()
    for path in folder.iterdir():
        save_picture(tmp_path / "targets" / path.with_suffix(".jpg").name, 64, 32, seed=9)
    save_picture(folder / "single.png")
    (folder / "notes.txt").write_text("no picture")
    save_picture(tmp_path / "targets" / "unpaired.png")
    out = tmp_path / "mine.safetensors"
    command = ["pix2pix", "train", str(folder), "-o", str(out), *SMALL]
    assert cli.main([*command, "--targets", str(tmp_path / "targets"), "--validation", "0"]) == 0
    said = capsys.readouterr().err
    assert "left out 2 (without a partner): single.png, unpaired.png" in said
    assert "left out 1 (no pictures): notes.txt" in said
    assert cli.main([*command, "--recipe", "edges", *SMALL, "--batch", "1"]) == 0
    picture = tmp_path / "out.png"
    assert cli.main(["pix2pix", "apply", str(out), str(folder / "0.png"), "-o", str(picture), "--trace"]) == 0
    assert opened(picture).size == (64, 32)
    assert cli.main([*command, "--recipe", "colorize", *SMALL, "--batch", "1"]) == 0
    assert pix2pix.load(out).kind == "colorize"


@pytest.mark.parametrize(("inputs", "outputs", "name"), [(3, 5, "out.tif"), (3, 2, "out.npy"), (2, 3, "out.tif")])
def test_a_result_of_any_channels_that_cannot_be_written_is_kept_beside(
    inputs: int, outputs: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = Model(UNet(Shape(inputs=inputs, outputs=outputs, width=2, depth=3)), "given", {})
    translator = Translator(network, None, False, torch.device("cpu"))
    np.save(tmp_path / "in.npy", np.full((8, 8, inputs), 0.5, np.float32))
    out, honest = tmp_path / name, Path.replace

    def full(path: Path, to: Path) -> Path:
        if to == out:
            raise OSError(28, "No space left on device")
        return honest(path, to)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=rf"{name}: .*No space left.*; what was made is kept as") as failure:
        translator.file(tmp_path / "in.npy", out)
    assert not out.exists()
    assert pairing.read(Path(str(failure.value).partition("kept as ")[2]), outputs).shape == (1, outputs, 8, 8)


def test_many_channels(tmp_path: Path) -> None:
    import numpy as np

    for name, channels in (("A", 2), ("B", 5)):
        (tmp_path / "deep" / name).mkdir(parents=True)
        for index in range(2):
            np.save(tmp_path / "deep" / name / f"{index}.npy", np.full((32, 32, channels), 0.5, np.float32))
    out = tmp_path / "mine.safetensors"
    channels = ["--inputs", "2", "--outputs", "5", "--validation", "0"]
    assert cli.main(["pix2pix", "train", str(tmp_path / "deep"), "-o", str(out), *SMALL, *channels]) == 0
    source = str(tmp_path / "deep" / "A" / "0.npy")
    assert cli.main(["pix2pix", "apply", str(out), source, "-o", str(tmp_path / "out.tif")]) == 0
    assert pairing.read(tmp_path / "out.tif", 5).shape == (1, 5, 32, 32)


def test_a_folder_and_a_film(model: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "0.png").rename(folder / "0.bmp.png")
    assert cli.main(["pix2pix", "apply", str(model), str(folder), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    source = film(tmp_path / "film.mp4", count=2)
    assert cli.main(["pix2pix", "apply", str(model), str(source), "-o", str(tmp_path / "out.mp4"), "--quiet"]) == 0


def test_a_film_is_not_continued_by_another_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    source = film(tmp_path / "film.mp4", count=4)
    other = tmp_path / "other.safetensors"
    pix2pix.save(other, Model(UNet(Shape(width=2, depth=3)), "given", {}))

    def translate(model: Path, *flags: str) -> int:
        return cli.main(["pix2pix", "apply", str(model), str(source), "-o", str(tmp_path / "out.mp4"), *flags])

    honest, calls = pix2pix.apply, iter(range(9))

    def interrupting(*arguments: Any, **options: Any) -> torch.Tensor:
        if next(calls) == 2:
            os.kill(os.getpid(), SIGINT)
        return honest(*arguments, **options)

    monkeypatch.setattr(pix2pix, "apply", interrupting)
    assert translate(model) == 130
    for another, flags in ((other, []), (model, ["--seed", "1"])):
        capsys.readouterr()
        assert translate(another, *flags, "--resume") == 1
        one_line(capsys, "out.resume: from another film or other settings", only=True)
    assert translate(model, "--resume") == 0 and len(frames(tmp_path / "out.mp4")) == 4


def test_training_overwrites_nothing_else(train: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.resume").write_text("a diary")
    assert train() == 1
    one_line(capsys, "mine.resume: is needed for the checkpoint, but holds something else", only=True)
    assert (tmp_path / "mine.resume").read_text() == "a diary"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--generator", "unet100"], "--generator"),
        (["--crop", "24"], "--crop"),
        (["--recipe", "cats"], "cats"),
        (["--dropout", "2"], "--dropout"),
        (["--targets", "nowhere"], "nowhere: not a folder"),
        (["-o", "model.png"], "model.png"),
    ],
)
def test_bad_train_arguments(train: Callable[..., int], flags: list[str], named: str, capsys: Capture) -> None:
    assert train(*flags) == 1
    one_line(capsys, named, only=True)


def test_bad_apply_arguments(model: Path, photo: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["pix2pix", "apply", str(model), str(photo), "-o"]
    out = str(tmp_path / "a.png")
    for more, named in (
        ([out, "--trace"], "--trace"), (["nowhere/a.png"], "nowhere"), ([out, "--seed", f"1{20 * '0'}"], "--seed")
    ):  # fmt: skip
        assert cli.main([*command, *more]) == 1
        one_line(capsys, named, only=True)
    assert cli.main(["pix2pix", "apply", "cats", str(photo), "-o", str(tmp_path / "a.png")]) == 1
    one_line(capsys, "cats: neither a bundled model", only=True)
    assert cli.main(["pix2pix"]) == 2
    one_line(capsys, "train or apply", only=True)


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_the_direction(direction: str, train: Callable[..., int], folder: Path, tmp_path: Path) -> None:
    """The preview's first picture is the input: the left half of a pair, or the right one."""
    for path in folder.iterdir():
        picture = Image.new("RGB", (64, 32), "red")
        picture.paste("blue", (32, 0, 64, 32))
        picture.save(path)
    assert train("--direction", direction) == 0
    sheet = np.asarray(Image.open(tmp_path / "mine.png").convert("RGB")).reshape(-1, 3)
    first = next(pixel for pixel in sheet.tolist() if max(pixel) > 200 and min(pixel) < 50)
    assert np.argmax(first) == (0 if direction == "AtoB" else 2)


def test_export(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    assert cli.main(["export", str(model), "-o", str(tmp_path / "model.onnx")]) == 0
    assert (tmp_path / "model.onnx").stat().st_size > 1000


def test_torchrun_equals_one_process(folder: Path, tmp_path: Path) -> None:
    """Two processes with a pair each give what one gives with both: with instance normalisation, without dropout."""
    flags = [*SMALL, "--batch", "2", "--norm", "instance", "--dropout", "0", "--validation", "0", "--device", "cpu"]
    flags += ["--precision", "float32", "--steps", "20", "--rate", "0.005"]
    begun, one, two = (tmp_path / f"{name}.safetensors" for name in ("begun", "one", "two"))
    assert cli.main(["pix2pix", "train", str(folder), "-o", str(one), *flags]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "impasto"]
    command += ["pix2pix", "train", str(folder), "-o", str(two), *flags]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(two)]
    assert cli.main(["pix2pix", "train", str(folder), "-o", str(begun), *flags, "--steps", "1"]) == 0
    first, ours, theirs = (
        torch.cat([weight.flatten() for weight in pix2pix.load(path).network.state_dict().values()])
        for path in (begun, one, two)
    )
    apart, learnt = (ours - theirs).abs().mean(), (ours - first).abs().mean()
    assert apart < 0.05 * learnt and learnt > 0.005, (apart, learnt)
