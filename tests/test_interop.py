"""Networks from and for other software."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import interop, onepass
from impasto.networks import Network
from impasto.onepass import Model


class Theirs(nn.Module):
    """The computation of PyTorch's fast_neural_style example, reimplemented from its description."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"conv1": (3, 32, 9), "conv2": (32, 64, 3), "conv3": (64, 128, 3), "deconv1": (128, 64, 3),
                  "deconv2": (64, 32, 3), "deconv3": (32, 3, 9)}  # fmt: skip
        for name, (inputs, outputs, kernel) in shapes.items():
            self.add_module(name, nn.ModuleDict({"conv2d": nn.Conv2d(inputs, outputs, kernel)}))
        for index, channels in enumerate((32, 64, 128, 64, 32), 1):
            self.add_module(f"in{index}", nn.InstanceNorm2d(channels, affine=True, track_running_stats=True))
        for index in range(1, 6):
            block: dict[str, nn.Module] = {}
            for n in (1, 2):
                block[f"conv{n}"] = nn.ModuleDict({"conv2d": nn.Conv2d(128, 128, 3)})
                block[f"in{n}"] = nn.InstanceNorm2d(128, affine=True, track_running_stats=True)
            self.add_module(f"res{index}", nn.ModuleDict(block))

    def forward(self, x: Tensor) -> Tensor:
        def convolve(layer: Any, x: Tensor, stride: int = 1, up: int = 1) -> Tensor:
            conv = layer["conv2d"]
            x = x.repeat_interleave(up, 2).repeat_interleave(up, 3)
            margin = conv.kernel_size[0] // 2
            return F.conv2d(F.pad(x, [margin] * 4, mode="reflect"), conv.weight, conv.bias, stride)

        def norm(layer: Any, x: Tensor) -> Tensor:
            variance, mean = torch.var_mean(x, (2, 3), keepdim=True, correction=0)
            return (x - mean) / (variance + 1e-5).sqrt() * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)

        parts: Any = self
        y = norm(parts.in1, convolve(parts.conv1, x)).relu()
        y = norm(parts.in2, convolve(parts.conv2, y, 2)).relu()
        y = norm(parts.in3, convolve(parts.conv3, y, 2)).relu()
        for index in range(1, 6):
            block = getattr(parts, f"res{index}")
            inner = norm(block["in1"], convolve(block["conv1"], y)).relu()
            y = norm(block["in2"], convolve(block["conv2"], inner)) + y
        y = norm(parts.in4, convolve(parts.deconv1, y, up=2)).relu()
        y = norm(parts.in5, convolve(parts.deconv2, y, up=2)).relu()
        return convolve(parts.deconv3, y)


def test_fast_neural_style_checkpoints(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = Theirs().eval()
    for name, parameter in theirs.named_parameters():
        if "in" in name.split(".")[-2]:
            nn.init.uniform_(parameter, 0.5, 1.5)
    with torch.no_grad():
        theirs.deconv3["conv2d"].weight.mul_(200)  # type: ignore[index]
        theirs.deconv3["conv2d"].bias.fill_(120)  # type: ignore[index]
    path = tmp_path / "mosaic.pth"
    torch.save(theirs.state_dict(), path)  # with the running statistics of old checkpoints
    image = torch.rand(1, 3, 44, 52)
    with torch.no_grad():
        wanted = theirs(255 * image).clamp(0, 255) / 255
    assert float(wanted.std()) > 0.1
    painted = onepass.apply(image, path, grain=0, clarity=0, crispness=0, precision="float32")
    torch.testing.assert_close(painted, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("metadata", [{}, {"recipe": '{"crispness": 0.5}'}], ids=["third-party", "ours"])
def test_onnx(metadata: dict[str, str], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = Model(Network(SMALL).eval(), metadata)
    path = tmp_path / "model.onnx"
    interop.to_onnx(model.network, path, margin=model.margin, finish=onepass.finish(model))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for size in ((1, 3, 64, 64), (2, 3, 51, 77), (1, 3, 240, 33)):
        image = torch.rand(*size)
        (painted,) = session.run(None, {"image": image.numpy()})
        wanted = onepass.apply(image, model, grain=0, clarity=0, precision="float32")
        torch.testing.assert_close(torch.from_numpy(painted), wanted, rtol=0, atol=1e-3)
