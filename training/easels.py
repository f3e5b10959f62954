"""Half-painted pictures for an encoder to learn from: an optimiser makes pictures that a camera does not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from impasto import datasets, losses
from impasto.recipes import Transfer

RECIPE = Transfer()


class Easels:
    """Crops that are repainted with the default objective of the student itself, one step of Adam per visit.

    Each of ``count`` easels holds eight pictures; after ``visits`` visits, new ones replace them.
    """

    def __init__(
        self, student: nn.Module, features: Callable[[Tensor], dict[str, Tensor]], count: int = 6, visits: int = 80
    ) -> None:
        self.student, self.features, self.visits = student, features, visits
        self.easels: list[tuple[Tensor, list[Tensor], torch.optim.Adam] | None] = [None] * count
        self.turn = 0

    def loss(self, image: Tensor, content: Tensor, *grams: Tensor) -> Tensor:
        """The objective of `RECIPE`, summed over the pictures: relative errors of relu4_2 and of Gram matrices."""
        features = self.features(image)
        error = (features["relu4_2"] - content).square().sum((1, 2, 3)) / content.square().sum((1, 2, 3))
        for layer, target in zip(RECIPE.style_layers, grams, strict=True):
            distance = (losses.gram(features[layer]) - target).square().sum((1, 2)) / target.square().sum((1, 2))
            error = error + RECIPE.style_weight * distance
        return error.sum() + RECIPE.smoothness * len(image) * losses.total_variation(image)

    @torch.no_grad()
    def start(self, pool: datasets.Pool, generator: torch.Generator) -> tuple[Tensor, list[Tensor], torch.optim.Adam]:
        content, style = datasets.random_crops(pool, 16, 128, generator).split(8)
        noise = torch.rand(8, 1, 1, 1, generator=generator, device=content.device).sub(0.6).clamp_min(0)
        image = content + noise * torch.randn(content.shape, generator=generator, device=content.device)
        image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
        grams = [losses.gram(self.features(style)[layer]) for layer in RECIPE.style_layers]
        targets = [self.features(content)["relu4_2"], *grams]
        return image, targets, torch.optim.Adam([image], lr=0.03, betas=(0.9, 0.95))

    def paint(self, loss: Callable[..., Tensor], pool: datasets.Pool, generator: torch.Generator) -> Tensor:
        """The next easel's pictures, (8, 3, 128, 128), one step further."""
        place, visit = self.turn % len(self.easels), self.turn // len(self.easels)
        self.turn += 1
        # The easels get new pictures in turn, not all at once.
        if (easel := self.easels[place]) is None or (
            visit + place * self.visits // len(self.easels)
        ) % self.visits == 0:
            easel = self.easels[place] = self.start(pool, generator)
        image, targets, adam = easel
        self.student.requires_grad_(False)
        adam.zero_grad()
        loss(image, *targets).backward()
        adam.step()
        self.student.requires_grad_(True)
        image.data.clamp_(-0.1, 1.1)
        return image.detach().clamp(0, 1)
