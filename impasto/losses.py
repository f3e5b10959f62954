"""Content, Gram and total-variation losses: pure functions of tensors.

One Gram matrix serves every recipe: `gram` is the mean over positions, so that it does not depend on the size
of the picture. What the sources call a style loss is then always the same sum of squared differences D, times
a factor of the layer's channels C and positions M alone. `STYLE_TERMS` holds those factors, `CONTENT_TERMS`
their like for the content. Where a source leaves the Gram matrix a plain sum over positions, its factor holds
the M that is missing; a style of another size than the result is thereby measured as if it were as large.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from impasto.recipes import ContentTerm, StyleTerm

Factor = Callable[[int, int], float]

# (C, M) -> factor on the sum of squared differences of the activations
CONTENT_TERMS: dict[ContentTerm, Factor] = {
    "half-sum": lambda c, m: 1 / 2,  # Gatys et al. 2016, eq. 1
    "mean": lambda c, m: 1 / (c * m),  # sources 000, 003, 004
    "quarter-mean": lambda c, m: 1 / (4 * c * m),  # source 002
}

# (C, M) -> factor on the sum of squared differences of the Gram matrices per position
STYLE_TERMS: dict[StyleTerm, Factor] = {
    "gatys": lambda c, m: 1 / (4 * c**2),  # F F^T, sum / (4 C^2 M^2): Gatys et al. 2016, eq. 4; source 002 likewise
    "mean": lambda c, m: 1 / c**2,  # F F^T / M, mean: source 001
    "blog": lambda c, m: m**2 / c**2,  # F F^T, mean: source 000
    "five": lambda c, m: m / c**3,  # F F^T, mean / (C M): source 003
    "owl": lambda c, m: 1 / c**4,  # F F^T / (C M), mean: source 004
}


def gram(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Gram matrix of activations per position, F F^T / M (Gatys et al. 2016, eq. 3, divided by M).

    Args:
        features: (B, C, H, W).
        mask: (1, 1, H, W) guidance in [0, 1]: each position counts with its square, as in Gatys et al. 2017,
            "Controlling perceptual factors in neural style transfer", eq. 5 and 6.

    Returns:
        (B, C, C).
    """
    if mask is None:
        flat = features.flatten(2)  # (B, C, M)
        return flat @ flat.transpose(1, 2) / flat.shape[2]
    flat = (features * mask).flatten(2)
    return flat @ flat.transpose(1, 2) / mask.square().sum().clamp_min(1e-6)


def content_loss(features: Tensor, target: Tensor, term: ContentTerm) -> Tensor:
    """Squared error of activations (Gatys et al. 2016, eq. 1), normalised as ``term`` says; mean over the batch.

    ``relative`` divides by the target's own sum of squares: 0 is equal, 1 as far away as a black hole.

    Args:
        features, target: (B, C, H, W).
    """
    error = (features - target).square().flatten(1).sum(1)  # (B,)
    if term == "relative":
        return (error / target.square().flatten(1).sum(1).clamp_min(1e-12)).mean()
    channels, height, width = features.shape[1:]
    return error.mean() * CONTENT_TERMS[term](channels, height * width)


def style_loss(grams: Tensor, target: Tensor, positions: int, term: StyleTerm) -> Tensor:
    """Squared difference of Gram matrices (Gatys et al. 2016, eq. 4), normalised as ``term`` says; mean over the batch.

    ``relative`` divides by the target's own sum of squares.

    Args:
        grams: (B, C, C) of the picture, as `gram` gives them.
        target: (1, C, C) of the style.
        positions: H * W of the picture at this layer.
    """
    error = (grams - target).square().sum() / grams.shape[0]
    if term == "relative":
        return error / target.square().sum().clamp_min(1e-12)
    return error * STYLE_TERMS[term](grams.shape[1], positions)


def total_variation(image: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels (Mahendran and Vedaldi 2015, with beta = 2).

    Args:
        image: (B, C, H, W) with any range; a side of one pixel has no neighbours and adds nothing.
    """
    down = (image[..., 1:, :] - image[..., :-1, :]).square().sum()
    across = (image[..., :, 1:] - image[..., :, :-1]).square().sum()
    return (down + across) / image.numel()


def root_mean_square(features: Tensor) -> Tensor:
    """The scale of activations of any shape, a scalar."""
    return features.square().mean().sqrt()
