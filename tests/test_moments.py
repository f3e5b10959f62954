"""Moments of features: values, collages, square roots, transport."""

import pytest
import torch
from torch import Tensor

from impasto import moments


def correlated(channels: int, *, seed: int, offset: float = 0.0) -> Tensor:
    """(1, C, 20, 30) features with correlated channels."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator)
    return torch.einsum("ij,bjhw->bihw", mixing, torch.randn(1, channels, 20, 30, generator=generator)) + offset


def test_roots() -> None:
    a = correlated(6, seed=0)[0].flatten(1)
    matrix = (a @ a.T / a.shape[1] + 0.1 * torch.eye(6))[None]
    root, inverse = moments.roots(matrix)
    torch.testing.assert_close(root @ root, matrix, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(root @ inverse, torch.eye(6)[None], rtol=1e-4, atol=1e-4)


def test_transport_gives_the_targets_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "SHRINKAGE", 0.0)
    x, goal = correlated(5, seed=1), moments.moments(correlated(5, seed=2, offset=3.0))
    moved = moments.moments(moments.affine(x, *moments.transport(moments.moments(x), goal)))
    torch.testing.assert_close(moved.mean, goal.mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moved.covariance, goal.covariance, rtol=1e-2, atol=1e-2)


def test_transport_to_itself_moves_nothing() -> None:
    x = correlated(5, seed=3, offset=-1.0)
    same = moments.moments(x)
    torch.testing.assert_close(moments.affine(x, *moments.transport(same, same)), x, rtol=1e-3, atol=1e-3)


def test_moments_of_collages_parts_and_linear_maps() -> None:
    x = correlated(4, seed=4, offset=2.0)
    whole = moments.moments(x)
    halves = [moments.moments(part) for part in x.split(15, 3)]
    mask = torch.zeros(1, 1, 20, 30)
    mask[..., :15] = 1
    weight, bias = torch.randn(3, 4), torch.randn(3)
    mapped = moments.moments(torch.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None])
    for found, wanted in (
        (moments.blend(halves, [0.5, 0.5]), whole),
        (moments.moments(x, mask), halves[0]),
        (whole.through(weight, bias), mapped),
    ):
        torch.testing.assert_close(found.mean, wanted.mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.second, wanted.second, rtol=1e-4, atol=1e-3)


def test_even_features_stay_finite() -> None:
    even, goal = torch.ones(1, 4, 6, 6), moments.moments(correlated(4, seed=5))
    moved = moments.affine(even, *moments.transport(moments.moments(even), goal))
    torch.testing.assert_close(moved[0, :, 0, 0], goal.mean[0], rtol=1e-3, atol=1e-2)
