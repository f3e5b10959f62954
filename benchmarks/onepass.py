"""One-pass networks, measured: after how many iterations L-BFGS from the photograph is as good as one pass.

    python benchmarks/onepass.py --assets DIR [--models DIR] [--only NAME ...]

The objective, the encoder and the weights are those of the network's training. --assets holds styles/ and contents/.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from impasto import encoder, feedforward, images, machine, objective, optimize, recipes

SIZE, PHOTOGRAPHS, MOST = 384, 10, 150
STDERR = Console(stderr=True)


def losses_of(goal: objective.Objective, image: torch.Tensor) -> float:
    terms, _ = goal(image)
    return float(sum(terms.values()))


def iterations(goal: objective.Objective, photograph: torch.Tensor, wanted: float) -> int:
    """L-BFGS iterations from the photograph until the objective is at ``wanted``; MOST if it takes more."""
    for step in optimize.minimize(photograph, goal, optimizer="lbfgs", steps=MOST, rate=1.0):
        if step.loss <= wanted:
            return step.index
    return MOST


def measure(model: feedforward.Model, painting: Path, photographs: list[Path]) -> tuple[float, float]:
    """Means over the photographs: the objective after one pass, and the iterations that are as good."""
    recipe = recipes.Training(**json.loads(model.metadata["recipe"]))
    eye = encoder.load(recipe.encoder)
    style = images.to_size(images.to_tensor(painting), round(recipe.style_scale * recipe.style_size))
    losses, counts = [], []
    for path in photographs:
        photograph = images.to_size(images.to_tensor(path), SIZE)
        goal = objective.build(eye, recipe.objective(), photograph, [style])
        losses.append(losses_of(goal, feedforward.apply(photograph, model)))
        counts.append(iterations(goal, photograph, losses[-1]))
    return sum(losses) / len(losses), sum(counts) / len(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--models", type=Path, nargs="+", help="files to measure; none: all that ship")
    args = parser.parse_args()
    photographs = sorted((args.assets / "contents").glob("*.jpg"))[:PHOTOGRAPHS]
    torch.set_num_threads(2)
    print("| style | objective | L-BFGS iterations |")
    with machine.reused_memory():
        for path in track(args.models, console=STDERR):
            model = feedforward.load(path)
            style = json.loads(model.metadata["style"])["name"]
            loss, count = measure(model, args.assets / "styles" / style, photographs)
            print(f"| {path.stem} | {loss:.3f} | {count:.0f} |", flush=True)


if __name__ == "__main__":
    main()
