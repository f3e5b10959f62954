"""One-pass networks: shapes, training, files."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, save_picture
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import datasets, encoder, fitting, images, objective, onepass
from impasto.errors import DivergedError, InputError, WeightsError
from impasto.networks import IMPASTO, JOHNSON, Architecture, Network, normalise_
from impasto.onepass import Model
from impasto.recipes import GRAIN, Training

SHAPES = [SMALL, Architecture((4, 6, 8), blocks=1), Architecture((4, 6, 8), blocks=1, skip=True)]


@pytest.fixture
def recipe(tiny: str) -> Training:
    return Training(steps=4, batch=2, crop=64, style_size=64, encoder=tiny, precision="float32")


@pytest.fixture
def pool(tmp_path: Path) -> datasets.Pool:
    return datasets.load([save_picture(tmp_path / f"{seed}.png", 90, 80, seed=seed) for seed in range(3)])


def painting() -> Tensor:
    return torch.rand(1, 3, 60, 50, generator=torch.Generator().manual_seed(1))


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


def test_enlarging_restores_the_edges_of_the_photograph() -> None:
    """An affine function of the small photograph is enlarged to the same function of the large one."""
    photograph = (torch.rand(2, 1, 20, 30) > 0.5).float().repeat_interleave(8, 2).repeat_interleave(8, 3)
    photograph = (0.2 + 0.6 * photograph).expand(-1, 3, -1, -1)
    small = images.resize(photograph, 80, 120)
    gain = torch.tensor([0.5, -0.4, 0.9]).view(1, 3, 1, 1)
    found = onepass.enlarge(gain * (small - 0.5) + 0.5, small, photograph)
    expected = gain * (photograph - 0.5) + 0.5
    blurred = images.resize(gain * (small - 0.5) + 0.5, 160, 240)
    assert float((found - expected).abs().mean()) < 0.3 * float((blurred - expected).abs().mean())


@pytest.mark.parametrize("size", [(1, 60), (2, 60), (60, 3)])
def test_enlarging_narrow_pictures(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onepass, "SIZE", 20)
    model = Model(Network(SMALL).requires_grad_(False), {})
    found = onepass.apply(torch.rand(1, 3, *size), model)
    assert found.shape == (1, 3, *size) and torch.isfinite(found).all()


def test_training_learns_and_reproduces(recipe: Training, pool: datasets.Pool) -> None:
    def run() -> list[float]:
        return [step.loss for step in onepass.train(painting(), pool, replace(recipe, steps=30))]

    losses = run()
    assert sum(losses[-5:]) < sum(losses[:5])
    assert losses == run()


def test_resume_is_exact_to_the_bit(recipe: Training, pool: datasets.Pool) -> None:
    whole, network = Network(SMALL), Network(SMALL)
    network.load_state_dict(whole.state_dict())
    last = [step for step in onepass.train(painting(), pool, recipe, network=whole)][-1]
    steps = onepass.train(painting(), pool, recipe, network=network)
    next(steps)
    second = next(steps)
    state = {**second.state(), "model": {k: v.clone() for k, v in network.state_dict().items()}}
    rest = [step for step in onepass.train(painting(), pool, recipe, network=Network(SMALL), state=state)]
    assert [step.index for step in rest] == [3, 4]
    assert rest[-1].loss == last.loss


def test_the_gradient_is_the_objectives(recipe: Training, pool: datasets.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of training equals autograd's gradient of the objective through the network."""
    recipe = replace(recipe, ramp=0.0, grain=0.0, lattice=0.0)
    crops = datasets.random_crops(pool, 2, 64, torch.Generator().manual_seed(0))
    monkeypatch.setattr(datasets, "random_crops", lambda *_, **__: crops)
    torch.manual_seed(0)
    network = Network(SMALL)
    for parameter in [*network.parameters()][-2:]:
        parameter.data.mul_(0.1)  # so that the output stays in [0, 1]
    painted = network(crops, grain=0.0)
    assert float(painted.detach().min()) > 0 and float(painted.detach().max()) < 1

    def slopes(terms: Mapping[str, Tensor]) -> list[Tensor]:
        found = torch.autograd.grad(torch.stack([*terms.values()]).sum(), [*network.parameters()], allow_unused=True)
        return [slope for slope in found if slope is not None]

    terms = onepass.task(network, painting(), pool, recipe)(0)
    style = onepass.prepare_style(painting(), recipe)
    goal = objective.build(encoder.load(recipe.encoder), recipe.loss_recipe(), torch.zeros(1, 3, 64, 64), [style])
    expected = objective.for_content(goal, crops).terms(painted)
    torch.testing.assert_close(
        {name: term.detach() for name, term in terms.items()}, {name: term.detach() for name, term in expected.items()}
    )
    for one, other in zip(slopes(terms), slopes(expected), strict=True):
        assert torch.linalg.vector_norm(one - other) < 1e-3 * torch.linalg.vector_norm(other) + 1e-6


def test_initial_weights_of_a_training(recipe: Training) -> None:
    def flat(network: Network) -> Tensor:
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    def weights(**changes: Any) -> Tensor:
        return flat(onepass.begin(replace(recipe, **changes)))

    shipped = weights(start="udnie")
    assert shipped.requires_grad
    assert torch.equal(shipped, flat(onepass.load("udnie").network))
    first = weights(start="", seed=1)
    assert torch.equal(first, weights(start="", seed=1))
    assert not torch.equal(first, weights(start="", seed=2))


def test_the_loss_is_of_the_clipped_picture(recipe: Training, pool: datasets.Pool) -> None:
    """Values beyond white count as white, and only gradients that lead back remain."""
    network = Network(SMALL)
    loss = onepass.task(network, painting(), pool, recipe)
    bias = nn.init.constant_(network.layers[-1].convolution.bias, 1.5)
    nn.init.zeros_(network.layers[-1].convolution.weight)
    assert float(network(torch.rand(1, 3, 16, 16)).detach().min()) > 1
    near = loss(0)
    torch.stack([*near.values()]).sum().backward()
    assert bool((bias.grad >= 0).all())  # descent makes it darker
    nn.init.constant_(bias, 3.0)
    assert loss(0) == near


def test_descreen_removes_the_weave_of_the_canvas(recipe: Training, pool: datasets.Pool) -> None:
    """The weave is removed, edges stay, and training uses the result."""
    plain = torch.zeros(1, 3, 64, 64)
    plain[..., 32:] = 0.8
    woven = plain.clone()
    woven[..., 1::3, 1::3] += 0.2
    screened = replace(recipe, descreen=True)
    assert torch.equal(onepass.prepare_style(woven, recipe), woven)
    assert torch.equal(onepass.prepare_style(woven, screened), plain)
    network = Network(SMALL).requires_grad_(False)
    cases = ((woven, screened), (plain, recipe), (woven, recipe))
    one, other, third = (onepass.task(network, style, pool, how)(0) for style, how in cases)
    assert one == other != third


def test_the_default_grain_is_that_of_the_training(recipe: Training, pool: datasets.Pool) -> None:
    network, image = Network(SMALL).eval().requires_grad_(False), torch.rand(1, 3, 48, 48)
    some, none = (onepass.task(network, painting(), pool, replace(recipe, grain=grain))(0) for grain in (0.5, 0.0))
    assert some != none
    found = []
    for card in ({}, {"recipe": '{"grain": 0.5}'}, {"recipe": "{}"}):
        model = Model(network, card)
        found.append(model.grain)
        plain, as_trained = (onepass.apply(image, model, grain=grain) for grain in (model.grain, None))
        assert torch.equal(plain, as_trained)
    assert found == [0, 0.5, GRAIN]


def test_weights_that_are_not_finite_roll_back(recipe: Training, pool: datasets.Pool) -> None:
    """Corrupted after step 60: the check at step 101 notices it, and training restarts from step 51."""
    network = Network(SMALL)
    seen, rates = [], []
    for step in onepass.train(painting(), pool, replace(recipe, steps=103, batch=1), network=network):
        seen.append(step.index)
        rates.append(step.rate)
        if len(seen) == 60:
            next(network.parameters()).data.fill_(float("nan"))
    assert seen == [*range(1, 101), *range(51, 104)]
    assert rates[100] == rates[50] / 2  # step 51 again
    assert fitting.finite(network)


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    network = Network(SMALL)
    next(network.parameters()).data[0] = float("inf")
    with pytest.raises(DivergedError, match="not finite"):
        onepass.save(tmp_path / "model.safetensors", network, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_crops_without_contrast_are_replaced(recipe: Training, pool: datasets.Pool, level: float) -> None:
    """A picture that is black or white except for a narrow strip; without replacement, all weights become NaN."""
    canvas = torch.full((1, 3, 400, 400), round(255 * level), dtype=torch.uint8)
    canvas[..., :90] = pool.canvas[:1, :, :1, :1]
    canvas[..., :90, :90] = torch.rand(1, 3, 90, 90).mul(255).byte()
    flat = datasets.Pool(canvas, torch.tensor([[400, 400]]))
    network = Network(SMALL)
    for step in onepass.train(painting(), flat, replace(recipe, steps=3), network=network):
        assert math.isfinite(step.loss)
    assert fitting.finite(network) and flat.replaced["flat"] > 0


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


def joint_gradients(rank: int, world: int, folder: str, recipe: Training, pool: datasets.Pool) -> None:
    if world > 1:
        torch.set_num_threads(1)
        store = f"file://{folder}/store"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    torch.manual_seed(7)
    network = Network(SMALL)
    (step,) = onepass.train(painting(), pool, replace(recipe, steps=1), network=network)
    if rank == 0:
        gradients = {name: p.grad for name, p in network.named_parameters()}
        torch.save({"gradients": gradients, "loss": step.loss}, f"{folder}/{world}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(recipe: Training, pool: datasets.Pool, tmp_path: Path) -> None:
    recipe = replace(recipe, batch=4)
    joint_gradients(0, 1, str(tmp_path), recipe, pool)
    torch.multiprocessing.spawn(joint_gradients, (2, str(tmp_path), recipe, pool), nprocs=2)
    one, two = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in one["gradients"].values())
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-3, atol=1e-5 * scale)
