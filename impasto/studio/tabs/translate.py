"""The Translate tab: a picture, or a drawing, through a network of pix2pix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from impasto import bundled
from impasto.studio.jobs import Job
from impasto.studio.viewer import Studio, brush, connect, dropzone, spoken, stage, waited

SIZE = 512  # long edge of a drawing in pixels
# Black for edges; labels have any colours.
COLORS: Any = ["#000000", "#ffffff", "#0000aa", "#0055ff", "#00aaff", "#00ffff", "#55ffaa", "#aaff55", "#ffff00",
               "#ffaa00", "#ff5500", "#aa0000"]  # fmt: skip


def build(page: gr.Blocks, studio: Studio) -> None:
    networks: dict[str, tuple[str | Path, str]] = {name: (name, "colorize") for name in bundled.TRANSLATORS}
    networks |= studio.models
    drawable = [name for name, (_, kind) in networks.items() if kind != "colorize"]
    with gr.Row(elem_classes="room"):
        with gr.Column(min_width=300, elem_classes="choose"):
            model = gr.Radio(list(networks), value=next(iter(networks)), label="Network", elem_id="translate-model")
            photo = dropzone("Picture", "translate-photo", "Drop a picture")
            with gr.Column(visible=False) as paper:
                canvas = brush(
                    label="Drawing", elem_id="translate-canvas", canvas_size=(SIZE, SIZE), height=420,
                    brush=gr.Brush(default_size=4, colors=COLORS, color_mode="defaults"),
                )  # fmt: skip
        with gr.Column(min_width=300, elem_classes="settings"):
            go = gr.Button("Translate", variant="primary", elem_id="translate-go")
        with gr.Column(min_width=300, elem_classes="wall"):
            shown = stage(
                "translate",
                "Give a grey photograph colours, or draw." if drawable else "Give a grey photograph colours.",
            )
    connect(page, studio, shown)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def translate(request: gr.Request, photo: str | None, drawing: Any, model: str) -> Iterator[list[Any]]:
        from impasto.studio import work

        drawn = model in drawable
        source = (drawing["composite"] or [None])[0] if drawn else photo
        if source is None:
            raise gr.Error("draw something first" if drawn else "choose a picture first", print_exception=False)
        with spoken():
            session = studio.session(request)
            todo = work.translate(Path(source), networks.get(model, (model, ""))[0], drawn=drawn)
        yield from shown.begin(studio, session, todo, quick=True)

    def take(request: gr.Request, photo: str | None, model: str) -> Iterator[Any]:
        """Put white paper or the picture under the brush; of a photograph, its edges, if the network reads edges."""
        from impasto.studio import work

        if model not in drawable:
            return
        with spoken():
            todo = work.canvas(Path(photo) if photo else None, size=SIZE, trace=networks[model][1] == "edges")
            job = Job(studio.session(request), "translate-canvas", todo, shown=False)
            for _ in waited(studio.quick, job):
                pass
            if job.result is not None:
                yield {"background": str(job.result.file), "layers": [], "composite": None}

    def choose(model: str) -> Any:
        return gr.update(visible=model in drawable)

    go.click(translate, [photo, canvas, model], shown.outputs, concurrency_limit=None, **quiet)
    model.change(choose, model, paper, **quiet).then(take, [photo, model], canvas, **quiet)
    photo.change(take, [photo, model], canvas, **quiet)
