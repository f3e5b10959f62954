"""The Film tab: a clip in a bundled style, or like a painting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from impasto import bundled
from impasto.recipes import Transfer
from impasto.studio import forms, names
from impasto.studio.viewer import Studio, connect, spoken, stage, style_choice

SIZES = {"480": 480, "640": 640, "960": 960, "as the film": 0}


def build(page: gr.Blocks, studio: Studio) -> None:
    with gr.Row(elem_classes="room"):
        with gr.Column(min_width=300, elem_classes="choose"):
            clip = gr.Video(
                label="Film", elem_id="film-clip", height=210, sources=["upload"], interactive=True, buttons=[],
            )  # fmt: skip
            styles, style, painting = style_choice(studio, "film-")
        with gr.Column(min_width=300, elem_classes="settings"):
            strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", elem_id="film-strength")
            with gr.Row(elem_classes="pair"):
                size = gr.Dropdown(list(SIZES), value="640", label="Size", elem_id="film-size")
                steady = gr.Checkbox(True, label="Steady", info="Strokes follow the motion.", elem_id="film-steady")
            again = gr.Button("Paint", variant="primary", elem_id="film-go")
        with gr.Column(min_width=300, elem_classes="wall"):
            shown = stage("film", "Choose a film, then a style.", film=True)
    connect(page, studio, shown)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def repaint_clip(
        request: gr.Request, clip: str | None, painting: str | None, style: str, strength: float, size: str,
        steady: bool,
    ) -> Iterator[list[Any]]:  # fmt: skip
        from impasto.studio import work

        if clip is None or not (painting or style):
            raise gr.Error("choose a film, and a style or a painting", print_exception=False)
        with spoken():
            session = studio.session(request)
            todo = work.film(
                Path(clip), Path(painting) if painting else names.name("style", style), size=SIZES[size],
                strength=forms.read(Transfer, {"strength": strength}).strength, steadily=bool(steady),
            )  # fmt: skip
        yield from shown.begin(studio, session, todo)

    def choose(event: gr.SelectData) -> tuple[str, None]:
        return list(bundled.STYLES)[event.index], None

    inputs = [clip, painting, style, strength, size, steady]
    running: dict[str, Any] = {**quiet, "concurrency_limit": None, "outputs": shown.outputs}
    styles.select(choose, outputs=[style, painting], **quiet).then(
        repaint_clip, inputs, **running, trigger_mode="always_last"
    )
    painting.upload(repaint_clip, inputs, **running)
    again.click(repaint_clip, inputs, **running)
