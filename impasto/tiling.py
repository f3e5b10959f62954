"""A picture in tiles, each with a halo of the pixels that its result depends on.

`windows` divides a picture for an encoder, as a budget of memory allows; `tiles` for the network of any painting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from impasto import encoder
from impasto.encoder import Frozen
from impasto.errors import InputError

LEAST_TILE = 128  # pixels: below this, tiles are nearly all halo
TILE, HALO = 1024, 96  # pixels: side and halo of `tiles`


@dataclass(frozen=True)
class Window:
    """A tile of a picture, in pixels; ``outer`` holds the rows and columns of the tile with its halo."""

    top: int
    left: int
    bottom: int
    right: int
    outer: tuple[slice, slice]

    def crop(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> the tile with its halo, a view."""
        return image[..., self.outer[0], self.outer[1]]

    def at_layer(self, whole: Tensor, features: Tensor, layer: str) -> Tensor:
        """The part of a tensor of the whole layer that belongs to the tile's ``features``, a view."""
        top, left = (part.start >> encoder.pools(layer) for part in self.outer)
        return whole[..., top : top + features.shape[-2], left : left + features.shape[-1]]

    def inside(self, features: Tensor, layer: str) -> Tensor | None:
        """(1, 1, h, w): 1 in the tile, 0 in its halo; None if there is no halo."""
        rows, columns = self.outer
        if (self.top, self.bottom, self.left, self.right) == (rows.start, rows.stop, columns.start, columns.stop):
            return None
        ends = []
        for first, last, part, length in (
            (self.top, self.bottom, rows, features.shape[-2]),
            (self.left, self.right, columns, features.shape[-1]),
        ):
            # The picture's last tile includes what pooling leaves of an odd side; the others end on whole strides.
            end = (last - part.start) >> encoder.pools(layer) if last < part.stop else length
            ends.append(slice((first - part.start) >> encoder.pools(layer), end))
        mask = features.new_zeros(1, 1, *features.shape[-2:])
        mask[..., ends[0], ends[1]] = 1
        return mask


def everything(image: Tensor) -> Window:
    """The whole picture as one tile."""
    height, width = image.shape[-2:]
    return Window(0, 0, height, width, (slice(0, height), slice(0, width)))


def windows(image: Tensor, frozen: Frozen, budget: float) -> list[Window]:
    """Divide a picture into tiles, as even as possible, so that a pass over each stays within the budget.

    Args:
        image: (B, C, H, W), of which only the size counts.
        frozen: the encoder, for its halo, stride and memory.
        budget: bytes for a pass; 0: no limit.

    Returns:
        The tiles, row by row; one if the whole picture stays within the budget.

    Raises:
        InputError: the budget is too small even for the smallest tile.
    """
    height, width = image.shape[-2:]
    pixels = budget / (frozen.bytes_per_pixel * len(image)) if budget else float("inf")
    if height * width <= pixels:
        return [everything(image)]
    side = (int(pixels**0.5) - 2 * frozen.halo) // frozen.stride * frozen.stride
    if side < LEAST_TILE:
        least = smallest(frozen) * len(image) / 1e9
        raise InputError(f"not enough memory: one tile needs {least:.2g} GB besides the picture; raise `memory`")
    return [
        Window(top, left, bottom, right, (rows, columns))
        for top, bottom, rows in _parts(height, side, frozen)
        for left, right, columns in _parts(width, side, frozen)
    ]


def smallest(frozen: Frozen) -> int:
    """Bytes for a pass over the smallest tile."""
    return (LEAST_TILE + 2 * frozen.halo + 1) ** 2 * frozen.bytes_per_pixel


def _parts(length: int, side: int, frozen: Frozen) -> Iterator[tuple[int, int, slice]]:
    """Divide a length into even parts of whole strides, each at most ``side``, one too, and with its halo."""
    count = -(-length // side)
    step = -(-length // (count * frozen.stride)) * frozen.stride
    for first in range(0, length, step):
        last = min(length, first + step)
        yield first, last, slice(max(0, first - frozen.halo), min(length, last + frozen.halo))


@dataclass(frozen=True)
class Tile:
    """A part of a picture: its rows and columns, and those that its result depends on."""

    rows: slice
    columns: slice
    outer_rows: slice
    outer_columns: slice

    def within(self, x: Tensor, stride: int, *, outer: bool = True) -> Tensor:
        """Cut the tile out of features, (..., h, w), of its outer tile; with ``outer=False``, of the whole picture."""
        top, left = (self.outer_rows.start, self.outer_columns.start) if outer else (0, 0)
        down = slice((self.rows.start - top) // stride, (self.rows.stop - top) // stride)
        across = slice((self.columns.start - left) // stride, (self.columns.stop - left) // stride)
        return x[..., down, across]


def tiles(height: int, width: int) -> Iterator[Tile]:
    """Tiles of `TILE` pixels with a border of `HALO`; sides and borders are multiples of 8."""

    def spans(length: int) -> list[tuple[slice, slice]]:
        starts = range(0, length, TILE)
        ends = [min(length, start + TILE) for start in starts]
        outer = [slice(max(0, start - HALO), min(length, end + HALO)) for start, end in zip(starts, ends, strict=True)]
        return [(slice(start, end), around) for start, end, around in zip(starts, ends, outer, strict=True)]

    for rows, outer_rows in spans(height):
        for columns, outer_columns in spans(width):
            yield Tile(rows, columns, outer_rows, outer_columns)
