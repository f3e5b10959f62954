"""Transfers with a tiny random encoder: the effect of recipes and options, not the visual quality."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import randomise, smooth_picture as picture
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from impasto import color, encoder, images, losses, objective, optimize, palette, tiling, transfer
from impasto.errors import ImageError, InputError
from impasto.presets import TRANSFERS
from impasto.recipes import Transfer

WIDTHS = (4, 4, 6, 6, 6)


def network(seed: int = 0) -> encoder.VGG:
    return randomise(encoder.VGG(WIDTHS), seed)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of that encoder's file."""
    file = tmp_path_factory.mktemp("encoder") / "tiny.safetensors"
    metadata = {"mean": json.dumps([0.485, 0.456, 0.406]), "std": json.dumps([0.229, 0.224, 0.225])}
    save_file(network().state_dict(), file, metadata)
    return str(file)


def looked_at(*arguments: Any, **options: Any) -> Iterator[transfer.Step]:
    """`transfer.steps` with each picture copied, because the next iteration changes it."""
    for step in transfer.steps(*arguments, **options):
        assert step.image is step.image
        yield step


CONTENT = picture(20, 40, 1)
STYLE = picture(30, 24, 2)
OTHER = picture(25, 25, 3)


@pytest.fixture
def recipe(tiny: str) -> Transfer:
    """The plain terms, with a small size, few steps and float32."""
    return replace(
        Transfer(),
        encoder=tiny,
        size=32,
        steps=6,
        precision="float32",
        smoothness=0.0,
        scales=(0.25, 0.5, 1.0),
    )


@pytest.mark.parametrize(
    ("longest", "expected"),
    [(1, (1.0,)), (192, (1.0,)), (193, (0.5, 1.0)), (512, (0.25, 0.5, 1.0)), (1024, (0.125, 0.25, 0.5, 1.0))],
)
def test_the_scales_of_a_size(longest: int, expected: tuple[float, ...]) -> None:
    assert transfer.halvings(longest) == expected


def test_little_memory_gives_the_same_picture(recipe: Transfer, monkeypatch: pytest.MonkeyPatch) -> None:
    large = replace(recipe, size=640, scales=(1.0,), steps=3)
    frozen = encoder.Frozen(network(), large.style_layers)
    own = optimize.memory(torch.empty(1, 3, 320, 640), "lbfgs") + CONTENT.nbytes + STYLE.nbytes
    memory = (transfer.LIBRARIES + own + 90_000 / 0.7 * frozen.bytes_per_pixel) / 1e9  # of 204,800 pixels
    tiles: list[int] = []
    windows = objective.windows

    def counted(*arguments: Any) -> list[tiling.Window]:
        found = windows(*arguments)
        tiles.append(len(found))
        return found

    monkeypatch.setattr(objective, "windows", counted)
    whole = transfer.stylize(CONTENT, STYLE, large)
    assert set(tiles) == {1}
    tiled = transfer.stylize(CONTENT, STYLE, large, memory=memory)
    assert max(tiles) > 2
    torch.testing.assert_close(whole, tiled, rtol=0, atol=1e-3)


def test_enlarging_keeps_the_painting_and_the_content_s_detail(recipe: Transfer) -> None:
    content = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(4))
    small = images.resize(content, 20, 30)
    torch.testing.assert_close(transfer.to_next_scale(small, content, content, recipe), content)  # nothing was painted
    painted = transfer.to_next_scale(0.5 * small, content, content, recipe)
    torch.testing.assert_close(painted, content - 0.5 * images.resize(small, 40, 60), rtol=0, atol=0.02)
    style_alone = replace(recipe, content_layers=())
    assert torch.equal(transfer.to_next_scale(small, content, content, style_alone), images.resize(small, 40, 60))


def test_the_recoloured_photograph_takes_memory(recipe: Transfer) -> None:
    recipe = replace(recipe, size=64)
    same = transfer.Pictures(CONTENT, CONTENT, [STYLE], [], [])
    network = encoder.load(recipe.encoder)
    spare = [transfer._spare_memory(each, recipe, network, 8.0) for each in (same, replace(same, content=STYLE))]
    assert spare[0] - spare[1] == STYLE.nbytes


def test_too_little_memory(recipe: Transfer) -> None:
    with pytest.raises(InputError, match="not enough memory"):
        transfer.stylize(CONTENT, STYLE, replace(recipe, size=440, scales=(1.0,)), memory=0.03)
    with pytest.raises(InputError, match="`memory` must be"):
        transfer.stylize(CONTENT, STYLE, recipe, memory=-1)


def test_too_little_memory_for_the_last_scale_is_found_before_the_first(recipe: Transfer) -> None:
    recipe = replace(recipe, encoder="compact", size=1024, scales=(0.25, 1.0), precision="float32")
    with pytest.raises(InputError, match=r"1024 x \d+ needs over 0.\d GB"):
        next(transfer.steps(CONTENT, STYLE, recipe, memory=0.43))


# Whole runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFERS)
def test_every_preset_runs_two_steps(name: str, tiny: str) -> None:
    preset = replace(TRANSFERS[name], encoder=tiny, size=32, steps=2)
    steps = list(looked_at(CONTENT, STYLE, preset))
    assert [step.index for step in steps] == [1, 2]
    assert {step.total for step in steps} == {2}
    assert steps[-1].image.shape == (1, 3, 16, 32)  # the content's 1 : 2
    for step in steps:
        assert torch.isfinite(step.image).all()
        assert 0 <= float(step.image.min()) <= float(step.image.max()) <= 1
        assert np.isfinite(step.loss)
        assert step.loss == pytest.approx(sum(step.terms.values()))
    terms = {"content": bool(preset.content_layers), "style": bool(preset.style_layers)}
    assert set(steps[0].terms) == {k for k, v in terms.items() if v} | ({"smoothness"} if preset.smoothness else set())
    assert not torch.equal(steps[0].image, steps[1].image[..., : steps[0].image.shape[-2], : steps[0].image.shape[-1]])


def test_the_loss_falls(recipe: Transfer) -> None:
    steps = list(looked_at(CONTENT, STYLE, replace(recipe, steps=45)))
    for scale in recipe.scales:
        losses = [step.loss for step in steps if step.scale == scale]
        assert len(losses) == 15
        assert losses[-1] < 0.7 * losses[0]
        assert losses == sorted(losses, reverse=True)  # a line search never climbs


def test_coarse_to_fine(recipe: Transfer) -> None:
    steps = list(looked_at(CONTENT, STYLE, recipe))
    assert [step.scale for step in steps] == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    assert [tuple(step.image.shape[-2:]) for step in steps] == [(4, 8), (4, 8), (8, 16), (8, 16), (16, 32), (16, 32)]
    assert [step.index for step in steps] == [1, 2, 3, 4, 5, 6]


def test_each_scale_starts_from_the_one_before(recipe: Transfer) -> None:
    """With a tiny rate the result is the enlarged coarse picture, not the content."""
    still = replace(recipe, content_layers=(), optimizer="adam", rate=1e-9, scales=(0.25, 1.0), steps=2)
    coarse = images.resize(images.resize(CONTENT, 4, 8), 16, 32)
    torch.testing.assert_close(transfer.stylize(CONTENT, STYLE, still), coarse, rtol=0, atol=1e-5)
    assert not torch.allclose(coarse, images.resize(CONTENT, 16, 32), atol=1e-2)


def test_palette_starts_in_the_colours_of_the_style(recipe: Transfer) -> None:
    still = replace(recipe, palette=True, optimizer="adam", rate=1e-9, size=40, scales=(1.0,), steps=1)
    start = transfer.stylize(CONTENT, STYLE, still)
    torch.testing.assert_close(start.mean((2, 3)), STYLE.mean((2, 3)), rtol=0, atol=0.02)
    torch.testing.assert_close(start, palette.recolor(CONTENT, [STYLE]), rtol=0, atol=1e-5)


def test_size(recipe: Transfer) -> None:
    short = replace(recipe, steps=1, scales=(1.0,))
    assert transfer.stylize(CONTENT, STYLE, replace(short, size=0)).shape == (1, 3, 20, 40)
    assert transfer.stylize(CONTENT, STYLE, replace(short, size=48)).shape == (1, 3, 24, 48)
    assert transfer.stylize(CONTENT.mT, STYLE, replace(short, size=10)).shape == (1, 3, 10, 5)


@pytest.mark.parametrize("scale", [0.01, 0.5, 2.0])
def test_style_scale(recipe: Transfer, scale: float) -> None:
    """The style is never scaled below one pixel."""
    short = replace(recipe, steps=3)
    result = transfer.stylize(CONTENT, STYLE, replace(short, style_scale=scale))
    assert torch.isfinite(result).all()
    assert not torch.allclose(result, transfer.stylize(CONTENT, STYLE, short), atol=1e-3)


@pytest.mark.parametrize(("total", "parts", "expected"), [(8, 3, [2, 3, 3]), (210, 3, [70] * 3), (2, 3, [0, 1, 1])])
def test_shares(total: int, parts: int, expected: list[int]) -> None:
    assert transfer.shares(total, parts) == expected


def test_shares_always_add_up() -> None:
    for total in range(30):
        for parts in range(1, 6):
            counts = transfer.shares(total, parts)
            assert len(counts) == parts
            assert sum(counts) == total
            assert max(counts) - min(counts) <= 1


def test_sources_of_every_kind(recipe: Transfer, tmp_path: Path) -> None:
    short = replace(recipe, steps=3)
    pixels = (255 * CONTENT[0].permute(1, 2, 0)).round().to(torch.uint8).numpy()
    path = tmp_path / "content.png"
    Image.fromarray(pixels).save(path)
    expected = transfer.stylize(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, STYLE, short)
    for source in (path, str(path), Image.fromarray(pixels), pixels, images.read(path)):
        assert torch.equal(transfer.stylize(source, STYLE, short), expected)
    style = transfer.stylize(CONTENT, path, short)
    assert torch.equal(transfer.stylize(CONTENT, [str(path)], short), style)
    assert torch.equal(transfer.stylize(CONTENT, pixels, short), style)


def test_inputs_stay_as_they_are(recipe: Transfer) -> None:
    content, style = CONTENT.clone(), STYLE.clone()
    transfer.stylize(content, style, replace(recipe, size=40, scales=(1.0,)))
    assert torch.equal(content, CONTENT)
    assert torch.equal(style, STYLE)


def test_strength_paints_more_of_the_style(recipe: Transfer) -> None:
    longer = replace(recipe, steps=20, scales=(1.0,))
    kept = images.resize(CONTENT, 16, 32)
    weak, strong = (transfer.stylize(CONTENT, STYLE, replace(longer, strength=s)) for s in (0.01, 10.0))
    assert float((weak - kept).norm()) < float((strong - kept).norm())


# Seeds and starts ---------------------------------------------------------------------------------------------------


def test_seeds(recipe: Transfer) -> None:
    noisy = replace(recipe, init="noise")
    one = transfer.stylize(CONTENT, STYLE, noisy)
    assert torch.equal(one, transfer.stylize(CONTENT, STYLE, noisy))
    assert not torch.allclose(one, transfer.stylize(CONTENT, STYLE, replace(noisy, seed=1)), atol=1e-2)


def test_the_global_random_state_is_unchanged(recipe: Transfer) -> None:
    state = torch.get_rng_state()
    transfer.stylize(CONTENT, STYLE, replace(recipe, init="noise"))
    assert torch.equal(state, torch.get_rng_state())


def test_start_from_noise() -> None:
    content = torch.zeros(1, 3, 100, 100)
    noise = transfer.start(Transfer(init="noise", noise=0.1, seed=4), content, [])
    assert noise.shape == content.shape
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)


def test_start_from_content_style_or_path(tmp_path: Path) -> None:
    assert torch.equal(transfer.start(Transfer(), CONTENT, [STYLE]), CONTENT)
    assert torch.equal(transfer.start(Transfer(init="style"), CONTENT, [STYLE, OTHER]), images.resize(STYLE, 20, 40))
    path = tmp_path / "start.png"
    images.write(path, OTHER)
    found = transfer.start(Transfer(init=str(path)), CONTENT, [STYLE])
    torch.testing.assert_close(found, images.resize(OTHER, 20, 40), rtol=0, atol=2 / 255)


def test_invalid_starts() -> None:
    with pytest.raises(InputError, match="`init` style needs a style"):
        transfer.start(Transfer(init="style"), CONTENT, [])
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        transfer.start(Transfer(init="nowhere.png"), CONTENT, [STYLE])


@pytest.mark.parametrize("init", ["noise", "style"])
def test_the_start_is_used(recipe: Transfer, init: str) -> None:
    still = replace(recipe, init=init, optimizer="adam", rate=1e-9, scales=(1.0,), steps=1)
    expected = transfer.start(still, images.resize(CONTENT, 16, 32), [STYLE]).clamp(0, 1)
    torch.testing.assert_close(transfer.stylize(CONTENT, STYLE, still), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_start_in_one_pass(recipe: Transfer, masked: bool) -> None:
    still = replace(recipe, init="one-pass", size=0, optimizer="adam", rate=1e-9, scales=(1.0,), steps=1)
    left = torch.zeros(1, 1, *CONTENT.shape[-2:])
    left[..., : CONTENT.shape[-1] // 2] = 1
    given = {"content_masks": [left]} if masked else {}
    painted = transfer.stylize(CONTENT, STYLE, still, **given)
    moved = (painted - CONTENT).abs().mean((0, 1, 2))  # by column
    assert float(moved[: CONTENT.shape[-1] // 2].mean()) > 0.02
    assert (float(moved[CONTENT.shape[-1] // 2 :].max()) < 1e-4) == masked
    with pytest.raises(InputError, match="`init` one-pass needs a style"):
        transfer.in_one_pass(still, CONTENT, transfer.Pictures(CONTENT, CONTENT, [], [], []))


# Resume -------------------------------------------------------------------------------------------------------------


def saved(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("init", ["content", "noise"])
@pytest.mark.parametrize(("optimizer", "rate"), [("lbfgs", 1.0), ("adam", 0.02), ("descent", 0.5)])
def test_resume_at_every_step(recipe: Transfer, optimizer: Any, rate: float, init: str) -> None:
    options = replace(recipe, optimizer=optimizer, rate=rate, init=init, steps=7, precision="auto")
    states, whole = [], []
    for step in looked_at(CONTENT, STYLE, options):
        states.append(saved(step.state()))
        whole.append(step)
    assert [step.scale for step in whole] == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0, 1.0]
    for done, state in enumerate(states, 1):
        rest = list(looked_at(CONTENT, STYLE, options, state=state))
        assert [step.index for step in rest] == (list(range(done + 1, 8)) or [7])
        for one, other in zip(whole[done:] or whole[-1:], rest, strict=True):
            assert torch.equal(one.image, other.image)
            assert one.loss == other.loss


# Several styles and masks -------------------------------------------------------------------------------------------


def test_a_style_of_weight_0_has_no_effect(recipe: Transfer) -> None:
    second = transfer.stylize(CONTENT, OTHER, recipe)
    both = transfer.stylize(CONTENT, [STYLE, OTHER], replace(recipe, style_weights=(0.0, 1.0)))
    assert torch.equal(both, second)
    assert not torch.allclose(both, transfer.stylize(CONTENT, [STYLE, OTHER], recipe), atol=1e-3)


def test_only_the_ratio_of_style_weights_counts(recipe: Transfer) -> None:
    goals = [
        goal(recipe, [STYLE, OTHER], style_weights=weights)(CONTENT)["style"]
        for weights in ((), (1.0, 1.0), (3.0, 3.0), (1.0, 3.0))
    ]
    torch.testing.assert_close(goals[1], goals[0])
    torch.testing.assert_close(goals[2], goals[0])
    assert not torch.allclose(goals[3], goals[0], rtol=1e-3)


def goal(
    recipe: Transfer,
    styles: Sequence[Tensor],
    content_masks: Sequence[Tensor] = (),
    style_masks: Sequence[Tensor] = (),
    *,
    of: encoder.VGG | None = None,
    **fields: Any,
) -> Callable[[Tensor], Any]:
    """The objective with a separate content, so that the content term is not 0 at the start."""
    built = objective.build(
        of or network(), replace(recipe, **fields), picture(20, 40, 5), styles, content_masks, style_masks
    )
    return built.terms


def test_blended_targets_have_the_gradient_of_blended_losses(recipe: Transfer) -> None:
    """The sum of w |G - S|^2 over styles equals |G - sum of w S|^2 up to a constant."""
    weights = (0.25, 0.75)
    fields: dict[str, Any] = {"style_term": "mean", "content_weight": 0.0}
    image = CONTENT.clone().requires_grad_()
    (blended,) = torch.autograd.grad(
        goal(recipe, [STYLE, OTHER], **fields, style_weights=weights)(image)["style"], image
    )
    parts = [
        weight * torch.autograd.grad(goal(recipe, [style], **fields)(image)["style"], image)[0]
        for weight, style in zip(weights, (STYLE, OTHER), strict=True)
    ]
    torch.testing.assert_close(blended, parts[0] + parts[1], rtol=1e-3, atol=1e-7)


def test_nothing_is_painted_outside_a_mask(recipe: Transfer) -> None:
    """The receptive field of relu1_1 reaches one pixel further."""
    mask = torch.zeros(1, 1, 20, 40)
    mask[..., 10:] = 1
    fields: dict[str, Any] = {"content_weight": 0.0, "style_layers": ("relu1_1",)}
    image = CONTENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(goal(recipe, [STYLE], [mask], **fields)(image)["style"], image)
    assert gradient[..., :9].abs().max() == 0
    assert (gradient[..., 9:].abs().amax((0, 1, 2)) > 0).all()


def test_masked_styles_are_painted_each_in_its_region(recipe: Transfer) -> None:
    left = torch.zeros(1, 1, 20, 40)
    left[..., :20] = 1
    fields: dict[str, Any] = {"content_weight": 0.0, "style_layers": ("relu1_1",)}
    image = CONTENT.clone().requires_grad_()
    gradients = [
        torch.autograd.grad(goal(recipe, styles, [left, 1 - left], **fields)(image)["style"], image)[0]
        for styles in ([STYLE, OTHER], [STYLE, STYLE])
    ]
    torch.testing.assert_close(gradients[0][..., :19], gradients[1][..., :19])
    assert not torch.allclose(gradients[0][..., 21:], gradients[1][..., 21:], rtol=1e-2)


def test_a_region_is_weighted_by_its_area(recipe: Transfer) -> None:
    """Each style's loss in its region is multiplied by the region's share and the style's relative weight."""
    left = torch.zeros(1, 1, 20, 40)
    left[..., :10] = 1  # a quarter
    right = 1 - left
    fields: dict[str, Any] = {"content_weight": 0.0, "style_layers": ("relu1_1",), "style_weight": 2.0, "strength": 3.0}
    tiny = network()
    x, styles = tiny(CONTENT, ["relu1_1"])["relu1_1"], [tiny(s, ["relu1_1"])["relu1_1"] for s in (STYLE, OTHER)]
    parts = [
        float(losses.style_loss(losses.gram(x[..., columns]), losses.gram(style), 800, "relative"))
        for columns, style in zip((slice(10), slice(10, None)), styles, strict=True)
    ]
    equal = goal(recipe, [STYLE, OTHER], [left, right], **fields)(CONTENT)["style"]
    assert float(equal) == pytest.approx(6 * (parts[0] / 4 + parts[1] * 3 / 4), rel=1e-4)
    other = goal(recipe, [STYLE, OTHER], [left, right], **fields, style_weights=(3.0, 1.0))(CONTENT)["style"]
    assert float(other) == pytest.approx(6 * (parts[0] / 4 * 1.5 + parts[1] * 3 / 4 * 0.5), rel=1e-4)


@pytest.mark.parametrize("masked", ["content", "style"])
def test_a_white_mask_has_no_effect(recipe: Transfer, masked: str) -> None:
    white = torch.ones(1, 1, 20, 40)
    masks = {"content_masks": [white]} if masked == "content" else {"style_masks": [white]}
    image = CONTENT.clone().requires_grad_()
    without, with_mask = goal(recipe, [STYLE])(image), goal(recipe, [STYLE], **masks)(image)
    assert set(without) == set(with_mask) == {"content", "style"}
    for term in without:
        torch.testing.assert_close(with_mask[term], without[term], rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(each["style"], image)[0] for each in (without, with_mask)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_a_style_mask_chooses_a_part_of_the_style(recipe: Transfer) -> None:
    shallow = replace(recipe, style_layers=("relu1_1",))
    mask = torch.zeros(1, 1, 30, 48)
    mask[..., :23] = 1  # the receptive field of relu1_1 adds the last pixel of the style
    pasted = [torch.cat([STYLE, picture(30, 24, seed)], dim=3) for seed in (7, 9)]
    chosen = [float(goal(shallow, [each], (), [mask])(CONTENT)["style"]) for each in pasted]
    everything = [float(goal(shallow, [each])(CONTENT)["style"]) for each in pasted]
    assert chosen[0] == pytest.approx(chosen[1], rel=1e-5)  # black areas do not count
    assert everything[0] != pytest.approx(everything[1], rel=1e-2)
    tiny = network()
    x, part = tiny(CONTENT, ["relu1_1"])["relu1_1"], tiny(STYLE, ["relu1_1"])["relu1_1"][..., :23]
    expected = losses.style_loss(losses.gram(x), losses.gram(part), 800, "relative")
    assert chosen[0] == pytest.approx(shallow.style_weight * shallow.strength * float(expected), rel=1e-4)


def test_a_run_paints_where_the_mask_is_white(recipe: Transfer) -> None:
    mask = torch.zeros(1, 20, 40)
    mask[..., 10:] = 1
    style_only = replace(recipe, content_weight=0.0, style_layers=("relu1_1",), size=40, scales=(1.0,))
    result = transfer.stylize(CONTENT, STYLE, style_only, content_masks=[mask])
    assert torch.equal(result[..., :9], CONTENT[..., :9])
    assert not torch.allclose(result[..., 10:], CONTENT[..., 10:], atol=1e-2)


def test_a_run_uses_the_white_area_of_a_style_mask(recipe: Transfer) -> None:
    mask = torch.zeros(1, 30, 24)
    mask[..., :12] = 1
    runs = [transfer.stylize(CONTENT, STYLE, recipe, style_masks=masks) for masks in ([mask], [1 - mask], [])]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(runs[one], runs[other], atol=1e-3)


def test_masks_of_any_size_and_kind(recipe: Transfer) -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[:, 5:] = 255
    result = transfer.stylize(CONTENT, STYLE, recipe, content_masks=[mask], style_masks=[torch.ones(1, 7, 9)])
    assert result.shape == (1, 3, 16, 32)
    assert torch.isfinite(result).all()
    assert not torch.allclose(result, transfer.stylize(CONTENT, STYLE, recipe), atol=1e-3)


def test_black_masks_give_finite_results(recipe: Transfer) -> None:
    black, white = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    result = transfer.stylize(CONTENT, [STYLE, OTHER], recipe, content_masks=[black, white])
    assert torch.isfinite(result).all()
    assert torch.isfinite(transfer.stylize(CONTENT, STYLE, recipe, style_masks=[black])).all()


# Colours ------------------------------------------------------------------------------------------------------------


def chroma(image: Tensor) -> Tensor:
    """U and V of ITU-R BT.601 without their factors: B - Y and R - Y."""
    y = 0.299 * image[:, 0] + 0.587 * image[:, 1] + 0.114 * image[:, 2]
    return torch.stack([image[:, 2] - y, image[:, 0] - y])


def test_luma_keeps_the_content_s_chroma(recipe: Transfer) -> None:
    gentle = replace(recipe, optimizer="adam", rate=0.005, keep_colors="luma", scales=(0.5, 1.0), steps=10)
    small = images.resize(CONTENT, 16, 32)
    for step in transfer.steps(CONTENT, STYLE, gentle):
        expected = images.resize(CONTENT, *step.image.shape[-2:])
        inside = ((step.image > 0) & (step.image < 1)).all(1)  # where nothing had to be clipped
        assert inside.float().mean() > 0.9
        torch.testing.assert_close(chroma(step.image)[:, inside], chroma(expected)[:, inside], rtol=0, atol=1e-5)
    assert not torch.allclose(step.image, small, atol=1e-2)  # but it was painted
    plain = transfer.stylize(CONTENT, STYLE, replace(gentle, keep_colors="none"))
    assert float((chroma(plain) - chroma(small)).abs().max()) > 1e-3


def test_histogram_recolours_the_style(recipe: Transfer) -> None:
    dark = 0.3 * STYLE
    recoloured = transfer.stylize(CONTENT, dark, replace(recipe, keep_colors="histogram"))
    expected = transfer.stylize(CONTENT, color.match_histogram(dark, CONTENT), recipe)
    assert torch.equal(recoloured, expected)
    assert not torch.allclose(recoloured, transfer.stylize(CONTENT, dark, recipe), atol=1e-2)


# The objective ------------------------------------------------------------------------------------------------------


def louder(factor: float) -> encoder.VGG:
    """The same encoder with every activation multiplied by ``factor``."""
    tiny = network()
    for name, parameter in tiny.named_parameters():
        if name.endswith("bias") or name == "conv1_1.weight":
            parameter.data *= factor
    return tiny


def test_louder_scales_the_activations() -> None:
    quiet, loud = network()(CONTENT, encoder.LAYERS), louder(7.0)(CONTENT, encoder.LAYERS)
    for layer in encoder.LAYERS:
        torch.testing.assert_close(loud[layer], 7 * quiet[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFERS)
def test_feature_scale_compensates_the_encoder_s_scale(name: str, tiny: str) -> None:
    preset = replace(TRANSFERS[name], encoder=tiny, precision="float32")
    if preset.style_term != "relative" and not preset.feature_scale:
        preset = replace(preset, feature_scale=10.0)
    normalized = preset.content_term == "normalized"  # adds EPSILON to variances: it needs activations near 1 or more
    for factor in (7.0, 0.5 if normalized else 0.01):
        one, other = (goal(preset, [STYLE], of=each)(CONTENT) for each in (network(), louder(factor)))
        assert set(one) == set(other)
        for term in one:
            assert float(other[term]) == pytest.approx(float(one[term]), rel=2e-2 if normalized else 1e-3)


def test_without_feature_scale_the_encoder_s_scale_matters(recipe: Transfer) -> None:
    plain = replace(recipe, style_term="mean", content_term="mean")
    one, other = (goal(plain, [STYLE], of=each)(CONTENT) for each in (network(), louder(2.0)))
    assert float(other["content"]) == pytest.approx(4 * float(one["content"]), rel=1e-3)
    assert float(other["style"]) == pytest.approx(16 * float(one["style"]), rel=1e-3)


def test_weights_are_factors(recipe: Transfer) -> None:
    one = goal(recipe, [STYLE], smoothness=1.0)(CONTENT)
    other = goal(
        recipe,
        [STYLE],
        smoothness=2.0,
        content_weight=3 * recipe.content_weight,
        style_weight=5 * recipe.style_weight,
        strength=7 * recipe.strength,
    )(CONTENT)
    assert {term: float(other[term] / one[term]) for term in one} == pytest.approx(
        {"content": 3, "style": 35, "smoothness": 2}, rel=1e-4
    )


def test_layer_weights_are_factors(recipe: Transfer) -> None:
    layers = ("relu1_1", "relu3_1")
    alone = [float(goal(recipe, [STYLE], style_layers=(layer,))(CONTENT)["style"]) for layer in layers]
    both = goal(recipe, [STYLE], style_layers=layers, layer_weights=(2.0, 0.5))(CONTENT)["style"]
    assert float(both) == pytest.approx(2 * alone[0] + 0.5 * alone[1], rel=1e-5)
    plain = goal(recipe, [STYLE], style_layers=layers)(CONTENT)["style"]
    assert float(plain) == pytest.approx(alone[0] + alone[1], rel=1e-5)


def test_the_objective_is_0_at_its_targets(recipe: Transfer) -> None:
    content = picture(20, 40, 5)
    assert float(goal(recipe, [STYLE])(content)["content"]) == 0
    assert float(goal(recipe, [STYLE])(STYLE_AS_CONTENT)["style"]) > 1e-3
    assert float(goal(recipe, [STYLE_AS_CONTENT])(STYLE_AS_CONTENT)["style"]) == 0


STYLE_AS_CONTENT = picture(20, 40, 8)


def test_bfloat16_is_near_float32(recipe: Transfer) -> None:
    exact = goal(recipe, [STYLE])(CONTENT)
    coarse = goal(recipe, [STYLE], precision="bfloat16")(CONTENT)
    for term in exact:
        assert coarse[term].dtype == torch.float32
        assert float(coarse[term]) == pytest.approx(float(exact[term]), rel=0.1)
        assert float(coarse[term]) != float(exact[term])


# Errors -------------------------------------------------------------------------------------------------------------


def refused(recipe: Transfer, match: str, style: Any = STYLE, **options: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        transfer.stylize(CONTENT, style, recipe, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["content", "style"])
def test_wrong_mask_counts(recipe: Transfer, kind: str) -> None:
    mask = torch.ones(1, 8, 8)
    refused(recipe, f"2 {kind} masks for 1 styles", **{f"{kind}_masks": [mask, mask]})
    refused(recipe, f"1 {kind} masks for 2 styles", style=[STYLE, OTHER], **{f"{kind}_masks": [mask]})


def test_no_style(recipe: Transfer) -> None:
    refused(recipe, "a style is needed", style=[])
    content = replace(TRANSFERS["reconstruct-content"], encoder=recipe.encoder, size=32, steps=2)
    assert transfer.stylize(CONTENT, [], content).shape == (1, 3, 16, 32)


def test_strength_0_needs_no_style(recipe: Transfer) -> None:
    assert transfer.stylize(CONTENT, [], replace(recipe, strength=0.0)).shape == (1, 3, 16, 32)


def test_wrong_style_weights_count(recipe: Transfer) -> None:
    refused(replace(recipe, style_weights=(1.0, 1.0)), "2 style weights for 1 styles")


def test_invalid_recipes(recipe: Transfer) -> None:
    refused(replace(recipe, rate=-1.0), "`rate`")
    refused(replace(recipe, steps=0), "`steps`")
    refused(replace(recipe, style_layers=("relu9_1",)), "relu9_1")
    refused(replace(recipe, content_weight=0.0, style_weight=0.0), "no layer")


def test_missing_files(recipe: Transfer) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.jpg"):
        transfer.stylize("nowhere.jpg", STYLE, recipe)
    with pytest.raises(ImageError, match=r"nowhere\.jpg"):
        transfer.stylize(CONTENT, "nowhere.jpg", recipe)


def test_errors_are_raised_before_the_first_step(recipe: Transfer) -> None:
    with pytest.raises(InputError):
        next(transfer.steps(CONTENT, STYLE, recipe, content_masks=[STYLE, STYLE]))
