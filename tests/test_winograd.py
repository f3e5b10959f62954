"""Minimal filtering gives the same result as a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import winograd


def layer(outputs: int, inputs: int, height: int, width: int, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / (9 * inputs) ** 0.5
    return torch.randn(batch, inputs, height, width, generator=generator), weight, torch.randn(outputs)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), [(3, 3), (4, 8), (5, 7), (18, 34), (61, 130)])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_convolution(height: int, width: int, padding: int, batch: int) -> None:
    x, weight, bias = layer(5, 6, height, width, batch)
    found = winograd.convolve(x, winograd.transform(weight), bias, padding)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - expected).norm() < 2e-6 * expected.norm()


@pytest.mark.parametrize("channels", [128, 512])
def test_rounding_in_float32(channels: int) -> None:
    x, weight, _ = layer(channels, channels, 16, 16)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    found, plain = winograd.Convolution(weight)(x, padding=1), F.conv2d(x, weight, padding=1)
    assert 0 < (found - plain).norm() < 2e-6 * expected.norm()  # not computed by PyTorch's convolution
    assert (found - expected).norm() < 2e-6 * expected.norm()


def test_rounding_in_bfloat16() -> None:
    x, weight, bias = (tensor.bfloat16() for tensor in layer(64, 64, 32, 32))
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    found = winograd.convolve(x, winograd.transform(weight), bias, padding=1)
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() < 0.015 * expected.norm()


def test_any_layout_and_part_of_a_picture() -> None:
    x, weight, bias = layer(128, 128, 20, 24)
    whole = F.conv2d(x, weight, bias, padding=1)
    convolution = winograd.Convolution(weight, bias)
    kept = x.clone()
    for each in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(convolution(each, padding=1), whole, rtol=1e-4, atol=1e-4)
        inner = convolution(each[..., 2:19, 5:], padding=0)
        torch.testing.assert_close(inner[..., :, :-1], whole[..., 3:18, 6:-2], rtol=1e-4, atol=1e-4)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("amx", [False, True])
def test_minimal_filtering_is_used_only_where_it_is_faster(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    for outputs, inputs, dtype, expected in (
        (128, 128, torch.float32, True),
        (512, 512, torch.float32, True),
        (64, 128, torch.float32, False),
        (64, 3, torch.float32, False),
        (128, 128, torch.bfloat16, False),
        (256, 256, torch.bfloat16, not amx),
        (512, 512, torch.bfloat16, not amx),
    ):
        convolution = winograd.Convolution(torch.zeros(outputs, inputs, 3, 3, dtype=dtype))
        assert (convolution.transformed is not None) == expected
    assert winograd.Convolution(torch.zeros(512, 512, 3, 3), minimal=False).transformed is None
