"""The studio for programs, as named functions of Gradio's API; see examples/studio_client.py."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from impasto.presets import impasto
from impasto.recipes import Photo, Transfer
from impasto.studio import names
from impasto.studio.jobs import Job, Session, Work
from impasto.studio.pool import Pool
from impasto.studio.viewer import Studio, as_path, spoken


def build(studio: Studio) -> None:
    """Add the functions /repaint, /paint, /light and /film; they are not visible on the page."""
    kinds: dict[str, Any] = {"type": "filepath", "image_mode": None, "visible": False}
    first, second = (as_path(gr.Image(label=label, **kinds)) for label in ("photo", "other"))
    clip = gr.Video(label="film", visible=False)
    style, keep = gr.Textbox(label="style", visible=False), gr.Textbox("none", label="keep_colors", visible=False)
    strength, size = (
        gr.Number(1.0, label="strength", visible=False),
        gr.Number(0, label="size", visible=False, precision=0),
    )
    settings, file = gr.JSON({}, label="settings", visible=False), gr.File(label="picture", visible=False)
    button = gr.Button(visible=False)

    def result(session: Session, pool: Pool, work: Work[Any]) -> Iterator[str]:
        job = Job(session, f"api-{secrets.token_hex(4)}", work)
        try:
            pool.submit(job)
            for _ in job.follow():
                if job.preview is not None and not job.over:
                    yield str(job.preview)
            if job.error is not None:
                raise job.error
            if job.result is not None:
                yield str(job.result.file)
        finally:  # also if the caller has disconnected
            job.stop()
            session.jobs.pop(job.kind, None)

    def repaint(
        request: gr.Request, photo: str, style: str, strength: float, size: float, keep_colors: Any
    ) -> Iterator[str]:
        """Repaint a photograph in one pass in a bundled style; size 0 keeps the photograph's size."""
        from impasto.studio import work

        with spoken():
            named = names.name("style", style)
            chosen = names.recipe(Transfer(), {"strength": strength, "size": size, "keep_colors": keep_colors})
            todo = work.one_pass(
                Path(photo), [named], strength=chosen.strength, keep_colors=chosen.keep_colors, size=chosen.size
            )
            yield from result(studio.session(request), studio.quick, todo)

    def optimise(request: gr.Request, photo: str, painting: str, settings: Mapping[str, Any]) -> Iterator[str]:
        """Repaint by optimisation; yields intermediate pictures, then the result.

        ``settings`` are fields of the recipe, see docs/recipes.md.
        """
        from impasto.studio import work

        with spoken():
            recipe = names.recipe(impasto, settings)
            todo = work.optimise(Path(photo), [Path(painting)], recipe)
            yield from result(studio.session(request), studio.slow, todo)

    def repaint_film(request: gr.Request, film: str, style: str, size: float) -> Iterator[str]:
        """Repaint a film in one pass in a bundled style; yields pictures of its latest frames, then the film.

        ``size`` 0 keeps the film's size.
        """
        from impasto.studio import work

        with spoken():
            named, chosen = names.name("style", style), names.recipe(Transfer(), {"size": size})
            todo = work.film(Path(film), named, size=chosen.size)
            yield from result(studio.session(request), studio.slow, todo)

    def change_light(request: gr.Request, photo: str, other: str, settings: Mapping[str, Any]) -> Iterator[str]:
        """Give a photograph the light of another one; ``settings`` are fields of the recipe."""
        from impasto.studio import work

        with spoken():
            recipe = names.recipe(Photo(), settings)
            yield from result(studio.session(request), studio.slow, work.light(Path(photo), Path(other), recipe, None))

    named: dict[str, Any] = {"concurrency_limit": None}
    button.click(repaint, [first, style, strength, size, keep], file, api_name="repaint", **named)
    button.click(optimise, [first, second, settings], file, api_name="paint", **named)
    button.click(repaint_film, [clip, style, size], file, api_name="film", **named)
    button.click(change_light, [first, second, settings], file, api_name="light", **named)
