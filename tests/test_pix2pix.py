"""Applying networks of paired translation: any size, tiles, channels, model files."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from impasto import bundled, images, pix2pix
from impasto.cli import main
from impasto.errors import DivergedError, InputError, WeightsError
from impasto.generators import ResNet, Shape, UNet
from impasto.pix2pix import Model


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 40), (16, 16), (33, 18), (61, 98)])
def test_any_size(height: int, width: int) -> None:
    torch.manual_seed(0)
    model = Model(UNet(Shape(width=2, depth=4)), "given", {})
    image = torch.rand(1, 3, height, width)
    result = pix2pix.apply(image, model)
    assert result.shape == image.shape and result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 3), (1, 9)])
def test_small_pictures_by_residual_blocks(norm: Any, height: int, width: int) -> None:
    model = Model(ResNet(Shape(kind="resnet", width=2, depth=2, norm=norm)), "given", {})
    assert pix2pix.apply(torch.rand(1, 3, height, width), model).shape == (1, 3, height, width)


def test_padding_is_by_reflection() -> None:
    assert pix2pix._reflected(3, 4, 8).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert pix2pix._reflected(3, 8).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert pix2pix._reflected(1, 4).tolist() == [0, 0, 0, 0]
    assert pix2pix._reflected(8, 4).tolist() == list(range(8))


def test_tiles_add_up_and_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pix2pix, "TILE", 32)
    monkeypatch.setattr(pix2pix, "OVERLAP", 8)
    for length in (20, 32, 33, 56, 57, 200):
        total = torch.zeros(length)
        for start, end, share in pix2pix._tiles(length):
            assert end - start <= 32 and (share > 0).all()
            total[start:end] += share
        assert torch.allclose(total, torch.ones(length), atol=1e-6)


def test_tiles_of_a_local_network_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that sees one pixel: tiles and their seams must not show."""

    class Pixel(nn.Module):
        shape = Shape(depth=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -x / 2

    model = Model(Pixel(), "given", {})
    source = torch.rand(1, 3, 70, 45) * 2 - 1
    monkeypatch.setattr(pix2pix, "TILE", 32)
    monkeypatch.setattr(pix2pix, "OVERLAP", 8)
    assert torch.allclose(pix2pix.translate(source, model, precision="float32"), -source / 2, atol=1e-6)


def test_dropout_is_noise() -> None:
    torch.manual_seed(0)
    model = Model(UNet(Shape(width=4, depth=4)), "given", {})
    image = torch.rand(1, 3, 32, 32)
    one, again, other, none, still = (pix2pix.apply(image, model, seed=seed) for seed in (1, 1, 2, None, None))
    assert torch.equal(one, again) and torch.equal(none, still)
    assert not torch.equal(one, other) and not torch.equal(one, none)


def test_channels() -> None:
    model = Model(UNet(Shape(inputs=1, outputs=5, width=2, depth=3)), "given", {})
    assert pix2pix.apply(torch.rand(1, 3, 9, 9), model).shape == (1, 5, 9, 9)
    with pytest.raises(InputError, match="1 channels, not 4"):
        pix2pix.apply(torch.rand(1, 4, 9, 9), model)


@pytest.mark.parametrize("kind", ["given", "edges"])
def test_save_and_load(tmp_path: Path, kind: Any) -> None:
    torch.manual_seed(0)
    network = UNet(Shape(inputs=1 if kind == "edges" else 3, width=2, depth=3))
    pix2pix.save(tmp_path / "m.safetensors", Model(network, kind, {"recipe": "{}"}))
    model = pix2pix.load(tmp_path / "m.safetensors")
    assert model.kind == kind and model.metadata["recipe"] == "{}" and pix2pix.made(tmp_path / "m.safetensors")
    image = torch.rand(1, 3, 20, 12)
    near = pix2pix.apply(image, Model(network, kind, {}), precision="float32")
    assert torch.allclose(pix2pix.apply(image, model, precision="float32"), near, atol=5e-3)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="neither a bundled model"):
        pix2pix.load("nothing")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="not a model of impasto pix2pix"):
        pix2pix.load(tmp_path / "x.safetensors")
    assert not pix2pix.made(tmp_path / "x.safetensors") and not pix2pix.made(tmp_path / "missing.safetensors")
    network = UNet(Shape(width=2, depth=3))
    network.down[0][0].weight.data.fill_(float("nan"))
    with pytest.raises(DivergedError):
        pix2pix.save(tmp_path / "n.safetensors", Model(network, "given", {}))
    assert not (tmp_path / "n.safetensors").exists()


@pytest.mark.parametrize(
    "built",
    [
        {"widths": [48, 96, 4096]}, {"widths": [48, 96]}, {"widths": [48, 96, -1]}, {"widths": ["a", 96, 128]},
        {**asdict(Shape(width=2, depth=3)), "width": 1024}, {**asdict(Shape(width=2, depth=3)), "depth": 2},
    ],
)  # fmt: skip
def test_a_network_is_built_only_with_the_shapes_of_its_file(
    built: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    tensors = UNet(Shape(width=2, depth=3)).state_dict() | {"centres": torch.zeros(4, 2)}
    save_file(tensors, tmp_path / "m.safetensors", {"translation": json.dumps(built), "pairs": "given"})
    places: list[str] = []

    def spied(made: Any) -> Any:
        return lambda *given: places.append(torch.empty(0).device.type) or made(*given)  # type: ignore[func-returns-value]

    monkeypatch.setattr(pix2pix, "Colorizer", spied(pix2pix.Colorizer))
    monkeypatch.setitem(pix2pix.GENERATORS, "unet", spied(UNet))
    with pytest.raises(WeightsError, match="not a model of impasto pix2pix"):
        pix2pix.load(tmp_path / "m.safetensors")
    assert places == ["meta"]


@pytest.mark.parametrize(
    ("shape", "needed"),
    [
        (Shape(width=2, depth=4), 16),
        (Shape(width=2, depth=4, resize=True, norm="instance"), 16),
        (Shape(kind="resnet", width=2, depth=2), 4),
        (Shape(inputs=1, outputs=2, width=2, depth=3), 8),
    ],
)
def test_export(shape: Shape, needed: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    from impasto import interop

    torch.manual_seed(0)
    generator = UNet(shape) if shape.kind == "unet" else ResNet(shape)
    model = Model(generator, "given", {})
    network, channels, stride = pix2pix.exportable(model)
    assert (channels, stride) == (shape.inputs, needed)
    interop.to_onnx(network, tmp_path / "m.onnx", channels=channels, stride=stride)
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    image = torch.rand(1, shape.inputs, 32, 80)
    (ours,) = session.run(None, {"image": image.numpy()})
    wanted = pix2pix.apply(image, model, seed=None, precision="float32")
    assert np.abs(ours - wanted.numpy()).max() < 1e-4


def test_export_of_the_bundled_network(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    out = tmp_path / "m.onnx"
    assert main(["export", "colorize", "-o", str(out)]) == 0
    session = runtime.InferenceSession(out)
    photograph = images.to_tensor(bundled.locate("coffee"))
    for height, width in ((64, 96), (32, 48)):
        image = images.resize(photograph, height, width)
        (ours,) = session.run(None, {"image": image.numpy()})
        wanted = pix2pix.apply(image, "colorize", precision="float32")
        assert (wanted - image).abs().mean() > 0.02
        assert np.abs(ours - wanted.numpy()).max() < 1e-3
