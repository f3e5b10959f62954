"""Sessions with their files, and jobs that outlive the page that started them. No torch, no gradio."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

from impasto.errors import BusyError, InputError

SESSIONS = 200  # the most sessions kept
PREVIEWS = 20  # live pictures kept for a job: about ten seconds
RESULTS = 60  # results kept for a session
QUOTA = 500_000_000  # bytes of a session's files, or as many as two uploads may have
SPARE = 500_000_000  # bytes of the disk that the studio leaves free
UNWATCHED = 600.0  # seconds after which a job that nobody follows ends
KEPT = 24 * 3600.0  # seconds for which files and sessions that nobody uses are kept


Shown = TypeVar("Shown")  # the picture so far, in the form that the work uses


@dataclass(frozen=True)
class Frame(Generic[Shown]):
    """The progress of a job at one step.

    Attributes:
        done, total: steps.
        note: a short text for the page.
        loss: the loss of this step, if it has one.
        image: the picture so far, as `Work.draw` and `Work.finish` take it; None: unchanged.
        clip: the film so far, in the job's folder.
    """

    done: int
    total: int
    note: str = ""
    loss: float | None = None
    image: Shown | None = None
    clip: Path | None = None


@dataclass(frozen=True)
class Result:
    """The result of a job; all its files lie in the job's folder.

    Attributes:
        file: the picture, with its receipt; or the film.
        pair: content and picture at the same size, to compare on the page; None: nothing to compare.
        still: a picture of a film.
        others: further files that the page asked for.
    """

    file: Path
    pair: tuple[Path, Path] | None = None
    still: Path | None = None
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Work(Generic[Shown]):
    """What a job does. It reads its pictures itself, in `frames`.

    Attributes:
        frames: does the work, and may write into the job's folder; yields progress, and can be stopped at any step,
            and between our functions before the first picture.
        finish: turns the last picture into the result, in a folder.
        draw: writes a preview of a picture to a path.
    """

    frames: Callable[[Path], Generator[Frame[Shown]]]
    finish: Callable[[Shown, Path], Result]
    draw: Callable[[Shown, Path], None] = lambda image, path: None


class Interrupted(BaseException):
    """Ends the preparation of a job; not an Exception, so that no decoder takes it for a damaged file."""


@dataclass
class Job:
    """One piece of work for one session.

    Attributes:
        kind: the tab that it belongs to.
        work: what to do; None once it has started.
        shown: whether the result is one of the session's pictures.
        state: waiting, running, done, stopped or failed.
        frame, preview: the latest ones.
        folder: of all its files.
        losses: the losses of all steps so far.
        reason: why it was stopped, if the user did not stop it.
    """

    session: Session
    kind: str
    work: Work[Any] | None
    shown: bool = True
    state: str = "waiting"
    frame: Frame[Any] | None = None
    preview: Path | None = None
    folder: Path | None = None
    result: Result | None = None
    error: Exception | None = None
    losses: list[float] = field(default_factory=list)
    reason: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)
    version: int = 0
    stopping: bool = False
    ends: float = float("inf")

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

    def run(self, seconds: float = float("inf")) -> None:
        """Do the work, for at most ``seconds``."""
        with self.changed:
            work, self.work = self.work, None
            if self.over or work is None:
                return
            self.ends = time.monotonic() + seconds
            self._become("running")
        try:
            self.folder = self.session.new_folder()
            try:
                self._paint(work, self.folder)
            finally:  # after an error, what is painted is kept too
                if self.frame is not None and self.frame.image is not None:
                    self.result = work.finish(self.frame.image, self.folder)
                    if self.shown:
                        self.session.results.insert(0, self.result)
            if self.result is None and self.reason:
                raise InputError(f"{self.reason}, and there was no picture yet: try a smaller size")
        except Exception as error:
            self.error = error.with_traceback(None)
        if self.folder is not None and self.result is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.frame is not None:  # finished jobs are kept; free the memory of their pictures
            self.frame = replace(self.frame, image=None)
        self._become("failed" if self.error is not None else "stopped" if self.stopping else "done")
        self.session.make_room()

    def _paint(self, work: Work[Any], folder: Path) -> None:
        drawn, previews = 0.0, deque[Path]()
        with suppress(Interrupted), self._interruptible() as release, closing(work.frames(folder)) as frames:
            for frame in frames:
                self.frame = frame
                if frame.image is not None:
                    release()
                if frame.loss is not None:
                    self.losses.append(frame.loss)
                if frame.image is not None and time.monotonic() - drawn > 0.4 and frame.done < frame.total:
                    drawn = time.monotonic()
                    previews.append(folder / f"live-{len(self.losses)}-{secrets.token_hex(4)}.jpg")
                    work.draw(frame.image, previews[-1])
                    self.preview = previews[-1]
                    if len(previews) > PREVIEWS:
                        previews.popleft().unlink(missing_ok=True)
                self._become("running")
                if self._ending():
                    break
        for path in list(previews)[:-2]:  # the page may still be loading the last ones
            path.unlink(missing_ok=True)

    def _ending(self) -> bool:
        """Whether the job has to stop, because of the user, its time limit, or because nobody follows it."""
        if not self.stopping:
            if time.monotonic() > self.ends:
                self.reason = "the time limit was reached"
            elif self.session.unwatched:
                self.reason = "nobody followed this job"
            if self.reason:  # never set to False: the user may stop the job meanwhile
                self.stopping = True
        return self.stopping

    @contextmanager
    def _interruptible(self) -> Iterator[Callable[[], None]]:
        """Raise `Interrupted` in this thread when one of impasto's functions is called and the job has to stop.

        The engines are generators, which stop between two steps; this also stops what they do before the first one.
        Yields a function that ends this.
        """

        def watch(frame: FrameType, event: str, _: Any) -> None:
            module = frame.f_globals.get("__name__", "")
            if event == "call" and module.startswith("impasto.") and module != __name__ and self._ending():
                raise Interrupted

        def release() -> None:
            sys.setprofile(None)

        sys.setprofile(watch)
        try:
            yield release
        finally:
            release()

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
        folder: the folder of its files, which nobody else may fetch.
        quota: the most bytes of its files; the oldest go first.
        results: its results, the latest first.
        jobs: the latest job of each kind.
        seen: the time of its last request.
        watching: how many of its connections are open.
        lock: held while a job is added, since two pools add them.
    """

    token: str
    folder: Path
    quota: int
    results: list[Result] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    seen: float = field(default_factory=time.monotonic)
    watching: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def working(self) -> bool:
        return any(not job.over for job in list(self.jobs.values()))

    @property
    def idle(self) -> float:
        """Seconds since its last request or connection."""
        return 0.0 if self.watching else time.monotonic() - self.seen

    @property
    def unwatched(self) -> bool:
        return self.idle > UNWATCHED

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A connection is open."""
        self.watching += 1
        try:
            yield
        finally:
            self.watching -= 1
            self.seen = time.monotonic()

    def new_folder(self) -> Path:
        """A new folder: for an upload, or for everything that a job writes."""
        if shutil.disk_usage(self.folder.parent).free < SPARE:
            raise BusyError("the studio's disk is nearly full")
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        return folder

    def owns(self, path: str) -> bool:
        """Whether this is a file of the session, spelt as the studio spells it."""
        file = Path(path)
        try:
            return (
                str(file) == path and ".." not in file.parts and len(file.parts) == len(self.folder.parts) + 2
                and file.parts[:-2] == self.folder.parts and file.is_file() and not file.is_symlink()
            )  # fmt: skip
        except OSError:  # such as a name that is too long
            return False

    def make_room(self) -> None:
        """Remove the oldest files: beyond the quota, older than a day, and of more results than are kept."""
        kept = {job.folder for job in list(self.jobs.values())}
        excess = {result.file.parent for result in self.results[RESULTS:]}
        total = 0
        with suppress(FileNotFoundError):  # another thread makes room
            folders = sorted(((each.stat().st_mtime, each) for each in self.folder.iterdir()), reverse=True)
            for used, folder in folders:
                total += sum(file.stat().st_size for file in folder.rglob("*"))
                if folder not in kept and (total > self.quota or folder in excess or time.time() - used > KEPT):
                    shutil.rmtree(folder, ignore_errors=True)
        for gone in [result for result in self.results if not result.file.exists()]:
            with suppress(ValueError):  # in place, as another thread may add one
                self.results.remove(gone)


class Sessions:
    """All sessions, below one folder. A browser's token is a random name, signed, so that no client can choose one.

    Args:
        root: the folder.
        most_bytes: of an upload.
    """

    def __init__(self, root: Path, most_bytes: int = 0) -> None:
        self.root, self.quota = root, max(QUOTA, 2 * most_bytes)
        for name in ("sessions", "incoming"):
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.known: dict[str, Session] = {}
        self.lock = threading.Lock()
        self.key = secrets.token_bytes(32)

    def new_token(self) -> str:
        return self._signed(secrets.token_urlsafe(18))

    def valid(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._signed(token.rpartition(".")[0]).encode())

    def _signed(self, name: str) -> str:
        return f"{name}.{hmac.new(self.key, name.encode(), hashlib.sha256).hexdigest()}"

    def find(self, token: str) -> Session | None:
        """The session of a token, if it has stored something."""
        session = self.known.get(token)
        if session is not None:
            session.seen = time.monotonic()
        return session

    def get(self, token: str) -> Session:
        """The session of a token, created if needed.

        Raises:
            BusyError: there are too many sessions with results.
        """
        if not self.valid(token):
            raise InputError("this session does not exist")
        with self.lock:
            session = self.find(token)
            if session is None:
                self._make_way()
                folder = self.root / "sessions" / secrets.token_hex(16)
                folder.mkdir(mode=0o700)
                session = self.known[token] = Session(token, folder, self.quota)
            return session

    def tidy(self) -> None:
        """Remove what is older than a day, in all sessions."""
        with self.lock:
            for session in list(self.known.values()):
                if session.idle > KEPT and not session.working:
                    self._drop(session)
        for session in list(self.known.values()):
            session.make_room()

    def _make_way(self) -> None:
        """Drop the session that was idle longest, of those without results that nobody uses; never one with results.

        An upload without a result is kept for `UNWATCHED` seconds, so that uploads cannot fill the studio.
        """
        if len(self.known) < SESSIONS:
            return
        empty = [
            each
            for each in self.known.values()
            if not (each.working or each.results) and (each.unwatched or not any(each.folder.iterdir()))
        ]
        if not empty:
            raise BusyError("too many people use this studio: try again later")
        self._drop(max(empty, key=lambda each: each.idle))

    def _drop(self, session: Session) -> None:
        shutil.rmtree(session.folder, ignore_errors=True)
        del self.known[session.token]
