"""The work of the studio's jobs. It imports torch, so it is itself imported only when needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from impasto import bundled, images, machine, onepass, photo as photo_method, study, transfer
from impasto.errors import ImageError
from impasto.photo import PhotoStep
from impasto.recipes import Photo, Transfer
from impasto.runs import onepass as run_onepass, photo as run_photo, transfer as run_transfer
from impasto.studio.jobs import Frame, Result, Session, Work

Drawn = dict[str, transfer.Step]  # panels of a study: label -> last step

SHOWN = 1600  # the largest long edge of pictures on the page, in pixels; files keep their size


@dataclass(frozen=True)
class Painted:
    """A photograph, its repainted picture, and the receipt."""

    photo: images.Picture
    image: Tensor
    receipt: dict[str, Any]


def one_pass(
    session: Session, photo: Path, styles: Sequence[str], *, style_weights: Sequence[float] = (), strength: float = 1.0,
    keep_colors: Literal["none", "luma", "histogram"] = "none", size: int = 0, mask: Tensor | None = None,
) -> Work[Painted]:  # fmt: skip
    """Repaint in one pass, only where ``mask``, (1, 1, h, w), is white."""
    parts = onepass.check_mixture(len(styles), style_weights, strength)

    def frames() -> Iterator[Frame[Painted]]:
        yield Frame(0, 1, "repainting")
        device = machine.pick_device("auto")
        painter = run_onepass.Painter([onepass.load(style) for style in styles], parts, strength, keep_colors, device)
        picture, image = _at(photo, size)
        painted = painter(image)
        if mask is not None:
            painted = image.lerp(painted, images.resize(mask, *image.shape[-2:]))
        yield Frame(1, 1, "repainted", image=Painted(picture, painted, painter.receipt(picture) | {"size": size}))

    def finish(done: Painted) -> Result:
        receipt = done.receipt | {"styles": list(styles)}
        return _write(session, done.photo, done.image, "-".join((Path(done.photo.name).stem, *styles)), receipt)

    return Work(frames, finish, lambda done, path: _preview(done.image, path))


def optimise(session: Session, photo: Path, paintings: Sequence[Path], recipe: Transfer, *, mask: Tensor | None = None,
             begin: Path | None = None) -> Work[transfer.Step]:  # fmt: skip
    """Repaint by optimisation, starting from ``begin`` if given, only where ``mask``, (1, 1, h, w), is white."""
    inputs = run_transfer.read_inputs(str(photo), [str(painting) for painting in paintings])
    if begin is not None:
        recipe = replace(recipe, init=str(begin))
    receipt = run_transfer.receipt("transfer", recipe, inputs)
    where = [] if mask is None else [mask] * len(paintings)

    def frames() -> Iterator[Frame[transfer.Step]]:
        yield Frame(0, recipe.steps, "analysing the painting")
        for step in transfer.steps(inputs.content, list(inputs.styles), recipe, content_masks=where):
            yield Frame(step.index, step.total, f"{step.size[1]} x {step.size[0]} pixels", step.loss, step)

    def finish(step: transfer.Step) -> Result:
        image = inputs.content.image
        shape = images.fit(image.shape[-2], image.shape[-1], recipe.size or max(image.shape[-2:]))
        name = "-".join(Path(picture.name).stem for picture in (inputs.content, *inputs.styles))
        return _write(session, inputs.content, images.resize(step.image.cpu(), *shape), name, receipt)

    return Work(frames, finish, lambda step, path: _preview(step.image.cpu(), path))


def light(
    session: Session, photo: Path, other: Path, recipe: Photo, masks: tuple[Path, Path] | None
) -> Work[PhotoStep]:
    """Give a photograph the light of another one."""
    kept: dict[str, Any] = {}

    def frames() -> Iterator[Frame[PhotoStep]]:
        yield Frame(0, recipe.steps, "finding regions" if masks is None else "reading the regions")
        device = machine.pick_device("auto")
        pair = kept["pair"] = run_photo.read(photo, other, recipe, masks, device=device)
        ours, theirs = pair.photograph.image.to(device), pair.other.image.to(device)
        for step in photo_method.steps(ours, theirs, pair.regions, recipe):
            yield Frame(step.index, step.total, " ".join(pair.regions.notes), step.loss, step)

    def finish(step: PhotoStep) -> Result:
        pair = kept["pair"]
        out = session.path(f"{photo.stem}-{other.stem}.png")
        run_photo.save(pair, recipe, step, out)
        return Result(out, _pair(session, pair.photograph.image, images.to_tensor(out)))

    return Work(frames, finish, lambda step, path: _preview(step.image.cpu(), path))


def regions(session: Session, photo: Path, other: Path, recipe: Photo) -> tuple[Path, Path]:
    """Find the regions; returns two masks to edit."""
    pair = run_photo.read(photo, other, recipe, None, device=machine.pick_device("auto"))
    return run_photo.save_masks(pair, session.path("regions.png"))


def draw_study(session: Session, photo: Path, painting: Path, over: Any, size: int, steps: int) -> Work[Drawn]:
    """Draw a study's sheet."""
    panels = study.panels(over, strengths=(0.03, 0.1, 0.3, 1.0, 3.0), size=size, **({"steps": steps} if steps else {}))
    inputs = run_transfer.read_inputs(str(photo), [str(painting)])
    total = sum(panel.recipe.steps for panel in panels)

    def frames() -> Iterator[Frame[Drawn]]:
        yield Frame(0, total, "starting")
        drawn: Drawn = {}
        for done, (panel, step) in enumerate(run_transfer.drawing(inputs, panels, device="auto", memory=0.0), 1):
            drawn[panel.label] = step
            yield Frame(done, total, panel.label, step.loss, drawn)

    def finish(drawn: Drawn) -> Result:
        out = session.path(f"study-over-{over}.png")
        images.write(out, run_transfer.study_sheet(inputs, drawn, size=size, title=f"study over {over}"))
        return Result(out)

    return Work(frames, finish, lambda drawn, path: _preview(next(reversed(drawn.values())).image.cpu(), path))


def mask_of(drawing: Any) -> Tensor | None:
    """The mask of a brush drawing, (1, 1, h, w) in [0, 1]; None: nothing was drawn."""
    layers = [np.asarray(layer) for layer in (drawing or {}).get("layers", [])]
    alphas = [layer[..., 3] for layer in layers if layer.ndim == 3 and layer.shape[-1] == 4]
    if not alphas or not any(alpha.any() for alpha in alphas):
        return None
    return images.to_tensor(np.maximum.reduce(alphas))[:, :1]


def save_mask(session: Session, drawing: Any) -> Path:
    """Save a mask edited with the brush."""
    path = session.path("mask.png")
    images.write(path, images.to_tensor(np.asarray(drawing)[..., :3]))
    return path


def canvas(session: Session, picture: Path) -> dict[str, Any]:
    """A picture to brush on, small enough for a browser."""
    path = session.path("canvas.png")
    images.write(path, _small(images.to_tensor(picture), 800))
    return {"background": str(path), "layers": [], "composite": None}


def _at(photo: Path, size: int) -> tuple[images.Picture, Tensor]:
    picture = images.read(photo)
    image = picture.image
    return picture, images.to_size(image, size) if 0 < size < max(image.shape[-2:]) else image


def _write(session: Session, picture: images.Picture, image: Tensor, name: str, receipt: dict[str, Any]) -> Result:
    out = session.path(f"{name[:80]}.png")
    run_transfer.save(run_transfer.Watch(out, receipt=receipt), run_transfer.Inputs(picture), image)
    return Result(out, _pair(session, picture.image, image))


def _pair(session: Session, before: Tensor, after: Tensor) -> tuple[Path, Path]:
    """Write before and after for the page, at the same size and no larger than a screen."""
    after = _small(after, SHOWN)
    paths = session.path("before.jpg"), session.path("after.jpg")
    images.write(paths[0], images.resize(before, *after.shape[-2:]))
    images.write(paths[1], after)
    return paths


def _small(image: Tensor, edge: int = 1024) -> Tensor:
    return images.to_size(image, edge) if max(image.shape[-2:]) > edge else image


def _preview(image: Tensor, path: Path) -> None:
    images.write(path, _small(image, SHOWN))


def restore(path: Path) -> dict[str, Any] | None:
    """The receipt of a picture, if it has one."""
    try:
        return images.read_receipt(path)
    except ImageError:
        return None


def warm() -> None:
    """Load a network before the first job."""
    onepass.load(next(iter(bundled.STYLES)))
