"""Films without flicker: what each frame takes over from the frames before it.

Two things make a film that is painted frame by frame flicker. The normalisations' statistics change with what moves in
and out, so they are smoothed over a shot (`networks.Statistics`). Each frame has other strokes, so the painting is
carried along with the motion, and a little of the new frame's own is mixed in (`Carrier`). Mixing softens strokes, so
their contrast is restored. Films by optimisation follow earlier paintings instead (`Follower`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto import flow, images
from impasto.networks import Statistics

FRESH = 0.1  # share of a frame's own painting where the last one could be carried along
ALIKE = 0.01  # squared difference beyond the noise at which a carried pixel's weight falls to 1/e
NOISE = 0.01  # upper limit of the squared difference that counts as noise
CRISP = (0.8, 1.4)  # bounds of the gain that restores the contrast of strokes
WINDOW = 8  # pixels, in which that contrast is measured
ADAPT = 0.02  # share of a frame in the statistics: they follow the light within some 50 frames
LONG = (1, 2, 4)  # frames back whose paintings are followed
AHEAD, EVERY = 24, 8  # frames of a shot, of which every eighth is read before the first is painted
CUT_LIKENESS, CUT_COLORS = 0.55, 0.2  # a cut: frames that correlate less, and share fewer colours
CUT_EDGE = 96  # long edge at which frames are compared

Time = TypeVar("Time")
Settle = Callable[[Tensor, Tensor], Tensor]  # as `onepass.apply` takes it
Paint = Callable[[Tensor, Statistics | None, Settle | None], Tensor]


class Carrier:
    """Carries the painting along with the motion, from each frame of a shot to the next."""

    def __init__(self) -> None:
        self.last: tuple[Tensor, Tensor] | None = None

    def __call__(self, frame: Tensor, painted: Tensor) -> Tensor:
        """The painting of ``frame``, given what it is by itself; both (1, 3, H, W) in [0, 1]."""
        result = painted = painted.contiguous()  # a network's is in channels last, in which pooling is slow
        if self.last is not None:
            # When a film is continued, the last frame and its painting are on the CPU, in the film's own size.
            before, painting = (images.resize(each.to(frame), *frame.shape[-2:]) for each in self.last)
            carried, trusted = carry(frame, before, painting, flow.visible)
            result = crisp(painted.lerp(carried, (1 - FRESH) * trusted), painted).clamp_(0, 1)
        self.last = frame, result
        return result


class Follower:
    """For films by optimisation: what the paintings of earlier frames say about a frame's (Ruder2016).

    Each pixel follows the latest of the paintings whose frame shows it: the last one (the short-term term), or an
    earlier one where the last frame hid it (the long-term terms).
    """

    def __init__(self) -> None:
        self.past: deque[tuple[Tensor, Tensor]] = deque(maxlen=max(LONG))

    def __call__(self, frame: Tensor) -> tuple[Tensor, Tensor] | None:
        """The painting to follow, (1, 3, H, W), and 1 where it is to be followed, (1, 1, H, W); None in a new shot.

        Args:
            frame: (1, 3, H, W) in [0, 1].
        """
        if self.past and is_cut(_small(self.past[-1][0]), _small(frame)):
            self.past.clear()
        wanted, known = torch.zeros_like(frame), torch.zeros_like(frame[:, :1])
        for distance in (each for each in LONG if each <= len(self.past)):
            carried, trusted = carry(frame, *self.past[-distance], flow.trust)
            fresh = (trusted - known).clamp_min(0)
            wanted += fresh * carried
            known += fresh
        wanted /= known.clamp_min(1e-6)
        return (wanted, known) if self.past else None

    def remember(self, frame: Tensor, painting: Tensor) -> None:
        self.past.append((frame, images.resize(painting, *frame.shape[-2:])))


def carry(
    frame: Tensor, before: Tensor, painting: Tensor, where: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The painting of an earlier frame, carried along to ``frame``, and how far it can be trusted there.

    Ruder2016 trusts only the flow, which is also consistent where something appears in front of a plain background.

    Args:
        frame, before, painting: (1, 3, H, W) in [0, 1]; ``painting`` is that of ``before``.
        where: `flow.visible` or `flow.trust`.

    Returns:
        (1, 3, H, W), and (1, 1, H, W) in [0, 1].
    """
    back = flow.between(frame, before)
    known = where(back, flow.between(before, frame))
    both = flow.warp(torch.cat([painting, before], 1), back).clamp_(0, 1)
    return both[:, :3], known * likeness(frame, both[:, 3:])


def likeness(frame: Tensor, moved: Tensor) -> Tensor:
    """(B, 1, H, W) from 1 to 0: how far the last frame, carried along, explains this one beyond the usual noise."""
    difference = F.avg_pool2d((frame - moved).square().mean(1, keepdim=True), 5, 1, 2, count_include_pad=False)
    noise = (2 * difference[..., ::4, ::4].median()).clamp_max(NOISE)
    return (difference - noise).clamp_min(0).div(-ALIKE).exp()


def crisp(mixed: Tensor, painted: Tensor) -> Tensor:
    """Give the strokes of ``mixed`` the contrast that those of ``painted`` have around the same place."""

    def detail(image: Tensor) -> Tensor:
        return image - F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)

    strokes = detail(mixed)
    ours, theirs = (energy(each) for each in (strokes, detail(painted)))
    gain = ((theirs + 1e-6) / (ours + 1e-6)).sqrt().clamp(*CRISP)
    return mixed + strokes * (F.interpolate(gain, mixed.shape[-2:], mode="bilinear") - 1)


def energy(strokes: Tensor) -> Tensor:
    """Mean squares in windows of 3 x `WINDOW` pixels, one window for each `WINDOW` pixels."""
    squares = F.avg_pool2d(strokes.square().mean(1, keepdim=True), WINDOW, ceil_mode=True, count_include_pad=False)
    return F.avg_pool2d(squares, 3, 1, 1, count_include_pad=False)


def repaint(
    frames: Iterable[tuple[Tensor, Time]], paint: Paint, *, carrier: Carrier | None = None
) -> Iterator[tuple[Tensor, Time]]:
    """Repaint the frames of a film steadily.

    Args:
        frames: (1, 3, H, W) 8-bit sRGB, each with its time; `AHEAD` of them are read ahead.
        paint: a frame in [0, 1], the shot's statistics and what `onepass.apply` calls ``settle`` -> its painting.
        carrier: holds the last frame of a film that is continued, and its painting.

    Yields:
        Each painting with its time.
    """
    carrier = carrier or Carrier()
    statistics: Statistics | None = None
    for frame, time, ahead in shots(frames):
        if ahead:  # the first frame of a shot
            continued = statistics is None and carrier.last
            if not continued or is_cut(_small(continued[0]), _small(frame / 255)):
                carrier.last = None
            statistics = Statistics(1.0)
            for index, each in enumerate(ahead[::EVERY]):
                statistics.rate = 1 / (index + 1)
                paint(each.float() / 255, statistics, None)
                if not (statistics.known or statistics.parts):
                    break  # this painter has none
            statistics.rate = ADAPT
        yield paint(frame.float() / 255, statistics, carrier), time


def shots(frames: Iterable[tuple[Tensor, Time]]) -> Iterator[tuple[Tensor, Time, list[Tensor]]]:
    """Each frame and its time; with the first frame of a shot also the next frames of the shot, from this one on."""
    waiting: deque[tuple[Tensor, Time, bool]] = deque()
    last: Tensor | None = None

    def first() -> tuple[Tensor, Time, list[Tensor]]:
        frame, time, begins = waiting.popleft()
        ahead = [frame] if begins else []
        for later, _, cut in waiting if begins else ():
            if cut:
                break
            ahead.append(later)
        return frame, time, ahead

    for frame, time in frames:
        small = _small(frame / 255)
        waiting.append((frame, time, last is None or is_cut(last, small)))
        last = small
        if len(waiting) >= AHEAD:
            yield first()
    while waiting:
        yield first()


def is_cut(before: Tensor, frame: Tensor) -> bool:
    """Whether ``frame`` begins another shot; both (1, 3, H, W) in [0, 1], small.

    A shot continues if the last frame, carried along with the motion, correlates with this one, or has its colours.
    """
    if before.shape != frame.shape:
        return True
    moved = flow.warp(before, flow.between(frame, before)).clamp(0, 1)
    ours, theirs = (each - each.mean((2, 3), keepdim=True) for each in (frame, moved))
    strength = (ours.square().mean() * theirs.square().mean()).sqrt()
    if float((ours * theirs).mean() / (strength + 1e-4)) >= CUT_LIKENESS:
        return False
    shares = [_colors(each) for each in (before, frame)]
    return float((shares[0] - shares[1]).abs().sum()) / 2 > CUT_COLORS


def _small(frame: Tensor) -> Tensor:
    return images.to_size(frame, CUT_EDGE)


def _colors(image: Tensor) -> Tensor:
    """The share of the pixels in each of 6 x 6 x 6 bins."""
    bins = (image[0] * 6).long().clamp(0, 5)
    index = bins[0] * 36 + bins[1] * 6 + bins[2]
    return torch.bincount(index.flatten(), minlength=216) / index.numel()
