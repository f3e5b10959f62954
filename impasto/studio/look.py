"""How the studio looks: a quiet wall, and the picture on it."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

SANS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

CSS = Path(__file__).with_name("look.css")

MASTHEAD = '<div class="masthead"><h1>impasto</h1><p>photographs, repainted on this machine</p></div>'

# What a screen reader is told is what is seen: Gradio's own labels ("Thumbnail 3 of 12") hide the names.
HEAD = """<script>
new MutationObserver(() => document
  .querySelectorAll("#styles .thumbnail-item[aria-label], button.upload-container[aria-label]")
  .forEach((button) => button.removeAttribute("aria-label"))
).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["aria-label"] });
</script>"""


def theme() -> gr.Theme:
    """Gradio's, in our colours and in fonts that every machine has."""
    base: gr.Theme = gr.themes.Base(
        primary_hue=gr.themes.colors.stone, secondary_hue=gr.themes.colors.stone, neutral_hue=gr.themes.colors.stone,
        font=SANS, font_mono=MONO, radius_size=gr.themes.sizes.radius_sm,
    )  # fmt: skip
    return base.set(
        block_background_fill="transparent", block_border_width="0px", block_shadow="none",
        block_label_background_fill="transparent", block_label_border_width="0px", input_background_fill="transparent",
        panel_background_fill="transparent", input_border_width="1px",
        checkbox_label_background_fill="transparent", checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_selected="transparent", checkbox_label_background_fill_selected_dark="transparent",
        input_border_color="#d6d0c5", input_border_color_dark="#45403a",
        slider_color="#b2432b", slider_color_dark="#e2745a",
        **{
            f"{name}{suffix}": colour
            for suffix, colour in (("", "#5c554b"), ("_dark", "#b5ada2"))
            for name in (
                "body_text_color_subdued", "block_label_text_color", "block_title_text_color", "block_info_text_color",
                "input_placeholder_color",
            )
        },
    )  # fmt: skip
