"""Jobs on a Ray cluster: each worker loads its networks once, and reads and writes local paths or URLs.

Ray Data distributes the jobs, restarts workers, and repeats the jobs of a node that died. A job can therefore run
twice; its result is the same, and is written completely or not at all.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from impasto import files, images
from impasto.errors import ImpastoError, InputError, Stopped, lack_of_memory
from impasto.runs import terminal

CORES = 2  # of a worker; more threads for one picture wait for each other
BLOCKS = 2000  # the most parts that the jobs are divided into; the jobs of one part are repeated together
PATIENCE = 5  # seconds to reach a cluster
ATTEMPTS = 3
CHANCE = "client server failed"  # its process dies in about one of twenty starts (ray-project/ray issue 63202)
BUCKETS = {"s3", "gs", "abfs", "oci", "oss", "r2"}  # stores without folders: a new folder would be a new bucket


@dataclass(frozen=True)
class Job:
    """One picture to make.

    Attributes:
        source, out: a path or URL each.
        options: whatever else the work needs, as JSON.
    """

    source: str
    out: str
    options: str = ""


Work = Callable[[Path, Path, str], object]  # makes a picture: source, out, options


class Worker:
    """One process of the cluster, with its part of a node's cores."""

    def __init__(self, work: Work) -> None:
        import ray
        import torch

        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
        self.work = work

    def __call__(self, job: dict[str, str]) -> dict[str, str]:
        return {"out": job["out"], "fault": attempt(self.work, Job(**job))}


def attempt(work: Work, job: Job) -> str:
    """Do a job; returns what was wrong with it, in one line, or nothing. Only Stopped is raised."""
    try:
        with fetched(job.source) as source, delivered(job.out) as out:
            work(source, out, job.options)
    except Stopped:
        raise
    except Exception as error:  # any: one job of a million does not end the others
        if lack_of_memory(error):
            return f"{job.source}: not enough memory; make it smaller"
        what = str(error) if isinstance(error, ImpastoError | OSError) else f"{type(error).__name__}: {error}"
        named = job.source in what or job.out in what
        return " ".join((what if named else f"{job.source}: {what}").split())
    return ""


def run(address: str, work: Work, jobs: Sequence[Job], *, quiet: bool) -> None:
    """Do all jobs, with a progress bar, and list those that failed.

    Args:
        address: auto, for the cluster that this machine belongs to, or ray://HOST:PORT; empty: here, one by one.
        work: pickled, and sent to every worker once.
        jobs: what to do.
        quiet: no progress bar.

    Raises:
        InputError: there is no cluster at the address, or Ray is not installed.
        IncompleteError: some jobs failed.
        Stopped: after Ctrl-C; finished pictures are kept.
    """
    failed: list[str] = []
    with (
        connected(address) if address else nullcontext(),
        terminal.progress(len(jobs), quiet=quiet) as report,
        terminal.interruption() as interrupted,
    ):
        done: Iterator[tuple[str, str]]
        if not address:
            done = ((job.out, attempt(work, job)) for job in jobs)
        else:
            done = outcomes(work, jobs) if address == "auto" else outcomes_there(work, jobs)
        for count, (out, fault) in enumerate(done, 1):
            if fault:
                failed.append(PurePosixPath(out).name)
                terminal.complain(fault)
            report(count, PurePosixPath(out).name)
            if interrupted():
                raise Stopped(f"stopped after {count} of {len(jobs)}; continue with `resume`")
    if failed:
        raise terminal.incomplete(failed, len(jobs))


def outcomes(work: Work, jobs: Sequence[Job]) -> Iterator[tuple[str, str]]:
    """Do the jobs on the connected cluster; yields the result's place and the fault, or "", of each when it is done."""
    import ray
    import ray.data

    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cores = min([CORES, *(count for count in nodes if count)])
    most = max(1, sum(count // cores for count in nodes))
    if not jobs:
        return
    rows = ray.data.from_items([asdict(job) for job in jobs], override_num_blocks=min(len(jobs), BLOCKS))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most)
    done = rows.map(Worker, fn_constructor_args=(work,), compute=pool, num_cpus=cores)
    for row in done.iter_rows():
        yield row["out"], row["fault"]


class Coordinator:
    """`outcomes`, in a process on the cluster: Ray Data cannot be driven from outside."""

    def __init__(self, work: Work, jobs: Sequence[Job]) -> None:
        self.done = outcomes(work, jobs)

    def following(self) -> tuple[str, str] | None:
        return next(self.done, None)


def outcomes_there(work: Work, jobs: Sequence[Job]) -> Iterator[tuple[str, str]]:
    """`outcomes`, from outside the cluster."""
    import ray

    at_the_head: Any = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001})
    coordinator = at_the_head(Coordinator).remote(work, jobs)
    while (outcome := ray.get(coordinator.following.remote())) is not None:
        yield outcome


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of a cluster."""
    try:
        import ray
    except ImportError:
        raise InputError("`cluster` needs Ray: pip install 'impasto[cluster]'") from None
    host, port = "", 0
    with suppress(ValueError):  # the port is no number below 65536
        place = urlsplit(address)
        host, port = place.hostname or "", place.port or 0
    if address != "auto" and not (address.startswith("ray://") and host and port):
        raise InputError(f"`cluster` {address} must be auto or ray://HOST:PORT")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # otherwise Ray's own notes appear among ours
    for attempt in range(ATTEMPTS):
        try:
            if host:  # ray itself tries for half a minute
                socket.create_connection((host, port), PATIENCE).close()
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            break
        except (OSError, RuntimeError, UnicodeError) as error:  # of a host's name; ConnectionError is an OSError
            ray.shutdown()  # otherwise Ray remains half connected, and the next attempt fails
            why = " ".join(str(error).split("Error: ")[-1].split())  # without a traceback of the cluster
            if CHANCE in why and attempt + 1 < ATTEMPTS:
                continue
            raise InputError(f"`cluster` {address} does not answer ({why}); `ray start --head` starts one") from error
    try:
        yield
    finally:
        ray.shutdown()


# Paths and URLs


def located(path: str | Path) -> str:
    """A path or URL as it was meant: pathlib makes s3:/bucket of s3://bucket; file:///folder is /folder."""
    text = re.sub(r"^(\w{2,}):/+", r"\1://", str(path))
    return re.sub(r"^(file|local)://", "/", text)


def is_url(place: str) -> bool:
    return "://" in place


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path there; InputError if there is none."""
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(url)
        return fs, str(path)
    except Exception as error:  # each store has its own
        raise InputError(f"{url}: {error}") from None


def listed(url: str) -> tuple[Any, str, list[str]]:
    """The file system of a URL, the path there, and the paths of all files below it; InputError if that fails."""
    fs, root = filesystem(url)
    try:
        return fs, root, fs.find(root)
    except Exception as error:  # each store has its own, for example without credentials
        raise InputError(f"{url}: cannot be listed ({error})") from None


@contextmanager
def fetched(place: str) -> Iterator[Path]:
    """A local copy of the file at a URL, of the same name; a path itself."""
    if not is_url(place):
        yield Path(place)
        return
    fs, path = filesystem(place)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PurePosixPath(path).name
        fs.get_file(path, str(copy))
        yield copy


@contextmanager
def delivered(place: str) -> Iterator[Path]:
    """A path to write a file to, which is then sent to a URL: object stores show it when it is complete."""
    if not is_url(place):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        yield Path(place)
        return
    fs, path = filesystem(place)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PurePosixPath(path).name
        yield copy
        try:
            if not BUCKETS.intersection([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
                with suppress(FileExistsError):
                    fs.makedirs(str(PurePosixPath(path).parent))
            fs.put_file(str(copy), path)
        except Exception as error:  # each store has its own
            raise files.unwritable(place, error) from error


def pictures(source: str, out: str, name: Callable[[PurePath], PurePath]) -> list[Job]:
    """A job for every picture below a folder, hidden ones excepted.

    Args:
        source: the folder's path or URL.
        out: the folder of the results, a path or URL.
        name: a picture's path, relative to ``source`` -> its result's, relative to ``out``.

    Returns:
        The jobs, sorted by the pictures' paths.

    Raises:
        InputError: no pictures are there, or there is no such file system.
    """
    fs, root, paths = listed(source)
    found = []
    for path in sorted(paths):
        below = PurePosixPath(path).relative_to(PurePosixPath(root))
        if path != root and not any(part[0] == "." for part in below.parts) and below.suffix.lower() in images.SUFFIXES:
            there = fs.unstrip_protocol(path) if is_url(source) else path
            found.append(Job(there, f"{out.rstrip('/')}/{name(below)}"))
    if not found:
        raise InputError(f"{source}: no picture there")
    return found


def unfinished(jobs: Sequence[Job], out: str) -> list[Job]:
    """The jobs whose result does not exist below ``out`` yet."""
    if not is_url(out):
        return [job for job in jobs if not Path(job.out).exists()]
    fs, _, paths = listed(out)
    there = {fs.unstrip_protocol(path) for path in paths}
    return [job for job in jobs if fs.unstrip_protocol(filesystem(job.out)[1]) not in there]
