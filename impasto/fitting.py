"""The engine for networks: a loop that yields, with checkpoints that resume to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TrainingStep:
    """One step of training, seen from outside.

    Attributes:
        index: steps done, from 1.
        total: steps to do.
        terms: the parts of the loss, tensors on the model's device so that looking costs no wait.
        rate: the learning rate of this step.
        state: gives what `fit` needs to go on from here; to be saved before the next step.
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
    """Warm-up then cosine decay (Loshchilov2017): a factor in (0, 1] on the learning rate."""
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
) -> Iterator[TrainingStep]:
    """Minimise the sum of the objective's terms with AdamW (Loshchilov2019); yields every step.

    Args:
        model: its parameters that require a gradient are trained.
        objective: step index, from 0 -> the terms of the loss. All randomness must come from the index,
            so that a resumed training sees what an uninterrupted one sees.
        steps: how many in all.
        rate: the largest learning rate.
        warmup: steps in which the rate rises from 0.
        state: what an earlier ``TrainingStep.state()`` gave; the model is set to it.
        check_every: steps between two looks at whether the loss is finite.

    Raises:
        FloatingPointError: the loss is not finite; the message names the step.
    """
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=rate, weight_decay=weight_decay
    )
    start = 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
    for index in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine(index, steps, warmup=warmup)
        optimizer.zero_grad(set_to_none=True)
        terms = objective(index)
        loss = torch.stack([*terms.values()]).sum()
        if (index % check_every == 0 or index == steps - 1) and not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite at step {index + 1} of {steps}: try a lower rate")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        done = index + 1

        def snapshot(done: int = done) -> dict[str, Any]:
            return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}

        detached = {name: term.detach() for name, term in terms.items()}
        yield TrainingStep(done, steps, detached, optimizer.param_groups[0]["lr"], snapshot)
