"""Training one-pass networks: gradients, resuming, roll-back, several processes."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, save_picture
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import datasets, encoder, fitting, flow, halos, objective, onepass, onepass_training
from impasto.networks import Network
from impasto.onepass import Model
from impasto.recipes import GRAIN, Training


@pytest.fixture
def recipe(tiny: str) -> Training:
    return Training(steps=4, batch=2, crop=64, style_size=64, encoder=tiny, precision="float32")


@pytest.fixture
def pool(tmp_path: Path) -> datasets.Pool:
    return datasets.load([save_picture(tmp_path / f"{seed}.png", 90, 80, seed=seed) for seed in range(3)])


def painting() -> Tensor:
    return torch.rand(1, 3, 60, 50, generator=torch.Generator().manual_seed(1))


def test_training_learns_and_reproduces(recipe: Training, pool: datasets.Pool) -> None:
    def run() -> list[float]:
        return [step.loss for step in onepass_training.train(painting(), pool, replace(recipe, steps=30))]

    losses = run()
    assert sum(losses[-5:]) < sum(losses[:5])
    assert losses == run()


def test_resume_is_exact_to_the_bit(recipe: Training, pool: datasets.Pool) -> None:
    whole, network = Network(SMALL), Network(SMALL)
    network.load_state_dict(whole.state_dict())
    last = [step for step in onepass_training.train(painting(), pool, recipe, network=whole)][-1]
    steps = onepass_training.train(painting(), pool, recipe, network=network)
    next(steps)
    second = next(steps)
    state = {**second.state(), "model": {k: v.clone() for k, v in network.state_dict().items()}}
    rest = [step for step in onepass_training.train(painting(), pool, recipe, network=Network(SMALL), state=state)]
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

    terms = onepass_training.task(network, painting(), pool, recipe)(0)
    style = onepass_training.prepare_style(painting(), recipe)
    goal = objective.build(encoder.load(recipe.encoder), recipe.loss_recipe(), torch.zeros(1, 3, 64, 64), [style])
    expected = objective.for_content(goal, crops).terms(painted)
    torch.testing.assert_close(
        {name: term.detach() for name, term in terms.items()}, {name: term.detach() for name, term in expected.items()}
    )
    for one, other in zip(slopes(terms), slopes(expected), strict=True):
        assert torch.linalg.vector_norm(one - other) < 1e-3 * torch.linalg.vector_norm(other) + 1e-6


class Fixed(nn.Module):
    """Paints a picture as it is, with a pattern that does not move along."""

    def __init__(self, contrast: float) -> None:
        super().__init__()
        self.contrast = nn.Parameter(torch.tensor(contrast))

    def forward(self, image: Tensor, grain: float = 0.0) -> Tensor:
        stripes = torch.arange(image.shape[-1]) % 8 // 4 - 0.5
        return image + self.contrast * stripes


@pytest.mark.parametrize("contrast", [0.0, 0.2])
def test_the_term_of_motion_by_hand(contrast: float, recipe: Training, pool: datasets.Pool,
                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """What moves with the picture costs nothing but the noise; a pattern that stays in place does."""
    shifted = torch.zeros(2, 2, 64, 64)
    shifted[:, 0] = 4.0  # by half a period of the stripes
    monkeypatch.setattr(flow, "wander", lambda *_: shifted)
    crops = 0.5 + 0.1 * datasets.random_crops(pool, 2, 64, torch.Generator().manual_seed(0))
    monkeypatch.setattr(datasets, "random_crops", lambda *_, **__: crops)
    network = Fixed(contrast)
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)
    term = onepass_training.task(network, painting(), pool, replace(recipe, motion=10.0, lattice=0.0))(0)["motion"]
    expected = 10 * 60 / 64 * (onepass_training.NOISE**2 + contrast**2)  # 60 of 64 columns are in the frame
    assert float(term.detach()) == pytest.approx(expected, rel=0.05)
    term.backward()
    assert network.contrast.grad is not None
    assert float(network.contrast.grad) == pytest.approx(10 * 60 / 64 * 2 * contrast, abs=0.02)


def test_training_for_motion_steadies_the_network(recipe: Training, pool: datasets.Pool) -> None:
    def unsteadiness(motion: float) -> float:
        torch.manual_seed(0)
        network = Network(SMALL)
        for _ in onepass_training.train(
            painting(), pool, replace(recipe, steps=25, rate=5e-3, motion=motion), network=network
        ):
            pass
        generator = torch.Generator().manual_seed(9)
        crops = datasets.random_crops(pool, 2, 64, generator)
        moves = flow.wander(2, 64, 64, generator)
        with torch.no_grad():
            again = network(flow.warp(crops, moves))
            return float(onepass_training.unsteadiness(network(crops), again, moves))

    assert unsteadiness(300.0) < 0.7 * unsteadiness(0.0)


class Rim(nn.Module):
    """Paints a picture as it is, with a lighter rim around what is dark."""

    def __init__(self, contrast: float) -> None:
        super().__init__()
        self.contrast = nn.Parameter(torch.tensor(contrast))

    def forward(self, image: Tensor, grain: float = 0.0) -> Tensor:
        dark = (image < 0.3).float()
        return image + self.contrast * (F.max_pool2d(dark, 9, 1, 4) - dark)


def test_rims_cost_what_they_stand_out(recipe: Training, pool: datasets.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = torch.full((2, 3, 64, 64), 0.7)
    crops[..., 20:, 24:40] = 0.1
    monkeypatch.setattr(datasets, "random_crops", lambda *_, **__: crops)
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)

    def term(contrast: float, name: str) -> Tensor:
        weighted = replace(recipe, halos=200.0, weave=1500.0)
        return onepass_training.task(Rim(contrast), painting(), pool, weighted)(0)[name]

    assert float(term(0.0, "halos").detach()) < 1e-3
    assert float(term(0.2, "halos").detach()) > 0.05
    torch.testing.assert_close(term(0.2, "halos"), 4 * term(0.1, "halos"), rtol=0.1, atol=0)
    torch.testing.assert_close(term(0.2, "weave"), 1500 * halos.weave(Rim(0.2)(crops), crops))


def test_initial_weights_of_a_training(recipe: Training) -> None:
    def flat(network: Network) -> Tensor:
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    def weights(**changes: Any) -> Tensor:
        return flat(onepass_training.begin(replace(recipe, **changes)))

    shipped = weights(start="udnie")
    assert shipped.requires_grad
    assert torch.equal(shipped, flat(onepass.load("udnie").network))
    first = weights(start="", seed=1)
    assert torch.equal(first, weights(start="", seed=1))
    assert not torch.equal(first, weights(start="", seed=2))


def test_the_loss_is_of_the_clipped_picture(recipe: Training, pool: datasets.Pool) -> None:
    """Values beyond white count as white, and only gradients that lead back remain."""
    network = Network(SMALL)
    loss = onepass_training.task(network, painting(), pool, recipe)
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
    assert torch.equal(onepass_training.prepare_style(woven, recipe), woven)
    assert torch.equal(onepass_training.prepare_style(woven, screened), plain)
    network = Network(SMALL).requires_grad_(False)
    cases = ((woven, screened), (plain, recipe), (woven, recipe))
    one, other, third = (onepass_training.task(network, style, pool, how)(0) for style, how in cases)
    assert one == other != third


def test_the_default_grain_is_that_of_the_training(recipe: Training, pool: datasets.Pool) -> None:
    network, image = Network(SMALL).eval().requires_grad_(False), torch.rand(1, 3, 48, 48)
    some, none = (
        onepass_training.task(network, painting(), pool, replace(recipe, grain=grain))(0) for grain in (0.5, 0.0)
    )
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
    for step in onepass_training.train(painting(), pool, replace(recipe, steps=103, batch=1), network=network):
        seen.append(step.index)
        rates.append(step.rate)
        if len(seen) == 60:
            next(network.parameters()).data.fill_(float("nan"))
    assert seen == [*range(1, 101), *range(51, 104)]
    assert rates[100] == rates[50] / 2  # step 51 again
    assert fitting.finite(network)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_crops_without_contrast_are_replaced(recipe: Training, pool: datasets.Pool, level: float) -> None:
    """A picture that is black or white except for a narrow strip; without replacement, all weights become NaN."""
    canvas = torch.full((1, 3, 400, 400), round(255 * level), dtype=torch.uint8)
    canvas[..., :90] = pool.canvas[:1, :, :1, :1]
    canvas[..., :90, :90] = torch.rand(1, 3, 90, 90).mul(255).byte()
    flat = datasets.Pool(canvas, torch.tensor([[400, 400]]))
    network = Network(SMALL)
    for step in onepass_training.train(painting(), flat, replace(recipe, steps=3), network=network):
        assert math.isfinite(step.loss)
    assert fitting.finite(network) and flat.replaced["flat"] > 0


def joint_gradients(rank: int, world: int, folder: str, recipe: Training, pool: datasets.Pool) -> None:
    if world > 1:
        torch.set_num_threads(1)
        store = f"file://{folder}/store"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    torch.manual_seed(7)
    network = Network(SMALL)
    (step,) = onepass_training.train(painting(), pool, replace(recipe, steps=1), network=network)
    if rank == 0:
        gradients = {name: p.grad for name, p in network.named_parameters()}
        torch.save({"gradients": gradients, "loss": step.loss}, f"{folder}/{world}.pt")
    if world > 1:
        torch.distributed.barrier()  # a process that ends while Gloo's threads still work is aborted
        torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(recipe: Training, pool: datasets.Pool, tmp_path: Path) -> None:
    recipe = replace(recipe, batch=4, motion=1e3, halos=1e4, weave=1e4)
    joint_gradients(0, 1, str(tmp_path), recipe, pool)
    torch.multiprocessing.spawn(joint_gradients, (2, str(tmp_path), recipe, pool), nprocs=2)
    one, two = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in one["gradients"].values())
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-3, atol=1e-5 * scale)
