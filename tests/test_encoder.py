"""VGG compared with NumPy and SciPy, and all layouts of weights files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from safetensors.torch import save_file
from scipy.signal import correlate
from torch import Tensor

from impasto import encoder
from impasto.encoder import CONVOLUTIONS, LAYERS, VGG
from impasto.errors import InputError, WeightsError

WIDTHS = (4, 4, 6, 6, 6)

# torchvision's `vgg19().features`: M is a pool; each convolution is followed by its ReLU.
CONFIGURATION = [entry for depth in (2, 2, 4, 4, 4) for entry in (*["convolution"] * depth, "M")]


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def own_state(network: VGG) -> dict[str, Tensor]:
    """The weights under our (and Caffe's) names, conv1_1.weight."""
    return {key: value.clone() for key, value in network.state_dict().items()}


def torchvision_state(network: VGG) -> dict[str, Tensor]:
    """The weights under torchvision's names, which count the modules."""
    state: dict[str, Tensor] = {}
    index = 0
    places = iter(network.places)
    for entry in CONFIGURATION:
        if entry == "M":
            index += 1
        elif (place := next(places, None)) is not None:
            for part in ("weight", "bias"):
                state[f"features.{index}.{part}"] = getattr(getattr(network, f"conv{place}"), part).clone()
            index += 2  # the convolution and its ReLU
    return state


# Forward ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reflect", ["", "1_2"])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_two_blocks_against_scipy(size: tuple[int, int], reflect: str) -> None:
    network = randomise(VGG(WIDTHS, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), reflect=reflect))
    image = picture(*size)
    x = (image[0].numpy() - np.reshape((0.4, 0.5, 0.6), (3, 1, 1))) / np.reshape((0.2, 0.3, 0.4), (3, 1, 1))
    expected = {}
    for place in ("1_1", "1_2", "2_1", "2_2"):
        if place == "2_1":
            height, width = x.shape[1] // 2, x.shape[2] // 2
            x = x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2).max(axis=(2, 4))
        convolution = getattr(network, f"conv{place}")
        kernels, bias = convolution.weight.numpy(), convolution.bias.numpy()
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), "reflect" if reflect and place != "1_1" else "constant")
        x = np.stack([correlate(padded, kernel, mode="valid")[0] + b for kernel, b in zip(kernels, bias, strict=True)])
        x = np.maximum(x, 0)
        expected[f"relu{place}"] = x
    found = network(image, expected)
    assert list(found) == list(expected)
    for layer, values in expected.items():
        assert values.max() > 0.1  # not all dead
        np.testing.assert_allclose(found[layer][0].numpy(), values, atol=1e-4)


def test_shapes_of_every_layer() -> None:
    found = randomise(VGG(WIDTHS))(picture(37, 50).expand(2, -1, -1, -1), LAYERS)
    sizes = {1: (37, 50), 2: (18, 25), 3: (9, 12), 4: (4, 6), 5: (2, 3)}
    for layer, x in found.items():
        block = int(layer[4])
        assert x.shape == (2, WIDTHS[block - 1], *sizes[block])
    assert tuple(found) == LAYERS
    assert len(LAYERS) == 16


@pytest.mark.parametrize(
    ("size", "deepest"), [((1, 1), (1, 1)), ((1, 40), (1, 2)), ((40, 1), (2, 1)), ((3, 17), (1, 1)), ((33, 3), (2, 1))]
)
def test_small_pictures(size: tuple[int, int], deepest: tuple[int, int]) -> None:
    """Sizes are rounded down, but are at least 1: 40 -> 20 -> 10 -> 5 -> 2."""
    for reflect in ("", "1_1"):
        found = randomise(VGG(WIDTHS, reflect=reflect))(picture(*size), ["relu5_1"])["relu5_1"]
        assert found.shape == (1, 6, *deepest)
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("layer", ["relu1_1", "relu2_1", "relu4_2", "relu5_4"])
def test_forward_stops_at_the_deepest_layer(layer: str) -> None:
    network = randomise(VGG(WIDTHS))
    ran = []
    for name, module in network.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    network(picture(16, 16), ["relu1_1", layer])
    assert ran == [f"conv{place}" for place in CONVOLUTIONS[: LAYERS.index(layer) + 1]]


def test_layers_are_returned_sorted_and_once() -> None:
    found = randomise(VGG(WIDTHS))(picture(16, 16), ["relu3_1", "relu1_2", "relu3_1"])
    assert list(found) == ["relu1_2", "relu3_1"]


def test_activations_are_not_changed_by_deeper_layers() -> None:
    """In-place ReLUs, as in torchvision, would change them."""
    network = randomise(VGG(WIDTHS))
    alone = network(picture(16, 16), ["relu2_1"])["relu2_1"]
    assert torch.equal(alone, network(picture(16, 16), ["relu2_1", "relu2_2", "relu3_1"])["relu2_1"])


def test_the_gradient_reaches_the_picture() -> None:
    image = picture(16, 16).requires_grad_()
    randomise(VGG(WIDTHS))(image, ["relu5_1"])["relu5_1"].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0


@pytest.mark.parametrize("layer", ["relu6_1", "conv4_2", "relu1_3", "22", ""])
def test_unknown_layers(layer: str) -> None:
    with pytest.raises(InputError, match="unknown layer"):
        VGG(WIDTHS)(picture(8, 8), ["relu1_1", layer])


def test_no_layer() -> None:
    with pytest.raises(InputError, match="no layer"):
        VGG(WIDTHS)(picture(8, 8), [])


def test_layers_missing_in_a_partial_encoder() -> None:
    network = VGG(WIDTHS, places=CONVOLUTIONS[:5])
    assert network(picture(8, 8), ["relu3_1"])["relu3_1"].shape == (1, 6, 2, 2)
    with pytest.raises(InputError, match=r"ends at relu3_1 and has no relu3_2"):
        network(picture(8, 8), ["relu3_2"])


# Files --------------------------------------------------------------------------------------------------------------


def test_own_file(tmp_path: Path) -> None:
    network = randomise(VGG(WIDTHS, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)))
    file = tmp_path / "caffe.safetensors"  # mean and std in the file take precedence over its name
    metadata = {"mean": json.dumps([0.1, 0.2, 0.3]), "std": json.dumps([1.0, 2.0, 3.0])}
    save_file(own_state(network), file, metadata)
    loaded = encoder.load(str(file))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    expected = network(picture(16, 16), LAYERS)
    for layer, x in loaded(picture(16, 16), LAYERS).items():
        torch.testing.assert_close(x, expected[layer], rtol=1e-4, atol=1e-5)


def test_torchvision_indices() -> None:
    # features.0, 5, 10, 19, 28 are PyTorchBlog's and PyTorchFive's; 21 is PyTorchBlog's conv4_2.
    numbers = {place: encoder.TORCHVISION[place] for place in ("1_1", "2_1", "3_1", "4_1", "5_1", "4_2")}
    assert [name.removeprefix("features.") for name in numbers.values()] == ["0", "5", "10", "19", "28", "21"]


def test_torchvision_layout() -> None:
    network = randomise(VGG(WIDTHS, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    state = torchvision_state(network)
    assert len(state) == 32
    classifier = {"classifier.0.weight": torch.zeros(4, 4)}
    loaded = encoder.from_state(state | classifier, {}, Path("vgg19-dcbb9e9d.pth"))
    expected = network(picture(16, 16), LAYERS)
    for layer, x in loaded(picture(16, 16), LAYERS).items():
        torch.testing.assert_close(x, expected[layer], rtol=1e-4, atol=1e-5)


def caffe_features(bgr: VGG, image: Tensor, layer: str) -> Tensor:
    """Caffe's computation: BGR, 0 to 255, minus 103.939, 116.779, 123.68; kernels as in the file."""
    plain = VGG(WIDTHS, mean=(0, 0, 0), std=(1, 1, 1))
    plain.load_state_dict(bgr.state_dict())
    return plain(255 * image.flip(1) - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1), [layer])[layer]


def small_kernels(network: VGG) -> VGG:
    network.conv1_1.weight.data /= 50  # for values of some hundreds
    return network


@pytest.mark.parametrize("layer", ["relu1_1", "relu3_1"])
def test_caffe_layout(layer: str) -> None:
    bgr = small_kernels(randomise(VGG(WIDTHS)))
    image = picture(16, 16)
    expected = caffe_features(bgr, image, layer)
    assert expected.max() > 0.1
    for state, metadata, name in (
        (own_state(bgr), {}, "vgg_conv.pth"),
        (torchvision_state(bgr), {}, "VGG19-Caffe.pth"),
        (torchvision_state(bgr), {"preprocessing": "caffe"}, "vgg19.safetensors"),
    ):
        loaded = encoder.from_state(state, metadata, Path(name))
        torch.testing.assert_close(loaded(image, [layer])[layer], expected, rtol=1e-3, atol=1e-4)
    # Without these signs the same weights are read as torchvision's, and give other features.
    other = encoder.from_state(torchvision_state(bgr), {}, Path("vgg19.pth"))(image, [layer])[layer]
    assert not torch.allclose(other, expected, rtol=1e-1, atol=1e-2)


def test_caffe_is_an_rgb_encoder_with_flipped_kernels() -> None:
    bgr = randomise(VGG(WIDTHS))
    rgb = VGG(WIDTHS, mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=(1 / 255,) * 3)
    state = own_state(bgr)
    rgb.load_state_dict(state | {"conv1_1.weight": state["conv1_1.weight"].flip(1)})
    loaded = encoder.from_state(state, {}, Path("weights.pth"))
    image = picture(16, 16)
    torch.testing.assert_close(loaded(image, ["relu4_1"]), rgb(image, ["relu4_1"]), rtol=1e-3, atol=1e-3)


def test_both_preprocessings_agree() -> None:
    """Caffe's input is 255 v - m, torchvision's (v - mean) / std = t, so that 255 v - m = 255 std t + 255 mean - m.

    Kernels times 255 std, and bias plus kernels times (255 mean - m), make up for it; not at the edge, where Caffe's
    padding is m and torchvision's the mean. That edge is 1 wide after conv1_1, 2, (pool) 1, 2, 3, (pool) 2, 3.
    """
    bgr = small_kernels(randomise(VGG(WIDTHS)))
    caffe = encoder.from_state(own_state(bgr), {}, Path("caffe.pth"))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    offset = 255 * mean - torch.tensor([123.68, 116.779, 103.939])
    state = torchvision_state(bgr)
    kernels = state["features.0.weight"].flip(1)  # RGB
    state["features.0.weight"] = kernels * (255 * std).view(1, 3, 1, 1)
    state["features.0.bias"] = state["features.0.bias"] + (kernels * offset.view(1, 3, 1, 1)).sum((1, 2, 3))
    torchvision = encoder.from_state(state, {}, Path("vgg19.pth"))
    image = picture(40, 48)
    one, other = (network(image, ["relu3_1"])["relu3_1"][..., 3:-3, 3:-3] for network in (caffe, torchvision))
    assert one.shape == (1, 6, 4, 6)
    assert one.max() > 0.1
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [own_state, torchvision_state])
def test_partial_files(layout: object) -> None:
    whole = randomise(VGG(WIDTHS))
    state = layout(VGG(WIDTHS, places=CONVOLUTIONS[:9]))  # type: ignore[operator]
    loaded = encoder.from_state(state, {}, Path("partial.pth"))
    assert loaded.places == whole.places[:9]
    assert loaded(picture(16, 16), ["relu4_1"])["relu4_1"].shape == (1, 6, 2, 2)
    with pytest.raises(InputError, match="relu4_2"):
        loaded(picture(16, 16), ["relu4_2"])


def test_a_file_declares_width_border_and_precision_of_each_convolution() -> None:
    places = CONVOLUTIONS[:4]
    whole = randomise(VGG({"1_1": 4, "1_2": 5, "2_1": 6, "2_2": 3}, places=places, reflect="2_1", exact="1_2"))
    metadata = {"mean": "[0.485, 0.456, 0.406]", "std": "[0.229, 0.224, 0.225]", "reflect": "2_1", "exact": "1_2"}
    loaded = encoder.from_state(whole.state_dict(), metadata, Path("narrow.safetensors"))
    found, expected = (network(picture(16, 16), ["relu2_2"])["relu2_2"] for network in (loaded, whole))
    assert found.shape == (1, 3, 8, 8)
    torch.testing.assert_close(found, expected)
    convolutions = encoder.Frozen(loaded, ["relu2_2"], torch.bfloat16).convolutions
    assert [convolutions[place][0].weight.dtype for place in places] == [torch.float32] * 2 + [torch.bfloat16] * 2


def test_an_encoder_ends_at_a_missing_layer() -> None:
    state = own_state(VGG(WIDTHS))
    del state["conv3_2.weight"]
    assert encoder.from_state(state, {}, Path("gap.pth")).places[-1] == "3_1"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("conv1_2.weight", torch.zeros(4, 5, 3, 3)),
        ("conv2_1.weight", torch.zeros(4, 4, 5, 5)),
        ("conv3_3.bias", torch.zeros(5)),
        ("conv4_2.bias", None),
    ],
)
def test_wrong_shapes(key: str, value: Tensor | None) -> None:
    state = own_state(VGG(WIDTHS))
    del state[key]
    if value is not None:
        state[key] = value
    with pytest.raises(WeightsError, match=rf"broken\.pth: {key} should be"):
        encoder.from_state(state, {}, Path("broken.pth"))


def test_a_file_without_a_vgg() -> None:
    with pytest.raises(WeightsError, match=r"resnet\.pth: contains no VGG"):
        encoder.from_state({"layer1.0.conv1.weight": torch.zeros(4, 4, 3, 3)}, {}, Path("resnet.pth"))


def test_a_missing_file() -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        encoder.load("nowhere.safetensors")
    assert encoder.file("some/where.pth") == Path("some/where.pth")


def test_shapes_are_checked_before_the_network_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of these widths would take 14 GB."""
    state = {"conv1_1.weight": torch.zeros(20000, 3, 1, 1).expand(-1, -1, 3, 3), "conv1_1.bias": torch.zeros(20000)}
    state |= {"conv1_2.weight": torch.zeros(20000, 1, 1, 1), "conv1_2.bias": torch.zeros(20000)}
    monkeypatch.delattr(encoder, "VGG")
    with pytest.raises(WeightsError, match=r"conv1_2\.weight should be \(20000, 20000, 3, 3\), is \(20000, 1, 1, 1\)"):
        encoder.from_state(state, {}, Path("wide.pth"))
