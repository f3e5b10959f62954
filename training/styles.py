"""Train the one-pass networks that ship, one for each painting.

    python training/styles.py --assets DIR [--out impasto/models/styles] [--only NAME ...]

A training that is cut off goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from impasto import onepass
from impasto.recipes import Training

PAINTINGS = {
    "starry-night": "starry_night.jpg",
    "the-great-wave": "the_great_wave.jpg",
    "the-scream": "the_scream.jpg",
    "the-shipwreck-of-the-minotaur": "the_shipwreck_of_the_minotaur.jpg",
    "udnie": "udnie.jpg",
    "rain-princess": "rain_princess.jpg",
    "la-muse": "la_muse.jpg",
    "composition-vii": "composition_vii.jpg",
    "mosaic": "mosaic.jpg",
    "candy": "candy.jpg",
    "feathers": "feathers.jpg",
    "brushstrokes": "brushstrokes.jpg",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="holds styles/ and photos/")
    parser.add_argument("--out", type=Path, default=Path("impasto/models/styles"))
    parser.add_argument("--only", nargs="+", choices=PAINTINGS, default=list(PAINTINGS))
    parser.add_argument("--steps", type=int, default=Training().steps)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        onepass.train(
            str(args.assets / "styles" / PAINTINGS[name]),
            args.assets / "photos",
            args.out / f"{name}.safetensors",
            Training(steps=args.steps),
            device="auto",
            quiet=False,
            resume=True,
        )


if __name__ == "__main__":
    main()
