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
    found = F.conv2d(padded, networks._smoothing(side))
    found = networks.shuffle(found) if side > 1 else found
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("smooth", [False, True])
def test_upsampling_is_part_of_the_convolution(smooth: bool) -> None:
    layer = networks.Layer(4, 5, 3, up=True, smooth=smooth, rectify=False, normalise=False)
    x = torch.rand(2, 4, 7, 9)
    doubled = F.interpolate(x, scale_factor=2.0, mode="bilinear" if smooth else "nearest")
    padded = F.pad(doubled, [1] * 4, "replicate" if smooth else "reflect")
    torch.testing.assert_close(layer(x), layer.convolution(padded))


def test_pictures_of_a_batch_are_normalised_separately() -> None:
    x, weight, bias = torch.rand(2, 5, 7, 9) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.rand(5), torch.rand(5)
    expected = F.instance_norm(x, weight=weight, bias=bias)
    torch.testing.assert_close(networks.normalise_(x, weight, bias, band=3), expected, rtol=0, atol=1e-5)


def test_grain_is_smooth_noise_relative_to_the_deviation() -> None:
    x = torch.rand(2, 3, 500, 701) * torch.tensor([1.0, 0.1]).view(2, 1, 1, 1) - 0.3
    noise = networks.uneven_(x.clone(), 0.2) - x
    parts = noise.std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.18 < float(parts.min()) <= float(parts.max()) < 0.22
    one, other = noise[0, 0] / noise[0].std(), noise[1, 2] / noise[1].std()
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert float(noise.diff(dim=3).abs().max()) < float(noise.std())  # between neighbouring pixels
    assert networks.uneven_(torch.zeros(1, 3, 1, 1), 0.2).abs().max() == 0
