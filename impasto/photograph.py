"""Photorealistic transfer with all that a person expects around it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import impasto
from impasto import encoder, fields, images, machine, photoreal, pictures, session, weights
from impasto.recipes import Photo, RecipeError


def paint(
    content: str, style: str, out: Path, recipe: Photo, *, content_mask: Path | None, style_mask: Path | None,
    save_masks: bool, resume: Path | None, device: str, quiet: bool,
) -> None:  # fmt: skip
    """Give a photograph another one's light, and write it with its receipt.

    Raises:
        RecipeError: one mask without the other, or masks that do not go together.
        Stopped: after Ctrl-C; the picture so far has been written, and OUT.resume to go on from.
    """
    fields.check(recipe)
    images.check_output(out)
    if (content_mask is None) != (style_mask is None):
        raise RecipeError("--content-mask and --style-mask go together: give both, or none to have regions found")
    files = {"content": pictures.locate(content), "style": pictures.locate(style)}
    files |= (
        {} if content_mask is None or style_mask is None else {"content_mask": content_mask, "style_mask": style_mask}
    )
    photograph, other = (images.read(files[name]) for name in ("content", "style"))
    photoreal.check_size(photograph.image, recipe)
    session.fetch_encoder(recipe.encoder, quiet=quiet)
    target = machine.pick_device(device)
    ours, theirs = photograph.image.to(target), other.image.to(target)
    if content_mask is not None and style_mask is not None:
        try:
            regions = photoreal.from_masks(
                images.to_tensor(content_mask), images.to_tensor(style_mask), photograph.image, other.image
            )
        except ValueError as error:
            if isinstance(error, images.ImageError):
                raise
            raise RecipeError(f"{content_mask}, {style_mask}: {error}") from None
    else:
        regions = photoreal.find(ours, theirs, recipe)
    for note in regions.notes:
        print(f"impasto: note: {note}", file=sys.stderr)
    if save_masks:
        whole = regions.at(photograph.image, other.image)
        for side, masks in (("content", whole.content), ("style", whole.style)):
            images.write(out.with_name(f"{out.stem}-{side}-mask.png"), regions.picture(masks))
    receipt = {
        "impasto": impasto.__version__,
        "command": "photo",
        "recipe": fields.to_json(recipe),
        "encoder": weights.sha256(encoder.file(recipe.encoder)),
        **{
            name: {"name": path.name, "sha256": weights.sha256(path)}
            for name, path in files.items()
        },
        "regions": len(regions.content),
    }  # fmt: skip
    state = None
    if resume is not None:
        before = session.load_state(resume)
        session.check_resumable(json.loads(before["receipt"]), receipt)
        state = before["inner"]
    stopped = last = None
    with session.progress(recipe.steps, quiet=quiet) as report, session.interruption() as interrupted:
        for step in photoreal.steps(ours, theirs, regions, recipe, state=state):
            last = step
            report(step.index, ", ".join(f"{name} {float(term):.3g}" for name, term in step.terms.items()))
            if interrupted():
                stopped = f"stopped at step {step.index} of {step.total}; --resume goes on from there"
                with images.atomic(session.resume_file(out)) as part:
                    inner = step.state()
                    torch.save({"done": step.index, "inner": inner, "receipt": json.dumps(receipt)}, part)
                break
    if last is None:
        raise RecipeError("no step is left to do")
    result = photoreal.keep_highlights(ours, last.lift(ours), recipe.keep_highlights).cpu()
    images.write(out, result, alpha=photograph.alpha, profile=photograph.profile, receipt=receipt)
    if stopped:
        raise session.Stopped(stopped)
    session.resume_file(out).unlink(missing_ok=True)
