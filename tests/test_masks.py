"""Guidance masks at a layer's size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from impasto import images, masks
from impasto.errors import ImageError, InputError


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


HALF = np.repeat(np.repeat(np.array([[0, 1]], np.uint8), 8, 1), 10, 0)  # left 0, right 1, (10, 16)
SHAPE = np.concatenate([np.zeros((10, 16, 3), np.uint8), 255 * HALF[..., None]], 2)  # black on transparency


@pytest.mark.parametrize(
    "source",
    [
        HALF,
        HALF.astype(np.uint16),
        255 * HALF,
        HALF > 0,
        HALF.astype(np.float32),
        SHAPE,
        np.concatenate([255 - SHAPE[..., :3], SHAPE[..., 3:]], 2),
        np.repeat(255 * HALF[..., None], 4, 2),
    ],
    ids=["0 and 1", "16 bits", "0 and 255", "bool", "float", "black shape", "white shape", "white and hidden"],
)
def test_all_kinds_of_masks_mean_the_same(source: np.ndarray) -> None:
    assert torch.equal(masks.read(source)[0, 0], torch.from_numpy(HALF).float())


def test_a_mask_in_a_file(tmp_path: Path) -> None:
    """A palette picture whose indices are 0 and 1, as labelling programs write it."""
    picture = Image.fromarray(HALF).convert("P")
    picture.putpalette([value for index in range(256) for value in (index,) * 3])
    picture.save(tmp_path / "mask.png")
    assert torch.equal(masks.read(tmp_path / "mask.png")[0, 0], torch.from_numpy(HALF).float())


def test_soft_masks_are_kept() -> None:
    soft = torch.rand(1, 1, 9, 12)
    torch.testing.assert_close(masks.read(soft), soft)
    torch.testing.assert_close(masks.read(soft[0, 0].numpy()), soft)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4), np.uint8), "black everywhere"),
        (np.dstack([np.zeros((4, 4, 3)), np.full((4, 4), 0.001)]), "transparent"),
        (3 * HALF, "labels 0 to 3"),
        ((7 * HALF).astype(np.uint16), "labels 0 to 7"),
    ],
)
def test_masks_that_mean_nothing_are_refused(source: np.ndarray, message: str) -> None:
    with pytest.raises((InputError, ImageError), match=message):
        masks.read(source)


def test_label_maps_become_flat_colours() -> None:
    labels = np.zeros((30, 30), np.uint8)
    labels[:, 10:20], labels[:, 20:] = 1, 2
    found, palette = masks.classes(masks.read_classes(labels))
    assert len(palette) == 3
    assert len({int(found[5, column]) for column in (5, 15, 25)}) == 3
    black_and_white = masks.read_classes((labels == 1).astype(np.uint8) * 255)
    assert torch.equal(masks.read_classes((labels == 1).astype(np.uint8)), black_and_white)
    spread = (masks.LABELS[:, None] - masks.LABELS).abs().amax(2) + torch.eye(len(masks.LABELS))
    assert 255 * float(spread.min()) > masks.SAME_COLOUR and len(masks.LABELS) > masks.MOST_LABEL + 1
    assert masks.LABELS[:2].tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((7, 8, 26, 255), np.uint8),  # Cityscapes, with its void
        ((0, 1, 2, 255), np.uint8),  # the same, as labels to train on
        ((1, 3, 4, 150), np.uint8),  # ADE20K
        ((1, 3, 4, 255), np.uint16),
    ],
)
def test_label_maps_of_many_classes(values: tuple[int, ...], kind: type) -> None:
    """A label has the same colour in every map, and void one of its own."""
    labels = np.repeat(np.repeat(np.array([values], kind), 20, 0), 20, 1)  # (20, 80)
    with pytest.raises(InputError, match=f"has the labels 0 to {max(value for value in values if value < 255)}"):
        masks.read(labels)
    colours = masks.read_classes(labels)
    assert len(masks.classes(colours)[1]) == 4
    place = [20 * at + 5 for at in range(4)]
    for value, colour in zip(values, colours[0, :, 5, place].T, strict=True):
        assert torch.equal(colour, masks.LABELS[-1 if value == 255 else value])


@pytest.mark.parametrize(
    "greys",
    [
        np.linspace(0, 255, 80), np.linspace(0, 140, 80), np.repeat([0, 128, 255, 128], 20),
        np.repeat([0, 60, 150], 30),
        np.r_[np.zeros(60), [2], np.full(60, 255)], np.r_[np.zeros(99), [5, 44], np.full(99, 120)],
    ],
    ids=["gradient", "dark gradient", "three greys", "dark greys", "soft edge", "dark edge"],
)  # fmt: skip
def test_greys_are_no_labels(greys: np.ndarray) -> None:
    rounded = greys.round().astype(np.uint8)[None].repeat(9, 0)
    torch.testing.assert_close(masks.read(rounded)[0, 0], torch.from_numpy(rounded / 255).float())


@pytest.mark.parametrize("shape", [0, 255])
def test_transparency_is_a_class_of_its_own(shape: int) -> None:
    pixels = np.concatenate([np.full((10, 16, 3), shape, np.uint8), SHAPE[..., 3:]], 2)
    found, palette = masks.classes(masks.read_classes(pixels))
    assert len(palette) == 2 and int(found[5, 2]) != int(found[5, 12])


def test_a_mask_of_another_shape_is_named() -> None:
    picture, turned = (images.read(np.full((*size, 3), 255, np.uint8)) for size in ((40, 61), (60, 40)))
    near = images.read(np.full((80, 120, 3), 255, np.uint8))
    assert masks.stretched(near, picture) is None  # 3:2 but for rounding
    assert "40 x 60 pixels, stretched to the shape of <array>, 61 x 40" in str(masks.stretched(turned, picture))


def test_a_region_without_a_share_keeps_the_base() -> None:
    base, left = torch.full((1, 3, 4, 6), 0.5), torch.zeros(1, 1, 4, 6)
    left[..., :3] = 1
    result = masks.compose(base, lambda index, mask: torch.ones(1, 3, 4, 6), [left, 1 - left], [1.0, 0.0])
    assert torch.equal(result[..., :3], torch.ones(1, 3, 4, 3)) and torch.equal(result[..., 3:], base[..., 3:])
