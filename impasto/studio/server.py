"""The studio's application: the page behind the guard.

A tab is a function that builds its components; to add one, list it in TABS.
"""

from __future__ import annotations

import atexit
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from impasto import bundled
from impasto.studio import api, theme
from impasto.studio.guard import Guard
from impasto.studio.inspection import PIXELS
from impasto.studio.jobs import Sessions
from impasto.studio.pool import Pool
from impasto.studio.tabs import film, photo, repaint, study, translate
from impasto.studio.viewer import Studio

TABS = {
    "Repaint": repaint.build,
    "Film": film.build,
    "Photo": photo.build,
    "Translate": translate.build,
    "Study": study.build,
}
PAGES = 50  # open pages whose components Gradio remembers, at 0.3 MB each; our pages do not need it
QUICK = 300.0  # seconds: the time limit of work in one pass


def build(studio: Studio) -> gr.Blocks:
    """Build the page."""
    page: gr.Blocks = gr.Blocks(title="impasto", analytics_enabled=False, fill_width=True)
    with page:
        gr.HTML(theme.MASTHEAD)
        with gr.Tabs():
            for name, tab in TABS.items():
                with gr.Tab(name):
                    tab(page, studio)
        api.build(studio)
    return page


def _give_back() -> None:
    """Return unused memory after each job; see `machine.reused_memory`."""
    from impasto import machine

    machine.give_memory_back()


def _tidy(sessions: Sessions, every: float = 600.0) -> None:
    """Remove old files now and then, for as long as the process runs."""
    while True:
        threading.Event().wait(every)
        sessions.tidy()


def application(
    root: Path, *, most_bytes: int, jobs: int, seconds: float, auth: tuple[str, str] | None = None, hosts: list[str],
    models: Mapping[str, tuple[Path, str]],
) -> Any:  # fmt: skip
    """The studio as an ASGI application.

    Args:
        root: an empty folder for all files, removed at exit.
        most_bytes: the largest upload.
        jobs: how many optimisations run at once.
        seconds: the time limit of each.
        auth: user name and password; None: no login.
        hosts: the host names that requests may use.
        models: networks for the tab Translate, with their kinds, by name.
    """
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    (root / "styles").mkdir()
    # Copies, so that the page does not reveal where impasto is installed.
    thumbnails = {
        name: shutil.copyfile(path, root / "styles" / path.name)
        for name in bundled.STYLES
        if (path := bundled.thumbnail(name))
    }
    gr.set_static_paths([root / "sessions", root / "styles"])  # otherwise Gradio copies each file into its cache
    sessions = Sessions(root, most_bytes)
    threading.Thread(target=_tidy, args=[sessions], daemon=True).start()
    studio = Studio(sessions, Pool(1, QUICK, _give_back), Pool(jobs, seconds, _give_back), thumbnails, models)
    page: Any = build(studio)
    page.queue(api_open=False, max_size=256)
    page.state_session_capacity = PAGES
    parent = FastAPI(openapi_url=None)
    parent.add_middleware(CORSMiddleware)  # allows no origin; without it, Gradio allows every port of localhost
    app = gr.mount_gradio_app(
        parent, page, path="/", auth=auth, show_error=False, ssr_mode=False, theme=theme.theme(),
        css_paths=theme.CSS, head=theme.HEAD, pwa=False, footer_links=[], enable_monitoring=False, run_history=False,
    )  # fmt: skip
    guarded = Guard(
        app, sessions, {str(path) for path in thumbnails.values()}, most_bytes=most_bytes, most_pixels=PIXELS,
        login=auth is not None,
    )  # fmt: skip
    return TrustedHostMiddleware(guarded, allowed_hosts=hosts)
