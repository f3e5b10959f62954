"""Halos around what stands in front of an even area."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import halos, onepass


def tower(height: int = 240, width: int = 320) -> tuple[Tensor, Tensor]:
    """A dark tower in front of an even sky, and where the sky lies near it, (1, 1, H, W)."""
    inside = torch.zeros(1, 1, height, width)
    inside[..., 60:, 130:190] = 1
    near = torch.zeros_like(inside)
    near[..., 80:, 120:128] = 1
    return (0.7 - 0.6 * inside).expand(-1, 3, -1, -1).contiguous(), near


def haloed(photograph: Tensor) -> Tensor:
    """Blue for the sky and brown for the tower, with a white halo in the sky and fine strokes everywhere."""
    dark = (photograph[:, :1] < 0.4).float()
    soft = F.avg_pool2d(F.pad(dark, [12] * 4, "replicate"), 25, 1)
    halo = 0.8 * soft * (1 - dark)
    colours = dark * torch.tensor([0.3, 0.2, 0.1]).view(1, 3, 1, 1)
    colours = colours + (1 - dark) * torch.tensor([0.2, 0.3, 0.6]).view(1, 3, 1, 1)
    strokes = 0.1 * (torch.arange(photograph.shape[-1]) % 4 < 2) - 0.05
    return (colours + halo + strokes).clamp(0, 1)


def test_a_halo_goes_and_strokes_and_edges_stay() -> None:
    photograph, near = tower()
    painted = haloed(photograph)
    result = halos.removed(painted, photograph)

    def excess(x: Tensor) -> float:
        """How much lighter the sky is near the tower than far from it."""
        return float((x * near).sum() / near.sum() / 3 - x[..., :, :60].mean())

    assert excess(painted) > 0.05
    assert 0 < excess(result) < 0.6 * excess(painted)
    strokes = (x[..., 100:200, 20:100].diff(dim=-1).std() for x in (result, painted))
    torch.testing.assert_close(*strokes, rtol=0.05, atol=0)
    inside = (x[..., 100:200, 135:185].mean() for x in (result, painted))
    torch.testing.assert_close(*inside, rtol=0, atol=0.02)


def test_light_and_dark_halos_go_from_large_pictures() -> None:
    photograph, near = (F.interpolate(x, scale_factor=2.0) for x in tower())
    for sign in (1, -1):
        painted = 0.5 * photograph + 0.1 + sign * 0.2 * near
        left = ((halos.removed(painted, photograph) - painted) * near).sum() / near.sum() / 3
        assert 0.05 < -sign * float(left) < 0.2


def test_halos_can_be_trained_on() -> None:
    photograph, _ = tower()
    painted = haloed(photograph).requires_grad_(True)
    halo = halos.found(painted, photograph)
    (gradient,) = torch.autograd.grad(halo.square().sum(), painted)
    rate = 0.5 * gradient.square().sum() / halos.found(gradient, photograph).square().sum()  # the best along it
    with torch.no_grad():
        better = halos.found(painted - rate * gradient, photograph)
        torch.testing.assert_close(halos.found(painted / 2, photograph), halo / 2, rtol=0, atol=5e-3)
    assert better.square().sum() < 0.8 * halo.square().sum()


def test_weave_by_hand() -> None:
    """Stripes of 0 and 0.3 differ by 0.2 from their means of 3 x 3; they count in the even half only."""
    photograph = torch.full((1, 3, 60, 90), 0.5)
    photograph[..., 45:] = torch.rand(1, 3, 60, 45, generator=torch.Generator().manual_seed(0))
    stripes = 0.3 * (torch.arange(90) % 2.0).expand(1, 3, 60, -1)
    inner = (45 - 3) / 90  # the windows of the last three columns have the rough half in them
    assert float(halos.weave(stripes, photograph)) == pytest.approx(inner * 0.2**2, rel=0.05)
    assert float(halos.weave(torch.full_like(photograph, 0.2), photograph)) < 1e-9


def test_even_photographs_keep_their_strokes() -> None:
    painted = torch.rand(1, 3, 100, 120, generator=torch.Generator().manual_seed(0))
    assert torch.equal(halos.removed(painted, torch.full_like(painted, 0.5)), painted)


def test_batches_and_small_pictures() -> None:
    photographs = torch.cat([tower()[0], tower()[0].flip(3)])
    painted = torch.cat([haloed(each) for each in photographs.split(1)])
    together = halos.removed(painted, photographs)
    apart = [halos.removed(*each) for each in zip(painted.split(1), photographs.split(1), strict=True)]
    torch.testing.assert_close(together, torch.cat(apart))
    tiny = torch.rand(1, 3, 6, 40)
    assert torch.equal(halos.removed(tiny, 1 - tiny), tiny)


def test_any_painting_is_painted_without_halos(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    model = onepass.from_painting(torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(1)))
    wanted = halos.removed
    monkeypatch.setattr(halos, "removed", lambda painted, photograph: painted)
    plain = onepass.apply(image, model, crispness=0, precision="float32")
    monkeypatch.setattr(halos, "removed", lambda painted, photograph: torch.ones_like(painted))
    assert onepass.apply(image, model, crispness=0, precision="float32").min() == 1 and plain.mean() < 1
    assert onepass.apply(image, "candy").min() < 1
    monkeypatch.setattr(halos, "removed", wanted)
    torch.testing.assert_close(onepass.apply(image, model, crispness=0, precision="float32"), wanted(plain, image))
