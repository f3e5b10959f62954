"""Runs of training and applying one-pass networks, with progress, previews, receipts, resuming and Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed

from impasto import bundled, datasets, fitting, images, machine, onepass, schema, video
from impasto.errors import DivergedError, ImageError, IncompleteError, InputError, Stopped
from impasto.networks import Network
from impasto.onepass import Model
from impasto.recipes import Training
from impasto.runs import receipts, terminal

EVERY = 200  # steps between previews, and between checkpoints
PHOTOGRAPHS = 2000  # the most that a training uses: they are kept in memory, 1.2 MB each


def train(style: str, photos: Path, out: Path, recipe: Training, *, device: str, quiet: bool, resume: bool) -> None:
    """Train a network and write it, with a preview and a checkpoint next to it during training.

    Under torchrun each process computes a part of every batch, and the first one writes.

    Raises:
        InputError: the folder has no pictures, or the checkpoint is from another training.
        DivergedError: the loss is not finite; such weights are never written.
        Stopped: after Ctrl-C; the network so far has been written.
    """
    schema.check(recipe)
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise InputError(f"{out}: the output must be a .safetensors file in an existing folder")
    painting = images.read(bundled.locate(style))
    network = onepass.begin(recipe)
    with processes(machine.pick_device(device)) as target:
        quiet = quiet or not first()
        terminal.fetch_encoder(recipe.encoder, quiet=quiet)
        pool = read_photographs(photos, quiet=quiet)
        recorded = replace(recipe, start=Path(recipe.start).stem)
        card = receipts.card(receipts.build("train", style=painting, recipe=recorded, photographs=len(pool)))
        checkpoint = out.with_suffix(".resume")
        state = load_checkpoint(checkpoint, card) if resume and checkpoint.exists() else None
        photograph = images.to_size(images.read(bundled.locate("chelsea")).image, recipe.style_size).to(target)
        stopped = last = None
        with (
            terminal.progress(recipe.steps, quiet=quiet, label="training") as report,
            terminal.interruption() as interrupted,
        ):
            for step in onepass.train(painting.image.to(target), pool.to(target), recipe, network=network, state=state):
                last = step
                if step.index % 10 == 0:
                    report(step.index, ", ".join(f"{name} {float(term):.3g}" for name, term in step.terms.items()))
                if interrupted():
                    stopped = f"stopped at step {step.index} of {step.total}"
                # Skip weights that are not finite: the next check of the loss restores earlier ones.
                if first() and (stopped or step.index % EVERY == 0):
                    with suppress(DivergedError):
                        save(out, checkpoint, network, card, step)
                        preview = onepass.apply(photograph, Model(network, card))
                        images.write(out.with_suffix(".png"), preview.cpu())
                if stopped:
                    raise Stopped(stopped)
        if first():
            if pool.replaced["flat"]:
                terminal.note(f"{pool.replaced['flat']} crops without contrast were replaced")
            if last is not None:
                save(out, checkpoint, network, card, last)
            checkpoint.unlink(missing_ok=True)


def read_photographs(folder: Path, *, quiet: bool) -> datasets.Pool:
    """Load at most `PHOTOGRAPHS` pictures of a folder, evenly chosen; InputError if there are none."""
    found = datasets.pictures(folder)
    stride = max(1, -(-len(found) // PHOTOGRAPHS))
    chosen = found[::stride]
    with terminal.progress(len(chosen), quiet=quiet or not chosen, label="reading") as report:
        pool = datasets.load(chosen, side=640, short=448, contrast=datasets.FLAT, report=report)
    if not len(pool):
        what = "no picture with contrast" if pool.flat else "no picture"
        fault = f"{what} to train on" if folder.is_dir() else "not a folder; check the path"
        raise InputError(f"{folder}: {fault}")
    if stride > 1 and first():
        terminal.note(f"{len(found)} pictures found; one in {stride} is used, which is enough")
    if pool.skipped and first():
        terminal.note(f"{len(pool.skipped)} of {len(chosen)} pictures could not be read")
    if pool.flat and first():
        terminal.note(f"{len(pool.flat)} of {len(chosen)} pictures have no contrast and are skipped")
    return pool


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the processes started by torchrun, if any; yields the device of this process."""
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def first() -> bool:
    """Whether this is the only process, or torchrun's first: only that one writes files and messages."""
    return int(os.environ.get("RANK", 0)) == 0


def save(out: Path, checkpoint: Path, network: Network, card: dict[str, str], step: fitting.TrainingStep) -> None:
    with images.atomic(out) as part:
        onepass.save(part, network, {**card, "steps": str(step.index)})
    receipts.save_state(checkpoint, {**step.state(), "card": card})


def load_checkpoint(path: Path, card: dict[str, str]) -> dict[str, Any]:
    """Load the checkpoint of the training that ``card`` describes; InputError for any other file."""
    try:
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
        theirs = state.pop("card")
    except Exception:
        raise InputError(f"{path}: not a checkpoint of impasto train; remove it to start again") from None
    if theirs != card:
        raise InputError(f"{path}: from a training with other settings or another style")
    return state


@dataclass(frozen=True)
class Painter:
    """Repaints pictures, all with the same styles and settings.

    Attributes:
        models, parts: the styles and their weights in the mixture.
        strength, keep_colors, grain, size: as `onepass.apply` takes them.
        device: where to compute.
    """

    models: Sequence[Model]
    parts: Sequence[float]
    strength: float
    keep_colors: Literal["none", "luma", "histogram"]
    device: torch.device
    grain: float | None = None
    size: int | None = None

    def __call__(self, image: Tensor) -> Tensor:
        painted = onepass.apply(
            image.to(self.device), self.models, style_weights=self.parts, strength=self.strength,
            keep_colors=self.keep_colors, grain=self.grain, size=self.size,
        )  # fmt: skip
        return painted.cpu()

    def file(self, path: Path, out: Path) -> None:
        """Repaint a picture file and store the receipt in the result."""
        picture = images.read(path)
        painted, receipt = self(picture.image), self.receipt(picture)
        alpha = None if picture.alpha is None else images.resize(picture.alpha, *painted.shape[-2:])
        images.write(out, painted, alpha=alpha, profile=picture.profile, receipt=receipt)

    def receipt(self, picture: images.Picture) -> dict[str, Any]:
        """Everything that determines the repainted picture."""
        return receipts.build(
            "apply", models=[dict(model.metadata) for model in self.models], style_weights=self.parts,
            strength=self.strength, keep_colors=self.keep_colors, grain=self.grain, size=self.size,
            content=picture,
        )  # fmt: skip


def apply(source: str, out: Path, painter: Painter, *, quiet: bool, resume: bool) -> None:
    """Repaint a picture, a video, or every picture below a folder, in one pass each.

    Raises:
        IncompleteError: some pictures of the folder could not be read; the others are done.
        Stopped: after Ctrl-C; finished pictures are kept.
    """
    path = bundled.locate(source)
    if path.is_dir():
        _folder(path, out, painter, quiet=quiet, resume=resume)
    elif path.suffix.lower() in video.SUFFIXES:
        _film(path, out, painter, quiet=quiet)
    else:
        images.check_output(out)
        painter.file(path, out)


def _film(path: Path, out: Path, painter: Painter, *, quiet: bool) -> None:
    video.check_output(out)
    started = time.monotonic()
    with (
        terminal.progress(None, quiet=quiet, label="repainting") as report,
        terminal.interruption() as interrupted,
    ):
        for done, total in video.repaint(path, out, painter):
            report(done, f"{done / (time.monotonic() - started):.2g} frames per second", total or None)
            if interrupted():
                raise Stopped(f"stopped after {done} frames, saved in {out}")


def _folder(folder: Path, out: Path, painter: Painter, *, quiet: bool, resume: bool) -> None:
    todo = list(jobs(folder, out, resume=resume))
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: the output for a folder must be a folder, not a file")
    broken = []
    with (
        terminal.progress(len(todo), quiet=quiet, label="repainting") as report,
        terminal.interruption() as interrupted,
    ):
        for done, (path, to) in enumerate(todo, 1):
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                painter.file(path, to)
            except ImageError as error:
                broken.append(str(error))
            report(done, path.name)
            if interrupted():
                raise Stopped(f"stopped after {to.name}; continue with `resume`")
    for complaint in broken:
        print(f"impasto: {complaint}", file=sys.stderr)
    if broken:
        raise IncompleteError(f"{len(broken)} of {len(todo)} pictures could not be repainted (named above)")


def jobs(folder: Path, out: Path, *, resume: bool) -> Iterator[tuple[Path, Path]]:
    """Each picture of a folder and the path of its result: the same relative path below ``out``."""
    for path in datasets.pictures(folder):
        if out.resolve() in path.resolve().parents:
            continue  # results of an earlier run
        to = out / path.relative_to(folder)
        to = to if to.suffix.lower() in images.FORMATS else to.with_name(f"{to.name}.png")  # keeps a.bmp, a.gif apart
        if not (resume and to.exists()):
            yield path, to
