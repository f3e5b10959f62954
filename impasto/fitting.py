"""The engine that trains networks: a generator of steps, whose checkpoints resume bit for bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from impasto.errors import DivergedError, RecipeError

FUSED = ("cpu", "cuda")  # devices where AdamW updates all of a tensor's state in one pass over memory


@dataclass(frozen=True)
class TrainingStep:
    """One training step.

    Attributes:
        index: steps done, from 1.
        total: steps in all.
        terms: the terms of the loss, tensors on the model's device to avoid synchronisation.
        rate: the learning rate of this step.
        state: returns what `fit` needs to resume from here; save it before the next step.
    """

    index: int
    total: int
    terms: Mapping[str, Tensor]
    rate: float
    state: Callable[[], dict[str, Any]]

    @property
    def loss(self) -> float:
        return float(sum(float(term) for term in self.terms.values()))


def cosine(step: int, total: int, *, warmup: int) -> float:
    """The rate's factor at a step: a linear rise, then cosine decay to 0 (Loshchilov2017).

    Args:
        step: from 0.
        total: steps in all.
        warmup: steps of the rise.

    Returns:
        In [0, 1]; 1 after the rise.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def linear(step: int, total: int, *, constant: float) -> float:
    """The rate's factor at a step: 1 at first, then a linear fall to 0.

    Args:
        step: from 0.
        total: steps in all.
        constant: share of the steps in which the factor is 1, in [0, 1].

    Returns:
        In [0, 1].
    """
    return min(1.0, (total - step) / max(1.0, total * (1 - constant)))


def fit(
    model: nn.Module,
    objective: Callable[[int], Mapping[str, Tensor]],
    *,
    steps: int,
    rate: float,
    warmup: int = 0,
    schedule: Callable[[int, int], float] | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    rival: tuple[nn.Module, Callable[[int], Mapping[str, Tensor]]] | None = None,
    weight_decay: float = 0.0,
    state: Mapping[str, Any] | None = None,
    check_every: int = 50,
    retries: int = 0,
) -> Iterator[TrainingStep]:
    """Minimise the sum of the objective's terms with AdamW (Loshchilov2019).

    Args:
        model: its parameters that require a gradient are trained.
        objective: step index, from 0 -> the terms of the loss. All randomness must depend only on the index,
            so that a resumed training equals an uninterrupted one.
        steps: number of steps in all.
        rate: the peak learning rate.
        warmup: steps in which the rate rises from 0.
        schedule: (step, steps in all) -> the factor of the rate; default: `cosine` with the warm-up.
        betas: of AdamW.
        rival: a network that is trained against the model, and its objective: a discriminator (Goodfellow2014). In
            each step it moves first. None: no rival.
        weight_decay: of AdamW.
        state: from an earlier ``TrainingStep.state()``; the model is restored from it. None: a new training.
        check_every: steps between two checks that the loss is finite.
        retries: how many losses that are not finite to survive: each time, the last good weights come back and the
            rate is halved.

    Yields:
        Every step; after a loss that is not finite, those since the last good weights again.

    Raises:
        DivergedError: the loss or the final weights are not finite; the message names the step. The model keeps its
            weights if they are finite; otherwise it gets the last ones with a finite loss.
    """
    players = {"": (model, objective)} if rival is None else {"rival ": rival, "": (model, objective)}
    optimizers = {
        who: torch.optim.AdamW(
            [parameter for parameter in player.parameters() if parameter.requires_grad],
            lr=rate, betas=betas, weight_decay=weight_decay, fused=next(player.parameters()).device.type in FUSED,
        )
        for who, (player, _) in players.items()
    }  # fmt: skip
    schedule = schedule or partial(cosine, warmup=warmup)

    def snapshot(done: int) -> dict[str, Any]:
        models = {f"{who}model": player.state_dict() for who, (player, _) in players.items()}
        moves = {f"{who}optimizer": each.state_dict() for who, each in optimizers.items()}
        return {**models, **moves, "step": done, "rate": rate, "retries": retries}

    def restore(state: Mapping[str, Any]) -> int:
        for who, (player, _) in players.items():
            player.load_state_dict(state[f"{who}model"])
            optimizers[who].load_state_dict(state[f"{who}optimizer"])
        return int(state["step"])

    def all_finite() -> bool:
        return all(finite(player) for player, _ in players.values())

    index = start = 0
    if state is not None:
        index = start = restore(state)
        rate, retries = state["rate"], state["retries"]
    good: dict[str, Any] | None = None
    while index < steps:
        factor = schedule(index, steps)
        checked = index % check_every == 0 or index in (start, steps - 1)
        before = copy.deepcopy(snapshot(index)) if checked else None
        terms: dict[str, Tensor] = {}
        sound = True
        for who, (_, loss_of) in players.items():
            optimizer = optimizers[who]
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
            own = loss_of(index)
            loss = torch.stack([*own.values()]).sum()
            sound = not checked or bool(torch.isfinite(loss))
            if not sound:
                break
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            terms |= {name: term.detach() for name, term in own.items()}
        if sound:
            good = before or good  # the weights that gave this loss
            sound = index < steps - 1 or all_finite()
        if not sound:
            if good is not None and (retries or not all_finite()):
                back = restore(copy.deepcopy(good))
            if good is None or not retries:
                raise DivergedError(f"the loss is not finite at step {index + 1} of {steps}: try a lower rate")
            index, rate, retries = back, rate / 2, retries - 1
            continue
        index += 1
        yield TrainingStep(index, steps, terms, rate * factor, partial(snapshot, index))


def processes(batch: int) -> tuple[int, int]:
    """The number of this process and of all that torch.distributed has, which divide each batch among them.

    Raises:
        RecipeError: they cannot.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    if batch % (world := distributed.get_world_size()):
        raise RecipeError(f"`batch` {batch} cannot be divided among {world} processes")
    return distributed.get_rank(), world


def finite(model: nn.Module) -> bool:
    """Whether all weights of a model are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
