"""Training on pairs: losses by hand, resuming, recipes, measurements."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_picture
from torch import nn

from impasto import pairs as pairing, pix2pix, pix2pix_training
from impasto.errors import DivergedError, RecipeError
from impasto.generators import Shape
from impasto.pairs import Pairs
from impasto.pix2pix import Model
from impasto.recipes import Translation

TINY = Translation(
    steps=6, generator="unet16", width=2, critic_width=2, critic_layers=1, load=18, crop=16, precision="float32",
)  # fmt: skip


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    (tmp_path / "pairs").mkdir()
    for index in range(4):
        save_picture(tmp_path / "pairs" / f"{index}.png", 48, 24, seed=index)
    return Pairs(pairing.find(tmp_path / "pairs"), short=18)


class Constant(nn.Module):
    """A generator whose output is one number everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.shape = Shape(depth=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value * torch.ones(x.shape[0], 3, *x.shape[2:])


class Sum(nn.Module):
    """A discriminator whose logits are the mean of all channels of the pair."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        return self.scale * pair.mean(1, keepdim=True)


@pytest.mark.parametrize("gan", ["bce", "lsgan"])
def test_losses_of_a_step_by_hand(pairs: Pairs, gan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of 0, targets of 1, outputs of 0.5: logits 1/2 for the real pair, 1/4 for the other."""
    drawn = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    monkeypatch.setattr(Pairs, "draw", lambda *arguments, **more: drawn)
    recipe = replace(TINY, gan=gan, gan_weight=2.0)
    network, critic = Constant(0.5), Sum()
    learn, judge = pix2pix_training.game(network, critic, pairs, recipe, torch.device("cpu"))
    loss = (
        (lambda x, goal: (x - goal) ** 2)
        if gan == "lsgan"
        else (lambda x, goal: math.log1p(math.exp(-x if goal else x)))
    )
    verdict = {name: float(term.detach()) for name, term in judge(0).items()}
    assert verdict == pytest.approx({"real": loss(0.5, 1) / 2, "fake": loss(0.25, 0) / 2})
    terms = learn(0)
    assert {n: float(t.detach()) for n, t in terms.items()} == pytest.approx(
        {"l1": 100 * 0.5, "gan": 2 * loss(0.25, 1)}
    )
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert critic.scale.grad is None and critic.scale.requires_grad  # the generator's step does not change its rival
    slope = 2 * (0.25 - 1) if gan == "lsgan" else -1 / (1 + math.exp(0.25))
    assert float(network.value.grad) == pytest.approx(-100 + 2 * slope / 2)  # type: ignore[arg-type]


def test_l1_alone(pairs: Pairs) -> None:
    network = pix2pix_training.begin(replace(TINY, gan="none"))
    names = [set(step.terms) for step in pix2pix_training.train(pairs, replace(TINY, gan="none"), network=network)]
    assert names == [{"l1"}] * 6


@pytest.mark.parametrize("at", [1, 4])
def test_resume_is_exact_to_the_bit(pairs: Pairs, at: int) -> None:
    whole = pix2pix_training.begin(TINY)
    for _ in pix2pix_training.train(pairs, TINY, network=whole):
        pass
    first = pix2pix_training.begin(TINY)
    for step in pix2pix_training.train(pairs, TINY, network=first):
        if step.index == at:
            break
    file = io.BytesIO()
    torch.save(step.state(), file)
    file.seek(0)
    second = pix2pix_training.begin(TINY)
    rest = [*pix2pix_training.train(pairs, TINY, network=second, state=torch.load(file, weights_only=True))]
    assert [step.index for step in rest] == list(range(at + 1, 7))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(whole.parameters(), first.parameters(), strict=True) if a.ndim > 1)


def test_training_leaves_the_random_state(pairs: Pairs) -> None:
    network = pix2pix_training.begin(TINY)
    steps = pix2pix_training.train(pairs, TINY, network=network)
    next(steps)
    before = torch.get_rng_state()
    next(steps)
    assert torch.equal(before, torch.get_rng_state())


def test_rate_is_constant_then_linear(pairs: Pairs) -> None:
    rates = [step.rate for step in pix2pix_training.train(pairs, TINY, network=pix2pix_training.begin(TINY))]
    assert rates == pytest.approx([2e-4 * part for part in (1, 1, 1, 1, 2 / 3, 1 / 3)])


def test_a_loss_that_is_not_finite(pairs: Pairs) -> None:
    network = pix2pix_training.begin(TINY)
    with pytest.raises(DivergedError):
        for _ in pix2pix_training.train(pairs, replace(TINY, rate=1e30), network=network):
            pass
    assert all(parameter.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"generator": "unet100"}, "generator"),
        ({"generator": "vgg"}, "generator"),
        ({"generator": "unet256"}, "crop"),
        ({"load": 15}, "load"),
        ({"generator": "features"}, "pairs"),
        ({"critic_layers": 3}, "critic_layers"),
    ],
)
def test_recipes_that_cannot_be_trained(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=f"`{named}`"):
        pix2pix_training.begin(replace(TINY, **wrong))


def test_measures_by_hand(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets of 0.2, outputs of 0.5 in [-1, 1]: L1 0.3, PSNR 10 log10(1 / 0.15^2)."""
    monkeypatch.setattr(Pairs, "pair", lambda *_: (torch.zeros(1, 3, 18, 18), torch.full((1, 3, 18, 18), 0.2)))
    found = pix2pix_training.measure(Model(Constant(0.5), "given", {}), pairs)
    assert found["l1"] == pytest.approx(0.3) and found["psnr"] == pytest.approx(-20 * math.log10(0.15), abs=1e-4)
    assert 0 < found["ssim"] < 1
    perfect = pix2pix_training.measure(Model(Constant(0.2), "given", {}), pairs)
    assert perfect["l1"] == pytest.approx(0, abs=1e-6) and perfect["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("look", [pix2pix_training.measure, pix2pix_training.preview])
def test_measuring_leaves_the_network_where_it_is(
    look: Callable[..., object], pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def translate(source: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        raise Seen(str(source.device))

    monkeypatch.setattr(pix2pix, "translate", translate)
    with pytest.raises(Seen, match="meta"):
        look(Model(Constant(0.5).to("meta"), "given", {}), pairs)


def test_it_learns_four_pairs(pairs: Pairs) -> None:
    recipe = replace(TINY, steps=150, rate=2e-3, width=8, dropout=0.0, mirror=False, load=16)
    small = replace(pairs, short=16)
    network = pix2pix_training.begin(recipe)
    terms = [float(step.terms["l1"]) / 100 for step in pix2pix_training.train(small, recipe, network=network)]
    assert sum(terms[-8:]) < 0.6 * sum(terms[:8])


def test_colorizer_trains_and_keeps_the_lightness(tmp_path: Path) -> None:
    for index in range(2):
        save_picture(tmp_path / f"{index}.png", 40, 40, seed=index)
    recipe = Translation(
        steps=2, pairs="colorize", generator="features", gan="none", batch=2, load=34, crop=32, rate=1e-3
    )
    found = Pairs(pairing.find(tmp_path, kind="colorize"), "colorize", (1, 2), short=34)
    network = pix2pix_training.begin(recipe)
    assert [set(step.terms) for step in pix2pix_training.train(found, recipe, network=network)] == [{"bins"}] * 2
    model = Model(network, "colorize", {})
    pix2pix.save(tmp_path / "m.safetensors", model)
    image = 0.3 + 0.4 * torch.rand(1, 3, 37, 50)
    result = pix2pix.apply(image, pix2pix.load(tmp_path / "m.safetensors"))
    assert result.shape == image.shape and not torch.equal(result, image)
    assert pix2pix.apply(torch.rand(1, 3, 1, 3), model).shape == (1, 3, 1, 3)
