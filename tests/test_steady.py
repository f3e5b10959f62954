"""Steady films: strokes travel with the motion, stay sharp, and start again where nothing can be carried along."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import flow, steady
from impasto.networks import Architecture, Network, Statistics


def texture(height: int, width: int, seed: int = 0, grain: float = 4.0) -> Tensor:
    side = int(height / grain) + 3, int(width / grain) + 3
    noise = torch.rand(1, 3, *side, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, scale_factor=grain, mode="bicubic")[..., :height, :width].clamp(0, 1)


def pan(count: int, step: int = 2) -> list[Tensor]:
    wide = texture(48, 64 + step * count)
    return [wide[..., step * index : step * index + 64] for index in range(count)]


def flickering(frame: Tensor, index: int) -> Tensor:
    """The frame with strokes that change with every frame."""
    return (0.7 * frame + 0.3 * texture(*frame.shape[-2:], seed=100 + index, grain=2.0)).clamp(0, 1)


def sharpness(image: Tensor) -> float:
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    return float(F.conv2d(image.mean(1, keepdim=True), kernel).var())


def moved(before: Tensor, after: Tensor, step: int = 2) -> float:
    return float((after[..., :-step] - before[..., step:]).square().mean())


def test_strokes_travel_with_the_motion_and_stay_sharp() -> None:
    frames = pan(20)
    alone = [flickering(frame, index) for index, frame in enumerate(frames)]
    carrier = steady.Carrier()
    together = [carrier(frame, painted) for frame, painted in zip(frames, alone, strict=True)]
    assert torch.equal(together[0], alone[0])
    errors = [sum(moved(*pair) for pair in pairwise(each[5:])) for each in (alone, together)]
    assert errors[1] < 0.25 * errors[0]
    for index in (1, 19):
        assert 0.85 < sharpness(together[index]) / sharpness(alone[index]) < 1.2


def test_what_was_hidden_is_painted_afresh() -> None:
    behind, square = texture(64, 96), texture(24, 24, seed=1)
    frames = [behind.clone() for _ in range(2)]
    frames[0][..., 20:44, 30:54] = square
    frames[1][..., 20:44, 36:60] = square
    painted = [torch.full_like(behind, value) for value in (0.2, 0.8)]
    carrier = steady.Carrier()
    carrier(frames[0], painted[0])
    result = carrier(frames[1], painted[1]).mean(1)[0]
    assert result[24:40, 31:35].mean() > 0.6  # uncovered by the square
    assert result[:12].mean() < 0.35 and result[26:38, 42:54].mean() < 0.35


def test_the_painting_before_may_be_elsewhere() -> None:
    """The last painting of a continued film is on the CPU, here: of another type."""
    frame = texture(48, 64)
    results = []
    for kind in (torch.float32, torch.float64):
        carrier = steady.Carrier()
        carrier.last = frame.to(kind), 1 - frame.to(kind)
        results.append(carrier(frame, frame))
    assert torch.equal(*results)


def test_another_shot_is_not_mixed_in() -> None:
    carrier = steady.Carrier()
    carrier(texture(48, 64), torch.zeros(1, 3, 48, 64))
    frame = texture(48, 64, seed=9)
    assert carrier(frame, torch.ones(1, 3, 48, 64)).mean() > 0.8
    assert carrier(texture(24, 32), torch.ones(1, 3, 24, 32)).shape == (1, 3, 24, 32)


def shots() -> list[Tensor]:
    other = [1 - texture(48, 64, seed=5) * 0.5] * 20
    return [(frame * 255).byte() for frame in (*pan(12), *other)]


def test_cuts_are_found_and_motion_fades_and_noise_are_not_cuts() -> None:
    found = [(time, len(ahead)) for _, time, ahead in steady.shots(zip(shots(), range(32), strict=True)) if ahead]
    assert found == [(0, 12), (12, 20)]
    frame = texture(48, 64)
    noisy = (frame + 0.05 * torch.randn(frame.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert not steady.is_cut(frame, noisy)
    for level in (0.0, 0.1, 0.5):
        assert not steady.is_cut(level * frame, (level + 0.1) * frame)
    assert steady.is_cut(frame, 1 - texture(48, 64, seed=5))


def test_statistics_are_gathered_ahead_and_begin_anew_at_a_cut() -> None:
    seen: list[tuple[int, float, bool]] = []
    known: list[Statistics] = []

    def paint(frame: Tensor, film: Statistics | None, settle: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
        assert film is not None
        if film not in known:
            known.append(film)
        film.average("mean", frame.mean())
        seen.append((known.index(film), film.rate, settle is None))
        return settle(frame, frame) if settle else frame

    times = [time for _, time in steady.repaint(zip(shots(), range(32), strict=True), paint)]
    assert times == list(range(32))
    ahead = [each[:2] for each in seen if each[2]]
    assert ahead == [(0, 1), (0, 0.5), (1, 1), (1, 0.5), (1, 1 / 3)]
    assert {each[:2] for each in seen if not each[2]} == {(0, steady.ADAPT), (1, steady.ADAPT)}


def test_frames_are_not_painted_for_statistics_that_are_not_taken() -> None:
    painted = []

    def paint(frame: Tensor, film: Statistics | None, settle: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
        painted.append(frame)
        return frame

    frames = [(frame.mul(255).byte(), index) for index, frame in enumerate(pan(20))]
    assert len(list(steady.repaint(frames, paint))) == 20 and len(painted) == 21


def test_every_eighth_of_the_first_24_frames_is_read_ahead() -> None:
    ahead = [
        frames for *_, frames in steady.shots((frame.mul(255).byte(), index) for index, frame in enumerate(pan(30)))
    ]
    assert len(ahead[0]) == 24 and not any(ahead[1:])


def test_a_film_continued_at_a_cut_carries_nothing_over() -> None:
    """A film continued within a shot carries the last painting on."""

    def paint(frame: Tensor, film: Statistics | None, settle: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
        own = torch.ones_like(frame)
        return settle(frame, own) if settle else own

    first, second = pan(2)
    for before, darker in ((first, True), (texture(96, 128, seed=9) / 3, False)):
        carrier = steady.Carrier()
        carrier.last = before, torch.zeros_like(before)
        (painted, _), *_ = steady.repaint([(second.mul(255).byte(), 0)], paint, carrier=carrier)
        assert (float(painted.mean()) < 0.5) is darker


def test_smoothed_statistics_are_those_of_all_frames_together() -> None:
    torch.manual_seed(0)
    values = torch.randn(4, 2, 500) * torch.tensor([1.0, 2, 3, 1]).view(4, 1, 1) + torch.arange(4.0).view(4, 1, 1)
    statistics, layer = Statistics(1.0), torch.nn.Identity()
    for index, each in enumerate(values):
        statistics.rate = 1 / (index + 1)
        mean, variance = statistics.smooth(layer, each.mean(1), each.var(1, correction=0))
    together = values.transpose(0, 1).flatten(1)
    assert torch.allclose(mean, together.mean(1), atol=1e-5)
    assert torch.allclose(variance, together.var(1, correction=0), atol=1e-5)


def test_a_network_with_held_statistics_does_not_brighten_a_dark_frame() -> None:
    torch.manual_seed(0)
    network = Network(Architecture((4, 6, 8), blocks=1, kernel=3, smooth=True, skip=True)).eval()
    frame, statistics = texture(48, 64), Statistics(1.0)
    with torch.no_grad():
        held = network(frame, 16, film=statistics)
        assert torch.allclose(held, network(frame, 16), atol=1e-6)
        statistics.rate = 0.0
        assert torch.allclose(held, network(frame, 16, film=statistics), atol=1e-5)
        dark = 0.1 * frame
        alone, still = network(dark, 16), network(dark, 16, film=statistics)
    # By itself, a dark frame is painted like a bright one.
    assert (alone - held).abs().mean() < 0.1 * (still - held).abs().mean()


def test_visible_is_what_flow_trusts_besides_boundaries() -> None:
    back = torch.zeros(1, 2, 16, 16)
    back[:, 0, 4:12, 4:12] = 3
    assert flow.visible(back, -back).sum() >= flow.trust(back, -back).sum()


def test_by_optimisation_a_pixel_follows_the_latest_painting_that_shows_it() -> None:
    frame = texture(64, 96)
    covered = frame.clone()
    covered[..., 20:44, 30:60] = texture(24, 30, seed=1)
    follower = steady.Follower()
    assert follower(frame) is None
    for each, value in ((frame, 0.2), (covered, 0.8)):
        follower.remember(each, torch.full_like(each, value))
    found = follower(frame)
    assert found is not None
    wanted, known = found
    assert wanted[..., :14, :].mean() > 0.75 and known[..., :14, :].mean() > 0.95  # the last frame shows it
    where = known[..., 24:40, 34:56] > 0  # the last frame hid it
    assert where.float().mean() > 0.5 and wanted[..., 24:40, 34:56].mean(1, keepdim=True)[where].mean() < 0.4
    assert follower(1 - texture(64, 96, seed=5) * 0.5) is None  # a cut
