"""Threads that run jobs, and how many may wait. No torch, no gradio."""

from __future__ import annotations

import threading
from collections.abc import Callable

from impasto.errors import BusyError
from impasto.studio.jobs import Job

WAITING = 64  # the most jobs that wait
JOBS = 6  # the most jobs of a session that wait or run


class Pool:
    """Threads that run jobs in the order of submission.

    Args:
        threads: how many jobs run at once.
        seconds: the time limit of each.
        after: called after each job.
    """

    def __init__(self, threads: int, seconds: float = float("inf"), after: Callable[[], object] = lambda: None) -> None:
        self.seconds, self.after = seconds, after
        self.waiting: list[Job] = []
        self.changed = threading.Condition()
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def submit(self, job: Job) -> Job:
        """Queue a job; an earlier one of the same kind and session is stopped.

        Raises:
            BusyError: too many jobs are waiting, or too many of this session.
        """
        with job.session.lock, self.changed:
            before = job.session.jobs.get(job.kind)
            if sum(not each.over for each in list(job.session.jobs.values()) if each is not before) >= JOBS:
                raise BusyError(f"{JOBS} of your jobs are waiting or running: stop one first")
            self.waiting = [each for each in self.waiting if not each.over]
            if sum(each is not before for each in self.waiting) >= WAITING:
                raise BusyError("too many jobs are waiting: try again in a minute")
            if before is not None:
                before.stop()
            job.session.jobs[job.kind] = job
            self.waiting.append(job)
            self.changed.notify()
        return job

    def ahead(self, job: Job) -> int:
        """How many jobs are waiting before this one."""
        waiting = [each for each in list(self.waiting) if not each.over]
        return waiting.index(job) if job in waiting else 0

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.waiting:
                    self.changed.wait()
                job = self.waiting.pop(0)
            job.run(self.seconds)
            self.after()
