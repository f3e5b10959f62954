"""Many pictures, here or on a cluster: a folder in one pass, or a table of transfers."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from impasto import bundled, files, schema, video, weights
from impasto.errors import InputError, RecipeError
from impasto.recipes import STARTS, Transfer
from impasto.runs import cluster, folders, onepass as run_onepass, transfer as run_transfer
from impasto.runs.cluster import Job


def apply(
    sources: Sequence[str], out: str | Path, painter: run_onepass.Painter, address: str, *, quiet: bool, resume: bool
) -> None:
    """Repaint every picture of folders, local or URLs, in one pass each, on a cluster.

    Args:
        sources: folders or pictures.
        out: a folder.
        painter: repaints each of them.
        address: of the cluster.
        quiet: show no progress.
        resume: skip those whose results exist.

    Raises:
        InputError: there is nothing to repaint, or no such cluster.
        IncompleteError: some could not be repainted; the others are done.
        Stopped: after Ctrl-C; finished pictures are kept.
    """
    place, given = cluster.located(out), [cluster.located(source) for source in sources]
    if any(map(cluster.is_url, [place, *given])):
        place = place if cluster.is_url(place) else str(Path(place).absolute())
        names = [Path(each if cluster.is_url(each) else os.path.realpath(each)).name for each in given]
        jobs = [
            job
            for each, name in zip(given, names, strict=True)
            for job in cluster.pictures(each, f"{place}/{name}" if given[1:] else place, folders.result_name)
        ]
    else:
        found = folders.jobs([bundled.locate(each, folder=True) for each in given], Path(place), painter.sources)
        jobs = [Job(str(path.absolute()), str(to.absolute())) for path, to in found]
    if films := [job.source for job in jobs if job.source.lower().endswith(video.SUFFIXES)]:
        raise InputError(f"{films[0]}: films are repainted without `cluster`")
    cluster.run(address, partial(_repaint, painter), _left(jobs, place, resume, painter.sources), quiet=quiet)


def _repaint(painter: run_onepass.Painter, source: Path, out: Path, options: str) -> None:
    painter.file(source, out)


def transfer(
    table: Path, out: str | Path, recipe: Transfer, address: str, *, device: str, memory: float, quiet: bool,
    resume: bool,
) -> None:  # fmt: skip
    """Run a table of transfers on a cluster, or here, one after the other.

    Args:
        table: see `read`.
        out: a folder.
        recipe: the values of options that a row does not give.
        address: of the cluster; empty: here.
        device, memory: as `transfer.steps` takes them.
        quiet: show no progress.
        resume: skip those whose results exist.

    Raises:
        InputError: the table cannot be read, or there is no such cluster.
        IncompleteError: some transfers failed; the others are done.
        Stopped: after Ctrl-C; finished pictures are kept.
    """
    place = cluster.located(out)
    jobs = _left(read(table, recipe, place), place, resume)
    cluster.run(address, partial(_paint, device, memory), jobs, quiet=quiet)


def _paint(device: str, memory: float, source: Path, out: Path, options: str) -> None:
    given = json.loads(options)
    with ExitStack() as copies:
        styles = [str(copies.enter_context(cluster.fetched(style))) for style in given["styles"]]
        inputs = run_transfer.read_inputs(str(source), styles)
        recipe = schema.from_json(given["recipe"], Transfer)
        before = _written(out)
        try:
            run_transfer.paint(inputs, recipe, run_transfer.Watch(out, device=device, memory=memory, quiet=True))
        except BaseException:
            if _written(out) != before:  # it is the picture so far, which `resume` would take for done
                out.unlink(missing_ok=True)
            raise


def _written(path: Path) -> int:
    """When a file was written, in nanoseconds; 0: there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def read(table: Path, recipe: Transfer, out: str) -> list[Job]:
    """Read a table of transfers.

    The columns are content and style (several: a JSON list), each a path, a URL or a bundled name; out, the result's
    name, if not CONTENT-STYLE.png; and fields of the recipe.

    Args:
        table: CSV with a head, or JSON lines.
        recipe: the values of fields that a row does not give.
        out: the folder of the results, a path or URL.

    Returns:
        A job for each row.

    Raises:
        InputError: the file or a row cannot be used; the message names the line.
    """
    jobs: dict[str, Job] = {}
    for line, row in _rows(table):
        try:
            content, styles = row.pop("content"), row.pop("style")
            styles, name = styles if isinstance(styles, list) else [styles], row.pop("out", "")
            if not all(isinstance(each, str) for each in (content, name, *styles)):
                raise TypeError("content, style and out must be text")
            if Path(name).anchor or ".." in Path(name).parts:
                raise TypeError(f"out {name} must be a name inside the folder of the results")
            name = name or f"{'-'.join(Path(each).stem for each in (content, *styles))}.png"
            fields = {key.replace("-", "_"): value for key, value in row.items()}
            chosen = schema.from_json({**schema.to_json(recipe), **fields}, Transfer)
            if "sweep" in fields:
                raise RecipeError("a table takes no `sweep`")
            init, encoder = _absolute(chosen.init, STARTS), _absolute(chosen.encoder, weights.WEIGHTS)
            chosen = replace(chosen, init=init, encoder=encoder)
            if "\0" in "".join((content, name, *styles, init, encoder)):
                raise TypeError("a name must not contain the character 0")
        except KeyError as error:
            raise InputError(f"{table}, line {line}: the column {error} is missing") from None
        except (RecipeError, TypeError, AttributeError) as error:
            raise InputError(f"{table}, line {line}: {error}") from None
        to = f"{out.rstrip('/')}/{name}" if cluster.is_url(out) else str((Path(out) / name).absolute())
        if to in jobs:
            raise InputError(f"{table}, line {line}: {name} is already the result of another line; give it an `out`")
        options = {"styles": [_absolute(style) for style in styles], "recipe": schema.to_json(chosen)}
        jobs[to] = Job(_absolute(content), to, json.dumps(options))
    if not jobs:
        raise InputError(f"{table}: no transfers in it")
    return list(jobs.values())


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table, each with the number of its line."""
    try:
        if files.special(table):
            raise OSError(0, "a device or a pipe")
        text = table.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if table.suffix.lower() == ".csv":
        lines = csv.DictReader(text.splitlines(), restkey="", restval="", skipinitialspace=True)
        try:
            for fields in lines:
                if "" in fields:
                    raise InputError(f"{table}, line {lines.line_num}: more values than columns")
                cells = {key.strip(): cell.strip() for key, cell in fields.items()}
                yield lines.line_num, {key: _value(key, cell) for key, cell in cells.items() if cell}
        except csv.Error as error:
            raise InputError(f"{table}, line {lines.line_num + 1}: {error}") from None
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise InputError(f"{table}, line {number}: not a JSON object")
            yield number, row


def _value(key: str, text: str) -> Any:
    """A CSV value: JSON where it is, otherwise text; several styles are a JSON list."""
    if key in ("content", "out") or (key == "style" and not text.startswith("[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _absolute(place: str, names: Container[str] = ()) -> str:
    """A path as workers in other folders find it; URLs, bundled names and ``names`` are unchanged."""
    if place in names or cluster.is_url(place) or not Path(place).is_file():
        return place
    return str(Path(place).absolute())


def _left(jobs: Sequence[Job], out: str, resume: bool, sources: Sequence[str] = ()) -> Sequence[Job]:
    """The jobs that are not done; InputError if one would overwrite an input of any, or one of ``sources``."""
    left = cluster.unfinished(jobs, out) if resume else jobs
    options = [json.loads(job.options) for job in jobs if job.options]
    read = [*sources, *(job.source for job in jobs)]
    read += [place for each in options for place in (*each["styles"], each["recipe"]["init"])]
    inputs = {os.path.realpath(place) for place in read}
    twice = [out for out, count in Counter(job.out for job in jobs).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: would be the result of two inputs; repaint them one after the other")
    for job in left:
        if os.path.realpath(job.out) in inputs:
            raise InputError(f"{job.out}: is also an input, which would be overwritten; choose another folder")
    return left
