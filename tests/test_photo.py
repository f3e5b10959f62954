"""Photorealistic transfer."""

from dataclasses import replace

import pytest
import torch
from conftest import BLUE, RED, halves
from torch import Tensor

from impasto import color, images, light, matching, photo
from impasto.errors import InputError
from impasto.matting import Guide
from impasto.recipes import Photo

Capture = pytest.CaptureFixture[str]


def test_transport_recovers_a_curve_for_each_region() -> None:
    """The right answer of a relit photograph is known; twice as near to it as Reinhard's transfer, and no leak."""
    torch.manual_seed(0)
    content = images.resize(torch.rand(1, 3, 10, 14), 60, 84)
    left = halves((1, 1, 1), (0, 0, 0), 60, 84)
    answer = left * (0.1 + 0.6 * content**1.8) + (1 - left) * (0.3 + 0.7 * content**0.6)
    masks = [left[:, :1], 1 - left[:, :1]]
    tables, _ = photo.transported(content, answer, masks, masks)
    found = light.lit(content, masks, tables, light.neutral(2))
    off, before = (float((x - answer).abs().mean()) for x in (found, reinhard(content, answer, masks)))
    assert off < before / 2


def test_two_lights_in_one_region_keep_their_places() -> None:
    """The same greys above and below, but red above and blue below in the style: a table of colours fails."""
    torch.manual_seed(0)
    content = images.resize(torch.rand(1, 1, 12, 16), 48, 64).expand(-1, 3, -1, -1)
    lights = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 0.8]])
    shade = 0.7 + 0.3 * images.resize(torch.rand(1, 1, 12, 16), 48, 64)
    style = shade * lights.T.repeat_interleave(24, 1)[None, :, :, None]
    whole = matching.Regions([torch.ones(1, 1, 48, 64)], [torch.ones(1, 1, 48, 64)], torch.ones(1, 3))
    tables, moved = photo.transported(content, style, whole.content, whole.style)
    scene = light.Scene(content, whole.content, tables)
    lit = scene.lit(photo.fitted(scene, moved, whole.content[0], 3.0).image)
    top, bottom = (part.mean((0, 2, 3)) for part in (lit[:, :, :16], lit[:, :, 32:]))
    assert top[0] > 2 * top[2] and bottom[2] > 2 * bottom[0]


def test_black_stays_black_where_the_counterpart_is_mostly_bright() -> None:
    """Only by quantiles, black trunks would turn bright."""

    def grey(dark: int) -> Tensor:
        noise = 0.02 * torch.rand(1, 1, 40, 60, generator=torch.Generator().manual_seed(0))
        return (torch.where(torch.arange(60) < dark, 0.05, 0.85) + noise).expand(-1, 3, -1, -1)

    whole = torch.ones(1, 1, 40, 60)
    tables, moved = photo.transported(grey(48), grey(12), [whole], [whole])
    for result in (moved, light.lit(grey(48), [whole], tables, light.neutral(1))):
        assert result[..., :48].mean() < 0.15 and result[..., 48:].mean() > 0.8


def reinhard(content: Tensor, style: Tensor, masks: list[Tensor]) -> Tensor:
    """Mean and standard deviation of L*, a* and b* in each region (Reinhard2001, in CIELAB)."""
    ours, theirs = color.to_lab(content), color.to_lab(style)
    result = torch.zeros_like(ours)
    for mask in masks:
        inside = mask[0, 0] > 0.5
        (spread, mean), (goal, middle) = (torch.std_mean(x[0, :, inside], 1) for x in (ours, theirs))
        result += mask * ((ours - mean.view(1, 3, 1, 1)) * (goal / spread).view(1, 3, 1, 1) + middle.view(1, 3, 1, 1))
    return color.from_lab(result)


def test_what_has_no_counterpart_follows_the_others(recipe: Photo) -> None:
    content, half = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 40, 60)
    half[..., :30] = 1
    dark = 0.4 * content
    regions = matching.Regions([half], [torch.ones(1, 1, 40, 60)], torch.ones(1, 3))
    (last,) = photo.steps(content, dark, regions, replace(recipe, steps=0))
    assert len(last.added) == 2
    torch.testing.assert_close(last.image[..., 30:].mean(), dark[..., 30:].mean(), rtol=0.2, atol=0)


def test_steps_bring_the_loss_down_and_keep_the_photograph(photograph: Tensor, other: Tensor, recipe: Photo) -> None:
    everything = matching.Regions([torch.ones(1, 1, 40, 60)], [torch.ones(1, 1, 44, 50)], torch.ones(1, 3))
    seen = list(photo.steps(photograph, other, everything, replace(recipe, steps=12)))
    assert [step.index for step in seen] == [*range(1, 14)] and seen[0].total == 13
    assert set(seen[0].terms) == {"distance", "evenness"} and set(seen[1].terms) == {"style", "evenness", "clipping"}
    assert seen[-1].loss < seen[1].loss
    large = torch.rand(1, 3, 100, 150)
    assert seen[-1].lift(large).shape == large.shape
    # Locally affine: much less energy than noise has.
    guide, result = Guide(images.to_size(photograph, 48).double()), seen[-1].image.double()
    noise = torch.rand_like(result)
    energy, much = (float((p * guide.laplacian(p)).sum()) for p in (result, noise))
    assert energy < 0.02 * much


def test_the_gradient_of_the_whole_objective(photograph: Tensor, other: Tensor, recipe: Photo) -> None:
    """Compared with finite differences along one direction."""
    small, other = images.to_size(photograph, 48), images.to_size(other, 48)
    regions = matching.from_masks(halves(RED, BLUE), halves(RED, BLUE)).at(small, other)
    tables, moved = photo.transported(small, other, regions.content, regions.style)
    scene = light.Scene(small, regions.content, tables)
    base = photo.fitted(scene, moved, torch.ones_like(moved[:, :1]), recipe.evenness).image
    goal = photo.objective_of(scene, base, small, other, regions, recipe)
    added = 0.05 * torch.rand(light.neutral(2).shape, generator=torch.Generator().manual_seed(0))
    _, gradient = goal(added)
    direction = gradient / gradient.norm()
    above, below = (float(sum(goal(added + h * direction)[0].values())) for h in (1e-2, -1e-2))
    assert (above - below) / 2e-2 == pytest.approx(float((gradient * direction).sum()), rel=0.02)


def test_resume_is_exact(photograph: Tensor, other: Tensor, recipe: Photo) -> None:
    everything = matching.Regions([torch.ones(1, 1, 40, 60)], [torch.ones(1, 1, 44, 50)], torch.ones(1, 3))
    *_, whole = photo.steps(photograph, other, everything, recipe)
    states = [step.state() for step in photo.steps(photograph, other, everything, recipe)]
    for state in states[:2]:
        *_, rest = photo.steps(photograph, other, everything, recipe, state=state)
        assert torch.equal(whole.added, rest.added) and rest.index == whole.index == 5


def test_strength(photograph: Tensor, other: Tensor, recipe: Photo) -> None:
    everything = matching.Regions([torch.ones(1, 1, 40, 60)], [torch.ones(1, 1, 44, 50)], torch.ones(1, 3))

    def result(strength: float) -> Tensor:
        (step,) = photo.steps(photograph, other, everything, replace(recipe, steps=0, strength=strength))
        return step.image

    none, half, full = result(0), result(0.5), result(1)
    torch.testing.assert_close(none, images.to_size(photograph, 48))
    torch.testing.assert_close(half, (none + full) / 2)
    assert float((full - none).abs().mean()) > 0.05


def test_blocks_in_greys_do_not_become_colours() -> None:
    """A grey sky, with the blocks of JPEG in its chroma, in the light of a vivid one."""
    torch.manual_seed(0)
    smooth = images.resize(0.4 + 0.3 * torch.rand(1, 1, 6, 8), 96, 128).expand(-1, 3, -1, -1)
    blocks = torch.randn(1, 3, 12, 16).mul(0.006).repeat_interleave(8, 2).repeat_interleave(8, 3)
    blocks -= color.luma(blocks)
    vivid = images.resize(torch.rand(1, 3, 6, 8), 96, 128)
    whole = matching.Regions([torch.ones(1, 1, 96, 128)], [torch.ones(1, 1, 96, 128)], torch.ones(1, 3))
    (step,) = photo.steps(smooth + blocks, vivid, whole, Photo(size=128))
    across = step.image.diff(dim=3)
    jumps, within = across[..., 7::8].abs().mean(), across[..., 3::8].abs().mean()
    assert jumps < 3 * within, (jumps, within)


def test_a_dark_photograph_in_its_own_light() -> None:
    dark = 0.02 * images.resize(torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0)), 48, 64)
    whole = matching.Regions([torch.ones(1, 1, 48, 64)], [torch.ones(1, 1, 48, 64)], torch.ones(1, 3))
    (step,) = photo.steps(dark, dark, whole, Photo(size=64))
    assert float((step.image - dark).abs().max()) < 2e-4


def test_highlights() -> None:
    photograph, result = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.2)
    photograph[..., 2:] = 1
    kept = photo.keep_highlights(photograph, result, 1.0)
    torch.testing.assert_close(kept[..., :2], result[..., :2])
    torch.testing.assert_close(kept[..., 2:], photograph[..., 2:])
    assert torch.equal(photo.keep_highlights(photograph, result, 0.0), result)


@pytest.mark.parametrize(
    ("settings", "need"),
    [
        ({"size": 8192, "steps": 0}, 12_000_000 * (130 + 180 + 2 * 65)),
        ({"size": 400, "steps": 0}, 12_000_000 * 130 + 400 * 300 * (180 + 2 * 65)),
        ({"size": 400, "steps": 1}, 12_000_000 * 130 + 400 * 300 * 300 + 200_000_000),
    ],
)
def test_a_photograph_that_does_not_fit(
    settings: dict[str, int], need: int, recipe: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torch.zeros(1, 3, 1, 1).expand(1, 3, 3000, 4000)
    monkeypatch.setattr("impasto.machine.free_memory", lambda device: need)
    assert photo.spare_memory(content, 1, replace(recipe, **settings)) >= photo.TILE
    monkeypatch.setattr("impasto.machine.free_memory", lambda device: need - 1)
    whole = matching.Regions([torch.ones(1, 1, 4, 4)], [torch.ones(1, 1, 4, 4)], torch.ones(1, 3))
    with pytest.raises(InputError, match=r"not enough memory: 4000 x 3000 .* are free; use a smaller `size`"):
        next(photo.steps(content, content, whole, replace(recipe, **settings)))


def test_the_style_loss_in_tiles(recipe: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    content, style = torch.rand(2, 1, 3, 300, 400, generator=torch.Generator().manual_seed(0))
    whole = matching.Regions([torch.ones(1, 1, 4, 4)], [torch.ones(1, 1, 4, 4)], torch.ones(1, 3))
    settings = replace(recipe, size=400, steps=1, precision="float32")
    losses = []
    for tile in (10**9, 25_000_000):  # all at once; tiles
        monkeypatch.setattr(photo, "TILE", tile)
        monkeypatch.setattr("impasto.machine.free_memory", lambda device, tile=tile: 160_000_000 + tile)
        losses.append([step.loss for step in photo.steps(content, style, whole, settings)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_photograph_that_is_too_narrow(recipe: Photo) -> None:
    with pytest.raises(InputError, match="too narrow"):
        photo.check_size(torch.rand(1, 3, 2, 60), recipe)
