"""uvicorn's HTTP connections, which also close when a request does not arrive in time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 10.0  # for a request's first line and headers


class Connection(H11Protocol):
    """Closes after `SECONDS` without a whole request head, and earlier if too many others wait as well.

    uvicorn itself waits forever for the rest of half a request, so that a few hundred of them would use up the
    process's files.
    """

    waiting: ClassVar[dict[Connection, asyncio.TimerHandle]] = {}  # without a whole head, the oldest first
    most: ClassVar[int] = 1000

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._arrived()
        elif self not in self.waiting:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self.waiting[self] = self.loop.call_later(SECONDS, self._give_up)
        if len(self.waiting) > self.most:
            next(iter(self.waiting))._give_up()

    def _arrived(self) -> None:
        timer = self.waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _give_up(self) -> None:
        self._arrived()
        self.transport.abort()


def allow_files() -> None:
    """Let the process open as many files as the system allows, and share them out."""
    with suppress(ImportError, ValueError, OSError):  # Windows; a system with other rules
        import resource

        allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = 65_536 if most == resource.RLIM_INFINITY else min(most, 65_536)
        if allowed < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        Connection.most = max(8, max(allowed, most) // 8)
