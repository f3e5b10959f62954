"""Exchange one-pass networks with other software: PyTorch's fast_neural_style checkpoints in, ONNX out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from impasto import images
from impasto.errors import WeightsError


def from_fast_neural_style(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a checkpoint's weights to those of networks.JOHNSON, and scale them from 0 to 255 to our range.

    Running statistics in old checkpoints are dropped: instance normalisation does not use them.
    """
    places = {f"{kind}{n}": f"layers.{n - 1}" for n in (1, 2, 3) for kind in ("conv", "in")}
    places |= {f"res{n}.{kind}{m}": f"layers.{n + 2}.{('first', 'second')[m - 1]}"
               for n in range(1, 6) for m in (1, 2) for kind in ("conv", "in")}  # fmt: skip
    places |= {f"deconv{n}": f"layers.{n + 7}" for n in (1, 2, 3)} | {f"in{n + 3}": f"layers.{n + 7}" for n in (1, 2)}
    ours = {}
    for name, tensor in state.items():
        place, *rest, kind = name.split(".")
        if kind.startswith("running_") or kind == "num_batches_tracked":
            continue
        if place.startswith("res"):
            place = f"{place}.{rest.pop(0)}"
        ours[f"{places[place]}.{'convolution' if rest else 'norm'}.{kind}"] = tensor.float()
    # 255 x = 127.5 (2 x - 1) + 127.5; with reflection padding the constant is the same everywhere.
    kernel = ours["layers.0.convolution.weight"]
    ours["layers.0.convolution.bias"] = ours["layers.0.convolution.bias"] + 127.5 * kernel.sum((1, 2, 3))
    ours["layers.0.convolution.weight"] = 127.5 * kernel
    for kind in ("weight", "bias"):
        ours[f"layers.10.convolution.{kind}"] = ours[f"layers.10.convolution.{kind}"] / 255
    return ours


class _Exported(nn.Module):
    def __init__(self, network: nn.Module, margin: int, finish: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.network, self.margin, self.finish = network, margin, finish

    def forward(self, *pictures: Tensor) -> Tensor:
        first, *others = pictures
        painted = self.network(images.extend(first, self.margin), *others).clamp(0, 1)
        result: Tensor = images.cut(painted, self.margin)
        return result if self.finish is None else self.finish(result)


def to_onnx(
    network: nn.Module,
    path: Path,
    inputs: Sequence[str] = ("image",),
    *,
    channels: int = 3,
    stride: int = 0,
    margin: int = 0,
    finish: Callable[[Tensor], Tensor] | None = None,
    fold: bool = True,
) -> None:
    """Write a network as ONNX, opset 18: "image" -> "painted", float32 (B, C, H, W) sRGB in [0, 1].

    The file of a one-pass network accepts any size from 32 pixels on; unlike `onepass.apply`, it accepts no smaller
    pictures, adds no noise ("grain"), leaves faint forms as they are ("clarity", "underpainting") and looks for no
    faces. With two
    ``inputs``, the network takes a second picture, of another size. With a ``stride`` it takes one picture of
    ``channels``, whose sides are multiples of it. Without ``fold``, the weights are stored as they are, for
    `with_weights`; reading the file folds them.

    Args:
        network: takes one picture, or two.
        path: of the file.
        inputs: names of its inputs.
        channels, stride: see above; 0: one-pass networks, of three channels and any size.
        margin: pixels by which the picture is extended, and the result cut; see `onepass.Model`.
        finish: what is done to the result; see `onepass.finish`.
        fold: whether constants are folded.

    Raises:
        WeightsError: the exporter is not installed.
    """
    try:
        import onnxscript  # noqa: F401 -- needed by torch.onnx
    except ImportError:
        raise WeightsError(f"{path}: the export needs onnxscript: pip install 'impasto[export]'") from None
    free = torch.export.Dim.DYNAMIC
    examples = tuple(torch.rand(2, 3, 61 + 19 * index, 98 - 19 * index) for index in range(len(inputs)))
    shapes = ({0: free, 2: free, 3: free},) * len(inputs)
    if stride:
        examples = (torch.rand(1, channels, 3 * stride, 5 * stride),)
        shapes = ({axis: stride * torch.export.Dim(name) for axis, name in ((2, "rows"), (3, "columns"))},)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports what torchvision would add
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        program = torch.onnx.export(
            _Exported(network, margin, finish).eval(), examples, input_names=list(inputs),
            output_names=["painted"], opset_version=18, dynamo=True, verbose=False, optimize=fold,
            dynamic_shapes=(shapes,),
        )  # fmt: skip
    assert program is not None
    program.save(path, external_data=False)


def with_weights(file: Path, network: nn.Module, path: Path) -> None:
    """Copy an ONNX file, with the weights of another network of the same architecture.

    Args:
        file: written by `to_onnx` without ``fold``.
        network: whose weights are written.
        path: of the new file.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(file)
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    named = {each.name: each for each in model.graph.initializer}
    for name, tensor in state.items():
        named[name].CopyFrom(numpy_helper.from_array(tensor.numpy(), name))
    onnx.save(model, path)
