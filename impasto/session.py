"""A run with everything around it: progress, checkpoints, films, receipts, resuming, Ctrl-C.

The engines only yield; what a person at a terminal expects is added here, in `paint`'s one loop.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor

import impasto
from impasto import encoder, fields, images, pictures, sheets, study, transfer, video, weights
from impasto.errors import InputError, Stopped
from impasto.images import Picture
from impasto.recipes import Transfer

STDERR = Console(stderr=True)
LOG_EVERY = 30  # seconds


@dataclass(frozen=True)
class Inputs:
    """What is repainted, and with what."""

    content: Picture
    styles: Sequence[Picture] = ()
    content_masks: Sequence[Picture] = ()
    style_masks: Sequence[Picture] = ()


@dataclass
class Watch:
    """What is wanted beside the picture itself."""

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
    """Read every input before any work starts; notes about them go to the standard error."""

    def read(name: str) -> Picture:
        picture = images.read(pictures.locate(name))
        if picture.note:
            note(picture.note)
        return picture

    groups = ([read(name) for name in names] for names in (styles, content_masks, style_masks))
    return Inputs(read(content), *groups)


def receipt(command: str, recipe: Transfer, inputs: Inputs) -> dict[str, Any]:
    """All that decides the picture: version, recipe with its seed, and the sha256 of the encoder and inputs."""

    def about(picture: Picture) -> dict[str, str]:
        return {"name": Path(picture.name).name, "sha256": picture.sha256}

    begun = {}
    if (start := Path(recipe.init)).is_file():
        begun["begun"] = {"name": start.name, "sha256": weights.sha256(start)}
        recipe = replace(recipe, init=start.name)
    return {
        "impasto": impasto.__version__,
        "command": command,
        "recipe": fields.to_json(recipe),
        "encoder": weights.sha256(encoder.file(recipe.encoder)),
        "content": about(inputs.content),
        "styles": [about(picture) for picture in inputs.styles],
        "content_masks": [about(picture) for picture in inputs.content_masks],
        "style_masks": [about(picture) for picture in inputs.style_masks],
        **begun,
    }


def paint(inputs: Inputs, recipe: Transfer, watch: Watch) -> Tensor:
    """Run a transfer or a reconstruction, with all that `watch` wants, and write the picture.

    Raises:
        Stopped: after Ctrl-C; the picture so far has been written.
        whatever `transfer.steps` raises: also after the picture so far, if there is one, has been written.
    """
    images.check_output(watch.out)
    fields.check(recipe)
    fetch_encoder(recipe.encoder, quiet=watch.quiet)
    watch.receipt = receipt(watch.command, recipe, inputs)
    if watch.state is not None:
        check_resumable(json.loads(watch.state["receipt"]), watch.receipt)
    content = inputs.content
    shape = (content.image.shape[-2], content.image.shape[-1])
    height, width = images.fit(*shape, recipe.size) if recipe.size else shape
    every = recipe.frame_every or max(1, recipe.steps // (10 * recipe.fps))
    last: transfer.Step | None = None
    stopped = ""
    with ExitStack() as stack:
        film = stack.enter_context(video.writer(watch.film, height, width, fps=recipe.fps)) if watch.film else None
        report = stack.enter_context(progress(recipe.steps, quiet=watch.quiet))
        interrupted = stack.enter_context(interruption())
        try:
            for step in transfer.steps(
                content,
                list(inputs.styles),
                recipe,
                content_masks=inputs.content_masks,
                style_masks=inputs.style_masks,
                device=watch.device,
                memory=watch.memory,
                state=watch.state,
            ):
                last = step
                report(step.index, f"loss {step.loss:.4g} at {step.size[1]} px")
                if film is not None and (step.index - 1) % every == 0:
                    film(step.image)
                if recipe.checkpoint_every and step.index % recipe.checkpoint_every == 0:
                    save_checkpoint(watch, recipe, inputs, step)
                if interrupted():
                    stopped = f"stopped at step {step.index} of {step.total}"
                    break
        except BaseException:
            if last is not None:
                save(watch, inputs, images.resize(last.image.cpu(), height, width))
            raise
    if last is None:
        raise InputError("no step is left to do" if watch.state else "`steps` must be 1 or more, to paint anything")
    image = images.resize(last.image.cpu(), height, width)
    del last, step  # and with them the optimiser
    save(watch, inputs, image)
    if stopped:
        raise Stopped(stopped)
    if recipe.checkpoint_every:
        resume_file(watch.out).unlink(missing_ok=True)
    return image


def save(watch: Watch, inputs: Inputs, image: Tensor, path: Path | None = None) -> None:
    """Write a picture with the content's transparency and colour profile, and the receipt."""
    alpha = inputs.content.alpha
    if alpha is not None:
        alpha = images.resize(alpha, image.shape[-2], image.shape[-1])
    images.write(path or watch.out, image, alpha=alpha, profile=inputs.content.profile, receipt=watch.receipt)


def numbered(out: Path, label: str) -> Path:
    """OUT.png and 0050 -> OUT_0050.png."""
    return out.with_name(f"{out.stem}_{label}{out.suffix}")


def resume_file(out: Path) -> Path:
    return out.with_suffix(".resume")


def save_checkpoint(watch: Watch, recipe: Transfer, inputs: Inputs, step: transfer.Step) -> None:
    """OUT_0050.png, what is needed to resume from it, and, if the recipe wants it, the figure of three."""
    image = step.image.cpu()
    label = f"{step.index:04d}"
    save(watch, inputs, image, numbered(watch.out, label))
    if recipe.figure:
        content = images.resize(inputs.content.image, image.shape[-2], image.shape[-1])
        panels = [("content", content), (f"step {step.index}", image)]
        panels += [("style", style.image) for style in inputs.styles]
        images.write(numbered(watch.out, f"{label}_figure"), sheets.sheet(panels), receipt=watch.receipt)
    with images.atomic(resume_file(watch.out)) as part:
        torch.save({**step.state(), "receipt": json.dumps(watch.receipt)}, part)


def load_state(path: Path) -> dict[str, Any]:
    """A file to resume from.

    Raises:
        InputError: it is missing, damaged or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        json.loads(state["receipt"]), int(state["done"]), state["inner"]["image"].shape
    except FileNotFoundError:
        raise InputError(f"{path}: no such file to resume from") from None
    except Exception:
        raise InputError(f"{path}: not a file to resume from: give the OUT.resume beside the checkpoints") from None
    return dict(state)


def check_resumable(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A run goes on only with what it began with.

    Raises:
        InputError: names what differs.
    """
    settings = {f"`{name}`" for name, value in now["recipe"].items() if before["recipe"].get(name) != value}
    others = {
        name.replace("_", " ") for name in now if name not in ("recipe", "impasto") and before.get(name) != now[name]
    }
    if settings or others:
        raise InputError(f"cannot resume with another {', '.join(sorted(settings | others))}")


def fetch_encoder(name: str, *, quiet: bool) -> None:
    """Download an encoder that is not here yet, with a bar."""
    if name not in weights.WEIGHTS or weights.find(name) is not None:
        return
    with Progress(
        TextColumn(f"downloading {weights.WEIGHTS[name].file}"), BarColumn(), TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(), console=STDERR, disable=quiet,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=weights.WEIGHTS[name].size)
        for done, total in weights.download(name):
            bar.update(task, completed=done, total=total)


@contextmanager
def progress(total: int | None, *, quiet: bool, label: str = "painting") -> Iterator[Callable[..., None]]:
    """A bar on the standard error; gives the function that is told what is done, a word on it, and the new total.

    Where that is no terminal but a log, the bar is a line every `LOG_EVERY` seconds.
    """
    rest = Column(ratio=1, no_wrap=True)  # of the line: where it is short, the word on it is cut, and no number
    columns = (
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(compact=True), TextColumn("{task.fields[detail]}", table_column=rest),
    )  # fmt: skip
    with Progress(*columns, console=STDERR, disable=quiet, expand=True) as bar:
        task = bar.add_task(label, total=total, detail="")
        logged = time.monotonic()

        def report(done: int, detail: str = "", total: int | None = total) -> None:
            nonlocal logged
            bar.update(task, completed=done, detail=detail, total=total)
            if not (quiet or STDERR.is_terminal) and time.monotonic() >= logged + LOG_EVERY:
                logged = time.monotonic()
                STDERR.print(bar)

        yield report


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks to stop after the iteration in hand; a second one stops at once."""
    asked = threading.Event()

    def handler(signum: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def note(text: str) -> None:
    """What the user should know."""
    print(f"impasto: note: {text}", file=sys.stderr)


def say(path: Path) -> None:
    """The last line of every command: what it wrote."""
    print(path, file=sys.stdout, flush=True)


@contextmanager
def saying(path: Path, *, although: tuple[type[Exception], ...] = (Stopped,)) -> Iterator[None]:
    """`say` it when all is done, and also when what was to be done ends in one of these."""
    try:
        yield
    except although:
        say(path)
        raise
    say(path)


def drawing(
    inputs: Inputs, panels: Sequence[study.Panel], *, device: str, memory: float
) -> Iterator[tuple[study.Panel, transfer.Step]]:
    """Every step of every panel of a study."""
    for panel in panels:
        for step in transfer.steps(inputs.content, list(inputs.styles), panel.recipe, device=device, memory=memory):
            yield panel, step


def study_sheet(inputs: Inputs, drawn: Mapping[str, transfer.Step], *, size: int, title: str) -> Tensor:
    """The last step of each panel of a study, beside what they were drawn from."""
    panels = [("content", images.to_size(inputs.content.image, size))]
    panels += [("style", style.image) for style in inputs.styles]
    panels += [(label, step.image.cpu()) for label, step in drawn.items()]
    return sheets.sheet(panels, columns=4 if len(panels) > 7 else 0, title=title)


def draw(
    inputs: Inputs, panels: Sequence[study.Panel], *, title: str, device: str, memory: float, quiet: bool
) -> tuple[Tensor, bool]:
    """Run each panel of a study; the labelled sheet, and whether Ctrl-C cut it short."""
    drawn: dict[str, transfer.Step] = {}
    stopped = False
    total = sum(panel.recipe.steps for panel in panels)
    with progress(total, quiet=quiet, label="drawing") as report, interruption() as interrupted:
        steps = drawing(inputs, panels, device=device, memory=memory)
        for done, (panel, step) in enumerate(steps, 1):
            report(done, f"{panel.label}: loss {step.loss:.4g}")
            drawn[panel.label] = step
            stopped = interrupted()
            if stopped:
                break
    return study_sheet(inputs, drawn, size=panels[0].recipe.size, title=title), stopped


def from_receipt(receipt: Mapping[str, Any], folders: Sequence[Path]) -> tuple[Transfer, Inputs]:
    """The recipe of a receipt and its inputs, found by name and sha256 in folders or among what ships.

    Raises:
        InputError: an input is not there, or is another than it was, or the encoder is another.
    """
    recipe = fields.from_json(receipt["recipe"], Transfer)
    check_encoder(receipt, recipe.encoder)
    if "begun" in receipt:
        recipe = replace(recipe, init=str(find_input(receipt["begun"], folders)))
    groups = ([receipt["content"]], receipt["styles"], receipt["content_masks"], receipt["style_masks"])
    content, *others = ([images.read(find_input(entry, folders)) for entry in group] for group in groups)
    return recipe, Inputs(content[0], *others)


def find_input(entry: Mapping[str, str], folders: Sequence[Path]) -> Path:
    """The file that a receipt names, in one of the folders or among what ships.

    Raises:
        InputError: it is not there, or is another than it was.
    """
    shipped = [pictures.locate(name) for name in (*pictures.STYLES, *pictures.CONTENTS)]
    for path in [folder / entry["name"] for folder in folders] + [p for p in shipped if p.name == entry["name"]]:
        if path.is_file() and weights.sha256(path) == entry["sha256"]:
            return path
    raise InputError(f"{entry['name']} (sha256 {entry['sha256'][:12]}...) is not here: name its folder with `inputs`")


def check_encoder(receipt: Mapping[str, Any], name: str) -> None:
    """InputError where the encoder is another than the one of a receipt."""
    if receipt["encoder"] != weights.sha256(encoder.file(name)):
        raise InputError(f"encoder {name} is another file than the one that made this picture")
