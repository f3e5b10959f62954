"""The studio's application: the page behind the guard.

A tab is a function that builds its components; to add one, list it in TABS.
"""

from __future__ import annotations

import atexit
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from impasto import bundled
from impasto.studio import api, theme
from impasto.studio.guard import Guard
from impasto.studio.jobs import Pool, Sessions
from impasto.studio.tabs import photo, repaint, study
from impasto.studio.viewer import Studio

TABS = {"Repaint": repaint.build, "Photo": photo.build, "Study": study.build}
MEGAPIXELS = 50
HOURS = 24  # how long an upload is kept


def build(studio: Studio) -> gr.Blocks:
    """Build the page."""
    page: gr.Blocks = gr.Blocks(
        title="impasto", analytics_enabled=False, fill_width=True, delete_cache=(3600, HOURS * 3600)
    )
    with page:
        gr.HTML(theme.MASTHEAD)
        with gr.Tabs():
            for name, tab in TABS.items():
                with gr.Tab(name):
                    tab(page, studio)
        api.build(page, studio)
    return page


def _give_back() -> None:
    """Return unused memory after each job; see `machine.reused_memory`."""
    from impasto import machine

    machine.give_memory_back()


def application(
    root: Path, *, most_bytes: int, jobs: int, auth: tuple[str, str] | None = None, hosts: list[str]
) -> Any:
    """The studio as an ASGI application.

    Args:
        root: a folder for all files, removed at exit.
        most_bytes: the largest upload.
        jobs: how many optimisations run at once.
        auth: user name and password; None: no login.
        hosts: the host names that requests may use.
    """
    root.mkdir(parents=True, exist_ok=True)
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    thumbnails = [path for name in bundled.STYLES if (path := bundled.thumbnail(name)) is not None]
    gr.set_static_paths([root / "sessions", *thumbnails])  # otherwise Gradio copies each file into its cache
    sessions = Sessions(root)
    page: Any = build(Studio(sessions, quick=Pool(1, _give_back), slow=Pool(jobs, _give_back)))
    page.queue(api_open=False, max_size=256)
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None), page, path="/", auth=auth, show_error=True, max_file_size=most_bytes,
        ssr_mode=False, theme=theme.theme(), css_paths=theme.CSS, head=theme.HEAD, pwa=False,
        footer_links=[], enable_monitoring=False,
    )  # fmt: skip
    guarded = Guard(
        app, sessions, {str(path) for path in thumbnails}, most_bytes=most_bytes, most_pixels=MEGAPIXELS * 1_000_000
    )
    return TrustedHostMiddleware(guarded, allowed_hosts=hosts)
