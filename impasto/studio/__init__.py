"""The web studio. Its page is built with Gradio; see docs/studio.md."""

from __future__ import annotations

import contextlib
import getpass
import inspect
import os
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from impasto.errors import InputError

# Set before gradio is imported: the folder for uploads, and no analytics.
ROOT = Path(tempfile.gettempdir()).resolve() / f"impasto-studio-{secrets.token_hex(8)}"
os.environ["GRADIO_TEMP_DIR"] = str(ROOT / "uploads")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

PROCESS = contextlib.ExitStack()  # contexts that stay open until the process ends


def serve(
    *, host: str, port: int, user: str, max_upload: float, max_jobs: int, max_minutes: float, open_browser: bool,
    models: Mapping[str, tuple[Path, str]],
) -> None:  # fmt: skip
    """Serve the studio until Ctrl-C; prints its address.

    ``models`` are networks for the tab Translate, with their kinds, by name; the others are flags of the command.

    Raises:
        InputError: the port is in use, the host is not an address of this machine, or there is no password.
    """
    password = _password(user) if user else ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, TypeError) as error:  # TypeError: a host that is no name
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]
        raise InputError(f"`host` {host} `port` {port}: {reason}; `port` 0 takes any free port") from None
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    import uvicorn

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves SIGHUP
            signal.signal(number, _end)
    _make_root()
    load_gradio()
    from impasto.studio import connections, inspection, server

    connections.allow_files()
    inspection.restrict()
    loopback = host in ("127.0.0.1", "localhost", "::1")
    application = server.application(
        ROOT, most_bytes=int(max_upload * 1e6), jobs=max_jobs, seconds=60 * max_minutes,
        auth=(user, password) if user else None, hosts=["127.0.0.1", "localhost", "[::1]"] if loopback else ["*"],
        models=models,
    )  # fmt: skip
    warming = threading.Timer(2, _warm)  # let the page load first
    warming.daemon = True
    warming.start()
    print(address, flush=True)
    if open_browser:
        webbrowser.open(address)
    running = uvicorn.Server(
        uvicorn.Config(
            application, http=connections.Connection, ws="none", log_level="critical", access_log=False,
            proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,  # else any client could choose its address
            backlog=min(2048, connections.Connection.most),  # asyncio accepts so many before the oldest can be closed
        )
    )  # fmt: skip
    running.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # ours stay
    running.run(sockets=[listening])


def _end(number: int, _: Any) -> None:
    """Remove the files and exit at once: Python's normal exit aborts while a thread is running torch."""
    with contextlib.suppress(OSError):  # renamed first, so that no job writes there meanwhile
        shutil.rmtree(ROOT.rename(ROOT.with_name(f"{ROOT.name}-ended")), ignore_errors=True)
    stopped = number == signal.SIGINT
    if stopped:
        print("impasto: stopped", file=sys.stderr, flush=True)
    os._exit(130 if stopped else 0)


def _make_root() -> None:
    """Make the folder for all files, readable only by this user; remove those of studios that were killed."""
    os.umask(0o077)
    ROOT.mkdir(mode=0o700)
    if sys.platform == "win32":
        return
    import fcntl

    lock = PROCESS.enter_context((ROOT / "lock").open("w"))
    fcntl.flock(lock, fcntl.LOCK_EX)
    for folder in ROOT.parent.glob("impasto-studio-*"):
        with contextlib.suppress(OSError):  # no lock, or held by a running studio
            found = folder.lstat()
            if folder != ROOT and stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                with (folder / "lock").open("r+") as held:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)


def load_gradio() -> None:
    """Import gradio without the type stubs that it writes from its components' source (6.31: 6 s, not 10)."""
    found = inspect.getfile

    def getfile(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError("not now")  # gradio takes this to mean that there is no source
        return found(thing)

    inspect.getfile = getfile  # type: ignore[assignment]
    try:
        import gradio  # noqa: F401
    finally:
        inspect.getfile = found


def _warm() -> None:
    """Load torch in the background while the user looks at the page."""
    from impasto import machine
    from impasto.studio import work

    PROCESS.enter_context(machine.reused_memory())
    work.warm()


def _password(user: str) -> str:
    password = os.environ.get("IMPASTO_PASSWORD", "")
    if not password and sys.stdin.isatty():
        password = getpass.getpass(f"password for {user}: ", sys.stderr)
    if not password:
        raise InputError(f"`auth` {user}: a password is needed; set IMPASTO_PASSWORD, or type it when asked")
    return password
