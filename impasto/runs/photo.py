"""Runs of photorealistic transfer, with progress, receipts, resuming and Ctrl-C."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from impasto import bundled, encoder, images, machine, masks as masking, matching, photo, schema, weights
from impasto.errors import InputError, Stopped
from impasto.images import Picture
from impasto.recipes import Photo
from impasto.runs import receipts, terminal


@dataclass(frozen=True)
class Pair:
    """Two photographs, their matching regions, and the receipt of the result."""

    photograph: Picture
    other: Picture
    regions: matching.Regions
    receipt: dict[str, Any]


def read(
    content: Path | Picture, style: Path | Picture, recipe: Photo,
    masks: tuple[Path | Picture, Path | Picture] | None, *, device: torch.device,
) -> Pair:  # fmt: skip
    """Read the photographs and their masks; without masks, find the matching regions.

    Args:
        content, style: the photograph to change, and the one to take the light from.
        recipe: how regions are found.
        masks: one of flat colours for each photograph, or None.
        device: to find regions on.

    Returns:
        The photographs, with regions that leave out what is transparent in the style.

    Raises:
        ImageError: a file cannot be read.
        InputError: the photograph is too small, or the masks do not match.
    """
    schema.check(recipe)
    files = {"content": content, "style": style} | dict(zip(("content_mask", "style_mask"), masks or (), strict=False))
    photograph, other = images.read(content), images.read(style)
    photo.check_size(photograph.image, recipe)
    if masks is None:
        regions = matching.find(photograph.image.to(device), other.image.to(device), recipe)
    else:
        pictures = [images.read(mask) for mask in masks]
        ours, theirs = (masking.read_classes(mask) for mask in pictures)
        try:
            regions = matching.from_masks(ours, theirs)
        except ValueError as error:
            names = ", ".join(mask.name for mask in pictures)
            raise InputError(f"{names}: {error}") from None
        pairs = zip(pictures, (photograph, other), strict=True)
        regions = replace(regions, notes=[*regions.notes, *filter(None, (masking.stretched(*pair) for pair in pairs))])
    if other.alpha is not None:  # only what is visible has light to take
        seen = images.resize(other.alpha, *regions.style[0].shape[-2:])
        regions = replace(regions, style=[seen.to(mask) * mask for mask in regions.style])
    receipt = receipts.build(
        "photo",
        recipe=recipe,
        encoder=weights.sha256(encoder.file(recipe.encoder)),
        **files,
        regions=len(regions.content),
    )
    return Pair(photograph, other, regions, receipt)


def mask_files(out: Path) -> tuple[Path, Path]:
    """OUT-content-mask.png and OUT-style-mask.png."""
    ours, theirs = (out.with_name(f"{out.stem}-{side}-mask.png") for side in ("content", "style"))
    return ours, theirs


def save_masks(pair: Pair, out: Path) -> tuple[Path, Path]:
    """Save the regions as OUT-content-mask.png and OUT-style-mask.png, at the photographs' sizes."""
    ours, theirs = mask_files(out)
    images.write(ours, pair.regions.picture("content", *pair.photograph.image.shape[-2:]))
    images.write(theirs, pair.regions.picture("style", *pair.other.image.shape[-2:]))
    return ours, theirs


def save(pair: Pair, recipe: Photo, step: photo.PhotoStep, out: Path) -> None:
    """Write the result of a step with its receipt, at the photograph's size.

    Args:
        pair: from `read`.
        recipe: for `keep_highlights`.
        step: whose light the photograph gets.
        out: the path of the result.
    """
    ours = pair.photograph.image.to(step.added.device)
    result = photo.keep_highlights(ours, step.lift(ours), recipe.keep_highlights).cpu()
    receipts.write(out, result, pair.photograph, receipt=pair.receipt, dither=True)


def replay(receipt: dict[str, Any], folders: Sequence[Path], out: Path, *, device: str, quiet: bool) -> None:
    """Repeat a result from its receipt.

    Args:
        receipt: from `images.read_receipt`.
        folders: where to look for the inputs, besides the bundled pictures.
        out, device, quiet: those of `change_light`.

    Raises:
        InputError: an input is missing, or it or the encoder is not the same as in the receipt.
    """
    receipts.check(receipt)
    recipe = schema.from_json(receipt["recipe"], Photo)
    recipe = replace(recipe, encoder=receipts.find_encoder(receipt, recipe.encoder, folders))
    content, style, *masks = (
        receipts.find_input(receipt[name], folders)
        for name in ("content", "style", "content_mask", "style_mask")
        if name in receipt
    )
    content_mask, style_mask = masks or (None, None)
    change_light(
        str(content), str(style), out, recipe, content_mask=content_mask, style_mask=style_mask, keep_masks=False,
        resume=None, device=device, quiet=quiet,
    )  # fmt: skip


def change_light(
    content: str, style: str, out: Path, recipe: Photo, *, content_mask: Path | None, style_mask: Path | None,
    keep_masks: bool, resume: Path | None, device: str, quiet: bool,
) -> None:  # fmt: skip
    """Give a photograph another one's light, and write it with its receipt.

    Args:
        content, style: paths or names of bundled pictures.
        out: the path of the result.
        recipe: what to optimise and how.
        content_mask, style_mask: both or neither; without them, matching regions are found automatically.
        keep_masks: save the regions next to the result.
        resume: a checkpoint to continue from.
        device: auto, cpu, cuda or mps.
        quiet: show no progress.

    Raises:
        InputError: only one mask is given, or `read` raises it.
        whatever `photo.steps` raises: the picture so far, if there is one, has been written.
        Stopped: after Ctrl-C; the picture so far has been written, and OUT.resume to continue from.
    """
    given = [bundled.locate(content), bundled.locate(style), *filter(None, (content_mask, style_mask))]
    images.check_output(out, given)
    for path in mask_files(out) if keep_masks else ():
        images.check_output(path, given)
    checkpoint = receipts.claim(out)
    if (content_mask is None) != (style_mask is None):
        raise InputError("give both `content_mask` and `style_mask`, or neither to find the regions automatically")
    terminal.fetch_encoder(recipe.encoder, quiet=quiet)
    target = machine.pick_device(device)
    masks = (content_mask, style_mask) if content_mask is not None and style_mask is not None else None
    pair = read(bundled.locate(content), bundled.locate(style), recipe, masks, device=target)
    for note in pair.regions.notes:
        terminal.note(note)
    if keep_masks:
        save_masks(pair, out)
    state = None
    if resume is not None:
        before = receipts.load_state(resume)
        receipts.check_resumable(json.loads(before["receipt"]), pair.receipt)
        state = before["inner"]
    ours, theirs = pair.photograph.image.to(target), pair.other.image.to(target)
    stopped = last = None
    with terminal.progress(1 + recipe.steps, quiet=quiet) as report, terminal.interruption() as interrupted:
        steps = photo.steps(ours, theirs, pair.regions, recipe, state=state)
        try:
            for step in receipts.resuming(steps) if state else steps:
                last = step
                report(step.index, terminal.spelled(step.terms))
                if interrupted() and step.index < step.total:
                    stopped = f"stopped at step {step.index} of {step.total}; continue with `resume`"
                    break
        finally:
            if last is not None:
                save(pair, recipe, last, out)
    if last is None:
        raise InputError("no steps are left to do")
    if stopped:
        state = {"done": last.index, "inner": last.state(), "receipt": json.dumps(pair.receipt)}
        receipts.save_state(checkpoint, state)
        raise Stopped(stopped)
    if resume is not None and checkpoint.exists() and checkpoint.samefile(resume):
        checkpoint.unlink()
