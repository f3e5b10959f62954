"""`impasto photo`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import BLUE, RED, halves, one_line, opened, save_picture
from PIL import Image

from impasto import cli, images, photo as engine
from impasto.errors import DivergedError
from impasto.runs import terminal

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photo(tmp_path: Path, tiny: str) -> Callable[..., int]:
    save_picture(tmp_path / "photo.jpg", 90, 60, seed=1)
    save_picture(tmp_path / "light.jpg", 80, 60, seed=2)
    images.write(tmp_path / "a.png", halves(RED, BLUE, 60, 90))
    images.write(tmp_path / "b.png", halves(BLUE, RED, 60, 80))

    def run(*flags: str) -> int:
        files = [str(tmp_path / "photo.jpg"), str(tmp_path / "light.jpg"), "-o", str(tmp_path / "out.png")]
        small = ["--size", "48", "--steps", "3", "--encoder", tiny, "--quiet"]
        return cli.main(["photo", *files, *small, *flags])

    return run


def test_from_the_command_line(photo: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    assert photo("--save-masks") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.png'}\n"
    assert opened(tmp_path / "out.png").size == (90, 60)
    assert images.read_receipt(tmp_path / "out.png")["command"] == "photo"
    found = [str(tmp_path / f"out-{side}-mask.png") for side in ("content", "style")]
    assert [opened(Path(path)).size for path in found] == [(90, 60), (80, 60)]
    # the saved masks can be used as input
    assert photo("--content-mask", found[0], "--style-mask", found[1]) == 0
    assert photo("--content-mask", str(tmp_path / "a.png"), "--style-mask", str(tmp_path / "b.png")) == 0
    assert images.read_receipt(tmp_path / "out.png")["regions"] == 2


@pytest.mark.parametrize("masks", [True, False])
def test_replay(photo: Callable[..., int], masks: bool, tiny: str, tmp_path: Path, capsys: Capture) -> None:
    drawn = ("--content-mask", str(tmp_path / "a.png"), "--style-mask", str(tmp_path / "b.png"))
    assert photo(*(drawn if masks else ())) == 0
    again = tmp_path / "again.png"
    command = ["replay", str(tmp_path / "out.png"), "-o", str(again), "--inputs", str(Path(tiny).parent), "--quiet"]
    assert cli.main(command) == 0
    assert again.read_bytes() == (tmp_path / "out.png").read_bytes()
    save_picture(tmp_path / "light.jpg", 80, 60, seed=3)
    capsys.readouterr()
    assert cli.main(command) == 1
    assert "light.jpg" in capsys.readouterr().err


def test_interrupted_and_resumed(
    photo: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert photo() == 0
    wanted = (tmp_path / "out.png").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(terminal, "interruption", lambda: contextlib.nullcontext(lambda: True))
        assert photo() == 130
    assert (tmp_path / "out.resume").exists() and (tmp_path / "out.png").read_bytes() != wanted
    assert photo("--resume", str(tmp_path / "out.resume")) == 0
    assert (tmp_path / "out.png").read_bytes() == wanted and not (tmp_path / "out.resume").exists()
    capsys.readouterr()
    assert photo("--resume", str(tmp_path / "out.resume")) == 1
    assert "out.resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [(DivergedError("the loss is not finite"), "not finite"), (MemoryError(), "memory")],
)
def test_an_error_keeps_the_last_picture(
    error: Exception, said: str, photo: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:  # fmt: skip
    honest = engine.steps

    def steps(*arguments: Any, **keywords: Any) -> Iterator[engine.PhotoStep]:
        yield next(honest(*arguments, **keywords))
        raise error

    monkeypatch.setattr(engine, "steps", steps)
    assert photo() == 1
    one_line(capsys, said, only=True)
    assert opened(tmp_path / "out.png").size == (90, 60)


@pytest.mark.parametrize("kind", ["text", "folder"])
def test_only_checkpoints_of_its_own_are_removed(
    photo: Callable[..., int], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    there = tmp_path / "out.resume"
    note = there
    if kind == "folder":
        there.mkdir()
        note = there / "receipt.json"
    note.write_text("mine")
    assert photo() == 1
    one_line(capsys, "out.resume: is needed for the checkpoint, but holds something else; move it away", only=True)
    assert note.read_text() == "mine" and not (tmp_path / "out.png").exists()
    there.rename(tmp_path / "other.resume")
    monkeypatch.setattr(terminal, "interruption", lambda: contextlib.nullcontext(lambda: True))
    assert photo() == 130
    monkeypatch.undo()
    before = there.read_bytes()
    assert photo() == 0 and there.read_bytes() == before  # it may be of another result, such as out.jpg


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--content-mask", "A"], "--style-mask"),
        (["--content-mask", "A", "--style-mask", "nowhere.png"], "nowhere.png"),
        (["--content-mask", "A", "--style-mask", "photo.jpg"], "flat colours"),
        (["--content-mask", "A", "--style-mask", "GREEN"], "green.png: the two masks have no colour in common"),
        (["--steps", "-1"], "--steps"),
        (["--strength", "-1"], "--strength"),
        (["--evenness", "-1"], "--evenness"),
        (["--keep-highlights", "2"], "--keep-highlights"),
        (["--resume", "nowhere.resume"], "nowhere.resume"),
    ],
)
def test_bad_input(photo: Callable[..., int], flags: list[str], named: str, tmp_path: Path, capsys: Capture) -> None:
    Image.new("RGB", (80, 60), (0, 255, 0)).save(tmp_path / "green.png")
    names = {"A": "a.png", "GREEN": "green.png", "photo.jpg": "photo.jpg"}
    assert photo(*(str(tmp_path / names[flag]) if flag in names else flag for flag in flags)) == 1
    one_line(capsys, named, only=True)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("size", [(1, 90), (90, 1), (2, 2)])
def test_a_photograph_too_small_for_any_window(
    photo: Callable[..., int], size: tuple[int, int], tmp_path: Path, capsys: Capture
) -> None:
    Image.new("RGB", size).save(tmp_path / "photo.jpg")
    assert photo() == 1
    one_line(capsys, "3 pixels", only=True)


@pytest.mark.parametrize("size", [(1, 90), (90, 1), (1, 1)])
def test_light_from_a_picture_of_any_size(photo: Callable[..., int], size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (200, 90, 20)).save(tmp_path / "light.jpg")
    assert photo() == 0
