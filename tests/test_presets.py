"""Every preset's values, compared with the papers and articles in docs/references.md."""

from typing import Any

import pytest

from impasto import presets
from impasto.presets import TRANSFERS
from impasto.schema import check

FIVE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")

# The values of the sources, field by field; fields that a source does not give are left out.
TABLE: dict[str, dict[str, Any]] = {
    "gatys-2016": {
        "content_layers": ("relu4_2",),
        "content_term": "half-sum",
        "style_layers": FIVE,
        "layer_weights": (1 / 5,) * 5,
        "style_term": "gatys",
        "optimizer": "lbfgs",
        "init": "noise",
        "scales": (1.0,),
        "steps": 500,
        "smoothness": 0.0,
    },
    "pytorch-blog": {
        "content_layers": ("relu4_2",),
        "content_term": "mean",
        "style_layers": FIVE,
        "layer_weights": (0.2,) * 5,
        "style_term": "blog",
        "content_weight": 1.0,
        "style_weight": 100.0,
        "optimizer": "adam",
        "init": "content",
        "scales": (1.0,),
        "steps": 3000,
        "size": 768,
        "checkpoint_every": 500,
        "figure": True,
        "clip": False,
    },
    "keras-descent": {
        "content_layers": (),
        "style_term": "mean",
        "content_weight": 0.0,
        "style_weight": 1.0,
        "layer_weights": (),
        "optimizer": "descent",
        "rate": 100 / 255,
        "init": "content",
        "scales": (1.0,),
        "steps": 2000,
        "frame_every": 10,
        "fps": 10,
        "clip": False,
    },
    "tensorflow-course": {
        "content_term": "quarter-mean",
        "style_term": "gatys",
        "content_weight": 20.0,
        "style_weight": 40.0,
        "optimizer": "adam",
        "rate": 0.03,
        "clip": True,
        "init": "noise",
        "scales": (1.0,),
    },
    "pytorch-five": {
        "content_layers": FIVE,
        "content_term": "mean",
        "style_layers": FIVE,
        "style_term": "five",
        "content_weight": 1.0,
        "sweep": (0.1, 100.0, 100000.0),
        "optimizer": "adam",
        "init": "content",
        "scales": (1.0,),
    },
    "owl": {
        "content_layers": ("relu4_2",),
        "content_term": "mean",
        "style_layers": FIVE,
        "layer_weights": (),
        "style_term": "owl",
        "content_weight": 1.0,
        "style_weight": 20.0,
        "optimizer": "adam",
        "init": "content",
        "scales": (1.0,),
        "steps": 250,
        "checkpoint_every": 50,
    },
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, row in TABLE.items() for field in row])
def test_values_of_the_sources(name: str, field: str) -> None:
    assert getattr(TRANSFERS[name], field) == TABLE[name][field]


def test_derived_numbers() -> None:
    gatys = TRANSFERS["gatys-2016"]
    assert gatys.content_weight / gatys.style_weight == pytest.approx(1e-3)  # alpha / beta
    # 0.005 on normalised pixels, whose unit is torchvision's standard deviation: 0.229, 0.224 and 0.225
    assert TRANSFERS["pytorch-blog"].rate == pytest.approx(0.005 * (0.229 + 0.224 + 0.225) / 3, rel=1e-3)
    assert TRANSFERS["owl"].noise == pytest.approx(0.256 / 255)  # on Caffe's scale of 0 to 255
    course = TRANSFERS["tensorflow-course"]
    assert course.content_layers == course.style_layers[-1:]  # the last output


def test_the_impasto_preset() -> None:
    ours = TRANSFERS["impasto"]
    assert 0 < ours.flat < 0.1 and ours.palette
    assert (ours.content_term, ours.style_term) == ("normalized", "bounded")
    assert ours.scales == ()
    assert TRANSFERS["reconstruct-content"].style_layers == ()
    assert TRANSFERS["reconstruct-style"].content_layers == ()


@pytest.mark.parametrize("name", TRANSFERS)
def test_every_preset(name: str) -> None:
    assert check(TRANSFERS[name]) is TRANSFERS[name]
    assert len(presets.ABOUT[name]) > 20
    assert "\n" not in presets.ABOUT[name]
    assert getattr(presets, name.replace("-", "_")) is TRANSFERS[name]


def test_about_names_presets_only() -> None:
    assert list(presets.ABOUT) == list(TRANSFERS)


def test_presets_differ() -> None:
    assert len(set(TRANSFERS.values())) == len(TRANSFERS)


# Isola2017, section 6.2: epochs, batch, jitter, and which half of a pair is the input.
TASKS = {
    "pix2pix": (200, 1, True, "AtoB"), "facades": (200, 1, True, "BtoA"), "maps": (200, 1, True, "AtoB"),
    "cityscapes": (200, 1, True, "BtoA"), "day2night": (17, 4, True, "AtoB"),
    "thermal2color": (10, 4, True, "AtoB"), "inpaint": (25, 4, True, "AtoB"),
    "edges2photos": (15, 4, False, "AtoB"), "edges": (15, 4, True, "AtoB"), "colorize": (6, 4, False, "AtoB"),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_recipes_of_the_papers_tasks(name: str) -> None:
    recipe = presets.TRANSLATIONS[name]
    jitter = (recipe.load, recipe.crop) == (286, 256) and recipe.mirror
    assert (recipe.epochs, recipe.batch, jitter, recipe.direction) == TASKS[name]
    assert (recipe.generator, recipe.l1, recipe.gan, recipe.rate) == ("unet256", 100, "bce", 2e-4)
