"""Measure translations of the test facades: L1 in [-1, 1] and sharpness, compared with the mean facade.

    python benchmarks/facades.py --assets DIR MODEL [MODEL ...]

DIR holds facades/train and facades/test (CMP's pairs: photographs left, labels right). For example, the two models of
docs/pix2pix.md:

    impasto pix2pix train DIR/facades/train -o l1.safetensors --direction BtoA --generator unet64 --width 24
        --critic-width 24 --critic-layers 2 --load 70 --crop 64 --batch 2 --steps 6000 --validation 0 --gan none
    impasto pix2pix train DIR/facades/train -o gan.safetensors ...                                --gan bce
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from impasto import images, pairs, pix2pix

SIDE = 64


def facades(folder: Path) -> list[tuple[Tensor, Tensor]]:
    """Labels and photographs, (1, 3, SIDE, SIDE) each, in [-1, 1]."""
    found = pairs.Pairs(pairs.find(folder, None, kind="given"), "given", (3, 3), backwards=True, short=SIDE)
    shrunk = [[images.resize(each, SIDE, SIDE) for each in pair] for pair in found.some(len(found))]
    return [(labels, photograph) for labels, photograph in shrunk]


def sharpness(image: Tensor) -> float:
    """The mean difference between neighbouring pixels."""
    return float(image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--assets", type=Path, required=True, help="holds facades/")
    args = parser.parse_args()
    train, test = (facades(args.assets / "facades" / part) for part in ("train", "test"))
    average = torch.cat([photograph for _, photograph in train]).mean(0, keepdim=True)
    painters: dict[str, Callable[[Tensor], Tensor]] = {"mean facade": lambda labels: average}
    for path in args.models:
        model = pix2pix.load(path)
        painters[path.name] = lambda labels, model=model: pix2pix.translate(labels, model, precision="float32")
    print(f"{len(test)} facades: L1, sharpness (photographs: {mean(sharpness(x) for _, x in test):.3f})")
    for name, paint in painters.items():
        made = [(paint(labels), photograph) for labels, photograph in test]
        distance = mean(float((x - y).abs().mean()) for x, y in made)
        print(f"{name}: {distance:.3f}, {mean(sharpness(x) for x, _ in made):.3f}")


if __name__ == "__main__":
    main()
