"""impasto in ComfyUI: two nodes that repaint IMAGE tensors, (B, H, W, 3) sRGB in [0, 1].

Copy or link this folder to ComfyUI/custom_nodes/impasto, and install impasto into ComfyUI's Python environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

import impasto
from impasto import bundled, presets


class Node:
    """What the nodes share: pictures of a batch are painted one at a time, with progress, and can be interrupted."""

    CATEGORY = "image/impasto"
    FUNCTION = "repaint"
    RETURN_TYPES = ("IMAGE",)

    def each(self, image: Tensor, steps: int, paint: Callable[[Tensor, Callable[[], None]], Tensor]) -> tuple[Tensor]:
        """Call ``paint`` with each picture, (1, 3, H, W), and a function that it calls after each of its ``steps``."""
        progress = comfy.utils.ProgressBar(len(image) * steps)

        def advance() -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update(1)

        painted = torch.cat([paint(picture, advance).cpu() for picture in planes(image)])
        return (painted.movedim(1, -1).contiguous(),)


class OnePass(Node):
    """Repaint pictures in one of the bundled styles, or by a model of `impasto train`, in one pass."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "style": (list(bundled.STYLES),),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}),
                "keep_colors": (["none", "luma", "histogram"],),
            },
            "optional": {"model": ("STRING", {"default": "", "tooltip": "A model file, instead of the style."})},
        }

    def repaint(self, image: Tensor, style: str, strength: float, keep_colors: Any, model: str = "") -> tuple[Tensor]:
        device = comfy.model_management.get_torch_device()

        def paint(picture: Tensor, advance: Callable[[], None]) -> Tensor:
            painted = impasto.apply(picture.to(device), model or style, strength=strength, keep_colors=keep_colors)
            advance()
            return painted

        return self.each(image, 1, paint)


class Optimise(Node):
    """Repaint a picture in the style of a painting, by optimisation."""

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

    def repaint(
        self, image: Tensor, painting: Tensor, recipe: str, strength: float, size: int, seed: int
    ) -> tuple[Tensor]:
        chosen = replace(presets.TRANSFERS[recipe], strength=strength, size=size, seed=seed)
        (style,) = planes(painting[:1])

        def paint(picture: Tensor, advance: Callable[[], None]) -> Tensor:
            # ComfyUI runs nodes without gradients, in inference mode; tensors made in it cannot be optimised.
            with torch.inference_mode(False), torch.enable_grad():
                for step in impasto.steps(picture.clone(), style.clone(), chosen):
                    advance()
                    last = step.image
            return last

        return self.each(image, chosen.steps, paint)


def planes(image: Tensor) -> list[Tensor]:
    """(B, H, W, C) -> B tensors (1, 3, H, W); an alpha channel is dropped."""
    return list(image[..., :3].movedim(-1, 1).clamp(0, 1).split(1))


NODE_CLASS_MAPPINGS = {"ImpastoOnePass": OnePass, "ImpastoOptimise": Optimise}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ImpastoOnePass": "impasto: repaint in one pass",
    "ImpastoOptimise": "impasto: repaint like a painting",
}
