"""Measure the network of any styles on photographs and paintings that it was not trained on.

    python benchmarks/anystyle.py --assets DIR [--out FOLDER] [--weights FILE] [--adain] [--pairs N] [--size 512]

The pairs take each photograph of DIR/contents with about three paintings of DIR/styles. It prints style left and
content distance (see `published.py`) for each pair and their means, and writes the pictures next to photograph and
painting to FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from published import Judge

from impasto import anystyle, datasets, images, onepass, sheets, weights
from impasto.onepass import Model

sys.path.append(str(Path(__file__).parents[1] / "training"))
from adain import AdaIN


def pairs(assets: Path, count: int) -> Iterator[tuple[Path, Path]]:
    """Photographs with paintings: every photograph and every painting equally often, no pair twice."""
    contents, styles = (datasets.pictures(assets / folder) for folder in ("contents", "styles"))
    for index in range(count):
        yield contents[index % len(contents)], styles[(5 * index + index // len(styles)) % len(styles)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="holds contents/, styles/ and teachers/")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--weights", type=Path, help="a decoder's file, as training/anystyle.py wrote it")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--size", type=int, default=512, help="long edge of the photographs")
    parser.add_argument("--scale", type=float, default=1.0, help="the style scale")
    parser.add_argument("--adain", action="store_true", help="the baseline, as trained by --adain")
    args = parser.parse_args()
    if args.adain:
        anystyle.Canvas = AdaIN  # type: ignore[misc]
    if args.weights:
        network, _ = anystyle.load()
        state, _ = weights.load(args.weights)
        network.decoder.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    judge = Judge(args.assets / "teachers")
    found = []
    print("| photograph | painting | style left | content distance |\n|---|---|---|---|")
    for content, style in pairs(args.assets, args.pairs):
        photograph, painting = images.read(content).image, images.read(style).image
        model: Model = onepass.from_painting(painting, args.scale)
        painted = onepass.apply(photograph, model, size=args.size)
        found.append(judge(painted, photograph, painting))
        print(f"| {content.stem} | {style.stem} | {found[-1][0]:.3f} | {found[-1][1]:.3f} |", flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            row = [("", images.to_size(each, args.size)) for each in (photograph, painting, painted)]
            images.write(args.out / f"{content.stem}_{style.stem}.jpg", sheets.sheet(row, columns=3))
    left, distance = torch.tensor(found).mean(0).tolist()
    print(f"| mean of {len(found)} | | {left:.3f} | {distance:.3f} |")


if __name__ == "__main__":
    main()
