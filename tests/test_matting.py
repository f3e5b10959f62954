"""The matting Laplacian and the guided filter, compared with explicit matrices."""

import pytest
import torch
from torch import Tensor

from impasto import images, matting
from impasto.matting import Guide

SIDE, EPSILON = 16, 1e-7 / 9


@pytest.fixture
def guide() -> Tensor:
    return torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def explicit(image: Tensor, epsilon: float) -> Tensor:
    """Levin2008, eq. 12, entry by entry: (N, N)."""
    pixels = image[0].flatten(1).T  # (N, 3)
    index = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
    matrix = torch.zeros(SIDE * SIDE, SIDE * SIDE, dtype=torch.float64)
    for row in range(SIDE - 2):
        for column in range(SIDE - 2):
            window = index[row : row + 3, column : column + 3].flatten()
            centred = pixels[window] - pixels[window].mean(0)
            covariance = centred.T @ centred / 9 + epsilon * torch.eye(3, dtype=torch.float64)
            affinity = (1 + centred @ torch.linalg.inv(covariance) @ centred.T) / 9
            matrix[window[:, None], window] += torch.eye(9, dtype=torch.float64) - affinity
    return matrix


@pytest.mark.parametrize("epsilon", [EPSILON, 1e-3])
def test_laplacian_equals_the_explicit_matrix(guide: Tensor, epsilon: float) -> None:
    p = torch.rand(1, 2, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = (explicit(guide, epsilon) @ p[0].flatten(1).T).T.view(p.shape)
    torch.testing.assert_close(Guide(guide, epsilon=epsilon).laplacian(p), wanted, rtol=1e-7, atol=1e-9)


def test_gradient_of_the_energy_is_autograds_of_the_explicit_form(guide: Tensor) -> None:
    p = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    flat = p[0].flatten(1)
    energy = (flat * (flat @ explicit(guide, EPSILON))).sum()
    (wanted,) = torch.autograd.grad(energy, p)
    found = 2 * Guide(guide).laplacian(p.detach())
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


def test_affine_pictures_have_no_energy(guide: Tensor) -> None:
    p = 0.3 * guide + 0.1
    ours = Guide(guide)
    assert float((p * ours.laplacian(p)).sum()) < 1e-6 * float(p.square().sum())
    torch.testing.assert_close(ours.filter(p), p, rtol=0, atol=1e-5)


def test_constants_stay(guide: Tensor) -> None:
    p = torch.full_like(guide, 0.4)
    torch.testing.assert_close(Guide(guide, radius=2, epsilon=1e-2).filter(p), p)


def test_lift(guide: Tensor) -> None:
    """At the guide's size it equals the filter; at another, an affine function of the guide stays one."""
    ours = Guide(guide, radius=2, epsilon=1e-3)
    p = torch.rand_like(guide)
    torch.testing.assert_close(ours.lift(p, guide), ours.filter(p))
    large = torch.rand(1, 3, 40, 50, dtype=torch.float64)
    exact = Guide(guide, radius=2, epsilon=1e-12)
    torch.testing.assert_close(exact.lift(0.5 * guide + 0.2, large), 0.5 * large + 0.2, rtol=0, atol=1e-6)


def test_pixels_without_weight_do_not_count(guide: Tensor) -> None:
    """The weighted filter equals that of the cropped picture, except for windows across the border."""
    weight = torch.zeros_like(guide[:, :1])
    weight[..., :10] = 1
    p = torch.rand_like(guide)
    other = torch.where(weight > 0, p, torch.rand_like(guide))
    ours = Guide(guide, radius=2, epsilon=1e-3, weight=weight)
    assert not torch.allclose(p, other)
    torch.testing.assert_close(ours.filter(p)[..., :10], ours.filter(other)[..., :10])
    cut = Guide(guide[..., :10], radius=2, epsilon=1e-3)
    torch.testing.assert_close(ours.filter(p)[..., :6], cut.filter(p[..., :10])[..., :6])


def test_too_small() -> None:
    with pytest.raises(ValueError, match="smaller than its window"):
        Guide(torch.rand(1, 3, 2, 9))


def test_enlarging_restores_the_edges_of_the_photograph() -> None:
    """An affine function of the small photograph is enlarged to the same function of the large one."""
    photograph = (torch.rand(2, 1, 20, 30) > 0.5).float().repeat_interleave(8, 2).repeat_interleave(8, 3)
    photograph = (0.2 + 0.6 * photograph).expand(-1, 3, -1, -1)
    small = images.resize(photograph, 80, 120)
    gain = torch.tensor([0.5, -0.4, 0.9]).view(1, 3, 1, 1)
    found = matting.joint_upsample(gain * (small - 0.5) + 0.5, small, photograph)
    expected = gain * (photograph - 0.5) + 0.5
    blurred = images.resize(gain * (small - 0.5) + 0.5, 160, 240)
    assert float((found - expected).abs().mean()) < 0.3 * float((blurred - expected).abs().mean())
