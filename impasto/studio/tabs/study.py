"""The Study tab: labelled sheets like the figures of the published articles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from impasto.recipes import Transfer
from impasto.studio import names
from impasto.studio.viewer import Studio, connect, dropzone, spoken, stage

OVER = {
    "content, layer by layer": "content",
    "style, adding layers": "style",
    "gradient descent on each layer's style": "descent",
    "strengths, from faint to strong": "strengths",
}


def build(page: gr.Blocks, studio: Studio) -> None:
    with gr.Row(elem_classes="room"):
        with gr.Column(min_width=300, elem_classes="choose"):
            photo = dropzone("Photograph", "study-photo", "Drop a photograph")
            painting = dropzone("Painting", "study-style", "Drop a painting")
        with gr.Column(min_width=300, elem_classes="settings"):
            over = gr.Radio(list(OVER), value=next(iter(OVER)), label="What the panels compare")
            with gr.Row(elem_classes="pair"):
                size = gr.Number(256, label="Panel size", precision=0, minimum=64, maximum=1024, elem_id="study-size")
                steps = gr.Number(0, label="Steps per panel", precision=0, minimum=0, elem_id="study-steps")
            go = gr.Button("Draw", variant="primary", elem_id="study-go")
        with gr.Column(min_width=300, elem_classes="wall"):
            shown = stage("study", "See what a network's layers represent of a picture.")
    connect(page, studio, shown)

    def draw(
        request: gr.Request, photo: str | None, painting: str | None, over: str, size: float, steps: float
    ) -> Iterator[list[Any]]:
        from impasto.studio import work

        if photo is None or painting is None:
            raise gr.Error("choose a photograph and a painting first", print_exception=False)
        with spoken():
            session = studio.session(request)
            chosen = names.recipe(Transfer(), {"size": size} | ({"steps": steps} if steps else {}))
            todo = work.draw_study(
                Path(photo), Path(painting), OVER[over], chosen.size, chosen.steps if steps else 0
            )  # 0: each kind's own number
        yield from shown.begin(studio, session, todo)

    go.click(
        draw, [photo, painting, over, size, steps], shown.outputs, concurrency_limit=None, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
