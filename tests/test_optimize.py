"""The optimisers, on objectives whose minimum is known."""

import io
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from impasto import optimize
from impasto.errors import DivergedError
from impasto.optimize import by_autograd


def minimize(image: Tensor, terms: Any, **options: Any) -> Iterator[optimize.Iteration]:
    for step in optimize.minimize(image, by_autograd(terms), **options):
        assert step.image is not None  # copied, because the next iteration changes the picture
        yield step


RATES = {"lbfgs": 1.0, "adam": 0.05, "descent": 0.02}
TARGET = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(1))
STIFFNESS = 0.5 + torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(2))
START = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(3))


def quadratic(x: Tensor) -> dict[str, Tensor]:
    error = (x - TARGET).square()
    return {"far": (STIFFNESS * error)[..., :2].sum(), "near": (STIFFNESS * error)[..., 2:].sum()}


def rough(x: Tensor) -> dict[str, Tensor]:
    """Not quadratic, so that L-BFGS needs its line search."""
    return {"fourth": (x - TARGET).pow(4).sum(), "waves": (3 * x).sin().square().sum() * 0.1, "pull": x.square().mean()}


def last(steps: Any) -> optimize.Iteration:
    step = None
    for step in steps:  # noqa: B007
        pass
    assert step is not None
    return step


@pytest.mark.parametrize("name", RATES)
def test_each_optimiser_minimises_a_quadratic(name: Any) -> None:
    step = last(minimize(START, quadratic, optimizer=name, steps=300, rate=RATES[name]))
    assert (START - TARGET).abs().max() > 0.5
    # L-BFGS converges; descent has steps of constant length and ends one step away; Adam oscillates slightly.
    nearness = {"lbfgs": 1e-4, "adam": 0.02, "descent": 0.03}[name]
    assert (step.image - TARGET).abs().max() < nearness


@pytest.mark.parametrize("name", RATES)
def test_values_of_a_step(name: Any) -> None:
    steps = list(minimize(START, quadratic, optimizer=name, steps=3, rate=RATES[name]))
    assert [step.index for step in steps] == [1, 2, 3]
    before = [START, steps[0].image, steps[1].image]  # the loss is that of the picture before the iteration
    for step, image in zip(steps, before, strict=True):
        expected = {key: float(value) for key, value in quadratic(image).items()}
        assert step.terms == pytest.approx(expected, rel=1e-6)
        assert step.loss == pytest.approx(sum(expected.values()), rel=1e-6)
    assert steps[2].loss < steps[0].loss


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_descent_s_step_has_the_stated_length(scale: float) -> None:
    objective = lambda x: {"all": scale * quadratic(x)["far"] + scale * quadratic(x)["near"]}  # noqa: E731
    before = START
    for step in minimize(START, objective, optimizer="descent", steps=5, rate=0.07):
        assert float(torch.linalg.vector_norm(step.image - before)) == pytest.approx(0.07, rel=1e-5)
        gradient = 2 * STIFFNESS * (before - TARGET)
        expected = before - 0.07 * gradient / gradient.norm()
        torch.testing.assert_close(step.image, expected, rtol=0, atol=1e-6)
        before = step.image


def test_descent_stays_where_the_gradient_is_0() -> None:
    step = last(minimize(TARGET, quadratic, optimizer="descent", steps=1, rate=0.07))
    assert torch.equal(step.image, TARGET)


def test_adam_by_hand() -> None:
    """g = 1 at each step for the objective x: m^ = v^ = 1 always, so each step is the rate; betas are 0.9 and 0.999."""
    start = torch.zeros(1, 3, 1, 1)
    steps = minimize(start, lambda x: {"x": x.sum()}, optimizer="adam", steps=2, rate=0.1)
    first = next(steps)
    torch.testing.assert_close(first.image, start - 0.1)
    assert first.state()["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    torch.testing.assert_close(next(steps).image, start - 0.2)


def test_lbfgs_finds_the_bottom_of_rosenbrock_s_valley() -> None:
    def rosenbrock(x: Tensor) -> dict[str, Tensor]:
        a, b, c = x.flatten()
        return {"valley": 100 * (b - a**2) ** 2, "slope": (1 - a) ** 2, "third": (c - 0.25) ** 2}

    start = torch.tensor([-1.2, 1.0, 0.0]).view(1, 3, 1, 1)
    step = last(minimize(start, rosenbrock, optimizer="lbfgs", steps=60, rate=1.0))
    torch.testing.assert_close(step.image.flatten(), torch.tensor([1.0, 1.0, 0.25]), rtol=0, atol=1e-3)


def test_lbfgs_does_not_evaluate_a_point_twice() -> None:
    seen: list[Tensor] = []

    def objective(x: Tensor) -> dict[str, Tensor]:
        seen.append(x.detach().clone())
        return quadratic(x)

    iterations = 8
    last(minimize(START, objective, optimizer="lbfgs", steps=iterations, rate=1.0))
    assert len(seen) < 1.6 * iterations
    assert not any(torch.equal(one, other) for one, other in pairwise(seen))


@pytest.mark.parametrize("name", RATES)
def test_clip(name: Any) -> None:
    def outside(x: Tensor) -> dict[str, Tensor]:
        return {"far": (x - 3).square().sum()}

    for clip, least in ((True, 1.0), (False, 1.5)):
        images = [s.image for s in minimize(START, outside, optimizer=name, steps=60, rate=0.5, clip=clip)]
        highest = max(float(image.max()) for image in images)
        assert highest == 1.0 if clip else highest > least
        assert min(float(image.min()) for image in images) >= 0 or not clip


def test_clipped_lbfgs_finds_the_minimum_in_the_box() -> None:
    """It is not the clipped minimum of the whole space; SciPy's L-BFGS-B gives the reference."""
    generator = torch.Generator().manual_seed(4)
    mixing = torch.randn(48, 48, generator=generator) / 7 + torch.eye(48)
    goal = 0.5 + 1.5 * torch.randn(48, generator=generator)

    def loss(x: Tensor) -> Tensor:
        return (mixing.to(x) @ x.flatten() - goal.to(x)).square().sum()

    def with_slope(x: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(x).requires_grad_()
        value = loss(leaf)
        return value.item(), torch.autograd.grad(value, leaf)[0].numpy()

    start = torch.full((1, 3, 4, 4), 0.5)
    found = last(minimize(start, lambda x: {"far": loss(x)}, optimizer="lbfgs", steps=150, rate=1.0, clip=True)).image
    expected = scipy.optimize.minimize(with_slope, np.full(48, 0.5), jac=True, method="L-BFGS-B", bounds=[(0, 1)] * 48)
    free = last(minimize(start, lambda x: {"far": loss(x)}, optimizer="lbfgs", steps=150, rate=1.0)).image
    assert float(loss(found)) == pytest.approx(expected.fun, rel=1e-3)
    assert float(loss(free.clamp(0, 1))) > 1.05 * expected.fun


@pytest.mark.parametrize("name", RATES)
def test_a_loss_that_is_not_finite(name: Any) -> None:
    calls = 0

    def objective(x: Tensor) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        return {**rough(x), "bad": x.sum() * (float("nan") if calls > 6 else 0.0)}

    yielded: list[optimize.Iteration] = []
    steps = minimize(START, objective, optimizer=name, steps=50, rate=0.01 if name != "lbfgs" else 1.0)
    with pytest.raises(DivergedError, match=r"step \d+ of 50") as caught:
        yielded.extend(steps)
    assert len(yielded) >= 1
    assert f"step {len(yielded) + 1} of 50" in str(caught.value)
    assert all(torch.isfinite(step.image).all() for step in yielded)


def test_lbfgs_recovers_from_a_loss_that_is_not_finite() -> None:
    """A step that is too long leads below 0, where the logarithm is NaN: the line search must step back."""

    def barrier(x: Tensor) -> dict[str, Tensor]:
        return {"barrier": -1e-2 * (x - 0.2).log().sum(), "pull": 50 * x.square().sum()}

    steps = list(minimize(0.5 + START, barrier, optimizer="lbfgs", steps=12, rate=1.0))
    assert len(steps) == 12
    assert all(torch.isfinite(term) for step in steps for term in barrier(step.image).values())


def test_lbfgs_shortens_a_step_that_is_too_long() -> None:
    """A gentle slope suggests a long step into a steep wall: the line search must shorten it, not give up."""

    def wall(x: Tensor) -> dict[str, Tensor]:
        return {"slope": -x.sum(), "wall": 10 * (8 * (x - 0.6)).exp().sum()}

    steps = list(minimize(START * 0.1, wall, optimizer="lbfgs", steps=25, rate=1.0))
    # The minimum: 80 exp(8 (x - 0.6)) = 1, so that x = 0.6 - log(80) / 8.
    expected = torch.full_like(START, 0.6 - math.log(80) / 8)
    torch.testing.assert_close(steps[-1].image, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["adam", "descent"])
def test_the_step_that_diverged_is_named_exactly(name: Any) -> None:
    calls = 0

    def objective(x: Tensor) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        return {"bad": (x - TARGET).square().sum() + (float("inf") if calls == 4 else 0.0)}

    steps = minimize(START, objective, optimizer=name, steps=9, rate=0.01)
    assert [next(steps).index for _ in range(3)] == [1, 2, 3]
    with pytest.raises(DivergedError, match="the loss is inf at step 4 of 9"):
        next(steps)


def test_a_gradient_that_is_not_finite() -> None:
    """The square root of 0 is finite, but its derivative is not."""
    steps = minimize(
        torch.zeros(1, 3, 2, 2), lambda x: {"root": x.abs().sqrt().sum()}, optimizer="adam", steps=3, rate=1
    )
    with pytest.raises(DivergedError, match="step 1 of 3"):
        next(steps)


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Save and load the state, as in a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("objective", [quadratic, rough])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", RATES)
def test_resume_is_exact_to_the_bit(name: Any, clip: bool, objective: Callable[[Tensor], dict[str, Tensor]]) -> None:
    options: dict[str, Any] = {"optimizer": name, "steps": 10, "rate": RATES[name], "clip": clip}
    whole = list(minimize(START, objective, **options))
    first = minimize(START, objective, **options)
    for _ in range(4):
        fourth = next(first)
    elsewhere = torch.zeros_like(START)  # the start no longer matters
    rest = list(minimize(elsewhere, objective, **options, state=saved(fourth.state())))
    assert [step.index for step in rest] == [5, 6, 7, 8, 9, 10]
    for one, other in zip(whole[4:], rest, strict=True):
        assert torch.equal(one.image, other.image)
        assert one.terms == other.terms
    assert not torch.equal(whole[3].image, whole[9].image)


@pytest.mark.parametrize("flat", [0.0, 1.0])
@pytest.mark.parametrize("name", RATES)
def test_resume_at_the_end_yields_the_last_iteration_again(name: Any, flat: float) -> None:
    options: dict[str, Any] = {"optimizer": name, "steps": 14, "rate": 1e-3 * RATES[name], "flat": flat}
    end = last(minimize(START, quadratic, **options))
    (again,) = minimize(torch.zeros_like(START), quadratic, **options, state=saved(end.state()))
    assert torch.equal(again.image, end.image)
    assert (again.index, again.loss, again.losses) == (end.index, end.loss, end.losses)
    assert end.index == (11 if flat else 14)


@pytest.mark.parametrize("name", RATES)
def test_pictures_are_copies(name: Any) -> None:
    start = START.clone()
    images, copies = [], []
    for step in minimize(start, quadratic, optimizer=name, steps=4, rate=RATES[name]):
        images.append(step.image)
        copies.append(step.image.clone())
        assert not step.image.requires_grad
        assert step.image.shape == start.shape
    assert torch.equal(start, START)
    assert all(torch.equal(image, copy) for image, copy in zip(images, copies, strict=True))
    assert len({image.data_ptr() for image in images}) == 4


def test_changing_a_yielded_picture_has_no_effect() -> None:
    untouched = last(minimize(START, quadratic, optimizer="adam", steps=4, rate=0.1)).image
    for step in minimize(START, quadratic, optimizer="adam", steps=4, rate=0.1):
        final = step.image.clone()
        step.image.zero_()
    assert torch.equal(final, untouched)
