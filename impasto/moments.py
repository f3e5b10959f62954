"""Mean and covariance of features, and the affine maps that give features those of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.losses import positions

SHRINKAGE = 0.01  # added to a covariance, relative to the mean variance: what does not vary is not amplified much
FLOOR = 0.01  # the least mean variance, relative to the mean square: less is lost in the rounding of float32
ROUNDS = 18  # of the Newton-Schulz iteration


@dataclass(frozen=True)
class Moments:
    """Mean, (B, C), and mean outer product, (B, C, C), of features over their positions.

    The moments of a collage are the mean of its parts' moments: styles are mixed, and tiles added, in this form.
    """

    mean: Tensor
    second: Tensor

    @property
    def covariance(self) -> Tensor:
        """(B, C, C), with `SHRINKAGE`."""
        raw = self.second - self.mean[:, :, None] * self.mean[:, None, :]
        variance = raw.diagonal(dim1=1, dim2=2).mean(1)
        variance = torch.maximum(variance, FLOOR * self.mean.square().mean(1)).clamp_min(1e-6)
        unit = torch.eye(raw.shape[-1], dtype=raw.dtype, device=raw.device)
        return raw + SHRINKAGE * variance[:, None, None] * unit

    def through(self, weight: Tensor, bias: Tensor) -> Moments:
        """The moments of weight x + bias, for a (C', C) weight and a (C',) bias."""
        mean = self.mean @ weight.T
        cross = mean[:, :, None] * bias
        second = weight @ self.second @ weight.T + cross + cross.transpose(1, 2) + bias[:, None] * bias
        return Moments(mean + bias, second)


def moments(x: Tensor, mask: Tensor | None = None) -> Moments:
    """The `Moments` of (B, C, H, W), in float32; positions are weighted by ``mask``, (1, 1, H, W).

    The mean is subtracted before squaring: of an even picture, the sums' rounding would exceed the covariance.
    """
    rows = positions(x)
    if mask is None:
        mean = rows.mean(1)
        centred = rows - mean[:, None]
        covariance = centred.transpose(1, 2) @ centred / rows.shape[1]
    else:
        share = (mask / mask.sum().clamp_min(1e-6)).flatten(2).transpose(1, 2)
        mean = (rows * share).sum(1)
        centred = rows - mean[:, None]
        covariance = centred.transpose(1, 2) @ (centred * share)
    return Moments(mean, covariance + mean[:, :, None] * mean[:, None, :])


def blend(parts: Sequence[Moments], shares: Sequence[float]) -> Moments:
    """The moments of a collage in which each part covers its share; shares sum to 1."""
    pairs = list(zip(parts, shares, strict=True))
    mean = torch.stack([share * part.mean for part, share in pairs]).sum(0)
    return Moments(mean, torch.stack([share * part.second for part, share in pairs]).sum(0))


def roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of symmetric positive definite matrices, (B, C, C), and its inverse (Higham2008, eq. 6.35).

    Newton and Schulz's iteration consists of matrix products: gradients stay finite where eigenvalues coincide, and
    every runtime has them.
    """
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    root, inverse = matrix / norm, unit.expand_as(matrix)
    for _ in range(ROUNDS):
        factor = 1.5 * unit - 0.5 * inverse @ root
        root, inverse = root @ factor, factor @ inverse
    return root * norm.sqrt(), inverse / norm.sqrt()


Affine = tuple[Tensor, Tensor]


def transport(source: Moments, target: Moments) -> Affine:
    """The affine map that gives features the target's moments and displaces them least (Lu2019).

    Returns:
        (B, C, C) matrix and (B, C) bias.
    """
    root, inverse = roots(source.covariance)
    middle, _ = roots(root @ target.covariance @ root)
    matrix = inverse @ middle @ inverse
    return matrix, target.mean - (matrix @ source.mean[:, :, None])[:, :, 0]


def affine(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """An affine map at every position: matrix x + bias.

    Args:
        x: (B, C, H, W).
        matrix, bias: (B, C, C) and (B, C), from `transport`.

    Returns:
        (B, C, H, W).
    """
    batch, channels, height, width = x.shape
    rows = torch.baddbmm(bias[:, None, :], positions(x), matrix.transpose(1, 2))
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
