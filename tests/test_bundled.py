"""Bundled files: pictures and networks."""

from pathlib import Path

import pytest
from PIL import Image

from impasto import bundled, images, onepass

SHIPPED = bundled.STYLES | bundled.CONTENTS


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_there_and_opens(name: str) -> None:
    path = bundled.locate(name)
    assert path.is_file(), f"{path} is missing"
    with Image.open(path) as picture:
        pixels = picture.convert("RGB")
    assert min(pixels.size) >= 200
    assert max(high - low for low, high in pixels.getextrema()) > 100  # not blank


@pytest.mark.parametrize("name", SHIPPED)
def test_it_says_what_it_is(name: str) -> None:
    shipped = SHIPPED[name]
    assert all((shipped.title, shipped.author, shipped.year, shipped.rights))
    assert Path(shipped.file).stem == name
    assert name == name.lower()


def test_names_are_not_shared() -> None:
    assert len(SHIPPED) == len(bundled.STYLES) + len(bundled.CONTENTS)


def test_a_path_is_itself() -> None:
    assert bundled.locate("holiday/beach.jpg") == Path("holiday/beach.jpg")
    assert bundled.locate("no-such-name") == Path("no-such-name")


def test_what_lies_there_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundled.locate("coffee").name == "coffee.png"
    Path("coffee").touch()
    assert bundled.locate("coffee") == Path("coffee")
    assert bundled.locate("chelsea").is_absolute()


@pytest.mark.parametrize("name", bundled.STYLES)
def test_networks(name: str) -> None:
    """Each is small, is read, paints something, shows itself, and speaks of no machine."""
    path = bundled.network(name)
    assert path is not None and path.stat().st_size <= 1_000_000
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


def test_the_six_of_owl_book_are_there() -> None:
    six = {"udnie", "the-great-wave", "rain-princess", "la-muse", "the-scream", "the-shipwreck-of-the-minotaur"}
    assert six <= set(bundled.STYLES) and len(bundled.STYLES) >= 12


def test_what_is_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bundled.network("cubism") is None and bundled.thumbnail("cubism") is None
    monkeypatch.chdir(tmp_path)
    Path("udnie").touch()
    assert bundled.network("udnie") is None  # what lies there goes first
