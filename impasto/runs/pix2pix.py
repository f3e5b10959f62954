"""Runs of pix2pix: training from pairs with previews and measurements, and applying to pictures, folders and videos."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from impasto import files, fitting, images, machine, pairs as pairing, pix2pix, pix2pix_training, schema, sheets, steady
from impasto.errors import InputError
from impasto.pairs import Pairs
from impasto.pix2pix import Model
from impasto.recipes import Translation
from impasto.runs import folders, onepass as run_onepass, receipts, terminal, torchrun


def train(
    folder: Path, targets: Path | None, out: Path, recipe: Translation, *, device: str, quiet: bool, resume: bool
) -> None:
    """Train a network and write it; next to it a preview, the curves and a checkpoint during training.

    The .png next to the result shows held-out pairs and the losses so far, the .csv has them as numbers. Under torchrun
    each process computes a part of every batch, and the first one writes.

    Args:
        folder, targets: of the pairs, as `pairs.survey` takes them.
        out: the file to write, .safetensors.
        recipe: what to train and how.
        device: auto, cpu, cuda or mps.
        quiet: show no progress.
        resume: continue from the checkpoint next to the result.

    Raises:
        InputError: there are no pairs, or the checkpoint is from another training.
        DivergedError: the loss is not finite; such weights are never written.
        Stopped: after Ctrl-C; the network so far has been written.
    """
    schema.check(recipe)
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: the output must be a .safetensors file")
    own = torchrun.claim(out, [".png", ".csv"])
    found, others = pairing.survey(folder, targets, kind=recipe.pairs, own=own)
    for path in (out, out.with_suffix(".png"), out.with_suffix(".csv")):
        files.check_output(path, [path for pair in found for path in pair if path])
    every = Pairs(found, recipe.pairs, recipe.channels, recipe.direction == "BtoA", recipe.load)
    known, held = every.split(recipe.validation, recipe.seed)
    if not len(known):
        raise InputError(f"{folder}: {len(found)} pairs are too few to hold out `validation` {recipe.validation:g}")
    network = pix2pix_training.begin(recipe)
    names = hashlib.sha256("\n".join(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
                                     for path, _ in found).encode(errors="surrogateescape")).hexdigest()  # fmt: skip
    facts = receipts.build("pix2pix train", recipe=recipe, learnt=len(known), held_out=len(held), names=names)
    card = receipts.card(facts)
    model = Model(network, recipe.pairs, card)
    checkpoint = receipts.resume_file(out) if resume else receipts.claim(out)
    with torchrun.processes(machine.pick_device(device)) as target:
        quiet = quiet or not torchrun.is_first_process()
        if torchrun.is_first_process():
            folders.name_left_out(others, films="films", pictures="without a partner")
        state = torchrun.resumed_state(checkpoint, card) if resume else None
        history = _History([] if state is None else _rows(state.pop("history", None), checkpoint))

        def save(step: fitting.TrainingStep) -> None:
            measured = pix2pix_training.measure(model, held)
            history.record(step.index, measured)
            last = {name: f"{value:.4g}" for name, value in history.rows[-1].items() if name.startswith("held-out")}
            described = Model(network, recipe.pairs, {**card, "steps": str(step.index), **last})
            torchrun.write(out, lambda part: pix2pix.save(part, described))
            receipts.save_state(checkpoint, {**step.state(), "card": card, "history": history.rows})
            show(out, model, held if measured else known, history)

        steps = history.adding(pix2pix_training.train(known, recipe, network=network, device=target, state=state))
        total = pix2pix_training.length(recipe, len(known))
        torchrun.follow(steps, save, total=total, resumed=state is not None, quiet=quiet)
        if torchrun.is_first_process():
            for reason in [*known.broken.values(), *held.broken.values()]:
                terminal.note(f"left out: {reason}")
            checkpoint.unlink(missing_ok=True)


def _rows(stored: Any, checkpoint: Path) -> list[dict[str, float]]:
    """The measurements in a checkpoint; InputError for anything else."""
    if isinstance(stored, list) and all(
        isinstance(row, dict) and all(isinstance(x, float) for x in row.values()) for row in stored
    ):
        return stored
    raise InputError(f"{checkpoint}: not a checkpoint of this training; remove it to start again")


class _History:
    """The means of the losses between two measurements, and these."""

    def __init__(self, rows: list[dict[str, float]]) -> None:
        self.rows = rows
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def adding(self, steps: Iterator[fitting.TrainingStep]) -> Iterator[fitting.TrainingStep]:
        for step in steps:
            self.count += 1
            for name, term in step.terms.items():
                self.sums[name] = self.sums[name] + term if name in self.sums else term.clone()
            yield step

    def record(self, step: int, measured: Mapping[str, float]) -> None:
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        self.rows.append({"step": float(step), **means, **{f"held-out {name}": x for name, x in measured.items()}})
        self.sums.clear()
        self.count = 0


def show(out: Path, model: Model, pairs: Pairs, history: _History) -> None:
    """Write a sheet of translations above the curves of losses and measurements, and the latter two as a table.

    Args:
        out: the model's path; sheet and table go next to it, with the suffixes .png and .csv.
        model: translates some of the pairs.
        pairs: to choose from.
        history: of the losses and measurements.
    """
    sheet = sheets.sheet(pix2pix_training.preview(model, pairs), columns=3)
    names = list(history.rows[-1])
    curves = {name: [row[name] for row in history.rows if name in row] for name in names if name != "step"}
    if len(history.rows) > 1:
        sheet = torch.cat([sheet, sheets.curves(curves, width=sheet.shape[-1])], 2)
    images.write(out.with_suffix(".png"), sheet)
    with files.atomic(out.with_suffix(".csv")) as part, part.open("w", newline="") as file:
        table = csv.DictWriter(file, names, extrasaction="ignore")
        table.writeheader()
        table.writerows(history.rows)


@dataclass(frozen=True)
class Translator:
    """Translates pictures, all by the same model.

    Attributes:
        model: the network.
        seed: of the dropout; None: no dropout.
        trace: translate the edges of a photograph, not a drawing.
        device: where to compute.
        sources: the model's file, which must not be overwritten.
    """

    model: Model
    seed: int | None
    trace: bool
    device: torch.device
    sources: Sequence[str] = ()
    lock: Lock = field(default_factory=Lock, repr=False)  # the noise comes from the process's random state

    def __call__(self, image: Tensor, film: object = None, settle: steady.Settle | None = None,
                 precision: str = "auto") -> Tensor:  # fmt: skip
        drawing = pairing.edges(image).expand(-1, 3, -1, -1) if self.trace else image
        with self.lock:
            made = pix2pix.apply(drawing.to(self.device), self.model, seed=self.seed, precision=precision).cpu()
        return settle(image, made.expand(-1, 3, -1, -1)) if settle else made

    def file(self, path: Path, out: Path, room: folders.Room | None = None) -> str | None:
        """Translate a picture file and store the receipt in the result; returns the note on the picture, if any.

        Args:
            path: of the picture.
            out: of the result.
            room: not needed: one picture is translated at a time.
        """
        into, channels = self.model.channels
        if into in (1, 3) and channels in (1, 3):
            picture = images.read(path)
            painted = self(picture.image, precision=run_onepass.PRECISIONS[picture.bits])
            receipts.write(out, painted, picture, receipt=self.receipt(picture))
            return picture.note
        output = self(pairing.read(path, into), precision="float32")
        if channels in (1, 3):
            receipts.write(out, output)
        else:
            torchrun.write(out, lambda part: pairing.write(part, output))
        return None

    def receipt(self, picture: images.Picture | None = None) -> dict[str, Any]:
        """Everything that determines the result; without ``picture``, that of a film."""
        content = {} if picture is None else {"content": picture}
        return receipts.build(
            "pix2pix apply", model=dict(self.model.metadata), seed=self.seed, trace=self.trace, **content
        )


def apply(source: str, out: Path, translator: Translator, *, quiet: bool, resume: bool) -> None:
    """Translate a picture, a video, or every picture below a folder.

    Args:
        source: the picture, video or folder.
        out: what to write.
        translator: does it.
        quiet: show no progress.
        resume: skip pictures of a folder that are already done; continue a half-done film.

    Raises:
        InputError: edges are asked of a model that does not read them, or a picture has too many channels to write.
        IncompleteError: some pictures of the folder could not be read; the others are done.
        Stopped: after Ctrl-C; finished pictures are kept.
    """
    if translator.trace and translator.model.kind != "edges":
        raise InputError("`trace` is only for models that were trained with `pairs` edges")
    if translator.model.channels[1] in (1, 3):
        run_onepass.apply([source], out, translator, quiet=quiet, resume=resume)
        return
    if Path(source).is_dir() or out.suffix.lower() not in pairing.DEEP:
        kinds = ", ".join(pairing.DEEP)
        raise InputError(f"{out}: this model makes {translator.model.channels[1]} channels: name one file, {kinds}")
    files.check_output(out, [source, *translator.sources])
    translator.file(Path(source), out)
