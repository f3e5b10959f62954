"""3x3 convolutions with a quarter of the multiplications: minimal filtering.

Lavin2016, F(4x4, 3x3): for a kernel g, the convolution's 4x4 outputs on a 6x6 tile d are

    A^T [(G g G^T) * (B^T d B)] A,

where * multiplies elementwise. Summed over the channels, this is a matrix product for each of the 36 elements. A tile
is treated as a polynomial; G and A evaluate it at six points, and B is the inverse.

It serves only VGG-19: an iteration is 1.3 times as fast (benchmarks/results.md). The compact encoder's layers are too
narrow.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def _powers(count: int) -> Tensor:
    """(6, count): powers of 0, 2/3, -2/3, 3/2, -3/2 and infinity. +-1 and +-2 would double the rounding error."""
    points = torch.tensor([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2], dtype=torch.float64).view(5, 1)
    return torch.cat([points ** torch.arange(count), torch.eye(count)[-1:]])


A, B, G = _powers(4).float(), _powers(6).inverse().float(), _powers(3).float()

TILES = 256  # processed at a time: enough for fast matrix products, few enough for the cache
# inputs * outputs / (inputs + outputs), below which the transforms cost what the products save
LEAST = {torch.float32: 60, torch.bfloat16: 120}


class Convolution:
    """A 3x3 convolution with fixed weights.

    Args:
        weight: (O, I, 3, 3).
        bias: (O,), or None.
        minimal: use minimal filtering where it is faster: on a CPU, with enough channels, and not in bfloat16 with
            AMX.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, minimal: bool = True) -> None:
        self.weight, self.bias = weight.contiguous(memory_format=torch.channels_last), bias
        outputs, inputs = weight.shape[:2]
        pays = weight.device.type == "cpu" and inputs * outputs >= LEAST[weight.dtype] * (inputs + outputs)
        pays = pays and not (weight.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported())
        self.transformed = transform(weight) if minimal and pays else None

    def __call__(self, x: Tensor, padding: int) -> Tensor:
        """(B, I, H, W) -> (B, O, H + 2 padding - 2, W + 2 padding - 2), channels-last; zero padding."""
        if self.transformed is None:
            return F.conv2d(x, self.weight, self.bias, padding=padding)
        return convolve(x, self.transformed, self.bias, padding)


def transform(weight: Tensor) -> Tensor:
    """Kernels (O, I, 3, 3) -> (36, I, O), a matrix for each element of a tile: G g G^T."""
    outputs, inputs = weight.shape[:2]
    kernels = torch.kron(G, G) @ weight.permute(2, 3, 1, 0).reshape(9, -1).float()
    return kernels.view(36, inputs, outputs).to(weight.dtype)


def convolve(x: Tensor, kernels: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """The convolution of (B, I, H, W) with kernels from `transform`, of the same dtype.

    Args:
        x: (B, I, H, W).
        kernels: from `transform`.
        bias: (O,), or None.
        padding: zeros on each side.

    Returns:
        (B, O, H + 2 padding - 2, W + 2 padding - 2), channels-last.
    """
    batch, inputs, height, width = x.shape
    height, width, outputs = height + 2 * padding - 2, width + 2 * padding - 2, kernels.shape[2]
    down, across = -(-height // 4), -(-width // 4)
    beyond = [padding, padding + 4 * across - width, padding, padding + 4 * down - height]
    x = F.pad(x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1), [0, 0, *beyond])
    by_batch, by_row, by_column, _ = x.stride()
    y = x.new_empty(batch, down, 4, across, 4, outputs)
    step = max(1, TILES // (batch * across))
    for first in range(0, down, step):
        rows = min(step, down - first)
        tiles = x.as_strided(
            (6, 6, batch, rows, across, inputs),
            (by_row, by_column, by_batch, 4 * by_row, 4 * by_column, 1),
            x.storage_offset() + 4 * first * by_row,
        )
        products = torch.bmm(_both_sides(B, tiles).view(36, -1, inputs), kernels)
        values = _both_sides(A, products).view(4, 4, batch, rows, across, outputs).permute(2, 3, 0, 4, 1, 5)
        torch.add(values, 0 if bias is None else bias, out=y[:, first : first + rows])
    y = y.view(batch, 4 * down, 4 * across, outputs)[:, :height, :width]
    return y.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _both_sides(matrix: Tensor, tiles: Tensor) -> Tensor:
    """M^T d M for all tiles d, whose elements are the leading dimensions of ``tiles``: 6 x 6, or 36."""
    inner, outer = matrix.shape
    if tiles.dtype == torch.bfloat16:  # in one product, to round only once
        return torch.kron(matrix, matrix).T.to(tiles.dtype).contiguous() @ tiles.reshape(inner**2, -1)
    rows = matrix.T @ tiles.reshape(inner, -1)
    return torch.matmul(matrix.T, rows.view(outer, inner, -1))
