"""The Translate tab: a picture through one of the bundled networks of pix2pix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from impasto import bundled
from impasto.studio.viewer import Studio, connect, dropzone, spoken, stage


def build(page: gr.Blocks, studio: Studio) -> None:
    with gr.Row(elem_classes="room"):
        with gr.Column(min_width=300, elem_classes="choose"):
            photo = dropzone("Picture", "translate-photo", "Drop a grey photograph")
        with gr.Column(min_width=300, elem_classes="settings"):
            model = gr.Radio(list(bundled.TRANSLATORS), value=next(iter(bundled.TRANSLATORS)), label="Network")
            go = gr.Button("Translate", variant="primary", elem_id="translate-go")
        with gr.Column(min_width=300, elem_classes="wall"):
            shown = stage("translate", "Give a grey photograph colours.")
    connect(page, studio, shown)

    def translate(request: gr.Request, photo: str | None, model: str) -> Iterator[list[Any]]:
        from impasto.studio import work

        if photo is None:
            raise gr.Error("choose a picture first", print_exception=False)
        session = studio.session(request)
        with spoken():
            todo = work.translate(Path(photo), model)
        yield from shown.begin(studio, session, todo, quick=True)

    go.click(
        translate, [photo, model], shown.outputs, concurrency_limit=None, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
