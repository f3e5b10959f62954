"""Tiles cover a picture once; their halos end at its borders."""

import pytest
import torch
from conftest import randomise

from impasto import encoder, tiling
from impasto.errors import InputError
from impasto.recipes import FIVE


@pytest.mark.parametrize("size", [(500, 700), (513, 128), (129, 1025), (1000, 1)])
def test_windows_cover_the_picture_once(size: tuple[int, int]) -> None:
    frozen = encoder.Frozen(randomise(encoder.VGG((5, 6, 7, 8, 8))), FIVE)
    budget = (150 + 2 * frozen.halo + 1) ** 2 * frozen.bytes_per_pixel
    image = torch.zeros(1, 3, *size)
    seen = torch.zeros(size)
    for window in tiling.windows(image, frozen, budget):
        seen[window.top : window.bottom, window.left : window.right] += 1
        assert max(window.bottom - window.top, window.right - window.left) <= 160 or min(size) < 200
        for first, last, outer, end in (
            (window.top, window.bottom, window.outer[0], size[0]),
            (window.left, window.right, window.outer[1], size[1]),
        ):
            assert first % 16 == 0 and (last % 16 == 0 or last == end)
            assert outer.start == max(0, first - frozen.halo) and outer.stop == min(end, last + frozen.halo)
    assert bool((seen == 1).all())


def test_windows_stay_within_the_budget() -> None:
    frozen = encoder.Frozen(randomise(encoder.VGG((5, 6, 7, 8, 8))), FIVE)
    budget = (175 + 2 * frozen.halo) ** 2 * frozen.bytes_per_pixel
    image = torch.zeros(1, 3, 1030, 1030)
    crops = [window.crop(image)[0, 0].numel() for window in tiling.windows(image, frozen, budget)]
    assert max(crops) * frozen.bytes_per_pixel <= budget


def test_a_small_picture_is_one_tile() -> None:
    frozen, image = encoder.Frozen(randomise(encoder.VGG((5, 6, 7, 8, 8))), FIVE), torch.zeros(1, 3, 30, 50)
    for budget in (0, 1500 * frozen.bytes_per_pixel):
        assert tiling.windows(image, frozen, budget) == [tiling.everything(image)]
    with pytest.raises(InputError, match="one tile needs"):
        tiling.windows(image, frozen, 1499 * frozen.bytes_per_pixel)
