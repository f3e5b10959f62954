"""Colours as classes: the bins, their weights, the annealed mean."""

import math

import pytest
import torch

from impasto import color, colorizer
from impasto.colorizer import Colorizer


def test_bins_of_colours() -> None:
    centres = color.bins()
    assert centres.shape == (259, 2) and centres.abs().max() == 110
    ab = torch.tensor([[[[0.0, 52.0]], [[4.0, 48.0]]]])
    found = centres[colorizer.nearest(ab, centres)]
    assert found.tolist() == [[[[0.0, 0.0], [50.0, 50.0]]]]
    far = colorizer.nearest(torch.full((1, 2, 1, 1), 109.0), centres)  # outside of sRGB: the nearest that is in it
    assert torch.equal(centres[far][0, 0, 0], centres[(centres - 110).square().sum(1).argmin()])


def test_rare_colours_weigh_more() -> None:
    """Zhang2016, equation 4, to the power of 3/4, without neighbours: 1 / (p / 2 + 1 / (2 Q)), of mean 1."""
    centres = torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    weights = colorizer.balance(torch.tensor([3.0, 1.0]), centres)
    raw = torch.tensor([1 / (0.375 + 0.25), 1 / (0.125 + 0.25)]) ** 0.75
    assert torch.allclose(weights, raw / (0.75 * raw[0] + 0.25 * raw[1]))


def test_annealed_mean() -> None:
    network = Colorizer(torch.tensor([[0.0, 0.0], [60.0, -20.0]]), (4, 4, 4))
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)
    assert network.colors(logits, 1.0).flatten().tolist() == pytest.approx([45, -15])
    assert network.colors(logits, 0.5).flatten().tolist() == pytest.approx([54, -18])  # 9 / 10
    assert network.colors(logits, 1e-3).flatten().tolist() == pytest.approx([60, -20])


def test_grey_has_the_lightness() -> None:
    image = torch.rand(1, 3, 8, 8)
    lightness = color.to_lab(image)[:, :1] / 50 - 1
    assert torch.allclose(color.to_lab(colorizer.grey(lightness))[:, :1] / 50 - 1, lightness, atol=1e-4)
