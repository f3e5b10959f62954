"""Small pictures and a tiny encoder: no test needs the network, or anything from outside the checkout."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from impasto.encoder import CONVOLUTIONS, IMAGENET, VGG


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a VGG of a few channels, random: all that the machinery around an encoder needs."""
    torch.manual_seed(0)
    places = CONVOLUTIONS[: CONVOLUTIONS.index("5_1") + 1]
    network = VGG((4, 4, 6, 6, 6), places=places)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.05, 0.3)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(network.state_dict(), path, {"mean": json.dumps(IMAGENET[0]), "std": json.dumps(IMAGENET[1])})
    return str(path)


def save_picture(path: Path, width: int = 48, height: int = 32, *, seed: int = 0, mode: str = "RGB") -> Path:
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


def opened(path: Path) -> Image.Image:
    """A picture read whole, its file closed."""
    with Image.open(path) as file:
        file.load()
        return file.copy()


def wait_for(there: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Ask again and again until it is so, or fail."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, f"{what}: not after {seconds} seconds"
        time.sleep(0.005)


def one_line(capsys: pytest.CaptureFixture[str], *named: str, only: bool = False) -> None:
    """What was said on the standard error has one line of complaint, and no traceback; ``only``: nothing else."""
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("impasto: ")]
    assert len(lines) == 1, said
    assert not only or said == lines
    assert "Traceback" not in "".join(said)
    for name in named:
        assert name in lines[0]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save_picture(tmp_path / "photo.png", seed=1)


@pytest.fixture
def painting(tmp_path: Path) -> Path:
    return save_picture(tmp_path / "painting.jpg", 40, 60, seed=2)
