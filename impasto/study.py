"""Lists of recipes: the panels of studies, after the articles' figures, and sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from impasto import presets
from impasto.errors import InputError
from impasto.recipes import FIVE, Transfer


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet: its label, and the recipe that paints it."""

    label: str
    recipe: Transfer


STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
# KerasDescent's layers; its block5_conv4 lies beyond the compact encoder, which ends at relu5_1.
DESCENT = ("relu1_1", "relu1_2", "relu2_1", "relu3_2", "relu3_4", "relu4_1", "relu5_1", "relu5_4")


def panels(
    over: Literal["content", "style", "descent", "strengths"],
    *,
    strengths: Sequence[float] = STRENGTHS,
    **settings: Any,
) -> list[Panel]:
    """The panels of a study.

    Args:
        over: content: OwlBook's figure 3, one layer each; style: its figure 5, the first layer, the first two, ... all
            five; descent: KerasDescent's films, one layer each; strengths: transfers.
        strengths: those to compare.
        settings: fields of `Transfer` that all panels share.

    Returns:
        The panels, in the order of layers or strengths.

    Raises:
        InputError: ``strengths`` is studied, and none are given.
    """
    if over == "content":
        base = replace(presets.reconstruct_content, **settings)
        return [Panel(layer, replace(base, content_layers=(layer,))) for layer in FIVE]
    if over == "style":
        base = replace(presets.reconstruct_style, **settings)
        return [
            Panel(
                FIVE[0] if count == 1 else f"{FIVE[0]} to {FIVE[count - 1][4:]}",
                replace(base, style_layers=FIVE[:count]),
            )
            for count in range(1, 6)
        ]
    if over == "descent":
        base = replace(presets.keras_descent, **({"steps": 300} | settings))
        layers = DESCENT[:-1] if base.encoder == "compact" else DESCENT
        return [Panel(layer, replace(base, style_layers=(layer,))) for layer in layers]
    if not strengths:
        raise InputError("`over` strengths needs `strengths`")
    base = replace(presets.impasto, **settings)
    return [Panel(f"strength {strength:g}", replace(base, strength=strength)) for strength in strengths]


def sweep(recipe: Transfer) -> list[tuple[str, Transfer]]:
    """The recipe at each style weight of its sweep, with labels."""
    return [(f"style weight {weight:g}", replace(recipe, style_weight=weight, sweep=())) for weight in recipe.sweep]
