"""The baseline: the loop that PyTorchBlog describes, in eager float32, with a VGG-19 of random weights.

As in the article, the whole network runs twice in each iteration, once for the content layer and once for the style
layers, and Adam updates the pixels. Written from the description, for timing only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONTENT, STYLE = 21, (0, 5, 10, 19, 28)  # torchvision's indices of conv4_2 and conv1_1, 2_1, 3_1, 4_1, 5_1


def vgg19() -> nn.Sequential:
    """VGG-19's features in torchvision's layout, with random weights."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers).requires_grad_(False)


def features(network: nn.Sequential, image: Tensor, wanted: tuple[int, ...]) -> dict[int, Tensor]:
    found, x = {}, image.clone()
    for index, layer in enumerate(network):
        x = layer(x)
        if index in wanted:
            found[index] = x
    return found


def gram(x: Tensor) -> Tensor:
    flat = x.clone().squeeze(0).flatten(1)
    return flat @ flat.T


def iteration(content: Tensor, style: Tensor) -> Callable[[], float]:
    """Prepare the targets; returns one iteration of the loop, to be timed."""
    network = vgg19()
    kept = features(network, content, (CONTENT,))
    targets = {index: gram(x) for index, x in features(network, style, STYLE).items()}
    image = content.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.005)

    def body() -> float:
        content_features = features(network, image, (CONTENT,))
        style_features = features(network, image, STYLE)
        optimizer.zero_grad()
        loss = F.mse_loss(content_features[CONTENT], kept[CONTENT])
        for index in STYLE:
            loss = loss + 100 * 0.2 * F.mse_loss(gram(style_features[index]), targets[index])
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return body
