"""What a person at a terminal sees and does: progress bars, notes, Ctrl-C, the last line."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from impasto import weights
from impasto.errors import Stopped

STDERR = Console(stderr=True)
LOG_EVERY = 30  # seconds


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
