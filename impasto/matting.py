"""The matting Laplacian (Levin2008) and the guided filter (He2013).

Both fit, in every small window, a picture p as an affine function of a guide I, p = a I + b. With the coefficients a
and b of each window k, and |w| windows over each pixel,

    guided filter   (W p)_i = 1/|w|  sum over k of (a_k I_i + b_k)
    Laplacian       (M p)_i =        sum over k of (p_i - a_k I_i - b_k)

so M p takes a few box filters, and no matrix is built. If pixels have weights, for example those of one region, the
regressions are weighted by them, and a window by the sum of its weights.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import images


class Guide:
    """Windows over a guide, ready to regress pictures on it.

    Args:
        image: the guide, (1, 3, H, W), at least as large as a window.
        radius: the windows are 2 radius + 1 pixels wide, all inside the picture; Levin2008 uses 1.
        epsilon: regularisation, which keeps a small (Levin's epsilon over |w|).
        weight: of each pixel, (1, 1, H, W) in [0, 1]; default: all pixels count the same.
    """

    def __init__(
        self, image: Tensor, *, radius: int = 1, epsilon: float = 1e-7 / 9, weight: Tensor | None = None
    ) -> None:
        self.image, self.side = image, 2 * radius + 1
        if min(image.shape[-2:]) < self.side:
            raise ValueError(f"the guide, {tuple(image.shape[-2:])}, is smaller than its window, {self.side}")
        self.weight = torch.ones_like(image[:, :1]) if weight is None else weight
        self.mass = self.box(self.weight).clamp_min(1e-6)  # of each window, (1, 1, h, w)
        self.mean = self.average(image)  # (1, 3, h, w)
        products = torch.stack([self.average(image[:, i : i + 1] * image) for i in range(3)], 1)  # (1, 3, 3, h, w)
        covariance = products - self.mean[:, :, None] * self.mean[:, None]
        self.variance = covariance.diagonal(dim1=1, dim2=2).sum(-1)[:, None]  # of each window's colours, (1, 1, h, w)
        ridge = epsilon * torch.eye(3, dtype=image.dtype, device=image.device)[None, :, :, None, None]
        self.inverse = _inverse(covariance + ridge)
        self.count = self.spread(self.mass)  # windows over each pixel, (1, 1, H, W)

    def box(self, x: Tensor) -> Tensor:
        """Means over all windows: (B, C, H, W) -> (B, C, h, w)."""
        return F.avg_pool2d(F.avg_pool2d(x, (self.side, 1), 1), (1, self.side), 1)

    def average(self, x: Tensor) -> Tensor:
        """Weighted means over all windows: (B, C, H, W) -> (B, C, h, w)."""
        return self.box(self.weight * x) / self.mass

    def spread(self, x: Tensor) -> Tensor:
        """Sum, for each pixel, over the windows that contain it: (B, C, h, w) -> (B, C, H, W)."""
        margin = self.side - 1
        down = F.avg_pool2d(F.pad(x, [0, 0, margin, margin]), (self.side, 1), 1)
        return self.side**2 * F.avg_pool2d(F.pad(down, [margin, margin, 0, 0]), (1, self.side), 1)

    def regress(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients of each window: (1, C, H, W) -> a (C, 3, h, w) and b (C, 1, h, w)."""
        p = p.transpose(0, 1)  # (C, 1, H, W)
        mean = self.average(p)
        covariance = self.average(self.image * p) - self.mean * mean  # (C, 3, h, w)
        a = (self.inverse * covariance[:, None]).sum(2)
        return a, mean - (a * self.mean).sum(1, keepdim=True)

    def fitted(self, p: Tensor) -> Tensor:
        """The sum over windows of a I + b, symmetric in p if there are no weights: (1, C, H, W) -> (1, C, H, W)."""
        a, b = (self.spread(self.mass * x) for x in self.regress(p))
        return ((a * self.image).sum(1, keepdim=True) + b).transpose(0, 1)

    def filter(self, p: Tensor) -> Tensor:
        """The guided filter."""
        return self.fitted(p) / self.count

    def laplacian(self, p: Tensor) -> Tensor:
        """M p for a guide without weights; the photorealism energy is p . M p, its gradient 2 M p (Luan2017, eq. 2)."""
        return self.count * p - self.fitted(p)

    def lift(self, p: Tensor, image: Tensor) -> Tensor:
        """``filter(p)`` at the size of another picture of the same scene (He2015).

        Args:
            p: (1, C, H, W), of the guide's size.
            image: (1, 3, H', W'), the source of the detail.
        """
        shape = image.shape[-2:]
        a, b = (self.spread(self.mass * x) / self.count for x in self.regress(p))
        result = F.interpolate(b, shape, mode="bilinear", align_corners=False)
        for i in range(3):  # one by one: (C, 3, H', W') would be large
            result += F.interpolate(a[:, i : i + 1], shape, mode="bilinear", align_corners=False) * image[:, i : i + 1]
        return result.transpose(0, 1)


def joint_upsample(painted: Tensor, small: Tensor, photograph: Tensor) -> Tensor:
    """Enlarge a painting to the photograph's size with the photograph's edges (He2015, joint upsampling).

    In each window of the small picture, the painting is regressed on the photograph. The part that the regression
    explains gets the large photograph's detail; the rest, the strokes, is only resized.

    Args:
        painted, small: (B, 3, h, w) in [0, 1]: the painting, and the photograph at the same size.
        photograph: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    radius = min(2, widest(small))
    result = images.resize(painted, *photograph.shape[-2:])
    for index in range(len(photograph) if radius else 0):
        one = slice(index, index + 1)
        guide = Guide(small[one], radius=radius, epsilon=1e-3)
        explained = guide.filter(painted[one])
        result[one] += guide.lift(painted[one], photograph[one]) - images.interpolate(explained, *photograph.shape[-2:])
    return result.clamp_(0, 1)


def _inverse(m: Tensor) -> Tensor:
    """The inverses of symmetric matrices, (1, 3, 3, h, w), by cofactors."""
    (a, b, c), (d, e), f = (m[:, 0, 0], m[:, 0, 1], m[:, 0, 2]), (m[:, 1, 1], m[:, 1, 2]), m[:, 2, 2]
    ca, cb, cc = d * f - e * e, c * e - b * f, b * e - c * d
    rows = [ca, cb, cc, cb, a * f - c * c, b * c - a * e, cc, b * c - a * e, a * d - b * b]
    return torch.stack(rows, 1).view(m.shape) / (a * ca + b * cb + c * cc)[:, None, None]


def widest(image: Tensor) -> int:
    """The largest radius of a window that fits into a picture, (1, C, H, W)."""
    return (min(image.shape[-2:]) - 1) // 2
