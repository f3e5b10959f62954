"""The fields of recipes: validation, JSON and help texts. Standard library only."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import typing
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, TypeVar

from impasto.errors import RecipeError
from impasto.recipes import Photo, Training, Transfer

Recipe = TypeVar("Recipe", Transfer, Training, Photo)

# Fields and their smallest valid values; others may have any value of their type.
LEAST: dict[type, dict[str, int]] = {
    Transfer: dict.fromkeys(
        ("size", "steps", "strength", "content_weight", "style_weight", "smoothness", "feature_scale", "flat",
         "checkpoint_every", "frame_every"), 0,
    ),
    Training: {"steps": 1, "batch": 1, "crop": 64, "style_size": 1}
    | dict.fromkeys(("strength", "smoothness", "lattice", "grain", "ramp"), 0),
    Photo: dict.fromkeys(("size", "steps", "radius", "regions"), 1)
    | dict.fromkeys(("strength", "photorealism", "detail", "evenness", "keep_highlights"), 0),
}  # fmt: skip
POSITIVE = ("noise", "rate", "style_scale", "fps")  # in any recipe
PARTS = ("keep_highlights", "grain")  # at most 1


def check(recipe: Recipe) -> Recipe:
    """Return the recipe if it is valid.

    Raises:
        RecipeError: a value has the wrong type or is out of range, or the number of weights differs from that of
            their layers.
    """
    for name, kind in typing.get_type_hints(type(recipe)).items():
        value = _typed(name, kind, getattr(recipe, name))
        if name in POSITIVE and not 0 < value < float("inf"):
            raise RecipeError(f"`{name}` must be more than 0, not {value}")
        least = LEAST[type(recipe)].get(name)
        if least is not None and not least <= value < float("inf"):
            raise RecipeError(f"`{name}` must be {least} or more, not {value}")
        if name in PARTS and value > 1:
            raise RecipeError(f"`{name}` must lie between 0 and 1, not {value:g}")
    if isinstance(recipe, Transfer):
        _check_lists(recipe)
    return recipe


def _check_lists(recipe: Transfer) -> None:
    if recipe.scales and not (all(0 < scale <= 1 for scale in recipe.scales) and recipe.scales[-1] == 1):
        raise RecipeError(f"`scales` must lie in (0, 1] and end with 1, not {recipe.scales}")
    for name, layers in (
        ("layer_weights", recipe.style_layers),
        ("content_layer_weights", recipe.content_layers),
    ):
        weights = getattr(recipe, name)
        if weights and len(weights) != len(layers):
            raise RecipeError(f"`{name}`: {len(weights)} weights for {len(layers)} layers; give one for each, or none")
    for name in ("layer_weights", "content_layer_weights", "style_weights", "sweep"):
        if not all(0 <= weight < float("inf") for weight in getattr(recipe, name)):
            raise RecipeError(f"`{name}` must be 0 or more, not {getattr(recipe, name)}")


def to_json(recipe: Transfer | Training | Photo) -> dict[str, Any]:
    """The fields as JSON values."""
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return fields


def from_json(fields: Mapping[str, Any], kind: type[Recipe]) -> Recipe:
    """A recipe of a kind from its fields; missing fields keep their defaults.

    Raises:
        RecipeError: a field is unknown, or a value is invalid.
    """
    types = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in types:
            raise RecipeError(f"unknown recipe field {name!r}")
        values[name] = _typed(name, types[name], value)
    return check(kind(**values))


def described(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, including inherited fields."""
    texts: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        body = ast.parse(inspect.cleandoc(inspect.getsource(each))).body[0].body  # type: ignore[attr-defined]
        texts |= {
            node.target.id: " ".join(ast.literal_eval(following.value).split())
            for node, following in pairwise(body)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(following, ast.Expr)
        }
    return texts


def _typed(name: str, kind: Any, value: Any) -> Any:
    """``value`` as ``kind``: lists become tuples, and whole numbers floats where a float is expected."""
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_typed(name, typing.get_args(kind)[0], item) for item in value)
    if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    if typing.get_origin(kind) is Literal:
        wanted = f"one of {', '.join(typing.get_args(kind))}"
    else:
        wanted = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}.get(kind, "a list")
    raise RecipeError(f"`{name}` must be {wanted}, not {value!r}")
