"""Faces in photographs: strokes that do no harm elsewhere can ruin a face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import images

SEARCHED = 320  # long edge, in pixels, of the copy in which faces are found
LEAST = 24  # side of the smallest face in that copy, in pixels: the cascade was trained on such squares
# Squares, of nearly the same place and size, in the picture and in its mirror image, that make a face. With fewer,
# faces are found in leaves and walls.
VOTES = 11
FEW = 3  # with fewer squares in the picture, its mirror image is not searched, which saves half of the time
OVERLAP = 0.5  # intersection over union, from which on two squares count as nearly the same
HEIGHT, WIDTH = 0.74, 0.55  # half axes of the oval around a face, as fractions of the square's side
EDGE = 6.0  # how steeply the oval ends
AROUND = 1.1  # half side of the square that is painted again, as a fraction of the square's side
BLUR = 0.25  # radius, as a fraction of the square's side, within which a painting's mean colours stay
PAINTED = 200  # side of the square, in pixels, at which a smaller face is painted again

Slices = tuple[slice, slice]  # rows and columns of a picture
Squares = npt.NDArray[np.float64]  # (N, 3): top, left and side, in pixels


@dataclass(frozen=True)
class Face:
    """A face in a picture of any size: its centre, and the side of the square from the eyebrows to the chin.

    Attributes:
        row, column: of the centre, as fractions of the picture's height and width.
        side: as a fraction of the long edge.
    """

    row: float
    column: float
    side: float

    def window(self, height: int, width: int) -> Slices:
        """What is painted again with the face, in a picture of this size."""
        half = AROUND * self.side * max(height, width)
        rows, columns = (
            slice(max(0, round(place * length - half)), min(length, round(place * length + half)))
            for place, length in ((self.row, height), (self.column, width))
        )
        return rows, columns

    def oval(self, height: int, width: int, window: Slices = (slice(None), slice(None))) -> Tensor:
        """1 at the centre of the face, 0.5 on the oval, 0 away from it: (1, 1, h, w), a window of a picture."""
        side = self.side * max(height, width)
        down = (torch.arange(height)[window[0], None] + 0.5 - self.row * height) / (HEIGHT * side)
        across = (torch.arange(width)[window[1]] + 0.5 - self.column * width) / (WIDTH * side)
        return torch.sigmoid(EDGE * (1 - down.square() - across.square()))[None, None]


def find(photograph: Tensor) -> list[Face]:
    """Faces that look at the camera, found with a cascade of local binary patterns (Zhang2007).

    Args:
        photograph: (1, 3, H, W) sRGB in [0, 1].

    Returns:
        The faces, the surest first.
    """
    copy = images.at_most(photograph, SEARCHED).cpu()
    height, width = copy.shape[-2:]
    squares = _squares(copy)
    if int(_nearly_same(squares).sum(1).max(initial=0)) < FEW:
        return []
    mirrored = _squares(copy.flip(-1))
    mirrored[:, 1] = width - mirrored[:, 1] - mirrored[:, 2]
    squares = np.concatenate([squares, mirrored])
    found: list[Face] = []
    while len(squares):
        near = _nearly_same(squares)
        votes = near.sum(1)
        if int(votes.max()) < VOTES:
            break
        row, column, side = squares[near[votes.argmax()]].mean(0).tolist()
        found.append(Face((row + side / 2) / height, (column + side / 2) / width, side / max(height, width)))
        centres = squares[:, :2] + squares[:, 2:] / 2 - [row, column] - side / 2
        squares = squares[(np.abs(centres) > side / 2).any(1)]
    return found


def _squares(picture: Tensor) -> Squares:
    """All squares in which the cascade sees a face."""
    shortest = min(picture.shape[-2:])
    if shortest < LEAST:
        return np.empty((0, 3))
    from skimage import data  # imported late: they load scipy
    from skimage.feature import Cascade

    cascade = Cascade(data.lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]
    seen = cascade.detect_multi_scale(
        img=picture[0].permute(1, 2, 0).numpy(), scale_factor=1.05, step_ratio=1.5, min_size=(LEAST, LEAST),
        max_size=(shortest, shortest), min_neighbor_number=1,
        intersection_score_threshold=2,  # more than any two squares have: they are not grouped
    )  # fmt: skip
    # Threads find them in any order; sorted, the same picture gives the same faces.
    return np.array(sorted((square["r"], square["c"], square["width"]) for square in seen), float).reshape(-1, 3)


def _nearly_same(squares: Squares) -> npt.NDArray[np.bool_]:
    """(N, N): which squares nearly coincide."""
    start, side = squares[:, None, :2], squares[:, None, 2:]
    end = start + side
    sides = np.minimum(end, end.swapaxes(0, 1)) - np.maximum(start, start.swapaxes(0, 1))
    shared = sides.clip(min=0).prod(2)
    area = side[..., 0] ** 2
    same: npt.NDArray[np.bool_] = shared > OVERLAP * (area + area.T - shared)
    return same


def guidance(photograph: Tensor, strength: float) -> Tensor | None:
    """How strongly styles are painted, less on faces: the guidance of `objective.build`.

    Args:
        photograph: (1, 3, H, W) sRGB in [0, 1].
        strength: of styles on faces, relative to the rest; 1: faces are not looked for.

    Returns:
        (1, 1, h, w) of a smaller copy, 1 away from faces; None if there are none.
    """
    copy = images.at_most(photograph, SEARCHED)
    ovals = [face.oval(*copy.shape[-2:]) for face in find(copy)] if strength < 1 else []
    inside = torch.stack(ovals).amax(0).to(copy) if ovals else None
    return None if inside is None else 1 - (1 - strength**0.5) * inside


def repaint(
    painted: Tensor,
    paint: Callable[[Tensor], Tensor],
    photographs: Tensor,
    found: Sequence[Sequence[Face]],
) -> Tensor:
    """Paint faces again: small ones enlarged, and then reduced, so that strokes are fine enough for eyes and mouths.

    Args:
        painted: (B, 3, H, W) the paintings, changed in place.
        paint: a part of a photograph, (1, 3, h, w) -> its painting.
        photographs: (B, 3, H', W') of which they were made, with all their detail.
        found: the faces of each photograph.

    Returns:
        ``painted``.
    """
    height, width = painted.shape[-2:]
    for index, faces in enumerate(found):
        for face in faces:
            rows, columns = window = face.window(height, width)
            size = rows.stop - rows.start, columns.stop - columns.start
            scale = max(1.0, PAINTED / (face.side * max(height, width)))
            down, across = (full / side for full, side in zip(photographs.shape[-2:], (height, width), strict=True))
            near = photographs[index : index + 1, :, _scaled(rows, down), _scaled(columns, across)]
            again = paint(images.resize(near, *(round(scale * length) for length in size)))
            part = painted[index, :, rows, columns]
            change = images.resize(again, *size)[0] - part
            # A part of a photograph can get other colours than the whole: only its forms are taken.
            change -= _blurred(change, BLUR * face.side * max(height, width))
            part += face.oval(height, width, window)[0].to(change) * change
    return painted.clamp_(0, 1)


def _scaled(part: slice, scale: float) -> slice:
    return slice(round(scale * part.start), round(scale * part.stop))


def _blurred(image: Tensor, radius: float) -> Tensor:
    """A box filter of (C, H, W), applied twice, in a small copy: its radius there is 5 pixels at most."""
    scale = min(1.0, 5 / radius)
    small = images.means(image[None], *(max(1, round(scale * side)) for side in image.shape[-2:]))
    for _ in range(2):
        reach = round(scale * radius)
        small = F.avg_pool2d(small, 2 * reach + 1, 1, reach, count_include_pad=False)
    return F.interpolate(small, image.shape[-2:], mode="bilinear")[0]
