"""The terminal: progress bars, notes, Ctrl-C, and the last line, which names the result."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from impasto import masks, weights
from impasto.errors import IncompleteError, Stopped, spell
from impasto.images import Picture

STDERR = Console(stderr=True)
LOG_EVERY = 30  # seconds
LISTED = 20  # failed files in the last message


def fetch_encoder(name: str, *, quiet: bool) -> None:
    """Download an encoder's weights if they are missing, with a progress bar."""
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
    """A progress bar on stderr.

    If stderr is not a terminal, a line is printed every `LOG_EVERY` seconds instead.

    Args:
        total: steps in all; None: unknown.
        quiet: show nothing.
        label: in front of the bar.

    Yields:
        A function that takes the steps done, a detail to show, and a new total.
    """
    rest = Column(ratio=1, no_wrap=True)  # the rest of the line: only the detail is cut where space is short
    columns = (
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(compact=True), TextColumn("{task.fields[detail]}", table_column=rest),
    )  # fmt: skip
    log = not (quiet or STDERR.is_terminal)
    with Progress(*columns, console=STDERR, disable=quiet or log, expand=True) as bar:
        task = bar.add_task(label, total=total, detail="")
        logged = time.monotonic()

        def report(done: int, detail: str = "", total: int | None = total) -> None:
            nonlocal logged
            bar.update(task, completed=done, detail=detail, total=total)
            if log and time.monotonic() >= logged + LOG_EVERY:
                logged = time.monotonic()
                STDERR.print(bar)

        try:
            yield report
        finally:  # an error before the first step leaves only its own line
            bar.live.transient = not bar.tasks[0].completed
            if log and bar.tasks[0].completed:
                STDERR.print(bar)


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C stop after the current iteration, and a second one at once; yields whether it was pressed.

    SIGTERM and SIGHUP count as Ctrl-C: the command line turns them into it.
    """
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


def spelled(terms: Mapping[str, SupportsFloat]) -> str:
    """The terms of a loss, for a line of progress."""
    return ", ".join(f"{name} {float(term):.3g}" for name, term in terms.items())


def note(text: str) -> None:
    """Print a note for the user."""
    print(f"impasto: note: {text}", file=sys.stderr)


def note_empty(pictures: Sequence[Picture]) -> None:
    """Name the masks that limit nothing."""
    for mask in pictures:
        values = masks.read(mask)
        if float(values.max() - values.min()) < masks.EMPTY:
            note(f"{mask.name}: has one value everywhere, so it limits nothing")


def complain(text: str) -> None:
    """Print what went wrong with one of several files."""
    print(f"impasto: {spell(text, '--', '-')}", file=sys.stderr)


def incomplete(failed: Sequence[str], total: int) -> IncompleteError:
    """The error at the end of a run of several files: lists those that failed."""
    listed = ", ".join(failed[:LISTED]) + (f" and {len(failed) - LISTED} more" if len(failed) > LISTED else "")
    return IncompleteError(f"{len(failed)} of {total} could not be repainted: {listed}")


def say(path: Path | str) -> None:
    """Print the path of the result, the last line of every command."""
    print(path, file=sys.stdout, flush=True)


@contextmanager
def saying(path: Path | str, *, although: tuple[type[Exception], ...] = (Stopped,)) -> Iterator[None]:
    """`say` the path at the end, also if the body raises an error of ``although``."""
    try:
        yield
    except although:
        say(path)
        raise
    say(path)
