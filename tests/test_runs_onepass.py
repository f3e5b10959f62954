"""Training and applying from the command line."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGINT
from typing import Any

import pytest
import torch
from conftest import film, frames, one_line, opened, save_picture
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from impasto import cli, files, images, interop, onepass, weights
from impasto.errors import ImageError, InputError
from impasto.runs import folders, onepass as run_onepass

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.jpg", "inner/c.png")):
        save_picture(tmp_path / "photos" / name, 80, 70, seed=seed)
    return tmp_path / "photos"


@pytest.fixture
def train(folder: Path, painting: Path, tmp_path: Path, tiny: str) -> Callable[..., int]:
    def run(*flags: str) -> int:
        fixed = ["--photos", str(folder), "-o", str(tmp_path / "mine.safetensors"), "--encoder", tiny]
        small = ["--steps", "3", "--batch", "1", "--crop", "64", "--style-size", "64", "--quiet"]
        return cli.main(["train", str(painting), *fixed, *small, *flags])

    return run


def test_train_and_apply(train: Callable[..., int], folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    assert train() == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(tmp_path / "mine.safetensors")
    assert "1 of 4 pictures could not be read" in said.err
    assert not (tmp_path / "mine.resume").exists()
    out = tmp_path / "out.jpg"
    assert (
        cli.main(["apply", str(folder / "b.jpg"), "--style", str(tmp_path / "mine.safetensors"), "-o", str(out)]) == 0
    )
    assert opened(out).size == (80, 70)
    receipt = images.read_receipt(out)
    assert receipt["command"] == "apply"
    assert receipt["models"][0]["sha256"] == weights.sha256(tmp_path / "mine.safetensors")


def test_a_training_among_its_photographs(
    train: Callable[..., int], folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves out its own files, and names what else it leaves out. It overwrites nothing of others."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("impasto.runs.torchrun.EVERY", 1)
    save_picture(folder / "mine.png", seed=7)
    before = (folder / "mine.png").read_bytes()
    inside = ["--photos", str(folder), "-o", "mine.safetensors"]
    assert train(*inside) == 1
    one_line(capsys, "mine.png: is needed for the training, but holds something else", only=True)
    assert (folder / "mine.png").read_bytes() == before
    (folder / "mine.png").unlink()
    (folder / "film.mp4").write_bytes(b"")
    honest = onepass.save

    def cut(*given: Any) -> None:
        honest(*given)
        os.kill(os.getpid(), SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(onepass, "save", cut)
        assert train(*inside) == 130
    assert {path.name for path in folder.glob("mine.*")} == {"mine.png", "mine.resume", "mine.safetensors"}
    said = capsys.readouterr().err
    assert "left out 1 (films): film.mp4" in said and "no pictures" not in said
    assert train(*inside, "--resume") == 0
    assert train() == 0  # elsewhere, with the same pictures and one more
    assert onepass.load("mine.safetensors").metadata["photographs"] == "3"


def test_more_photographs_than_are_used(
    train: Callable[..., int], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("impasto.runs.onepass.PHOTOGRAPHS", 2)
    assert train() == 0
    assert "3 pictures found; one in 2 is used" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_black_and_white_pictures(
    train: Callable[..., int], folder: Path, tmp_path: Path, capsys: Capture, precision: str
) -> None:
    """Pictures of a single colour are skipped, and so are crops of a single colour."""
    for name in ("black", "white"):
        Image.new("RGB", (90, 80), name).save(folder / f"{name}.png")
        part = Image.new("RGB", (500, 100), name)
        part.paste(opened(folder / "a.png"), (0, 0))
        part.save(folder / f"mostly-{name}.png")
    assert train("--steps", "12", "--precision", precision) == 0
    said = capsys.readouterr().err
    assert "2 of 7 pictures have no contrast" in said and "crops without contrast were replaced" in said
    assert all(tensor.isfinite().all() for tensor in onepass.load(tmp_path / "mine.safetensors").network.parameters())


def test_a_folder_without_contrast(train: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "black").mkdir()
    Image.new("RGB", (90, 80)).save(tmp_path / "black" / "a.png")
    assert train("--photos", str(tmp_path / "black")) == 1
    one_line(capsys, "no picture with contrast", only=True)


def test_a_training_that_diverges(
    train: Callable[..., int], tiny: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the loss is not finite at any rate, here as the encoder overflows: one line, and earlier files are kept."""
    monkeypatch.setattr("impasto.runs.torchrun.EVERY", 1)
    assert train() == 0
    before = (tmp_path / "mine.safetensors").read_bytes()
    capsys.readouterr()
    with safe_open(tiny, "pt") as file:
        large = {name: 1e25 * file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(large, tmp_path / "large.safetensors", file.metadata())
    assert train("--encoder", str(tmp_path / "large.safetensors")) == 1
    one_line(capsys, "not finite", "lower rate", only=True)
    assert (tmp_path / "mine.safetensors").read_bytes() == before


def test_a_folder(model: Path, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    command = ["apply", str(folder), "--style", str(model), "-o", str(out), "--quiet"]
    assert cli.main([*command, "--grain", "2"]) == 1
    one_line(capsys, "--grain", only=True)
    assert not out.exists()
    assert cli.main(command) == 1
    complaint = capsys.readouterr().err
    assert "broken.png" in complaint and "1 of 4 could not be repainted" in complaint
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == ["a.png", "b.jpg", "inner/c.png"]
    (folder / "broken.png").unlink()
    before = (out / "a.png").stat().st_mtime_ns
    (out / "b.jpg").unlink()
    assert cli.main([*command, "--resume"]) == 0
    assert (out / "b.jpg").exists() and (out / "a.png").stat().st_mtime_ns == before


def test_a_mask_that_limits_nothing(apply: Callable[..., int], photo: Path, tmp_path: Path, capsys: Capture) -> None:
    Image.new("L", (48, 32), 255).save(tmp_path / "white.png")
    assert apply(photo, "--masks", tmp_path / "white.png", out=tmp_path / "out.png") == 0
    assert "white.png: has one value everywhere" in capsys.readouterr().err


def painted(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


@pytest.fixture
def apply(model: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs `impasto apply` on inputs, into the folder "out" if no other is given."""

    def run(*arguments: str | Path, out: Path = tmp_path / "out") -> int:
        return cli.main(["apply", *map(str, arguments), "--style", str(model), "-o", str(out), "--quiet"])

    return run


def test_a_folder_of_all_kinds_of_files(apply: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    """Every readable format is painted, and what is left out is named and counted."""
    (mixed := tmp_path / "mixed").mkdir()
    for name in ("a.avif", "b.jp2", "c.qoi", "d.jfif"):
        save_picture(mixed / name, 40, 40)
    frames = [opened(mixed / "c.qoi"), opened(mixed / "a.avif").rotate(90)]
    for name in ("moving.gif", "moving.webp"):
        frames[0].save(mixed / name, save_all=True, append_images=frames[1:])
    for name in ("._a.jpg", "film.mov", "notes.txt", "photo.nef"):
        (mixed / name).write_bytes(b"no picture")
    assert apply(mixed) == 0
    assert painted(tmp_path / "out") == [
        "a.avif.png", "b.jp2.png", "c.qoi.png", "d.jfif.png", "moving.gif.png", "moving.webp",
    ]  # fmt: skip
    said = capsys.readouterr().err
    for words in ("left out 1 (films", ": film.mov", "left out 1 (RAW", ": photo.nef", "(no pictures): notes.txt",
                  "only the first frame", "the same for 1 more"):  # fmt: skip
        assert words in said
    assert "._a.jpg" not in said


def test_a_folder_without_pictures(apply: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mov").touch()
    assert apply(tmp_path / "films") == 1
    said = capsys.readouterr().err
    assert "left out 1 (films" in said and "films: no picture to repaint" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["", "..", "inner"])
def test_originals_are_not_overwritten(
    apply: Callable[..., int], folder: Path, where: str, tmp_path: Path, capsys: Capture
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert apply(folder, out=folder / where) == 1
    one_line(capsys, str(folder / where), "choose another folder", only=True)
    assert before == {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert apply(folder / "a.png", out=folder / "a.png") == 1
    one_line(capsys, "a.png", "is also an input", only=True)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a.png").symlink_to(folder / "a.png")
    assert apply(folder, out=linked) == 1
    one_line(capsys, "a.png", "is also an input", only=True)
    assert before == {path: path.read_bytes() for path in folder.rglob("*.*")}


def test_results_inside_the_input_are_not_painted_again(apply: Callable[..., int], folder: Path) -> None:
    for _ in range(2):
        assert apply(folder, out=folder / "painted") == 0
        assert painted(folder / "painted") == ["a.png", "b.jpg", "inner/c.png"]


def test_several_inputs(apply: Callable[..., int], folder: Path, tmp_path: Path, capsys: Capture) -> None:
    moving = film(tmp_path / "moving.avi", count=2)
    assert apply(folder / "a.png", moving, "chelsea", folder / "inner", tmp_path / "none.png") == 1
    assert painted(tmp_path / "out") == ["a.png", "chelsea.png", "inner/c.png", "moving.mp4"]
    said = capsys.readouterr().err
    assert "none.png: does not exist" in said and "1 of 5 could not be repainted" in said
    other = save_picture(tmp_path / "a.png")
    assert apply(folder / "a.png", other) == 1
    one_line(capsys, f"{folder / 'a.png'}, {other}: both results", only=True)
    assert apply(folder / "a.png", other, out=other) == 1
    one_line(capsys, "must be a folder", only=True)
    assert apply() == 1
    one_line(capsys, "an input is needed", only=True)


@pytest.mark.parametrize(("out", "there"), [(".", "a/b"), ("..", "a"), ("../new", "a/new")])
def test_a_folder_of_results_without_a_name(
    out: str, there: str, apply: Callable[..., int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert apply(folder / "inner", out=Path(out)) == 0
    assert painted(tmp_path / there) == ["c.png"]


def test_lack_of_memory_ends_one_picture(
    apply: Callable[..., int], folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = onepass.apply

    def short(image: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        if image.shape[-1] == 300:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return honest(image, *arguments, **options)

    save_picture(folder / "huge.png", 300, 10)
    monkeypatch.setattr(onepass, "apply", short)
    assert apply(folder) == 1
    assert painted(tmp_path / "out") == ["a.png", "b.jpg", "inner/c.png"]
    said = capsys.readouterr().err
    assert "huge.png: not enough memory" in said and "1 of 4 could not be repainted" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("too narrow"), "{path}: too narrow"),
        (ImageError("odd.png, odd.mp4: no more"), "odd.png, odd.mp4: no more"),
        (MemoryError(), "{path}: not enough memory; make it smaller"),
    ],
)
@pytest.mark.parametrize("kind", ["picture", "film"])
def test_an_error_ends_only_its_file(
    kind: str, error: Exception, said: str, apply: Callable[..., int], folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Capture,
) -> None:  # fmt: skip
    odd = film(tmp_path / "odd.mp4", count=2) if kind == "film" else save_picture(tmp_path / "odd.png", 64, 48)
    other = film(tmp_path / "other.mp4", width=80, height=60, count=2)
    honest = onepass.apply

    def failing(image: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if image.shape[-2:] == (48, 64):
            raise error
        return honest(image, *arguments, **options)

    monkeypatch.setattr(onepass, "apply", failing)
    assert apply(odd, folder / "a.png", other) == 1
    assert painted(tmp_path / "out") == ["a.png", "other.mp4"]
    lines = capsys.readouterr().err.splitlines()
    assert f"impasto: {said.format(path=odd)}" in lines
    assert lines[-1] == f"impasto: 1 of 3 could not be repainted: {odd.name}"


def test_memory_that_others_needed_is_tried_again(
    apply: Callable[..., int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, tries = run_onepass.Painter.file, []

    def short(painter: run_onepass.Painter, path: Path, *others: Any) -> object:
        tries.append(path.name)
        if tries.count("a.png") == 1 and path.name == "a.png":
            raise MemoryError
        return honest(painter, path, *others)

    monkeypatch.setattr(run_onepass.Painter, "file", short)
    assert apply(folder) == 0
    assert painted(tmp_path / "out") == ["a.png", "b.jpg", "inner/c.png"]
    assert tries[-1] == "a.png" and len(tries) == 4


def test_pictures_are_painted_side_by_side(
    apply: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, honest = threading.Barrier(2, timeout=20), onepass.apply
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    (folder / "b.jpg").unlink()

    def paint(*arguments: Any, **options: Any) -> torch.Tensor:
        together.wait()  # breaks if only one is painted at a time
        return honest(*arguments, **options)

    monkeypatch.setattr(onepass, "apply", paint)
    assert apply(folder) == 0


def test_large_pictures_are_painted_alone() -> None:
    room, inside, most = folders.Room(100), [], []

    def work(pixels: int) -> None:
        with room.hold(pixels):
            inside.append(pixels)
            most.append(sum(inside))
            time.sleep(0.002)
            inside.remove(pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [40, 300, 50, 60, 10, 200, 30, 100, 40]))
    assert all(total <= 100 or total in (200, 300) for total in most) and len(most) == 9


def test_a_full_disk_ends_the_folder(
    apply: Callable[..., int], tmp_path: Path, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "write", lambda path, *a, **k: files.check_output(Path("/proc/nothing.png")))
    assert apply(folder) == 1
    one_line(capsys, "cannot be written", only=True)


def test_keep_colors_and_strength(model: Path, folder: Path, tmp_path: Path) -> None:
    command = ["apply", str(folder / "a.png"), "--style", str(model), "-o", str(tmp_path / "out.png")]
    assert cli.main([*command, "--strength", "0"]) == 0
    same, photo = (images.read(path).image for path in (tmp_path / "out.png", folder / "a.png"))
    assert torch.equal(same, photo)
    assert cli.main([*command, "--keep-colors", "luma"]) == 0


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--steps", "0"], "--steps"),
        (["--crop", "8"], "--crop"),
        (["--rate", "-1"], "--rate"),
        (["--grain", "2"], "--grain"),
        (["--start", "cubism"], "cubism"),
        (["--photos", "nowhere"], "nowhere: not a folder"),
        (["-o", "model.png"], "model.png"),
    ],
)
def test_bad_train_arguments(train: Callable[..., int], flags: list[str], named: str, capsys: Capture) -> None:
    assert train(*flags) == 1
    one_line(capsys, named, only=True)


def test_settings_reach_the_network(tmp_path: Path) -> None:
    """Each setting changes the picture, and is in the receipt."""
    photo, pictures = save_picture(tmp_path / "a.png", 90, 70), {}
    for setting in ("grain", "clarity", "crispness", "underpainting"):
        for value in ("0", "1"):
            out = tmp_path / f"{setting}{value}.png"
            assert cli.main(["apply", str(photo), "--style", "udnie", "-o", str(out), f"--{setting}", value]) == 0
            assert images.read_receipt(out)[setting] == float(value)
            pictures[setting, value] = images.to_tensor(out)
        assert not torch.equal(pictures[setting, "0"], pictures[setting, "1"])
    for fine, flags in ((True, []), (False, ["--no-fine-faces"])):
        out = tmp_path / f"{fine}.png"
        assert cli.main(["apply", "astronaut", "--style", "udnie", "-o", str(out), "--size", "256", *flags]) == 0
        assert images.read_receipt(out)["fine_faces"] is fine
        pictures["fine", str(fine)] = images.to_tensor(out)
    assert not torch.equal(pictures["fine", "True"], pictures["fine", "False"])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--style", "cubism"], "cubism"),
        (["--strength", "2"], "--strength"),
        (["--clarity", "2"], "--clarity"),
        (["--crispness", "-1"], "--crispness"),
        (["--underpainting", "2"], "--underpainting"),
        (["--style-scale", "-1"], "--style-scale"),
        (["--style"], "--style"),
        (["--size", "999999999999999999"], "--size"),
        (["-o", "nowhere/out.png"], "nowhere"),
    ],
)
def test_bad_apply_arguments(
    model: Path, folder: Path, flags: list[str], named: str, tmp_path: Path, capsys: Capture
) -> None:
    command = ["apply", str(folder / "a.png"), "--style", str(model), "-o", str(tmp_path / "out.png"), *flags]
    assert cli.main(command) == 1
    one_line(capsys, named, only=True)


def test_resume_without_a_checkpoint(train: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    assert train("--resume") == 1
    one_line(capsys, "mine.resume: no such checkpoint", "--resume", only=True)
    assert not (tmp_path / "mine.safetensors").exists()


def test_training_overwrites_nothing_else(train: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.resume").write_text("a diary")
    assert train() == 1
    one_line(capsys, "mine.resume: is needed for the checkpoint, but holds something else", only=True)
    assert (tmp_path / "mine.resume").read_text() == "a diary"


def test_training_overwrites_no_input(
    train: Callable[..., int], painting: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The preview is OUT.png."""
    style = save_picture(tmp_path / "mine.png")
    before = style.read_bytes()
    arguments = ["train", str(style), "--photos", str(tmp_path / "photos"), "-o", str(tmp_path / "mine.safetensors")]
    assert cli.main(arguments) == 1
    one_line(capsys, "mine.png", "holds something else", only=True)
    (tmp_path / "mine.safetensors").write_bytes(b"an earlier network")
    assert cli.main(arguments) == 1
    one_line(capsys, "mine.png", "is also an input", only=True)
    assert style.read_bytes() == before


def test_networks_follow_the_umask(train: Callable[..., int], tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert train() == 0
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("mine.*")} == {0o640}


def test_a_picture_is_no_film(apply: Callable[..., int], folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert apply(folder / "a.png", out=tmp_path / "out.mp4") == 1
    one_line(capsys, "a.png: is read as a picture", "out.png", only=True)


def test_a_checkpoint_of_another_training(train: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    assert train() == 0
    capsys.readouterr()
    torch.save({"card": {"style": "another"}}, tmp_path / "mine.resume")
    assert train("--resume") == 1
    one_line(capsys, "mine.resume", "other settings", only=True)
    (tmp_path / "mine.resume").write_bytes(b"half a chec")
    assert train("--resume") == 1
    one_line(capsys, "mine.resume", "start again", only=True)


def test_a_film(model: Path, tmp_path: Path, capsys: Capture) -> None:
    source, out = film(tmp_path / "film.mp4", count=3), tmp_path / "out.mp4"
    assert cli.main(["apply", str(source), "--style", str(model), "-o", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert [frame.shape for frame in frames(out)] == [(48, 64, 3)] * 3
    assert cli.main(["apply", str(source), "--style", str(model), "-o", str(tmp_path / "out.png")]) == 1
    one_line(capsys, "out.png", ".mp4", only=True)


def test_a_half_done_film_of_several_is_continued(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    sources = [str(film(tmp_path / name, count=4)) for name in ("a.mp4", "b.mp4")]
    command = ["apply", *sources, "--style", str(model), "-o", str(tmp_path / "out"), "--no-steady", "--resume"]
    honest, painted = onepass.apply, []

    def paint(*arguments: Any, **options: Any) -> torch.Tensor:
        painted.append(1)
        if len(painted) == 3:
            os.kill(os.getpid(), SIGINT)
        return honest(*arguments, **options)

    monkeypatch.setattr(onepass, "apply", paint)
    assert cli.main(command) == 130
    assert len(frames(tmp_path / "out" / "a.mp4")) == 3
    assert cli.main(command) == 0
    assert len(painted) == 8
    assert [len(frames(tmp_path / "out" / name)) for name in ("a.mp4", "b.mp4")] == [4, 4]


def test_a_folder_of_results_does_not_overwrite_the_style(
    folder: Path, painting: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "out").mkdir()
    style = painting.rename(tmp_path / "out" / "a.png")
    before = style.read_bytes()
    assert cli.main(["apply", str(folder), "--style", str(style), "-o", str(tmp_path / "out")]) == 1
    one_line(capsys, "out/a.png: is also an input", only=True)
    assert style.read_bytes() == before


def test_mixtures(model: Path, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["apply", str(folder / "a.png"), "-o", str(tmp_path / "out.png"), "--style", str(model), str(model)]
    assert cli.main([*command, "--style-weights", "1", "3", "--quiet"]) == 0
    assert images.read_receipt(tmp_path / "out.png")["style_weights"] == [0.25, 0.75]
    capsys.readouterr()
    assert cli.main([*command, "--style-weights", "1"]) == 1
    one_line(capsys, "--style-weights", only=True)


def test_results_with_the_same_stem_are_kept_apart(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.bmp", "a.png"):
        save_picture(tmp_path / "in" / name, 60, 60)
    assert cli.main(["apply", str(tmp_path / "in"), "--style", str(model), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.bmp.png", "a.png"]


@pytest.mark.parametrize("name", ["candy", "any-style"])
def test_exported_networks_have_the_margin(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    margins = []

    def to_onnx(network: object, path: Path, *_: object, margin: int, **__: object) -> None:
        path.touch()
        margins.append(margin)

    monkeypatch.setattr(interop, "to_onnx", to_onnx)
    assert cli.main(["export", name, "-o", str(tmp_path / "model.onnx")]) == 0
    assert margins == [onepass.from_painting(torch.rand(1, 3, 40, 40), 1.0).margin] == [onepass.load("candy").margin]
    assert margins[0] > 0


def test_export(model: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxscript")
    assert cli.main(["export", str(model), "-o", str(tmp_path / "model.onnx")]) == 0
    assert (tmp_path / "model.onnx").stat().st_size > 1000
    capsys.readouterr()
    assert cli.main(["export", str(model), "-o", str(tmp_path / "model.png")]) == 1
    one_line(capsys, "model.png", ".onnx", only=True)


def test_torchrun(folder: Path, painting: Path, tmp_path: Path, tiny: str) -> None:
    """Two processes write one file and print one line."""
    out = tmp_path / "mine.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "impasto"]
    command += ["train", str(painting), "--photos", str(folder), "-o", str(out), "--encoder", tiny, "--steps", "3"]
    command += ["--batch", "2", "--crop", "64", "--style-size", "64", "--quiet", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(out)]
    assert onepass.load(out).metadata["steps"] == "3"
