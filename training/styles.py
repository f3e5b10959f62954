"""Train the bundled one-pass networks together, and paint their thumbnails.

    python training/styles.py --assets DIR [--group first|second] [--out impasto/models/styles] [--steps N]

The networks of a group share their convolutions, except the last; each style has its own instance normalisations
(Dumoulin2017). The paintings help each other, so six styles take little longer than one. Each is then written as its
own network.

The best strength differs a lot between paintings. Each style's strength is therefore adapted during training, until
the content term reaches its target in `PAINTINGS`: the largest strength at which the photograph keeps that much of its
structure. An interrupted training resumes from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from averaging import averaged as moving_average
from rich.progress import track
from torch import Tensor, nn

import impasto
from impasto import bundled, datasets, files, fitting, images, machine, onepass, onepass_training, schema, sheets
from impasto.networks import Layer, Network
from impasto.onepass import Model
from impasto.recipes import Training

EVERY = 300  # steps between two checkpoints
GAIN = 0.15  # how fast a strength follows the content term's distance from its target
STRENGTHS = (0.5, 7.5)


@dataclass(frozen=True)
class Painting:
    """A painting, the size at which it is learnt, the target of its content term, and how `impasto apply` paints."""

    file: str
    size: int
    content: float
    descreen: bool = False
    crispness: float = 1.0
    underpainting: float = 1.0


PAINTINGS = {
    "first": {
        "the-great-wave": Painting("the_great_wave.jpg", 768, 0.39),
        "la-muse": Painting("la_muse.jpg", 512, 0.455, descreen=True),
        "rain-princess": Painting("rain_princess.jpg", 960, 0.44, descreen=True, underpainting=0),
        "the-scream": Painting("the_scream.jpg", 600, 0.36, descreen=True),
        "udnie": Painting("udnie.jpg", 512, 0.39, descreen=True),
        "the-shipwreck-of-the-minotaur": Painting(
            "the_shipwreck_of_the_minotaur.jpg", 800, 0.35, descreen=True, crispness=0
        ),
    },
    "second": {
        "starry-night": Painting("starry_night.jpg", 700, 0.43, crispness=0),
        "composition-vii": Painting("composition_vii.jpg", 700, 0.44, underpainting=0),
        "mosaic": Painting("mosaic.jpg", 470, 0.44, crispness=0),
        "candy": Painting("candy.jpg", 700, 0.44, descreen=True, underpainting=0),
        "feathers": Painting("feathers.jpg", 540, 0.43, crispness=0),
        "portrait-of-metzinger": Painting("delaunay_portrait.jpg", 700, 0.44, underpainting=0),
    },
}


def sharing(count: int) -> list[Network]:
    """Networks with one set of convolutions, except the last."""
    networks = [Network() for _ in range(count)]
    for name, layer in networks[0].named_modules():
        if isinstance(layer, Layer) and layer.norm is not None:
            for network in networks[1:]:
                network.get_submodule(name).convolution = layer.convolution
    return networks


class Balance:
    """The strength of a style, adapted until its content term stays at a target."""

    def __init__(self, target: float) -> None:
        self.target = self.content = target  # a moving average of the content term
        self.logarithm = 0.0

    def strength(self, _: int) -> float:
        return math.exp(self.logarithm)

    def update(self, content: float) -> None:
        self.content += 0.03 * (content - self.content)
        change = GAIN * (self.target - self.content) / self.target
        low, high = (math.log(strength) for strength in STRENGTHS)
        self.logarithm = min(high, max(low, self.logarithm + change))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="holds styles/ and photos/")
    parser.add_argument("--group", choices=PAINTINGS, default="first", help="which six styles")
    parser.add_argument("--out", type=Path, default=Path("impasto/models/styles"))
    parser.add_argument("--begin", type=Path, help="networks to continue from, as an earlier run left them in --out")
    parser.add_argument("--steps", type=int, default=9000, help="of all styles together")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = machine.pick_device(args.device)
    group: dict[str, Painting] = PAINTINGS[args.group]
    recipe = Training(steps=args.steps, rate=args.rate, start="")
    recipes = {
        name: replace(
            recipe,
            style_size=painting.size,
            descreen=painting.descreen,
            crispness=painting.crispness,
            underpainting=painting.underpainting,
        )
        for name, painting in group.items()
    }
    pool = datasets.load(datasets.pictures(args.assets / "photos"), side=640, short=448).to(device)
    paintings = {name: images.read(args.assets / "styles" / painting.file) for name, painting in group.items()}
    torch.manual_seed(recipe.seed)
    networks = dict(zip(group, sharing(len(group)), strict=True))
    for name, network in networks.items() if args.begin else ():
        network.load_state_dict(onepass.load(args.begin / f"{name}.safetensors").network.state_dict())
    together = nn.ModuleList(networks.values()).to(device)
    averaged = moving_average(together, 0.998)
    balances = {name: Balance(painting.content) for name, painting in group.items()}
    tasks = {
        name: onepass_training.task(
            networks[name], paintings[name].image.to(device), pool, recipes[name], balances[name].strength
        )
        for name in group
    }
    names = list(group)

    def loss(index: int) -> dict[str, Tensor]:
        name = names[index % len(names)]
        terms = tasks[name](index)
        balances[name].update(float(terms["content"].detach()) / 2)  # the content weighs 2
        return terms

    def write(step: fitting.TrainingStep) -> None:
        for name, network in zip(group, averaged.module, strict=True):
            final = replace(recipes[name], strength=balances[name].strength(0))
            card = {
                "impasto": impasto.__version__,
                "style": json.dumps({"name": group[name].file, "sha256": paintings[name].sha256}),
                "recipe": json.dumps(schema.to_json(final)),
                "photographs": str(len(pool)),
                "steps": f"{step.index}, of {len(group)} styles together",
            }
            with files.atomic(args.out / f"{name}.safetensors") as part:
                onepass.save(part, network, card)

    checkpoint = args.out / f"together-{args.group}.resume"
    state: dict[str, Any] | None = None
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        averaged.load_state_dict(state["averaged"])
        for name, values in state["balances"].items():
            balances[name].logarithm, balances[name].content = values
    photograph = images.to_size(images.to_tensor(bundled.locate("chelsea")), 512)
    sums: dict[str, float] = {}
    with machine.reused_memory():
        steps = fitting.fit(together, loss, steps=recipe.steps, rate=recipe.rate, warmup=100, state=state)
        for step in track(steps, total=recipe.steps):
            averaged.update_parameters(together)
            for name, term in step.terms.items():
                sums[name] = sums.get(name, 0) + float(term) / EVERY
            if step.index % EVERY and step.index < step.total:
                continue
            print(step.index, ", ".join(f"{name} {value:.3f}" for name, value in sums.items()), flush=True)
            sums.clear()
            kept = {name: (balance.logarithm, balance.content) for name, balance in balances.items()}
            with files.atomic(checkpoint) as part:
                torch.save({**step.state(), "averaged": averaged.state_dict(), "balances": kept}, part)
            write(step)
            painted = [
                (name, onepass.apply(photograph, Model(network, {"recipe": "{}"}), grain=recipe.grain))
                for name, network in zip(group, averaged.module, strict=True)
            ]
            images.write(args.out / f"together-{args.group}.png", sheets.sheet(painted, columns=3))
    for name, network in zip(group, averaged.module, strict=True):
        small = images.to_size(photograph, 256)
        images.write(
            args.out / f"{name}.jpg", onepass.apply(small, Model(network, {"recipe": "{}"}), grain=recipe.grain)
        )
    checkpoint.unlink()
    (args.out / f"together-{args.group}.png").unlink()


if __name__ == "__main__":
    main()
