"""What a request may name: the files of its session, and what is bundled. Every endpoint asks here.

Nothing else that a client sends becomes a path. A refusal does not depend on which files exist.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from impasto import bundled, schema, weights
from impasto.errors import RefusedError
from impasto.recipes import STARTS, Photo, Transfer

Recipe = TypeVar("Recipe", Transfer, Photo)

LAYERS = tuple(
    f"relu{block}_{place}" for block, places in enumerate((2, 2, 4, 4, 4), 1) for place in range(1, places + 1)
)
STYLES = tuple(bundled.STYLES)
# The names that each field of text may hold; a field that is not listed may hold none.
NAMES: dict[str, Collection[str]] = {
    "style": STYLES,
    "init": STARTS,
    "encoder": tuple(name for name, entry in weights.WEIGHTS.items() if entry.url is None),
    "content_layers": LAYERS,
    "style_layers": LAYERS,
}
UNRESTORED = ("init", "encoder", "style_weights")  # fields of a receipt that are not restored from it
DEPTH = 40  # of a request's JSON
FILES = 16  # named in a request


def name(field: str, value: object) -> str:
    """Return the value of a field if a request may name it there.

    Raises:
        RefusedError: it may not.
    """
    allowed = NAMES.get(field, ())
    if not isinstance(value, str) or value not in allowed:
        raise RefusedError(f"`{field}` must be one of {', '.join(allowed)}")
    return value


def recipe(base: Recipe, values: Mapping[str, Any]) -> Recipe:
    """``base`` with some fields changed to a request's JSON values.

    Raises:
        RecipeError: a field is unknown, or a value is invalid.
        RefusedError: a field of text holds something that a request may not name.
    """
    if not isinstance(values, Mapping):
        raise RefusedError("the settings must be an object of fields and values")
    changed: Recipe = schema.from_json({**schema.to_json(base), **values}, type(base))
    for field, kind in typing.get_type_hints(type(base)).items():
        if kind is str:
            name(field, getattr(changed, field))
        elif kind == tuple[str, ...]:
            for each in getattr(changed, field):
                name(field, each)
    return changed


def from_receipt(receipt: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str], list[float]]:
    """The settings in an uploaded picture's receipt that a request may give as well.

    Returns:
        Fields of a `Transfer`, and the bundled styles of one pass with their weights.

    Raises:
        RecipeError, RefusedError: the receipt holds anything else in these places.
    """
    receipt = receipt or {}
    command = receipt.get("command")
    given = receipt.get("recipe", {}) if command in ("transfer", "apply") else {}
    styles = receipt.get("styles", []) if command == "apply" else []
    if not isinstance(given, dict) or not isinstance(styles, list):
        raise RefusedError("the picture's receipt is not one of impasto's")
    shares = receipt.get("style_weights", []) if len(styles) > 1 else []
    fields = {key: receipt[key] for key in ("strength", "keep_colors", "size") if receipt.get(key) is not None} | given
    known = {key: fields[key] for key in typing.get_type_hints(Transfer) if key in fields and key not in UNRESTORED}
    checked = recipe(Transfer(), known | {"style_weights": shares})
    return (
        {key: getattr(checked, key) for key in known},
        [name("style", each) for each in styles],
        list(checked.style_weights),
    )
