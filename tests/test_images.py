"""Files to tensors and back: all kinds of pictures, and all ways in which they may be broken."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import png, refusal, saved, smooth
from PIL import Image, ImageCms

from impasto import encoding, images
from impasto.errors import ImageError
from impasto.images import Picture, read

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
FORMATS = [".png", ".jpg", ".webp", ".tiff"]


def numbers(image: torch.Tensor) -> np.ndarray:
    """(1, C, H, W) in [0, 1] -> (H, W, C) 0 to 255, not rounded."""
    return (image[0].permute(1, 2, 0) * 255).numpy()


def profile(space: bytes = b"RGB ", kind: bytes = b"mntr", connection: bytes = b"XYZ ", **tags: bytes) -> bytes:
    """An ICC profile with the given tags, in the given order."""
    text = b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, 2, 28) + b"\0x"
    tags = {"desc": text + b"\0\0", "cprt": text + b"\0\0", "wtpt": xyz(0.9642, 1, 0.8249), **tags}
    offset, table, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name.encode(), offset + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    head = struct.pack(">I4sI4s4s4s", offset + len(data), b"lcms", 0x04400000, kind, space, connection)
    head += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + table + data


def xyz(*values: float) -> bytes:
    return b"XYZ " + struct.pack(">4i", 0, *(round(value * 65536) for value in values))


def linear_rgb(*, swapped: bool = False) -> bytes:
    """Linear light with sRGB's primaries, optionally with red and green swapped."""
    red, green, blue = xyz(0.4361, 0.2225, 0.0139), xyz(0.3851, 0.7169, 0.0971), xyz(0.1431, 0.0606, 0.7141)
    red, green = (green, red) if swapped else (red, green)
    curve = b"curv" + bytes(8)
    return profile(rXYZ=red, gXYZ=green, bXYZ=blue, rTRC=curve, gTRC=curve, bTRC=curve)


def linear_grey() -> bytes:
    return profile(b"GRAY", kTRC=b"curv" + bytes(8))


def black_only() -> bytes:
    """A CMYK profile that uses only the black ink: L* = 100 (1 - K)."""
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    corners = b"".join(bytes([0 if i % 2 else 255, 128, 128]) for i in range(16))  # K varies fastest
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + bytes(range(256)) * 4 + corners + bytes(range(256)) * 3
    return profile(b"CMYK", b"prtr", b"Lab ", A2B0=table)


# Reading


def test_read_rgb_png(tmp_path: Path) -> None:
    path = saved(tmp_path / "photo.png", PIXELS)
    picture = read(path)
    assert picture.image.shape == (1, 3, 6, 9)
    assert picture.image.dtype == torch.float32
    np.testing.assert_allclose(numbers(picture.image), PIXELS, atol=1e-4)
    assert picture.alpha is picture.profile is picture.note is None
    assert picture.name == str(path)
    assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read(str(path)).sha256 == picture.sha256
    assert read(picture) is picture
    assert torch.equal(images.to_tensor(path), picture.image)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    # What a viewer shows is a picture with a dark top left corner and a brighter top right one.
    upright = np.full((32, 48), 250, np.uint8)
    upright[:16, :24], upright[:16, 24:] = 0, 100
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),  # the viewer rotates it by 90 degrees clockwise
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"turned{suffix}", np.ascontiguousarray(stored), exif=exif)
    image = read(path).image
    assert image.shape == (1, 3, 32, 48)
    np.testing.assert_allclose(numbers(image)[..., 0], upright, atol=12)


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path / "odd.jpg", PIXELS, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09junk")
    assert read(path).image.shape == (1, 3, 6, 9)


def test_icc_is_converted_to_srgb(tmp_path: Path) -> None:
    grey = np.full((2, 2, 3), 55, np.uint8)  # 55 / 255 = 0.2157 in linear light is 0.5018 in sRGB: 128
    picture = read(saved(tmp_path / "linear.png", grey, icc_profile=linear_rgb()))
    np.testing.assert_allclose(numbers(picture.image), 128, atol=1)
    assert picture.profile == linear_rgb()
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    image = read(saved(tmp_path / "swapped.png", red, icc_profile=linear_rgb(swapped=True))).image
    np.testing.assert_allclose(numbers(image)[0, 0], (0, 255, 0), atol=3)


def test_icc_of_srgb_changes_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = read(saved(tmp_path / "srgb.png", PIXELS, icc_profile=srgb)).image
    np.testing.assert_allclose(numbers(image), PIXELS, atol=1.01)


@pytest.mark.parametrize("broken", [b"not a profile", linear_rgb()[:200], linear_grey(), black_only()])
def test_broken_or_foreign_icc_is_ignored(tmp_path: Path, broken: bytes) -> None:
    picture = read(saved(tmp_path / "broken.png", PIXELS, icc_profile=broken))
    np.testing.assert_allclose(numbers(picture.image), PIXELS, atol=1e-4)
    assert picture.profile is None


def test_grey_with_icc(tmp_path: Path) -> None:
    grey = np.full((2, 2), 55, np.uint8)
    for name, icc in {"grey": linear_grey(), "rgb": linear_rgb()}.items():
        image = read(saved(tmp_path / f"{name}.png", grey, icc_profile=icc)).image
        np.testing.assert_allclose(numbers(image), 128, atol=1)
    image = read(saved(tmp_path / "deep.png", np.full((2, 2), 55 * 257, np.uint16), icc_profile=linear_grey())).image
    np.testing.assert_allclose(numbers(image), 128, atol=1)
    pairs = Image.merge("LA", [Image.new("L", (2, 2), 55), Image.new("L", (2, 2), 51)])
    pairs.save(tmp_path / "la.png", icc_profile=linear_grey())
    picture = read(tmp_path / "la.png")
    np.testing.assert_allclose(numbers(picture.image), 128, atol=1)
    assert picture.alpha is not None
    assert picture.alpha.unique().item() == pytest.approx(0.2)


def test_cmyk(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    cyan.save(tmp_path / "plain.jpg", quality=100)
    np.testing.assert_allclose(numbers(read(tmp_path / "plain.jpg").image)[0, 0], (0, 255, 255), atol=3)
    cyan.save(tmp_path / "foreign.jpg", quality=100, icc_profile=linear_rgb(swapped=True))
    np.testing.assert_allclose(numbers(read(tmp_path / "foreign.jpg").image)[0, 0], (0, 255, 255), atol=3)
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 128))  # L* = 49.8 is 0.183 in linear light, 118 in sRGB
    ink.save(tmp_path / "profile.jpg", quality=100, icc_profile=black_only())
    picture = read(tmp_path / "profile.jpg")
    np.testing.assert_allclose(numbers(picture.image)[0, 0], 118, atol=3)
    assert picture.profile is None  # an RGB result cannot be converted back to it


def test_grey_and_one_bit(tmp_path: Path) -> None:
    image = read(saved(tmp_path / "grey.png", PIXELS[..., 0])).image
    np.testing.assert_allclose(numbers(image), PIXELS[..., :1].repeat(3, 2), atol=1e-4)
    bits = PIXELS[..., 0] > 127
    assert torch.equal(read(saved(tmp_path / "bits.png", bits)).image[0, 1], torch.from_numpy(bits).float())


def test_palette_with_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([0, 1])
    picture.save(tmp_path / "opaque.gif")
    assert read(tmp_path / "opaque.gif").alpha is None
    picture.save(tmp_path / "clear.png", transparency=bytes([255, 51]))
    result = read(tmp_path / "clear.png")
    np.testing.assert_allclose(numbers(result.image), [[(10, 20, 30), (200, 100, 50)]], atol=1e-4)
    assert result.alpha is not None
    assert result.alpha.shape == (1, 1, 1, 2)
    np.testing.assert_allclose(result.alpha.flatten(), [1, 0.2])


def test_alpha(tmp_path: Path) -> None:
    alpha = np.full((6, 9, 1), 255, np.uint8)
    assert read(saved(tmp_path / "opaque.png", np.concatenate([PIXELS, alpha], 2))).alpha is None
    alpha[2, 3] = 0
    picture = read(saved(tmp_path / "hole.png", np.concatenate([PIXELS, alpha], 2)))
    seen = alpha[..., 0] > 0
    np.testing.assert_allclose(numbers(picture.image)[seen], PIXELS[seen], atol=1e-4)
    assert picture.alpha is not None
    assert picture.alpha[0, 0, 2, 3] == 0
    assert picture.alpha.sum() == 53
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "key.png", transparency=int(PIXELS[0, 0, 0]))
    key = read(tmp_path / "key.png").alpha
    assert key is not None
    assert key[0, 0, 0, 0] == 0


def cut_out(path: Path, below: int, *, size: tuple[int, int] = (13, 22)) -> Path:
    """A red picture whose right side is hidden, with the given grey stored below."""
    pixels = np.full((*size, 4), (200, 30, 40, 255), np.uint8)
    pixels[:, 10:] = (below, below, below, 0)
    return saved(path, pixels)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_hidden_colours_do_not_count(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    for name, below in {"black": 0, "white": 255}.items():
        pixels = np.asarray(Image.open(cut_out(tmp_path / "cut.png", below)))
        saved(tmp_path / f"{name}{suffix}", pixels, **options)
    black, white = (read(tmp_path / f"{name}{suffix}") for name in ("black", "white"))
    assert torch.equal(black.image, white.image)
    np.testing.assert_allclose(numbers(black.image), np.full((13, 22, 3), (200, 30, 40)), atol=1e-3)
    assert black.alpha is not None
    assert black.alpha.sum() == 130
    assert torch.equal(read(Image.open(tmp_path / f"black{suffix}")).image, black.image)
    assert torch.equal(read(pixels).image, black.image)


def test_fill_hidden_by_hand() -> None:
    image = torch.tensor([0.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.6]).expand(1, 3, 8, 8)
    alpha = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0.01]).expand(1, 1, 8, 8)
    row = images.fill_hidden(image, alpha)[0, 0, 3]
    assert (row[0], row[7]) == (image[0, 0, 0, 0], image[0, 0, 0, 7])
    assert (row[1:] >= row[:-1]).all()  # from one colour to the other, without the hidden 0.9
    assert images.fill_hidden(image, torch.full((1, 1, 8, 8), 0.5)) is image


def test_an_entirely_transparent_picture_is_refused(tmp_path: Path) -> None:
    pixels = np.dstack([PIXELS, np.zeros((6, 9), np.uint8)])
    assert "entirely transparent" in refusal(saved(tmp_path / "nothing.png", pixels))


def test_sixteen_bit_grey(tmp_path: Path) -> None:
    deep = np.array([[0, 1, 300], [32768, 65534, 65535]], np.uint16)
    for name in ("a.png", "a.pgm", "a.tif"):
        image = read(saved(tmp_path / name, deep)).image
        np.testing.assert_allclose(image[0, 2], deep / 65535, atol=1e-7)
    tifffile.imwrite(tmp_path / "big.tif", deep, byteorder=">")
    np.testing.assert_allclose(read(tmp_path / "big.tif").image[0, 0], deep / 65535, atol=1e-7)
    tifffile.imwrite(tmp_path / "white.tif", deep, photometric="miniswhite")
    np.testing.assert_allclose(read(tmp_path / "white.tif").image[0, 0], 1 - deep / 65535, atol=1e-6)
    image = read(Image.fromarray(deep.astype(np.int32))).image  # mode I
    np.testing.assert_allclose(image[0, 2], deep / 65535, atol=1e-7)
    with pytest.raises(ImageError, match=r"outside \[0, 1\]"):
        read(Image.fromarray(deep.astype(np.int32) * 2))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_tiff(tmp_path: Path, channels: int, planar: bool) -> None:
    deep = RNG.integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    stored = np.moveaxis(deep, 2, 0) if planar else deep
    extra = ["unassalpha"] if channels == 4 else []
    config = "separate" if planar else "contig"
    options = {"photometric": "rgb", "planarconfig": config, "extrasamples": extra, "compression": "zlib"}
    tifffile.imwrite(tmp_path / "deep.tif", stored, **options)
    picture = read(tmp_path / "deep.tif")
    np.testing.assert_allclose(picture.image[0].permute(1, 2, 0), deep[..., :3] / 65535, atol=1e-6)
    assert (picture.alpha is None) == (channels == 3)
    if picture.alpha is not None:
        np.testing.assert_allclose(picture.alpha[0, 0], deep[..., 3] / 65535, atol=1e-6)


def test_deep_tiff_is_turned_and_converted(tmp_path: Path) -> None:
    deep = np.zeros((2, 3, 3), np.uint16)
    deep[0, 0] = 55 * 257
    icc = linear_rgb()
    tags = [(274, "H", 1, 6, True), (34675, "B", len(icc), icc, True)]
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", extratags=tags)
    picture = read(tmp_path / "deep.tif")
    assert picture.image.shape == (1, 3, 3, 2)
    assert picture.profile == icc
    np.testing.assert_allclose(numbers(picture.image)[0, 1], 128, atol=1)  # top left moves to the top right
    assert picture.image.sum() == picture.image[..., 0, 1].sum()


def test_sixteen_bit_colour_png(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">6H", 0, 32896, 65535, 257, 514, 771)
    path = tmp_path / "deep.png"
    path.write_bytes(png(2, 1, zlib.compress(row), depth=16))
    np.testing.assert_allclose(numbers(read(path).image), [[(0, 128, 255), (1, 2, 3)]], atol=1e-3)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_float_tiff(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = RNG.random(shape, dtype=np.float32)
    extra = {"photometric": "rgb"} if len(shape) == 3 else {}
    tifffile.imwrite(tmp_path / "float.tif", values, **extra)
    picture = read(tmp_path / "float.tif")
    expected = values[..., None].repeat(3, 2) if len(shape) == 2 else values[..., :3]
    np.testing.assert_allclose(picture.image[0].permute(1, 2, 0), expected, atol=1e-7)
    tifffile.imwrite(tmp_path / "bytes.tif", values * 255, **extra)
    with pytest.raises(ImageError, match=r"bytes\.tif: .*divide"):
        read(tmp_path / "bytes.tif")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    path = tmp_path / f"animation{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == ".webp" else {}))
    picture = read(path)
    np.testing.assert_allclose(numbers(picture.image)[1, 1], (255, 0, 0), atol=1e-3)
    assert picture.note == f"{path}: only the first frame is used"


# From memory


def test_arrays_and_images() -> None:
    expected = torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255
    for array in (
        PIXELS,
        (PIXELS.astype(np.uint16) * 257).astype(">u2"),
        PIXELS / 255,
        (PIXELS / 255).astype(np.float32)[::-1][::-1],
    ):
        picture = read(array)
        torch.testing.assert_close(picture.image, expected)
        assert picture.name == "<array>"
        assert picture.alpha is None
    grey = PIXELS[..., 0]
    assert torch.equal(read(grey).image, read(grey[..., None]).image)
    assert torch.equal(read(grey).image, expected[:, :1].expand(-1, 3, -1, -1))
    four = np.dstack([PIXELS, np.full((6, 9), 51, np.uint8)])
    clear = read(four)
    assert clear.alpha is not None
    assert clear.alpha.unique().item() == pytest.approx(0.2)
    image = read(Image.fromarray(PIXELS))
    assert image.name == "<image>"
    assert image.sha256 == read(PIXELS).sha256
    assert len({image.sha256, clear.sha256, read(255 - PIXELS).sha256, read(PIXELS.reshape(9, 6, 3)).sha256}) == 4


def test_tensors() -> None:
    image = torch.rand(1, 3, 4, 5, requires_grad=True)
    for tensor in (image, image[0], image.double()):
        picture = read(tensor)
        assert torch.equal(picture.image, image)
        assert not picture.image.requires_grad
        assert picture.name == "<tensor>"
        assert picture.image.dtype == torch.float32
    assert torch.equal(read(image[:, :1]).image, image[:, :1].expand(-1, 3, -1, -1))
    assert torch.equal(read(torch.full((3, 2, 2), 51, dtype=torch.uint8)).image, torch.full((1, 3, 2, 2), 0.2))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((0, 4, 3)), "no pixels"),
        (np.zeros((4, 4, 5)), "shape"),
        (np.zeros((3, 8, 9)), "shape"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.full((2, 2, 3), np.inf), "infinite"),
        (np.full((2, 2, 3), 200.0), "255"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.array([["a"]]), "uint8"),
        (torch.zeros(2, 3, 4, 4), "shape"),
        (torch.zeros(4, 4), "shape"),
        (torch.zeros(1, 3, 0, 4), "shape"),
        (torch.full((3, 2, 2), float("nan")), "NaN"),
        (torch.full((3, 2, 2), -1.0), "outside"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), "int64"),
    ],
)
def test_invalid_values(source: np.ndarray | torch.Tensor, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        read(source)
    assert str(caught.value).startswith(("<array>: ", "<tensor>: "))
    assert "\n" not in str(caught.value)


def test_another_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="int"):
        read(5)  # type: ignore[arg-type]


def test_a_damaged_pillow_image(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.jpg", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).read_bytes()
    with pytest.raises(ImageError, match=r"<image>.*truncated"):
        read(Image.open(io.BytesIO(whole[:-500])))


# Refusals


def test_unsupported_mode() -> None:
    with pytest.raises(ImageError, match=r"<image>: .*mode La, .*RGB PNG"):
        read(Image.new("La", (4, 4)))


# Sizes


def test_fit() -> None:
    assert images.fit(3000, 4000, 512) == (384, 512)
    assert images.fit(4000, 3000, 512) == (512, 384)
    assert images.fit(667, 1000, 500) == (334, 500)  # 333.5
    assert images.fit(1000, 667, 500) == (500, 334)
    assert images.fit(1, 10_000, 100) == (1, 100)
    assert images.fit(100, 100, 300) == (300, 300)
    with pytest.raises(ValueError, match="at least 1"):
        images.fit(10, 10, 0)


def test_resize() -> None:
    image = smooth()
    assert images.resize(image, 16, 24) is image
    assert images.resize(image, 8, 12).shape == (1, 3, 8, 12)
    lines = (torch.arange(63) % 2).float().expand(1, 3, 63, 63)
    assert images.resize(lines, 21, 21)[..., 2:-2].sub(0.5).abs().max() < 0.1  # without antialiasing: 0 and 1
    edge = (torch.arange(8) > 3).float().expand(1, 3, 8, 8)
    assert images.resize(edge, 32, 32).min() == 0
    assert images.resize(edge, 32, 32).max() == 1


# Writing


@pytest.mark.parametrize("suffix", [*encoding.FORMATS, ".PNG"])
def test_write_and_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    images.write(path, smooth())
    exact = suffix.lower() in (".png", ".tif", ".tiff")
    torch.testing.assert_close(read(path).image, smooth(), atol=(0.501 if exact else 10) / 255, rtol=0)
    assert read(path).alpha is None
    assert read(path).profile is None


def test_alpha_in_a_jpeg_is_laid_on_white(tmp_path: Path) -> None:
    alpha = torch.zeros(1, 1, 16, 16)
    alpha[..., 8:] = 0.5
    images.write(tmp_path / "out.jpg", torch.zeros(1, 3, 16, 16), alpha=alpha)
    result = numbers(read(tmp_path / "out.jpg").image)
    np.testing.assert_allclose(result[:, 3], 255, atol=4)
    np.testing.assert_allclose(result[:, 12], 128, atol=4)


@pytest.mark.parametrize("suffix", FORMATS)
def test_profile_is_converted_back_to_and_embedded(tmp_path: Path, suffix: str) -> None:
    path, icc = tmp_path / f"out{suffix}", linear_rgb(swapped=True)
    images.write(path, smooth(), profile=icc)
    with Image.open(path) as picture:
        assert picture.info["icc_profile"] == icc
        stored = np.asarray(picture.convert("RGB")) / 255
    light = smooth()[0, :, 8, 12].numpy() ** 2.2  # nearly sRGB's curve
    np.testing.assert_allclose(stored[8, 12], light[[1, 0, 2]], atol=0.02)
    result = read(path)
    assert result.profile == icc
    assert (result.image - smooth()).abs().mean() < 3 / 255


@pytest.mark.parametrize("useless", [black_only(), linear_grey(), b"broken", b""])
def test_a_useless_profile_is_left_out(tmp_path: Path, useless: bytes) -> None:
    images.write(tmp_path / "out.png", smooth(), profile=useless)
    with Image.open(tmp_path / "out.png") as picture:
        assert "icc_profile" not in picture.info
    torch.testing.assert_close(read(tmp_path / "out.png").image, smooth(), atol=0.501 / 255, rtol=0)


@pytest.mark.parametrize("suffix", FORMATS)
def test_receipt(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    receipt = {"name": 'Pärt "日本" \U0001f3a8\n', "weights": [1, 2.5], "seed": None, "nested": {"a": True}}
    images.write(path, smooth(), receipt=receipt, alpha=smooth()[:, :1], profile=linear_rgb())
    assert images.read_receipt(path) == receipt
    assert read(path).image.shape == (1, 3, 16, 24)  # and the orientation is unchanged


def test_a_receipt_is_read_without_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(picture: Image.Image) -> None:
        raise AssertionError("decoded")

    for bits in (8, 16):
        images.write(tmp_path / f"{bits}.png", torch.rand(1, 3, 4, 4), receipt={"bits": bits}, bits=bits)
    Image.new("L", (4, 4)).save(tmp_path / "none.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    assert [images.read_receipt(tmp_path / f"{bits}.png")["bits"] for bits in (8, 16)] == [8, 16]
    with pytest.raises(ImageError, match="has no receipt"):
        images.read_receipt(tmp_path / "none.png")


def test_no_receipt(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    for exif in (None, "a camera's words", "[1]"):
        tags = Image.Exif()
        if exif:
            tags[0x010E] = exif
        saved(path, PIXELS, exif=tags)
        with pytest.raises(ImageError, match=r"out\.png: has no receipt"):
            images.read_receipt(path)
    with pytest.raises(ImageError, match="does not exist"):
        images.read_receipt(tmp_path / "none.png")


def test_check_output(tmp_path: Path) -> None:
    assert images.check_output(str(tmp_path / "a.JPG")) == tmp_path / "a.JPG"
    assert not list(tmp_path.iterdir())
    for path, words in {
        tmp_path: "is a folder",
        tmp_path / "a.bmp": r"\.bmp; use \.png, \.jpg",
        tmp_path / "a": "without extension",
        tmp_path / "none" / "a.png": "none does not exist",
    }.items():
        with pytest.raises(ImageError, match=words) as caught:
            images.check_output(path)
        assert str(caught.value).startswith(f"{path}: ")
        with pytest.raises(ImageError, match=words):
            images.write(path, smooth())


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"before")

    def full(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(bytes(data[:10]))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ImageError, match=r"out\.png: cannot be written \(No space left on device\)"):
        images.write(path, smooth())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        images.write(tmp_path / "out.png", smooth())
    finally:
        os.umask(before)
    assert (tmp_path / "out.png").stat().st_mode & 0o777 == 0o640


def test_reading_and_writing_keeps_a_picture(tmp_path: Path) -> None:
    four = np.dstack([PIXELS, np.full((6, 9), 51, np.uint8)])
    source: Picture = read(saved(tmp_path / "in.png", four))
    images.write(tmp_path / "out.png", source.image, alpha=source.alpha, profile=source.profile)
    with Image.open(tmp_path / "out.png") as picture:
        assert np.array_equal(np.asarray(picture), four)
