"""The work of the studio's jobs. It imports torch, so it is itself imported only when needed."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from impasto import (
    bundled,
    files,
    images,
    machine,
    onepass,
    pairs,
    photo as photo_method,
    pix2pix,
    schema,
    steady,
    study,
    transfer,
)
from impasto.errors import ImageError, InputError
from impasto.networks import Statistics
from impasto.photo import PhotoStep
from impasto.recipes import Photo, Transfer
from impasto.runs import (
    film as run_film,
    onepass as run_onepass,
    photo as run_photo,
    pix2pix as run_pix2pix,
    receipts,
    transfer as run_transfer,
)
from impasto.studio import films
from impasto.studio.inspection import PIXELS
from impasto.studio.jobs import Frame, Result, Work

Drawn = dict[str, transfer.Step]  # panels of a study: label -> last step

WATCHED = 2  # seconds of a film after which its beginning can be watched, then twice as many each time
SHOWN = 1600  # the largest long edge of pictures on the page, in pixels; files keep their size


@dataclass(frozen=True)
class Painted:
    """A photograph, its repainted picture, and the receipt."""

    photo: images.Picture
    image: Tensor
    receipt: dict[str, Any]


def one_pass(
    photo: Path, styles: Sequence[str | Path], *, style_weights: Sequence[float] = (), strength: float = 1.0,
    style_scale: float = 1.0, keep_colors: Literal["none", "luma", "histogram"] = "none", size: int = 0,
    brushed: Sequence[Path] = (),
) -> Work[Painted]:  # fmt: skip
    """Repaint in one pass, in bundled styles or like paintings, only where something is drawn in ``brushed``, if that
    is given."""
    parts = onepass.check_mixture(len(styles), style_weights, strength)

    def frames(folder: Path) -> Generator[Frame[Painted]]:
        yield Frame(0, 1, "repainting")
        device = machine.pick_device("auto")
        models = [
            onepass.from_painting(read(style), style_scale) if isinstance(style, Path) else onepass.load(style)
            for style in styles
        ]
        painter = run_onepass.Painter(models, parts, strength, keep_colors, device)
        picture, image = _at(photo, size)
        painted = painter(image)
        mask = mask_of(brushed)
        if mask is not None:
            painted = image.lerp(painted, images.resize(mask, *image.shape[-2:]))
        yield Frame(1, 1, "repainted", image=Painted(picture, painted, painter.receipt(picture) | {"size": size}))

    def finish(done: Painted, folder: Path) -> Result:
        bundled_styles = [style for style in styles if isinstance(style, str)]
        receipt = done.receipt | ({"styles": bundled_styles} if bundled_styles else {})
        return _write(folder, done.photo, done.image, styles, receipt)

    return Work(frames, finish, lambda done, path: _preview(done.image, path))


@dataclass(frozen=True)
class Filmed:
    """A film so far: its file, which is complete when its frames have ended, and the last frame."""

    out: Path
    image: Tensor


def film(clip: Path, style: str | Path, *, size: int = 0, strength: float = 1.0, steadily: bool = True) -> Work[Filmed]:
    """Repaint a film in one pass, in a bundled style or like a painting.

    Raises:
        InputError: the file is not a film.
    """
    if clip.suffix not in films.FORMATS.values():
        raise InputError(f"{clip.name}: is a picture; choose a film, such as an MP4")

    def frames(folder: Path) -> Generator[Frame[Filmed]]:
        yield Frame(0, 1, "reading the film")
        model = onepass.from_painting(read(style)) if isinstance(style, Path) else onepass.load(style)
        painter = run_onepass.Painter([model], [1.0], strength, "none", machine.pick_device("auto"))

        def paint(frame: Tensor, statistics: Statistics | None, settle: steady.Settle | None) -> Tensor:
            return painter(images.at_most(frame, size) if size else frame, statistics, settle)

        out = folder / _named(".mp4", clip, style)
        watched, seconds = None, WATCHED
        with run_film.painting(clip, out, paint, run_film.Settings(steadily), receipt=painter.receipt()) as made:
            for image in made:
                if made.done >= seconds * made.film.rate and made.done < made.film.total:
                    watched = folder / f"first-{seconds}-seconds.mp4"
                    made.sink.watch(watched)
                    seconds *= 2
                note = f"{made.speed:.2g} frames per second"
                yield Frame(made.done, max(made.done, made.film.total), note, None, Filmed(out, image), watched)

    def finish(done: Filmed, folder: Path) -> Result:
        for path in {*folder.glob("first-*.mp4"), *folder.glob("live-*.jpg")} - {done.out}:
            path.unlink()
        shutil.rmtree(receipts.resume_file(done.out), ignore_errors=True)  # of a film that was stopped
        _preview(done.image, folder / "still.jpg")
        return Result(done.out, still=folder / "still.jpg")

    return Work(frames, finish, lambda done, path: _preview(done.image, path))


def optimise(
    photo: Path, paintings: Sequence[Path], recipe: Transfer, *, brushed: Sequence[Path] = (), begin: Path | None = None
) -> Work[transfer.Step]:
    """Repaint by optimisation, starting from ``begin`` if given, only where something is drawn in ``brushed``."""
    schema.check(recipe)
    kept: dict[str, Any] = {}

    def frames(folder: Path) -> Generator[Frame[transfer.Step]]:
        yield Frame(0, recipe.steps, "reading the pictures")
        inputs = run_transfer.Inputs(read(photo), [read(painting) for painting in paintings])
        _check_size(inputs.content.image, recipe)
        started = recipe if begin is None else replace(recipe, init=str(begin))
        mask = mask_of(brushed)
        kept.update(inputs=inputs, receipt=run_transfer.receipt("transfer", started, inputs))
        yield Frame(0, recipe.steps, "analysing the painting")
        where = [] if mask is None else [mask] * len(paintings)
        for step in transfer.steps(inputs.content, list(inputs.styles), started, content_masks=where):
            yield Frame(step.index, step.total, f"{step.size[1]} x {step.size[0]} pixels", step.loss, step)

    def finish(step: transfer.Step, folder: Path) -> Result:
        inputs = kept["inputs"]
        image = inputs.content.image
        shape = images.fit(image.shape[-2], image.shape[-1], recipe.size or max(image.shape[-2:]))
        styles = [style.name for style in inputs.styles]
        return _write(folder, inputs.content, images.resize(step.image.cpu(), *shape), styles, kept["receipt"])

    return Work(frames, finish, lambda step, path: _preview(step.image.cpu(), path))


def light(
    photo: Path, other: Path, recipe: Photo, masks: tuple[Sequence[Path], Sequence[Path]] | None
) -> Work[PhotoStep]:
    """Give a photograph the light of another one; ``masks`` are drawn with the brush."""
    schema.check(recipe)
    kept: dict[str, Any] = {}

    def frames(folder: Path) -> Generator[Frame[PhotoStep]]:
        yield Frame(0, 1 + recipe.steps, "finding regions" if masks is None else "reading the regions")
        device = machine.pick_device("auto")
        drawn = None if masks is None else (_on_white(read(masks[0][0])), _on_white(read(masks[1][0])))
        pair = kept["pair"] = run_photo.read(read(photo), read(other), recipe, drawn, device=device)
        ours, theirs = pair.photograph.image.to(device), pair.other.image.to(device)
        for step in photo_method.steps(ours, theirs, pair.regions, recipe):
            yield Frame(step.index, step.total, " ".join(pair.regions.notes), step.loss, step)

    def finish(step: PhotoStep, folder: Path) -> Result:
        pair = kept["pair"]
        out = folder / _named(".png", photo, other)
        run_photo.save(pair, recipe, step, out)
        return Result(out, _pair(folder, pair.photograph.image, images.to_tensor(out)))

    return Work(frames, finish, lambda step, path: _preview(step.image.cpu(), path))


def regions(photo: Path, other: Path, recipe: Photo) -> Work[run_photo.Pair]:
    """Find the regions; the result is two masks to edit."""
    schema.check(recipe)

    def frames(folder: Path) -> Generator[Frame[run_photo.Pair]]:
        yield Frame(0, 1, "finding regions")
        pair = run_photo.read(read(photo), read(other), recipe, None, device=machine.pick_device("auto"))
        yield Frame(1, 1, "regions found", image=pair)

    def finish(pair: run_photo.Pair, folder: Path) -> Result:
        ours, theirs = run_photo.save_masks(pair, folder / "regions.png")
        for mask in (ours, theirs):
            images.write(mask, images.at_most(images.to_tensor(mask), 800))
        return Result(ours, others=(theirs,))

    return Work(frames, finish)


def canvas(photo: Path | None, *, size: int = 800, trace: bool = False) -> Work[Tensor]:
    """Make a picture to brush on, small enough for a browser: white paper without a ``photo``; with ``trace``, its
    edges."""

    def frames(folder: Path) -> Generator[Frame[Tensor]]:
        yield Frame(0, 1, "reading the photograph")
        if photo is None:
            image = torch.ones(1, 3, size, size)
        else:
            image = images.at_most(_on_white(read(photo)).image if trace else read(photo).image, size)
            image = pairs.edges(image).expand(-1, 3, -1, -1) if trace else image
        yield Frame(1, 1, image=image)

    def finish(image: Tensor, folder: Path) -> Result:
        images.write(folder / "canvas.png", image)
        return Result(folder / "canvas.png")

    return Work(frames, finish)


def translate(photo: Path, model: str | Path, *, drawn: bool = False) -> Work[Painted]:
    """Translate a picture by a network of pix2pix.

    Args:
        photo: the picture.
        model: the name of a bundled network, or the path of one of the owner's.
        drawn: the picture is a drawing, on white where it is transparent.

    Raises:
        InputError: there is no such network.
    """
    if isinstance(model, str) and model not in bundled.TRANSLATORS:  # a path would be read
        raise InputError(f"no such network: {model}")

    def frames(folder: Path) -> Generator[Frame[Painted]]:
        yield Frame(0, 1, "translating")
        translator = run_pix2pix.Translator(pix2pix.load(model), 0, False, machine.pick_device("auto"))
        picture = _on_white(read(photo)) if drawn else read(photo)
        yield Frame(1, 1, "translated", image=Painted(picture, translator(picture.image), translator.receipt(picture)))

    def finish(done: Painted, folder: Path) -> Result:
        return _write(folder, done.photo, done.image, [model], done.receipt)

    return Work(frames, finish, lambda done, path: _preview(done.image, path))


def draw_study(photo: Path, painting: Path, over: Any, size: int, steps: int) -> Work[Drawn]:
    """Draw a study's sheet."""
    settings: dict[str, Any] = {"size": size} | ({"steps": steps} if steps else {})
    panels = study.panels(over, **settings)
    total = sum(panel.recipe.steps for panel in panels)
    kept: dict[str, Any] = {}

    def frames(folder: Path) -> Generator[Frame[Drawn]]:
        yield Frame(0, total, "reading the pictures")
        inputs = kept["inputs"] = run_transfer.Inputs(read(photo), [read(painting)])
        drawn: Drawn = {}
        for done, (panel, step) in enumerate(run_transfer.drawing(inputs, panels, device="auto", memory=0.0), 1):
            drawn[panel.label] = step
            yield Frame(done, total, panel.label, step.loss, drawn)

    def finish(drawn: Drawn, folder: Path) -> Result:
        out = folder / f"study-over-{over}.png"
        images.write(out, run_transfer.study_sheet(kept["inputs"], drawn, size=size, title=f"study over {over}"))
        return Result(out)

    return Work(frames, finish, lambda drawn, path: _preview(next(reversed(drawn.values())).image.cpu(), path))


def mask_of(layers: Sequence[Path]) -> Tensor | None:
    """The mask of a brush drawing, (1, 1, h, w) in [0, 1]; None: nothing was drawn."""
    alphas = [picture.alpha for picture in map(read, layers) if picture.alpha is not None and picture.alpha.any()]
    return (
        torch.cat([images.resize(alpha, *alphas[0].shape[-2:]) for alpha in alphas], 1).amax(1, True)
        if alphas
        else None
    )


def read(path: Path) -> images.Picture:
    """Read a picture, which may have as many pixels as an upload."""
    return images.read(_picture(path), pixels=PIXELS)


def _picture(path: Path) -> Path:
    """The path; ImageError if it is a film's, which was not inspected by decoders of pictures."""
    if path.suffix in films.FORMATS.values():
        raise ImageError(f"{path.name}: is a film; choose a picture")
    return path


def _on_white(picture: images.Picture) -> images.Picture:
    if picture.alpha is None:
        return picture
    return replace(picture, image=picture.image * picture.alpha + 1 - picture.alpha, alpha=None)


def _check_size(image: Tensor, recipe: Transfer) -> None:
    """InputError if the result or the resized painting would be larger than an upload may be."""
    height, width = image.shape[-2], image.shape[-1]
    if recipe.size:
        height, width = images.fit(height, width, recipe.size)
    if height * width > PIXELS or (recipe.style_scale * max(height, width)) ** 2 > 2 * PIXELS:
        raise InputError(
            f"`size`: the picture or the strokes are too large; {round(PIXELS**0.5)} pixels are always fine"
        )


def _at(photo: Path, size: int) -> tuple[images.Picture, Tensor]:
    picture = read(photo)
    return picture, images.at_most(picture.image, size) if size else picture.image


def _named(suffix: str, *paths: str | Path) -> str:
    """The name of a result, from those of its inputs."""
    return files.shortened("-".join(Path(path).stem for path in paths), 200) + suffix


def _write(
    folder: Path, picture: images.Picture, image: Tensor, styles: Sequence[str | Path], receipt: dict[str, Any]
) -> Result:
    out = folder / _named(".png", picture.name, *styles)
    run_transfer.save(run_transfer.Watch(out, receipt=receipt), run_transfer.Inputs(picture), image)
    return Result(out, _pair(folder, picture.image, image))


def _pair(folder: Path, before: Tensor, after: Tensor) -> tuple[Path, Path]:
    """Write before and after for the page, at the same size and no larger than a screen."""
    after = images.at_most(after, SHOWN)
    paths = folder / "before.jpg", folder / "after.jpg"
    images.write(paths[0], images.resize(before, *after.shape[-2:]))
    images.write(paths[1], after)
    return paths


def _preview(image: Tensor, path: Path) -> None:
    images.write(path, images.at_most(image, SHOWN))


def restore(path: Path) -> dict[str, Any] | None:
    """The receipt of a picture, if it has one."""
    try:
        return images.read_receipt(_picture(path))
    except ImageError:
        return None


def warm() -> None:
    """Load a network before the first job."""
    onepass.load(next(iter(bundled.STYLES)))
