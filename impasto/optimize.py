"""The engine that optimises pixels: three optimisers, one generator of iterations."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from impasto.errors import DivergedError

# picture -> named scalar terms, and the gradient of their sum
ValueAndGradient = Callable[[Tensor], tuple[Mapping[str, Tensor], Tensor]]
Evaluation = tuple[dict[str, float], Tensor]

HISTORY = 10  # pairs that L-BFGS keeps at most
MEMORY = 800_000_000  # bytes that they may take: 2 pairs fit at 16 megapixels, none above 33
LARGE_RATE = 0.005  # of Adam, which replaces L-BFGS there


def by_autograd(terms: Callable[[Tensor], Mapping[str, Tensor]]) -> ValueAndGradient:
    """Make an objective of a differentiable function: picture -> named scalar terms."""

    def objective(image: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        leaf = image.detach().clone().requires_grad_()
        with torch.enable_grad():
            parts = terms(leaf)
            (gradient,) = torch.autograd.grad(torch.stack([*parts.values()]).sum(), leaf)
        return {name: part.detach() for name, part in parts.items()}, gradient

    return objective


def history(image: Tensor) -> int:
    """The number of pairs that L-BFGS keeps for a picture of this size."""
    return min(HISTORY, MEMORY // (2 * image.numel() * image.element_size()))


def memory(image: Tensor, optimizer: str) -> int:
    """Bytes that `minimize` needs for itself and the gradient, for a picture of this size."""
    pairs = history(image) if optimizer == "lbfgs" else 0
    return (4 + 2 * pairs) * image.numel() * image.element_size()


class Adam:
    """Adam (Kingma2015) with betas (0.9, 0.999)."""

    def __init__(self, x: Tensor, rate: float) -> None:
        self.inner = torch.optim.Adam([x], lr=rate, fused=x.device.type in ("cpu", "cuda"))

    def step(self, x: Tensor, evaluate: Callable[[], Evaluation]) -> dict[str, float]:
        terms, gradient = evaluate()
        x.grad = gradient.contiguous()  # the fused step misreads other layouts
        self.inner.step()
        x.grad = None
        return terms

    def state_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self.inner.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


class NormalizedDescent:
    """x <- x - rate * g / |g|: every step has the same length, however steep the loss (KerasDescent)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def step(self, x: Tensor, evaluate: Callable[[], Evaluation]) -> dict[str, float]:
        terms, gradient = evaluate()
        x.sub_(gradient / (torch.linalg.vector_norm(gradient) + 1e-12), alpha=self.rate)
        return terms

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def inward_(gradient: Tensor, x: Tensor) -> Tensor:
    """Set gradients that point outside [0, 1] to zero, in place, where x is at the bounds."""
    gradient.masked_fill_((x <= 0).logical_and_(gradient > 0), 0)
    return gradient.masked_fill_((x >= 1).logical_and_(gradient < 0), 0)


def handed_on(gradient: Tensor, x: Tensor) -> Tensor:
    """A surrogate loss (Schulman2015): its value is 0, and its gradient with respect to ``x`` is ``gradient``.

    So backpropagation continues below ``x`` from a gradient that was computed without autograd.
    """
    loss = (gradient * x).sum()
    return loss - loss.detach()


class LBFGS:
    """Limited-memory BFGS (Liu1989), with its history in the rows of one matrix.

    Its two loops run on the inner products of these rows and the gradient (Chen2014), so each row is read twice per
    iteration instead of four times. A step is shortened until it meets the Armijo condition (Nocedal2006, eq. 3.4),
    and a pair without curvature is not kept. The first step is short: its root mean square over the picture is 0.01
    ``rate``. With ``clip``, steps are clipped to [0, 1], and gradients that point outside [0, 1] are set to zero.
    """

    ARMIJO, TRIES = 1e-4, 20

    def __init__(self, history: int, rate: float, clip: bool, device: torch.device) -> None:
        self.history, self.rate, self.clip, self.device = history, rate, clip, device
        self.rows = torch.zeros(0)  # (2 history, N): for each pair, its step and the gradient's change
        self.products = torch.zeros(0, 0, dtype=torch.float64)  # (2 history, 2 history) inner products of the rows
        self.order: list[int] = []  # the rows of the steps, oldest first
        self.known: Evaluation | None = None  # of the current picture
        self.stuck = False

    def step(self, x: Tensor, evaluate: Callable[[], Evaluation]) -> dict[str, float]:
        before, gradient = self.known or self._inside(x, evaluate())
        self.known = before, gradient
        if self.stuck:
            return before
        flat = gradient.flatten()
        direction, slope = self._direction(flat)
        length = 1.0
        if not self.order:
            length = 0.01 * self.rate * (flat.numel() / max(-slope, 1e-30)) ** 0.5
        if self.clip:
            direction.mul_(length).add_(x.flatten()).clamp_(0, 1).sub_(x.flatten())
            length, slope = 1.0, float(direction @ flat)
        length, after = self._search(x, direction.view_as(x), slope, self.known, length, evaluate)
        if length:
            self.known = after
            self._remember(direction.mul_(length), torch.sub(after[1].flatten(), flat, out=flat))
        else:  # the history may be misleading: drop it; without one, no descent is possible
            self.stuck, self.order = not self.order, []
        return before

    def _inside(self, x: Tensor, found: Evaluation) -> Evaluation:
        """Set gradients that point outside [0, 1] to zero if clipping, in place."""
        terms, gradient = found
        return terms, inward_(gradient, x) if self.clip else gradient

    def _direction(self, gradient: Tensor) -> tuple[Tensor, float]:
        """-H g and its slope (Nocedal2006, algorithm 7.4), on coefficients of the rows and the gradient."""
        square = float(gradient @ gradient)
        if not self.order:
            return -gradient, -square
        used = 2 * (max(self.order) // 2 + 1)
        along = (self.rows[:used] @ gradient).cpu().double()
        table = torch.empty(used + 1, used + 1, dtype=torch.float64)
        table[:used, :used] = self.products[:used, :used]
        table[used, :used] = table[:used, used] = along
        table[used, used] = square
        weights = torch.zeros(used + 1, dtype=torch.float64)
        weights[used] = -1
        shares: dict[int, Tensor] = {}
        for s in reversed(self.order):
            shares[s] = weights @ table[s] / table[s, s + 1]
            weights[s + 1] -= shares[s]
        newest = self.order[-1]
        weights *= table[newest, newest + 1] / table[newest + 1, newest + 1]
        for s in self.order:
            weights[s] += shares[s] - weights @ table[s + 1] / table[s, s + 1]
        direction = weights[:used].to(gradient) @ self.rows[:used]
        return direction.add_(gradient, alpha=float(weights[used])), float(weights @ table[used])

    def _search(
        self,
        x: Tensor,
        direction: Tensor,
        slope: float,
        known: Evaluation,
        length: float,
        evaluate: Callable[[], Evaluation],
    ) -> tuple[float, Evaluation]:
        """Move x along the direction; return the step's length, or 0 if no lower loss was found, and the evaluation."""
        if not slope < 0:
            return 0.0, known
        loss, moved = sum(known[0].values()), 0.0
        for _ in range(self.TRIES):
            x.add_(direction, alpha=length - moved)
            if self.clip:
                x.clamp_(0, 1)  # rounding may leave it
            moved = length
            diverged = None
            try:
                found = evaluate()
            except DivergedError as error:
                diverged = error
                length *= 0.1
                continue
            change = sum(found[0].values()) - loss
            if change <= self.ARMIJO * slope * length:
                return length, self._inside(x, found)
            # The minimum of the parabola through loss, slope and this value, within bounds.
            length *= min(0.5, max(0.1, -0.5 * slope * length / (change - slope * length)))
        x.sub_(direction, alpha=moved)
        if diverged:
            raise diverged
        return 0.0, known

    def _remember(self, step: Tensor, change: Tensor) -> None:
        if not self.history or float(step @ change) <= 1e-10 * float(change @ change):
            return
        if not len(self.rows):
            self.rows = step.new_zeros(2 * self.history, step.numel())
            self.products = torch.zeros(2 * self.history, 2 * self.history, dtype=torch.float64)
        full = len(self.order) == self.history
        place = self.order.pop(0) if full else 2 * len(self.order)
        self.order.append(place)
        self.rows[place], self.rows[place + 1] = step, change
        used = 2 * len(self.order)
        for row in (place, place + 1):
            self.products[row, :used] = self.products[:used, row] = (self.rows[:used] @ self.rows[row]).cpu().double()

    def state_dict(self) -> dict[str, Any]:
        used = 2 * len(self.order)
        return {"rows": self.rows[:used].clone(), "products": self.products.clone(), "order": list(self.order)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        used = len(state["rows"])
        if used:
            self.rows = torch.zeros(2 * self.history, state["rows"].shape[1], device=self.device)
            self.rows[:used] = state["rows"]
        self.products, self.order = state["products"].cpu().clone(), list(state["order"])


Optimizer = LBFGS | Adam | NormalizedDescent


@dataclass(frozen=True)
class Iteration:
    """One iteration. The next one changes ``x`` and ``optimizer`` in place: use `image` and `state` before it.

    Attributes:
        index: iterations done, from 1.
        loss: of the picture before this iteration.
        terms: the terms, whose sum is the loss.
        losses: of the last eleven iterations.
        x: (1, 3, H, W) the picture itself.
        optimizer: what changes it.
    """

    index: int
    loss: float
    terms: Mapping[str, float]
    losses: Sequence[float] = field(repr=False)
    x: Tensor = field(repr=False)
    optimizer: Optimizer = field(repr=False)

    @cached_property
    def image(self) -> Tensor:
        """(1, 3, H, W), a copy of the picture after this iteration."""
        return self.x.clone()

    def state(self) -> dict[str, Any]:
        """A copy of what `minimize` needs to resume from here."""
        optimizer = self.optimizer.state_dict()
        return {"index": self.index, "image": self.x.clone(), "optimizer": optimizer, "losses": [*self.losses]}


def minimize(
    image: Tensor,
    objective: ValueAndGradient,
    *,
    optimizer: Literal["lbfgs", "adam", "descent"],
    steps: int,
    rate: float,
    clip: bool = False,
    flat: float = 0.0,
    state: Mapping[str, Any] | None = None,
) -> Iterator[Iteration]:
    """Minimise the objective of a picture.

    Args:
        image: (1, 3, H, W), not changed.
        objective: picture -> named scalar terms, and the gradient of their sum.
        optimizer: lbfgs, adam or descent.
        steps: iterations in all, including those of ``state``.
        rate: learning rate for sRGB in [0, 1]; for descent, the Euclidean length of a step.
        clip: keep the picture in [0, 1] after each iteration.
        flat: stop when the loss fell by less than this fraction over the last ten iterations; 0: never.
        state: from an earlier ``Iteration.state()``; the run resumes bit for bit. None: a new run from ``image``.

    Yields:
        Every iteration after those of ``state``; if there is none, the one of ``state`` again, without its terms.

    Raises:
        DivergedError: a loss or gradient is not finite; the picture stays as the last step yielded it.
    """
    x = (image if state is None else state["image"].to(image.device)).detach().clone()
    del image
    pairs = history(x)
    solver: Optimizer
    if optimizer == "descent":
        solver = NormalizedDescent(rate)
    elif optimizer == "adam" or not pairs:
        # If no pair fits in memory, Adam's two moments still do.
        solver = Adam(x, rate if optimizer == "adam" else LARGE_RATE)
    else:
        solver = LBFGS(pairs, rate, clip, x.device)
    done = 0
    losses: list[float] = []
    if state is not None:
        solver.load_state_dict(state["optimizer"])
        done, losses = int(state["index"]), list(state["losses"])

    index = done

    def evaluate() -> Evaluation:
        found, gradient = objective(x)
        terms = {name: float(term) for name, term in found.items()}
        loss = sum(terms.values())
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at step {index} of {steps}: try a lower rate or strength")
        if not bool(torch.isfinite(gradient.sum())):
            raise DivergedError(f"the gradient is not finite at step {index} of {steps}: try a lower rate or strength")
        return terms, gradient

    for index in range(done + 1, steps + 1):
        if flat and len(losses) > 10 and losses[-11] - losses[-1] < flat * losses[-11]:
            break
        terms = solver.step(x, evaluate)
        loss = sum(terms.values())
        losses = [*losses[-10:], loss]
        if clip:
            x.clamp_(0, 1)
        state = None
        yield Iteration(index, loss, terms, losses, x, solver)
    if state is not None:
        yield Iteration(done, losses[-1], {}, losses, x, solver)
