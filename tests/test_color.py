"""Keeping the content's colours: values computed by hand, and degenerate pictures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from impasto import color

FUNCTIONS: list[Callable[[Tensor, Tensor], Tensor]] = [
    color.keep_luma,
    color.match_histogram,
    color.match_luma,
    color.transport_colors,
]


def picture(seed: int, height: int = 12, width: int = 15, dtype: torch.dtype = torch.float64) -> Tensor:
    """Correlated colours well inside [0, 1], so that nothing is clamped."""
    noise = torch.rand(1, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    mix = torch.tensor([[0.2, 0.1, 0.0], [0.1, 0.15, 0.05], [0.05, 0.0, 0.1]], dtype=dtype)
    return 0.35 + torch.einsum("ij,bjhw->bihw", mix, noise)


def pixel(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1)


def test_luma() -> None:
    image = torch.eye(3).reshape(3, 3, 1, 1)  # red, green, blue
    torch.testing.assert_close(color.luma(image), torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1, 1))


def test_keep_luma_by_hand() -> None:
    # Content luma 0.299 * 0.5 + 0.587 * 0.2 + 0.114 * 0.1 = 0.2783; result luma 0.4: add 0.1217.
    kept = color.keep_luma(pixel(0.5, 0.2, 0.1), pixel(0.4, 0.4, 0.4))
    torch.testing.assert_close(kept, pixel(0.6217, 0.3217, 0.2217))


def test_keep_luma_takes_luma_and_keeps_chroma() -> None:
    content, result = picture(0), picture(1)
    kept = color.keep_luma(content, result)
    torch.testing.assert_close(color.luma(kept), color.luma(result))
    chroma = [(image - color.luma(image))[:, ::2] for image in (kept, content)]  # V and U up to a factor
    torch.testing.assert_close(*chroma)
    torch.testing.assert_close(color.keep_luma(content, content), content)
    with pytest.raises(ValueError, match="same shape"):
        color.keep_luma(content, result[..., 1:])


def test_match_histogram_by_hand() -> None:
    image = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    reference = torch.tensor([0.9, 0.5, 0.7, 0.6]).reshape(1, 1, 1, 4).expand(1, 3, 1, 4)
    expected = torch.tensor([0.5, 0.6, 0.7, 0.9]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    torch.testing.assert_close(color.match_histogram(image, reference), expected)


def test_match_histogram_matches_each_channel() -> None:
    image, reference = picture(0, 40, 50), picture(1, 50, 40)
    matched = color.match_histogram(image, reference)
    torch.testing.assert_close(matched.flatten(2).sort().values, reference.flatten(2).sort().values)
    assert torch.equal(matched.flatten(2).argsort(), image.flatten(2).argsort())


def test_the_affine_transport_matches_moments_and_is_symmetric() -> None:
    image = torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(0))
    mix = torch.tensor([[0.5, 0.2, 0.0], [0.1, 0.4, 0.1], [0.0, 0.1, 0.3]])
    reference = torch.einsum("ij,bjhw->bihw", mix, image)
    matrix, mean, goal = color.affine_transport(image, reference)
    torch.testing.assert_close(matrix, matrix.mT)
    moved = (matrix @ (image.flatten(2) - mean) + goal)[0]
    torch.testing.assert_close(moved.cov(), reference.flatten(2)[0].cov(), rtol=0, atol=1e-4)
    torch.testing.assert_close(moved.mean(1), reference.mean((0, 2, 3)), rtol=0, atol=1e-5)


def test_match_luma() -> None:
    style = torch.tensor([0.0, 0.2]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)  # 0.1 +- 0.1
    content = torch.tensor([0.4, 0.4, 0.8, 0.8]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)  # 0.6 +- 0.2
    matched = color.match_luma(style, content)
    torch.testing.assert_close(matched, torch.tensor([0.4, 0.8]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2))
    coloured = color.match_luma(picture(0), picture(1))
    torch.testing.assert_close(coloured.mean(), color.luma(picture(1)).mean())
    assert torch.equal(coloured[:, 0], coloured[:, 1])
    assert torch.equal(coloured[:, 0], coloured[:, 2])


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_type_and_range(function: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    images = torch.cat([picture(0), picture(1)]).to(dtype)
    others = torch.rand(2, 3, 12, 15, generator=torch.Generator().manual_seed(2)).round().to(dtype)  # all values 0 or 1
    result = function(images, others)
    assert result.shape == images.shape
    assert result.dtype == dtype
    assert result.min() >= 0
    assert result.max() <= 1
    for i in range(2):  # each picture of the batch separately
        tolerance = {"atol": 1e-2, "rtol": 0.0} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 0.0}
        torch.testing.assert_close(function(images[i : i + 1], others[i : i + 1]), result[i : i + 1], **tolerance)


@pytest.mark.parametrize("function", FUNCTIONS[1:])
def test_one_reference_serves_a_batch(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    images = torch.cat([picture(0), picture(1)])
    result = function(images, picture(2, 7, 8))
    torch.testing.assert_close(result[1:], function(images[1:], picture(2, 7, 8)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_constant_and_grey_pictures(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    flat, real = torch.full((1, 3, 12, 15), 0.3), picture(0, dtype=torch.float32)
    grey = real.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    for pair in [(flat, real), (real, flat), (flat, flat), (grey, real), (real, grey)]:
        assert function(*pair).isfinite().all()
    torch.testing.assert_close(function(flat, flat), flat)


def test_degenerate_values() -> None:
    flat, real = torch.full((1, 3, 12, 15), 0.3), picture(0, dtype=torch.float32)
    torch.testing.assert_close(color.match_luma(flat, real), color.luma(real).mean().expand_as(real))


def test_luma_transfer_has_a_gradient() -> None:
    content, result = picture(0, 2, 3), picture(1, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(color.keep_luma, (content, result))


def test_transport_of_colours_by_hand() -> None:
    """A rising ramp, given the colours of a falling one with other values, still rises."""
    ramp = torch.linspace(0.2, 0.4, 9, dtype=torch.float64).expand(1, 3, 1, 9)
    falling = torch.linspace(0.9, 0.5, 9, dtype=torch.float64).expand(1, 3, 1, 9)
    torch.testing.assert_close(color.transport_colors(ramp, falling), falling.flip(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(color.transport_colors(ramp, ramp), ramp, rtol=0, atol=1e-6)


def test_transport_of_colours_gives_the_whole_distribution() -> None:
    """Two clusters of colours stay two clusters, which no linear map could make of one."""
    image, mask = picture(0), torch.zeros(1, 1, 12, 15, dtype=torch.float64)
    two = torch.where(torch.arange(180).view(1, 1, 12, 15) < 60, 0.1, 0.9).expand(1, 3, 12, 15)
    found = color.transport_colors(image, two)
    assert torch.minimum((found - 0.1).abs(), (found - 0.9).abs()).max() < 0.05
    assert abs(float((found < 0.5).double().mean()) - 1 / 3) < 0.02
    mask[..., :8, :] = 1  # half of what counts is dark now
    counted = color.transport_colors(image, two, None, mask)
    assert abs(float((counted < 0.5).double().mean()) - 1 / 2) < 0.02
    inside = color.transport_colors(image, two, mask)[..., :8, :]
    assert abs(float((inside < 0.5).double().mean()) - 1 / 3) < 0.02


def test_transport_of_colours_spreads_a_flat_area_from_the_top_down() -> None:
    flat, ramp = torch.full((1, 3, 4, 3), 0.5), torch.linspace(0.8, 0.2, 12).expand(1, 3, 1, 12)
    rows = color.transport_colors(flat, ramp).mean((1, 3))[0]
    assert torch.equal(rows, rows.sort().values) or torch.equal(rows, rows.sort(descending=True).values)
    assert float(rows.std()) > 0.1
