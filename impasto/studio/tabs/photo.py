"""The Photo tab: give a photograph the light of another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from impasto.recipes import REGION_COLORS, Photo
from impasto.studio import forms
from impasto.studio.jobs import Job
from impasto.studio.viewer import Studio, brush, connect, dropzone, spoken, stage, status, waited

ADVANCED = forms.all_but(Photo, "strength", "keep_highlights", "encoder")


def build(page: gr.Blocks, studio: Studio) -> None:
    with gr.Row(elem_classes="room"):
        with gr.Column(min_width=300, elem_classes="choose"):
            photo = dropzone("Photograph", "light-photo", "Drop the photograph to change")
            other = dropzone("Photograph to take the light from", "light-style", "Drop a photograph")
        with gr.Column(min_width=300, elem_classes="settings"):
            strength, highlights = forms.form(Photo(), ["strength", "keep_highlights"])
            go = gr.Button("Change the light", variant="primary", elem_id="light-go")
            with gr.Accordion("Regions", open=False, elem_id="regions"):
                gr.Markdown("Areas of the same colour match. Find the regions, then correct them with the brush.")
                find = gr.Button("Find regions", size="sm", elem_id="light-find")
                brushes: dict[str, Any] = {
                    "canvas_size": (640, 640),
                    "brush": gr.Brush(default_size=24, colors=[*REGION_COLORS], color_mode="fixed"),
                }  # fmt: skip
                ours = brush(label="Regions of the photograph", elem_id="light-ours", **brushes)
                theirs = brush(label="Regions of the other one", elem_id="light-theirs", **brushes)
            with gr.Accordion("Advanced", open=False):
                advanced = forms.form(Photo(), ADVANCED)
        with gr.Column(min_width=300, elem_classes="wall"):
            shown = stage("photo", "Choose two photographs: one to change, one to take the light from.")
    connect(page, studio, shown)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    settings = [strength, highlights, *advanced]

    def recipe_of(values: tuple[Any, ...]) -> Photo:
        read: Photo = forms.read(Photo, dict(zip(("strength", "keep_highlights", *ADVANCED), values, strict=True)))
        return read

    def find_regions(request: gr.Request, photo: str | None, other: str | None, *values: Any) -> Iterator[list[Any]]:
        from impasto.studio import work

        if photo is None or other is None:
            raise gr.Error("choose both photographs first", print_exception=False)
        with spoken():
            session = studio.session(request)
            todo = work.regions(Path(photo), Path(other), recipe_of(values))
            job = Job(session, f"{shown.kind}-regions", todo, shown=False)
            for _ in waited(studio.slow, job):
                yield [gr.skip(), gr.skip(), status(job, studio.slow.ahead(job)), gr.update(interactive=not job.over)]
            if job.result is not None:
                masks = (job.result.file, *job.result.others)
                drawings: list[Any] = [{"background": str(mask), "layers": [], "composite": None} for mask in masks]
                yield [*drawings, gr.skip(), gr.skip()]

    def change(
        request: gr.Request, photo: str | None, other: str | None, ours: Any, theirs: Any, *values: Any
    ) -> Iterator[list[Any]]:
        from impasto.studio import work

        if photo is None or other is None:
            raise gr.Error("choose both photographs first", print_exception=False)
        with spoken():
            session = studio.session(request)
            masks = (ours["composite"], theirs["composite"]) if ours["composite"] and theirs["composite"] else None
            todo = work.light(Path(photo), Path(other), recipe_of(values), masks)
        yield from shown.begin(studio, session, todo)

    found = [ours, theirs, shown.status, shown.stop]
    find.click(find_regions, [photo, other, *settings], found, concurrency_limit=None, **quiet)
    go.click(
        change, [photo, other, ours, theirs, *settings], shown.outputs, concurrency_limit=None, **quiet
    )  # fmt: skip
    for picture in (photo, other):
        picture.change(lambda: (None, None), outputs=[ours, theirs], **quiet)
