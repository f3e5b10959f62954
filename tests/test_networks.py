"""Image transformation networks."""

import pytest
import torch
from torch.nn import functional as F

from impasto import networks


@pytest.mark.parametrize("side", [1, 2])
def test_smoothing_is_a_filter_of_the_pixels(side: int) -> None:
    x = torch.rand(2, 3 * side**2, 7, 9)
    line = torch.tensor([0.25, 0.5, 0.25])
    square = torch.outer(line, line).expand(3, 1, 3, 3)
    expected = F.conv2d(F.pad(F.pixel_shuffle(x, side), [1] * 4, "reflect"), square, groups=3)
    padded = F.pad(x, [1] * 4, "replicate" if side > 1 else "reflect")
    found = F.pixel_shuffle(F.conv2d(padded, networks._smoothing(side)), side)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
