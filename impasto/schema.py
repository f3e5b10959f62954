"""The fields of recipes: validation, JSON and help texts. Standard library only."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import reprlib
import typing
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, TypeVar

from impasto.errors import RecipeError
from impasto.recipes import Photo, Training, Transfer, Translation

Recipe = TypeVar("Recipe", Transfer, Training, Photo, Translation)

MOST_VALUES = 64  # in a list
MOST_LETTERS = 4096  # in a string


def check(recipe: Recipe) -> Recipe:
    """Return the recipe if it is valid.

    Raises:
        RecipeError: a value has the wrong type or is out of range, or the number of weights differs from that of
            their layers.
    """
    types = typing.get_type_hints(type(recipe))
    for field in dataclasses.fields(recipe):
        _check_range(field, _typed(field.name, types[field.name], getattr(recipe, field.name)))
    if isinstance(recipe, Transfer):
        _check_lists(recipe)
    return recipe


def _check_lists(recipe: Transfer) -> None:
    if recipe.scales and recipe.scales[-1] != 1:
        raise RecipeError(f"`scales` must end with 1, not {recipe.scales}")
    for name, layers in (
        ("layer_weights", recipe.style_layers),
        ("content_layer_weights", recipe.content_layers),
    ):
        weights = getattr(recipe, name)
        if weights and len(weights) != len(layers):
            raise RecipeError(f"`{name}`: {len(weights)} weights for {len(layers)} layers; give one for each, or none")


def _check_range(field: dataclasses.Field[Any], value: Any) -> None:
    """RecipeError if a value, or one in a list, is not in the field's range, or if it is too long."""
    if isinstance(value, tuple) and len(value) > MOST_VALUES:
        raise RecipeError(f"`{field.name}` has {len(value)} values; at most {MOST_VALUES} are allowed")
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, str) and len(each) > MOST_LETTERS:
            raise RecipeError(f"`{field.name}` has {len(each)} characters; at most {MOST_LETTERS} are allowed")
        if "range" not in field.metadata:
            continue
        least, most, above = field.metadata["range"]
        if not (each > least if above else each >= least):  # so that NaN is refused
            raise RecipeError(
                f"`{field.name}` must be {f'more than {least}' if above else f'{least} or more'}, not {value}"
            )
        if not each <= most:
            raise RecipeError(f"`{field.name}` must be {_shown(most)} or less, not {value}")


def to_json(recipe: Transfer | Training | Photo | Translation) -> dict[str, Any]:
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
            raise RecipeError(f"unknown recipe field {reprlib.repr(name)}")
        values[name] = _typed(name, types[name], value)
    return check(kind(**values))


def described(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, including inherited fields, and its range."""
    texts: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        body = ast.parse(inspect.cleandoc(inspect.getsource(each))).body[0].body  # type: ignore[attr-defined]
        texts |= {
            node.target.id: " ".join(ast.literal_eval(following.value).split())
            for node, following in pairwise(body)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(following, ast.Expr)
        }
    for field in dataclasses.fields(kind):
        if "range" in field.metadata:
            least, most, above = field.metadata["range"]
            texts[field.name] += f" {f'Above {least}, at most' if above else f'{least} to'} {_shown(most)}."
    return texts


def _shown(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def _typed(name: str, kind: Any, value: Any) -> Any:
    """``value`` as ``kind``: lists become tuples, and whole numbers floats where a float is expected."""
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_typed(name, typing.get_args(kind)[0], item) for item in value)
    if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1 << 1023 else float("inf")
    if isinstance(kind, type) and type(value) is kind:
        return value
    if typing.get_origin(kind) is Literal:
        wanted = f"one of {', '.join(typing.get_args(kind))}"
    else:
        wanted = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}.get(kind, "a list")
    raise RecipeError(f"`{name}` must be {wanted}, not {reprlib.repr(value)}")
