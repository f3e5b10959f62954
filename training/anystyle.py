"""Train the network of any painting.

    python training/anystyle.py --assets DIR [--out impasto/models/any-style.safetensors] [--steps N] [--device D]
        [--start bundled] [--share 1] [--coherence 1] [--adain]

The decoder first learns to reproduce pictures, then to paint photographs with the statistics of paintings; every tenth
step stays a reproduction. As in `refine.py`, the loss sees the original VGG-19 up to relu3_1, content is the relative
squared error, and the photograph is first taken to the painting's colours. An interrupted training resumes from its
checkpoint; with --start bundled, the embedded network is trained further, and with a --share below 1 the result lies
between the network before and after. --coherence adds a term of
neighbouring places (Wu2022). --adain trains the baseline: means and deviations of relu4_1 only (`adain.py`).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from adain import AdaIN
from averaging import averaged as moving_average
from rich.progress import track
from teachers import content_term, style_term
from torch import Tensor
from torch.nn import functional as F

import impasto
from impasto import anystyle, datasets, encoder, files, fitting, losses, machine, networks, optimize
from impasto.anystyle import Canvas, Decoder, Style
from impasto.encoder import VGG, Frozen
from impasto.moments import Moments, affine, moments, transport

CONTENT = {"relu3_1": 0.4, "relu4_2": 1.0}  # layers and their weights
STYLE = {"relu1_1": 0.3, "relu2_1": 1.0, "relu3_1": 1.4, "relu4_1": 1.1, "relu5_1": 0.8}
REPRODUCED = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
SHALLOW = ("relu1_1", "relu2_1", "relu3_1")  # measured on the original VGG-19
STRENGTHS = (6.0, 3.0)  # weight of the style in the first and in the last step: shapes first
CROP, GRAIN = 192, 0.08
BEGINNING = 0.15  # fraction of the steps that only reproduce, from random weights
EVERY = 50  # steps between two checkpoints
COHERENT = ("relu2_1", "relu3_1", "relu4_1")
ANCHORS, TEMPERATURE = 8, 0.07  # of `coherence`

Terms = dict[str, Tensor]


class Trainer:
    """The loss of a step, by its index."""

    def __init__(
        self, decoder: Decoder, pools: tuple[datasets.Pool, datasets.Pool], teacher: VGG, *,
        steps: int, beginning: int, batch: int, strengths: tuple[float, float], coherence: float = 0.0,
        canvas: type[Canvas] = Canvas,
    ) -> None:  # fmt: skip
        self.decoder, self.pools, self.steps, self.beginning, self.batch = decoder, pools, steps, beginning, batch
        self.strengths, self.coherence, self.canvas = strengths, coherence, canvas
        self.device = pools[0].canvas.device
        self.half = machine.precision("auto", self.device) == torch.bfloat16
        vgg, dtype = encoder.load("compact").to(self.device), torch.bfloat16 if self.half else torch.float32
        self.frozen = Frozen(vgg, {*CONTENT, *STYLE}, dtype)
        deep = {*CONTENT, *STYLE}.difference(SHALLOW)
        self.measures = [Frozen(teacher.to(self.device), SHALLOW, dtype), Frozen(vgg, deep, dtype)]
        for parameter in decoder.parameters():  # where features hardly vary, a gradient may not be finite
            parameter.register_hook(lambda gradient: gradient.nan_to_num(0.0, 0.0, 0.0))

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """The features that the decoder paints."""
        return {layer: x.float() for layer, x in self.frozen.forward(image).features.items()}

    def measured(self, image: Tensor) -> dict[str, Tensor]:
        """The features that the loss compares."""
        return {layer: x.float() for each in self.measures for layer, x in each.forward(image).features.items()}

    def style_of(self, image: Tensor, features: Mapping[str, Tensor]) -> Style:
        return self.decoder.style_of(image, {layer: features[layer] for layer in STYLE})

    @torch.no_grad()
    def calibrate(self, batches: int = 16) -> None:
        """Measure the units of the encoder's channels, and those of the paintings' vectors."""
        generator = torch.Generator(self.device).manual_seed(5)
        crops = [
            datasets.random_crops(pool, 6, CROP, generator, zoom=(0.6, 2.0))
            for pool in self.pools
            for _ in range(batches)
        ]
        found = [self.features(crop) for crop in crops]
        for layer in STYLE:
            mean = torch.stack([x[layer].mean((0, 2, 3)) for x in found]).mean(0)
            square = torch.stack([x[layer].square().mean((0, 2, 3)) for x in found]).mean(0)
            deviation = (square - mean.square()).clamp_min(0).sqrt()
            getattr(self.decoder, f"{layer}_mean").copy_(mean)
            getattr(self.decoder, f"{layer}_scale").copy_(1 / deviation.clamp_min(0.05 * deviation.mean()))
        pairs = list(zip(crops, found, strict=True))[batches:]
        vectors = torch.cat([self.style_of(crop, features).vector for crop, features in pairs])
        self.decoder.vector_mean.copy_(vectors.mean(0))
        self.decoder.vector_scale.copy_(1 / vectors.std(0).clamp_min(1e-2))

    def __call__(self, index: int) -> Terms:
        generator = torch.Generator(self.device).manual_seed(7_000_003 + index)
        photographs, paintings = (
            datasets.random_crops(pool, self.batch, CROP, generator, zoom=zoom, contrast=0.02)
            for pool, zoom in zip(self.pools, ((0.6, 1.4), (0.6, 2.0)), strict=True)
        )
        chance = torch.rand(4, self.batch, generator=generator, device=self.device)
        paintings = turn_hues(paintings, torch.where(chance[0] < 0.3, 2 * math.pi * chance[1], 0.0))
        beginning = index < self.beginning
        if beginning or index % 10 == 0:
            picture = torch.where(chance[2, :, None, None, None] < 0.5, photographs, paintings)
            return self.reproduce(picture, 1.0 if beginning else 0.5)
        first, last = self.strengths
        strength = first * (last / first) ** ((index - self.beginning) / (self.steps - self.beginning))
        return self.repaint(photographs, paintings, torch.where(chance[2] < 0.15, chance[3], 1.0), strength)

    def reproduce(self, picture: Tensor, weight: float) -> Terms:
        """A picture, from its own statistics."""
        with torch.no_grad():
            features, target = self.features(picture), self.measured(picture)
            style = self.style_of(picture, features)
        canvas = self.canvas(self.decoder, style, half=self.half)
        painted = canvas.paint(features)

        def loss(found: Mapping[str, Tensor]) -> Terms:
            errors = [losses.content_loss(found[layer], target[layer], "relative") for layer in REPRODUCED]
            return {"features": 10 * torch.stack(errors).sum()}

        terms, carried = self.measure(painted, loss)
        rough = (canvas.rough - self.decoder.units("relu2_1", features["relu2_1"])).square().mean()
        pixels = (painted - picture).square().mean()
        return {
            "reproduced": weight * (terms["features"] + carried),
            "pixels": 20 * weight * pixels,
            "rough": (0.3 if weight == 1 else 0.0) * rough,
        }

    def repaint(self, photographs: Tensor, paintings: Tensor, kept: Tensor, strength: float) -> Terms:
        """Photographs with the statistics of paintings; of ``kept`` below 1, mixed with the next painting's."""
        with torch.no_grad():
            noisy = networks.uneven_((2 * photographs).sub_(1), GRAIN).add_(1).div_(2)
            style = collage(self.style_of(paintings, self.features(paintings)), kept)
            share = kept[:, None, None]
            goals = {layer: losses.gram(x) for layer, x in self.measured(paintings).items() if layer in STYLE}
            goals = {layer: share * gram + (1 - share) * gram.roll(1, 0) for layer, gram in goals.items()}
            recoloured = affine(photographs, *transport(moments(photographs), style.moments["rgb"])).clamp(0, 1)
            content = self.measured(recoloured)
        painted = self.canvas(self.decoder, style, half=self.half).paint(self.features(noisy))

        def loss(found: Mapping[str, Tensor]) -> Terms:
            terms = {
                "content": content_term(found, content, CONTENT),
                "style": strength * style_term(found, goals, STYLE),
            }
            if self.coherence:
                parts = [coherence(found[layer], content[layer]) for layer in COHERENT]
                terms["coherence"] = self.coherence * torch.stack(parts).mean()
            return terms

        terms, carried = self.measure(painted, loss)
        return {
            **terms,
            "content": terms["content"] + carried,
            "outside": 5 * (painted - painted.detach().clamp(0, 1)).square().mean(),
            "smooth": losses.total_variation(painted) + 300 * losses.lattice(painted),
        }

    def measure(self, painted: Tensor, loss: Callable[[Mapping[str, Tensor]], Terms]) -> tuple[Terms, Tensor]:
        """The terms of a loss of the picture's features, as it will be saved, and what carries their gradient."""
        records = [each.forward(painted.detach().clamp(0, 1)) for each in self.measures]
        leaves = {layer: x.float().requires_grad_() for record in records for layer, x in record.features.items()}
        terms = loss(leaves)
        torch.stack([*terms.values()]).sum().backward()

        def add(layer: str, gradient: Tensor) -> None:
            if (known := leaves[layer].grad) is not None:
                gradient.add_(known.to(gradient.dtype))

        gradient = torch.zeros_like(painted)
        for each, record in zip(self.measures, records, strict=True):
            gradient += each.backward(record, add)
        optimize.inward_(gradient, painted)
        return {name: x.detach() for name, x in terms.items()}, optimize.handed_on(gradient, painted)


def coherence(found: Tensor, wanted: Tensor) -> Tensor:
    """How badly differences of neighbouring places tell whose they are (Wu2022, equation 4, without projection).

    Args:
        found, wanted: features (B, C, H, W) of the painting and the photograph.

    Returns:
        The cross-entropy of recognising the photograph's difference at the same place among all others.
    """
    height, width = found.shape[-2:]
    lines = (torch.linspace(1, side - 2, ANCHORS).long() for side in (height, width))
    rows, columns = torch.cartesian_prod(*lines).T

    def differences(x: Tensor) -> Tensor:
        around = [
            x[:, :, rows + down, columns + along] - x[:, :, rows, columns]
            for down in (-1, 0, 1)
            for along in (-1, 0, 1)
            if down or along
        ]
        return F.normalize(torch.cat(around, 2), dim=1)

    likeness = torch.einsum("bci,bcj->bij", differences(found), differences(wanted)) / TEMPERATURE
    same = torch.arange(likeness.shape[1], device=found.device).expand(len(likeness), -1)
    return F.cross_entropy(likeness, same)


def collage(style: Style, kept: Tensor) -> Style:
    """Each painting's statistics, mixed with those of the next in the batch; ``kept`` is its own share, (B,)."""

    def mixed(x: Tensor) -> Tensor:
        share = kept.view(-1, *[1] * (x.ndim - 1))
        return share * x + (1 - share) * x.roll(1, 0)

    levels = {level: Moments(mixed(each.mean), mixed(each.second)) for level, each in style.moments.items()}
    return Style(levels, mixed(style.vector))


def turn_hues(image: Tensor, angles: Tensor) -> Tensor:
    """Turn the colours of (B, 3, H, W) around the axis of greys by (B,) radians."""
    axes = torch.tensor([[1, 1, 1], [1, -0.5, -0.5], [0, 0.866, -0.866]], device=image.device)
    turn = torch.eye(3, device=image.device).repeat(len(image), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = angles.cos()
    turn[:, 2, 1] = angles.sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    return torch.einsum("bij,bjhw->bihw", torch.linalg.inv(axes) @ turn @ axes, image).clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="holds photos/ and paintings/")
    parser.add_argument("--out", type=Path, default=Path("impasto/models/any-style.safetensors"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--start", choices=("random", "bundled"), default="random")
    parser.add_argument("--strengths", type=float, nargs=2, default=STRENGTHS, help="in the first and in the last step")
    parser.add_argument("--share", type=float, default=1.0, help="how much of the change of the weights is kept")
    parser.add_argument("--coherence", type=float, default=0.0, help="weight of the term of neighbouring places")
    parser.add_argument("--adain", action="store_true", help="train the baseline")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.share < 1 and args.start == "random":
        parser.error("--share needs --start bundled")
    device = machine.pick_device(args.device)
    photographs = datasets.load(datasets.pictures(args.assets / "photos"), side=480, short=288).to(device)
    paintings = datasets.load(datasets.pictures(args.assets / "paintings"), side=256, short=256).to(device)
    torch.manual_seed(0)
    decoder = Decoder()
    checkpoint = args.out.with_suffix(".resume")
    state: dict[str, Any] | None = None
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        decoder.load_state_dict(state["before"])
    elif args.start == "bundled":
        decoder.load_state_dict(anystyle.load()[0].decoder.state_dict())
    decoder.requires_grad_(True).to(device)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    beginning = round(BEGINNING * args.steps) if args.start == "random" else 0
    teacher = encoder.load(str(args.assets / "teachers" / "vgg19_conv1_1_to_conv3_4_caffe.safetensors"))
    pools = photographs, paintings
    trainer = Trainer(
        decoder, pools, teacher, steps=args.steps, beginning=beginning, batch=args.batch, strengths=args.strengths,
        coherence=args.coherence, canvas=AdaIN if args.adain else Canvas,
    )  # fmt: skip
    averaged = moving_average(decoder, 0.998)
    if state is not None:
        averaged.load_state_dict(state["averaged"])
    else:
        if args.start == "random":
            trainer.calibrate()
        averaged.module.load_state_dict(decoder.state_dict())
    card = {
        "impasto": impasto.__version__,
        "recipe": json.dumps({"grain": 0.0}),  # of `apply`: noise would show in even skies
        "photographs": str(len(photographs)),
        "paintings": str(len(paintings)),
    }
    with machine.reused_memory():
        steps = fitting.fit(decoder, trainer, steps=args.steps, rate=args.rate, warmup=100, state=state, retries=4)
        for step in track(steps, total=args.steps):
            averaged.update_parameters(decoder)
            if step.index % EVERY and step.index < step.total:
                continue
            print(step.index, ", ".join(f"{name} {float(term):.3f}" for name, term in step.terms.items()), flush=True)
            with files.atomic(checkpoint) as part:
                torch.save({**step.state(), "averaged": averaged.state_dict(), "before": before}, part)
            between = Decoder()
            after = averaged.module.state_dict()
            between.load_state_dict({name: old.lerp(after[name], args.share) for name, old in before.items()})
            with files.atomic(args.out) as part:
                anystyle.save(part, between, {**card, "steps": str(step.index), "share": str(args.share)})
    checkpoint.unlink()


if __name__ == "__main__":
    main()
