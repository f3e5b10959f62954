"""Moving averages of weights: they paint more evenly than the weights of any one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a model; it follows more closely in the first steps, to forget the start."""

    def update(averages: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        kept = min(decay, (1 + float(count)) / (10 + float(count)))
        torch._foreach_lerp_(averages, current, 1 - kept)

    return AveragedModel(model, multi_avg_fn=update)
