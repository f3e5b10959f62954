"""Receipts, checkpoints, progress and Ctrl-C; test_cli.py tests whole runs."""

import io
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_picture
from rich.console import Console

from impasto import cli, presets, study, transfer
from impasto.errors import DivergedError, InputError
from impasto.recipes import STARTS, Transfer
from impasto.runs import receipts, terminal, torchrun, transfer as run_transfer


@pytest.fixture
def inputs(photo: Path, painting: Path) -> run_transfer.Inputs:
    return run_transfer.read_inputs(str(photo), [str(painting)])


def test_receipts_contain_no_folders(inputs: run_transfer.Inputs, tiny: str, photo: Path) -> None:
    receipt = run_transfer.receipt("transfer", replace(presets.impasto, encoder=tiny, init=str(photo)), inputs)
    assert receipt["content"] == {"name": "photo.png", "sha256": inputs.content.sha256}
    assert receipt["recipe"]["encoder"] == "tiny.safetensors" and receipt["recipe"]["init"] == "photo.png"
    assert "/" not in str(receipt)


@pytest.mark.parametrize(("field", "value"), [("encoder", "/etc/passwd"), ("init", "/etc/passwd"), ("init", "a.png")])
def test_a_receipt_names_no_file_that_it_does_not_hold(
    field: str, value: str, inputs: run_transfer.Inputs, tiny: str
) -> None:
    receipt = run_transfer.receipt("transfer", replace(presets.impasto, encoder=tiny), inputs)
    receipts.check(receipt)
    receipt["recipe"][field] = value
    with pytest.raises(InputError, match=field):
        receipts.check(receipt)


def test_from_receipt_finds_the_inputs(inputs: run_transfer.Inputs, tiny: str, photo: Path) -> None:
    recipe = replace(presets.impasto, encoder=tiny)
    folders = [photo.parent, Path(tiny).parent]
    again, found = run_transfer.from_receipt(run_transfer.receipt("transfer", recipe, inputs), folders)
    assert again == recipe
    assert torch.equal(found.content.image, inputs.content.image)
    assert torch.equal(found.styles[0].image, inputs.styles[0].image)


@pytest.mark.parametrize("start", STARTS)
def test_a_file_named_like_a_start_is_not_read(
    start: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(start).write_text("no picture")
    assert "begun" not in run_transfer.facts(Transfer(init=start, encoder=tiny))


def test_another_encoder_is_refused(inputs: run_transfer.Inputs, tiny: str, photo: Path, tmp_path: Path) -> None:
    receipt = run_transfer.receipt("transfer", replace(presets.impasto, encoder=tiny), inputs)
    receipt["encoder"] = "0" * 64
    with pytest.raises(InputError, match="was not found"):
        run_transfer.from_receipt(receipt, [photo.parent, Path(tiny).parent])
    receipt["recipe"]["encoder"] = "compact"
    with pytest.raises(InputError, match="is not the file"):
        run_transfer.from_receipt(receipt, [photo.parent])


def test_check_resumable_names_the_differences() -> None:
    before = {"recipe": {"seed": 1, "steps": 5}, "content": "a", "impasto": "0.1"}
    receipts.check_resumable(before, {"recipe": {"seed": 1, "steps": 5}, "content": "a", "impasto": "0.2"})
    with pytest.raises(InputError, match="`seed`"):
        receipts.check_resumable(before, {"recipe": {"seed": 2, "steps": 5}, "content": "a"})
    with pytest.raises(InputError, match="content"):
        receipts.check_resumable(before, {"recipe": {"seed": 1, "steps": 5}, "content": "b"})
    with pytest.raises(InputError, match=r"checkpoint: content mask, style mask$"):  # one was added, one dropped
        receipts.check_resumable({**before, "content_mask": "c"}, {**before, "style_mask": "s"})


@pytest.mark.parametrize("damage", ["missing", "text", "other"])
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "out.resume"
    if damage == "text":
        path.write_text("nothing")
    elif damage == "other":
        torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"out\.resume"):
        receipts.load_state(path)


def test_names_next_to_the_output() -> None:
    assert run_transfer.labelled(Path("a/out.v2.png"), "0050") == Path("a/out.v2_0050.png")
    assert receipts.resume_file(Path("a/out.v2.png")) == Path("a/out.v2.resume")


def test_interrupting_twice_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with terminal.interruption() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_study_is_drawn(inputs: run_transfer.Inputs, tiny: str) -> None:
    small = replace(presets.impasto, size=32, steps=1, scales=(1.0,), encoder=tiny)
    panels = [study.Panel(f"seed {seed}", replace(small, seed=seed)) for seed in (1, 2)]
    sheet, failure = run_transfer.draw(inputs, panels, title="seeds", device="cpu", memory=0.0, quiet=True)
    assert failure is None
    assert sheet.shape[-1] > 3 * 32


def test_a_study_keeps_the_panels_before_one_that_diverges(
    inputs: run_transfer.Inputs, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = transfer.steps, 0

    def steps(*arguments: Any, **keywords: Any) -> Iterator[transfer.Step]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise DivergedError("the loss is not finite")
        yield from honest(*arguments, **keywords)

    small = replace(presets.impasto, size=32, steps=1, scales=(1.0,), encoder=tiny)
    panels = [study.Panel(f"seed {seed}", replace(small, seed=seed)) for seed in (1, 2)]
    whole, _ = run_transfer.draw(inputs, panels, title="seeds", device="cpu", memory=0.0, quiet=True)
    monkeypatch.setattr(transfer, "steps", steps)
    sheet, failure = run_transfer.draw(inputs, panels, title="seeds", device="cpu", memory=0.0, quiet=True)
    assert isinstance(failure, DivergedError)
    assert 3 * 32 < sheet.shape[-1] < whole.shape[-1]


def test_an_error_before_the_first_step_leaves_no_progress(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="wrong"), terminal.progress(3, quiet=False):
        raise ValueError("wrong")
    assert capfd.readouterr().err == ""
    with pytest.raises(ValueError, match="wrong"), terminal.progress(3, quiet=False) as report:
        report(1)
        raise ValueError("wrong")
    assert "1/3" in capfd.readouterr().err


def test_progress_keeps_its_numbers_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "STDERR", Console(file=screen, width=80))
    with terminal.progress(1600, quiet=False, label="training") as report:
        report(700, "content 0.761, style 0.513, smoothness 0.0516, lattice 0.0251")
    line = screen.getvalue()
    assert " 700/1600" in line and "0:00:0" in line and "content 0.761" in line


@pytest.mark.parametrize(("tty", "every", "lines"), [(False, 0, 3), (False, 30, 1), (True, 0, 0)])
def test_progress_in_a_log(monkeypatch: pytest.MonkeyPatch, tty: bool, every: int, lines: int) -> None:
    log = io.StringIO()
    monkeypatch.setattr(terminal, "STDERR", Console(file=log, width=80, force_terminal=tty))
    monkeypatch.setattr(terminal, "LOG_EVERY", every)
    with terminal.progress(2, quiet=False) as report:
        report(1, "")
        report(2, "")
    assert len(re.findall(r"^painting .*/2", log.getvalue(), re.MULTILINE)) == lines


def test_a_recipe_whose_encoder_is_elsewhere(
    photo: Path, painting: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--steps", "1", "--size", "32", "--quiet"]
    inputs, out = ["transfer", str(photo), str(painting), "-o"], str(tmp_path / "out.png")
    assert cli.main([*inputs, str(tmp_path / "first.png"), "--encoder", tiny, *small]) == 0
    again = [*inputs, out, "--recipe", str(tmp_path / "first.png")]
    assert cli.main(again) == 1
    assert "tiny.safetensors, is not in this folder: give --encoder" in capsys.readouterr().err
    assert cli.main([*again, "--encoder", tiny, "--quiet"]) == 0


@pytest.mark.parametrize("command", ["train", "pix2pix train"])
def test_trainings_when_files_may_not_grow(command: str, painting: Path, tiny: str, tmp_path: Path) -> None:
    """As on a full disk: one line that names the output, and nothing half-written."""
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        save_picture(tmp_path / "photos" / f"{seed}.png", 80, 70, seed=seed)
    out = str(tmp_path / "out.safetensors")
    run = {
        "train": ["train", str(painting), "--photos", str(tmp_path / "photos"), "--encoder", tiny, "--crop", "64"],
        "pix2pix train": ["pix2pix", "train", str(tmp_path / "photos"), "--recipe", "edges", "--generator", "unet16",
                          "--width", "2", "--load", "18", "--crop", "16", "--gan", "none"],
    }[command]  # fmt: skip
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
    limited += "from impasto import cli; sys.exit(cli.main(sys.argv[1:]))"
    arguments = [*run, "-o", out, "--steps", "2", "--batch", "1", "--quiet"]
    done = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("impasto: ")]
    assert done.returncode == 1 and len(said) == 1 and "out.safetensors" in said[0], done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("*.safetensors"))


def test_variables_of_other_programs_do_not_mean_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert torchrun.is_first_process()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with torchrun.processes(torch.device("cpu")) as device:
        assert device == torch.device("cpu") and not torch.distributed.is_initialized()
