"""The web studio: choose, upload, watch it being painted. The page is Gradio's; see docs/studio.md."""

from __future__ import annotations

import getpass
import inspect
import os
import secrets
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path
from typing import Any

# Before gradio is loaded: where it keeps uploads, and that it tells nobody.
ROOT = Path(tempfile.gettempdir()).resolve() / f"impasto-studio-{secrets.token_hex(8)}"
os.environ["GRADIO_TEMP_DIR"] = str(ROOT / "uploads")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def serve(*, host: str, port: int, user: str, max_upload: float, max_jobs: int, open_browser: bool) -> None:
    """Serve the studio until Ctrl-C; prints its address.

    Raises:
        RecipeError: a host beyond this machine without a user.
        OSError: the port is taken.
    """
    import uvicorn

    load_gradio()
    from impasto.studio import server

    password = _password(user) if user else ""
    loopback = host in ("127.0.0.1", "localhost", "::1")
    application = server.application(
        ROOT, most_bytes=int(max_upload * 1e6), jobs=max_jobs, auth=(user, password) if user else None,
        hosts=["127.0.0.1", "localhost", "[::1]"] if loopback else ["*"],
    )  # fmt: skip
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        log_level="error",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=1,
    )
    socket = config.bind_socket()
    socket.listen(128)  # from here on the browser waits, and is not turned away
    address = f"http://{f'[{host}]' if ':' in host else host}:{socket.getsockname()[1]}"
    warming = threading.Timer(2, _warm)  # the page first
    warming.daemon = True
    warming.start()
    print(address, flush=True)
    if open_browser:
        webbrowser.open(address)
    uvicorn.Server(config).run(sockets=[socket])


def load_gradio() -> None:
    """Import gradio in half the time: it would parse the source of its components, to write type stubs beside them."""
    found = inspect.getfile

    def getfile(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError("not now")  # what gradio takes for: there is no source
        return found(thing)

    inspect.getfile = getfile  # type: ignore[assignment]
    try:
        import gradio  # noqa: F401
    finally:
        inspect.getfile = found


def _warm() -> None:
    """Load torch while the page is being looked at."""
    from impasto.studio import work

    work.warm()


def _password(user: str) -> str:
    return os.environ.get("IMPASTO_PASSWORD") or getpass.getpass(f"password for {user}: ", sys.stderr)
