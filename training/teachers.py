"""The compact encoder's teachers: VGG-19 up to relu3_1, and a pruned VGG-19 from relu4_1 to relu5_1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import losses
from impasto.encoder import CAFFE, CONVOLUTIONS, VGG

PLACES = CONVOLUTIONS[: CONVOLUTIONS.index("5_1") + 1]
VGG_LAYERS = ("relu1_1", "relu2_1", "relu3_1")
PRUNED_LAYERS = ("relu4_1", "relu4_2", "relu5_1")
LAYERS = VGG_LAYERS + PRUNED_LAYERS


class Pruned(nn.Module):
    """The 16x pruned VGG-19 of Wang2020: reflection padding, a 1x1 convolution before the first."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        for name, tensor in load_file(file).items():
            self.register_buffer(name.replace(".", "_"), tensor)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Every layer's features."""
        x = F.conv2d(image, self.conv0_weight, self.conv0_bias)
        features = {}
        for place in PLACES:
            if place.endswith("_1") and place != "1_1":
                x = F.max_pool2d(x, 2)
            name = f"conv{place.replace('_', '')}"
            x = F.relu(
                F.conv2d(
                    F.pad(x, (1, 1, 1, 1), "reflect"), getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
                )
            )
            features[f"relu{place}"] = x
        return features


class Teachers(nn.Module):
    """Both teachers: sRGB in [0, 1] -> the six target layers, raw; called like an encoder."""

    places = PLACES

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.vgg = VGG(mean=CAFFE[0], std=CAFFE[1], places=CONVOLUTIONS[:5])
        state = load_file(folder / "vgg19_conv1_1_to_conv3_4_caffe.safetensors")
        for place, index in zip(self.vgg.places, (0, 2, 5, 7, 10), strict=True):
            convolution = getattr(self.vgg, f"conv{place}")
            kernel = state[f"features.{index}.weight"]
            convolution.weight.data = kernel.flip(1).contiguous() if index == 0 else kernel  # BGR -> RGB
            convolution.bias.data = state[f"features.{index}.bias"]
        self.pruned = Pruned(folder / "vgg19_pruned16x_to_conv5_1.safetensors")
        self.requires_grad_(False)

    def forward(self, image: Tensor, layers: Sequence[str] = LAYERS) -> dict[str, Tensor]:
        features = self.pruned(image) | self.vgg(image, VGG_LAYERS)
        return {layer: features[layer] for layer in layers}


def content_term(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], weights: Mapping[str, float], focus: float = 0.0
) -> Tensor:
    """The weighted mean over layers of the relative squared error of features.

    With a ``focus``, an error weighs by that power of the wanted features' strength around it.
    """
    errors = []
    for layer, weight in weights.items():
        ours, target = found[layer], wanted[layer]
        if focus:
            energy = F.avg_pool2d(target.square().mean(1, keepdim=True), 3, 1, 1, count_include_pad=False)
            weighing = (energy / energy.mean((2, 3), keepdim=True)).pow(focus).clamp(0.1, 4).sqrt()
            ours, target = weighing * ours, weighing * target
        errors.append(weight * losses.content_loss(ours, target, "relative"))
    return torch.stack(errors).sum() / sum(weights.values())


def style_term(found: Mapping[str, Tensor], goals: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum over layers of the bounded distances to Gram matrices (Cheng2021)."""
    return torch.stack(
        [w * losses.style_loss(losses.gram(found[layer]), goals[layer], 1, "bounded") for layer, w in weights.items()]
    ).sum()
