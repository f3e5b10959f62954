"""Runs of repainting films, with progress, Ctrl-C and resuming."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto import files, images, machine, muxing, recording, steady, transfer, video
from impasto.errors import InputError, OutputError, Stopped, VideoError
from impasto.recipes import Transfer
from impasto.runs import receipts, terminal
from impasto.video import Film, Frame

TRIMMED = 50  # frames after which unused memory is given back: otherwise it grows over some hundred frames


@dataclass(frozen=True)
class Settings:
    """How to repaint a film.

    Attributes:
        steady: carry the painting from frame to frame; otherwise each frame is painted by itself.
        start, end: the seconds of the film to repaint.
        crf: quality of the encoder: lower is better and larger.
        fps: frames per second of an image sequence; 0: 25.
    """

    steady: bool = True
    start: float = 0.0
    end: float = math.inf
    crf: int = recording.CRF
    fps: float = 0.0


@dataclass
class Painting:
    """A film that is being painted: iterating paints it, frame by frame, and yields each painting.

    Attributes:
        film: the film that is read.
        sink: where the paintings go.
        done: frames that are painted, those of an earlier run included.
        speed: frames per second so far.
    """

    film: Film
    sink: Sink
    paintings: Iterator[tuple[Tensor, Fraction]]
    done: int = 0
    speed: float = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        began = time.monotonic()
        for count, (image, when) in enumerate(self.paintings, 1):
            self.sink.add(image, when)
            self.done, self.speed = self.sink.skipped + count, count / (time.monotonic() - began)
            if count % TRIMMED == 0:
                machine.give_memory_back()
            yield image
        if not self.done and not self.sink.skipped:
            raise VideoError(f"{self.film.path}: contains no readable frame")
        self.sink.complete = True


@contextmanager
def painting(
    path: Path,
    out: Path,
    paint: steady.Paint,
    settings: Settings,
    *,
    receipt: dict[str, Any],
    resume: bool = False,
) -> Iterator[Painting]:
    """Begin to repaint a film; the film so far is written at the end of the context, also after an error.

    Args:
        path, out, paint, settings, receipt, resume: as of `repaint`.

    Yields:
        The film; iterating over it paints it.

    Raises:
        VideoError, OutputError, InputError: the film cannot be read or written.
    """
    recording.check_output(out)
    half = receipts.resume_file(out)
    if resume and not video.NUMBER.search(out.name) and not half.exists():
        raise InputError(f"{half}: no such half-done film; repaint without `resume`")
    film = video.find(path, start=settings.start, end=settings.end, rate=settings.fps)
    recording.check_output(out, film.pictures or [path])
    facts = {
        **receipt,
        "settings": repr(settings),
        "codec": recording.WRITTEN.get(out.suffix.lower(), ("", ""))[1],
        "film": path.name,
        "size": path.stat().st_size if path.exists() else 0,
    }
    with _sink(film, out, settings.crf, facts, resume=resume) as sink:
        carrier = steady.Carrier()
        frames = _unpainted(film, sink, carrier)
        if settings.steady:
            paintings = steady.repaint(frames, paint, carrier=carrier)
        else:
            paintings = ((paint(frame.float() / 255, None, None), when) for frame, when in frames)
        yield Painting(film, sink, paintings)


def repaint(
    path: Path,
    out: Path,
    paint: steady.Paint,
    settings: Settings,
    *,
    receipt: dict[str, Any],
    quiet: bool,
    resume: bool = False,
) -> None:
    """Repaint a film.

    Args:
        path: a film, an animation, or a folder or pattern of pictures.
        out: a film, an animation, or a pattern of pictures.
        paint: as `steady.repaint` takes it.
        settings: how.
        receipt: what else determines the result; a film is only resumed with the same. Of numbered pictures, those
            that exist are kept, whatever made them.
        quiet: no progress.
        resume: continue an interrupted run.

    Raises:
        VideoError, OutputError, InputError: the film cannot be read or written.
        Stopped: after Ctrl-C; the film so far has been written.
    """
    stopped = ""
    with (
        terminal.interruption() as interrupted,
        painting(path, out, paint, settings, receipt=receipt, resume=resume) as made,
        terminal.progress(made.film.total or None, quiet=quiet, label="repainting") as report,
    ):
        film = made.film
        for _ in made:
            report(made.done, f"{made.speed:.2g} frames per second", film.total or None)
            if interrupted():
                stopped = f"stopped after {made.done} frames, saved in {out}"
                break
    for lost in made.sink.lost:
        terminal.note(f"{out.name} cannot hold {lost}; left out")
    if film.damaged:
        terminal.note(f"{path.name}: {film.damaged} damaged packets were skipped")
    if film.disordered:
        terminal.note(f"{path.name}: the times of {film.disordered} frames were not in order and were corrected")
    if stopped:
        raise Stopped(stopped)


def by_optimisation(
    styles: Sequence[images.Source], recipe: Transfer, *, device: str = "auto", memory: float = 0.0
) -> steady.Paint:
    """Paint frames by optimisation, each one close to those before it, for `repaint` without ``steady`` (Ruder2016).

    The first frame of a shot is painted as a picture is. The others start from the last painting, carried along with
    the motion, and take a third of the steps, all at full size. Faces are painted like the rest.

    Args:
        styles, recipe, device, memory: as `transfer.steps` takes them.

    Returns:
        A function for the frames of one film, in order: it remembers those before.
    """
    recipe = replace(recipe, face_strength=1.0)  # found in one frame and missed in the next, faces would flicker
    follower = steady.Follower()
    later = replace(recipe, scales=(1.0,), steps=max(1, -(-recipe.steps // 3)))

    def paint(frame: Tensor, film: object, settle: object) -> Tensor:
        small = images.to_size(frame, recipe.size) if recipe.size else frame
        follow = follower(small)
        last = None
        for last in transfer.steps(  # noqa: B007
            small, styles, recipe if follow is None else later, device=device, memory=memory, follow=follow
        ):
            pass
        if last is None:
            raise InputError("`steps` must be 1 or more")
        painted = last.image.cpu()
        follower.remember(small, painted)
        return painted

    return paint


def _unpainted(film: Film, sink: Sink, carrier: steady.Carrier) -> Iterator[Frame]:
    """The frames that are not painted yet; the last painted one goes to ``carrier``."""
    frames = film.frames()
    before = None
    for frame, when in frames:
        if not sink.has(when):
            last = sink.last() if sink.skipped else None
            if before is not None and last is not None:
                carrier.last = before.float() / 255, last.float() / 255
            yield frame, when
            break
        sink.skipped += 1
        before = frame
    yield from frames


@dataclass
class Sink:
    """Where painted frames go.

    Attributes:
        add: takes a painting and its time.
        has: whether the frame of this time is there already, from an earlier run.
        last: the last frame of the earlier run.
        watch: writes the film so far to a path; not for pictures.
        skipped: the number of frames from an earlier run.
        complete: whether all of the film was painted.
        lost: what of the source could not be kept.
    """

    add: Callable[[Tensor, Fraction], None]
    has: Callable[[Fraction], bool] = lambda when: False
    last: Callable[[], Tensor | None] = lambda: None
    watch: Callable[[Path], None] = lambda path: None
    skipped: int = 0
    complete: bool = False
    lost: tuple[str, ...] = ()


@contextmanager
def _sink(film: Film, out: Path, crf: int, facts: dict[str, Any], *, resume: bool) -> Iterator[Sink]:
    if video.NUMBER.search(out.name):
        yield _pictures(out, resume=resume)
    elif recording.WRITTEN[out.suffix.lower()][1] in ("gif", "libwebp_anim", "apng"):
        with _animation(film, out, crf) as sink:
            yield sink
    else:
        with _film(film, out, crf, facts, resume=resume) as sink:
            yield sink


def _pictures(out: Path, *, resume: bool) -> Sink:
    """Numbered pictures, from 1, in a folder that is made if it is missing."""
    count = 0
    out.parent.mkdir(exist_ok=True)

    def add(image: Tensor, when: Fraction) -> None:
        nonlocal count
        count += 1
        images.write(recording.numbered(out, count), image)

    def has(when: Fraction) -> bool:
        nonlocal count
        there = resume and recording.numbered(out, count + 1).exists()
        count += there
        return there

    def last() -> Tensor:
        return images.read(recording.numbered(out, count)).image.mul(255).round().byte()

    return Sink(add, has, last)


@contextmanager
def _animation(film: Film, out: Path, crf: int) -> Iterator[Sink]:
    """An animated picture. After an error, it holds what was painted; if it cannot be written, an older one stays."""
    failure: Exception | None = None
    with files.atomic(out) as part:
        try:
            with _encoding(film, part, out, crf) as add:
                yield Sink(add)
        except Exception as error:
            if not (part.exists() and part.stat().st_size):
                raise
            if isinstance(error, OutputError):
                raise receipts.kept(lambda other: shutil.move(part, other), out, out.suffix, error) from error
            failure = error
    if failure is not None:
        raise failure


@contextmanager
def _encoding(
    film: Film, path: Path, out: Path, crf: int, kind: str = ""
) -> Iterator[Callable[[Tensor, Fraction], None]]:
    """An encoder into ``path``; yields the function that adds a frame."""
    av = video.library(out)
    format_, codec = recording.WRITTEN[out.suffix.lower()]
    encoder = container = None

    def add(image: Tensor, when: Fraction) -> None:
        nonlocal encoder, container
        with recording.writing(out):
            if encoder is None:
                options = recording.ENDLESS.get(kind or format_, {})
                container = av.open(str(path), "w", format=kind or format_, options=options)
                encoder = recording.Encoder(container, codec, image.shape[-2], image.shape[-1], film, crf)
            encoder.add(image, when)

    try:
        yield add
    finally:
        if encoder is not None and container is not None:
            with recording.writing(out):
                encoder.finish()
                container.close()


@contextmanager
def _film(film: Film, out: Path, crf: int, facts: dict[str, Any], *, resume: bool) -> Iterator[Sink]:
    """A film in parts, which become the result at the end, also after Ctrl-C or an error."""
    parts = muxing.Parts(receipts.resume_file(out), film, facts, resume=resume)
    encoding = ExitStack()

    def begin() -> None:
        """End the current part, and begin the next."""
        encoding.close()
        sink.add = encoding.enter_context(_encoding(film, parts.new(), out, crf, "nut"))

    def watch(path: Path) -> None:
        begin()
        muxing.assemble(parts, path, complete=False)

    sink = Sink(
        lambda image, when: None, lambda when: round(when / film.time_base) in parts.done, parts.last, watch
    )  # fmt: skip
    try:
        with encoding:
            begin()
            yield sink
    finally:
        started = next(parts.packets(), None) is not None
        if started:
            sink.lost = tuple(muxing.assemble(parts, out, complete=sink.complete))
        if sink.complete or not started:
            parts.remove()
