"""The studio's work: sessions with their files, and jobs that outlive the page that began them. No torch, no gradio."""

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
WAITING = 64  # jobs, at most, that wait for their turn
SESSIONS = 200  # that are remembered, at most; the one that was silent the longest is forgotten first
PREVIEWS = 20  # live pictures of a session that are kept: ten seconds of them
RESULTS = 60  # of a session that are kept


Shown = TypeVar("Shown")  # the picture so far, as the work has it


@dataclass(frozen=True)
class Frame(Generic[Shown]):
    """One look at a job's work.

    Attributes:
        done, total: steps.
        note: a word on it.
        loss: the loss of this step, if it has one.
        image: the picture so far, as `Work.draw` and `Work.finish` take it; None: as before.
    """

    done: int
    total: int
    note: str = ""
    loss: float | None = None
    image: Shown | None = None


@dataclass(frozen=True)
class Result:
    """What a job has made.

    Attributes:
        file: the picture, with its receipt.
        pair: the same for the page, and what it was made from, of the same size; None: nothing to compare.
    """

    file: Path
    pair: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class Work(Generic[Shown]):
    """What a job does.

    Attributes:
        frames: the work: yields, and can be left at any step.
        finish: the last picture, if there is one -> the result.
        draw: writes a picture to a path, for the preview.
    """

    frames: Callable[[], Iterator[Frame[Shown]]]
    finish: Callable[[Shown], Result]
    draw: Callable[[Shown, Path], None]


@dataclass
class Job:
    """One piece of work for one session.

    Attributes:
        kind: the tab that it belongs to.
        work: what is to be done; None once it has begun.
        state: waiting, running, done, stopped or failed.
        frame, preview: the latest.
        losses: of all steps so far.
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
        """Leave off after the step in hand; what there is becomes the result."""
        with self.changed:
            self.stopping = True
            if self.state == "waiting":
                self._become("stopped")

    def follow(self, every: float = 0.4) -> Iterator[Job]:
        """Itself, whenever something has changed (but not more often than ``every`` seconds), until it is over."""
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
        if self.frame is not None:  # a job is remembered; what it worked with is not
            self.frame = replace(self.frame, image=None)

    def _become(self, state: str) -> None:
        with self.changed:
            self.state = state
            self.version += 1
            self.changed.notify_all()


@dataclass
class Session:
    """One browser's pictures and work.

    Attributes:
        token: what the browser shows to be known again.
        folder: its own files.
        files: the paths that it may fetch and give as input.
        results: what it has painted, the latest first.
        jobs: the latest of each kind.
        previews: the latest of its live pictures.
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
        """A new file of its own, in a folder of its own, which the browser may fetch."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(parents=True)
        self.files.add(str(folder / name))
        return folder / name

    def preview(self) -> Path:
        """A new file for a picture that is soon followed by another; old ones go, but not those still on their way."""
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
    """Threads that take jobs in turn.

    Args:
        threads: jobs that run at once.
        after: called after each job.
    """

    def __init__(self, threads: int, after: Callable[[], object] = lambda: None) -> None:
        self.after = after
        self.waiting: queue.Queue[Job] = queue.Queue()
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def submit(self, job: Job) -> Job:
        """Let a job wait for its turn; an earlier one of the same kind and session is stopped.

        Raises:
            BusyError: too many wait already.
        """
        before = job.session.jobs.get(job.kind)
        if before is not None:
            before.stop()
        if self.waiting.qsize() >= WAITING:
            raise BusyError("too many pictures are waiting to be painted: try again in a minute")
        job.session.jobs[job.kind] = job
        self.waiting.put(job)
        return job

    def ahead(self, job: Job) -> int:
        """How many jobs come before this one."""
        waiting = [each for each in list(self.waiting.queue) if not each.over]
        return waiting.index(job) if job in waiting else 0

    def _work(self) -> None:
        while True:
            self.waiting.get().run()
            self.after()
