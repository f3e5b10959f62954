"""Train the one-pass networks that ship, all at once, and paint their thumbnails.

    python training/styles.py --assets DIR [--out impasto/models/styles] [--steps N]

The networks share their convolutions, but the last; the instance normalisations are each style's own
(Dumoulin2017). What one painting teaches is good for the
others, so that all of them take not much longer than a single one. Each is then written as a network of its own.
A training that is cut off goes on where it was; with another number of steps, along that one's schedule.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn

import impasto
from impasto import bundled, datasets, fitting, images, machine, onepass, schema, sheets
from impasto.networks import Layer, Network
from impasto.onepass import Model
from impasto.recipes import Training

EVERY = 500  # steps between two checkpoints
PAINTINGS = {
    "udnie": "udnie.jpg",
    "the-great-wave": "the_great_wave.jpg",
    "rain-princess": "rain_princess.jpg",
    "la-muse": "la_muse.jpg",
    "the-scream": "the_scream.jpg",
    "the-shipwreck-of-the-minotaur": "the_shipwreck_of_the_minotaur.jpg",
    "starry-night": "starry_night.jpg",
    "composition-vii": "composition_vii.jpg",
    "mosaic": "mosaic.jpg",
    "candy": "candy.jpg",
    "feathers": "feathers.jpg",
    "portrait-of-metzinger": "delaunay_portrait.jpg",
}


def sharing(count: int) -> list[Network]:
    """Networks with one set of convolutions, but for the last."""
    networks = [Network() for _ in range(count)]
    for name, layer in networks[0].named_modules():
        if isinstance(layer, Layer) and layer.norm is not None:
            for network in networks[1:]:
                network.get_submodule(name).convolution = layer.convolution
    return networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="holds styles/ and photos/")
    parser.add_argument("--out", type=Path, default=Path("impasto/models/styles"))
    parser.add_argument("--begin", type=Path, help="networks to begin from, as an earlier run left them in --out")
    parser.add_argument("--steps", type=int, default=18_000, help="of all styles together")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = machine.pick_device(args.device)
    ramp = 0.0 if args.begin else 0.03
    recipe = Training(lattice=600.0, steps=args.steps, rate=args.rate, crop=224, ramp=ramp, start="")
    pool = datasets.load(datasets.pictures(args.assets / "photos"), side=640, short=448).to(device)
    paintings = {name: images.read(args.assets / "styles" / file) for name, file in PAINTINGS.items()}
    torch.manual_seed(recipe.seed)
    networks = dict(zip(PAINTINGS, sharing(len(PAINTINGS)), strict=True))
    for name, network in networks.items() if args.begin else ():
        network.load_state_dict(onepass.load(args.begin / f"{name}.safetensors").network.state_dict())
    together = nn.ModuleList(networks.values()).to(device)
    tasks = [onepass.task(networks[name], paintings[name].image.to(device), pool, recipe) for name in PAINTINGS]

    def loss(index: int) -> dict[str, Tensor]:
        return tasks[index % len(tasks)](index)

    def write(step: fitting.TrainingStep) -> None:
        for name, network in networks.items():
            card = {
                "impasto": impasto.__version__,
                "style": json.dumps({"name": PAINTINGS[name], "sha256": paintings[name].sha256}),
                "recipe": json.dumps(schema.to_json(recipe)),
                "photographs": str(len(pool)),
                "steps": f"{step.index}, of {len(tasks)} styles together",
            }
            with images.atomic(args.out / f"{name}.safetensors") as part:
                onepass.save(part, network, card)

    checkpoint = args.out / "together.resume"
    state = torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint.exists() else None
    photograph = images.to_size(images.to_tensor(bundled.locate("chelsea")), 512)
    sums: dict[str, float] = {}
    with machine.reused_memory():
        steps = fitting.fit(together, loss, steps=recipe.steps, rate=recipe.rate, warmup=100, state=state)
        for step in track(steps, total=recipe.steps):
            for name, term in step.terms.items():
                sums[name] = sums.get(name, 0) + float(term) / EVERY
            if step.index % EVERY and step.index < step.total:
                continue
            print(step.index, ", ".join(f"{name} {value:.3f}" for name, value in sums.items()), flush=True)
            sums.clear()
            with images.atomic(checkpoint) as part:
                torch.save(step.state(), part)
            write(step)
            painted = [
                (name, onepass.apply(photograph, Model(network, {}), grain=recipe.grain))
                for name, network in networks.items()
            ]
            images.write(args.out / "together.png", sheets.sheet(painted, columns=4))
    for name, network in networks.items():
        small = images.to_size(photograph, 256)
        images.write(args.out / f"{name}.jpg", onepass.apply(small, Model(network, {}), grain=recipe.grain))
    checkpoint.unlink()
    (args.out / "together.png").unlink()


if __name__ == "__main__":
    main()
