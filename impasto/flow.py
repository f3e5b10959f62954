"""Optical flow between the frames of a film: where each pixel came from, and where that can be trusted."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.errors import VideoError

PRESET = 2  # OpenCV's "medium"


def between(first: Tensor, second: Tensor) -> Tensor:
    """Dense inverse search (Kroeger2016): how far each pixel of ``first`` has moved in ``second``.

    Args:
        first, second: (1, 3, H, W) sRGB in [0, 1], of one size.

    Returns:
        (1, 2, H, W) pixels, x before y: the pixel at p of ``first`` is at p + flow(p) of ``second``.

    Raises:
        VideoError: OpenCV is not installed.
    """
    cv2 = _cv2()
    height, width = first.shape[-2:]
    # The coarsest of its scales needs some patches of 8 pixels.
    margin = [0, max(0, 32 - width), 0, max(0, 32 - height)]
    greys = [_grey(F.pad(image, margin, "replicate")) for image in (first, second)]
    found = cv2.DISOpticalFlow_create(PRESET).calc(*greys, None)[:height, :width]
    return torch.from_numpy(np.ascontiguousarray(found)).permute(2, 0, 1)[None].to(first.device)


def warp(image: Tensor, flow: Tensor, mode: Literal["bilinear", "bicubic"] = "bicubic") -> Tensor:
    """Carry a picture along: the result at p is ``image`` at p + flow(p).

    Args:
        image: (B, C, H, W).
        flow: (B, 2, H, W) pixels, from the result's frame to the picture's.
        mode: of the interpolation; bilinear would blur a picture that is carried from frame to frame.

    Returns:
        (B, C, H, W); beyond the border, the pixels of the border.
    """
    x, y = places(flow).unbind(1)
    grid = torch.stack([(2 * x + 1) / image.shape[-1] - 1, (2 * y + 1) / image.shape[-2] - 1], -1)
    return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=False)


def places(flow: Tensor) -> Tensor:
    """(B, 2, H, W): p + flow(p), where each pixel lies in the other frame, x before y."""
    height, width = flow.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return flow + torch.stack([x, y]).to(flow)


def visible(flow: Tensor, opposite: Tensor) -> Tensor:
    """Which pixels the other frame shows too (Ruder2016, equation 4): the flow there leads back to them.

    Args:
        flow: (1, 2, H, W) pixels, from this frame to the other.
        opposite: the flow from the other frame to this one.

    Returns:
        (1, 1, H, W), 1 where the other frame shows the pixel, 0 where it hides it or ends.
    """
    back = warp(opposite, flow)
    length, other, apart = (each.square().sum(1, keepdim=True) for each in (flow, back, flow + back))
    return (apart <= 0.01 * (length + other) + 0.5) * inside(flow)


def trust(flow: Tensor, opposite: Tensor) -> Tensor:
    """Where the flow can be trusted: `visible`, and not at a boundary of motion (Ruder2016, equation 5).

    Args, Returns: as for `visible`.
    """
    if min(flow.shape[-2:]) < 2:
        return visible(flow, opposite)
    down, across = torch.gradient(flow, dim=(-2, -1))
    steepness = (down.square() + across.square()).sum(1, keepdim=True)
    smooth = steepness <= 0.01 * flow.square().sum(1, keepdim=True) + 0.002
    return visible(flow, opposite) * smooth


def wander(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Random smooth flow, as of a camera and of things that move.

    Args:
        count, height, width: of the result.
        generator: source of the randomness.

    Returns:
        (count, 2, height, width) pixels, with a standard deviation of about 2 % of the sides.
    """
    sides = torch.tensor([width, height], device=generator.device).view(2, 1, 1)
    coarse = 0.02 * sides * torch.randn((count, 2, 4, 4), generator=generator, device=generator.device)
    return F.interpolate(coarse, (height, width), mode="bicubic")


def inside(flow: Tensor) -> Tensor:
    """(B, 1, H, W): 1 where the pixel at p + flow(p) lies in the frame, 0 elsewhere."""
    place, size = places(flow), flow.new_tensor(flow.shape[:1:-1]).view(2, 1, 1)
    return ((place > -0.5) & (place < size - 0.5)).all(1, keepdim=True).float()


def _grey(image: Tensor) -> Any:
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device).view(3, 1, 1)
    return (image[0] * weights).sum(0).clamp(0, 1).mul(255).round().byte().cpu().numpy()


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise VideoError("steady films need OpenCV: pip install 'impasto[video]'") from None
    return cv2
