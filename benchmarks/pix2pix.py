"""Seconds per training step of pix2pix, ours and a plain eager implementation in float32, in one process.

    python benchmarks/pix2pix.py [--width 64] [--size 256] [--rounds 3] [--threads 1]

Both have the paper's networks, losses and optimiser, and see the same pairs. The plain one is the textbook loop:
float32, contiguous tensors, torch.optim.Adam as it is. Steps alternate; the best of the rounds counts, because other
work on the machine only adds time. "cpu" is the processor's time, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import fitting, pix2pix_training
from impasto.generators import PatchGAN
from impasto.pairs import Pairs
from impasto.recipes import Translation


class Noise(Pairs):
    """Random pairs, so that reading takes no time."""

    def draw(self, index: int, batch: int, crop: int, *, mirror: bool, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        source, target = (torch.rand(batch, 3, crop, crop, generator=generator) * 2 - 1 for _ in range(2))
        return source, target


def plain(recipe: Translation, pairs: Pairs) -> Callable[[int], None]:
    """A step of the textbook implementation."""
    network, critic = pix2pix_training.begin(recipe), PatchGAN(6, recipe.critic_width)
    ours, theirs = (torch.optim.Adam(each.parameters(), lr=2e-4, betas=(0.5, 0.999)) for each in (network, critic))

    def judged(logits: Tensor, goal: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, goal))

    def step(index: int) -> None:
        source, target = pairs.draw(index, recipe.batch, recipe.crop, mirror=False, seed=0)
        output = network(source)
        theirs.zero_grad()
        real, fake = critic(torch.cat([source, target], 1)), critic(torch.cat([source, output.detach()], 1))
        (0.5 * (judged(real, 1.0) + judged(fake, 0.0))).backward()
        theirs.step()
        critic.requires_grad_(False)
        ours.zero_grad()
        (judged(critic(torch.cat([source, output], 1)), 1.0) + 100 * F.l1_loss(output, target)).backward()
        ours.step()
        critic.requires_grad_(True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = replace(
        Translation(), generator=f"unet{args.size}", width=args.width, critic_width=args.width, crop=args.size,
        load=args.size, steps=1_000_000,
    )  # fmt: skip
    pairs = Noise([])
    steps = pix2pix_training.train(pairs, recipe, network=pix2pix_training.begin(recipe))
    textbook = plain(recipe, pairs)
    next(steps)  # the first step also copies the weights, in case the loss is not finite
    textbook(0)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}

    def timed(name: str, step: Callable[[], fitting.TrainingStep | None]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        found[name].append((time.perf_counter() - wall, time.process_time() - cpu))

    for index in range(args.rounds):
        timed("plain", lambda index=index: textbook(index + 1))  # type: ignore[misc]
        timed("ours", lambda: next(steps))
    best = {name: [min(column) for column in zip(*times, strict=True)] for name, times in found.items()}
    for name, (wall, cpu) in best.items():
        print(f"{name:6} {wall:.2f} s wall, {cpu:.2f} s cpu a step")
    print(f"ratio  {best['plain'][0] / best['ours'][0]:.2f} wall, {best['plain'][1] / best['ours'][1]:.2f} cpu")


if __name__ == "__main__":
    main()
