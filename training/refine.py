"""Train bundled one-pass networks further, one at a time, with the features of the original VGG-19.

    python training/refine.py --assets DIR STYLE [STYLE ...] [--steps 1500] [--strengths 25 8 3.2] [--detail 0]
        [--share 1] [--out impasto/models/styles]

`styles.py` trains all styles together, with the compact encoder's features. Those pictures lost against published ones:
edges had halos, and even areas were embossed instead of painted. Two things differ here:

- Style and content up to relu3_1 are measured on the original VGG-19 (`teachers/`), deeper ones on the compact encoder.
- Content is the relative squared error instead of that of normalised features. Even areas such as skies have weak
  features, so the painting's shapes may enter them; edges have strong ones, so they stay. Since this error also counts
  colours, it is taken to the photograph in the painting's colours.

With a --share below 1, what is written lies between the network before and after: a share of 0.6 brought faces back
that the trained network had lost (Wortsman2022).

An interrupted training resumes from its checkpoint in --out.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import track
from styles import PAINTINGS, Painting
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from impasto import (
    bundled,
    datasets,
    encoder,
    files,
    fitting,
    images,
    losses,
    objective,
    onepass,
    onepass_training,
    optimize,
)
from impasto.moments import affine, moments, transport
from impasto.objective import Objective
from impasto.onepass import Model
from impasto.recipes import Training, Transfer

EVERY = 100  # steps between two checkpoints
CROP = 256  # pixels
ZOOM = (0.58, 0.9)  # a crop shows most of a photograph, as a picture does when the network is applied
CONTENT = {"relu3_1": 0.4, "relu4_2": 1.0}
STYLE = {"relu1_1": 0.3, "relu2_1": 0.9, "relu3_1": 1.3, "relu4_1": 1.3, "relu5_1": 1.2}
GRAIN = 0.1


def build(network: encoder.VGG, layers: set[str], contents: dict[str, float], painting: Tensor) -> Objective:
    """The part of the objective that is measured on some layers of an encoder, with a style weight of 1."""
    content, style = ({layer: w for layer, w in all_.items() if layer in layers} for all_ in (contents, STYLE))
    recipe = Transfer(
        content_layers=tuple(content), content_layer_weights=tuple(content.values()), content_term="relative",
        content_weight=1 / sum(contents.values()), style_layers=tuple(style), layer_weights=tuple(style.values()),
        style_term="bounded", style_weight=1.0, smoothness=0.0,
    )  # fmt: skip
    return objective.build(network, recipe, painting.new_zeros(1, 3, CROP, CROP), [painting])


def refine(name: str, painting: Painting, pool: datasets.Pool, args: argparse.Namespace) -> None:
    """Train one style's network and write it."""
    model = onepass.load(name)
    network = onepass.require_network(model, name).requires_grad_(True)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    content = {"relu2_1": args.detail, **CONTENT} if args.detail else CONTENT
    recipe = Training(steps=args.steps, rate=1.5e-3, start="", style_size=painting.size, descreen=painting.descreen,
                      crop=CROP, batch=1, grain=GRAIN, smoothness=1.0)  # fmt: skip
    source = images.read(args.assets / "styles" / painting.file)
    target = onepass_training.prepare_style(source.image, recipe)
    teacher = encoder.load(str(args.assets / "teachers" / "vgg19_conv1_1_to_conv3_4_caffe.safetensors"))
    shallow = {"relu1_1", "relu2_1", "relu3_1"}
    deep = {*STYLE, *CONTENT} - shallow
    goals = [build(teacher, shallow, content, target), build(encoder.load("compact"), deep, content, target)]
    palette = moments(target)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.995))

    def loss(index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        crops = datasets.random_crops(pool, recipe.batch, CROP, generator, zoom=ZOOM, contrast=0.05)
        with torch.autocast("cpu", torch.bfloat16):
            painted = network(crops.contiguous(memory_format=torch.channels_last), grain=GRAIN)
        first, middle, last = args.strengths
        done = 2 * index / args.steps
        strength = middle * (first / middle) ** max(0.0, 1 - done) * (last / middle) ** max(0.0, done - 1)
        recoloured = affine(crops, *transport(moments(crops), palette)).clamp(0, 1)
        gradient, terms = torch.zeros_like(painted), {"content": 0.0, "style": 0.0}
        for goal in goals:
            current = replace(goal, recipe=replace(goal.recipe, strength=strength))
            some, slope = objective.for_content(current, recoloured)(painted.clamp(0, 1))
            gradient += slope
            terms = {term: value + float(some[term]) for term, value in terms.items()}
        optimize.inward_(gradient, painted)
        values = {term: torch.tensor(value) for term, value in terms.items()}
        values["content"] = values["content"] + optimize.handed_on(gradient, painted)
        values["smoothness"] = recipe.smoothness * losses.total_variation(painted)
        values["lattice"] = recipe.lattice * losses.lattice(painted)
        return values

    checkpoint = args.out / f"{name}.resume"
    state = None
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        averaged.load_state_dict(state["averaged"])
    for step in track(fitting.fit(network, loss, steps=args.steps, rate=recipe.rate, warmup=50, state=state)):
        averaged.update_parameters(network)
        if step.index % EVERY and step.index < step.total:
            continue
        print(name, step.index, {term: round(float(value), 3) for term, value in step.terms.items()}, flush=True)
        with files.atomic(checkpoint) as part:
            torch.save({**step.state(), "averaged": averaged.state_dict()}, part)
    refined = onepass.require_network(onepass.load(name), name)
    with torch.no_grad():
        for weight, trained in zip(refined.parameters(), averaged.module.parameters(), strict=True):
            weight.lerp_(trained, args.share)
    facts = {
        "steps": args.steps,
        "strengths": args.strengths,
        "detail": args.detail,
        "encoder": "vgg19 to relu3_1, compact from relu4_1",
        "share": args.share,
    }
    with files.atomic(args.out / f"{name}.safetensors") as part:
        onepass.save(part, refined, {**model.metadata, "refined": json.dumps(facts)})
    photograph = images.to_size(images.to_tensor(bundled.locate("chelsea")), 256)
    images.write(args.out / f"{name}.jpg", onepass.apply(photograph, Model(refined, {}), grain=GRAIN))
    checkpoint.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paintings = {name: painting for group in PAINTINGS.values() for name, painting in group.items()}
    parser.add_argument("styles", nargs="+", choices=paintings)
    parser.add_argument("--assets", type=Path, required=True, help="holds styles/, photos/ and teachers/")
    parser.add_argument("--out", type=Path, default=Path("impasto/models/styles"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--share", type=float, default=1.0, help="how much of the change of the weights is kept: 0 none, 1 all"
    )
    parser.add_argument(
        "--strengths", type=float, nargs=3, default=(25.0, 8.0, 3.2),
        help="weight of the style in the first step, in the middle and in the last step: shapes first",
    )  # fmt: skip
    parser.add_argument("--detail", type=float, default=0.0, help="weight of relu2_1 in the content, for sharp windows")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pool = datasets.load(datasets.pictures(args.assets / "photos"), side=640, short=448)
    for name in args.styles:
        refine(name, paintings[name], pool, args)


if __name__ == "__main__":
    main()
