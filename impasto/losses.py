"""Content, Gram and total-variation losses: pure functions of tensors.

One Gram matrix serves every recipe: `gram` is the mean over positions, so it does not depend on the size of the
picture. The style losses of papers and articles are then the same sum of squared differences D, times a factor that
depends only on the layer's channels C and positions M. `STYLE_TERMS` holds those factors, `CONTENT_TERMS` those for
the content. If a source's Gram matrix is a plain sum over positions, its factor includes the missing M; a style of
another size than the result is then measured as if it had the result's size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.recipes import ContentTerm, StyleTerm

Factor = Callable[[int, int], float]

# (C, M) -> factor on the sum of squared differences of the activations
CONTENT_TERMS: dict[ContentTerm, Factor] = {
    "half-sum": lambda c, m: 1 / 2,  # Gatys2016, eq. 1
    "mean": lambda c, m: 1 / (c * m),  # PyTorchBlog, PyTorchFive, OwlBook
    "quarter-mean": lambda c, m: 1 / (4 * c * m),  # TensorFlowCourse
}

# (C, M) -> factor on the sum of squared differences of the Gram matrices per position
STYLE_TERMS: dict[StyleTerm, Factor] = {
    "gatys": lambda c, m: 1 / (4 * c**2),  # F F^T, sum / (4 C^2 M^2): Gatys2016, eq. 4, and TensorFlowCourse
    "mean": lambda c, m: 1 / c**2,  # F F^T / M, mean: KerasDescent
    "blog": lambda c, m: m**2 / c**2,  # F F^T, mean: PyTorchBlog
    "five": lambda c, m: m / c**3,  # F F^T, mean / (C M): PyTorchFive
    "owl": lambda c, m: 1 / c**4,  # F F^T / (C M), mean: OwlBook
}

# Added to the variances of normalised activations. It is absolute, as in instance normalisation: encoders' activations
# are near 1 or larger, so it only keeps channels that hardly respond, and whose values are rounding, from counting.
EPSILON = 1e-5
PARTS = 8  # partial sums over the positions, for a Gram matrix in bfloat16


def positions(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, M, C), one row per position; a view of a channels-last tensor, otherwise a copy."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def gram_sum(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """F F^T (Gatys2016, eq. 3): a sum over positions, which adds up over the tiles of a picture.

    Args:
        features: (B, C, H, W).
        mask: (1, 1, H, W) guidance in [0, 1]; each position is weighted by its square (Gatys2017, eq. 5 and 6).

    Returns:
        (B, C, C), float32 if the features are bfloat16.
    """
    rows = positions(features if mask is None else features * mask)
    if features.dtype != torch.bfloat16:
        return rows.transpose(1, 2) @ rows
    # A product of bfloat16 matrices is rounded to bfloat16; partial sums, added in float32, lose less.
    batch, count, channels = rows.shape
    even = count // PARTS * PARTS
    parts = rows[:, :even].reshape(batch * PARTS, even // PARTS, channels)
    total = (parts.transpose(1, 2) @ parts).float().view(batch, PARTS, channels, channels).sum(1)
    rest = rows[:, even:]
    return total + rest.transpose(1, 2) @ rest


def gram(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Gram matrix per position, F F^T / M; with a mask, M is the sum of its squares.

    Arguments and result are those of `gram_sum`.
    """
    count = features.shape[-2] * features.shape[-1] if mask is None else mask.square().sum().clamp_min(1e-6)
    return gram_sum(features, mask) / count


def energy(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) sums of squares of (B, C, H, W), weighted by the square of ``mask``; float32 for bfloat16 features."""
    if mask is not None:
        features = features * mask
    if features.dtype == torch.bfloat16:  # its squares would be rounded
        length: Tensor = torch.linalg.vector_norm(features, dim=(1, 2, 3), dtype=torch.float32)
        return length.square()
    return features.square().sum((1, 2, 3))


def squared_error(features: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """`energy` of the difference of two layers' features.

    Args:
        features, target: (B, C, H, W).
        mask: (1, 1, H, W), 1 where a position counts, 0 elsewhere; None: all count.

    Returns:
        (B,), float32 if the features are bfloat16.
    """
    return energy(features - target, mask)


def normalize(features: Tensor) -> Tensor:
    """Instance normalisation: each channel of (B, C, H, W) to mean 0 and variance 1 over its positions."""
    if features.shape[-2] * features.shape[-1] == 1:
        return torch.zeros_like(features)
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return F.instance_norm(wide, eps=EPSILON).to(features.dtype)


def normalized_sums(features: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """The sums over positions that `normalized_error` needs of the features; they add up over tiles.

    Args:
        features: (B, C, H, W).
        target: the content's features, normalised, of the same shape.
        mask: (1, 1, H, W), 1 where a position counts, 0 elsewhere.

    Returns:
        (3, B, C) float32 or float64: the sums of F, of F^2 and of F times the target.
    """
    if mask is not None:
        features = features * mask
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return torch.stack([wide.sum((2, 3)), wide.square().sum((2, 3)), (wide * target).sum((2, 3))])


def normalized_error(sums: Tensor, whole: Tensor, count: int) -> Tensor:
    """Half the mean squared difference of normalised activations; mean over the batch.

    The mean and contrast of a channel do not count: they belong to the style. Several feed-forward methods use this
    content loss (Park2019).

    Args:
        sums: (3, B, C), from `normalized_sums`.
        whole: (B,) the `energy` of the normalised target.
        count: the layer's number of positions.

    Returns:
        A scalar; 0 means the content's structure, 1 an unrelated one.
    """
    mean, square, product = sums / count
    variance = (square - mean.square()).clamp_min(0)
    energies = (variance - 2 * product * (variance + EPSILON).sqrt()) / (variance + EPSILON)
    error: Tensor = (energies.mean(1) + whole / (count * sums.shape[2])) / 2  # (B,)
    return error.mean()


def normalize_error(error: Tensor, whole: Tensor, channels: int, count: int, term: ContentTerm) -> Tensor:
    """Squared error of activations (Gatys2016, eq. 1), normalised according to the term; mean over the batch.

    Args:
        error, whole: (B,) `squared_error` against the target, and the target's `energy`.
        channels, count: the layer's numbers of channels and positions.
        term: a key of `CONTENT_TERMS`, or ``relative``, which divides by the target's own sum of squares.

    Returns:
        A scalar; if relative, 0 is equal and 1 the error of all-zero features.
    """
    if term == "relative":
        return (error / whole.clamp_min(1e-12)).mean()
    return error.mean() * CONTENT_TERMS[term](channels, count)


def content_loss(features: Tensor, target: Tensor, term: ContentTerm) -> Tensor:
    """The content loss of a layer; mean over the batch.

    Args:
        features, target: (B, C, H, W) of the picture and of the content.
        term: ``normalized``, for `normalized_error`; or as in `normalize_error`.

    Returns:
        A scalar.
    """
    channels, height, width = features.shape[1:]
    if term == "normalized":
        target = normalize(target)
        return normalized_error(normalized_sums(features, target), energy(target), height * width)
    return normalize_error(squared_error(features, target), energy(target), channels, height * width, term)


def style_loss(grams: Tensor, target: Tensor, positions: int, term: StyleTerm) -> Tensor:
    """Squared difference of Gram matrices (Gatys2016, eq. 4), normalised according to the term; mean over the batch.

    Args:
        grams: (B, C, C) of the picture, from `gram`.
        target: (1, C, C) of the style.
        positions: H * W of the picture at this layer.
        term: a key of `STYLE_TERMS`; ``relative``, which divides by the target's own sum of squares; or ``bounded``,
            which divides by the sum of both matrices' sums of squares (Cheng2021).

    Returns:
        A scalar; if bounded, in [0, 1], so that no layer and no photograph outweighs the others.
    """
    if term == "bounded":
        energies = grams.square().sum((1, 2)) + target.square().sum((1, 2))
        return ((grams - target).square().sum((1, 2)) / energies.clamp_min(1e-12)).mean()
    error = (grams - target).square().sum() / grams.shape[0]
    if term == "relative":
        return error / target.square().sum().clamp_min(1e-12)
    return error * STYLE_TERMS[term](grams.shape[1], positions)


def lattice(image: Tensor, period: int = 4) -> Tensor:
    """Strength of a regular grid in a picture, which upsampling networks tend to paint instead of strokes.

    It is the variance of the mean cell of each window of 8 x 8 cells, each ``period`` pixels wide. Strokes average out
    over the cells; a checkerboard has the same phase in all cells and does not.

    (B, C, H, W) -> the mean over windows that overlap by half, over channels and the batch.
    """
    height, width = (side - side % period for side in image.shape[-2:])
    cells = F.pixel_unshuffle(image[..., :height, :width], period)  # (B, C * period^2, H / period, W / period)
    means = F.avg_pool2d(cells, min(8, *cells.shape[-2:]), 4)
    means = means.reshape(len(image), image.shape[1], period**2, *means.shape[-2:])
    return means.var(2, correction=0).mean()


def variation(image: Tensor, top: int, left: int, bottom: int, right: int) -> Tensor:
    """Sum of squared differences between each pixel of a tile and its neighbours below and to the right.

    Args:
        image: (B, C, H, W), the whole picture.
        top, left, bottom, right: of the tile, in pixels.

    Returns:
        A scalar; summed over the tiles, the variation of the picture.
    """
    down, across = _differences(image, top, left, bottom, right)
    return down.square().sum() + across.square().sum()


def add_variation_gradient(
    gradient: Tensor, image: Tensor, slope: float, top: int, left: int, bottom: int, right: int
) -> None:
    """Add a multiple of the gradient of `variation` with respect to the picture, in place.

    Args:
        gradient: (B, C, H, W), of the whole picture, to add to.
        image: (B, C, H, W), the whole picture.
        slope: the factor.
        top, left, bottom, right: of the tile, in pixels.
    """
    down, across = _differences(image, top, left, bottom, right)
    height, width = down.shape[-2], across.shape[-1]
    gradient[..., top + 1 : top + 1 + height, left:right].add_(down, alpha=2 * slope)
    gradient[..., top : top + height, left:right].sub_(down, alpha=2 * slope)
    gradient[..., top:bottom, left + 1 : left + 1 + width].add_(across, alpha=2 * slope)
    gradient[..., top:bottom, left : left + width].sub_(across, alpha=2 * slope)


def total_variation(image: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels (Mahendran2015, with beta = 2).

    Args:
        image: (B, C, H, W) of any range; a side of one pixel has no neighbours and adds nothing.
    """
    return variation(image, 0, 0, image.shape[-2], image.shape[-1]) / image.numel()


def _differences(image: Tensor, top: int, left: int, bottom: int, right: int) -> tuple[Tensor, Tensor]:
    below = image[..., top + 1 : bottom + 1, left:right]
    after = image[..., top:bottom, left + 1 : right + 1]
    down = below - image[..., top : top + below.shape[-2], left:right]
    return down, after - image[..., top:bottom, left : left + after.shape[-1]]
