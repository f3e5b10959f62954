"""Recipes with values out of range or of wrong types, and conversion to JSON and back."""

import dataclasses
import json
from dataclasses import replace
from typing import Any

import pytest

from impasto.errors import RecipeError
from impasto.presets import TRANSFERS
from impasto.recipes import Photo, Training, Transfer
from impasto.schema import check, described, from_json, to_json


@pytest.mark.parametrize("name", TRANSFERS)
def test_to_json_and_back(name: str) -> None:
    fields = json.loads(json.dumps(to_json(TRANSFERS[name])))
    back = from_json(fields, Transfer)
    assert back == TRANSFERS[name]
    for field in dataclasses.fields(Transfer):
        assert type(getattr(back, field.name)) is type(getattr(TRANSFERS[name], field.name))
    assert hash(back) == hash(TRANSFERS[name])  # no lists remain


def test_from_json_restores_tuples() -> None:
    recipe = from_json({"scales": [0.5, 1], "style_layers": ["relu1_1"], "strength": 2, "layer_weights": [3]}, Transfer)
    assert recipe.scales == (0.5, 1.0)
    assert recipe.style_layers == ("relu1_1",)
    assert type(recipe.strength) is float
    assert type(recipe.scales[1]) is float
    assert recipe.steps == Transfer().steps
    assert from_json({}, Transfer) == Transfer()


def test_unknown_field() -> None:
    with pytest.raises(RecipeError, match="strenght"):
        from_json({"strenght": 1.0}, Transfer)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "512"),
        ("size", 512.0),
        ("size", True),
        ("steps", None),
        ("strength", "1"),
        ("strength", False),
        ("clip", 1),
        ("encoder", 19),
        ("scales", 1.0),
        ("scales", ["1"]),
        ("style_layers", "relu1_1"),
        ("style_layers", [1]),
        ("layer_weights", {"relu1_1": 1.0}),
        ("optimizer", "sgd"),
        ("style_term", ["gatys"]),
        ("keep_colors", None),
    ],
)
def test_wrong_types(field: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=field):
        from_json({field: value}, Transfer)


NUMBERS = (
    *("size", "steps", "strength", "content_weight", "style_weight", "smoothness", "feature_scale", "flat"),
    *("style_scale", "face_strength", "noise", "rate", "checkpoint_every", "frame_every", "fps"),
)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", NUMBERS)
def test_numbers_out_of_range(field: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"`{field}` must be"):
        check(replace(Transfer(), **{field: value}))


@pytest.mark.parametrize("field", ["noise", "rate", "style_scale"])
def test_numbers_that_must_not_be_0(field: str) -> None:
    with pytest.raises(RecipeError, match="more than 0"):
        check(replace(Transfer(), **{field: 0}))


@pytest.mark.parametrize("field", sorted(set(NUMBERS) - {"noise", "rate", "style_scale", "fps", "steps"}))
def test_numbers_that_may_be_0(field: str) -> None:
    assert getattr(check(replace(Transfer(), **{field: 0})), field) == 0


def test_all_numeric_fields_are_listed() -> None:
    numeric = {field.name for field in dataclasses.fields(Transfer) if field.type in ("int", "float")}
    assert numeric == {*NUMBERS, "seed"}


@pytest.mark.parametrize("scales", [(0.5,), (1.0, 0.5), (0.0, 1.0), (-0.5, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_scales(scales: tuple[float, ...]) -> None:
    with pytest.raises(RecipeError, match="`scales`"):
        check(replace(Transfer(), scales=scales))


@pytest.mark.parametrize("weights", [(1.0,), (1.0,) * 4, (1.0,) * 6])
@pytest.mark.parametrize(("field", "layers"), [("layer_weights", "style"), ("content_layer_weights", "content")])
def test_the_number_of_layer_weights(field: str, layers: str, weights: tuple[float, ...]) -> None:
    recipe = replace(Transfer(), **{f"{layers}_layers": Transfer().style_layers, field: weights})
    with pytest.raises(RecipeError, match=f"`{field}`: {len(weights)} weights for 5 layers"):
        check(recipe)


@pytest.mark.parametrize(
    ("weight", "said"), [(-1.0, "0 or more"), (float("nan"), "0 or more"), (float("inf"), "1,000,000,000 or less")]
)
@pytest.mark.parametrize("field", ["layer_weights", "style_weights", "sweep"])
def test_weights_out_of_range(field: str, weight: float, said: str) -> None:
    with pytest.raises(RecipeError, match=f"`{field}` must be {said}"):
        check(replace(Transfer(), **{field: (1.0, 1.0, weight, 1.0, 1.0)}))


def test_from_json_checks() -> None:
    with pytest.raises(RecipeError, match="`rate`"):
        from_json({"rate": -1.0}, Transfer)


def test_errors_are_one_line() -> None:
    with pytest.raises(RecipeError) as caught:
        check(replace(Transfer(), size=-3))
    assert "\n" not in str(caught.value)
    assert "-3" in str(caught.value)


@pytest.mark.parametrize("kind", [Transfer, Training, Photo])
def test_every_number_has_a_range_that_is_checked_and_shown(kind: type) -> None:
    for field in dataclasses.fields(kind):
        if field.type not in ("int", "float", "tuple[float, ...]"):
            assert "range" not in field.metadata
            continue
        least, most, _ = field.metadata["range"]
        assert f"{int(most):,}." in described(kind)[field.name]
        for wrong in (least - 1, most * 2, 10**400):
            value = [wrong] if field.type.startswith("tuple") else wrong
            with pytest.raises(RecipeError, match=f"`{field.name}` must"):
                from_json({field.name: value}, kind)


@pytest.mark.parametrize("name", TRANSFERS)
def test_presets_are_within_their_ranges(name: str) -> None:
    assert check(TRANSFERS[name]) is TRANSFERS[name]


@pytest.mark.parametrize("value", [["relu1_1"] * 100, ["relu1_1" * 1000], {"style": "x" * 10**6}])
def test_long_values(value: Any) -> None:
    with pytest.raises(RecipeError, match="style_layers") as caught:
        from_json({"style_layers": value}, Transfer)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "recipe", [Training(crop=32), Training(rate=0.0), Photo(regions=0), Photo(keep_highlights=1.5)]
)
def test_invalid_training_and_photo_recipes(recipe: Training | Photo) -> None:
    with pytest.raises(RecipeError, match="must"):
        check(recipe)
    assert from_json(to_json(type(recipe)()), type(recipe)) == type(recipe)()
