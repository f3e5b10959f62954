"""The generators and the PatchGAN: parameter counts, shapes, initialisation, losses by hand."""

import math

import pytest
import torch
from torch import nn

from impasto.generators import PatchGAN, ResNet, Shape, UNet, judged


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_of_the_paper() -> None:
    """54.414 M, 41.829 M, 2.769 M: as the authors' implementation prints them."""
    with torch.device("meta"):
        assert count(UNet(Shape())) == 54_413_955
        assert count(UNet(Shape(depth=7))) == 41_828_995
        assert count(ResNet(Shape("resnet", depth=9, norm="instance"))) == 11_378_179
        assert count(PatchGAN(6)) == 2_768_705


def test_shape_of_each_layer() -> None:
    network = UNet(Shape(width=2))
    shapes: list[tuple[int, ...]] = []
    for layer in (*network.down, *network.up):
        layer.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 3, 256, 256)
    down = [(2, 128), (4, 64), (8, 32), (16, 16), (16, 8), (16, 4), (16, 2), (16, 1)]
    up = [(16, 2), (16, 4), (16, 8), (16, 16), (8, 32), (4, 64), (2, 128), (3, 256)]
    assert shapes == [(channels, side, side) for channels, side in down + up]


def test_dropout_in_the_first_three_layers_of_the_decoder() -> None:
    dropping = [any(isinstance(m, nn.Dropout) for m in layer) for layer in UNet(Shape(width=1)).up]
    assert dropping == [True] * 3 + [False] * 5
    assert not any(isinstance(m, nn.Dropout) for m in UNet(Shape(width=1, dropout=0.0)).modules())


@pytest.mark.parametrize("kind", [UNet, ResNet])
@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_channels_and_sizes(kind: type, resize: bool, norm: str) -> None:
    name = "unet" if kind is UNet else "resnet"
    shape = Shape(name, inputs=1, outputs=5, width=2, depth=3, norm=norm, resize=resize)  # type: ignore[arg-type]
    assert shape.stride == (8 if kind is UNet else 4)
    y = kind(shape)(torch.rand(2, 1, 24, 40))
    assert y.shape == (2, 5, 24, 40) and y.abs().max() <= 1


def test_initialisation() -> None:
    torch.manual_seed(0)
    network = UNet(Shape(width=16))
    assert float(network.down[4][1].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    scales = torch.cat([m.weight.detach() for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert float(scales.mean()) == pytest.approx(1, abs=5e-3) and float(scales.std()) == pytest.approx(0.02, rel=0.2)
    assert not network.up[-1][1].bias.any()


def test_batch_normalisation_uses_the_picture_itself_when_applied() -> None:
    """As in the paper, with one picture: its own mean and deviation, in training and later."""
    torch.manual_seed(0)
    network = UNet(Shape(width=2, depth=3, dropout=0.0))
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(network.train()(x), network.eval()(x))
    assert not any("running" in name for name in network.state_dict())


@pytest.mark.parametrize(("layers", "patch"), [(0, 1), (1, 16), (3, 70), (5, 286)])
def test_patches(layers: int, patch: int) -> None:
    """The sizes of section 4.4 of the paper; a logit depends on nothing outside of its patch."""
    critic = PatchGAN(2, 1, layers).eval()
    assert critic.patch == patch


def test_a_logit_sees_70_pixels() -> None:
    torch.manual_seed(0)
    critic = PatchGAN(1, 4)
    critic.layers = nn.Sequential(
        *(m for m in critic.layers if not isinstance(m, nn.BatchNorm2d))
    )  # it sees everything
    x = torch.rand(1, 1, 160, 160, requires_grad=True)
    logits = critic(x)
    assert logits.shape[-2:] == (18, 18)  # 30 for 256 pixels
    logits[0, 0, 9, 9].backward()
    rows = x.grad[0, 0].any(1).nonzero()[:, 0]
    assert int(rows.max() - rows.min()) + 1 == 70


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])  # probabilities 1/2 and 3/4
    assert float(judged(logits, True, "bce")) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert float(judged(logits, False, "bce")) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert float(judged(torch.tensor([0.5, 2.0]), True, "lsgan")) == pytest.approx((0.25 + 1) / 2)
    assert float(judged(torch.tensor([0.5, 2.0]), False, "lsgan")) == pytest.approx((0.25 + 4) / 2)
