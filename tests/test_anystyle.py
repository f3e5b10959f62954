"""Any painting in one pass: statistics, transport, tiles, and the embedded network."""

from pathlib import Path

import pytest
import torch
from conftest import one_line, save_picture
from torch import Tensor

from impasto import anystyle, cli, images, onepass, tiling, weights
from impasto.anystyle import Repainter, Style
from impasto.errors import InputError, WeightsError
from impasto.moments import Moments
from impasto.networks import Statistics


def picture(height: int, width: int, *, seed: int) -> Tensor:
    """(1, 3, H, W) smooth random colours."""
    small = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(seed))
    return images.resize(small, height, width)


@pytest.fixture(scope="module")
def network() -> Repainter:
    return anystyle.load()[0]


@pytest.fixture
def style(network: Repainter) -> Style:
    return network.style_of(picture(48, 64, seed=1))


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_tiles_change_nothing(network: Repainter, style: Style, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = picture(150, 201, seed=2), picture(150, 201, seed=3)[:, :1] if masked else None
    whole = network(image, style, mask=mask)
    monkeypatch.setattr(anystyle, "WHOLE", 100)
    monkeypatch.setattr(tiling, "TILE", 64)
    monkeypatch.setattr(tiling, "HALO", 64)
    assert len(list(tiling.tiles(152, 208))) == 12
    torch.testing.assert_close(network(image, style, mask=mask), whole, rtol=0, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (7, 40), (33, 35)])
def test_sizes(network: Repainter, style: Style, size: tuple[int, int]) -> None:
    painted = network(picture(*size, seed=2), style)
    assert painted.shape == (1, 3, *size) and painted.isfinite().all()


@torch.no_grad()
def test_a_batch_is_painted_like_its_pictures(network: Repainter, style: Style) -> None:
    batch = torch.cat([picture(48, 64, seed=seed) for seed in (5, 6)])
    singles = torch.cat([network(each[None], style) for each in batch])
    torch.testing.assert_close(network(batch, style), singles, rtol=0, atol=1e-3)


def test_the_embedded_network() -> None:
    network, metadata = anystyle.load()
    assert weights.path("any-style").stat().st_size < 4e6
    assert {"recipe", "photographs", "paintings"} <= set(metadata)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_painting_gives_its_colours_and_keeps_the_structure() -> None:
    photograph = picture(96, 128, seed=7)
    painting = 0.5 * picture(96, 96, seed=8) + torch.tensor([0.5, 0.2, 0.0]).view(1, 3, 1, 1)
    painted = onepass.apply(photograph, onepass.from_painting(painting), precision="float32")
    colours = [image.mean((2, 3)) for image in (photograph, painting, painted)]
    assert (colours[2] - colours[1]).norm() < 0.3 * (colours[0] - colours[1]).norm()
    light = [image.mean(1).flatten() for image in (photograph, painted)]
    assert torch.corrcoef(torch.stack(light))[0, 1] > 0.5


def test_strength() -> None:
    photograph, model = picture(40, 56, seed=9), onepass.from_painting(picture(40, 40, seed=10))
    at = {s: onepass.apply(photograph, model, strength=s, grain=0, precision="float32") for s in (0, 0.02, 0.5, 1)}
    assert torch.equal(at[0], photograph)
    distances = [float((image - photograph).abs().mean()) for image in at.values()]
    assert distances == sorted(distances) and distances[1] < 0.1 * distances[3]


def test_mixtures_of_paintings() -> None:
    photograph = picture(40, 56, seed=11)
    first, second = (onepass.from_painting(picture(40, 40, seed=seed)) for seed in (12, 13))
    alone, mixed, other = (
        onepass.apply(photograph, [first, second], style_weights=shares, precision="float32")
        for shares in ([1, 0], [1, 1], [0, 1])
    )
    assert torch.equal(alone, onepass.apply(photograph, first, precision="float32"))
    colours = [image.mean((2, 3)) for image in (alone, mixed, other)]
    torch.testing.assert_close(colours[1], (colours[0] + colours[2]) / 2, rtol=0, atol=0.05)


def test_masks() -> None:
    photograph = picture(40, 56, seed=14)
    models = [onepass.from_painting(picture(40, 40, seed=seed)) for seed in (15, 16)]
    left, nothing = torch.zeros(1, 1, 40, 56), torch.zeros(1, 1, 40, 56)
    left[..., :28] = 1
    painted = onepass.apply(photograph, models, masks=[left, nothing], precision="float32")
    assert torch.equal(painted[..., 28:], photograph[..., 28:])
    assert float((painted - photograph)[..., :28].abs().mean()) > 0.02
    both = onepass.apply(photograph, models, masks=[left, 1 - left], precision="float32")
    torch.testing.assert_close(both[..., :28], painted[..., :28])
    torch.testing.assert_close(both[..., 28:], onepass.apply(photograph, models, masks=[nothing, 1 - left],
                                                              precision="float32")[..., 28:])  # fmt: skip
    with pytest.raises(InputError, match="1 masks for 2 styles"):
        onepass.apply(photograph, models, masks=[left])


def test_a_style_without_a_share_is_not_painted() -> None:
    models = [onepass.from_painting(picture(40, 40, seed=seed)) for seed in (15, 16)]
    frame, films = picture(32, 40, seed=2), [Statistics(1.0), Statistics(1.0)]
    both = onepass.apply(frame, models, style_weights=[1, 0], precision="float32", film=films[0])
    assert torch.equal(both, onepass.apply(frame, models[0], precision="float32", film=films[1]))
    films[0].rate = films[1].rate = 0.5
    changed = picture(32, 40, seed=3)
    both = onepass.apply(changed, models, style_weights=[1, 0], precision="float32", film=films[0])
    assert torch.equal(both, onepass.apply(changed, models[0], precision="float32", film=films[1]))


def test_the_statistics_of_masks_are_shared_in_a_film() -> None:
    """What changes in one part of a style's region does not change the rest of it; each region has its own."""
    models = [onepass.from_painting(picture(40, 40, seed=seed)) for seed in (15, 16)]
    frame = picture(32, 320, seed=2)
    left = torch.zeros(1, 1, 32, 320)
    left[..., :280] = 1
    changed = frame.clone()
    changed[..., 200:280] = 1
    film = Statistics(1.0)

    def paint(image: Tensor, film: Statistics | None = None) -> Tensor:
        return onepass.apply(image, models, masks=[left, 1 - left], precision="float32", film=film)[..., :100]

    first = paint(frame, film)
    assert torch.allclose(first, paint(frame), atol=1e-4)
    film.rate = 0.0
    assert (paint(changed, film) - first).abs().max() < 1e-4 and (paint(changed) - first).abs().mean() > 0.01


def test_transparent_parts_of_a_painting_do_not_count() -> None:
    painting = picture(64, 64, seed=18)
    painting[..., 32:] = torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    alpha = torch.zeros(64, 64)
    alpha[:, :32] = 1
    array = torch.cat([painting[0], alpha[None]]).permute(1, 2, 0).numpy()
    mean = onepass.from_painting(array).style.moments["rgb"].mean[0]  # type: ignore[union-attr]
    torch.testing.assert_close(mean, painting[0, :, :, :32].mean((1, 2)), rtol=0, atol=0.03)


def test_studying_a_painting_does_not_move_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def to(*_: object) -> None:
        raise AssertionError("another thread may be painting with it")

    monkeypatch.setattr(anystyle.load()[0], "to", to)
    assert onepass.from_painting(picture(40, 50, seed=1)).margin > 0


def test_style_scale() -> None:
    painting = picture(64, 64, seed=17)
    assert not torch.equal(
        *(onepass.from_painting(painting, scale).style.vector for scale in (0.2, 0.4))  # type: ignore[union-attr]
    )
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="`style_scale`"):
            onepass.from_painting(painting, wrong)


def test_a_painting_is_no_model_to_train_from(tmp_path: Path) -> None:
    model = onepass.load(save_picture(tmp_path / "painting.png"))
    with pytest.raises(WeightsError, match="a painting, not a model"):
        onepass.require_network(model, "painting.png")


def test_apply_with_a_painting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, painting = (save_picture(tmp_path / f"{seed}.png", 64, 48, seed=seed) for seed in (1, 2))
    out = tmp_path / "out.png"
    command = ["apply", str(photo), "--style", str(painting), "--quiet", "-o"]
    assert cli.main([*command, str(out), "--style-scale", "0.5", "--strength", "0.7"]) == 0
    receipt = images.read_receipt(out)
    assert '"2.png"' in receipt["models"][0]["painting"] and str(tmp_path) not in str(receipt)
    capsys.readouterr()
    assert cli.main([*command, str(painting)]) == 1
    one_line(capsys, "2.png", "also an input", only=True)
    assert cli.main([*command, str(out), "--style-scale", "0"]) == 1
    one_line(capsys, "--style-scale", only=True)
    assert cli.main(["apply", str(photo), "--style", "candy", "--style-scale", "2", "-o", str(out)]) == 0
    one_line(capsys, "note: --style-scale changes nothing")


def test_save_and_moments_of_several(tmp_path: Path, network: Repainter) -> None:
    path = tmp_path / "any.safetensors"
    anystyle.save(path, network.decoder, {"recipe": "{}"})
    state, metadata = weights.load(path)
    assert metadata == {"recipe": "{}"} and state.keys() == network.decoder.state_dict().keys()
    assert isinstance(network.style_of(picture(32, 32, seed=1)).moments["rgb"], Moments)


def test_the_frames_of_a_film_share_their_statistics() -> None:
    """What is far from a change is painted as before; by itself, each frame gets the painting's statistics."""
    network, _ = anystyle.load()
    style = network.style_of(picture(64, 64, seed=1))
    frame = picture(32, 288, seed=2)
    changed = frame.clone()
    changed[..., 224:] = 1
    for strength in (1.0, 0.5):
        film = Statistics(1.0)
        with torch.no_grad():
            first = network(frame, style, strength=strength, film=film)
            assert torch.allclose(first, network(frame, style, strength=strength), atol=1e-4)
            film.rate = 0.0
            held, alone = (network(changed, style, strength=strength, film=each) for each in (film, None))
        far = (held - first)[..., :64].abs().max()
        assert far < 1e-4 and (alone - first)[..., :64].abs().mean() > 0.01


@pytest.mark.parametrize("level", [0, 100, 120, 255])
def test_even_pictures(level: int) -> None:
    """Their covariance is less than the rounding of sums."""
    even = torch.full((1, 3, 96, 128), level / 255)
    varied = picture(96, 128, seed=0)
    assert onepass.apply(even, onepass.from_painting(varied)).isfinite().all()
    painted = onepass.apply(varied, onepass.from_painting(even))
    torch.testing.assert_close(painted, even, rtol=0, atol=0.05)
