"""The pictures that ship: four styles of our own making, and the photographs inside scikit-image's wheel."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path


@dataclass(frozen=True)
class Shipped:
    """A picture that ships.

    Attributes:
        package, file: where it lies.
        title, author, year, rights: what it is; for a style, of the painting that it is reconstructed from.
    """

    package: str
    file: str
    title: str
    author: str
    year: str
    rights: str


STYLES = {
    "the-great-wave": Shipped(
        "impasto.models", "the-great-wave.jpg", "The Great Wave off Kanagawa", "Hokusai", "1831", "public domain"
    ),
    "the-scream": Shipped("impasto.models", "the-scream.jpg", "The Scream", "Edvard Munch", "1893", "public domain"),
    "starry-night": Shipped(
        "impasto.models", "starry-night.jpg", "The Starry Night", "Vincent van Gogh", "1889", "public domain"
    ),
    "the-shipwreck-of-the-minotaur": Shipped(
        "impasto.models",
        "the-shipwreck-of-the-minotaur.jpg",
        "The Shipwreck of the Minotaur",
        "J. M. W. Turner",
        "about 1810",
        "public domain",
    ),
}

CONTENTS = {
    "astronaut": Shipped("skimage.data", "astronaut.png", "Eileen Collins", "NASA", "1999", "public domain"),
    "chelsea": Shipped("skimage.data", "chelsea.png", "Chelsea the cat", "Stefan van der Walt", "2012", "CC0"),
    "coffee": Shipped("skimage.data", "coffee.png", "A cup of coffee", "Rachel Michetti", "2012", "CC0"),
    "rocket": Shipped("skimage.data", "rocket.jpg", "Falcon 9 and DSCOVR", "SpaceX", "2015", "CC0"),
}


def locate(name: str) -> Path:
    """The path of a shipped picture, or else ``name`` itself as a path; what lies at that path goes first."""
    path = Path(name)
    shipped = STYLES.get(name) or CONTENTS.get(name)
    if shipped is None or path.exists():
        return path
    return Path(str(resources.files(shipped.package) / shipped.file))
