"""Faces in photographs, which a stroke across the mouth would ruin."""

from __future__ import annotations

import torch
from torch import Tensor

from impasto import images

SEARCHED = 384  # long edge, in pixels, of the copy in which faces are found
LEAST = 0.1  # width of the smallest face, as a fraction of the copy's short edge
TRAINED = 24  # side of the cascade's windows in pixels: it finds no smaller faces
# Windows, of nearly the same place and size, that must show a face. With fewer, faces are found in leaves and walls.
NEIGHBORS = 11
HEIGHT, WIDTH = 0.74, 0.55  # half axes of the ellipse around a face, as fractions of the window's side
EDGE = 6.0  # how steeply the ellipse ends


def guidance(photograph: Tensor, strength: float) -> Tensor | None:
    """How strongly styles are painted, less on faces: the guidance of `objective.build`.

    Args:
        photograph: (1, 3, H, W) sRGB in [0, 1].
        strength: of styles on faces, relative to the rest; 1: faces are not looked for.

    Returns:
        (1, 1, h, w) of a smaller copy, 1 away from faces; None if there are none.
    """
    inside = where(photograph) if strength < 1 else None
    return None if inside is None else 1 - (1 - strength**0.5) * inside


def where(photograph: Tensor) -> Tensor | None:
    """Find faces that look at the camera, with a cascade of local binary patterns (Liao2007).

    Args:
        photograph: (1, 3, H, W) sRGB in [0, 1].

    Returns:
        (1, 1, h, w) of a smaller copy, on the photograph's device: 1 inside of faces, falling smoothly to 0 around
        them; None if there is no face.
    """
    copy = images.at_most(photograph, SEARCHED)
    height, width = copy.shape[-2:]
    shortest = min(height, width)
    least = max(TRAINED, round(LEAST * shortest))
    if shortest < least:
        return None
    from skimage import data  # imported late: they load scipy
    from skimage.feature import Cascade

    cascade = Cascade(data.lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]
    windows = cascade.detect_multi_scale(
        img=copy[0].permute(1, 2, 0).cpu().numpy(), scale_factor=1.1, step_ratio=1,
        min_size=(least, least), max_size=(shortest, shortest), min_neighbor_number=NEIGHBORS,
    )  # fmt: skip
    if not windows:
        return None
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    inside = torch.zeros(height, width)
    for window in windows:
        side = window["width"]
        down, across = rows - window["r"] - side / 2, columns - window["c"] - side / 2
        distance = (down / (HEIGHT * side)).square() + (across / (WIDTH * side)).square()
        inside = torch.maximum(inside, torch.sigmoid(EDGE * (1 - distance)))
    return inside[None, None].to(photograph.device)
