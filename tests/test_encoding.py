"""What is written: rounding, chroma, alpha, and what a format cannot hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import smooth
from PIL import Image

from impasto import images
from impasto.errors import ImageError
from impasto.images import read


def test_to_pil_rounds_and_clamps() -> None:
    image = torch.tensor([-0.5, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1.5]).expand(1, 3, 1, 5)
    assert np.asarray(images.to_pil(image))[0, :, 0].tolist() == [0, 0, 1, 255, 255]
    assert images.to_pil(image[0]).size == (5, 1)
    torch.testing.assert_close(read(images.to_pil(smooth())).image, smooth(), atol=0.501 / 255, rtol=0)
    with pytest.raises(ImageError, match="NaN"):
        images.to_pil(torch.full((1, 3, 2, 2), float("nan")))
    with pytest.raises(ImageError, match="shape"):
        images.to_pil(torch.zeros(2, 3, 2, 2))


def test_jpeg_keeps_all_chroma(tmp_path: Path) -> None:
    images.write(tmp_path / "out.jpg", smooth()[0])
    with Image.open(tmp_path / "out.jpg") as picture:
        assert [layer[1:3] for layer in picture.layer] == [(1, 1)] * 3
        assert picture.quantization[0][0] <= 2  # 16 at quality 50, 2 at 95


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_alpha_is_written(tmp_path: Path, suffix: str) -> None:
    alpha = torch.ones(1, 1, 16, 24)
    alpha[..., 8:] = 51 / 255
    images.write(tmp_path / f"out{suffix}", smooth(), alpha=alpha)
    picture = read(tmp_path / f"out{suffix}")
    torch.testing.assert_close(picture.alpha, alpha)
    torch.testing.assert_close(picture.image, smooth(), atol=(10 if suffix == ".webp" else 0.501) / 255, rtol=0)
    images.write(tmp_path / f"small{suffix}", smooth()[..., :8, :12], alpha=alpha)
    small = read(tmp_path / f"small{suffix}").alpha
    assert small is not None
    assert small.shape == (1, 1, 8, 12)


def test_pictures_too_large_for_their_format(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"saved as WEBP .*use \.png"):
        images.write(tmp_path / "out.webp", torch.zeros(1, 3, 1, 16_384))
    with pytest.raises(ImageError, match=r"saved as JPEG .*use \.png"):
        images.write(tmp_path / "out.jpg", smooth(), receipt={"long": "x" * 70_000})
    assert not list(tmp_path.iterdir())
