"""The Kuwahara filter: fine marks go, edges stay."""

import pytest
import torch
from torch import Tensor

from impasto import kuwahara


def edge(height: int = 40, width: int = 60) -> Tensor:
    """Dark on the left, light on the right."""
    return (0.2 + 0.6 * (torch.arange(width) >= width // 2)).expand(1, 3, height, width).clone()


def test_a_straight_edge_stays_as_it_is() -> None:
    torch.testing.assert_close(kuwahara.filtered(edge()), edge(), rtol=0, atol=2e-3)


def test_fine_marks_go_and_the_edge_stays() -> None:
    noise = torch.randn(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    dots = torch.zeros(1, 1, 40, 60)
    dots[..., ::5, ::5] = 0.3
    for marks in (0.04 * noise, dots):
        marked = edge() + marks
        result = kuwahara.filtered(marked)
        before, after = ((x - edge())[..., 5:-5, 5:-5].std() for x in (marked, result))
        assert after < 0.45 * before
        steps = result[..., 30] - result[..., 29]
        assert 0.5 < float(steps.mean()) < 0.65, "the edge is as high as before"


def test_a_blurred_edge_becomes_crisp() -> None:
    ramp = (0.2 + 0.6 * ((torch.arange(60) - 26) / 8).clamp(0, 1)).expand(1, 3, 40, 60)
    steepest = [float((x[..., 1:] - x[..., :-1]).amax()) for x in (ramp, kuwahara.filtered(ramp))]
    assert steepest[1] > 1.5 * steepest[0]


def test_smoothing_along_an_edge_makes_it_clean() -> None:
    """A jagged diagonal comes nearer to the smooth one, and a step across the smoothing is not blurred."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    across = (x - y / 3) - 20
    jagged = (across > 0).float().expand(1, 3, 60, 60)
    clean = (across + 0.5).clamp(0, 1).expand(1, 3, 60, 60)
    smoothed = kuwahara.along_edges(jagged)
    errors = [float((each - clean)[..., 10:-10, 10:-10].square().mean()) for each in (jagged, smoothed)]
    assert errors[1] < 0.4 * errors[0]
    torch.testing.assert_close(kuwahara.along_edges(edge()), edge(), rtol=0, atol=1e-3)


def test_every_pixel_along_an_edge_counts() -> None:
    """Marks of two pixels' period on a straight edge disappear."""
    marked = edge()
    marked[..., ::2, 28:32] += 0.1
    middle = kuwahara.along_edges(marked)[..., 10:-10, 29]
    assert float(middle.std()) < 0.1 * float(marked[..., 10:-10, 29].std())


def test_variances_are_not_rounded_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 has too few digits for them."""
    allowed, conv2d = [], torch.nn.functional.conv2d

    def spy(*args: Tensor) -> Tensor:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return conv2d(*args)

    monkeypatch.setattr(torch.nn.functional, "conv2d", spy)
    before = torch.backends.cudnn.allow_tf32
    kuwahara.evenest(edge())
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_amount_mixes() -> None:
    image = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    assert kuwahara.filtered(image, 0) is image
    full = kuwahara.filtered(image)
    torch.testing.assert_close(kuwahara.filtered(image, 0.5), (image + full) / 2)
    torch.testing.assert_close(full[1:], kuwahara.filtered(image[1:]))
    assert float(full.min()) >= 0 and float(full.max()) <= 1


def test_bands_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 3, 90, 30, generator=torch.Generator().manual_seed(2))
    whole = kuwahara.filtered(image)
    monkeypatch.setattr(kuwahara, "BAND", 30 * 25)
    torch.testing.assert_close(kuwahara.filtered(image), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 2)])
def test_tiny_pictures(shape: tuple[int, int]) -> None:
    image = torch.full((1, 3, *shape), 0.3)
    torch.testing.assert_close(kuwahara.filtered(image), image)
