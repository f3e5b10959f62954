"""The pictures that ship."""

from pathlib import Path

import pytest
from PIL import Image

from impasto import pictures

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
