"""Local contrast: faint forms are raised, and get the strokes of a painting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from impasto import contrast


def stripes(deviation: float, width: int = 480) -> Tensor:
    """Grey, with vertical stripes 5 pixels wide: (1, 3, 240, width)."""
    return 0.5 + deviation * (torch.arange(width) % 10 < 5).mul(2.0).sub(1).expand(1, 3, 240, width)


@pytest.mark.parametrize(
    ("deviation", "wanted"), [(0.0, 0.0), (0.008, 0.008), (0.02, 0.04), (0.04, 0.12), (0.1, 0.16), (0.2, 0.2)]
)
def test_faint_forms_are_brought_out(deviation: float, wanted: float) -> None:
    """Noise stays, clouds get three times the contrast, and strong contrast stays."""
    photograph = stripes(deviation) + torch.tensor([0.0, -0.05, 0.05]).view(1, 3, 1, 1)
    clear = contrast.clarify(photograph)
    inside = (clear - photograph.mean((2, 3), keepdim=True))[..., 40:-40]
    torch.testing.assert_close(inside.abs(), torch.full_like(inside, wanted), atol=0.002, rtol=0)
    torch.testing.assert_close(contrast.clarify(photograph, 0.5), (photograph + clear) / 2)


def test_a_painting_is_clarified_where_the_photograph_has_forms() -> None:
    """Not in a clear sky on the right, also not near the tower in it; in the clouds on the left, as without a photo."""
    painting = stripes(0.03)
    photograph = torch.where(torch.arange(480) < 240, painting, torch.full_like(painting, 0.5))
    photograph[..., 100:, 400:420] = 0.1
    change, plain = contrast.clarify(painting, 1, photograph) - painting, contrast.clarify(painting) - painting
    torch.testing.assert_close(change[..., :170], plain[..., :170], rtol=0, atol=1e-4)
    assert float(change[..., 290:].abs().max()) == 0


def test_clarify_keeps_hues_strong_edges_and_small_pictures() -> None:
    photograph = 0.3 + 0.4 * torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(3))
    change = contrast.clarify(photograph) - photograph
    torch.testing.assert_close(change, change[:, :1].expand_as(change))  # only luma changes
    halves = torch.full((1, 3, 96, 96), 0.1, dtype=torch.float64)
    halves[..., 48:] = 0.9
    torch.testing.assert_close(contrast.clarify(halves)[..., [47, 48]], halves[..., [47, 48]])
    assert contrast.clarify(halves, 0) is halves
    assert contrast.clarify(torch.rand(2, 3, 1, 3)).shape == (2, 3, 1, 3)


def test_strokes_are_added_to_faint_forms() -> None:
    """Fully, in luma, and without the mean that they have nearby."""
    photograph, strokes = stripes(0.03), 0.2 * (torch.arange(240) % 8 < 4).mul(2.0).sub(1).view(240, 1)
    painted = 0.3 + strokes * torch.tensor([1.0, 0.5, 0.2]).view(3, 1, 1)
    added = (contrast.underpaint(photograph, painted[None]) - photograph)[..., 24:-24, :]
    wanted = (0.299 + 0.587 * 0.5 + 0.114 * 0.2) * strokes[24:-24]
    torch.testing.assert_close(added, wanted.expand_as(added), rtol=0, atol=0.01)
    half = contrast.underpaint(photograph, painted[None], 0.5) - photograph
    torch.testing.assert_close(2 * half[..., 24:-24, :], added)
    assert torch.equal(contrast.underpaint(photograph, painted[None], 0), photograph)


@pytest.mark.parametrize("kind", ["strong", "even", "gradient", "noise"])
def test_some_areas_get_no_strokes(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    photograph = {
        "strong": stripes(0.2),
        "even": stripes(0),
        "gradient": (0.2 + 0.6 * torch.linspace(0, 1, 480)).expand(1, 3, 240, 480),
        "noise": stripes(0) + 0.012 * torch.randn(1, 3, 240, 480, generator=generator),  # 0.008 in luma
    }[kind]
    assert torch.equal(contrast.underpaint(photograph, torch.rand(1, 3, 240, 480, generator=generator)), photograph)


def test_faint_forms_are_enough() -> None:
    """Stripes twice as strong as what counts as even get all strokes."""
    photograph, painted = stripes(0.012), stripes(0.1)
    added = (contrast.underpaint(photograph, painted) - photograph)[..., 24:-24]
    torch.testing.assert_close(added, (painted - 0.5)[..., 24:-24], rtol=0, atol=0.01)


def test_the_edge_of_a_tower_does_not_count_as_a_form_of_the_sky() -> None:
    photograph = stripes(0)
    photograph[..., 200:280] = 0.05
    painted = torch.rand(1, 3, 240, 480, generator=torch.Generator().manual_seed(0))
    change = contrast.underpaint(photograph, painted) - photograph
    assert float(change[..., :200].abs().max()) == float(change[..., 280:].abs().max()) == 0


def test_a_tower_does_not_change_the_sky_around_it() -> None:
    """The painting of the sky is darker than the photograph's, and has no strokes."""
    photograph, painted = stripes(0.03), torch.full((1, 3, 240, 480), 0.4)
    for picture in (photograph, painted):
        picture[..., 100:, 200:280] = 0.05
    torch.testing.assert_close(contrast.underpaint(photograph, painted), photograph, rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 3), (33, 47)])
def test_strokes_in_small_pictures_and_batches(size: tuple[int, int]) -> None:
    photographs, painted = 0.5 + 0.05 * torch.rand(2, 3, *size), torch.rand(2, 3, *size)
    both = contrast.underpaint(photographs, painted)
    assert both.shape == photographs.shape and 0 <= float(both.min()) <= float(both.max()) <= 1
    assert size != (33, 47) or not torch.equal(both, photographs)
    for one in (slice(0, 1), slice(1, 2)):
        torch.testing.assert_close(both[one], contrast.underpaint(photographs[one], painted[one]))
