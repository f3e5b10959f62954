"""Bundled pictures: styles, and the photographs in scikit-image's wheel."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path


@dataclass(frozen=True)
class Shipped:
    """A bundled picture.

    Attributes:
        package, file: where it is stored.
        title, author, year, rights: of the picture; for a style, of the painting that it was made from.
    """

    package: str
    file: str
    title: str
    author: str
    year: str
    rights: str


# Each is bundled as a one-pass network trained on the painting, and as a picture for the other methods: our own
# reconstruction of the painting's style. The rights are those of the painting itself, which is not bundled.
STYLES = {
    name: Shipped("impasto.models", f"{name}.jpg", *facts)
    for name, facts in {
        "udnie": ("Udnie", "Francis Picabia", "1913", "public domain"),
        "the-great-wave": ("The Great Wave off Kanagawa", "Hokusai", "1831", "public domain"),
        "rain-princess": ("Rain Princess", "Leonid Afremov", "about 2010", "the painter's estate"),
        "la-muse": ("La Muse", "Pablo Picasso", "1935", "the painter's estate"),
        "the-scream": ("The Scream", "Edvard Munch", "1893", "public domain"),
        "the-shipwreck-of-the-minotaur": (
            "The Shipwreck of the Minotaur", "J. M. W. Turner", "about 1810", "public domain",
        ),
        "starry-night": ("The Starry Night", "Vincent van Gogh", "1889", "public domain"),
        "composition-vii": ("Composition VII", "Wassily Kandinsky", "1913", "public domain"),
        "mosaic": ("A mosaic", "unknown", "unknown", "unknown"),
        "candy": ("June Tree", "Natasha Wescoat", "unknown", "the painter"),
        "feathers": ("Feathers", "Kathryn Corlett", "unknown", "the painter"),
        "portrait-of-metzinger": ("Portrait of Jean Metzinger", "Robert Delaunay", "1906", "public domain"),
    }.items()
}  # fmt: skip

CONTENTS = {
    "astronaut": Shipped("skimage.data", "astronaut.png", "Eileen Collins", "NASA", "1999", "public domain"),
    "chelsea": Shipped("skimage.data", "chelsea.png", "Chelsea the cat", "Stefan van der Walt", "2012", "CC0"),
    "coffee": Shipped("skimage.data", "coffee.png", "A cup of coffee", "Rachel Michetti", "2012", "CC0"),
    "rocket": Shipped("skimage.data", "rocket.jpg", "Falcon 9 and DSCOVR", "SpaceX", "2015", "CC0"),
}


def locate(name: str, *, folder: bool = False) -> Path:
    """The path of a bundled picture, or ``name`` itself as a path.

    An existing file of that name takes precedence, and so does a folder if ``folder``.
    """
    path = Path(name)
    shipped = STYLES.get(name) or CONTENTS.get(name)
    if shipped is None or path.is_file() or (folder and path.is_dir()):
        return path
    return Path(str(resources.files(shipped.package) / shipped.file))


def network(name: str) -> Path | None:
    """The path of a bundled style's one-pass network; None for other names, and if a file ``name`` exists."""
    if name not in STYLES or Path(name).is_file():
        return None
    return Path(str(resources.files("impasto.models") / "styles" / f"{name}.safetensors"))


def thumbnail(name: str) -> Path | None:
    """The path of a small picture painted by a style's one-pass network; None as for `network`."""
    path = network(name)
    return path.with_suffix(".jpg") if path is not None else None


# Bundled models of `impasto pix2pix`, and what they do.
TRANSLATORS = {"colorize": "Bundled network, for `pix2pix apply`: colours for a grey photograph."}


def translator(name: str) -> Path | None:
    """The path of a bundled model of `impasto pix2pix`; None for other names, and if a file ``name`` exists."""
    if name not in TRANSLATORS or Path(name).is_file():
        return None
    return Path(str(resources.files("impasto.models") / f"{name}.safetensors"))
