"""Train bundled one-pass networks further, one at a time, with the features of the original VGG-19.

    python training/refine.py --assets DIR STYLE [STYLE ...] [--steps 1350] [--batch 16] [--device auto] [--detailed]
        [--luma 0.4 | --own-hues] [--focus -0.4] [--motion 60] [--halos 300] [--weave 1500]
        [--strengths 25 8 3.2] [--rate 2e-3] [--share 1] [--out DIR]

`styles.py` trains all styles together, with the compact encoder's features. Those pictures lost against published ones:
edges had halos, and even areas were embossed instead of painted. Two things differ here:

- The teachers (`teachers.py`) measure style and content: the original VGG-19 up to relu3_1, a pruned one deeper.
- Content is the relative squared error instead of that of normalised features. Even areas such as skies have weak
  features, so the painting's shapes may enter them; edges have strong ones, so they stay. This error also compares
  colours, so its target is the photograph in the painting's colours.

With --detailed, the content has relu2_1 too: a few hundred steps with a small weight of the style bring back faces and
windows. With --luma, the photograph takes the painting's whole palette, hue by hue, instead of its mean and covariance:
the skies get the painting's colours. With --own-hues, it keeps its hues, and takes only the painting's lights and darks
and the strength of its colours; colours count in the content then, and little in the style. This is for a painting that
is mostly grey. With a negative --focus, the content counts more where the photograph has weak features: clear skies
stay clear. With --motion, the painting of a crop that is moved a little must be its painting, moved: films flicker
less. With --halos, rims of another colour near edges are penalised, and with --weave, fine marks in even areas. With a
--share below 1, what is written lies between the network before and after (Wortsman2022).

An interrupted training resumes from its checkpoint in --out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from averaging import averaged as moving_average
from rich.progress import track
from styles import PAINTINGS, Painting
from teachers import Teachers, content_term, style_term
from torch import Tensor
from torch.nn import functional as F

from impasto import (
    bundled,
    color,
    contrast,
    datasets,
    files,
    fitting,
    flow,
    halos,
    images,
    losses,
    machine,
    onepass,
    onepass_training,
)
from impasto.matting import Guide
from impasto.moments import affine, moments, transport
from impasto.onepass import Model
from impasto.recipes import Training

EVERY = 100  # steps between two checkpoints
CROP = 256  # pixels
ZOOM = (0.58, 0.9)  # a crop shows most of a photograph, as a picture does when the network is applied
CONTENT = {"relu3_1": 0.4, "relu4_2": 1.0}
DETAILED = {"relu2_1": 0.5, "relu3_1": 1.0, "relu4_2": 1.0}
COLOURED = {"relu1_1": 0.4, "relu2_1": 0.3, "relu3_1": 0.7, "relu4_2": 1.0}
STYLE = {"relu1_1": 0.3, "relu2_1": 0.9, "relu3_1": 1.3, "relu4_1": 1.3, "relu5_1": 1.2}
COLOURLESS = {**STYLE, "relu1_1": 0.05, "relu2_1": 0.7}
GRAIN = 0.1
YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])  # of ITU-R BT.601


def in_palette(crops: Tensor, painting: Tensor, luma: float) -> Tensor:
    """Crops in a painting's whole palette, by optimal transport in Y'CbCr with the luma multiplied by ``luma``.

    Below 1, hue counts for more than brightness: a bright blue sky takes a dark blue of the painting.
    """
    axes = YCBCR.to(crops) * crops.new_tensor([[luma], [1], [1]])
    offset = crops.new_tensor([0, 0.5, 0.5]).view(1, 3, 1, 1)
    small = F.avg_pool2d(crops, 4)
    ours, theirs = (torch.einsum("ij,bjhw->bihw", axes, x) + offset for x in (small, painting))
    moved = color.transport_colors(ours, theirs, rounds=24)
    moved = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(axes), moved - offset)
    pairs = zip(small.split(1), moved.split(1), crops.split(1), strict=True)
    return torch.cat([Guide(x, radius=3, epsilon=1e-3).lift(y, crop) for x, y, crop in pairs]).clamp(0, 1)


def in_own_hues(crops: Tensor, painting: Tensor) -> Tensor:
    """Crops with 0.7 of the painting's distribution of luma, and with the strength of its colours."""
    axes = YCBCR.to(crops)
    ours, theirs = (torch.einsum("ij,bjhw->bihw", axes, x) for x in (crops, painting))
    luma, goal = ours[:, 0].flatten(1), theirs[:, 0].flatten().sort().values
    levels = luma.sort(1).values
    ranks = (torch.searchsorted(levels, luma) + torch.searchsorted(levels, luma, right=True)) / (2 * luma.shape[1])
    matched = luma.lerp(goal[(ranks * (len(goal) - 1)).long()], 0.7).view_as(ours[:, :1])
    strength = theirs[:, 1:].square().mean().sqrt() / ours[:, 1:].square().mean((1, 2, 3), keepdim=True).sqrt()
    changed = torch.cat([matched, ours[:, 1:] * strength.clamp(0.3, 1.2)], 1)
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(axes), changed).clamp(0, 1)


def refine(name: str, painting: Painting, pool: datasets.Pool, teachers: Teachers, args: argparse.Namespace) -> None:
    """Train one style's network and write it."""
    device = pool.canvas.device
    content = COLOURED if args.own_hues else DETAILED if args.detailed else CONTENT
    style = COLOURLESS if args.own_hues else STYLE
    model = onepass.load(name)
    network = onepass.require_network(model, name).requires_grad_(True).to(device)
    half = machine.precision("auto", device) == torch.bfloat16
    recipe = Training(steps=args.steps, rate=args.rate, start="", style_size=painting.size, descreen=painting.descreen,
                      crop=CROP, batch=args.batch, grain=GRAIN, smoothness=1.0)  # fmt: skip
    source = images.read(args.assets / "styles" / painting.file).image
    target = onepass_training.prepare_style(source, recipe).to(device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        goals = {layer: losses.gram(x) for layer, x in teachers(target, tuple(style)).items()}
    palette, sample = moments(target), images.at_most(target, 160)
    averaged = moving_average(network, 0.998)

    def loss(index: int) -> dict[str, Tensor]:
        generator = torch.Generator(device).manual_seed(index)
        crops = datasets.random_crops(pool, args.batch, CROP, generator, zoom=ZOOM, contrast=0.05)
        crops = contrast.clarify(crops)  # as `onepass.apply` shows them
        if args.own_hues:
            recoloured = in_own_hues(crops, sample)
        elif args.luma:
            recoloured = in_palette(crops, sample, args.luma)
        else:
            recoloured = affine(crops, *transport(moments(crops), palette)).clamp(0, 1)
        seen, extra = crops, {}
        if args.motion:
            moves = flow.wander(len(crops), CROP, CROP, generator)
            noise = torch.randn(crops.shape, generator=generator, device=device)
            seen = torch.cat([crops, onepass_training.moved(crops, moves, noise)])
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            painted = network(seen, grain=GRAIN)
            if args.motion:
                painted, again = painted.split(len(crops))
                extra["motion"] = args.motion * onepass_training.unsteadiness(painted, again, moves)
            if args.halos:
                extra["halos"] = args.halos * halos.found(painted, crops).square().mean()
            if args.weave:
                extra["weave"] = args.weave * halos.weave(painted, crops)
            saved = painted.detach().clamp(0, 1)
            found = teachers(painted + (saved - painted).detach())  # as it is saved; the gradient passes unchanged
            with torch.no_grad():
                wanted = teachers(recoloured, tuple(content))
        first, middle, last = args.strengths
        done = 2 * index / args.steps
        strength = middle * (first / middle) ** max(0.0, 1 - done) * (last / middle) ** max(0.0, done - 1)
        return {
            "content": content_term(found, wanted, content, args.focus),
            "style": strength * style_term(found, goals, style),
            "outside": 5 * (painted - saved).square().mean(),
            "smoothness": recipe.smoothness * losses.total_variation(painted),
            "lattice": recipe.lattice * losses.lattice(painted),
            **extra,
        }

    checkpoint = args.out / f"{name}.resume"
    state = None
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        averaged.load_state_dict(state["averaged"])
    steps = fitting.fit(network, loss, steps=args.steps, rate=args.rate, warmup=50, state=state)
    for step in track(steps, total=args.steps):
        averaged.update_parameters(network)
        if step.index % EVERY and step.index < step.total:
            continue
        print(name, step.index, {term: round(float(value), 3) for term, value in step.terms.items()}, flush=True)
        with files.atomic(checkpoint) as part:
            torch.save({**step.state(), "averaged": averaged.state_dict()}, part)
    refined = onepass.require_network(onepass.load(name), name)
    with torch.no_grad():
        for weight, trained in zip(refined.parameters(), averaged.module.parameters(), strict=True):
            weight.lerp_(trained.to(weight.device), args.share)
    options = ("steps", "batch", "rate", "strengths", "detailed", "luma", "own_hues", "focus")
    options += ("motion", "halos", "weave", "share")
    facts = {option: getattr(args, option) for option in options}
    earlier = json.loads(model.metadata.get("refined", "[]"))
    metadata = {**model.metadata, "refined": json.dumps([*earlier, facts])}
    metadata.pop("sha256", None)  # of the file before
    photograph = images.to_size(images.to_tensor(bundled.locate("chelsea")), 256)
    images.write(args.out / f"{name}.jpg", onepass.apply(photograph, Model(refined, metadata)))
    with files.atomic(args.out / f"{name}.safetensors") as part:  # last: the next run starts from this file
        onepass.save(part, refined, metadata)
    checkpoint.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paintings = {name: painting for group in PAINTINGS.values() for name, painting in group.items()}
    parser.add_argument("styles", nargs="+", choices=paintings)
    parser.add_argument("--assets", type=Path, required=True, help="holds styles/, photos/ and teachers/")
    parser.add_argument("--out", type=Path, default=Path("impasto/models/styles"))
    parser.add_argument("--steps", type=int, default=1350)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--detailed", action="store_true")
    parser.add_argument(
        "--luma", type=float, default=0.0, help="how much luma counts where hues are matched, 0.3 to 1; 0: not matched"
    )
    parser.add_argument("--focus", type=float, default=0.0, help="0: the content counts equally everywhere; -1 to 1")
    parser.add_argument("--motion", type=float, default=0.0, help="weight of the difference after a motion")
    parser.add_argument("--halos", type=float, default=0.0, help="weight of the squared halos")
    parser.add_argument("--weave", type=float, default=0.0, help="weight of fine marks in even areas")
    parser.add_argument("--own-hues", action="store_true", help="the content keeps the photograph's hues")
    parser.add_argument(
        "--strengths", type=float, nargs=3, default=(25.0, 8.0, 3.2),
        help="weight of the style in the first step, in the middle and in the last step: shapes first",
    )  # fmt: skip
    parser.add_argument(
        "--share", type=float, default=1.0, help="how much of the change of the weights is kept: 0 none, 1 all"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = machine.pick_device(args.device)
    pool = datasets.load(datasets.pictures(args.assets / "photos"), side=640, short=448).to(device)
    teachers = Teachers(args.assets / "teachers").to(device)
    for name in args.styles:
        refine(name, paintings[name], pool, teachers, args)


if __name__ == "__main__":
    main()
