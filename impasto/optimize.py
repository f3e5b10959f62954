"""The engine for pixels: three optimisers, one loop that yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Objective = Callable[[Tensor], Mapping[str, Tensor]]


class DivergedError(ArithmeticError):
    """The loss stopped being a number."""


@dataclass(frozen=True)
class Step:
    """One iteration, seen from outside.

    Attributes:
        index: iterations done, from 1.
        loss: of the picture that this iteration started from.
        terms: the parts that the loss is the sum of.
        image: (1, 3, H, W), the picture after this iteration; a copy.
        state: gives what `minimize` needs to go on from here; to be called before the next iteration.
    """

    index: int
    loss: float
    terms: Mapping[str, float]
    image: Tensor
    state: Callable[[], dict[str, Any]]


class NormalizedDescent(torch.optim.Optimizer):
    """x <- x - rate * g / |g|: every step has the same length, however steep the loss (source 001)."""

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float]) -> float:  # type: ignore[override]
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for x in group["params"]:
                x.sub_(x.grad / (torch.linalg.vector_norm(x.grad) + 1e-12), alpha=group["lr"])
        return loss


def minimize(
    image: Tensor,
    objective: Objective,
    *,
    optimizer: Literal["lbfgs", "adam", "descent"],
    steps: int,
    rate: float,
    clip: bool = False,
    state: Mapping[str, Any] | None = None,
) -> Iterator[Step]:
    """Change the picture so that the sum of the objective's terms falls; yields every iteration.

    L-BFGS is Liu and Nocedal's (1989), with 20 pairs and a line search for the strong Wolfe conditions
    (Nocedal and Wright 2006, algorithm 3.5), so that it neither needs a rate nor blows up. Adam is Kingma and
    Ba's (2015) with (0.9, 0.999).

    Args:
        image: (1, 3, H, W), left as it is.
        objective: picture -> named scalar terms.
        steps: iterations in all, those of ``state`` included.
        rate: learning rate for sRGB in [0, 1]; for descent, the Euclidean length of a step.
        clip: keep the picture in [0, 1] after each iteration.
        state: what an earlier ``Step.state()`` gave; the same run goes on, to the bit.

    Raises:
        DivergedError: a loss that is not finite. What was yielded last is finite; its loss may be the bad one.
    """
    x = image.detach().clone().requires_grad_()
    solver: torch.optim.Optimizer
    if optimizer == "lbfgs":
        solver = torch.optim.LBFGS(
            [x], lr=rate, max_iter=1, max_eval=25, history_size=20, line_search_fn="strong_wolfe",
            tolerance_grad=0, tolerance_change=0,
        )  # fmt: skip
    elif optimizer == "adam":
        solver = torch.optim.Adam([x], lr=rate)
    else:
        solver = NormalizedDescent([x], lr=rate)
    done = 0
    if state is not None:
        with torch.no_grad():
            x.copy_(state["image"])
        solver.load_state_dict(state["optimizer"])
        done = int(state["index"])

    evaluated: dict[str, Any] = {}

    def evaluate() -> float:
        # L-BFGS asks again for the point where its last line search ended: remember it.
        if "x" not in evaluated or not torch.equal(evaluated["x"], x):
            x.grad = None
            terms = objective(x)
            loss = torch.stack([*terms.values()]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            evaluated.update(
                x=x.detach().clone(),
                gradient=x.grad,
                loss=float(loss.detach()),
                terms={name: float(term.detach()) for name, term in terms.items()},
            )
        x.grad = evaluated["gradient"].clone()
        return float(evaluated["loss"])

    for index in range(done + 1, steps + 1):
        terms: dict[str, float] = {}

        def closure(terms: dict[str, float] = terms, index: int = index) -> float:
            loss = evaluate()
            if not terms:  # the first evaluation of an iteration is where it starts
                terms.update(evaluated["terms"])
                if loss != loss or abs(loss) == float("inf"):
                    raise DivergedError(f"the loss is {loss} at step {index} of {steps}: try a lower rate or strength")
            return loss if loss == loss else float("inf")  # a line search comes back from infinity, not from NaN

        solver.step(closure)
        if clip:
            with torch.no_grad():
                x.clamp_(0, 1)
        if not bool(torch.isfinite(x).all()):
            raise DivergedError(f"the picture is not finite after step {index} of {steps}: try a lower rate")
        picture = x.detach().clone()

        def snapshot(index: int = index, picture: Tensor = picture) -> dict[str, Any]:
            return {"index": index, "image": picture, "optimizer": solver.state_dict()}

        yield Step(index, sum(terms.values()), terms, picture, snapshot)
