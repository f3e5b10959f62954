"""Guidance masks at a layer's size."""

import pytest
import torch

from impasto import masks


def test_at_layer_by_hand() -> None:
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]]).view(1, 1, 2, 4)
    assert masks.at_layer(mask, 1, 2).flatten().tolist() == [0.75, 0.0]  # the means of two 2x2 squares
    assert torch.equal(masks.at_layer(mask, 2, 4), mask)


@pytest.mark.parametrize("size", [(16, 8), (8, 4), (2, 1), (1, 1)])
def test_the_mean_is_kept_where_sizes_divide(size: tuple[int, int]) -> None:
    mask = torch.rand(1, 1, 32, 16, generator=torch.Generator().manual_seed(0))
    small = masks.at_layer(mask, *size)
    assert small.shape == (1, 1, *size)
    assert masks.share(small) == pytest.approx(masks.share(mask), abs=1e-6)


@pytest.mark.parametrize("size", [(18, 25), (9, 12), (4, 6), (2, 3), (1, 1)])
def test_odd_sizes_stay_in_range(size: tuple[int, int]) -> None:
    mask = torch.zeros(1, 1, 37, 50)
    mask[..., 25:] = 1
    small = masks.at_layer(mask, *size)
    assert small.shape == (1, 1, *size)
    assert 0 <= float(small.min()) <= float(small.max()) <= 1
    assert masks.share(small) == pytest.approx(0.5, abs=0.02)


def test_white_stays_white_and_edges_turn_soft() -> None:
    assert torch.equal(masks.at_layer(torch.ones(1, 1, 7, 9), 3, 4), torch.ones(1, 1, 3, 4))
    edge = torch.zeros(1, 1, 4, 6)
    edge[..., 3:] = 1
    assert masks.at_layer(edge, 2, 3)[0, 0, 0].tolist() == [0.0, 0.5, 1.0]


def test_share_by_hand() -> None:
    assert masks.share(torch.tensor([1.0, 0.5, 0.0, 0.0]).view(1, 1, 2, 2)) == 0.375
