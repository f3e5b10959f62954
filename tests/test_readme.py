"""Runs the README and the examples on small pictures and few steps; checks that generated docs are up to date."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import film, save_picture
from PIL import Image

from impasto import cli, generators, networks, onepass, pix2pix, presets

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every picture that the README names."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(
        ["photo.jpg", "painting.jpg", "monet.jpg", "munch.jpg", "sky.jpg", "ground.jpg", "evening.jpg", "old-photo.jpg"]
    ):
        save_picture(tmp_path / name, seed=seed)
    for seed, name in enumerate(["sky-mask.png", "ground-mask.png"]):
        save_picture(tmp_path / name, seed=seed, mode="L")
    for name in ("ours.png", "theirs.png"):
        Image.new("RGB", (48, 32), "red").save(tmp_path / name)
    film(tmp_path / "film.mp4", count=2)
    for folder in ("photographs", "holiday", "pairs"):
        (tmp_path / folder).mkdir()
        save_picture(tmp_path / folder / "one.jpg", 64, 32)
    onepass.save(Path("my-style.safetensors"), networks.Network(), {})
    translation = pix2pix.Model(generators.UNet(generators.Shape(width=2, depth=3)), "given", {})
    pix2pix.save(Path("mine.safetensors"), translation)
    return tmp_path


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 8
    assert len(PYTHON) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, here: Path, tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, *arguments = shlex.split(command.replace("0:10", "0:00").replace("0:20", "0:01"))  # the film is short
    out = arguments[arguments.index("-o") + 1]
    size = arguments.index("--size") if "--size" in arguments else None
    if size is not None:
        del arguments[size : size + 2]
    few = ["--steps", "3", "--encoder", tiny]
    small = {
        "train": ["--crop", "64", *few],
        "photo": ["--size", "40", *few],
        "apply": [],
        "export": [],
        "pix2pix": ["--generator", "unet16", "--load", "36", "--crop", "32", *few[:2]] if "train" in arguments else [],
    }
    assert cli.main([*arguments, *small.get(arguments[0], ["--size", "40", *few])]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(Path(out))
    assert (here / out).stat().st_size > 0


def test_python(here: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    import impasto.transfer

    small = dataclasses.replace(presets.impasto, size=40, steps=3, encoder=tiny)
    monkeypatch.setattr(impasto.transfer.stylize, "__defaults__", (small,))
    monkeypatch.setattr(presets, "owl", dataclasses.replace(presets.owl, encoder=tiny))
    space: dict[str, object] = {}
    for block in PYTHON:
        exec(block, space)
    assert (here / "repainted.png").exists()
    assert (here / "step-20.png").exists()


EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {ROOT / "examples" / "studio_client.py"})  # see test_studio


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples(example: Path, here: Path) -> None:
    assert len(example.read_text().splitlines()) < 30
    arguments = ["photo.jpg", "painting.jpg", "out.png"]
    script = "import sys, dataclasses, runpy\nfrom impasto import presets, transfer\n"
    script += "small = dataclasses.replace(presets.impasto, size=48, steps=3)\n"
    script += "presets.impasto = small\ntransfer.stylize.__defaults__ = (small,)\n"
    script += f"sys.argv = {[str(example), *arguments]!r}\nrunpy.run_path({str(example)!r}, run_name='__main__')\n"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "out.png"
    assert (here / "out.png").exists()


def test_the_recipes_table_is_up_to_date() -> None:
    assert (ROOT / "docs" / "recipes.md").read_text() == presets.table()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "impasto/models/compact.md"])
def test_links_have_targets(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target
