"""High dynamic range and wide gamuts to sRGB: what a film's transfer function and primaries mean.

Codes are those of ITU-T H.273, which all containers and FFmpeg use.
"""

from __future__ import annotations

import torch
from torch import Tensor

PQ, HLG = 16, 18  # transfer functions of ITU-R BT.2100
BT2020, P3 = 9, 12  # primaries
WHITE = 203.0  # cd/m2 of a white page, 75 % of HLG (ITU-R BT.2408)
KNEE = 0.8  # of that white: brighter light is compressed
# Linear RGB to that of BT.709, from the chromaticities of the primaries and D65.
TO_BT709 = {
    BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    P3: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}


def needed(transfer: int, primaries: int) -> bool:
    """Whether pictures with these codes are not sRGB already, or close to it."""
    return transfer in (PQ, HLG) or primaries in TO_BT709


def to_srgb(image: Tensor, transfer: int, primaries: int) -> Tensor:
    """Convert code values to sRGB: the light that they encode, the gamut, and the highlights, in this order.

    Args:
        image: (1, 3, H, W) R'G'B' in [0, 1].
        transfer, primaries: codes; anything unknown counts as sRGB.

    Returns:
        (1, 3, H, W) sRGB in [0, 1].
    """
    light = {PQ: pq, HLG: hlg}.get(transfer, srgb_to_linear)(image)
    if transfer in (PQ, HLG) and primaries not in TO_BT709:
        primaries = BT2020  # the only one of BT.2100, so it is assumed for an unmarked film
    if primaries in TO_BT709:
        light = torch.einsum("dc,bchw->bdhw", light.new_tensor(TO_BT709[primaries]), light)
    if transfer in (PQ, HLG):
        light = compress(light.clamp_min(0))
    return linear_to_srgb(light.clamp(0, 1))


def hlg(image: Tensor) -> Tensor:
    """HLG code values to light on a screen of 1000 cd/m2 (ITU-R BT.2100), relative to `WHITE`."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = torch.where(image <= 0.5, image.square() / 3, (((image - c) / a).exp() + b) / 12)
    luminance = (scene * scene.new_tensor([0.2627, 0.6780, 0.0593]).view(3, 1, 1)).sum(1, keepdim=True)
    return 1000 / WHITE * luminance.clamp_min(1e-6).pow(0.2) * scene


def pq(image: Tensor) -> Tensor:
    """PQ code values to light (SMPTE ST 2084), relative to `WHITE`."""
    power = image.pow(32 / 2523)
    return 1e4 / WHITE * ((power - 107 / 128).clamp_min(0) / (2413 / 128 - 2392 / 128 * power)).pow(8192 / 1305)


def compress(light: Tensor) -> Tensor:
    """Bring highlights below 1, keeping their hue; light up to `KNEE` is unchanged."""
    peak = light.amax(1, keepdim=True).clamp_min(KNEE)
    return light * (1 - (1 - KNEE) * (-(peak - KNEE) / (1 - KNEE)).exp()) / peak


def srgb_to_linear(image: Tensor) -> Tensor:
    """sRGB to linear light (IEC 61966-2-1), of any shape."""
    return torch.where(image <= 0.04045, image / 12.92, ((image.clamp_min(0.04) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: Tensor) -> Tensor:
    """Linear light to sRGB, the inverse of `srgb_to_linear`."""
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(0.003) ** (1 / 2.4) - 0.055)
