"""Runs of training and applying one-pass networks, with progress, previews, receipts, resuming and Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from impasto import (
    bundled,
    datasets,
    encoder,
    files,
    fitting,
    images,
    machine,
    masks as masking,
    onepass,
    onepass_training,
    recording,
    schema,
    steady,
    video,
    weights,
)
from impasto.errors import (
    ImageError,
    InputError,
    OutputError,
    Stopped,
    VideoError,
    lack_of_memory,
)
from impasto.networks import Statistics
from impasto.onepass import Model
from impasto.recipes import Training
from impasto.runs import film as run_film, folders, receipts, terminal, torchrun

PRECISIONS = {8: "auto", 16: "float32"}  # by the bits of a channel: bfloat16 is too coarse for 16
PHOTOGRAPHS = 2000  # the most that a training uses: they are kept in memory, 1.2 MB each


def train(style: str, photos: Path, out: Path, recipe: Training, *, device: str, quiet: bool, resume: bool) -> None:
    """Train a network and write it, with a preview and a checkpoint next to it during training.

    Under torchrun each process computes a part of every batch, and the first one writes.

    Args:
        style: the path of a painting, or the name of a bundled one.
        photos: the folder of photographs.
        out: the .safetensors file; the checkpoint is the same with .resume.
        recipe: what to train and how.
        device: auto, cpu, cuda or mps.
        quiet: show no progress.
        resume: continue from the checkpoint.

    Raises:
        InputError: the folder has no pictures, or the checkpoint is missing or from another training.
        OutputError: a file cannot be written; the network is kept where it can be.
        DivergedError: the loss is not finite; such weights are never written.
        Stopped: after Ctrl-C; the network so far has been written.
    """
    schema.check(recipe)
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: the output must be a .safetensors file")
    preview, checkpoint = out.with_suffix(".png"), out.with_suffix(".resume")
    own = torchrun.claim(out, [preview.suffix])
    found, others = datasets.survey(photos, own)
    given: list[str | Path] = [bundled.locate(style), recipe.start, *found]
    for path in (out, preview, checkpoint) if torchrun.is_first_process() else ():
        files.check_output(path, given)
    if not resume:
        receipts.claim(out)
    painting = images.read(given[0])
    network = onepass_training.begin(recipe)
    with torchrun.processes(machine.pick_device(device)) as target:
        quiet = quiet or not torchrun.is_first_process()
        torchrun.fetch_encoder(recipe.encoder, quiet=quiet)
        pool = read_photographs(photos, found, quiet=quiet)
        if torchrun.is_first_process():
            folders.name_left_out(others, films="films")
        facts = {"style": painting, "recipe": recipe, "encoder": weights.sha256(encoder.file(recipe.encoder))}
        card = receipts.card(receipts.build("train", **facts, photographs=len(pool)))
        state = torchrun.resumed_state(checkpoint, card) if resume else None
        photograph = images.to_size(images.read(bundled.locate("chelsea")).image, recipe.style_size).to(target)

        def save(step: fitting.TrainingStep) -> None:
            torchrun.write(out, lambda part: onepass.save(part, network, {**card, "steps": str(step.index)}))
            receipts.save_state(checkpoint, {**step.state(), "card": card})
            images.write(preview, onepass.apply(photograph, Model(network, card)).cpu())

        steps = onepass_training.train(
            painting.image.to(target), pool.to(target), recipe, mask=painting.alpha, network=network, state=state
        )
        torchrun.follow(steps, save, total=recipe.steps, resumed=state is not None, quiet=quiet)
        if torchrun.is_first_process():
            if pool.replaced["flat"]:
                terminal.note(f"{pool.replaced['flat']} crops without contrast were replaced")
            checkpoint.unlink(missing_ok=True)


def read_photographs(folder: Path, found: Sequence[Path], *, quiet: bool) -> datasets.Pool:
    """Load at most `PHOTOGRAPHS` pictures, evenly chosen; InputError if there are none.

    Args:
        folder: where they were found.
        found: their files.
        quiet: show no progress.

    Returns:
        The pool.
    """
    stride = max(1, -(-len(found) // PHOTOGRAPHS))
    chosen = found[::stride]
    with terminal.progress(len(chosen), quiet=quiet or not chosen, label="reading") as report:
        pool = datasets.load(chosen, side=640, short=448, contrast=datasets.FLAT, report=report)
    if not len(pool):
        what = "no picture with contrast" if pool.flat else "no picture"
        fault = f"{what} to train on" if folder.is_dir() else "not a folder; check the path"
        raise InputError(f"{folder}: {fault}")
    if stride > 1 and torchrun.is_first_process():
        terminal.note(f"{len(found)} pictures found; one in {stride} is used, which is enough")
    if pool.skipped and torchrun.is_first_process():
        terminal.note(f"{len(pool.skipped)} of {len(chosen)} pictures could not be read")
    if pool.flat and torchrun.is_first_process():
        terminal.note(f"{len(pool.flat)} of {len(chosen)} pictures have no contrast and are skipped")
    return pool


@dataclass(frozen=True)
class Painter:
    """Repaints pictures, all with the same styles and settings.

    Attributes:
        models, parts: the styles and their weights in the mixture.
        strength, keep_colors, grain, clarity, crispness, underpainting, fine_faces, size: as `onepass.apply` takes
            them.
        device: where to compute.
        masks: one for each style, or none.
        sources: files of styles and masks, which must not be overwritten.
    """

    models: Sequence[Model]
    parts: Sequence[float]
    strength: float
    keep_colors: Literal["none", "luma", "histogram"]
    device: torch.device
    _: KW_ONLY
    grain: float | None = None
    clarity: float | None = None
    crispness: float | None = None
    underpainting: float | None = None
    fine_faces: bool = True
    size: int | None = None
    masks: Sequence[images.Picture] = ()
    sources: Sequence[str] = ()

    def __call__(self, image: Tensor, film: Statistics | None = None, settle: steady.Settle | None = None,
                 precision: str = "auto") -> Tensor:  # fmt: skip
        painted = onepass.apply(
            image.to(self.device), self.models, style_weights=self.parts, strength=self.strength,
            masks=self.masks, keep_colors=self.keep_colors, grain=self.grain, clarity=self.clarity,
            crispness=self.crispness, underpainting=self.underpainting, fine_faces=self.fine_faces,
            size=self.size, film=film, settle=settle, precision=precision,
        )  # fmt: skip
        return painted.cpu()

    def file(self, path: Path, out: Path, room: folders.Room | None = None) -> str | None:
        """Repaint a picture file and store the receipt in the result; returns the note on the picture, if any.

        Args:
            path: of the picture.
            out: of the result.
            room: the memory for painting, shared with others.
        """
        picture = images.read(path)
        with room.hold(picture.image[0, 0].numel()) if room else nullcontext():
            painted = self(picture.image, precision=PRECISIONS[picture.bits])
        receipts.write(out, painted, picture, receipt=self.receipt(picture))
        notes = [picture.note, *(masking.stretched(mask, picture) for mask in self.masks)]
        return "; ".join(filter(None, notes)) or None

    def receipt(self, picture: images.Picture | None = None) -> dict[str, Any]:
        """Everything that determines the result; without ``picture``, that of a film."""
        return receipts.build(
            "apply", models=[dict(model.metadata) for model in self.models], style_weights=self.parts,
            strength=self.strength, masks=self.masks, keep_colors=self.keep_colors, grain=self.grain,
            clarity=self.clarity, crispness=self.crispness, underpainting=self.underpainting,
            fine_faces=self.fine_faces, size=self.size, **({} if picture is None else {"content": picture}),
        )  # fmt: skip


class Repaints(Protocol):
    """What repaints pictures, in memory and as files: `Painter`, or the translator of pix2pix."""

    @property
    def device(self) -> torch.device: ...

    @property
    def sources(self) -> Sequence[str]: ...

    def __call__(
        self, image: Tensor, film: Statistics | None = None, settle: steady.Settle | None = None
    ) -> Tensor: ...

    def file(self, path: Path, out: Path, room: folders.Room | None = None) -> str | None: ...

    def receipt(self) -> dict[str, Any]: ...


def apply(sources: Sequence[str], out: Path, painter: Repaints, *, quiet: bool, resume: bool,
          film: run_film.Settings | None = None) -> None:  # fmt: skip
    """Repaint pictures, videos, and every picture below folders, in one pass each.

    Args:
        sources: paths, or names of bundled pictures.
        out: the result of a single picture or film; otherwise a folder for the results. A folder of pictures becomes
            one film if this is a film.
        painter: repaints each of them.
        quiet: show no progress.
        resume: of several pictures, skip those whose results exist; continue a half-done film.
        film: how films are repainted.

    Raises:
        InputError: there is nothing to repaint, or results would overwrite inputs or each other.
        OutputError: a result cannot be written.
        IncompleteError: some of several files could not be repainted; the others are done.
        Stopped: after Ctrl-C; finished pictures are kept.
    """
    paths = [bundled.locate(source, folder=True) for source in sources]
    film = film or run_film.Settings()
    if len(paths) == 1:
        out = recording.as_pattern(paths[0], out)
    if len(paths) == 1 and _makes_film(paths[0], out):
        recording.check_output(out, [*paths, *painter.sources])
        run_film.repaint(paths[0], out, painter, film, receipt=painter.receipt(), quiet=quiet, resume=resume)
    elif len(paths) > 1 or paths[0].is_dir():
        _several(paths, out, painter, film, quiet=quiet, resume=resume)
    else:
        if out.suffix.lower() in video.SUFFIXES:
            raise InputError(
                f"{paths[0]}: is read as a picture; name the result {out.stem}.png, or convert a film to .mp4 first"
            )
        images.check_output(out, [*paths, *painter.sources])
        if note := painter.file(paths[0], out):
            terminal.note(note)


def _makes_film(path: Path, out: Path) -> bool:
    """Whether a film is asked for; the first frame of an animation can also be repainted as a picture."""
    written = recording.is_written(out)
    if path.is_dir():
        return written
    animated = path.suffix.lower() in video.MAYBE and not video.NUMBER.search(path.name)
    return video.is_film(path) and (written or not animated)


def _several(
    paths: Sequence[Path], out: Path, painter: Repaints, film: run_film.Settings, *, quiet: bool, resume: bool
) -> None:
    def is_left(path: Path, to: Path) -> bool:
        half = path.suffix.lower() in video.SUFFIXES and receipts.resume_file(to).exists()
        return half or not (resume and to.exists())

    todo = [job for job in folders.jobs(paths, out, painter.sources) if is_left(*job)]
    films = [(path, to) for path, to in todo if path.suffix.lower() in video.SUFFIXES]
    pictures = [job for job in todo if job not in films]
    failed: list[str] = []
    notes: list[str] = []
    started = time.monotonic()
    with (
        terminal.progress(len(pictures), quiet=quiet or not pictures, label="repainting") as report,
        terminal.interruption() as interrupted,
    ):
        for done, (path, to, outcome) in enumerate(folders.repaint(pictures, painter), 1):
            try:
                notes += filter(None, [outcome.result()])
            except Exception as error:
                terminal.complain(_fault(path, error))
                failed.append(path.name)
            report(done, f"{done / (time.monotonic() - started):.2g} pictures per second, {path.name}")
            if interrupted():
                raise Stopped(f"stopped after {to.name}; continue with `resume`")
    for path, to in films:
        to.parent.mkdir(parents=True, exist_ok=True)
        half = resume and receipts.resume_file(to).exists()
        try:
            run_film.repaint(path, to, painter, film, receipt=painter.receipt(), quiet=quiet, resume=half)
        except Exception as error:
            terminal.complain(_fault(path, error))
            failed.append(path.name)
    if notes:
        terminal.note(notes[0] + (f"; the same for {len(notes) - 1} more" if len(notes) > 1 else ""))
    if failed:
        raise terminal.incomplete(failed, len(todo))


def _fault(path: Path, error: Exception) -> str:
    """What is wrong with one of several files, in a line; an error that ends the run is raised."""
    if lack_of_memory(error):
        return f"{path}: not enough memory; make it smaller"
    if not isinstance(error, ImageError | InputError | VideoError) or isinstance(error, OutputError):
        raise error
    return str(error) if path.name in str(error) else f"{path}: {error}"
