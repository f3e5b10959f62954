"""Make the style pictures that ship: style reconstructions of paintings in the public domain.

python training/style_pictures.py --assets DIR [--out impasto/models]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from impasto import images, recipes, session

PAINTINGS = {
    "the-great-wave": "the_great_wave.jpg",
    "the-scream": "the_scream.jpg",
    "starry-night": "starry_night.jpg",
    "the-shipwreck-of-the-minotaur": "the_shipwreck_of_the_minotaur.jpg",
}
RECIPE = replace(recipes.reconstruct_style, size=512, steps=450)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="holds styles/")
    parser.add_argument("--out", type=Path, default=Path("impasto/models"))
    args = parser.parse_args()
    for name, file in PAINTINGS.items():
        painting = images.read(args.assets / "styles" / file)
        inputs = session.Inputs(painting, [painting])
        session.paint(inputs, RECIPE, session.Watch(args.out / f"{name}.jpg", command="reconstruct"))


if __name__ == "__main__":
    main()
