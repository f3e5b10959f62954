"""The Repaint tab: in one pass, by optimisation, or by one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from impasto import bundled, presets
from impasto.errors import RecipeError, RefusedError
from impasto.recipes import Transfer
from impasto.studio import forms, names
from impasto.studio.jobs import Job
from impasto.studio.viewer import Studio, brush, connect, dropzone, spoken, stage, style_choice, waited

KEEP: dict[str, Any] = {"the painting's": "none", "the photo's": "luma", "the photo's, matched": "histogram"}
SIZES = {"640": 640, "1024": 1024, "1600": 1600, "as the photograph": 0}
# Fields with their own input on the page, and fields that only the command line uses.
SHOWN = ("size", "strength", "style_scale", "keep_colors", "seed")
ELSEWHERE = ("style_weights", "init", "sweep", "checkpoint_every", "figure", "frame_every", "fps", "encoder")
ADVANCED = forms.all_but(Transfer, *SHOWN, *ELSEWHERE)


def build(page: gr.Blocks, studio: Studio) -> None:
    with gr.Row(elem_classes="room"):
        with gr.Column(min_width=300, elem_classes="choose"):
            photo = dropzone("Photograph", "photo", "Drop a photograph, paste it, or click", 210)
            styles, style, painting = style_choice(studio)
        with gr.Column(min_width=300, elem_classes="settings"):
            strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", elem_id="strength")
            with gr.Row(elem_classes="pair"):
                size = gr.Dropdown(list(SIZES), value="1024", label="Size", elem_id="size")
                keep = gr.Dropdown(list(KEEP), value="the painting's", label="Colours", elem_id="keep")
            with gr.Row(elem_classes="pair"):
                paint = gr.Button("Paint", variant="primary", elem_id="paint")
                onward = gr.Button("Paint on", elem_id="onward")
            with gr.Accordion("Where", open=False, elem_id="where"):
                gr.Markdown("Brush over the area to paint; without brushing, everything is painted.")
                where = brush(
                    show_label=False, label="Where the style goes", elem_id="brush", canvas_size=(640, 640),
                    brush=gr.Brush(default_size=40, colors=["#e0503a"], color_mode="fixed"),
                )  # fmt: skip
            with gr.Accordion("More", open=False, elem_id="more"):
                mixture = gr.Dropdown(
                    [(shipped.title, name) for name, shipped in bundled.STYLES.items()],
                    multiselect=True, label="Several styles",
                    info="Mixes them, in one pass or by optimisation.", elem_id="mixture",
                )  # fmt: skip
                shares = gr.Textbox(
                    label="Their weights", info="One for each style, such as 2 1; empty: equal weights."
                )
                preset = gr.Dropdown(
                    list(presets.TRANSFERS), value="impasto", label="Recipe", elem_id="preset",
                    info="A preset for Paint and Paint on; sets the fields under Advanced.",
                )  # fmt: skip
                scale, seed = forms.form(presets.impasto, ["style_scale", "seed"])
            with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                advanced = forms.form(presets.impasto, ADVANCED)
        with gr.Column(min_width=300, elem_classes="wall"):
            shown = stage("repaint", "Choose a photograph, then a style.")
    connect(page, studio, shown)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    running: dict[str, Any] = {**quiet, "concurrency_limit": None, "outputs": shown.outputs}

    def in_one_pass(
        request: gr.Request, photo: str | None, painting: str | None, chosen: str, mixture: list[str],
        shares: str, strength: float, size: str, keep: str, drawing: Any, scale: float,
    ) -> Iterator[list[Any]]:  # fmt: skip
        from impasto.studio import work

        if photo is None or not (painting or mixture or chosen):
            raise gr.Error("choose a photograph, and a style or a painting", print_exception=False)
        with spoken():
            session = studio.session(request)
            styles: list[str | Path] = [names.name("style", each) for each in mixture or [chosen] if each]
            parts = forms.read(Transfer, {"style_weights": shares if mixture and not painting else ""}).style_weights
            todo = work.one_pass(
                Path(photo), [Path(painting)] if painting else styles, style_weights=parts, strength=strength,
                style_scale=forms.read(Transfer, {"style_scale": scale}).style_scale, keep_colors=KEEP[keep],
                size=SIZES[size], brushed=drawing["layers"],
            )  # fmt: skip
        yield from shown.begin(studio, session, todo, quick=True)

    def repeat(
        request: gr.Request, photo: str | None, painting: str | None, chosen: str, mixture: list[str], *rest: Any
    ) -> Any:  # fmt: skip
        """Paint the last picture again with the new settings, if it was painted in one pass."""
        session = studio.known(request)
        job = session.jobs.get("repaint") if session is not None else None
        if photo is None or job is None or job.over is False or job.losses or not (painting or mixture or chosen):
            yield [gr.skip()] * len(shown.outputs)
        else:
            yield from in_one_pass(request, photo, painting, chosen, mixture, *rest)

    def optimised(
        request: gr.Request, photo: str | None, painting: str | None, chosen: str, mixture: list[str],
        shares: str, strength: float, size: str, keep: str, drawing: Any, preset: str, *values: Any, on: bool = False,
    ) -> Iterator[list[Any]]:  # fmt: skip
        from impasto.studio import work

        if photo is None or not (painting or mixture or chosen):
            raise gr.Error("choose a photograph, and a style or a painting", print_exception=False)
        with spoken():
            session = studio.session(request)
            styles = [names.name("style", each) for each in mixture or [chosen] if each]
            named = dict(zip(("style_scale", "seed", *ADVANCED), values, strict=True))
            named |= {"size": SIZES[size], "strength": strength, "keep_colors": KEEP[keep]}
            if not painting:
                named["style_weights"] = shares if mixture else ""
            recipe = replace(forms.read(Transfer, named), **{
                name: getattr(presets.TRANSFERS[preset], name) for name in ("init", "encoder")
            })  # fmt: skip
            latest = session.jobs.get("repaint")
            begin = latest.result.file if on and latest is not None and latest.result is not None else None
            paintings = [Path(painting)] if painting else [bundled.locate(style) for style in styles]
            todo = work.optimise(Path(photo), paintings, recipe, brushed=drawing["layers"], begin=begin)
        yield from shown.begin(studio, session, todo)

    def onwards(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        yield from optimised(request, *values, on=True)

    # Use a choice made while the last one is being painted; Gradio drops it by default.
    quick: dict[str, Any] = {**running, "trigger_mode": "always_last"}
    quick_inputs = [photo, painting, style, mixture, shares, strength, size, keep, where, scale]
    slow_inputs = [photo, painting, style, mixture, shares, strength, size, keep, where, preset, scale, seed, *advanced]

    def choose(event: gr.SelectData) -> str:
        return str([*bundled.STYLES][event.index])

    def only_style() -> tuple[list[str], None]:
        """No mixture and no painting: the style that was chosen last is the one that is painted."""
        return [], None

    styles.select(choose, outputs=style, **quiet).then(only_style, outputs=[mixture, painting], **quiet).then(
        in_one_pass, quick_inputs, **quick
    )
    for changed in (strength.release, size.input, keep.input, shares.submit):
        changed(repeat, quick_inputs, **quick)
    mixture.input(lambda: None, outputs=painting, **quiet).then(in_one_pass, quick_inputs, **quick)
    painting.upload(in_one_pass, quick_inputs, **quick)
    paint.click(optimised, slow_inputs, **running)
    onward.click(onwards, slow_inputs, **running)

    inputs = dict(zip(("size", "keep_colors", "strength", "style_scale", "seed", *ADVANCED),
                      (size, keep, strength, scale, seed, *advanced), strict=True))  # fmt: skip
    names_of: dict[Any, str] = {value: name for name, value in (SIZES | KEEP).items()}

    def open_photo(request: gr.Request, photo: str | None) -> Iterator[dict[gr.components.Component, Any]]:
        """Show a photograph under the brush; if it has our receipt, restore its settings."""
        from impasto.studio import work

        if photo is None:
            yield {where: None}
            return
        changes: dict[gr.components.Component, Any] = {}
        try:
            fields, styles, weights = names.from_receipt(work.restore(Path(photo)))
        except (RecipeError, RefusedError):
            fields, styles, weights = {}, [], []
            gr.Warning("The settings in this picture's receipt cannot be used.")
        if fields:
            gr.Info("Settings restored from this picture's receipt.")
        for name in inputs.keys() & fields.keys():
            if name not in ("size", "keep_colors"):
                changes[inputs[name]] = forms.shown(fields[name])
            elif fields[name] in names_of:
                changes[inputs[name]] = names_of[fields[name]]
        if styles:
            changes[style] = styles[0]
        if len(styles) > 1:
            changes |= {mixture: styles, shares: forms.shown(weights)}
        if changes:
            yield changes
        with spoken():
            job = Job(studio.session(request), "canvas", work.canvas(Path(photo)), shown=False)
            for _ in waited(studio.quick, job):
                pass
            if job.result is not None:
                yield {where: {"background": str(job.result.file), "layers": [], "composite": None}}

    photo.change(open_photo, photo, [where, style, mixture, shares, *inputs.values()], **quiet)

    def take_preset(name: str) -> list[Any]:
        recipe = presets.TRANSFERS[name]
        return [forms.shown(getattr(recipe, field)) for field in ("strength", "style_scale", "seed", *ADVANCED)]

    preset.input(take_preset, preset, [strength, scale, seed, *advanced], **quiet)
