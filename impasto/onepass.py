"""Training and applying one-pass networks, with all that a person expects around them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import impasto
from impasto import color, datasets, feedforward, images, machine, pictures, recipes, session, training
from impasto.feedforward import Model
from impasto.recipes import RecipeError, Training

EVERY = 200  # steps between two previews, and two checkpoints


class Failed(Exception):
    """Some pictures of many could not be done; the others are."""


def train(style: str, photos: Path, out: Path, recipe: Training, *, device: str, quiet: bool, resume: bool) -> None:
    """Train a network and write it, with a preview and a checkpoint beside it on the way.

    Raises:
        RecipeError: the folder holds no picture, or another training's checkpoint lies there.
        Stopped: after Ctrl-C; the network so far has been written.
    """
    recipes.check_training(recipe)
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise RecipeError(f"{out}: a network is written to a .safetensors file in a folder that exists")
    painting = images.read(pictures.locate(style))
    session.fetch_encoder(recipe.encoder, quiet=quiet)
    target = machine.pick_device(device)
    paths = datasets.pictures(photos)
    pool = datasets.load(paths, side=640, short=448)
    if not len(pool):
        raise RecipeError(f"{photos}: no picture in it to train on")
    if pool.skipped:
        print(f"impasto: note: {len(pool.skipped)} of {len(paths)} pictures could not be read", file=sys.stderr)
    card = {
        "impasto": impasto.__version__,
        "style": json.dumps({"name": Path(painting.name).name, "sha256": painting.sha256}),
        "recipe": json.dumps(recipes.to_json(recipe)),
        "photographs": str(len(pool)),
    }
    checkpoint = out.with_suffix(".resume")
    state: dict[str, Any] | None = None
    if resume and checkpoint.exists():
        try:
            state = dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
            theirs = state.pop("card")
        except Exception:
            raise RecipeError(f"{checkpoint}: not a checkpoint of impasto train; remove it to begin anew") from None
        if theirs != card:
            raise RecipeError(f"{checkpoint}: of a training with other settings, or another style")
    network = feedforward.Network()
    photograph = images.to_size(images.read(pictures.locate("chelsea")).image, recipe.style_size)
    stopped = last = None
    with (
        session.progress(recipe.steps, quiet=quiet, label="training") as report,
        session.interruption() as interrupted,
    ):
        for step in feedforward.train(painting.image.to(target), pool.to(target), recipe, network=network, state=state):
            last = step
            if step.index % 10 == 0:
                report(step.index, step.loss, recipe.crop)
            if interrupted():
                stopped = f"stopped at step {step.index} of {step.total}"
            if stopped or step.index % EVERY == 0:
                save(out, checkpoint, network, card, step)
                preview = feedforward.apply(Model(network, card), photograph.to(target))
                images.write(out.with_suffix(".png"), preview.cpu())
            if stopped:
                raise session.Stopped(stopped)
    if last is not None:
        save(out, checkpoint, network, card, last)
    checkpoint.unlink(missing_ok=True)


def save(out: Path, checkpoint: Path, network: feedforward.Network, card: dict[str, str], step: training.Step) -> None:
    with images.atomic(out) as part:
        feedforward.save(part, network, {**card, "steps": str(step.index)})
    with images.atomic(checkpoint) as part:
        torch.save({**step.state(), "card": card}, part)


def apply(
    source: str, style: Path, out: Path, *, strength: float, keep_colors: bool, device: str, quiet: bool, resume: bool
) -> None:
    """Repaint a picture, or every picture below a folder, in one pass each.

    Raises:
        Failed: pictures of the folder could not be read; the others are done.
    """
    if not 0 <= strength <= 1:
        raise RecipeError(f"--strength must lie between 0 (the photograph) and 1 (the full style), not {strength:g}")
    model = feedforward.load(style)
    target = machine.pick_device(device)
    model.network.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def repaint(path: Path, to: Path) -> None:
        picture = images.read(path)
        photograph = picture.image.to(target)
        painted = feedforward.apply(model, photograph, strength=strength)
        if keep_colors:
            painted = color.keep_luma(photograph, painted)
        receipt = {
            "impasto": impasto.__version__,
            "command": "apply",
            "model": dict(model.metadata),
            "strength": strength,
            "content": {"name": path.name, "sha256": picture.sha256},
        }
        images.write(to, painted.cpu(), alpha=picture.alpha, profile=picture.profile, receipt=receipt)

    folder = Path(source)
    if not folder.is_dir():
        images.check_output(out)
        repaint(pictures.locate(source), out)
        return
    failed = 0
    todo = list(jobs(folder, out, resume=resume))
    with session.interruption() as interrupted:
        for path, to in track(todo, "repainting", console=session.STDERR, disable=quiet):
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                repaint(path, to)
            except images.ImageError as error:
                failed += 1
                print(f"impasto: {error}", file=sys.stderr)
            if interrupted():
                raise session.Stopped(f"stopped after {to.name}; --resume goes on from there")
    if failed:
        raise Failed(f"{failed} of the pictures could not be repainted (named above)")


def jobs(folder: Path, out: Path, *, resume: bool) -> Iterator[tuple[Path, Path]]:
    """Each picture of a folder and where its repainting goes: the same place below ``out``."""
    for path in datasets.pictures(folder):
        if out.resolve() in path.resolve().parents:
            continue  # results of an earlier run
        to = out / path.relative_to(folder)
        to = to if to.suffix.lower() in images.FORMATS else to.with_suffix(".png")
        if not (resume and to.exists()):
            yield path, to
