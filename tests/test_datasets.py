"""Folders of pictures, and crops of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from impasto import datasets
from impasto.datasets import Pool


def paint(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    """A picture whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns, rows, np.full_like(rows, 7)], axis=-1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def constant(value: int, sizes: list[tuple[int, int]], side: int) -> Pool:
    canvas = torch.zeros(len(sizes), 3, side, side, dtype=torch.uint8)
    for row, (height, width) in zip(canvas, sizes, strict=True):
        row[:, :height, :width] = value
    return Pool(canvas, torch.tensor(sizes))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pictures_are_found_at_every_depth_and_sorted(tmp_path: Path) -> None:
    names = ["b.png", "a/z.JPG", "a/b/c.webp", "a.jpeg", "B.tif"]
    for name in [*names, "notes.txt", "a/picture.xcf", "png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = datasets.pictures(tmp_path)
    assert found == sorted(tmp_path / name for name in names)
    assert datasets.pictures(str(tmp_path)) == found


def test_survey_of_a_mixed_folder(tmp_path: Path) -> None:
    """Every format that can be read is a picture; hidden and temporary files are not; the rest is named."""
    (tmp_path / ".hidden").mkdir()
    known = ["a.heic", "a.avif", "a.gif", "a.jfif", "a.jp2", "a.webp", "a.qoi", "a.PPM"]
    rest = ["film.mov", "raw.dng", "notes.txt"]
    for name in [*known, *rest, "._a.jpg", ".impasto-0-1-2.png", ".hidden/a.png"]:
        (tmp_path / name).touch()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing.png")
    pictures, others = datasets.survey(tmp_path)
    assert [path.name for path in pictures] == sorted(known)
    assert [path.name for path in others] == sorted([*rest, "broken.png"])
    assert datasets.survey(tmp_path / "nowhere") == ([], [tmp_path / "nowhere"])


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for folder in ("in/real", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").touch()
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "real")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    for name in ("one", "two"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere")
    found = [str(path.relative_to(tmp_path / "in")) for path in datasets.pictures(tmp_path / "in")]
    assert found == ["one/a.png", "real/a.png"]


def test_a_folder_named_like_a_picture_is_searched(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").mkdir()
    (tmp_path / "holiday.jpg" / "beach.jpg").touch()
    assert datasets.pictures(tmp_path) == [tmp_path / "holiday.jpg" / "beach.jpg"]


def test_load_skips_and_lists_broken_files(tmp_path: Path) -> None:
    good = paint(tmp_path / "a.png", 20, 10)
    empty, text, cut = tmp_path / "b.png", tmp_path / "c.jpg", tmp_path / "d.png"
    empty.touch()
    text.write_text("no picture")
    cut.write_bytes(good.read_bytes()[:60])
    last = paint(tmp_path / "e.jpg", 12, 14)
    pool = datasets.load([good, empty, text, cut, tmp_path / "missing.png", last], side=32, short=16)
    assert len(pool) == 2
    assert pool.skipped == (empty, text, cut, tmp_path / "missing.png")
    assert pool.sizes.tolist() == [[10, 20], [14, 12]]


@pytest.mark.parametrize("suffix", [".avif", ".qoi", ".dds", ".gif", ".jp2", ".heic", ".webp", ".tga"])
def test_load_skips_damaged_files_of_every_format(tmp_path: Path, suffix: str) -> None:
    heads = {
        ".avif": b"\0\0\0\x1cftypavif",
        ".heic": b"\0\0\0\x18ftypheic",
        ".qoi": b"qoif\0\0\1",
        ".dds": b"DDS |\0\0\0",
    }
    (tmp_path / f"a{suffix}").write_bytes(heads.get(suffix, b"RIFF") + bytes(range(200)))
    assert datasets.load([tmp_path / f"a{suffix}"], side=32).skipped == (tmp_path / f"a{suffix}",)


def test_load_of_deep_and_transparent_pictures(tmp_path: Path) -> None:
    """16 bits are not cut off, and hidden colours not learnt."""
    grey = np.full((10, 12), 100 * 257, np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    cut = np.full((10, 12, 4), (90, 90, 90, 255), np.uint8)
    cut[:, 6:] = (255, 0, 0, 0)
    Image.fromarray(cut).save(tmp_path / "cut.png")
    pool = datasets.load([tmp_path / "deep.png", tmp_path / "cut.png"], side=16, short=16)
    assert pool.canvas[0, :, :10, :12].unique().tolist() == [100]
    assert pool.canvas[1, :, :10, :12].unique().tolist() == [90]


def test_load_without_files() -> None:
    pool = datasets.load([], side=32)
    assert len(pool) == 0
    assert pool.canvas.shape == (0, 3, 32, 32)
    assert pool.sizes.shape == (0, 2)


def test_load_applies_the_exif_orientation_and_reports_progress(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise
    Image.open(paint(tmp_path / "a.png", 60, 20)).save(tmp_path / "a.jpg", exif=exif, quality=100)
    told: list[int] = []
    paths = [tmp_path / "a.jpg", tmp_path / "missing.png", tmp_path / "a.png"]
    pool = datasets.load(paths, side=64, short=32, report=told.append)
    assert pool.sizes.tolist() == [[60, 20], [20, 60]] and told == [1, 2, 3]
    assert pool.canvas[0, 1, 30, 0] > pool.canvas[0, 1, 30, 19] + 10  # the lowest row is now on the left


def test_load_of_large_jpegs(tmp_path: Path) -> None:
    """Decoding at a smaller size gives the same result as decoding at full size."""
    large = paint(tmp_path / "large.png", 255, 170)
    Image.open(large).save(tmp_path / "large.jpg", quality=100)
    pool = datasets.load([large, tmp_path / "large.jpg"], side=64, short=32)
    assert pool.sizes.tolist() == [[32, 48]] * 2
    assert (pool.canvas[0].float() - pool.canvas[1].float()).abs().max() < 8


def test_load_never_enlarges_and_places_pictures_top_left(tmp_path: Path) -> None:
    pool = datasets.load([paint(tmp_path / "a.png", 20, 10)], side=32, short=16)
    assert pool.canvas.shape == (1, 3, 32, 32)
    assert pool.canvas.dtype == torch.uint8
    assert pool.canvas[0, 0, 3, :20].tolist() == list(range(20))
    assert pool.canvas[0, 1, :10, 5].tolist() == list(range(10))
    assert not pool.canvas[:, :, 10:].any()
    assert not pool.canvas[..., 20:].any()


def test_load_reduces_to_the_short_side(tmp_path: Path) -> None:
    pool = datasets.load([paint(tmp_path / "a.png", 60, 40), paint(tmp_path / "b.png", 40, 60)], side=40, short=20)
    assert pool.sizes.tolist() == [[20, 30], [30, 20]]
    # Half the size: pixel 10 covers columns 20 and 21, whose mean is 20.5.
    assert pool.canvas[0, 0, 10, 10].item() in (20, 21)


def test_load_cuts_evenly_to_the_canvas(tmp_path: Path) -> None:
    pool = datasets.load([paint(tmp_path / "a.png", 100, 40)], side=32, short=64)
    assert pool.sizes.tolist() == [[32, 32]]
    assert pool.canvas[0, 0, 0].tolist() == list(range(34, 66))  # (100 - 32) / 2 = 34 cut from each end
    assert pool.canvas[0, 1, :, 0].tolist() == list(range(4, 36))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_load_takes_every_mode(tmp_path: Path, mode: str) -> None:
    path = paint(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), 20, 10, mode)
    pool = datasets.load([path], side=32, short=16)
    assert pool.skipped == ()
    assert pool.sizes.tolist() == [[10, 20]]


def test_a_pool_moves_to_a_device() -> None:
    pool = constant(9, [(4, 4)], 8)
    assert torch.equal(pool.to("cpu").canvas, pool.canvas)
    assert pool.to("meta").sizes.device.type == "meta"


def test_crops_shapes_and_range() -> None:
    noise = torch.randint(0, 256, (3, 3, 40, 40), generator=generator(0), dtype=torch.uint8)
    pool = Pool(noise, torch.tensor([[40, 40], [30, 40], [12, 9]]))
    crops = datasets.random_crops(pool, 16, 24, generator(1))
    assert crops.shape == (16, 3, 24, 24)
    assert crops.dtype == torch.float32
    assert 0 <= float(crops.min()) < 0.2
    assert 0.8 < float(crops.max()) <= 1


def test_crops_depend_only_on_the_generator() -> None:
    pool = Pool(
        torch.randint(0, 256, (3, 3, 40, 40), generator=generator(0), dtype=torch.uint8), torch.full((3, 2), 40)
    )
    one, same, other = (datasets.random_crops(pool, 8, 24, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    stream = generator(1)
    assert torch.equal(datasets.random_crops(pool, 8, 24, stream), one)
    assert not torch.allclose(datasets.random_crops(pool, 8, 24, stream), one)
    torch.manual_seed(5)  # the global randomness does not matter
    assert torch.equal(datasets.random_crops(pool, 8, 24, generator(1)), one)


@pytest.mark.parametrize(
    ("sizes", "size"),
    [([(40, 40)], 24), ([(40, 24), (24, 40)], 24), ([(10, 30), (9, 9), (40, 5)], 24), ([(1, 1)], 8)],
)
def test_crops_of_a_constant_picture_have_no_borders(sizes: list[tuple[int, int]], size: int) -> None:
    crops = datasets.random_crops(constant(204, sizes, 40), 64, size, generator(3))
    torch.testing.assert_close(crops, torch.full_like(crops, 0.8), rtol=0, atol=1e-4)


def test_crops_vary_in_place_zoom_and_mirroring() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).expand(1, 3, 64, 64).contiguous()  # the value is the column
    crops = datasets.random_crops(Pool(ramp, torch.tensor([[64, 64]])), 64, 16, generator(4), zoom=(0.5, 2.0))
    slopes = 255 * (crops[:, 0, 8, 12] - crops[:, 0, 8, 4]) / 8  # columns of the picture per pixel: 1 / zoom
    assert (slopes > 0).any()
    assert (slopes < 0).any()
    zooms = 1 / slopes.abs()
    assert 0.49 < float(zooms.min()) < 0.65
    assert 1.5 < float(zooms.max()) < 2.05
    middles = 255 * crops[:, 0, 8, 8]
    assert float(middles.min()) < 16
    assert float(middles.max()) > 48
