"""One-pass networks: shapes, applying, mixtures, files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, save_picture
from safetensors.torch import save_file
from torch.nn import functional as F

from impasto import anystyle, bundled, contrast, images, kuwahara, onepass
from impasto.errors import DivergedError, InputError, WeightsError
from impasto.networks import IMPASTO, JOHNSON, Architecture, Network, Statistics, normalise_
from impasto.onepass import Model

SHAPES = [SMALL, Architecture((4, 6, 8), blocks=1), Architecture((4, 6, 8), blocks=1, skip=True)]


@pytest.mark.parametrize("architecture", SHAPES)
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (16, 16), (17, 31), (50, 43)])
def test_the_output_has_the_size_of_the_input(architecture: Architecture, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, *size)
    out = Network(architecture)(image).detach()
    assert out.shape == image.shape
    assert float((out - 0.5).abs().max()) <= 150 / 255


def test_the_papers_network() -> None:
    """Johnson2016, supplement, table 1: 32, 64, 128, five blocks, 64, 32, 3, with kernels of 9 at the ends."""
    kernels = [tuple(p.shape) for name, p in Network(JOHNSON).named_parameters() if name.endswith("convolution.weight")]
    assert kernels[:3] == [(32, 3, 9, 9), (64, 32, 3, 3), (128, 64, 3, 3)]
    assert kernels[3:13] == [(128, 128, 3, 3)] * 10
    assert kernels[13:] == [(64, 128, 3, 3), (32, 64, 3, 3), (3, 32, 9, 9)]


def test_a_smooth_network_paints_no_checkerboard() -> None:
    """The last filter removes a pattern that alternates from pixel to pixel."""
    torch.manual_seed(0)
    network = Network(replace(SMALL, bounded=False))
    last = network.layers[-1].convolution
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, 0, 0, 1] * 3))
        out = network(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(out, torch.full_like(out, 0.5))


def test_our_network_is_under_two_megabytes() -> None:
    assert 2 * sum(parameter.numel() for parameter in Network(IMPASTO).parameters()) < 2_000_000


def test_a_large_photograph_is_painted_smaller_and_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onepass, "SIZE", 48)
    torch.manual_seed(0)
    model = Model(Network(SMALL).requires_grad_(False), {})
    photograph = images.resize(torch.rand(1, 3, 6, 8), 96, 128)
    found = onepass.apply(photograph, model)
    assert found.shape == photograph.shape
    small = onepass.apply(photograph, model, size=48)
    assert small.shape == (1, 3, 36, 48)
    assert float((images.to_size(found, 48) - small).abs().mean()) < 0.02
    whole = onepass.apply(photograph, model, size=0)
    assert whole.shape == photograph.shape and not torch.allclose(whole, found, atol=0.01)
    torch.testing.assert_close(onepass.apply(photograph[..., :40, :48], model), onepass.apply(
        photograph[..., :40, :48], model, size=0))  # fmt: skip


@pytest.mark.parametrize("size", [(1, 60), (2, 60), (60, 3)])
def test_enlarging_narrow_pictures(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onepass, "SIZE", 20)
    model = Model(Network(SMALL).requires_grad_(False), {})
    found = onepass.apply(torch.rand(1, 3, *size), model)
    assert found.shape == (1, 3, *size) and torch.isfinite(found).all()


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    network = Network(SMALL)
    next(network.parameters()).data[0] = float("inf")
    with pytest.raises(DivergedError, match="not finite"):
        onepass.save(tmp_path / "model.safetensors", network, {})
    assert not list(tmp_path.iterdir())


def test_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(SMALL)
    onepass.save(tmp_path / "model.safetensors", network, {"style": "a"})
    model = onepass.load(tmp_path / "model.safetensors")
    assert model.metadata["style"] == "a" and model.network.architecture == SMALL
    image = torch.rand(1, 3, 20, 20)
    torch.testing.assert_close(model.network(image), network(image), rtol=0, atol=0.02)  # float16


@pytest.mark.parametrize("metadata", [{}, {"architecture": "[]"}, {"architecture": '{"widths": [9], "blocks": 1}'}])
def test_files_that_are_not_models(tmp_path: Path, metadata: dict[str, str]) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors", metadata)
    with pytest.raises(WeightsError, match="not a one-pass model"):
        onepass.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("size", [(64, 48), (75, 61), (131, 33)])
@pytest.mark.parametrize("band", [1, 2, 7, 16])
@pytest.mark.parametrize("architecture", SHAPES)
def test_computing_in_bands_changes_nothing(architecture: Architecture, band: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = Network(architecture).double()
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(image, band), network(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalisation_in_place(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (3 + torch.randn(2, 5, 30, 20)).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(5), torch.randn(5)
    expected = F.instance_norm(x.float(), weight=weight, bias=bias).to(dtype)
    torch.testing.assert_close(normalise_(x, weight, bias, 7), expected)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(Network(SMALL).eval(), {})


def test_strength(model: Model, tmp_path: Path) -> None:
    image = images.to_tensor(save_picture(tmp_path / "a.png", 33, 21))
    nothing, half, full = (onepass.apply(image, model, strength=s, precision="float32") for s in (0, 0.5, 1))
    assert torch.equal(nothing, image)
    torch.testing.assert_close(half, (image + full) / 2)
    assert 0 <= float(full.min()) <= float(full.max()) <= 1


def test_batches_and_files(model: Model, tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.png", 40, 36)
    one = onepass.apply(path, model, precision="float32", device="cpu")
    batch = images.to_tensor(path).repeat(3, 1, 1, 1)
    assert one.shape == (1, 3, 36, 40)
    torch.testing.assert_close(onepass.apply(batch, model, precision="float32"), one.repeat(3, 1, 1, 1))


def test_grain(model: Model) -> None:
    """Grain varies a flat area, the same way each time; a picture without contrast gets none."""
    half = torch.cat([torch.full((1, 3, 96, 64), 0.4), torch.full((1, 3, 96, 64), 0.6)], 3)
    before = half.clone()
    plain, some, again = (onepass.apply(half, model, grain=g, precision="float32") for g in (0, 0.1, 0.1))
    assert float(plain[..., 24:-24, 96:-16].std((2, 3)).max()) < 1e-5 < 1e-3 < float(some[..., 24:-24, 96:-16].std())
    assert torch.equal(some, again) and torch.equal(half, before)
    rounded = onepass.apply(half, model, grain=0.1, precision="bfloat16")
    torch.testing.assert_close(rounded, some, rtol=0, atol=0.1)
    even = torch.full((1, 3, 40, 50), 0.3)
    one, other = (onepass.apply(even, model, grain=g, precision="float32") for g in (0, 0.1))
    torch.testing.assert_close(one, other)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="`grain`"):
            onepass.apply(even, model, grain=wrong)


def test_clarity(model: Model) -> None:
    """With networks of one style, faint forms are brought out in the photograph and in the painting."""
    ours, photograph = Model(model.network, {"recipe": '{"crispness": 0}'}), 0.4 + 0.1 * torch.rand(1, 3, 40, 50)
    default, none, half, full = (
        onepass.apply(photograph, ours, grain=0, clarity=c, precision="float32") for c in (None, 0, 0.5, 1)
    )
    assert torch.equal(default, full)
    cleared = contrast.clarify(photograph)
    painted = onepass.apply(cleared, ours, grain=0, clarity=0, precision="float32")
    torch.testing.assert_close(full, contrast.clarify(painted, 1, photograph))
    assert 0 < float((half - none).abs().mean()) < float((full - none).abs().mean())
    for other in (model, onepass.from_painting(torch.rand(1, 3, 40, 40))):
        plain, same, changed = (onepass.apply(photograph, other, clarity=c, precision="float32") for c in (None, 0, 1))
        assert torch.equal(plain, same) and not torch.equal(plain, changed)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="`clarity`"):
            onepass.apply(photograph, model, clarity=wrong)


def underpainted(model: Model, amount: float) -> Model:
    return Model(model.network, {"recipe": f'{{"crispness": 0, "underpainting": {amount}}}'})


def test_underpainting(model: Model) -> None:
    """The strokes of a painting of half the size, filtered, are added to the photograph, and it is painted."""
    photograph, plain, ours = 0.4 + 0.1 * torch.rand(1, 3, 80, 101), underpainted(model, 0), underpainted(model, 0.6)
    settings: dict[str, Any] = {"grain": 0, "clarity": 0, "precision": "float32"}
    first = onepass.apply(contrast.clarify(images.resize(photograph, 40, 51)), plain, crispness=1, **settings)
    seen = contrast.clarify(contrast.underpaint(photograph, first, 0.6))
    wanted = contrast.clarify(onepass.apply(seen, plain, **settings), 1, photograph)
    found = onepass.apply(photograph, ours, grain=0, precision="float32")
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, onepass.apply(photograph, plain, grain=0, precision="float32"), atol=1e-3)
    # Both paintings of a film's first frame have their own statistics; else the second would get those of the first.
    frame = onepass.apply(photograph, ours, grain=0, precision="float32", film=Statistics(0.0))
    torch.testing.assert_close(frame, found)


def test_how_strongly_a_style_is_underpainted(model: Model, tmp_path: Path) -> None:
    """As its recipe says, and otherwise not at all."""
    photograph, ours = 0.4 + 0.1 * torch.rand(1, 3, 40, 50), Model(model.network, {"recipe": "{}"})
    for each, default in ((model, 0), (ours, 0), (underpainted(model, 0.5), 0.5)):
        same, omitted = (onepass.apply(photograph, each, underpainting=u, precision="float32") for u in (default, None))
        assert torch.equal(same, omitted)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="`underpainting`"):
            onepass.apply(photograph, model, underpainting=wrong)
    onepass.save(tmp_path / "a.safetensors", onepass.require_network(model, "a"), underpainted(model, 2).metadata)
    with pytest.raises(WeightsError, match="not a one-pass model"):
        onepass.load(tmp_path / "a.safetensors")
    dabs = {"candy", "composition-vii", "portrait-of-metzinger", "rain-princess"}
    assert {name for name in bundled.STYLES if not onepass.load(name).underpainting} == dabs


def test_paintings_are_underpainted_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their strength, and with the mask at half the size."""
    amounts: list[float] = []
    masks: list[tuple[int, ...] | None] = []
    painting = onepass.from_painting(torch.rand(1, 3, 40, 40))

    class Watched:
        def to(self, device: torch.device) -> "Watched":
            return self

        def __call__(self, *args: Any, mask: torch.Tensor | None, **settings: Any) -> torch.Tensor:
            masks.append(mask if mask is None else mask.shape)
            return painting.network(*args, mask=mask, **settings)  # type: ignore[no-any-return]

    keep = contrast.underpaint
    monkeypatch.setattr(contrast, "underpaint", lambda *args: amounts.append(args[2]) or keep(*args))
    watched = replace(painting, network=Watched())  # type: ignore[arg-type]
    photograph, half = 0.4 + 0.1 * torch.rand(1, 3, 80, 100), torch.zeros(1, 1, 80, 100)
    half[..., :50] = 1
    none, some = (onepass.apply(photograph, watched, underpainting=u) for u in (None, 1))
    assert not torch.allclose(none, some, atol=1e-3)
    onepass.apply(photograph, watched, strength=0.4, underpainting=0.5)
    assert amounts == [1, 0.2] and masks == [None] * 5
    onepass.apply(photograph, [watched], masks=[half], underpainting=1)
    assert masks[5:] == [(1, 1, 72, 82), (1, 1, 112, 132)], "with a margin of 16 pixels"


def test_crispness(model: Model) -> None:
    """Pictures are filtered as the recipe says, fully for any painting, and not for third-party networks."""
    photograph, half = torch.rand(1, 3, 40, 50), Model(model.network, {"recipe": '{"crispness": 0.5}'})
    ours, any_painting = Model(model.network, {"recipe": "{}"}), onepass.from_painting(torch.rand(1, 3, 40, 40))
    for each, default in ((model, 0), (half, 0.5), (ours, 1), (any_painting, 1)):
        plain, found = (onepass.apply(photograph, each, crispness=c, precision="float32") for c in (0, None))
        torch.testing.assert_close(found, kuwahara.filtered(plain, default))
        torch.testing.assert_close(onepass.apply(photograph, each, crispness=default, precision="float32"), found)
    weak, plain = (
        onepass.apply(photograph, any_painting, strength=0.4, crispness=c, precision="float32") for c in (1, 0)
    )
    torch.testing.assert_close(weak, kuwahara.filtered(plain, 0.4))
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="`crispness`"):
            onepass.apply(photograph, model, crispness=wrong)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"style": []}, "`style`"),
        ({"keep_colors": "lumma"}, "`keep_colors`"),
        ({"precision": "bf16"}, "`precision`"),
        ({"style": "candy", "style_scale": -1}, "`style_scale`"),
    ],
)
def test_settings_that_do_not_exist(settings: dict[str, Any], named: str, model: Model) -> None:
    with pytest.raises(InputError, match=named):
        onepass.apply(torch.rand(1, 3, 40, 50), **{"style": model, **settings})


def test_the_margin_is_cut_off(model: Model) -> None:
    """What a network paints along the border is cut off; third-party networks get the picture as it is."""
    torch.manual_seed(1)
    image, ours = torch.rand(1, 3, 40, 50), Model(model.network, {"recipe": "{}"})
    wide = F.pad(image, [16] * 4, "reflect")
    for each, wanted in ((ours, model.network(wide)[..., 16:-16, 16:-16]), (model, model.network(image))):
        painted = onepass.apply(image, each, grain=0, clarity=0, crispness=0, precision="float32")
        torch.testing.assert_close(painted, wanted.clamp(0, 1))
    assert onepass.apply(torch.rand(1, 3, 1, 3), ours).shape == (1, 3, 1, 3)


def test_the_margin_of_any_painting() -> None:
    """Also with a mask, and where an optimisation starts from one pass."""
    torch.manual_seed(1)
    image, painting, everywhere = torch.rand(1, 3, 40, 48), torch.rand(1, 3, 40, 48), torch.ones(1, 1, 40, 48)
    model = onepass.from_painting(painting, 1.0)
    assert model.style is not None
    wide = F.pad(image, [16] * 4, "reflect")
    wanted = model.network(wide, model.style)[..., 16:-16, 16:-16].clamp(0, 1)
    style = model.network.style_of(painting)
    started = model.network(wide, style)[..., 16:-16, 16:-16].clamp(0, 1)
    for masks in ([], [everywhere]):
        painted = onepass.apply(image, model, masks=masks, crispness=0, precision="float32")
        torch.testing.assert_close(painted, wanted, rtol=0, atol=1e-4)
        first = anystyle.repaint(image, [painting], [1.0], style_scale=1.0, content_masks=masks)
        torch.testing.assert_close(first, started, rtol=0, atol=1e-4)


def test_a_mixture_lies_between(model: Model) -> None:
    torch.manual_seed(1)
    other, image = Model(Network(SMALL).eval(), {}), torch.rand(1, 3, 40, 40)
    a, b = (onepass.apply(image, each, precision="float32") for each in (model, other))
    mixed = onepass.apply(image, [model, other], style_weights=[3, 1], precision="float32")
    torch.testing.assert_close(mixed, 0.75 * a + 0.25 * b)


@pytest.mark.parametrize("keep", ["luma", "histogram"])
def test_kept_colours(model: Model, keep: Any, tmp_path: Path) -> None:
    image = images.to_tensor(save_picture(tmp_path / "a.png", 64, 48))
    free, kept = (onepass.apply(image, model, keep_colors=k, precision="float32") for k in ("none", keep))
    assert float((kept.mean((2, 3)) - image.mean((2, 3))).abs().mean()) < float(
        (free.mean((2, 3)) - image.mean((2, 3))).abs().mean()
    )


@pytest.mark.parametrize(
    ("weights", "strength"), [([1.0], 1.0), ([-1.0, 2.0], 1.0), ([0.0, 0.0], 1.0), ([], 1.5), ([], -0.1)]
)
def test_invalid_mixtures(model: Model, weights: list[float], strength: float) -> None:
    with pytest.raises(InputError, match=r"`strength`|`style_weights`"):
        onepass.apply(torch.rand(1, 3, 40, 40), [model, model], style_weights=weights, strength=strength)


@pytest.mark.parametrize(
    "recipe", ["{", "[]", '{"grain": "much"}', '{"grain": 7}', '{"grain": NaN}', '{"grain": null}']
)
def test_models_with_an_invalid_recipe(recipe: str, tmp_path: Path) -> None:
    onepass.save(tmp_path / "model.safetensors", Network(SMALL), {"recipe": recipe})
    with pytest.raises(WeightsError, match=r"model\.safetensors: not a one-pass model"):
        onepass.load(tmp_path / "model.safetensors")


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    torch.save({"conv1.conv2d.weight": torch.zeros(32, 3, 9, 9)}, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match="not a one-pass model"):
        onepass.load(tmp_path / "half.pth")


def test_unknown_names() -> None:
    with pytest.raises(WeightsError, match=r"cubism.*the-great-wave"):
        onepass.load("cubism")
