"""The training loop, on a small regression."""

import io
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from impasto import fitting
from impasto.errors import DivergedError


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def objective(network: nn.Module) -> Any:
    def terms(index: int) -> dict[str, Tensor]:
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(index))
        y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        error = network(x) - y
        return {"square": error.square().mean(), "bias": 0.1 * error.mean().abs()}

    return terms


def fit(network: nn.Module, **options: Any) -> Iterator[fitting.TrainingStep]:
    return fitting.fit(network, objective(network), **({"steps": 12, "rate": 0.02, "warmup": 3} | options))


def test_cosine_by_hand() -> None:
    # two steps of warm-up to 1, then half a cosine over eight steps
    rates = [fitting.cosine(step, 10, warmup=2) for step in range(10)]
    assert rates[:3] == pytest.approx([1 / 2, 1.0, 1.0])
    assert rates[4] == pytest.approx(0.5 * (1 + math.sqrt(0.5)))  # cos 45 degrees
    assert rates[6] == pytest.approx(0.5)
    assert rates[8] == pytest.approx(0.5 * (1 - math.sqrt(0.5)))
    assert rates[9] == pytest.approx(0.0380602, abs=1e-6)  # (1 + cos 157.5 degrees) / 2
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_cosine_without_warm_up() -> None:
    assert [fitting.cosine(step, 4, warmup=0) for step in (0, 2)] == pytest.approx([1.0, 0.5])
    assert fitting.cosine(4, 5, warmup=5) == 1.0  # all of it warm-up


def test_the_loss_falls() -> None:
    network = model()
    losses = [step.loss for step in fit(network, steps=150)]
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])


def test_values_of_a_step() -> None:
    network = model()
    before = [float(term.detach()) for term in objective(network)(0).values()]
    steps = list(fit(network))
    assert [step.index for step in steps] == list(range(1, 13))
    assert {step.total for step in steps} == {12}
    assert [step.rate for step in steps] == pytest.approx([0.02 * fitting.cosine(i, 12, warmup=3) for i in range(12)])
    assert set(steps[0].terms) == {"square", "bias"}
    assert steps[0].loss == pytest.approx(sum(before))
    assert not any(term.requires_grad for step in steps for term in step.terms.values())


def test_the_first_step_by_hand() -> None:
    """Adam's first step is the rate against the gradient's sign; AdamW also shrinks weights by rate * decay."""
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(2.0)
    next(fitting.fit(network, lambda _: {"w": network.weight.sum()}, steps=1, rate=0.1, weight_decay=0.5))
    assert network.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, abs=1e-6)


def test_frozen_parameters_stay() -> None:
    network = model()
    network[0].requires_grad_(False)
    before = [parameter.clone() for parameter in network.parameters()]
    for _ in fit(network):
        pass
    same = [torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("at", [1, 5, 11])
def test_resume_is_exact_to_the_bit(at: int) -> None:
    whole = model()
    rates = [step.rate for step in fit(whole, weight_decay=0.1)]
    first = model()
    for step in fit(first, weight_decay=0.1):
        if step.index == at:
            break
    file = io.BytesIO()
    torch.save(step.state(), file)
    file.seek(0)
    second = model()
    nn.init.zeros_(second[0].weight)  # the state restores it
    rest = list(fit(second, weight_decay=0.1, state=torch.load(file, weights_only=True)))
    assert [step.index for step in rest] == list(range(at + 1, 13))
    assert [step.rate for step in rest] == rates[at:]
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(whole[0].weight, first[0].weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(bad: float) -> None:
    network = model()
    terms = objective(network)
    spoilt = lambda index: {"square": terms(index)["square"] * (bad if index == 4 else 1.0)}  # noqa: E731
    steps = fitting.fit(network, spoilt, steps=9, rate=0.01, check_every=1)
    assert [next(steps).index for _ in range(4)] == [1, 2, 3, 4]
    kept = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(FloatingPointError, match="step 5 of 9"):
        next(steps)
    for before, after in zip(kept, network.parameters(), strict=True):
        assert torch.equal(before, after)  # the last good network is kept


def test_occasional_checks_find_a_loss_that_is_not_finite() -> None:
    network = model()
    terms = objective(network)
    spoilt = lambda index: {"square": terms(index)["square"] * (float("nan") if index >= 3 else 1.0)}  # noqa: E731
    with pytest.raises(FloatingPointError, match="step 5 of 20"):  # checked at steps 1, 5, 9, ...
        list(fitting.fit(network, spoilt, steps=20, rate=0.01, check_every=4))


def test_the_loss_of_the_last_step_is_always_checked() -> None:
    """A training that ends without an error must not return a network of NaN."""
    network = model()
    terms = objective(network)
    spoilt = lambda index: {"square": terms(index)["square"] * (float("nan") if index >= 5 else 1.0)}  # noqa: E731
    with pytest.raises(FloatingPointError, match="of 8"):
        list(fitting.fit(network, spoilt, steps=8, rate=0.01, check_every=50))


@pytest.mark.parametrize("retries", [0, 2])
def test_weights_that_are_not_finite(retries: int) -> None:
    """A NaN gradient corrupts the weights at step 3; they are reset to those of the last check, at step 1."""
    network = model()
    terms = objective(network)
    tried: list[int] = []

    def spoilt(index: int) -> dict[str, Tensor]:
        tried.append(index)
        bad = sum(parameter.sum() for parameter in network.parameters()).sub(1).mul(0).sqrt()  # value 0, gradient NaN
        return {"square": terms(index)["square"] + (bad if index == 2 else 0.0)}

    seen = []
    with pytest.raises(DivergedError, match="step 5 of 9"):
        for step in fitting.fit(network, spoilt, steps=9, rate=0.01, check_every=4, retries=retries):
            seen.append((step.index, step.rate))
    assert [index for index, _ in seen] == [1, 2, 3, 4] * (1 + retries)
    assert [rate for index, rate in seen if index == 1] == [0.01 / 2**n for n in range(1 + retries)]
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), model().parameters(), strict=True))


def test_the_last_weights_are_checked() -> None:
    """The last step's loss is finite, its gradient is not."""
    network = model()
    terms = objective(network)
    spoilt = lambda index: {  # noqa: E731
        "square": terms(index)["square"] + (0.0 if index < 3 else next(network.parameters()).mul(0).sqrt().sum())
    }
    with pytest.raises(DivergedError, match="step 4 of 4"):
        list(fitting.fit(network, spoilt, steps=4, rate=0.01))
    assert fitting.finite(network)


def test_linear_by_hand() -> None:
    assert [fitting.linear(step, 8, constant=0.5) for step in range(8)] == pytest.approx([1] * 5 + [0.75, 0.5, 0.25])
    assert [fitting.linear(step, 3, constant=1.0) for step in range(3)] == [1, 1, 1]
    assert [fitting.linear(step, 4, constant=0.0) for step in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25])


def duel(us: nn.Module, them: nn.Module, **options: Any) -> Iterator[fitting.TrainingStep]:
    """One network learns a number, its rival to stay two above it."""
    ours, theirs = next(us.parameters()), next(them.parameters())
    return fitting.fit(
        us, lambda index: {"ours": (ours - theirs.detach()).square().sum() + 0.01 * index * ours.sum()},
        rival=(them, lambda index: {"theirs": (theirs - ours.detach() - 2).square().sum()}),
        **({"steps": 6, "rate": 0.1, "schedule": lambda step, total: 1.0} | options),
    )  # fmt: skip


def scalars() -> tuple[nn.Module, nn.Module]:
    pair = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for network in pair:
        network.weight.data.fill_(1.0)
    return pair


def test_the_rival_moves_first() -> None:
    """Its first step goes up by the rate; the model's loss then is the square of that."""
    us, them = scalars()
    step = next(duel(us, them))
    assert {name: float(term) for name, term in step.terms.items()} == pytest.approx({"theirs": 4.0, "ours": 0.01})
    assert (float(them.weight.detach()), float(us.weight.detach())) == pytest.approx((1.1, 1.1), abs=1e-6)


def test_resume_with_a_rival_is_exact_to_the_bit() -> None:
    whole, first, second = scalars(), scalars(), scalars()
    for _ in duel(*whole):
        pass
    for step in duel(*first):
        if step.index == 3:
            break
    file = io.BytesIO()
    torch.save(step.state(), file)
    file.seek(0)
    assert [step.index for step in duel(*second, state=torch.load(file, weights_only=True))] == [4, 5, 6]
    for one, other in zip(whole, second, strict=True):
        assert torch.equal(one.weight, other.weight)


def test_a_rival_that_is_not_finite() -> None:
    """Both networks go back to the last weights with finite losses."""
    us, them = scalars()
    ours, theirs = us.weight, them.weight
    steps = fitting.fit(
        us, lambda index: {"ours": ours.square().sum()},
        rival=(them, lambda index: {"theirs": theirs.square().sum() * (float("nan") if index == 2 else 1.0)}),
        steps=4, rate=0.1, schedule=lambda step, total: 1.0, check_every=1, retries=1,
    )  # fmt: skip
    seen = []
    with pytest.raises(DivergedError, match="step 3 of 4"):
        for step in steps:
            seen.append((step.index, step.rate, float(ours.detach()), float(theirs.detach())))
    assert [(index, rate) for index, rate, *_ in seen] == [(1, 0.1), (2, 0.1)] + [(2, 0.05)] * (len(seen) - 2)
    assert ours.isfinite().all() and theirs.isfinite().all()


def test_betas() -> None:
    """Adam's second step by hand, for gradients of 1 and 3 and betas of 0.5 and 0.9."""
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.zero_()
    for _ in fitting.fit(
        network, lambda index: {"w": (1 + 2 * index) * network.weight.sum()}, steps=2, rate=0.1, betas=(0.5, 0.9),
        schedule=lambda step, total: 1.0,
    ):  # fmt: skip
        pass
    first, second = (0.5 * 0.5 + 0.5 * 3) / 0.75, (0.9 * 0.1 + 0.1 * 9) / 0.19
    assert network.weight.item() == pytest.approx(-0.1 - 0.1 * first / math.sqrt(second), abs=1e-5)


def test_a_resumed_training_keeps_the_halved_rate() -> None:
    def shaken(index: int) -> dict[str, Tensor]:
        broken.append(index)
        return {"loss": network[0].weight.square().sum() * (math.nan if broken.count(4) == 1 and index == 4 else 1)}

    network, broken = model(), list[int]()
    steps = fitting.fit(network, shaken, steps=9, rate=0.02, check_every=1, retries=2)
    for step in steps:
        if step.index == 6:
            state = step.state()
            break
    rates = [step.rate for step in steps]
    again = fitting.fit(model(), objective(network), steps=9, rate=0.02, check_every=1, retries=2, state=state)
    assert [step.rate for step in again] == rates == [0.01 * fitting.cosine(index, 9, warmup=0) for index in (6, 7, 8)]
