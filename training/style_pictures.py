"""Make the bundled style pictures: style reconstructions of the paintings that the one-pass networks are trained on.

python training/style_pictures.py --assets DIR [--out impasto/models] [NAME ...]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from styles import PAINTINGS

from impasto import images, machine, presets
from impasto.runs import transfer as run_transfer

RECIPE = replace(presets.reconstruct_style, size=512, steps=450)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="holds styles/")
    parser.add_argument("names", metavar="NAME", nargs="*", help="default: all")
    parser.add_argument("--out", type=Path, default=Path("impasto/models"))
    args = parser.parse_args()
    paintings = {name: painting for group in PAINTINGS.values() for name, painting in group.items()}
    for name in args.names or paintings:
        painting = images.read(args.assets / "styles" / paintings[name].file)
        inputs = run_transfer.Inputs(painting, [painting])
        run_transfer.paint(inputs, RECIPE, run_transfer.Watch(args.out / f"{name}.jpg", command="reconstruct"))


if __name__ == "__main__":
    with machine.reused_memory():
        main()
