"""Compare transfers through the compact encoder with transfers through its teachers, on twelve held-out pairs.

    python training/compare_encoders.py --assets DIR --out WORK [--encoder FILE]

Each pair is painted twice from the content, at 384 px with 200 iterations of L-BFGS and the same unit-free weights:
through the teachers in float32, and through compact as it is used. The teachers measure both results. The script prints
the style loss removed through compact as a fraction of that removed through the teachers, and both content losses.
WORK/triples_*.png show content, style, through the teachers, through compact. Results are kept in WORK, so that an
interrupted run can be resumed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from teachers import Teachers
from torch import nn

from impasto import encoder, images, objective, optimize, presets, sheets

PAIRS = (
    *(("tubingen", "starry_night"), ("chicago", "the_great_wave"), ("golden_gate", "the_scream")),
    *(("lion", "candy"), ("cornell", "composition_vii"), ("venice_boat", "the_shipwreck_of_the_minotaur")),
    *(("taj_mahal", "la_muse"), ("newyork", "udnie"), ("stata", "rain_princess")),
    *(("sailboat", "mosaic"), ("flowers", "feathers"), ("modern", "brushstrokes")),
)
RECIPE = replace(presets.impasto, size=384, steps=200, scales=(1.0,))


def paint(network: nn.Module, content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    recipe = RECIPE if isinstance(network, encoder.VGG) else replace(RECIPE, precision="float32")
    goal = objective.build(network, recipe, content, [style])
    steps = optimize.minimize(
        content, goal, optimizer=recipe.optimizer, steps=recipe.steps, rate=recipe.rate, clip=recipe.clip
    )
    for step in steps:
        image = step.image
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="holds contents/, styles/ and teachers/")
    parser.add_argument("--out", type=Path, required=True, help="the folder for results and sheets")
    parser.add_argument("--encoder", default="compact")
    parser.add_argument("--only", choices=["teachers"], help="paint only the teachers' half")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    teachers = Teachers(args.assets / "teachers").eval().to(memory_format=torch.channels_last)
    networks = {"teachers": teachers} | ({} if args.only else {"compact": encoder.load(args.encoder)})
    rows, panels = [], []
    for content_name, style_name in PAIRS:
        content, style = (
            images.to_size(images.to_tensor(args.assets / folder / f"{name}.jpg"), RECIPE.size)
            for folder, name in (("contents", content_name), ("styles", style_name))
        )
        results = {}
        for name, network in networks.items():
            file = args.out / f"{content_name}-{style_name}-{name}.pt"
            if not file.exists():
                torch.save(paint(network, content, style), file)
            results[name] = torch.load(file, weights_only=True)
        goal = objective.build(teachers, replace(RECIPE, precision="float32"), content, [style])
        with torch.no_grad():
            terms = {name: goal.terms(image) for name, image in (("start", content), *results.items())}
        rows.append({name: (float(term["style"]), float(term["content"])) for name, term in terms.items()})
        print(content_name, style_name, rows[-1], flush=True)
        panels += [(content_name, content), (style_name, style)]
        panels += [(f"through {name}", image) for name, image in results.items()]
    if args.only:
        return
    print("pair | style removed, compact / teachers | content, teachers | content, compact")
    for (content_name, style_name), row in zip(PAIRS, rows, strict=True):
        removed = (row["start"][0] - row["compact"][0]) / (row["start"][0] - row["teachers"][0])
        print(f"{content_name} x {style_name} | {removed:.4f} | {row['teachers'][1]:.4f} | {row['compact'][1]:.4f}")
    for part in range(0, len(panels), 16):
        images.write(args.out / f"triples_{part // 16 + 1}.png", sheets.sheet(panels[part : part + 16], columns=4))


if __name__ == "__main__":
    main()
