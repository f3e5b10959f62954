"""Train the bundled network that colours grey photographs.

    python training/colorizer.py --photos DIR [--out impasto/models/colorize.safetensors] [--steps N]

The loss is that of `impasto pix2pix train --recipe colorize-small`. To fit an hour of one slow core, the encoder's
features of two crops of each photograph are computed once, and each step computes colours only in a window of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

import impasto
from impasto import color, colorizer, datasets, encoder, files, fitting, machine, pix2pix, schema
from impasto.colorizer import Colorizer
from impasto.pix2pix import Model
from impasto.presets import TRANSLATIONS

CROP, WINDOW = 224, 12  # side of the crops in pixels; side of the windows in units of eight pixels
VARIANTS = 2  # crops of each photograph
CHROMA = 4.0  # mean distance from grey below which a crop is left out


def crops(pool: datasets.Pool, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """The encoder's features of all crops, and the classes of their colours."""
    frozen = encoder.Frozen(encoder.load("compact"), colorizer.LAYERS, torch.bfloat16)
    centres = color.bins()
    features: dict[str, list[Tensor]] = {layer: [] for layer in colorizer.LAYERS}
    classes: list[Tensor] = []
    order = torch.randperm(len(pool), generator=generator).repeat(VARIANTS)
    for rows in track(order.split(10), "encoding"):
        alone = [datasets.Pool(pool.canvas[row : row + 1], pool.sizes[row : row + 1]) for row in rows.tolist()]
        cut = [datasets.random_crops(one, 1, CROP, generator, zoom=(0.9, 1.5)) for one in alone]
        lab = color.to_lab(torch.cat(cut))
        small = F.avg_pool2d(lab[:, 1:], 4)
        lab, small = (x[small.norm(dim=1).mean((1, 2)) > CHROMA] for x in (lab, small))
        gamma = torch.exp(0.25 * torch.randn(len(lab), 1, 1, 1, generator=generator))  # old photographs vary
        lightness = 2 * (lab[:, :1] / 100).clamp(0, 1) ** gamma - 1
        for layer, values in frozen.forward(colorizer.grey(lightness)).features.items():
            features[layer].append(values.bfloat16().contiguous(memory_format=torch.channels_last))
        classes.append(colorizer.nearest(small, centres).to(torch.int16))
    return {layer: torch.cat(values) for layer, values in features.items()}, torch.cat(classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("impasto/models/colorize.safetensors"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3)
    args = parser.parse_args()
    pool = datasets.load(datasets.pictures(args.photos), side=448, short=256)
    features, classes = crops(pool, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    network = Colorizer(color.bins()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    counts = torch.bincount(classes.flatten().long(), minlength=len(network.centres)).float()
    balance = colorizer.balance(counts, network.centres)

    def loss(index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        rows = torch.randint(len(classes), (args.batch,), generator=generator)
        last = CROP // 8 - WINDOW
        top, left = torch.randint(0, last + 1, (2,), generator=generator).tolist()
        wanted = classes[rows, 2 * top : 2 * (top + WINDOW), 2 * left : 2 * (left + WINDOW)].long()
        # Logits next to the window's own edges have seen zeros instead of the picture.
        for edge, inside in ((wanted[:, :4], top > 0), (wanted[:, -4:], top < last),
                             (wanted[:, :, :4], left > 0), (wanted[:, :, -4:], left < last)):  # fmt: skip
            if inside:
                edge.fill_(-100)
        with torch.autocast("cpu", torch.bfloat16), pix2pix.noise(torch.device("cpu"), index):
            logits = network({layer: values[rows] for layer, values in features.items()}, (top, left, WINDOW))
        return {"bins": F.cross_entropy(logits.float(), wanted, weight=balance)}

    with machine.reused_memory():
        steps = fitting.fit(network, loss, steps=args.steps, rate=args.rate, warmup=50, weight_decay=0.03, retries=4)
        for step in track(steps, "training", total=args.steps):
            if step.index % 100 == 0 or step.index == step.total:
                print(step.index, f"{step.loss:.3f}", flush=True)
                recipe = json.dumps(schema.to_json(TRANSLATIONS["colorize-small"]))
                card = {"impasto": impasto.__version__, "recipe": recipe, "photographs": str(len(pool))}
                with files.atomic(args.out) as part:
                    pix2pix.save(part, Model(network, "colorize", {**card, "steps": str(step.index)}))


if __name__ == "__main__":
    main()
