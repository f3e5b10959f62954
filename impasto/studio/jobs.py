"""Sessions with their files, and jobs that outlive the page that started them. No torch, no gradio."""

from __future__ import annotations

import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from impasto.errors import BusyError

COOKIE = "impasto-session"  # holds a session's token
WAITING = 64  # the most jobs that wait
SESSIONS = 200  # the most sessions kept; the one that was idle longest is dropped first
PREVIEWS = 20  # live pictures kept for a session: about ten seconds
RESULTS = 60  # results kept for a session


Shown = TypeVar("Shown")  # the picture so far, in the form that the work uses


@dataclass(frozen=True)
class Frame(Generic[Shown]):
    """The progress of a job at one step.

    Attributes:
        done, total: steps.
        note: a short text for the page.
        loss: the loss of this step, if it has one.
        image: the picture so far, as `Work.draw` and `Work.finish` take it; None: unchanged.
    """

    done: int
    total: int
    note: str = ""
    loss: float | None = None
    image: Shown | None = None


@dataclass(frozen=True)
class Result:
    """The result of a job.

    Attributes:
        file: the picture, with its receipt.
        pair: content and picture at the same size, to compare on the page; None: nothing to compare.
    """

    file: Path
    pair: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class Work(Generic[Shown]):
    """What a job does.

    Attributes:
        frames: does the work; yields progress, and can be stopped at any step.
        finish: turns the last picture into the result.
        draw: writes a preview of a picture to a path.
    """

    frames: Callable[[], Iterator[Frame[Shown]]]
    finish: Callable[[Shown], Result]
    draw: Callable[[Shown, Path], None]


@dataclass
class Job:
    """One piece of work for one session.

    Attributes:
        kind: the tab that it belongs to.
        work: what to do; None once it has started.
        state: waiting, running, done, stopped or failed.
        frame, preview: the latest ones.
        losses: the losses of all steps so far.
    """

    session: Session
    kind: str
    work: Work[Any] | None
    state: str = "waiting"
    frame: Frame[Any] | None = None
    preview: Path | None = None
    result: Result | None = None
    error: Exception | None = None
    losses: list[float] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    version: int = 0
    stopping: bool = False

    @property
    def over(self) -> bool:
        return self.state in ("done", "stopped", "failed")

    def stop(self) -> None:
        """Stop after the current step; the picture so far becomes the result."""
        with self.changed:
            self.stopping = True
            if self.state == "waiting":
                self._become("stopped")

    def follow(self, every: float = 0.4) -> Iterator[Job]:
        """Yield the job on every change, at most once in ``every`` seconds, until it is over."""
        seen = -1
        while True:
            with self.changed:
                if self.version == seen:
                    self.changed.wait(2)
                seen, over = self.version, self.over
            yield self
            if over:
                return
            time.sleep(every)

    def run(self) -> None:
        with self.changed:
            work, self.work = self.work, None
            if self.over or work is None:
                return
            self._become("running")
        drawn = 0.0
        try:
            for frame in work.frames():
                self.frame = frame
                if frame.loss is not None:
                    self.losses.append(frame.loss)
                if frame.image is not None and time.monotonic() - drawn > 0.4 and frame.done < frame.total:
                    drawn = time.monotonic()
                    path = self.session.preview()
                    work.draw(frame.image, path)
                    self.preview = path
                self._become("running")
                if self.stopping:
                    break
            if self.frame is not None and self.frame.image is not None:
                self.result = work.finish(self.frame.image)
                self.session.keep(self.result)
            self._become("stopped" if self.stopping else "done")
        except Exception as error:
            self.error = error.with_traceback(None)
            self._become("failed")
        if self.frame is not None:  # finished jobs are kept; free the memory of their pictures
            self.frame = replace(self.frame, image=None)

    def _become(self, state: str) -> None:
        with self.changed:
            self.state = state
            self.version += 1
            self.changed.notify_all()


@dataclass
class Session:
    """The pictures and jobs of one browser.

    Attributes:
        token: identifies the browser, in its cookie.
        folder: the folder of its files.
        files: the paths that it may fetch and give as input.
        results: its results, the latest first.
        jobs: the latest job of each kind.
        previews: its latest live pictures.
        seen: the time of its last request.
    """

    token: str
    folder: Path
    files: set[str] = field(default_factory=set)
    results: list[Result] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    previews: list[Path] = field(default_factory=list)
    seen: float = field(default_factory=time.monotonic)

    def keep(self, result: Result) -> None:
        self.results.insert(0, result)
        for old in self.results[RESULTS:]:
            shutil.rmtree(old.file.parent, ignore_errors=True)
        del self.results[RESULTS:]

    def path(self, name: str) -> Path:
        """The path of a new file, in a new folder, which the browser may fetch."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(parents=True)
        self.files.add(str(folder / name))
        return folder / name

    def preview(self) -> Path:
        """The path of a new live picture; removes old ones, but keeps those that may still be downloading."""
        self.previews.append(self.path("live.jpg"))
        if len(self.previews) > PREVIEWS:
            old = self.previews.pop(0)
            self.files.discard(str(old))
            shutil.rmtree(old.parent, ignore_errors=True)
        return self.previews[-1]


class Sessions:
    """All sessions, below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[str, Session] = {}
        self.lock = threading.Lock()

    def get(self, token: str) -> Session:
        with self.lock:
            session = self.known.get(token)
            if session is None:
                self._forget()
                folder = self.root / "sessions" / secrets.token_hex(16)
                folder.mkdir(parents=True)
                session = self.known[token] = Session(token, folder)
            session.seen = time.monotonic()
            return session

    def _forget(self) -> None:
        idle = [each for each in self.known.values() if all(job.over for job in each.jobs.values())]
        for session in sorted(idle, key=lambda each: each.seen)[: max(0, len(self.known) - SESSIONS + 1)]:
            shutil.rmtree(session.folder, ignore_errors=True)
            del self.known[session.token]


class Pool:
    """Threads that run jobs in the order of submission.

    Args:
        threads: how many jobs run at once.
        after: called after each job.
    """

    def __init__(self, threads: int, after: Callable[[], object] = lambda: None) -> None:
        self.after = after
        self.waiting: queue.Queue[Job] = queue.Queue()
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def submit(self, job: Job) -> Job:
        """Queue a job; an earlier one of the same kind and session is stopped.

        Raises:
            BusyError: too many jobs are waiting.
        """
        before = job.session.jobs.get(job.kind)
        if before is not None:
            before.stop()
        if self.waiting.qsize() >= WAITING:
            raise BusyError("too many jobs are waiting: try again in a minute")
        job.session.jobs[job.kind] = job
        self.waiting.put(job)
        return job

    def ahead(self, job: Job) -> int:
        """How many jobs are waiting before this one."""
        waiting = [each for each in list(self.waiting.queue) if not each.over]
        return waiting.index(job) if job in waiting else 0

    def _work(self) -> None:
        while True:
            self.waiting.get().run()
            self.after()
