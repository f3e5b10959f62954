"""Shared helpers and fixtures. No test needs the network or files outside the checkout."""

import builtins
import json
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # before torch is imported; see cli.share_cores

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from impasto import images, onepass
from impasto.encoder import CONVOLUTIONS, IMAGENET, VGG
from impasto.errors import ImageError
from impasto.networks import Architecture, Network
from impasto.recipes import Photo

if TYPE_CHECKING:
    import httpx

SMALL = Architecture((0, 4, 6), blocks=1, kernel=3, smooth=True)
RED, BLUE, GREEN = (1.0, 0, 0), (0, 0, 1.0), (0, 1.0, 0)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a random VGG with few channels, enough for tests that need any encoder."""
    torch.manual_seed(0)
    places = CONVOLUTIONS[: CONVOLUTIONS.index("5_1") + 1]
    network = VGG((4, 4, 6, 6, 6), places=places)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.05, 0.3)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(network.state_dict(), path, {"mean": json.dumps(IMAGENET[0]), "std": json.dumps(IMAGENET[1])})
    return str(path)


def randomise(network: VGG, seed: int = 0) -> VGG:
    """He initialisation, so that activations neither vanish nor explode, with biases that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        deviation = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim == 4 else 0.1
        parameter.data = deviation * torch.randn(parameter.shape, generator=generator)
    return network.requires_grad_(False)


def save_picture(path: Path, width: int = 48, height: int = 32, *, seed: int = 0, mode: str = "RGB") -> Path:
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


def smooth_picture(height: int, width: int, seed: int) -> Tensor:
    """Smooth noise between 0.2 and 0.8."""
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return 0.2 + 0.6 * (smooth - smooth.min()) / (smooth.max() - smooth.min())


def smooth(height: int = 16, width: int = 24) -> torch.Tensor:
    """A picture that JPEG and WebP keep well."""
    rows, columns = torch.linspace(0.1, 0.9, height)[:, None], torch.linspace(0.2, 0.8, width)
    return torch.stack([rows.expand(height, width), columns.expand(height, width), (rows + columns) / 2])[None]


def saved(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def png(width: int, height: int, data: bytes, depth: int = 8) -> bytes:
    """An RGB PNG with the given header values."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refusal(path: str | Path, **options: int) -> str:
    """The error of reading a file that cannot be read: one line that names it, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            images.read(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def tiff(entries: list[tuple[int, int, int, int]], data: bytes = b"", following: int = 0) -> bytes:
    """A TIFF with these entries (tag, type, count, value) and the place of the next page; types: 3 short, 4 long."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", following) + data


def striped(count: int) -> bytes:
    """A TIFF of one column, each pixel in a strip of its own."""
    ends = 8 + 2 + 12 * 9 + 4
    places = [(256, 4, 1, 1), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, count, ends),
              (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, ends + 4 * count)]  # fmt: skip
    strips = np.arange(count, dtype="<u4") + ends + 8 * count
    return tiff(places, strips.tobytes() + np.ones(count, "<u4").tobytes() + bytes(count))


def paged(count: int) -> bytes:
    """A TIFF of so many pages, each of one pixel."""
    length = 2 + 12 * 8 + 4 + 2
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
               (278, 3, 1, 1), (279, 4, 1, 1)]  # fmt: skip
    begins = [8 + length * index for index in range(count)]
    pages = [tiff(entries, bytes(2), after)[8:] for after in [*begins[1:], 0]]
    return tiff([])[:8] + b"".join(pages)


def opened(path: Path) -> Image.Image:
    """Read a whole picture and close its file."""
    with Image.open(path) as file:
        file.load()
        return file.copy()


def wait_for(there: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until ``there`` returns something true, or fail."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, f"{what}: still waiting after {seconds} seconds"
        time.sleep(0.005)


def one_line(capsys: pytest.CaptureFixture[str], *named: str, only: bool = False) -> None:
    """Check that stderr has one error line with ``named`` and no traceback; with ``only``, nothing else."""
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("impasto: ")]
    assert len(lines) == 1, said
    assert not only or said == lines
    assert "Traceback" not in "".join(said)
    for name in named:
        assert name in lines[0]


def halves(left: tuple[float, ...], right: tuple[float, ...], height: int = 40, width: int = 60) -> Tensor:
    picture = torch.zeros(1, 3, height, width)
    picture[..., : width // 2] = torch.tensor(left).view(1, 3, 1, 1)
    picture[..., width // 2 :] = torch.tensor(right).view(1, 3, 1, 1)
    return picture


def film(
    path: Path, *, count: int = 6, codec: str = "aac", width: int = 64, height: int = 48, sound_rate: int = 8000,
    rate: int = 0, pictures: bool = True, seconds: int = 1,
) -> Path:  # fmt: skip
    """A video of ``count`` frames, red on the left and blue on the right, with a tone.

    ``rate`` is of frames per second; 0: the film has one second. ``seconds`` is of the tone; 0: an empty track.
    Without ``pictures`` there is only the tone.
    """
    import av

    with av.open(str(path), "w") as container:
        if pictures:
            stream = container.add_stream("mpeg4", rate=rate or count, options={"qscale": "1"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream(codec, rate=sound_rate)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 200
        for _ in range(count if pictures else 0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        if pictures:
            container.mux(stream.encode())
        if not seconds:
            return path
        tone = (0.3 * np.sin(np.arange(seconds * sound_rate) / 5)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray((tone * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = sound_rate
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def frames(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as film:
        return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save_picture(tmp_path / "photo.png", seed=1)


@pytest.fixture
def painting(tmp_path: Path) -> Path:
    return save_picture(tmp_path / "painting.jpg", 40, 60, seed=2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    onepass.save(path, Network(Architecture((0, 4, 6), 1, 3)), {})
    return path


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a studio that is started for each test file."""
    from studio_server import serving

    with serving("--max-upload", "0.3") as where:
        yield where


@pytest.fixture
def client(address: str) -> Iterator["httpx.Client"]:
    """A client of that studio, with a session of its own."""
    import httpx

    with httpx.Client(base_url=address, timeout=60) as opened:
        opened.get("/").raise_for_status()  # sets the session's cookie
        yield opened


@pytest.fixture
def photograph(tmp_path: Path) -> Tensor:
    return images.to_tensor(save_picture(tmp_path / "p.png", 60, 40, seed=3))


@pytest.fixture
def other(tmp_path: Path) -> Tensor:
    return images.to_tensor(save_picture(tmp_path / "o.png", 50, 44, seed=4))


@pytest.fixture
def recipe(tiny: str) -> Photo:
    return Photo(size=48, steps=4, encoder=tiny, precision="float32")


def hide(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Let importing a module fail, as if it were not installed."""
    honest = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == module:
            raise ImportError
        return honest(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
