"""Photorealistic transfer with all that a person expects around it."""

from __future__ import annotations

import sys
from pathlib import Path

import impasto
from impasto import images, machine, photoreal, pictures, recipes, session
from impasto.recipes import Photo, RecipeError


def paint(
    content: str, style: str, out: Path, recipe: Photo, *, content_mask: Path | None, style_mask: Path | None,
    save_masks: bool, device: str, quiet: bool,
) -> None:  # fmt: skip
    """Give a photograph another one's light, and write it with its receipt.

    Raises:
        RecipeError: one mask without the other, or masks that do not go together.
        Stopped: after Ctrl-C; the picture so far has been written.
    """
    recipes.check_photo(recipe)
    images.check_output(out)
    if (content_mask is None) != (style_mask is None):
        raise RecipeError("--content-mask and --style-mask go together: give both, or none to have regions found")
    photograph, other = (images.read(pictures.locate(name)) for name in (content, style))
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
        for side, masks in (("content", regions.content), ("style", regions.style)):
            images.write(out.with_name(f"{out.stem}-{side}-mask.png"), regions.picture(masks))
    receipt = {
        "impasto": impasto.__version__,
        "command": "photo",
        "recipe": recipes.to_json(recipe),
        "content": {"name": Path(photograph.name).name, "sha256": photograph.sha256},
        "style": {"name": Path(other.name).name, "sha256": other.sha256},
        "regions": len(regions.content),
    }
    stopped = last = None
    with session.progress(recipe.steps, quiet=quiet) as report, session.interruption() as interrupted:
        for step in photoreal.steps(ours, theirs, regions, recipe):
            last = step
            report(step.index, ", ".join(f"{name} {float(term):.3g}" for name, term in step.terms.items()))
            if interrupted():
                stopped = f"stopped at step {step.index} of {step.total}"
                break
    if last is None:
        raise RecipeError("nothing could be brought down: the photographs are alike already")
    result = last.lift(ours).cpu()
    images.write(out, result, alpha=photograph.alpha, profile=photograph.profile, receipt=receipt)
    if stopped:
        raise session.Stopped(stopped)
