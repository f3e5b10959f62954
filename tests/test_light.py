"""The light that a photograph is given: tables and added."""

import torch
from torch import Tensor

from impasto import light

SAME = torch.eye(3, 4)


def colors_of(picture: Tensor) -> Tensor:
    return picture[0].flatten(1).T


def table_of(picture: Tensor, moved: Tensor) -> Tensor:
    """With all of the movement in the residual."""
    weights = torch.ones(picture[0, 0].numel())
    return light.tables(colors_of(picture), [weights], [SAME], [colors_of(moved) - colors_of(picture)])


def everywhere(picture: Tensor) -> list[Tensor]:
    return [torch.ones_like(picture[:, :1])]


def test_a_change_of_all_colours_is_found() -> None:
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 40, 60)
    moved = 0.1 + 0.6 * picture
    found = light.lit(picture, everywhere(picture), table_of(picture, moved), light.neutral(1))
    assert float((found - moved).abs().mean()) < 0.02


def test_an_affine_map_is_exact() -> None:
    picture = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    weights, map_ = torch.ones(600), torch.cat([0.5 * torch.eye(3), torch.full((3, 1), 0.2)], 1)
    table = light.tables(colors_of(picture), [weights], [map_], [torch.zeros(600, 3)])
    found = light.lit(picture, everywhere(picture), table, light.neutral(1))
    torch.testing.assert_close(found, 0.5 * picture + 0.2, rtol=0, atol=1e-5)


def test_noise_is_not_amplified() -> None:
    """A nearly even sky that is to become a strong gradient gets its mean, and not the noise times 40."""
    torch.manual_seed(0)
    sky = 0.5 + 0.01 * torch.randn(1, 3, 40, 60)
    moved = 0.3 + 40 * (sky - 0.5)
    found = light.lit(sky, everywhere(sky), table_of(sky, moved), light.neutral(1))
    assert abs(float(found.mean()) - 0.3) < 0.02
    assert float(found.std()) < 5 * 0.01


def test_the_order_of_greys_is_kept() -> None:
    """Mid greys that are to become darker than dark ones would be outlines in every gradient."""
    picture = torch.linspace(0, 1, 400).expand(1, 3, 20, 400)
    moved = torch.where((picture - 0.5).abs() < 0.1, picture - 0.35, picture)
    table = table_of(picture, moved)
    ramp = torch.linspace(0, 1, 100).expand(1, 3, 1, 100)
    found = light.lit(ramp, everywhere(ramp), table, light.neutral(1))[0, :, 0]
    assert float(found.diff().min()) > -1e-3
    assert float((found - ramp[0, :, 0]).min()) < -0.1  # they do become darker


def test_in_order_is_the_isotonic_regression_of_each_line() -> None:
    luma, mass = torch.zeros(2, 1, 3, 3, 3), torch.ones(2, 1, 3, 3, 3)
    luma[0, 0, 1, 1, 1], mass[0, 0, 1, 1, 1] = 1.0, 3.0  # the greys: 0, 1, 0
    luma[0, 0, 0, 0, 1] = 0.2  # a line of two: 0.2, 0
    luma[1, 0, 2, 2, 2] = 0.5  # in order
    wanted = luma.clone()
    wanted[0, 0, 1, 1, 1] = wanted[0, 0, 2, 2, 2] = 0.75
    wanted[0, 0, 0, 0, 1] = wanted[0, 0, 1, 1, 2] = 0.1
    before = luma.clone()
    torch.testing.assert_close(light.in_order(luma, mass), wanted)
    torch.testing.assert_close(light.in_order(luma.double(), mass.double()), wanted.double())
    assert torch.equal(luma, before)


def test_colours_that_a_region_lacks_move_as_elsewhere() -> None:
    colors = torch.cat([torch.full((50, 3), 0.9), torch.full((50, 3), 0.1)])  # a sky, and a ground
    sky = (torch.arange(100) < 50).float()
    night = torch.cat([torch.eye(3), torch.full((3, 1), -0.6)], 1)
    tables = light.tables(colors, [sky, 1 - sky], [night, SAME], [torch.zeros(100, 3)] * 2)
    pixel = torch.full((1, 3, 1, 1), 0.9)  # of the sky, on the ground's side of the border
    found = light.lit(pixel, [torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)], tables, light.neutral(2))
    torch.testing.assert_close(found, torch.full_like(pixel, 0.3), rtol=0, atol=0.03)


def test_strips_and_sizes_give_the_same_light() -> None:
    torch.manual_seed(0)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8), (48, 64), mode="bicubic").clamp(0, 1)
    added, table = 0.2 * torch.randn_like(light.neutral(1)), table_of(picture, picture**2)
    whole = light.Scene(picture, everywhere(picture), table).lit(added).clamp(0, 1)
    before, light.STRIP = light.STRIP, 64 * 7
    try:
        strips = light.lit(picture, everywhere(picture), table, added)
    finally:
        light.STRIP = before
    torch.testing.assert_close(strips, whole.clamp(0, 1))
    half = torch.nn.functional.avg_pool2d(picture, 2)
    small = light.lit(half, everywhere(half), table, added)
    assert float((small - torch.nn.functional.avg_pool2d(whole, 2)).abs().mean()) < 0.01


def test_what_is_uneven_has_a_price() -> None:
    added = light.neutral(2) + 0.5
    assert float(light.unevenness(added)) == 0
    added[0, -1] += 1  # exposure in a corner, of one of two regions
    assert float(light.unevenness(added)) == 1
    added[0, -1] -= 1
    added[0, -65] += 1  # colour in a corner
    assert float(light.unevenness(added)) == light.COLOUR
    added[0, -65] -= 1
    added[0, 0] += 1  # the end of a curve, which counts at 8 x 8 places
    assert float(light.unevenness(added)) == 32


def test_what_is_added_has_a_price() -> None:
    added = light.neutral(2)
    added[0, -64:] = 1  # one region is brighter everywhere
    assert float(light.size(added)) == 32
    added[0, 0] = 1
    assert float(light.size(added)) == 64
