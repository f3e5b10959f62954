"""Pairs of pictures: where they come from, how they are drawn, and what becomes of broken ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import halves, save_picture
from PIL import Image

from impasto import color, images, pairs, pix2pix_training
from impasto.errors import ImageError, InputError
from impasto.pairs import Pairs
from impasto.pix2pix import Model


def side_by_side(path: Path, left: tuple[int, int, int], right: tuple[int, int, int], size: int = 32) -> Path:
    picture = Image.new("RGB", (2 * size, size), left)
    picture.paste(right, (size, 0, 2 * size, size))
    picture.save(path)
    return path


def colour(values: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(values).view(1, 3, 1, 1) / 127.5 - 1


@pytest.mark.parametrize("backwards", [False, True])
def test_side_by_side(tmp_path: Path, backwards: bool) -> None:
    left, right = (250, 10, 20), (0, 100, 200)
    side_by_side(tmp_path / "a.png", left, right)
    found = Pairs(pairs.find(tmp_path), backwards=backwards, short=16)
    source, target = found.pair(0)
    assert source.shape == target.shape == (1, 3, 16, 16)
    first, second = (right, left) if backwards else (left, right)
    assert source.mean((2, 3), keepdim=True).sub(colour(first)).abs().max() < 0.01
    assert target.mean((2, 3), keepdim=True).sub(colour(second)).abs().max() < 0.01


def test_two_folders(tmp_path: Path) -> None:
    """Equal names, other suffixes allowed; pictures without a partner are left out. A and B inside one folder alike."""
    for name in ("A", "B"):
        (tmp_path / name / "inner").mkdir(parents=True)
    save_picture(tmp_path / "A" / "inner" / "x.png", seed=1)
    save_picture(tmp_path / "B" / "inner" / "x.jpg", seed=2)
    save_picture(tmp_path / "A" / "alone.png")
    expected = [(tmp_path / "A" / "inner" / "x.png", tmp_path / "B" / "inner" / "x.jpg")]
    assert pairs.find(tmp_path) == pairs.find(tmp_path / "A", tmp_path / "B") == expected
    source, target = Pairs(expected, backwards=True, short=0).pair(0)
    assert source.shape == (1, 3, 32, 48) and (source - target).abs().mean() > 0.1
    assert torch.allclose((source + 1) / 2, images.read(expected[0][1]).image, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize(("folder", "said"), [("missing", "not a folder"), (".", "no pictures")])
def test_folders_without_pairs(tmp_path: Path, folder: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        pairs.find(tmp_path / folder)


def test_folders_without_common_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_picture(tmp_path / name / f"{name}.png")
    with pytest.raises(InputError, match="has the name of one in"):
        pairs.find(tmp_path / "one", tmp_path / "two")


def test_pairs_of_different_sizes_and_broken_files_are_replaced(tmp_path: Path) -> None:
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        save_picture(tmp_path / name / "good.png")
        save_picture(tmp_path / name / "sizes.png", 48 if name == "A" else 40)
        (tmp_path / name / "torn.png").write_bytes((tmp_path / name / "good.png").read_bytes()[:90])
    found = Pairs(pairs.find(tmp_path), short=32)
    for index in range(3):
        found.draw(index, 1, 32, mirror=False, seed=0)
    assert {path.name for path in found.broken} == {"sizes.png", "torn.png"}
    assert "48 x 32 and 40 x 32" in found.broken[tmp_path / "A" / "sizes.png"]
    with pytest.raises(InputError, match="none of the pairs"):
        Pairs(found.files[1:], short=32).draw(0, 1, 32, mirror=False, seed=0)


def test_colorize_makes_lightness_and_colours(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png")
    source, target = Pairs(pairs.find(tmp_path, kind="colorize"), "colorize", (1, 2), short=0).pair(0)
    assert source.shape == (1, 1, 32, 48) and target.shape == (1, 2, 32, 48)
    image = images.read(tmp_path / "a.png").image
    back = color.from_lab(torch.cat([50 * (source + 1), pairs.CHROMA * target], 1))
    assert torch.allclose(back, image, atol=2e-3)
    assert torch.allclose(pairs.to_network(image, "colorize"), source, atol=1e-4)
    assert torch.allclose(pairs.to_picture(target, image, "colorize"), image, atol=2e-3)


def test_edges_are_black_lines_on_white(tmp_path: Path) -> None:
    images.write(tmp_path / "a.png", halves((1.0, 0, 0), (0, 0, 1.0), 40, 60))
    source, target = Pairs(pairs.find(tmp_path, kind="edges"), "edges", (1, 3), short=0).pair(0)
    assert source.shape == (1, 1, 40, 60) and target.shape == (1, 3, 40, 60)
    black = (source[0, 0] == -1).any(0).nonzero()[:, 0].tolist()
    assert set(source.unique().tolist()) == {-1.0, 1.0} and set(black) <= {29, 30}


def test_arrays_with_a_capital_suffix_are_found(tmp_path: Path) -> None:
    with open(tmp_path / "x.NPY", "wb") as file:
        np.save(file, np.zeros((8, 16, 5), np.uint8))
    assert pairs.survey(tmp_path) == ([(tmp_path / "x.NPY", None)], [])


def test_grey_sixteen_bits_and_many_channels(tmp_path: Path) -> None:
    import tifffile

    values = np.linspace(0, 65535, 24 * 24, dtype=np.uint16).reshape(24, 24)
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "A" / "x.tif", values)
    np.save(tmp_path / "B" / "x.npy", np.stack([values] * 5, 2))
    source, target = Pairs(pairs.find(tmp_path), channels=(1, 5), short=0).pair(0)
    exact = torch.from_numpy(values.astype(np.float32) / 65535)
    assert source.shape == (1, 1, 24, 24) and target.shape == (1, 5, 24, 24)
    assert ((source[0, 0] + 1) / 2 - exact).abs().max() < 2 / 65535
    for path in (tmp_path / "out.tif", tmp_path / "out.npy"):
        pairs.write(path, (target + 1) / 2)
        assert ((pairs.read(path, 5)[0, 4]) - exact).abs().max() < 2 / 65535
    with pytest.raises(ImageError, match="cannot hold 5 channels"):
        pairs.write(tmp_path / "out.png", (target + 1) / 2)
    with pytest.raises(ImageError, match=r"not \(height, width, 2\)"):
        pairs.read(tmp_path / "B" / "x.npy", 2)


def test_epochs_use_every_pair_once_and_the_index_decides(tmp_path: Path) -> None:
    for grey in range(5):
        side_by_side(tmp_path / f"{grey}.png", (40 * grey,) * 3, (40 * grey,) * 3)
    found = Pairs(pairs.find(tmp_path), short=20)

    def shade(index: int) -> int:
        return round(float((found.draw(index, 1, 16, mirror=True, seed=3)[0].mean() + 1) * 127.5 / 40))

    epochs = [[shade(index) for index in range(first, first + 5)] for first in (0, 5)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 2 and epochs[0] != epochs[1]
    assert shade(7) == epochs[1][2]


def test_crops_and_mirroring_treat_both_alike(tmp_path: Path) -> None:
    picture = Image.new("RGB", (80, 40))
    half = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    picture.paste(half, (0, 0))
    picture.paste(half, (40, 0))
    picture.save(tmp_path / "a.png")
    found = Pairs(pairs.find(tmp_path), short=40)
    drawn = [found.draw(index, 2, 32, mirror=True, seed=0) for index in range(4)]
    assert all(torch.equal(source, target) for source, target in drawn)
    whole = found.pair(0)[0]
    windows = whole.unfold(2, 32, 1).unfold(3, 32, 1).permute(2, 3, 0, 1, 4, 5).flatten(0, 2)
    for crop in torch.cat([source for source, _ in drawn]):
        assert any((windows - each).abs().amax((1, 2, 3)).min() < 1e-6 for each in (crop, crop.flip(-1)))
    flipped = [
        not any((windows - crop).abs().amax((1, 2, 3)).min() < 1e-6 for _ in [0]) for s, _ in drawn for crop in s
    ]
    assert True in flipped and False in flipped


def test_split(tmp_path: Path) -> None:
    for index in range(10):
        save_picture(tmp_path / f"{index}.png")
    known, held = Pairs(pairs.find(tmp_path)).split(0.3, 1)
    assert (len(known), len(held)) == (7, 3)
    assert sorted([*known.files, *held.files]) == pairs.find(tmp_path)  # type: ignore[type-var]


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        save_picture(tmp_path / f"{index}.png", 64, 32, seed=index)
    monkeypatch.setattr(pairs, "BUDGET", 2 * 6 * 32 * 32 * 2)
    found = Pairs(pairs.find(tmp_path), short=32)
    first = [found.pair(index) for index in range(3)]
    assert len(found._kept) == 2
    assert all(
        torch.equal(a, b)
        for one, index in zip(first, range(3), strict=True)
        for a, b in zip(one, found.pair(index), strict=True)
    )


def test_a_picture_of_many_channels_is_one_page(tmp_path: Path) -> None:
    import tifffile

    values = torch.rand(1, 5, 6, 7)
    pairs.write(tmp_path / "a.tif", values)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 1 and file.pages[0].shape == (6, 7, 5)
    assert torch.allclose(pairs.read(tmp_path / "a.tif", 5), values, atol=1e-4)


@pytest.mark.parametrize("value", [255.0, -1.0, float("nan")])
def test_floats_outside_the_range_are_refused(value: float, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((4, 4, 5), value, np.float32))
    with pytest.raises(ImageError, match=r"outside \[0, 1\]"):
        pairs.read(tmp_path / "x.npy", 5)


def test_a_suffix_in_capitals(tmp_path: Path) -> None:
    pairs.write(tmp_path / "x.NPY", torch.full((1, 5, 4, 4), 0.5))
    assert [path.name for path in tmp_path.iterdir()] == ["x.NPY"]
    assert pairs.read(tmp_path / "x.NPY", 5).mean() == 0.5


@pytest.mark.parametrize("name", ["empty.npy", "torn.tif"])
def test_damaged_files_of_many_channels(name: str, tmp_path: Path) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "torn.tif", np.zeros((40, 50, 5), np.uint16), compression="zlib")
    data = (tmp_path / "torn.tif").read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2] if name == "torn.tif" else b"")
    with pytest.raises(ImageError, match=name):
        pairs.read(tmp_path / name, 5)


def test_held_out_pairs_that_cannot_be_read(tmp_path: Path) -> None:
    """They are left out of measurements, and named once, by the part that they belong to."""
    for index in range(8):
        side_by_side(tmp_path / f"{index}.png", (250, 10, 20), (0, 100, 200))
    known, held = Pairs(pairs.find(tmp_path), short=16).split(0.25, seed=0)
    bad = held.files[0][0]
    bad.write_bytes(b"torn")
    assert len(list(held.some(50))) == 1 and list(held.broken) == [bad] and not known.broken
    held.files[1][0].write_bytes(b"torn")
    held = Pairs(held.files, short=16)
    assert pix2pix_training.measure(Model(torch.nn.Identity(), "given", {}), held) == {}
