"""Damaged files of every kind that is read: each is either read, or refused by one of our own errors.

FUZZ_EXAMPLES sets how many files each test makes; `make fuzz` makes many. No file may take over 5 s of computing, or
more memory than it says.
"""

import io
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import film
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.torch import save

from impasto import encoder, images, machine, masks, onepass, schema, video
from impasto.errors import ImpastoError
from impasto.networks import Architecture, Network
from impasto.recipes import Photo, Transfer
from impasto.runs import receipts

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))
FEW = settings(
    max_examples=EXAMPLES, derandomize="FUZZ_EXAMPLES" not in os.environ, deadline=None,
    suppress_health_check=list(HealthCheck), database=None,
)  # fmt: skip
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 4), dtype=np.uint8)
SHA = "0" * 64
ENTRY = {"name": "photo.png", "sha256": SHA}


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def deep(**options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, PIXELS[..., :3].astype(np.uint16) * 257, photometric="rgb", **options)
    return buffer.getvalue()


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(PIXELS).convert("RGB").rotate(90 * turn) for turn in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def heic() -> bytes:
    from pillow_heif import from_pillow

    buffer = io.BytesIO()
    from_pillow(Image.fromarray(PIXELS).convert("RGB")).save(buffer)
    return buffer.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    **{kind: lambda kind=kind: encoded(kind) for kind in
       ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "QOI", "TGA", "PPM", "PCX", "SGI", "DDS")},
    "PNG with alpha": lambda: encoded("PNG", "RGBA"),
    "PNG palette": lambda: encoded("PNG", "P", transparency=0),
    "JPEG CMYK": lambda: encoded("JPEG", "CMYK"),
    "TIFF LZW": lambda: encoded("TIFF", "RGBA", compression="tiff_lzw"),
    "TIFF 16": deep,
    "TIFF 16 zip": lambda: deep(compression="zlib"),
    "APNG": lambda: animation("PNG"),
    "WEBP animation": lambda: animation("WEBP"),
    "HEIC": heic,
}  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """The bytes with a few of them changed, most often in the first ones, and perhaps cut off or repeated."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, min(len(data), 200) - 1) | st.integers(0, len(data) - 1))
        new = draw(
            st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\0\0\0\0"])
            | st.binary(max_size=4)
        )
        data[place : place + len(new)] = new
    kind = draw(st.sampled_from(["", "", "", "cut", "repeat"]))
    place = draw(st.integers(1, len(data)))
    return bytes({"": data, "cut": data[:place], "repeat": data[:place] + data[place // 2 :]}[kind])


@contextmanager
def bounded() -> Iterator[None]:
    """Our errors are fine; 5 s of computing, and 2 GB more than before, are not."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(ImpastoError):
        yield
    assert time.process_time() - begun < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2_000_000  # kB


@pytest.fixture(autouse=True)
def much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers may declare anything: it is refused also where there is memory for it."""
    monkeypatch.setattr(machine, "free_memory", lambda device: 1e11)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PICTURES)
@FEW
@given(data=st.data())
def test_pictures(kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "picture"
    path.write_bytes(data.draw(damaged(PICTURES[kind]())))
    with bounded():
        picture = images.read(path)
        assert 0 <= float(picture.image.min()) <= float(picture.image.max()) <= 1
    with bounded():
        images.read_receipt(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(SHA),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
painted = {"command": "transfer", "recipe": schema.to_json(Transfer()), "encoder": SHA, "content": ENTRY,
           "styles": [ENTRY], "content_masks": [], "style_masks": []}  # fmt: skip
lit = {"command": "photo", "recipe": schema.to_json(Photo()), "encoder": SHA, "content": ENTRY, "style": ENTRY}


@FEW
@given(data=st.data())
def test_receipts(data: st.DataObject) -> None:
    """A receipt that passes names no folder, and has a recipe that can be used."""
    sound = data.draw(st.sampled_from([painted, lit]))
    place = data.draw(st.sampled_from([(), ("recipe",), ("content",)]))
    receipt = json.loads(json.dumps(sound))
    inner = receipt
    for key in place:
        inner = inner[key]
    inner[data.draw(st.sampled_from(sorted(inner)) | st.text(max_size=6))] = data.draw(values)
    with bounded():
        receipts.check(receipt)
        assert "/" not in receipt["content"]["name"]
        schema.from_json(receipt["recipe"], Photo if receipt["command"] == "photo" else Transfer)


def checkpoint() -> bytes:
    inner = {"index": 2, "image": torch.rand(1, 3, 4, 4), "optimizer": {"rows": torch.rand(2, 48)}, "losses": [1.0]}
    buffer = io.BytesIO()
    torch.save({"done": 2, "inner": inner, "receipt": json.dumps(painted)}, buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@FEW
@given(data=st.data())
def test_checkpoints(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "out.resume"
    path.write_bytes(data.draw(damaged(checkpoint())))
    with bounded():
        receipts.load_state(path)


def network() -> bytes:
    state = {name: tensor.contiguous() for name, tensor in Network(Architecture((0, 4, 6), 1, 3)).state_dict().items()}
    return save(state, {"architecture": '{"widths": [0, 4, 6], "blocks": 1, "kernel": 3}'})


def vgg() -> bytes:
    state = encoder.VGG((2, 2, 2, 2, 2), places=("1_1", "1_2", "2_1")).state_dict()
    return save(state, {"mean": "[0.5, 0.5, 0.5]", "std": "[1, 1, 1]", "exact": "2_1"})


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({f"module.conv1_1.{part}": torch.rand(2, 3, 3, 3) for part in ("weight", "bias")}, buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sound", [network, vgg, pickled])
@FEW
@given(data=st.data())
def test_cards_and_weights(
    sound: Callable[[], bytes], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "weights.model"
    path.write_bytes(data.draw(damaged(sound())))
    with bounded():
        encoder.load(str(path))
    with bounded():
        onepass.load(path)


@FEW
@given(
    labels=st.lists(st.integers(0, 255), min_size=1, max_size=6),
    channels=st.sampled_from([0, 1, 2, 3, 4]),
    deep=st.booleans(),
    seed=st.integers(0, 99),
)
def test_masks(labels: list[int], channels: int, deep: bool, seed: int) -> None:
    """A mask of a few values is read, within [0, 1] and not empty, or refused."""
    shape = (9, 12, channels) if channels else (9, 12)
    picked = np.random.default_rng(seed).choice(np.array(labels, np.uint16 if deep else np.uint8), shape)
    with bounded():
        mask = masks.read(picked)
        assert mask.shape == (1, 1, 9, 12)
        assert float(mask.min()) >= 0 and masks.EMPTY <= float(mask.max()) <= 1
    with bounded(), suppress(ValueError):
        found, palette = masks.classes(masks.read_classes(picked))
        assert int(found.max()) < len(palette)


@pytest.fixture(scope="module")
def sound_film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    pytest.importorskip("av")
    return film(tmp_path_factory.mktemp("film") / "film.mp4", count=3, width=32, height=32).read_bytes()


@pytest.mark.filterwarnings("ignore")
@settings(FEW, max_examples=8 if EXAMPLES == 15 else EXAMPLES)
@given(data=st.data())
def test_films(data: st.DataObject, sound_film: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "film.mp4"
    path.write_bytes(data.draw(damaged(sound_film)))
    with bounded():
        for _ in video.find(path).frames():
            pass
