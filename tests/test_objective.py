"""Hand-written values and gradients compared with autograd, in one piece and in tiles."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from impasto import bundled, encoder, images, objective, optimize, presets, tiling
from impasto.encoder import CONVOLUTIONS, VGG
from impasto.errors import InputError
from impasto.presets import TRANSFERS
from impasto.recipes import Transfer

RECIPE = replace(Transfer(), precision="float32")
NORMALIZED = replace(presets.impasto, precision="float32")
EXACT = {"rtol": 1e-5, "atol": 1e-9}


def network(widths: tuple[int, ...] = (5, 6, 7, 8, 8)) -> VGG:
    torch.manual_seed(0)
    vgg = VGG(widths, places=CONVOLUTIONS[:13], reflect="3_2")
    for parameter in vgg.parameters():
        deviation = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim == 4 else 0.1
        torch.nn.init.normal_(parameter, 0.0, deviation)
    return vgg.requires_grad_(False)


def picture(height: int, width: int, seed: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    return smooth + 0.1 * torch.rand(smooth.shape, generator=generator)


def assert_same(one: objective.Objective, other: objective.Objective, image: Tensor, *, gradient: float) -> None:
    """Terms agree within 1e-5, gradients within a fraction of their norm."""
    (terms, slope), (expected, reference) = one(image), other(image)
    assert terms.keys() == expected.keys()
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term, **EXACT)
    assert torch.linalg.vector_norm(reference) > 0
    difference = torch.linalg.vector_norm(slope - reference) / torch.linalg.vector_norm(reference)
    assert difference < gradient
    assert slope.shape == image.shape and slope.dtype == torch.float32


def both(recipe: Transfer, content: Tensor, styles: list[Tensor], *masks: Any) -> list[objective.Objective]:
    vgg = network()
    return [objective.build(vgg, recipe, content, styles, *masks, by_hand=hand) for hand in (True, False)]


@pytest.mark.parametrize("name", TRANSFERS)
def test_every_recipe_by_hand_and_by_autograd(name: str) -> None:
    recipe = replace(TRANSFERS[name], precision="float32")
    by_hand, reference = both(recipe, picture(48, 40, 1), [picture(33, 50, 2)])
    assert by_hand.frozen is not None and reference.frozen is None
    assert_same(by_hand, reference, picture(48, 40, 3), gradient=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (15, 17), (31, 33), (47, 64)])
def test_every_size(size: tuple[int, int]) -> None:
    by_hand, reference = both(RECIPE, picture(*size, 1), [picture(20, 21, 2)])
    assert_same(by_hand, reference, picture(*size, 3), gradient=1e-5)


@pytest.mark.parametrize("layers", [("relu1_1",), ("relu1_2",), ("relu2_2", "relu3_4"), ("relu1_2", "relu2_1")])
def test_layers_before_and_after_a_pool(layers: tuple[str, ...]) -> None:
    recipe = replace(RECIPE, style_layers=layers, content_layers=("relu2_2", "relu3_1"))
    by_hand, reference = both(recipe, picture(32, 30, 1), [picture(30, 30, 2)])
    assert by_hand.frozen is not None and by_hand.frozen.places[-1] in ("3_1", "3_4")
    assert_same(by_hand, reference, picture(32, 30, 3), gradient=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (31, 33), (48, 40)])
def test_normalized_content_and_bounded_style(size: tuple[int, int]) -> None:
    by_hand, reference = both(NORMALIZED, picture(*size, 1), [picture(20, 21, 2)])
    assert_same(by_hand, reference, picture(*size, 3), gradient=1e-5)


def test_content_layer_weights_are_factors() -> None:
    content, style, image = picture(48, 40, 1), picture(30, 30, 2), picture(48, 40, 3)

    def content_term(layers: tuple[str, ...], weights: tuple[float, ...]) -> float:
        recipe = replace(NORMALIZED, content_layers=layers, content_layer_weights=weights)
        return float(objective.build(network(), recipe, content, [style])(image)[0]["content"])

    shallow, deep = content_term(("relu3_1",), ()), content_term(("relu4_2",), ())
    assert content_term(("relu3_1", "relu4_2"), (1.0, 4.0)) == pytest.approx(shallow + 4 * deep, rel=1e-5)


@pytest.mark.parametrize("recipe", [RECIPE, NORMALIZED])
def test_a_batch(recipe: Transfer) -> None:
    by_hand, reference = both(recipe, picture(32, 32, 1, batch=3), [picture(30, 30, 2)])
    batch = picture(32, 32, 3, batch=3)
    assert_same(by_hand, reference, batch, gradient=1e-5)
    alone = objective.build(network(), recipe, picture(32, 32, 1, batch=3)[1:2], [picture(30, 30, 2)])
    torch.testing.assert_close(3 * by_hand(batch)[1][1:2], alone(batch[1:2])[1], rtol=1e-3, atol=1e-5)


def left(height: int, width: int) -> Tensor:
    """White on the left, black on the right, with a soft border."""
    return torch.linspace(1.4, -0.4, width).clamp(0, 1).expand(1, 1, height, width)


def masked(height: int, width: int) -> tuple[Any, ...]:
    styles = [picture(60, 50, 2), picture(50, 64, 4)]
    mask = left(height, width)
    return styles, [mask, 1 - mask], [left(30, 30), torch.ones(1, 1, 9, 9)]


def test_guidance_masks() -> None:
    by_hand, reference = both(RECIPE, picture(48, 40, 1), *masked(48, 40))
    assert_same(by_hand, reference, picture(48, 40, 3), gradient=1e-5)


@pytest.mark.parametrize("with_masks", [False, True])
def test_guidance_of_all_styles(with_masks: bool) -> None:
    """Where it is 0, styles have no gradient; 1 everywhere changes nothing."""
    vgg, image = network(), picture(200, 160, 3)
    recipe = replace(RECIPE, content_weight=0.0, smoothness=0.0, style_layers=("relu1_1", "relu2_1"), layer_weights=())
    others = masked(200, 160) if with_masks else ([picture(60, 50, 2)],)
    content, guidance = picture(200, 160, 1), left(200, 160)
    by_hand, reference, plain, full = (
        objective.build(vgg, recipe, content, *others, **settings)
        for settings in ({"guidance": guidance}, {"guidance": guidance, "by_hand": False}, {},
                         {"guidance": torch.ones_like(guidance)})
    )  # fmt: skip
    assert_same(by_hand, reference, image, gradient=1e-5)
    assert_same(full, plain, image, gradient=1e-5)
    slope = by_hand(image)[1].abs()
    assert float(slope[..., -8:].max()) < 1e-6 * float(slope[..., :8].max())


def budget_for(side: int, vgg: VGG) -> float:
    """The memory in bytes that gives tiles of at most this side."""
    frozen = encoder.Frozen(vgg, RECIPE.style_layers)
    return (side + 2 * frozen.halo + 1) ** 2 * frozen.bytes_per_pixel


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("size", [(400, 320), (401, 307), (431, 289), (900, 129), (16 * 30 + 1, 300)])
def test_tiles_give_the_same_as_one_piece(size: tuple[int, int], with_masks: bool) -> None:
    vgg = network()
    others = masked(*size) if with_masks else ([picture(200, 170, 2)],)
    budget = budget_for(160, vgg)  # plus memory for the targets
    one, many = (objective.build(vgg, RECIPE, picture(*size, 1), *others, budget=b) for b in (0, budget))
    image = picture(*size, 3)
    assert many.frozen is not None
    assert len(tiling.windows(image, many.frozen, budget)) > 1
    assert_same(many, one, image, gradient=1e-4)


def test_tiles_of_normalized_content() -> None:
    vgg, size = network(), (401, 307)
    budget = budget_for(160, vgg)
    one, many = (
        objective.build(vgg, NORMALIZED, picture(*size, 1), [picture(200, 170, 2)], budget=b) for b in (0, budget)
    )
    assert many.frozen is not None
    assert len(tiling.windows(picture(*size, 3), many.frozen, budget)) > 1
    assert_same(many, one, picture(*size, 3), gradient=1e-4)


@pytest.mark.parametrize("deepest", ["relu2_1", "relu3_1", "relu5_1"])
def test_tiles_of_shallow_layers(deepest: str) -> None:
    vgg = network()
    recipe = replace(RECIPE, style_layers=("relu1_1", deepest), content_layers=("relu2_1",))
    frozen = encoder.Frozen(vgg, recipe.style_layers)
    targets = 7 * 145 * 67 * 4  # relu2_1 of the content
    budget = targets + (128 + 2 * frozen.halo + 1) ** 2 * frozen.bytes_per_pixel
    one, many = (
        objective.build(vgg, recipe, picture(290, 135, 1), [picture(99, 98, 2)], budget=b) for b in (0, budget)
    )
    assert_same(many, one, picture(290, 135, 3), gradient=1e-4)


def test_too_small_a_budget() -> None:
    with pytest.raises(InputError, match="`memory`"):
        objective.build(network(), RECIPE, picture(400, 400, 1), [picture(30, 30, 2)], budget=1e5)


def test_the_halo_is_the_receptive_field() -> None:
    """Pixels outside the halo have no effect, and a halo 32 pixels smaller would be too small."""
    vgg = network()
    frozen = encoder.Frozen(vgg, ("relu5_1",))
    image = picture(16, 352, 1)
    features = frozen.forward(image).features["relu5_1"]
    changed = image.clone()
    changed[..., 176 + 16 + frozen.halo :] += 1
    after = frozen.forward(changed).features["relu5_1"]
    assert torch.equal(features[..., : 176 // 16 + 1], after[..., : 176 // 16 + 1])
    changed[..., 176 + 16 + frozen.halo - 32 :] += 1
    assert not torch.equal(
        features[..., : 176 // 16 + 1], frozen.forward(changed).features["relu5_1"][..., : 176 // 16 + 1]
    )


@pytest.mark.parametrize(
    ("network", "recipe"),
    [("compact", RECIPE), ("vgg19", RECIPE), ("compact", NORMALIZED)],
    ids=["compact", "vgg19", "default"],
)
@pytest.mark.parametrize("what", ["photograph", "noise", "painted"])
def test_bfloat16_gradients_point_the_same_way(network: str, recipe: Transfer, what: str) -> None:
    content, style = (
        images.to_size(images.to_tensor(bundled.locate(name)), 160) for name in ("rocket", "starry-night")
    )
    torch.manual_seed(0)
    vgg = encoder.load("compact") if network == "compact" else encoder.VGG().requires_grad_(False)
    exact, coarse = (
        objective.build(vgg, replace(recipe, precision=precision), content, [style])
        for precision in ("float32", "bfloat16")
    )
    image = content
    if what == "noise":
        image = picture(*content.shape[-2:], 3)
    elif what == "painted":
        *_, last = optimize.minimize(content, exact, optimizer="lbfgs", steps=10, rate=1.0)
        image = last.image
    (terms, slope), (expected, reference) = coarse(image), exact(image)
    least = 1e-3 * float(sum(expected.values()))
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term, rtol=0.02, atol=least)
    assert torch.cosine_similarity(slope.flatten(), reference.flatten(), dim=0) > 0.999


def test_minimal_filtering_gradients_point_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    torch.manual_seed(0)
    vgg = encoder.VGG().requires_grad_(False)
    photograph = images.to_size(images.to_tensor(bundled.locate("rocket")), 160)
    slopes = {}
    for dtype, minimal in itertools.product((torch.float32, torch.bfloat16), (False, True)):
        frozen = encoder.Frozen(vgg, ["relu4_1", "relu5_1"], dtype, minimal=minimal)
        assert any(each.transformed is not None for pair in frozen.convolutions.values() for each in pair) == minimal
        record = frozen.forward(photograph)
        kept = dict(record.features)
        slopes[dtype, minimal] = frozen.backward(record, lambda layer, slope, kept=kept: slope.add_(kept[layer]))  # type: ignore[misc]
    exact = slopes[torch.float32, False]
    errors = {key: float((slope - exact).norm() / exact.norm()) for key, slope in slopes.items()}
    assert 0 < errors[torch.float32, True] < 0.02  # close maxima may swap
    assert errors[torch.bfloat16, True] < 1.25 * errors[torch.bfloat16, False]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_transfers_end_where_the_reference_ends(precision: Any) -> None:
    """The sum over two pairs, as rounding changes the loss of a single transfer by one or two percent."""
    vgg = encoder.load("compact")
    ends = [0.0, 0.0]
    for names in (("rocket", "starry-night"), ("chelsea", "candy")):
        content, style = (images.to_size(images.to_tensor(bundled.locate(name)), 96) for name in names)
        check = objective.build(vgg, RECIPE, content, [style])
        start = sum(float(term) for term in check(content)[0].values())
        for index, by_hand in enumerate((True, False)):
            kind = precision if by_hand else "float32"
            goal = objective.build(vgg, replace(RECIPE, precision=kind), content, [style], by_hand=by_hand)
            *_, last = optimize.minimize(content, goal, optimizer="lbfgs", steps=150, rate=1.0)
            end = sum(float(term) for term in check(last.image)[0].values())
            assert end < 0.5 * start
            ends[index] += end
    assert ends[0] == pytest.approx(ends[1], rel=0.02)
