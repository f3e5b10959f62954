"""What ships: pictures and networks."""

from pathlib import Path

import pytest
from PIL import Image

from impasto import feedforward, images, pictures

SHIPPED = pictures.STYLES | pictures.CONTENTS


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_there_and_opens(name: str) -> None:
    path = pictures.locate(name)
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
    assert len(SHIPPED) == len(pictures.STYLES) + len(pictures.CONTENTS)


def test_a_path_is_itself() -> None:
    assert pictures.locate("holiday/beach.jpg") == Path("holiday/beach.jpg")
    assert pictures.locate("no-such-name") == Path("no-such-name")


def test_what_lies_there_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pictures.locate("coffee").name == "coffee.png"
    Path("coffee").touch()
    assert pictures.locate("coffee") == Path("coffee")
    assert pictures.locate("chelsea").is_absolute()


@pytest.mark.parametrize("name", pictures.STYLES)
def test_networks(name: str) -> None:
    """Each is small, is read, paints something, shows itself, and speaks of no machine."""
    path = pictures.network(name)
    assert path is not None and path.stat().st_size <= 1_000_000
    model = feedforward.load(name)
    assert "/" not in "".join(model.metadata.values())
    photograph = images.to_size(images.to_tensor(pictures.locate("coffee")), 128)
    painted = feedforward.apply(photograph, name, device="cpu")
    assert painted.shape == photograph.shape
    assert float((painted - photograph).abs().mean()) > 0.03
    assert float(painted.std()) > 0.1
    thumbnail = pictures.thumbnail(name)
    assert thumbnail is not None
    with Image.open(thumbnail) as picture:
        assert max(picture.size) == 256


def test_the_six_of_owl_book_are_there() -> None:
    six = {"udnie", "the-great-wave", "rain-princess", "la-muse", "the-scream", "the-shipwreck-of-the-minotaur"}
    assert six <= set(pictures.STYLES) and len(pictures.STYLES) >= 12


def test_what_is_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pictures.network("cubism") is None and pictures.thumbnail("cubism") is None
    monkeypatch.chdir(tmp_path)
    Path("udnie").touch()
    assert pictures.network("udnie") is None  # what lies there goes first
