"""The panels of each study."""

from dataclasses import replace

import pytest

from impasto import presets, schema, study
from impasto.errors import InputError
from impasto.recipes import FIVE


def test_over_content() -> None:
    """OwlBook's figure 3."""
    panels = study.panels("content", size=64, steps=100)
    assert [panel.label for panel in panels] == list(FIVE)
    base = replace(presets.reconstruct_content, size=64, steps=100)
    assert [panel.recipe for panel in panels] == [replace(base, content_layers=(layer,)) for layer in FIVE]


def test_over_style() -> None:
    """OwlBook's figure 5: the first layer, the first two, ... all five."""
    panels = study.panels("style", seed=3)
    assert [panel.label for panel in panels] == [
        "relu1_1",
        "relu1_1 to 2_1",
        "relu1_1 to 3_1",
        "relu1_1 to 4_1",
        "relu1_1 to 5_1",
    ]
    base = replace(presets.reconstruct_style, seed=3)
    assert [panel.recipe for panel in panels] == [replace(base, style_layers=FIVE[:count]) for count in range(1, 6)]


def test_over_descent() -> None:
    """KerasDescent's eight videos; the compact encoder lacks the last layer."""
    shown = ["relu1_1", "relu1_2", "relu2_1", "relu3_2", "relu3_4", "relu4_1", "relu5_1", "relu5_4"]
    panels = study.panels("descent", encoder="vgg19")
    assert [panel.label for panel in panels] == shown
    assert all(panel.recipe.style_layers == (panel.label,) for panel in panels)
    assert all(panel.recipe.optimizer == "descent" and panel.recipe.rate == 100 / 255 for panel in panels)
    assert [panel.label for panel in study.panels("descent")] == shown[:-1]
    assert {panel.recipe.steps for panel in study.panels("descent", steps=7)} == {7}


def test_over_strengths() -> None:
    panels = study.panels("strengths", strengths=(0.5, 2.0), size=64)
    assert [panel.label for panel in panels] == ["strength 0.5", "strength 2"]
    base = replace(presets.impasto, size=64)
    assert [panel.recipe for panel in panels] == [replace(base, strength=0.5), replace(base, strength=2.0)]


def test_strengths_are_needed() -> None:
    with pytest.raises(InputError, match="`strengths`"):
        study.panels("strengths", strengths=())


@pytest.mark.parametrize("over", ["content", "style", "descent"])
def test_every_panel_has_a_valid_recipe(over: str) -> None:
    panels = study.panels(over)  # type: ignore[arg-type]
    for panel in panels:
        schema.check(panel.recipe)
    assert len({panel.label for panel in panels}) == len(panels) >= 5
    assert len({panel.recipe for panel in panels}) == len(panels)


def test_sweep() -> None:
    swept = study.sweep(presets.TRANSFERS["pytorch-five"])
    assert [label for label, _ in swept] == ["style weight 0.1", "style weight 100", "style weight 100000"]
    assert [each.style_weight for _, each in swept] == [0.1, 100.0, 100000.0]
    assert all(each.sweep == () for _, each in swept)
