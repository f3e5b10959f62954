"""Folders of pictures: which results they have, and painting several pictures at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import torch

from impasto import datasets, decoding, encoding, files, images, machine, video
from impasto.errors import InputError, OutputError, lack_of_memory
from impasto.runs import terminal

if TYPE_CHECKING:
    from impasto.runs.onepass import Repaints

BYTES_PER_PIXEL = 125  # of memory while a large picture is painted: at most 119 were measured


class Room:
    """Memory for pictures that are painted at the same time.

    Args:
        pixels: as many as fit together; a larger picture is painted with no other.
    """

    def __init__(self, pixels: float) -> None:
        self.pixels, self.used, self.changed = pixels, 0, threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until ``pixels`` fit, and keep them."""
        with self.changed:
            self.changed.wait_for(lambda: not self.used or self.used + pixels <= self.pixels)
            self.used += pixels
        try:
            yield
        finally:
            with self.changed:
                self.used -= pixels
                self.changed.notify_all()


def repaint(
    pictures: Sequence[tuple[Path, Path]], painter: Repaints
) -> Iterator[tuple[Path, Path, Future[str | None]]]:
    """Repaint picture files, and yield each with the outcome of `Painter.file` when it is done.

    On a CPU, as many are in work as there are cores, each with its own thread: reading and writing use only one core,
    and threads that paint one picture together wait for each other. Elsewhere one is painted, and two are read and
    written. Pictures for which memory ran out are tried again at the end, one at a time.
    """
    cores, cpu = torch.get_num_threads(), painter.device.type == "cpu"
    lanes = max(1, min(cores, len(pictures))) if cpu else 3
    room = Room(machine.free_memory(painter.device) / 2 / BYTES_PER_PIXEL if cpu else 0)

    def work(path: Path, to: Path) -> str | None:
        to.parent.mkdir(parents=True, exist_ok=True)
        return painter.file(path, to, room)

    single = []
    pool = ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(max(1, cores // lanes),))
    try:
        for path, to, outcome in [(path, to, pool.submit(work, path, to)) for path, to in pictures]:
            error = outcome.exception()
            if error is not None and lack_of_memory(error):
                single.append((path, to))
            else:
                yield path, to, outcome
        for path, to in single:
            outcome = pool.submit(work, path, to)
            wait([outcome])
            yield path, to, outcome
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # part of it is not the thread's but the process's


def jobs(paths: Sequence[Path], out: Path, sources: Sequence[str] = ()) -> list[tuple[Path, Path]]:
    """Which pictures to repaint, and where their results go. What is left out of folders is named in notes.

    Args:
        paths: the inputs: pictures and folders. No result may overwrite one.
        out: the folder of the results.
        sources: other files that no result may overwrite, such as styles.

    Returns:
        Each picture and the path of its result: the same relative path below ``out``. With several inputs,
        the folder's name goes first.

    Raises:
        InputError: there is nothing to repaint, or results would overwrite inputs or each other.
        OutputError: the folder cannot be written to.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: the output for several pictures must be a folder, not a file")
    there = Path(os.path.realpath(out))
    originals = {Path(os.path.realpath(source)) for source in sources}  # without links
    found: dict[Path, Path] = {}  # result -> picture
    others: list[Path] = []
    for given in paths:
        here = Path(os.path.realpath(given))
        relative = {given: Path(given.name)}
        if given.is_dir():
            if there in (here, *here.parents):
                raise InputError(f"{out}: is or contains the input, which could be overwritten; choose another folder")
            pictures, left = datasets.survey(given)
            others += [path for path in left if there not in path.parents]
            relative = {path: path.relative_to(given) for path in pictures}
            if len(paths) > 1:
                relative = {path: here.name / below for path, below in relative.items()}
        for path, below in relative.items():
            original = Path(os.path.realpath(path))
            if given.is_dir() and there in original.parents:  # of an earlier run
                if not images.has_receipt(path):
                    raise InputError(f"{out}: holds pictures of the input, such as {path.name}; choose another folder")
                continue
            to = out / result_name(below)
            if to in found:
                raise InputError(f"{found[to]}, {path}: both results would be {to}; repaint them one after the other")
            found[to] = path
            originals.add(original)
    name_left_out(others)
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: no picture to repaint")
    place = out
    while not place.exists():  # the folders that will be created
        place = place.parent
    try:
        files.probe(place / "probe")
    except OSError as error:
        raise files.unwritable(out, error) from error
    for to in found:
        if to.exists() and Path(os.path.realpath(to)) in originals:
            raise OutputError(f"{to}: is also an input, which would be overwritten; choose another folder")
    return [(path, to) for to, path in found.items()]


def result_name(below: PurePath) -> PurePath:
    """The name of a result, by that of its picture or video."""
    if below.suffix.lower() in video.SUFFIXES:
        return below.with_suffix(".mp4")
    # The old suffix keeps a.bmp and a.gif apart.
    return below if below.suffix.lower() in encoding.FORMATS else below.with_name(f"{below.name}.png")


def name_left_out(
    others: Sequence[Path], *, films: str = "films, to be repainted one by one", pictures: str = "no pictures"
) -> None:
    """Name and count the files of folders that are left out.

    Args:
        others: the files.
        films, pictures: why films and pictures are.
    """
    kinds = dict.fromkeys(decoding.RAW, "RAW photographs, to be developed first")
    kinds |= dict.fromkeys(video.SUFFIXES, films) | dict.fromkeys((*images.SUFFIXES, ".npy"), pictures)
    found: dict[str, list[Path]] = {}
    for path in others:
        found.setdefault(kinds.get(path.suffix.lower(), "no pictures"), []).append(path)
    for what, left in found.items():
        names = ", ".join(path.name for path in left[:5]) + (", ..." if len(left) > 5 else "")
        terminal.note(f"left out {len(left)} ({what}): {names}")
