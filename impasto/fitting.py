"""The engine that trains networks: a generator of steps, whose checkpoints resume bit for bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from impasto.errors import DivergedError


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
    """The rate's factor at a ``step`` of ``total``: linear for ``warmup`` steps, then cosine decay (Loshchilov2017)."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def fit(
    model: nn.Module,
    objective: Callable[[int], Mapping[str, Tensor]],
    *,
    steps: int,
    rate: float,
    warmup: int = 0,
    weight_decay: float = 0.0,
    state: Mapping[str, Any] | None = None,
    check_every: int = 50,
    retries: int = 0,
) -> Iterator[TrainingStep]:
    """Minimise the sum of the objective's terms with AdamW (Loshchilov2019), yielding every step.

    Args:
        model: its parameters that require a gradient are trained.
        objective: step index, from 0 -> the terms of the loss. All randomness must depend only on the index,
            so that a resumed training equals an uninterrupted one.
        steps: number of steps in all.
        rate: the peak learning rate.
        warmup: steps in which the rate rises from 0.
        weight_decay: of AdamW.
        state: from an earlier ``TrainingStep.state()``; the model is restored from it.
        check_every: steps between two checks that the loss is finite.
        retries: how often to go back to the last weights with a finite loss, with half the rate, when it is not.

    Raises:
        DivergedError: the loss or the final weights are not finite; the message names the step. The model keeps its
            weights if they are finite; otherwise it gets the last ones with a finite loss.
    """
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=rate, weight_decay=weight_decay
    )

    def snapshot(done: int) -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}

    def restore(state: Mapping[str, Any]) -> int:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    index = start = restore(state) if state is not None else 0
    good: dict[str, Any] | None = None
    while index < steps:
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine(index, steps, warmup=warmup)
        optimizer.zero_grad(set_to_none=True)
        terms = objective(index)
        loss = torch.stack([*terms.values()]).sum()
        checked = index % check_every == 0 or index in (start, steps - 1)
        sound = not checked or bool(torch.isfinite(loss))
        if sound:
            if checked:
                good = copy.deepcopy(snapshot(index))  # the weights that gave this loss
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            sound = index < steps - 1 or finite(model)
        if not sound:
            if good is not None and (retries or not finite(model)):
                back = restore(copy.deepcopy(good))
            if good is None or not retries:
                raise DivergedError(f"the loss is not finite at step {index + 1} of {steps}: try a lower rate")
            index, rate, retries = back, rate / 2, retries - 1
            continue
        index += 1
        detached = {name: term.detach() for name, term in terms.items()}
        yield TrainingStep(index, steps, detached, optimizer.param_groups[0]["lr"], partial(snapshot, index))


def finite(model: nn.Module) -> bool:
    """Whether all weights of a model are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
