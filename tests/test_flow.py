"""Optical flow: its direction and accuracy, and where it is trusted."""

import pytest
import torch
from conftest import hide
from torch import Tensor
from torch.nn import functional as F

from impasto import flow
from impasto.errors import VideoError


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    noise = torch.rand(1, 3, height // 4 + 3, width // 4 + 3, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, scale_factor=4.0, mode="bicubic")[..., :height, :width].clamp(0, 1)


def moved() -> tuple[Tensor, Tensor, Tensor]:
    """A square that moves by (6, 2) over a still background: two frames, and the flow of the second to the first."""
    behind, square = texture(72, 96), texture(24, 24, seed=1)
    first, second, back = behind.clone(), behind.clone(), torch.zeros(1, 2, 72, 96)
    first[..., 20:44, 30:54] = square
    second[..., 22:46, 36:60] = square
    back[:, 0, 22:46, 36:60], back[:, 1, 22:46, 36:60] = -6, -2
    return first, second, back


def test_the_flow_points_to_where_a_pixel_is_in_the_other_frame() -> None:
    large = texture(80, 110)
    first, second = large[..., 4:68, 6:102], large[..., 1:65, 1:97]  # what is at p lies at p + (5, 3) in the second
    found = flow.between(first, second)
    error = (found - torch.tensor([5.0, 3.0]).view(1, 2, 1, 1))[..., 8:-8, 8:-8].norm(dim=1)
    assert found.shape == (1, 2, 64, 96) and error.mean() < 0.15


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (9, 9)])
def test_small_frames(height: int, width: int) -> None:
    image = torch.rand(1, 3, height, width)
    found = flow.between(image, image)
    assert found.shape == (1, 2, height, width) and found.abs().max() < 0.5
    assert flow.trust(found, found).shape == (1, 1, height, width)


def test_warping_takes_each_pixel_from_where_the_flow_points() -> None:
    image = texture(20, 30)
    whole = torch.tensor([2.0, -3.0]).view(1, 2, 1, 1).expand(1, 2, 20, 30)
    assert torch.allclose(flow.warp(image, whole)[..., 3:, :-2], image[..., :-3, 2:], atol=1e-5)
    assert torch.allclose(flow.warp(image, torch.zeros(1, 2, 20, 30)), image, atol=1e-5)


def test_warping_half_a_pixel_there_and_back_keeps_more_detail_than_bilinear_interpolation() -> None:
    image = texture(40, 40)
    half = torch.full((1, 2, 40, 40), 0.5)
    again = flow.warp(flow.warp(image, half), -half)
    blurred = F.avg_pool2d(F.avg_pool2d(image, 2, 1), 2, 1)  # the same by bilinear interpolation
    errors = [
        (each - image[..., 4:-4, 4:-4]).square().mean() for each in (again[..., 4:-4, 4:-4], blurred[..., 3:-3, 3:-3])
    ]
    assert errors[0] < 0.2 * errors[1]


def test_hidden_pixels_boundaries_and_the_outside_are_not_trusted() -> None:
    first, second, back = moved()
    there = torch.zeros_like(back)
    there[:, 0, 20:44, 30:54], there[:, 1, 20:44, 30:54] = 6, 2
    trusted = flow.trust(back, there)[0, 0]
    assert trusted[26:42, 40:56].all() and trusted[:18].all() and trusted[50:].all()
    uncovered = torch.zeros(72, 96, dtype=torch.bool)
    uncovered[20:44, 30:54] = True
    uncovered[22:46, 36:60] = False
    assert trusted[uncovered].mean() == 0
    outward = torch.zeros_like(back)
    outward[:, 0] = 5
    trusted = flow.trust(outward, -outward)[0, 0]
    assert trusted[:, -5:].sum() == 0 and trusted[:, :-5].all()
    found = flow.trust(flow.between(second, first), flow.between(first, second))[0, 0]
    assert found[uncovered].mean() < 0.25 and found.mean() > 0.8


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "cv2")
    with pytest.raises(VideoError, match=r"pip install 'impasto\[video\]'"):
        flow.between(texture(8, 8), texture(8, 8))


def test_random_flow_is_smooth_and_small() -> None:
    found = flow.wander(3, 40, 80, torch.Generator().manual_seed(0))
    assert found.shape == (3, 2, 40, 80)
    deviations = found.std((0, 2, 3))
    assert 0.8 < deviations[0] < 2.2 and 0.4 < deviations[1] < 1.1  # 2 % of 80 and of 40, less what is smoothed away
    assert found.diff(dim=3).abs().max() < 0.6
    assert torch.equal(found, flow.wander(3, 40, 80, torch.Generator().manual_seed(0)))


def test_what_lies_in_the_frame() -> None:
    right = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(2, 2, 4, 10)
    expected = torch.zeros(2, 1, 4, 10)
    expected[..., :7] = 1
    assert torch.equal(flow.inside(right), expected)
