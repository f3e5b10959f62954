"""Perceptual encoders: an image in, the activations of named layers out.

VGG-19 (Simonyan2015): sixteen 3x3 convolutions in five blocks, with 2x2 max pooling between the blocks. Layers are
named by block and place: ``relu4_2`` is the rectified output of the second convolution of block four.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import weights
from impasto.errors import InputError, WeightsError
from impasto.winograd import Convolution

DEPTHS = (2, 2, 4, 4, 4)
CONVOLUTIONS = tuple(f"{block}_{place}" for block, depth in enumerate(DEPTHS, 1) for place in range(1, depth + 1))
LAYERS = tuple(f"relu{place}" for place in CONVOLUTIONS)

VGG19_WIDTHS = (64, 128, 256, 512, 512)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))

# torchvision numbers convolutions, rectifiers and pools together: features.0 is conv1_1, features.19 conv4_1.
TORCHVISION = {place: f"features.{2 * index + int(place[0]) - 1}" for index, place in enumerate(CONVOLUTIONS)}


class VGG(nn.Module):
    """VGG-19's convolutions, of any widths, up to a chosen one.

    Args:
        widths: channels of the five blocks, or of each convolution by its place.
        mean, std: normalisation of sRGB in [0, 1], one number per channel.
        places: the convolutions, a prefix of ``CONVOLUTIONS``.
        reflect: the first convolution with reflection padding; those before it have zero padding.
        exact: the last convolution that runs forward in float32 at every precision. Rounding can move the maximum of
            a pooling window; the gradient then goes to another pixel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        widths: Sequence[int] | Mapping[str, int] = VGG19_WIDTHS,
        *,
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
        places: Sequence[str] = CONVOLUTIONS,
        reflect: str = "",
        exact: str = "2_1",
    ) -> None:
        super().__init__()
        self.places = tuple(places)
        self.exact = self.places[: self.places.index(exact) + 1] if exact in self.places else self.places
        self.reflecting = self.places[self.places.index(reflect) :] if reflect in self.places else ()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        channels = 3
        for place in self.places:
            width = widths[place] if isinstance(widths, Mapping) else widths[int(place[0]) - 1]
            self.add_module(f"conv{place}", nn.Conv2d(channels, width, 3, padding=0 if place in self.reflecting else 1))
            channels = width

    def forward(self, image: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """The activations of ``layers``; computation stops at the deepest of them.

        Args:
            image: (B, 3, H, W) sRGB in [0, 1]; values outside are allowed.
            layers: names such as ``relu4_2``.

        Returns:
            layer -> (B, C, H / 2^(block - 1), W / 2^(block - 1)), sizes rounded down but never under 1.

        Raises:
            InputError: a layer is unknown, or lies beyond this network's last convolution.
        """
        wanted = check_layers(layers, self.places)
        x = (image - self.mean) / self.std
        features: dict[str, Tensor] = {}
        for place in self.places[: self.places.index(wanted[-1][4:]) + 1]:
            if place.endswith("_1") and place != "1_1":
                x = F.max_pool2d(x, [min(2, side) for side in x.shape[-2:]])
            x = F.relu(getattr(self, f"conv{place}")(pad(x) if place in self.reflecting else x))
            features[f"relu{place}"] = x
        return {layer: features[layer] for layer in wanted}


def pad(x: Tensor) -> Tensor:
    """Pad by one pixel on each side, by reflection; by replication if x is only one pixel wide or high."""
    return F.pad(x, [1] * 4, "reflect" if min(x.shape[-2:]) > 1 else "replicate")


def unpad(gradient: Tensor) -> Tensor:
    """Turn the gradient with respect to the output of `pad` into that with respect to its input, in place."""
    source = 2 if min(gradient.shape[-2:]) > 3 else 1
    for axis in (-2, -1):
        gradient.select(axis, source).add_(gradient.select(axis, 0))
        gradient.select(axis, -1 - source).add_(gradient.select(axis, -1))
    return gradient[..., 1:-1, 1:-1].contiguous(memory_format=torch.channels_last)


def check_layers(layers: Iterable[str], places: Sequence[str] = CONVOLUTIONS) -> list[str]:
    """``layers`` without duplicates, the shallowest first.

    Raises:
        InputError: no layer is given, or one is unknown or not among ``places``.
    """
    wanted = set(layers)
    for layer in sorted(wanted):
        if layer not in LAYERS:
            raise InputError(f"unknown layer {layer!r}: the layers are relu1_1, relu1_2, relu2_1, ... relu5_4")
        if layer[4:] not in places:
            raise InputError(f"this encoder ends at relu{places[-1]} and has no {layer}")
    if not wanted:
        raise InputError("no layer was given")
    return sorted(wanted, key=LAYERS.index)


def pools(layer: str) -> int:
    """The number of pools before a layer."""
    return int(layer[4]) - 1


def layer_size(layer: str, height: int, width: int) -> tuple[int, int]:
    """The size of a layer: each pool before it halves the image's size, rounded down but never under 1.

    Args:
        layer: a name such as ``relu4_2``.
        height, width: of the image, in pixels.

    Returns:
        Height and width of the layer.
    """
    return max(1, height >> pools(layer)), max(1, width >> pools(layer))


@dataclass(frozen=True)
class Record:
    """The result of a forward pass of `Frozen`.

    Attributes:
        features: layer -> (B, C, H, W), for the requested layers.
        tape: the operations in order, each with what its backward pass reads.
    """

    features: dict[str, Tensor]
    tape: list[tuple[str, Any]]


class Frozen:
    """A VGG with fixed weights: its forward and backward passes, without autograd.

    Weights get no gradients, only what the backward pass reads is kept, and rectifiers and sums work in place. A
    convolution's backward pass is a convolution with the kernels flipped and transposed. If a layer before a pool is
    not requested, its rectifier runs after the pool, on a quarter of the data, with the same result.

    Args:
        network: the weights.
        layers: the requested features.
        dtype: of the computation.
        minimal: use minimal filtering where it is faster. It rounds differently from PyTorch.
    """

    def __init__(
        self, network: VGG, layers: Iterable[str], dtype: torch.dtype = torch.float32, *, minimal: bool = False
    ) -> None:
        self.layers = check_layers(layers, network.places)
        self.places = network.places[: network.places.index(self.layers[-1][4:]) + 1]
        self.mean, self.std, self.dtype = network.mean, network.std, dtype
        self.reflecting, self.exact = network.reflecting, network.exact
        self.convolutions: dict[str, tuple[Convolution, Convolution]] = {}
        for place in self.places:
            convolution = getattr(network, f"conv{place}")
            kernel, bias = convolution.weight.detach(), convolution.bias.detach()
            forward = torch.float32 if place in self.exact else dtype
            self.convolutions[place] = (
                Convolution(kernel.to(forward), bias.to(forward), minimal=minimal),
                Convolution(kernel.flip(2, 3).transpose(0, 1).to(dtype), minimal=minimal),
            )

    @property
    def stride(self) -> int:
        """Pixels of the image between two positions of the deepest layer."""
        return 1 << pools(self.layers[-1])

    @property
    def halo(self) -> int:
        """Pixels around a tile that the features inside it depend on, in whole strides."""
        reach = sum(1 << (int(place[0]) - 1) for place in self.places)
        return -(-reach // self.stride) * self.stride

    @property
    def bytes_per_pixel(self) -> int:
        """Approximate memory of a forward and backward pass, per pixel of the image."""
        kept = peak = 24.0  # the image, normalised, and its gradient
        size = self.dtype.itemsize
        for place, after in zip(self.places, (*self.places[1:], ""), strict=True):
            kernel, area = self.convolutions[place][0].weight, 4.0 ** (1 - int(place[0]))
            out, into = kernel.shape[:2]
            peak = max(peak, kept + area * max((out + into) * kernel.itemsize, 3 * out * size))
            pooled = after.endswith("_1")
            kept += area * out * size / (4 if pooled and f"relu{place}" not in self.layers else 1)
            kept += area / 4 * out * 8 if pooled else 0  # the indices of the maxima
        return round(2.2 * peak)  # for the allocator and oneDNN

    @property
    def tables(self) -> int:
        """Bytes of the kernels transformed for minimal filtering, whatever the image's size."""
        kernels = (each.transformed for pair in self.convolutions.values() for each in pair)
        return sum(kernel.nbytes for kernel in kernels if kernel is not None)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Record:
        """(B, 3, H, W) sRGB -> the features, and what `backward` needs."""
        record = Record({}, [])
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        for place, after in zip(self.places, (*self.places[1:], ""), strict=True):
            convolution, _ = self.convolutions[place]
            x = x.to(convolution.weight.dtype)
            x = convolution(pad(x), padding=0) if place in self.reflecting else convolution(x, padding=1)
            record.tape.append(("convolve", place))
            if (layer := f"relu{place}") in self.layers:
                record.features[layer] = x.relu_().to(self.dtype)
                record.tape.extend([("rectify", record.features[layer]), ("feature", layer)])
                if after not in self.exact:
                    x = record.features[layer]
            if after.endswith("_1"):
                size = list(x.shape[-2:])
                x, origins = F.max_pool2d(x, [min(2, side) for side in size], return_indices=True)
                record.tape.append(("pool", (origins, size)))
            if layer not in self.layers:
                record.tape.append(("rectify", x.relu_().to(self.dtype)))
        return record

    @torch.no_grad()
    def backward(self, record: Record, add: Callable[[str, Tensor], None]) -> Tensor:
        """The gradient with respect to the image.

        Args:
            record: from `forward`; its tape is consumed.
            add: ``add(layer, gradient)`` adds the loss's gradient with respect to that layer's features, in place.

        Returns:
            (B, 3, H, W) float32.
        """
        gradient = torch.zeros_like(record.features[self.layers[-1]])
        while record.tape:
            operation, kept = record.tape.pop()
            if operation == "feature":
                add(kept, gradient)
            elif operation == "rectify":
                torch.ops.aten.threshold_backward.grad_input(gradient, kept, 0, grad_input=gradient)
            elif operation == "convolve":
                reflects = kept in self.reflecting
                gradient = self.convolutions[kept][1](gradient, padding=2 if reflects else 1)
                gradient = unpad(gradient) if reflects else gradient
            else:
                origins, size = kept
                gradient = F.max_unpool2d(gradient, origins, [min(2, side) for side in size], output_size=size)
        return gradient.float() / self.std


def load(name: str) -> VGG:
    """Load an encoder, frozen and in evaluation mode.

    It reads our own safetensors; torchvision's layout (``features.0.weight``), with torchvision's normalisation
    unless the file's metadata says ``preprocessing: caffe`` or its name contains "caffe"; and the original Caffe
    layout (``conv1_1.weight``, ``conv1_1.bias``). A partial file gives an encoder that ends where the file ends.

    Args:
        name: `compact`, `vgg19`, or the path of a VGG weights file.

    Returns:
        The network, on the CPU.

    Raises:
        WeightsError: the file is missing, damaged, or not a VGG.
    """
    path = file(name)
    state, metadata = weights.load(path)
    return from_state(state, metadata, path)


def file(name: str) -> Path:
    """The path of an encoder's weights: of a name in `weights.WEIGHTS`, or the name itself as a path."""
    return weights.path(name) if name in weights.WEIGHTS else Path(name)


def _normalisation(metadata: Mapping[str, str], file: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the input in an encoder's metadata; WeightsError if they are not numbers."""
    try:
        mean, std = ([float(each) for each in json.loads(metadata[name])] for name in ("mean", "std"))
        sound = len(mean) == len(std) == 3 and all(map(math.isfinite, (*mean, *std))) and min(std) > 0
    except (KeyError, TypeError, ValueError, RecursionError):
        sound = False
    if not sound:
        raise WeightsError(f"{file}: its metadata must have mean and std, three numbers each; save it again")
    return mean, std


def from_state(state: Mapping[str, Tensor], metadata: Mapping[str, str], file: Path) -> VGG:
    """The encoder in a state dict.

    Args:
        state: the weights, named as by torchvision or Caffe.
        metadata: may hold mean and std, or the preprocessing.
        file: used in messages, and its name to detect "caffe".

    Returns:
        The network, on the CPU, frozen and in evaluation mode.

    Raises:
        WeightsError: these are not the weights of a VGG.
    """
    torchvision = f"{TORCHVISION['1_1']}.weight" in state
    prefixes = TORCHVISION if torchvision else {place: f"conv{place}" for place in CONVOLUTIONS}
    places: list[str] = []
    for place in CONVOLUTIONS:
        if f"{prefixes[place]}.weight" not in state:
            break
        places.append(place)
    if not places:
        raise WeightsError(f"{file}: contains no VGG weights (neither features.0.weight nor conv1_1.weight)")
    if "mean" in metadata:
        mean, std = _normalisation(metadata, file)
        caffe = False
    else:
        caffe = not torchvision or metadata.get("preprocessing") == "caffe" or "caffe" in file.name.lower()
        mean, std = map(list, CAFFE if caffe else IMAGENET)
    for place in places:
        if state[f"{prefixes[place]}.weight"].ndim != 4:
            raise WeightsError(f"{file}: {prefixes[place]}.weight is not the kernel of a convolution")
    widths = {place: state[f"{prefixes[place]}.weight"].shape[0] for place in places}
    channels = 3
    for place, width in widths.items():  # before the network is built, which could take any amount of memory
        for part, shape in (("weight", (width, channels, 3, 3)), ("bias", (width,))):
            key = f"{prefixes[place]}.{part}"
            found = tuple(state[key].shape) if key in state else "missing"
            if found != shape:
                raise WeightsError(f"{file}: {key} should be {shape}, is {found}")
        channels = width
    with torch.random.fork_rng(devices=()):  # keep the caller's random state: the initial weights are overwritten
        marks = {key: metadata[key] for key in ("reflect", "exact") if key in metadata}
        encoder = VGG(widths, mean=mean, std=std, places=places, **marks)
    for place in places:
        convolution = getattr(encoder, f"conv{place}")
        for part, parameter in convolution.named_parameters():
            tensor = state[f"{prefixes[place]}.{part}"]
            if caffe and place == "1_1" and part == "weight":
                tensor = tensor.flip(1)  # the original expects BGR
            parameter.data.copy_(tensor)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder.requires_grad_(False).eval()
