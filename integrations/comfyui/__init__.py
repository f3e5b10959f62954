"""impasto in ComfyUI: two nodes that repaint IMAGE tensors, (B, H, W, 3) sRGB in [0, 1].

Copy or link this folder to ComfyUI/custom_nodes/impasto, and install impasto into ComfyUI's Python environment.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

import impasto
from impasto import bundled, presets

STRENGTH = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}


class OnePass:
    """Repaint pictures in one of the bundled styles, or by a model of `impasto train`, in one pass."""

    CATEGORY = "image/impasto"
    FUNCTION = "repaint"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "style": (list(bundled.STYLES),),
                "strength": ("FLOAT", STRENGTH),
                "keep_colors": (["none", "luma", "histogram"],),
            },
            "optional": {"model": ("STRING", {"default": "", "tooltip": "A model file, instead of the style."})},
        }

    def repaint(self, image: Tensor, style: str, strength: float, keep_colors: Any, model: str = "") -> tuple[Tensor]:
        device = comfy.model_management.get_torch_device()
        progress = comfy.utils.ProgressBar(len(image))
        painted = []
        for each in planes(image):  # one at a time: a batch may not fit into memory
            comfy.model_management.throw_exception_if_processing_interrupted()
            painted.append(
                impasto.apply(each.to(device), model or style, strength=strength, keep_colors=keep_colors).cpu()
            )
            progress.update(1)
        return (channels_last(painted),)


class Optimise:
    """Repaint a picture in the style of a painting, by optimisation."""

    CATEGORY = "image/impasto"
    FUNCTION = "paint"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "painting": ("IMAGE",),
                "recipe": (list(presets.TRANSFERS),),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 100.0, "step": 0.05}),
                "size": ("INT", {"default": 512, "min": 64, "max": 8192}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32 - 1}),
            },
        }

    def paint(
        self, image: Tensor, painting: Tensor, recipe: str, strength: float, size: int, seed: int
    ) -> tuple[Tensor]:
        chosen = replace(presets.TRANSFERS[recipe], strength=strength, size=size, seed=seed)
        progress = comfy.utils.ProgressBar(len(image) * chosen.steps)
        (style,) = planes(painting[:1])
        painted = []
        # ComfyUI runs nodes without gradients, in inference mode; tensors made in it cannot be optimised.
        with torch.inference_mode(False), torch.enable_grad():
            for content in planes(image):
                for step in impasto.steps(content.clone(), style.clone(), chosen):
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    progress.update(1)
                    last = step.image
                painted.append(last.cpu())
        return (channels_last(painted),)


def planes(image: Tensor) -> list[Tensor]:
    """(B, H, W, C) -> B tensors (1, 3, H, W); an alpha channel is dropped."""
    return list(image[..., :3].movedim(-1, 1).clamp(0, 1).split(1))


def channels_last(pictures: list[Tensor]) -> Tensor:
    return torch.cat(pictures).movedim(1, -1).contiguous()


NODE_CLASS_MAPPINGS = {"ImpastoOnePass": OnePass, "ImpastoOptimise": Optimise}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ImpastoOnePass": "impasto: repaint in one pass",
    "ImpastoOptimise": "impasto: repaint like a painting",
}
