"""Photographs in the colours of paintings, in their regions and blended."""

import torch
from conftest import smooth_picture

from impasto import palette

CONTENT, STYLE, OTHER = smooth_picture(20, 40, 1), smooth_picture(30, 24, 2), smooth_picture(25, 25, 3)


def test_palette_of_two_styles_in_their_regions() -> None:
    left = torch.zeros(1, 1, 20, 40)
    left[..., :20] = 1
    found = palette.recolor(CONTENT, [STYLE, OTHER], (), [left, 1 - left])
    torch.testing.assert_close(found[..., :20].mean((2, 3)), STYLE.mean((2, 3)), rtol=0, atol=0.02)
    torch.testing.assert_close(found[..., 20:].mean((2, 3)), OTHER.mean((2, 3)), rtol=0, atol=0.02)
    only_left = palette.recolor(CONTENT, [STYLE], (), [left])
    assert torch.equal(only_left[..., 20:], CONTENT[..., 20:])
    whole = palette.recolor(CONTENT, [STYLE, OTHER], (3.0, 1.0))
    mixed = 0.75 * STYLE.mean((2, 3)) + 0.25 * OTHER.mean((2, 3))
    torch.testing.assert_close(whole.mean((2, 3)), mixed, rtol=0, atol=0.02)
