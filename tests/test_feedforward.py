"""Networks of one style: shapes, training, files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_picture
from safetensors.torch import save_file
from torch import Tensor

from impasto import datasets, feedforward, images
from impasto.feedforward import JOHNSON, SLIM, Architecture, Model, Network
from impasto.recipes import Training
from impasto.weights import WeightsError

SMALL = Architecture((0, 4, 6), blocks=1, kernel=3)


@pytest.fixture
def recipe(tiny: str) -> Training:
    return Training(steps=4, batch=2, crop=64, style_size=64, encoder=tiny, precision="float32")


@pytest.fixture
def pool(tmp_path: Path) -> datasets.Pool:
    return datasets.load([save_picture(tmp_path / f"{seed}.png", 90, 80, seed=seed) for seed in range(3)])


def painting() -> Tensor:
    return torch.rand(1, 3, 60, 50, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", [SMALL, Architecture((4, 6, 8), blocks=1)])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (16, 16), (17, 31), (50, 43)])
def test_any_size_gives_that_size(architecture: Architecture, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, *size)
    out = Network(architecture)(image).detach()
    assert out.shape == image.shape
    assert float((out - 0.5).abs().max()) <= 150 / 255


def test_the_papers_network() -> None:
    """Johnson et al., supplement, table 1: 32, 64, 128, five blocks, 64, 32, 3, with kernels of 9 at the ends."""
    kernels = [tuple(p.shape) for name, p in Network(JOHNSON).named_parameters() if name.endswith("convolution.weight")]
    assert kernels[:3] == [(32, 3, 9, 9), (64, 32, 3, 3), (128, 64, 3, 3)]
    assert kernels[3:13] == [(128, 128, 3, 3)] * 10
    assert kernels[13:] == [(64, 128, 3, 3), (32, 64, 3, 3), (3, 32, 9, 9)]


def test_ours_is_under_a_megabyte() -> None:
    assert 2 * sum(parameter.numel() for parameter in Network(SLIM).parameters()) < 1_000_000


def test_training_learns_and_reproduces(recipe: Training, pool: datasets.Pool) -> None:
    def run() -> list[float]:
        return [step.loss for step in feedforward.train(painting(), pool, replace(recipe, steps=30))]

    losses = run()
    assert sum(losses[-5:]) < sum(losses[:5])
    assert losses == run()


def test_resume_is_exact_to_the_bit(recipe: Training, pool: datasets.Pool) -> None:
    whole, network = Network(SMALL), Network(SMALL)
    network.load_state_dict(whole.state_dict())
    last = [step for step in feedforward.train(painting(), pool, recipe, network=whole)][-1]
    steps = feedforward.train(painting(), pool, recipe, network=network)
    next(steps)
    second = next(steps)
    state = {**second.state(), "model": {k: v.clone() for k, v in network.state_dict().items()}}
    rest = [step for step in feedforward.train(painting(), pool, recipe, network=Network(SMALL), state=state)]
    assert [step.index for step in rest] == [3, 4]
    assert rest[-1].loss == last.loss


def test_the_gradient_is_the_objectives(recipe: Training, pool: datasets.Pool) -> None:
    """What training differentiates is the engine's value and gradient, through the network."""
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    gradient = torch.rand(1, 3, 8, 8)
    value = feedforward._Known.apply(2 * image, torch.tensor(3.0), gradient)
    (found,) = torch.autograd.grad(value, image)
    assert float(value.detach()) == 3
    torch.testing.assert_close(found, 2 * gradient)


def test_a_loss_that_is_no_number_rolls_back(
    recipe: Training, pool: datasets.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    fit = feedforward.training.fit

    def poisoned(*arguments: Any, **options: Any) -> Any:
        rates.append(options["rate"])
        if len(rates) == 1:
            options["steps"] = 200
            for step in fit(*arguments, **options):
                yield step
                if step.index == 150:
                    raise FloatingPointError
        yield from fit(*arguments, **options)

    monkeypatch.setattr(feedforward.training, "fit", poisoned)
    seen = [
        step.index for step in feedforward.train(painting(), pool, replace(recipe, steps=103), network=Network(SMALL))
    ]
    assert seen == [*range(1, 151), 101, 102, 103]
    assert rates[1] == rates[0] / 2


def test_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(SMALL)
    feedforward.save(tmp_path / "model.safetensors", network, {"style": "a"})
    model = feedforward.load(tmp_path / "model.safetensors")
    assert model.metadata["style"] == "a" and model.network.architecture == SMALL
    image = torch.rand(1, 3, 20, 20)
    torch.testing.assert_close(model.network(image), network(image), rtol=0, atol=0.02)  # float16


@pytest.mark.parametrize("metadata", [{}, {"architecture": "[]"}, {"architecture": '{"widths": [9], "blocks": 1}'}])
def test_files_that_are_no_models(tmp_path: Path, metadata: dict[str, str]) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors", metadata)
    with pytest.raises(WeightsError, match="no one-pass model"):
        feedforward.load(tmp_path / "other.safetensors")


def test_strength(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(Network(SMALL).eval(), {})
    image = images.to_tensor(save_picture(tmp_path / "a.png", 33, 21))
    nothing, half, full = (feedforward.apply(model, image, strength=s, precision="float32") for s in (0, 0.5, 1))
    assert torch.equal(nothing, image)
    torch.testing.assert_close(half, (image + full) / 2)
    assert 0 <= float(full.min()) <= float(full.max()) <= 1
