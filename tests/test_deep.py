"""Pictures of 16 bits: PNG, TIFF and colour profiles."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import save_picture
from PIL import Image, ImageCms

from impasto import cli, deep, images, pix2pix
from impasto.generators import Shape, UNet

RNG = np.random.default_rng(0)
VALUES = torch.from_numpy(RNG.integers(0, 65536, (1, 4, 12, 20)).astype(np.float32)) / 65535


def bytes_of(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_every_level_comes_back(name: str, tmp_path: Path) -> None:
    path, receipt = tmp_path / name, {"command": "photo", "sign": "é"}
    images.write(path, VALUES[:, :3], alpha=VALUES[:, 3:], receipt=receipt, bits=16)
    found = images.read(path)
    assert found.bits == 16 and found.alpha is not None
    seen = VALUES[:, 3:] >= images.VISIBLE
    torch.testing.assert_close(found.image * seen, VALUES[:, :3] * seen, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.alpha, VALUES[:, 3:], rtol=0, atol=1e-6)
    assert images.read_receipt(path) == receipt
    with Image.open(path) as other:  # other programs can read it
        other.load()
        assert other.size == (20, 12)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_profile_is_kept_at_full_depth(name: str, tmp_path: Path) -> None:
    ramp = torch.linspace(0.2, 0.8, 600).view(1, 1, 1, -1).expand(1, 3, 2, -1)
    profile = bytes_of("sRGB")
    images.write(tmp_path / name, ramp, profile=profile, bits=16)
    found = images.read(tmp_path / name)
    assert found.profile == profile
    assert len(found.image[0, 0, 0].unique()) == 600  # 8 bits have 154 levels there
    torch.testing.assert_close(found.image, ramp, rtol=0, atol=1e-3)


def test_what_is_no_16_bit_png(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 8, 8)
    with (tmp_path / "a.png").open("rb") as file:
        assert deep.read_png(file) is None
    assert images.read(tmp_path / "a.png").bits == 8


def test_broken_profiles() -> None:
    colors = np.zeros((2, 2, 3), np.uint16)
    assert deep.convert(colors, b"none", bytes_of("sRGB")) is None
    assert deep.convert(colors, bytes_of("sRGB"), bytes_of("LAB")) is None


def test_a_compressed_tiff_keeps_its_depth(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (6, 9, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", compression="lzw", predictor=True)
    found = images.read(tmp_path / "a.tif").image[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, values / 65535, rtol=0, atol=1e-6)


def test_formats_of_8_bits(tmp_path: Path) -> None:
    images.write(tmp_path / "a.jpg", VALUES[:, :3], bits=16)
    assert images.read(tmp_path / "a.jpg").bits == 8


def test_dither_hides_steps_and_keeps_the_mean(tmp_path: Path) -> None:
    flat = torch.full((1, 3, 64, 64), 100.25 / 255)
    images.write(tmp_path / "a.png", flat, dither=True)
    values = 255 * images.to_tensor(tmp_path / "a.png")
    assert set(values.round().unique().tolist()) == {100.0, 101.0}
    assert float(values.mean()) == pytest.approx(100.25, abs=0.03)
    images.write(tmp_path / "b.png", torch.full((1, 3, 8, 8), 100 / 255), dither=True)
    assert set((255 * images.to_tensor(tmp_path / "b.png")).round().unique().tolist()) == {100.0}


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("command", ["apply", "transfer", "photo", "pix2pix apply"])
def test_commands_keep_16_bits(command: str, suffix: str, tmp_path: Path, tiny: str) -> None:
    path, out = str(tmp_path / f"in.{suffix}"), tmp_path / f"out.{suffix}"
    images.write(path, torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)), bits=16)
    small = ["--size", "32", "--steps", "2", "--encoder", tiny]
    flags = {
        "apply": ["apply", path, "--style", "candy"],
        "pix2pix apply": ["pix2pix", "apply", "colorize", path],
        "transfer": ["transfer", path, path, *small],
        "photo": ["photo", path, path, *small],
    }[command]
    assert cli.main([*flags, "-o", str(out), "--quiet"]) == 0
    found = images.read(out)
    assert found.bits == 16
    levels = 255 * found.image
    assert float((levels - levels.round()).abs().max()) > 0.1  # more than 8 bits hold
    assert images.has_receipt(out)


@pytest.mark.parametrize("command", [["apply", "PHOTO", "--style", "candy"], ["pix2pix", "apply", "MODEL", "PHOTO"]])
def test_pictures_of_16_bits_are_painted_in_float32(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 would leave a few thousand levels."""

    def precision(name: str, device: torch.device) -> torch.dtype:
        return torch.float32 if name == "float32" else torch.bfloat16

    monkeypatch.setattr("impasto.machine.precision", precision)
    model, photo, out = (tmp_path / name for name in ("model.safetensors", "photo.png", "out.png"))
    pix2pix.save(model, pix2pix.Model(UNet(Shape(width=2, depth=3)), "given", {}))
    images.write(photo, torch.rand(1, 3, 128, 128), bits=16)
    paths = {"MODEL": str(model), "PHOTO": str(photo)}
    assert cli.main([*(paths.get(each, each) for each in command), "-o", str(out)]) == 0
    painted = images.read(out)
    assert painted.bits == 16 and painted.image.unique().numel() > 8000
