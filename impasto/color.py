"""Colours: luma transfer, histogram matching, optimal transport; CIE L*a*b*."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from impasto import hdr


def luma(image: Tensor) -> Tensor:
    """Luma Y' of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B: (B, 3, H, W) -> (B, 1, H, W)."""
    return 0.299 * image[:, 0:1] + 0.587 * image[:, 1:2] + 0.114 * image[:, 2:3]


def keep_luma(content: Tensor, result: Tensor) -> Tensor:
    """Luminance-only transfer (Gatys2016Color, section 4).

    Both (B, 3, H, W) in [0, 1] -> result's luma with content's chroma, clamped to [0, 1].
    Raises ValueError if the shapes differ.
    """
    if content.shape != result.shape:
        raise ValueError(f"content {tuple(content.shape)} and result {tuple(result.shape)} must have the same shape")
    # Replacing Y and keeping U and V means adding the difference of Y to each of R, G and B.
    return (content + luma(result) - luma(content)).clamp(0, 1)


def match_luma(style: Tensor, content: Tensor) -> Tensor:
    """Match the style's luma to the content's mean and standard deviation (Gatys2016Color, section 4).

    (B, 3, H, W) and (B or 1, 3, h, w) in [0, 1] -> (B, 3, H, W) grey, clamped to [0, 1].
    """
    ours, theirs = luma(style), luma(content)
    axes = (1, 2, 3)
    spread = _spread(ours)
    scale = torch.where(spread > 1e-5, _spread(theirs) / spread.clamp_min(1e-5), 0)  # a constant stays one
    matched = (ours - ours.mean(axes, keepdim=True)) * scale + theirs.mean(axes, keepdim=True)
    return matched.clamp(0, 1).expand(-1, 3, -1, -1).contiguous()


def match_histogram(image: Tensor, reference: Tensor) -> Tensor:
    """Histogram matching of each channel through its cumulative distribution (skimage.exposure.match_histograms).

    (B, 3, H, W) and (B or 1, 3, h, w) in [0, 1] -> (B, 3, H, W); not differentiable.
    """
    from skimage.exposure import match_histograms  # imported late: it loads scipy

    references = reference.expand(len(image), -1, -1, -1)
    pairs = [[_array(picture) for picture in pair] for pair in zip(image, references, strict=True)]
    matched = [torch.from_numpy(match_histograms(ours, theirs, channel_axis=0)) for ours, theirs in pairs]
    return torch.stack(matched).to(image)


def affine_transport(
    image: Tensor,
    reference: Tensor,
    image_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    *,
    ridge: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Match mean and covariance by the linear map that moves colours least, with a symmetric matrix (PitieKokaram2007).

    Args:
        image, reference: (B, 3, H, W) and (B or 1, 3, h, w) in [0, 1].
        image_mask, reference_mask: (1, 1, H, W) in [0, 1], which weight the pixels' colours.
        ridge: added to both variances, so that noise in even areas is not amplified.

    Returns:
        matrix (B, 3, 3), mean (B, 3, 1) and goal (B, 3, 1): a colour x goes to matrix (x - mean) + goal.
    """
    (mean, spread), (goal, goal_spread) = _moments(image, image_mask), _moments(reference, reference_mask)
    even = ridge * torch.eye(3, dtype=spread.dtype)
    root, inverse = _power(spread + even, 0.5), _power(spread + even, -0.5)
    return (inverse @ _power(root @ (goal_spread + even) @ root, 0.5) @ inverse).to(mean), mean, goal


def transport_colors(
    image: Tensor,
    reference: Tensor,
    image_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    *,
    rounds: int = 40,
) -> Tensor:
    """Match the whole distribution of colours by sliced optimal transport (Pitie2007).

    Each round turns the axes of the colour space at random and matches the quantiles along each axis. Pixels of one
    colour, such as a white sky, are spread over the quantiles that they occupy, from the top down.

    Args:
        image, reference: (B, C, H, W) and (B or 1, C, h, w) in [0, 1]; channels after the third, such as place, may
            have any range. Tens of thousands of pixels are enough.
        image_mask, reference_mask: (1, 1, H, W) and (1, 1, h, w) in [0, 1], which weight the pixels; None: all count
            alike.
        rounds: how often the axes turn.

    Returns:
        (B, C, H, W), the first three channels in [0, 1].
    """
    generator = np.random.default_rng(2)  # early axes decide which way an even sky spreads; these gave rich skies
    axes = image.shape[1]
    turns = [np.linalg.qr(generator.standard_normal((axes, axes)))[0] for _ in range(rounds)]
    pictures = zip(image, reference.expand(len(image), -1, -1, -1), strict=True)
    moved = [_transport(_array(ours), _array(theirs), image_mask, reference_mask, turns) for ours, theirs in pictures]
    result = torch.from_numpy(np.stack(moved)).to(image)
    result[:, :3].clamp_(0, 1)
    return result


def _transport(
    image: NDArray[Any],
    reference: NDArray[Any],
    image_mask: Tensor | None,
    reference_mask: Tensor | None,
    turns: list[NDArray[Any]],
) -> NDArray[Any]:
    colors, goals = (picture.reshape(len(picture), -1).T.astype(float) for picture in (image, reference))
    weights, goal_weights = (
        np.ones(len(values)) if mask is None else _array(mask).ravel().clip(1e-6, None)
        for values, mask in ((colors, image_mask), (goals, reference_mask))
    )
    for axes in turns:
        colors, turned = colors @ axes, goals @ axes
        for axis in range(len(axes)):
            order, goal_order = colors[:, axis].argsort(kind="stable"), turned[:, axis].argsort()
            ranks, goal_ranks = _ranks(weights[order]), _ranks(goal_weights[goal_order])
            colors[order, axis] = np.interp(ranks, goal_ranks, turned[goal_order, axis])
        colors = colors @ axes.T
    result: NDArray[Any] = colors.T.reshape(image.shape)
    return result


def _ranks(weights: NDArray[Any]) -> NDArray[Any]:
    """The quantile in [0, 1] of each of a row of sorted values with these weights."""
    ranks: NDArray[Any] = (weights.cumsum() - weights / 2) / weights.sum()
    return ranks


def _moments(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean (B, 3, 1) and covariance (B, 3, 3) of (B, 3, H, W); the latter float64 on the CPU: MPS has no eigh."""
    values = image.to(torch.promote_types(image.dtype, torch.float32)).flatten(2)
    weights = torch.ones_like(values[:1, :1]) if mask is None else mask.to(values.device, values.dtype).flatten(2)
    weights = weights / weights.sum().clamp_min(1e-12)
    mean = (values * weights).sum(2, keepdim=True)
    centred = values - mean
    return mean, ((centred * weights) @ centred.mT).cpu().double()


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric matrix, with eigenvalues of at least 1e-7: a grey image has variances of 0."""
    values, vectors = torch.linalg.eigh(matrix)
    powers = values.clamp_min(1e-7) ** exponent  # 1e-7 is below the rounding of 8 bits, 1.3e-6
    return torch.matmul(vectors * powers[..., None, :], vectors.mT)


def _spread(values: Tensor) -> Tensor:
    return values.std((1, 2, 3), correction=0, keepdim=True)


def _array(picture: Tensor) -> NDArray[Any]:
    return picture.detach().cpu().to(torch.promote_types(picture.dtype, torch.float32)).numpy()


# CIE 1931, D65, two degrees (IEC 61966-2-1): linear sRGB -> XYZ, as fractions of the white point.
_WHITE = (0.95047, 1.0, 1.08883)
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))


def to_lab(image: Tensor) -> Tensor:
    """sRGB to CIE L*a*b*, D65: (B, 3, H, W) in [0, 1] -> (B, 3, H, W), L in [0, 100], a and b about -110 to 110."""
    matrix = image.new_tensor(_XYZ) / image.new_tensor(_WHITE)[:, None]
    xyz = torch.einsum("ij,bjhw->bihw", matrix, hdr.srgb_to_linear(image))
    f = torch.where(xyz > 216 / 24389, xyz.clamp_min(1e-4) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


_RGB = np.linalg.inv(np.array(_XYZ) / np.array(_WHITE)[:, None]).tolist()  # from XYZ relative to white


def from_lab(lab: Tensor) -> Tensor:
    """CIE L*a*b* to sRGB, the inverse of `to_lab`; colours outside sRGB are clamped to [0, 1]."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(f > 6 / 29, f**3, (116 * f - 16) * 27 / 24389)
    return hdr.linear_to_srgb(torch.einsum("ij,bjhw->bihw", lab.new_tensor(_RGB), xyz)).clamp(0, 1)


def bins(step: int = 10) -> Tensor:
    """The centres in a and b of the bins, of side ``step``, that hold colours of sRGB: (Q, 2)."""
    line = torch.linspace(0, 1, 33)
    cube = torch.stack(torch.meshgrid(line, line, line, indexing="ij")).flatten(1)[None, :, :, None]
    found = torch.unique((to_lab(cube)[0, 1:, :, 0] / step).round(), dim=1)
    return step * Tensor(found).T
