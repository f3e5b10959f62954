"""The studio's look: its colours, fonts and style sheet."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

SANS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

CSS = Path(__file__).with_name("theme.css")

MASTHEAD = '<div class="masthead"><h1>impasto</h1><p>photographs, repainted on this machine</p></div>'

# Let screen readers read the visible names; Gradio's labels ("Thumbnail 3 of 12") hide them.
HEAD = """<script>
new MutationObserver(() => document
  .querySelectorAll("#styles .thumbnail-item[aria-label], button.upload-container[aria-label]")
  .forEach((button) => button.removeAttribute("aria-label"))
).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["aria-label"] });
</script>"""


# Variables of Gradio's theme, with their values in the light and in the dark mode.
COLOURS = {
    ("transparent", "transparent"): (
        *("block_background_fill", "block_label_background_fill", "input_background_fill", "panel_background_fill"),
        *("checkbox_label_background_fill", "checkbox_label_background_fill_selected"),
    ),
    ("#5c554b", "#b5ada2"): (
        *("body_text_color_subdued", "block_label_text_color", "block_title_text_color", "block_info_text_color"),
        "input_placeholder_color",
    ),
    ("#d6d0c5", "#45403a"): ("input_border_color",),
    ("#b2432b", "#e2745a"): ("slider_color",),
}


def theme() -> gr.Theme:
    """Gradio's theme with our colours and with system fonts."""
    base: gr.Theme = gr.themes.Base(
        primary_hue=gr.themes.colors.stone, secondary_hue=gr.themes.colors.stone, neutral_hue=gr.themes.colors.stone,
        font=SANS, font_mono=MONO, radius_size=gr.themes.sizes.radius_sm,
    )  # fmt: skip
    colours = {
        f"{name}{suffix}": colour
        for pair, names in COLOURS.items()
        for suffix, colour in zip(("", "_dark"), pair, strict=True)
        for name in names
    }
    return base.set(
        block_border_width="0px",
        block_label_border_width="0px",
        block_shadow="none",
        input_border_width="1px",
        **colours,
    )
