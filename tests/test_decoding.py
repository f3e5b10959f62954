"""Files that are not pictures, damaged, too large, or cannot be read end in one line."""

import errno
import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import paged, png, refusal, saved, striped
from PIL import Image

from impasto import datasets, decoding
from impasto.errors import ImageError
from impasto.images import read, read_receipt

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_paths_that_are_not_picture_files(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.png")
    assert "folder" in refusal(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "empty (0 bytes)" in refusal(tmp_path / "empty.png")
    assert "download it first" in refusal("https://example.org/photo.jpg")
    assert "download it first" in refusal("http://example.org/photo.jpg")
    assert "null" in refusal("a\0b.png")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "pipe.png", "link.png", "/proc/kmsg"])
def test_endless_files_are_refused_at_once(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    if not (tmp_path / path).exists():
        pytest.skip(f"there is no {path}")
    assert "device or a pipe" in refusal(tmp_path / path) or "empty" in refusal(tmp_path / path)


def test_raw_photographs_are_refused(tmp_path: Path) -> None:
    """A RAW file begins with its thumbnail, which must not be painted."""
    thumbnail = np.zeros((8, 8, 3), np.uint8)
    options = {"photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "dng.tif", thumbnail, extratags=[(50706, "B", 4, (1, 4, 0, 0), True)], **options)
    with tifffile.TiffWriter(tmp_path / "nef.tif") as tiff:
        tiff.write(thumbnail, subfiletype=1, subifds=1, **options)
        tiff.write(np.zeros((40, 40), np.uint16), photometric="minisblack", metadata=None)
    saved(tmp_path / "photo.png", PIXELS).rename(tmp_path / "photo.NEF")
    (tmp_path / "photo.png").write_bytes(b"FUJIFILMCCD-RAW 0201")
    for name in ("dng.tif", "nef.tif", "photo.NEF", "photo.png"):
        assert "is a RAW photograph; develop it first" in refusal(tmp_path / name)
    tifffile.imwrite(tmp_path / "plain.tif", thumbnail, **options)
    assert read(tmp_path / "plain.tif").image.shape == (1, 3, 8, 8)


def test_pictures_too_large_for_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few bytes declare pictures of gigabytes; they are refused before they are decoded."""
    gif = b"GIF89a" + struct.pack("<HH", 13000, 13000) + b"\x80\0\0\0\0\0\xff\xff\xff"
    gif += b"," + struct.pack("<HHHH", 0, 0, 13000, 13000) + b"\0\2\2\x44\1\0;"
    (tmp_path / "bomb.gif").write_bytes(gif)
    header = (13000 - 1) | (13000 - 1) << 14
    body = b"\x2f" + struct.pack("<I", header) + bytes(8)
    webp = b"RIFF" + struct.pack("<I", 12 + len(body) + 1) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body + b"\0"
    (tmp_path / "bomb.webp").write_bytes(webp)
    monkeypatch.setattr(decoding.machine, "free_memory", lambda device: 2e9)
    Image.init()  # some plug-ins load pictures
    monkeypatch.setattr(Image.Image, "load", lambda picture: pytest.fail("decoded"))
    for name in ("bomb.gif", "bomb.webp"):
        assert f"13000 x 13000 pixels in {(tmp_path / name).stat().st_size} bytes" in refusal(tmp_path / name)
        with (tmp_path / name).open("ab") as file:
            file.truncate(13_000 * 13_000 // decoding.SPARSE)
        assert "13000 x 13000 pixels, which take 7.4 GB of memory; 2.0 GB are free" in refusal(tmp_path / name)


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8))).save(
        tmp_path / "a.heic"
    )
    assert read(tmp_path / "a.heic").image.shape == (1, 3, 16, 24)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = saved(tmp_path / "secret.png", PIXELS)
    monkeypatch.setattr(Path, "open", refuse)  # tests may run as root
    assert "permission" in refusal(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".gif"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, part: float) -> None:
    path = saved(tmp_path / f"cut{suffix}", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    read(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    assert "get it" in refusal(path) or "save it" in refusal(path)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"just a text", "not a picture"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"II*\0\x08\0\0\0\0\0", "save it"),
    ],
)
def test_not_a_picture(tmp_path: Path, data: bytes, hint: str) -> None:
    path = tmp_path / "text.png"
    path.write_bytes(data)
    assert hint in refusal(path)


def test_declared_size(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(20_000, 20_000, zlib.compress(b"")))
    assert "178956970 pixels" in refusal(path)
    path.write_bytes(png(10_000, 10_000, zlib.compress(b"")))  # so large that Pillow warns
    assert "more than 100" in refusal(path, pixels=100)
    assert "pixels, more" not in refusal(path)
    saved(tmp_path / "small.png", PIXELS)
    assert "9 x 6 pixels, more than 53" in refusal(tmp_path / "small.png", pixels=53)
    assert read(tmp_path / "small.png", pixels=54).image.shape == (1, 3, 6, 9)
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((6, 9, 3), np.float32), photometric="rgb")
    assert "9 x 6 pixels, more than 53" in refusal(tmp_path / "deep.tif", pixels=53)


def test_a_large_white_picture_is_no_bomb() -> None:
    buffer = io.BytesIO()
    Image.new("1", (13_000, 13_000), 1).save(buffer, "PNG")  # the least that PNG needs
    assert decoding.SPARSE * len(buffer.getvalue()) > 13_000**2


def test_tiffs_of_many_strips_or_pages(tmp_path: Path) -> None:
    """Neither takes longer than its pixels: 3 million strips took 13 s, 100,000 pages 52 s."""
    (tmp_path / "strips.tif").write_bytes(striped(3_000_000))
    (tmp_path / "few.tif").write_bytes(striped(3_000))
    (tmp_path / "pages.tif").write_bytes(paged(100_000))
    begun = time.process_time()
    assert "is cut into 3000000 strips, more than 200000; save it again" in refusal(tmp_path / "strips.tif")
    with pytest.raises(ImageError, match="3000000 strips"):
        read_receipt(tmp_path / "strips.tif")
    assert datasets.load([tmp_path / "strips.tif"], side=8, short=8, contrast=0).skipped == (tmp_path / "strips.tif",)
    assert read(tmp_path / "few.tif").image.shape == (1, 3, 3_000, 1)
    assert "only the first" in str(read(tmp_path / "pages.tif").note)
    assert time.process_time() - begun < 3
