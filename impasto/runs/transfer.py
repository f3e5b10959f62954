"""Runs of transfers, reconstructions and studies, with progress, checkpoints, videos, receipts and Ctrl-C.

The engines only yield steps; the loop in `paint` does everything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto import bundled, encoder, images, masks, recording, schema, sheets, study, transfer, weights
from impasto.errors import ImageError, ImpastoError, InputError, OutputError, Stopped
from impasto.images import Picture
from impasto.recipes import STARTS, Transfer
from impasto.runs import receipts, terminal


@dataclass(frozen=True)
class Inputs:
    """The picture to repaint, the styles, and their masks."""

    content: Picture
    styles: Sequence[Picture] = ()
    content_masks: Sequence[Picture] = ()
    style_masks: Sequence[Picture] = ()

    def protect(self, out: Path, init: str = "", *, checkpoints: bool = False) -> None:
        """Check that neither ``out`` nor, with ``checkpoints``, the pictures next to it overwrite an input or ``init``.

        Raises:
            OutputError: one would.
        """
        names = re.escape(out.stem) + (r"(_\d{4,}(_figure)?)?" if checkpoints else "") + re.escape(out.suffix)
        pictures = (self.content, *self.styles, *self.content_masks, *self.style_masks)
        for path in (Path(init), *(Path(picture.name) for picture in pictures)):
            written = re.fullmatch(names, path.name) and path.resolve().parent == out.resolve().parent
            if path.is_file() and (written or (out.exists() and out.samefile(path))):
                raise OutputError(f"{out}: would overwrite the input {path}; name another file")


@dataclass
class Watch:
    """Where the picture goes, how the run is shown, and what else it writes."""

    out: Path
    command: str = "transfer"
    film: Path | None = None
    device: str = "auto"
    memory: float = 0.0
    quiet: bool = False
    state: Mapping[str, Any] | None = None
    receipt: dict[str, Any] = field(default_factory=dict)


def read_inputs(
    content: str, styles: Sequence[str] = (), content_masks: Sequence[str] = (), style_masks: Sequence[str] = ()
) -> Inputs:
    """Read every input before any work starts; notes about them go to the standard error.

    Args:
        content, styles, content_masks, style_masks: paths, or names of bundled pictures.

    Returns:
        The pictures, upright and at their own sizes.
    """

    def read(name: str) -> Picture:
        picture = images.read(bundled.locate(name))
        if picture.note:
            terminal.note(picture.note)
        return picture

    groups = ([read(name) for name in names] for names in (styles, content_masks, style_masks))
    inputs = Inputs(read(content), *groups)
    terminal.note_empty([*inputs.content_masks, *inputs.style_masks])
    return inputs


def receipt(command: str, recipe: Transfer, inputs: Inputs) -> dict[str, Any]:
    """Everything that determines a picture.

    Args:
        command: the name of the impasto command.
        recipe: what is painted and how.
        inputs: from `read_inputs`.

    Returns:
        Version, command and recipe, and the sha256 of the encoder and of every picture that is read.
    """
    return receipts.build(command, **facts(recipe), **vars(inputs))


def facts(recipe: Transfer) -> dict[str, Any]:
    """The recipe, the sha256 of its encoder, and the picture that it begins from, if it is a file."""
    start = Path(recipe.init)
    init = {"begun": start} if recipe.init not in STARTS and start.is_file() else {}
    return {"recipe": recipe, "encoder": weights.sha256(encoder.file(recipe.encoder)), **init}


def paint(inputs: Inputs, recipe: Transfer, watch: Watch) -> Tensor:
    """Run a transfer or a reconstruction, and write the picture.

    Args:
        inputs: from `read_inputs`.
        recipe: what to optimise and how.
        watch: where the picture goes, and how the run is shown; its receipt is filled in.

    Returns:
        (1, 3, H, W) the picture, sRGB in [0, 1].

    Raises:
        Stopped: after Ctrl-C; the picture so far has been written.
        whatever `transfer.steps` raises: the picture and the film so far, if there is one, have been written.
    """
    schema.check(recipe)
    images.check_output(watch.out, [recipe.init])
    inputs.protect(watch.out, recipe.init, checkpoints=bool(recipe.checkpoint_every))
    if recipe.checkpoint_every:
        receipts.claim(watch.out)
    if watch.film:
        recording.check_output(watch.film)
    terminal.fetch_encoder(recipe.encoder, quiet=watch.quiet)
    watch.receipt = receipt(watch.command, recipe, inputs)
    if watch.state is not None:
        receipts.check_resumable(json.loads(watch.state["receipt"]), watch.receipt)
    content = inputs.content
    pairs = [(mask, content) for mask in inputs.content_masks]
    if len(inputs.style_masks) == len(inputs.styles):
        pairs += zip(inputs.style_masks, inputs.styles, strict=True)
    for note in filter(None, (masks.stretched(*pair) for pair in pairs)):
        terminal.note(note)
    shape = (content.image.shape[-2], content.image.shape[-1])
    height, width = images.fit(*shape, recipe.size) if recipe.size else shape
    every = recipe.frame_every or max(1, recipe.steps // (10 * recipe.fps))
    last: transfer.Step | None = None
    stopped = ""
    failure: BaseException | None = None
    with ExitStack() as stack:
        film = stack.enter_context(recording.writer(watch.film, height, width, fps=recipe.fps)) if watch.film else None
        report = stack.enter_context(terminal.progress(recipe.steps, quiet=watch.quiet))
        interrupted = stack.enter_context(terminal.interruption())
        try:
            steps = transfer.steps(
                content,
                list(inputs.styles),
                recipe,
                content_masks=inputs.content_masks,
                style_masks=inputs.style_masks,
                device=watch.device,
                memory=watch.memory,
                state=watch.state,
            )
            for step in receipts.resuming(steps) if watch.state else steps:
                last = step
                report(step.index, f"loss {step.loss:.4g} at {step.size[1]} px")
                if film is not None and (step.index - 1) % every == 0:
                    film(step.image)
                if recipe.checkpoint_every and step.index % recipe.checkpoint_every == 0:
                    save_checkpoint(watch, recipe, inputs, step)
                if interrupted():
                    stopped = f"stopped at step {step.index} of {step.total}"
                    break
        except BaseException as error:
            if last is None:
                raise
            failure = error  # raised after the film is completed: an error here would discard it
        if last is None:
            raise InputError("no steps are left to do")
        image = images.resize(last.image.cpu(), height, width)
        del last, step  # frees the optimiser's memory
        save(watch, inputs, image)  # before the film is completed, which may fail
    if failure is not None:
        raise failure
    if stopped:
        raise Stopped(stopped)
    if recipe.checkpoint_every:
        receipts.resume_file(watch.out).unlink(missing_ok=True)
    return image


def painted(inputs: Inputs, recipe: Transfer, watch: Watch) -> Tensor | None:
    """The picture that an earlier run wrote.

    Args:
        inputs, recipe, watch: those of `paint`.

    Returns:
        (1, 3, H, W) sRGB in [0, 1]; None: there is none, or its receipt is another one.
    """
    try:
        same = images.read_receipt(watch.out) == json.loads(json.dumps(receipt(watch.command, recipe, inputs)))
        return images.read(watch.out).image if same else None
    except ImageError:
        return None


def save(watch: Watch, inputs: Inputs, image: Tensor, path: Path | None = None) -> None:
    """Write a picture, with its receipt and the content's transparency, colour profile and depth.

    Args:
        watch: for its receipt and its path.
        inputs: from `read_inputs`.
        image: (1, 3, H, W) sRGB in [0, 1].
        path: of the file; None: ``watch.out``.
    """
    receipts.write(path or watch.out, image, inputs.content, receipt=watch.receipt)


def labelled(out: Path, label: str) -> Path:
    """OUT.png and 0050 -> OUT_0050.png."""
    return out.with_name(f"{out.stem}_{label}{out.suffix}")


def save_checkpoint(watch: Watch, recipe: Transfer, inputs: Inputs, step: transfer.Step) -> None:
    """Write a step as OUT_0050.png, and OUT.resume to continue from.

    Args:
        watch: OUT is its path.
        recipe: with its `figure`, content, picture and styles side by side are also written.
        inputs: from `read_inputs`.
        step: to write.
    """
    image = step.image.cpu()
    label = f"{step.index:04d}"
    save(watch, inputs, image, labelled(watch.out, label))
    if recipe.figure:
        content = images.resize(inputs.content.image, image.shape[-2], image.shape[-1])
        panels = [("content", content), (f"step {step.index}", image)]
        panels += [("style", style.image) for style in inputs.styles]
        images.write(labelled(watch.out, f"{label}_figure"), sheets.sheet(panels), receipt=watch.receipt)
    receipts.save_state(receipts.resume_file(watch.out), {**step.state(), "receipt": json.dumps(watch.receipt)})


def drawing(
    inputs: Inputs, panels: Sequence[study.Panel], *, device: str, memory: float
) -> Iterator[tuple[study.Panel, transfer.Step]]:
    """Paint the panels of a study, one after the other.

    Args:
        inputs, panels, device, memory: those of `draw`.

    Yields:
        Every step of every panel, with the panel.
    """
    for panel in panels:
        for step in transfer.steps(inputs.content, list(inputs.styles), panel.recipe, device=device, memory=memory):
            yield panel, step


def study_sheet(inputs: Inputs, drawn: Mapping[str, transfer.Step], *, size: int, title: str) -> Tensor:
    """A sheet of the content, the styles and the panels of a study.

    Args:
        inputs: from `read_inputs`.
        drawn: a panel's label -> its last step.
        size: long edge of the content on the sheet, in pixels; 0: its own.
        title: of the sheet.

    Returns:
        (1, 3, H, W) sRGB in [0, 1].
    """
    panels = [("content", images.to_size(inputs.content.image, size) if size else inputs.content.image)]
    panels += [("style", style.image) for style in inputs.styles]
    panels += [(label, step.image.cpu()) for label, step in drawn.items()]
    return sheets.sheet(panels, columns=4 if len(panels) > 7 else 0, title=title)


def draw(
    inputs: Inputs, panels: Sequence[study.Panel], *, title: str, device: str, memory: float, quiet: bool
) -> tuple[Tensor, ImpastoError | None]:
    """Run each panel of a study.

    Args:
        inputs: from `read_inputs`.
        panels: of one study.
        title: of the sheet.
        device: auto, cpu, cuda or mps.
        memory: GB that a panel may use; 0: most of the free memory.
        quiet: show no progress.

    Returns:
        The labelled sheet, and why it does not show all panels, if it does not: Stopped after Ctrl-C, or an error.
    """
    drawn: dict[str, transfer.Step] = {}
    failure: ImpastoError | None = None
    total = sum(panel.recipe.steps for panel in panels)
    with terminal.progress(total, quiet=quiet, label="drawing") as report, terminal.interruption() as interrupted:
        steps = drawing(inputs, panels, device=device, memory=memory)
        try:
            for done, (panel, step) in enumerate(steps, 1):
                report(done, f"{panel.label}: loss {step.loss:.4g}")
                drawn[panel.label] = step
                if interrupted():
                    failure = Stopped("stopped: the sheet shows the panels so far")
                    break
        except ImpastoError as error:
            if not drawn:
                raise
            failure = error
    return study_sheet(inputs, drawn, size=panels[0].recipe.size, title=title), failure


def from_receipt(receipt: Mapping[str, Any], folders: Sequence[Path]) -> tuple[Transfer, Inputs]:
    """The recipe and the inputs of a receipt, found by name and sha256 in the folders or the bundled pictures.

    Raises:
        InputError: an input is missing, or it or the encoder is not the same as in the receipt.
    """
    receipts.check(receipt)
    recipe = schema.from_json(receipt["recipe"], Transfer)
    recipe = replace(recipe, encoder=receipts.find_encoder(receipt, recipe.encoder, folders))
    if "begun" in receipt:
        recipe = replace(recipe, init=str(receipts.find_input(receipt["begun"], folders)))
    groups = ([receipt["content"]], receipt["styles"], receipt["content_masks"], receipt["style_masks"])
    content, *others = ([images.read(receipts.find_input(entry, folders)) for entry in group] for group in groups)
    return recipe, Inputs(content[0], *others)
