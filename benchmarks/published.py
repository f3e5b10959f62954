"""Compare our pictures with the published ones, measured with the teachers of the compact encoder.

    python benchmarks/published.py --assets DIR --ours FOLDER [--kind one_pass|optimised]

FOLDER holds our pictures, named like the published ones (`chicago_wave.png`, ...). It prints two numbers for each
picture; lower is better:

- style left: the squared distance between the picture's Gram matrices and the painting's, divided by the photograph's;
  mean over layers. 1 is the unchanged photograph, 0 has the painting's statistics.
- content distance: 1 - cosine similarity of instance-normalised features of picture and photograph; mean over layers.

The encoders are the original VGG-19 up to relu3_4, and a pruned one for relu4_1, relu4_2 and relu5_1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import encoder, images, losses

sys.path.append(str(Path(__file__).parents[1] / "training"))
from teachers import Pruned

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYERS = ("relu3_1", "relu3_4", "relu4_2", "relu5_1")
SIZE = 512  # long edge at which pictures are compared


class Judge:
    """Measures pictures with the two encoders."""

    def __init__(self, folder: Path) -> None:
        self.vgg = encoder.load(str(folder / "vgg19_conv1_1_to_conv3_4_caffe.safetensors"))
        self.pruned = Pruned(folder / "vgg19_pruned16x_to_conv5_1.safetensors")

    @torch.no_grad()
    def features(self, image: Tensor) -> dict[str, Tensor]:
        shallow = self.vgg(image, ("relu1_1", "relu2_1", "relu3_1", "relu3_4"))
        deep = self.pruned(image)
        return shallow | {layer: deep[layer] for layer in ("relu4_1", "relu4_2", "relu5_1")}

    def __call__(self, picture: Tensor, content: Tensor, style: Tensor) -> tuple[float, float]:
        """Style left and content distance of a picture, each (1, 3, H, W) in [0, 1]."""
        ours, photograph, painting = (self.features(images.to_size(image, SIZE)) for image in (picture, content, style))
        left = []
        for layer in STYLE_LAYERS:
            gram, start, goal = (losses.gram(x[layer]) for x in (ours, photograph, painting))
            left.append(float((gram - goal).square().sum() / (start - goal).square().sum()))
        distance = []
        for layer in CONTENT_LAYERS:
            x, y = F.instance_norm(ours[layer]), F.instance_norm(photograph[layer])
            distance.append(1 - float(F.cosine_similarity(x.flatten(), y.flatten(), dim=0)))
        return sum(left) / len(left), sum(distance) / len(distance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--ours", type=Path, required=True)
    parser.add_argument("--kind", default="one_pass", choices=("one_pass", "optimised"))
    args = parser.parse_args()
    judge = Judge(args.assets / "teachers")
    folder = args.assets / "published" / args.kind
    totals, both, count = torch.zeros(4), 0, 0
    print("| picture | style left: published | ours | content distance: published | ours |")
    print("|---|---|---|---|---|")
    for path in sorted(folder.glob("*.jpg")):
        if path.stem.startswith(("content_", "style_")):
            continue
        found = [p for p in sorted(args.ours.iterdir()) if p.stem == path.stem]
        if not found:
            continue
        contents = [p for p in folder.glob("content_*.jpg") if path.stem.startswith(p.stem[8:] + "_")]
        (content,) = contents
        style = folder / f"style_{path.stem[len(content.stem) - 7 :]}.jpg"
        photograph, painting, published, ours = (images.read(p).image for p in (content, style, path, found[0]))
        if published.shape != photograph.shape:
            published = images.resize(published, *photograph.shape[-2:])
        if ours.shape != photograph.shape:
            ours = images.resize(ours, *photograph.shape[-2:])
        theirs, mine = judge(published, photograph, painting), judge(ours, photograph, painting)
        row = torch.tensor([theirs[0], mine[0], theirs[1], mine[1]])
        totals, count = totals + row, count + 1
        both += mine[0] <= theirs[0] and mine[1] <= theirs[1]
        print(f"| {path.stem} | " + " | ".join(f"{float(x):.3f}" for x in row) + " |")
    print("| mean | " + " | ".join(f"{float(x):.3f}" for x in totals / count) + " |")
    print(f"\nOurs is at or below the published picture on both for {both} of {count}.")


if __name__ == "__main__":
    main()
