"""Matching regions of two photographs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import BLUE, GREEN, RED, halves
from PIL import Image
from torch import Tensor

from impasto import images, masks, matching
from impasto.recipes import Photo


def test_classes_of_a_mask_with_soft_borders() -> None:
    mask = halves(RED, BLUE)
    mask[..., 29:31] = torch.tensor([0.5, 0, 0.5]).view(1, 3, 1, 1)  # no third class
    labels, colours = masks.classes(mask)
    assert {tuple(colour.tolist()) for colour in colours} == {RED, BLUE}
    assert colours[labels[20, 10]].tolist() == list(RED)
    assert colours[labels[20, 29]].tolist() == list(RED) and colours[labels[20, 30]].tolist() == list(BLUE)


def test_indexed_and_large_masks(tmp_path: Path) -> None:
    mask = Image.new("P", (3000, 1000), 0)
    mask.putpalette([255, 0, 0, 0, 0, 255])
    mask.paste(1, (1500, 0, 3000, 1000))
    mask.save(tmp_path / "mask.png")
    regions = matching.from_masks(images.to_tensor(tmp_path / "mask.png"), halves(RED, BLUE))
    assert len(regions.content) == 2 and max(regions.content[0].shape) == 1024
    assert float(regions.content[0].mean()) == pytest.approx(0.5, abs=0.01)


def test_a_mask_without_flat_colours() -> None:
    with pytest.raises(ValueError, match="flat colours"):
        masks.classes(torch.rand(1, 3, 90, 90))


def test_the_same_colour_is_the_same_region(photograph: Tensor, other: Tensor) -> None:
    regions = matching.from_masks(halves(RED, BLUE), halves(BLUE, RED, 22, 25))
    regions = regions.at(photograph, other)
    assert [mask.shape[-2:] for mask in regions.style] == [(44, 50)] * 2
    for colour, ours, theirs in zip(regions.colours.tolist(), regions.content, regions.style, strict=True):
        at = 10 if colour == list(RED) else 50
        assert float(ours[0, 0, 20, at]) == 1
        assert float(theirs[0, 0, 20, 50 - round(at * 50 / 60)]) == 1
    torch.testing.assert_close(regions.picture("content", *photograph.shape[-2:]), halves(RED, BLUE))


def test_a_class_that_the_style_lacks_follows_the_others() -> None:
    mask = halves(RED, BLUE)
    mask[..., 40:] = torch.tensor(GREEN).view(1, 3, 1, 1)
    regions = matching.from_masks(mask, halves(RED, BLUE))
    assert len(regions.content) == 2 and len(regions.notes) == 1
    assert "#00ff00" in regions.notes[0] and "follows" in regions.notes[0]
    assert float(sum(regions.content)[..., 40:].max()) == 0 and float(sum(regions.content)[..., :40].min()) == 1
    # Saved and read again, it is still in no region.
    ours, theirs = (regions.picture(side, *mask.shape[-2:]) for side in ("content", "style"))
    again = matching.from_masks(ours, theirs)
    assert len(again.content) == 2 and float(sum(again.content)[..., 40:].max()) == 0


def test_a_class_that_the_content_lacks_is_ignored() -> None:
    """Drawn to keep something, such as clouds, out of the light to take."""
    mask = halves(RED, BLUE)
    mask[..., 40:] = torch.tensor(GREEN).view(1, 3, 1, 1)
    regions = matching.from_masks(halves(RED, BLUE), mask)
    assert len(regions.notes) == 1 and "#00ff00" in regions.notes[0]
    assert float(sum(regions.style)[..., 40:].max()) == 0 and float(sum(regions.style)[..., :40].min()) == 1


def test_masks_without_a_colour_in_common() -> None:
    with pytest.raises(ValueError, match="no colour in common"):
        matching.from_masks(halves(RED, RED), halves(BLUE, BLUE))


def test_regions_are_found_and_match(recipe: Photo) -> None:
    """Dark regions match dark ones and bright ones bright, wherever they are; the seed makes it repeatable."""
    torch.manual_seed(0)
    content = halves((0.1, 0.1, 0.3), (0.9, 0.8, 0.4), 96, 128) + 0.03 * torch.rand(1, 3, 96, 128)
    style = halves((0.9, 0.8, 0.4), (0.1, 0.1, 0.3), 96, 96) + 0.03 * torch.rand(1, 3, 96, 96)
    regions = matching.find(content, style, replace(recipe, regions=2))
    assert len(regions.content) == 2
    for ours, theirs in zip(regions.content, regions.style, strict=True):
        left, right = (float(m[..., 20:30].mean()) for m in (ours, theirs))
        assert abs(left - 1 + right) < 0.2 and max(left, right) > 0.8
    total = torch.cat([*regions.content], 1).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-3)
    again = matching.find(content, style, replace(recipe, regions=2))
    assert all(torch.equal(a, b) for a, b in zip(regions.content, again.content, strict=True))


def test_the_border_of_a_mask_moves_to_the_nearest_edge() -> None:
    torch.manual_seed(0)
    image = 0.2 + 0.02 * torch.rand(1, 3, 80, 120)
    image[..., 60:] += 0.6
    drawn = torch.zeros(1, 1, 80, 120)
    drawn[..., 54:] = 1  # six pixels off
    share = matching.Borders(image, [1 - drawn, drawn]).shares(image)[1]
    assert share[..., :59].max() < 0.2 and share[..., 61:].min() > 0.8
