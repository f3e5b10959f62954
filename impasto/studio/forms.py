"""Forms made from recipes: one input for each field, with the field's docstring as help."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields as dataclass_fields
from typing import Any, Literal

import gradio as gr

from impasto import schema
from impasto.errors import RecipeError
from impasto.studio import names


def form(recipe: Any, shown: Sequence[str]) -> list[gr.components.Component]:
    """An input for each of these fields, with the value that it has in the recipe."""
    kinds, texts = typing.get_type_hints(type(recipe)), schema.described(type(recipe))
    known = {field.name: field for field in dataclass_fields(recipe)}
    return [_input(known[name], kinds[name], getattr(recipe, name), texts[name]) for name in shown]


def all_but(kind: type, *left_out: str) -> list[str]:
    return [field.name for field in dataclass_fields(kind) if field.name not in left_out]


def shown(value: Any) -> Any:
    """A field's value as its input shows it."""
    return " ".join(f"{item}" for item in value) if isinstance(value, tuple | list) else value


def read(kind: Any, values: Mapping[str, Any]) -> Any:
    """The recipe with the values of its inputs.

    Raises:
        RecipeError: a value is missing or not valid.
        RefusedError: a field of text holds something that a request may not name.
    """
    kinds = typing.get_type_hints(kind)
    return names.recipe(kind(), {name: _value(name, kinds[name], value) for name, value in values.items()})


def _value(name: str, kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        try:
            return [inner(word) for word in str(value or "").replace(",", " ").split()]
        except ValueError:
            raise RecipeError(f"`{name}` must be numbers separated by spaces, not {value!r}") from None
    if value is None:
        raise RecipeError(f"`{name}`: a value is needed")
    return int(value) if kind is int else value


def _input(field: Field[Any], kind: Any, value: Any, text: str) -> gr.components.Component:
    common = {"label": field.name.replace("_", " "), "info": text, "value": shown(value), "interactive": True}
    if kind is bool:
        return gr.Checkbox(**common)
    if kind in (int, float):
        least, most, _ = field.metadata["range"]
        return gr.Number(precision=0 if kind is int else None, minimum=least, maximum=most, **common)
    if typing.get_origin(kind) is Literal:
        return gr.Dropdown(list(typing.get_args(kind)), **common)
    return gr.Textbox(**common)
