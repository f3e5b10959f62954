"""Labelled contact sheets: pictures side by side, like the figures of the articles that the project follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from impasto import images

GAP = 8
PAPER = (250, 248, 244)
INK = (40, 38, 36)


def sheet(panels: Sequence[tuple[str, Tensor]], *, columns: int = 0, title: str = "") -> Tensor:
    """Pictures in a grid, each with its label below.

    Args:
        panels: (label, (1, 3, H, W) sRGB in [0, 1]); each is fitted to the height of the first.
        columns: pictures per row; 0: all in one row.
        title: a line above the pictures.

    Returns:
        (1, 3, H', W') sRGB in [0, 1].
    """
    height = panels[0][1].shape[-2]
    fitted = [
        (label, images.resize(image, height, max(1, round(image.shape[-1] * height / image.shape[-2]))))
        for label, image in panels
    ]
    cell = max(image.shape[-1] for _, image in fitted)
    columns = min(columns or len(panels), len(panels))
    rows = -(-len(panels) // columns)
    size = max(12, min(28, height // 16))
    font = ImageFont.load_default(size)
    line = round(1.6 * size)
    top = GAP + (line if title else 0)
    paper = Image.new("RGB", (columns * (cell + GAP) + GAP, top + rows * (height + line + GAP)), PAPER)
    draw = ImageDraw.Draw(paper)
    if title:
        draw.text((GAP, GAP), title, INK, font)
    for index, (label, image) in enumerate(fitted):
        x = GAP + (index % columns) * (cell + GAP)
        y = top + (index // columns) * (height + line + GAP)
        paper.paste(images.to_pil(image), (x + (cell - image.shape[-1]) // 2, y))
        draw.text((x + cell // 2, y + height + line // 2), label, INK, font, anchor="mm")
    return torch.from_numpy(np.array(paper)).permute(2, 0, 1)[None].float() / 255


def blocks(picture: Path, *, columns: int) -> str:
    """A picture for a terminal: half blocks in 24-bit colour, two pixels per character."""
    with Image.open(picture) as file:
        rows = 2 * max(1, round(columns * file.height / file.width / 2))
        pixels = np.asarray(file.convert("RGB").resize((columns, rows), Image.Resampling.LANCZOS))
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        cells = (f"\x1b[38;2;{a};{b};{c};48;2;{d};{e};{f}m▀" for (a, b, c), (d, e, f) in zip(upper, lower, strict=True))
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def curves(values: Mapping[str, Sequence[float]], *, width: int, height: int = 120) -> Tensor:
    """Curves of several quantities, each on its own scale, in a column of strips.

    Args:
        values: what each strip shows; its label has the first and the last value.
        width: of the result in pixels.
        height: of each strip.

    Returns:
        (1, 3, H, width) sRGB in [0, 1].
    """
    paper = Image.new("RGB", (width, len(values) * height), PAPER)
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(14)
    for index, (label, line) in enumerate(values.items()):
        top = index * height + 24
        low, span = min(line), (max(line) - min(line)) or 1.0
        points = [
            (GAP + (width - 2 * GAP) * at / max(1, len(line) - 1), top + (height - 32) * (1 - (value - low) / span))
            for at, value in enumerate(line)
        ]
        draw.text((GAP, index * height + 4), f"{label}: {line[0]:.4g} to {line[-1]:.4g}", INK, font)
        draw.line(points, INK, 2)
    return torch.from_numpy(np.array(paper)).permute(2, 0, 1)[None].float() / 255
