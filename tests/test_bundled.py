"""The bundled pictures and networks."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from impasto import bundled, color, images, onepass, pix2pix

SHIPPED = bundled.STYLES | bundled.CONTENTS


@pytest.mark.parametrize("name", SHIPPED)
def test_bundled_pictures_open(name: str) -> None:
    path = bundled.locate(name)
    assert path.is_file(), f"{path} is missing"
    with Image.open(path) as picture:
        pixels = picture.convert("RGB")
    assert min(pixels.size) >= 200
    assert max(high - low for low, high in pixels.getextrema()) > 100  # not blank


@pytest.mark.parametrize("name", SHIPPED)
def test_bundled_pictures_are_described(name: str) -> None:
    shipped = SHIPPED[name]
    assert all((shipped.title, shipped.author, shipped.year, shipped.rights))
    assert Path(shipped.file).stem == name
    assert name == name.lower()


def test_styles_and_contents_have_different_names() -> None:
    assert len(SHIPPED) == len(bundled.STYLES) + len(bundled.CONTENTS)


def test_locate_returns_other_paths_unchanged() -> None:
    assert bundled.locate("holiday/beach.jpg") == Path("holiday/beach.jpg")
    assert bundled.locate("no-such-name") == Path("no-such-name")


def test_a_file_in_the_current_folder_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundled.locate("coffee").name == "coffee.png"
    Path("coffee").touch()
    assert bundled.locate("coffee") == Path("coffee")
    assert bundled.locate("chelsea").is_absolute()


@pytest.mark.parametrize("name", bundled.STYLES)
def test_networks(name: str) -> None:
    """Each is at most 2.5 MB, loads, changes a photograph, has a thumbnail, and contains no paths."""
    path = bundled.network(name)
    assert path is not None and path.stat().st_size <= 2_500_000
    model = onepass.load(name)
    assert "/" not in "".join(model.metadata.values())
    photograph = images.to_size(images.to_tensor(bundled.locate("coffee")), 128)
    painted = onepass.apply(photograph, name, device="cpu")
    assert painted.shape == photograph.shape
    assert float((painted - photograph).abs().mean()) > 0.03
    assert float(painted.std()) > 0.1
    thumbnail = bundled.thumbnail(name)
    assert thumbnail is not None
    with Image.open(thumbnail) as picture:
        assert max(picture.size) == 256


def test_the_six_styles_of_owl_book_are_bundled() -> None:
    six = {"udnie", "the-great-wave", "rain-princess", "la-muse", "the-scream", "the-shipwreck-of-the-minotaur"}
    assert six <= set(bundled.STYLES) and len(bundled.STYLES) >= 12


def test_names_without_a_bundled_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bundled.network("cubism") is None and bundled.thumbnail("cubism") is None
    monkeypatch.chdir(tmp_path)
    Path("udnie").touch()
    assert bundled.network("udnie") is None  # the file in the current folder takes precedence


@pytest.mark.parametrize("name", bundled.TRANSLATORS)
def test_translators(name: str) -> None:
    """Each is at most 4 MB, loads, and contains no paths."""
    path = bundled.translator(name)
    assert path is not None and path.stat().st_size <= 4_000_000
    assert path.with_suffix(".md").is_file()
    assert "/" not in "".join(pix2pix.load(name).metadata.values())


def test_colorize_colours_a_grey_photograph() -> None:
    """Coffee in a white cup on brown wood: it is neither left grey nor brown all over, and keeps its lightness."""
    photograph = images.to_size(images.to_tensor(bundled.locate("coffee")), 192)
    lab = color.to_lab(photograph) * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    found = color.to_lab(pix2pix.apply(color.from_lab(lab), "colorize", device="cpu"))
    assert float((found - lab)[:, :1].abs().mean()) < 1
    chroma = found[:, 1:].norm(dim=1)
    assert float(chroma.mean()) > 5 and float(chroma.std()) > 2


def test_a_folder_named_like_a_style_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("candy", "chelsea", "colorize"):
        (tmp_path / name).mkdir()
    assert bundled.locate("candy").is_file() and bundled.locate("chelsea").is_file()
    assert bundled.network("candy") and bundled.translator("colorize")
    assert bundled.locate("chelsea", folder=True) == Path("chelsea")
