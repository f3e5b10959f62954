"""Measure how steady repainted films are; prints a table.

    python benchmarks/video.py --assets DIR [--styles NAME ...] [--films fox bikes pan object] [--frames N] [--size N]

DIR holds video/, contents/ and teachers/. Two films are synthetic: a photograph that is panned and zoomed, and
an object that moves over a background. For each film and style, frame by frame and steady:

- warping error: the mean squared difference of a frame and the one 1 or 10 frames before, warped by the flow of the
  film itself (bilinear), where that flow can be trusted and no cut lies between. The flow of synthetic films is exact,
  that of others is found by OpenCV's DIS;
- style left, as in published.py, in the mean of four frames;
- sharpness: the variance of the Laplacian at frames 2 and 100;
- change: the mean luma of frame 25 and of the last one, frame by frame and steady (for fades);
- processor time per frame.

Steady numbers are divided by those of frame by frame; the film's own warping error is next to them. Two more films,
noise (a photograph with fresh noise in each frame) and fade (a photograph that fades in from black within 48 frames),
are measured if they are named.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from published import Judge
from torch import Tensor
from torch.nn import functional as F

from impasto import bundled, color, flow, images, onepass, steady, video
from impasto.networks import Statistics

Masked = tuple[Tensor, Tensor]  # the flow to an earlier frame, and where it can be trusted


def from_file(path: Path, count: int, size: int) -> Film:
    frames = itertools.islice(video.find(path).frames(), count)
    return Film([images.to_size(frame.float() / 255, size) for frame, _ in frames])


@dataclass
class Film:
    """The frames of a film, and its exact flow from one frame to an earlier one, if it is known."""

    frames: list[Tensor]
    exact: Callable[[int, int], Masked] | None = None


def pan(photograph: Tensor, count: int, size: int) -> Film:
    """A photograph, panned and zoomed."""
    height, width = size * 9 // 16, size
    large = images.to_size(photograph, 3 * size)
    y, x = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    from_centre = torch.stack([x, y])

    def zoom(index: int) -> float:
        return 1.6 - 0.3 * index / count

    def places(index: int) -> Tensor:
        """(2, H, W): where the photograph has each pixel of a frame."""
        corner = torch.tensor([0.9 * size + 2.2 * index, 0.8 * size + 0.6 * index])
        return from_centre * zoom(index) + corner[:, None, None]

    def exact(index: int, earlier: int) -> Masked:
        moved = from_centre + (places(index) - places(earlier)) / zoom(earlier)
        back = (moved - from_centre)[None]
        return back, flow.inside(back)

    frames = []
    for index in range(count):
        grid = 2 * places(index).permute(1, 2, 0) / torch.tensor([large.shape[-1], large.shape[-2]]) - 1
        sampled = F.grid_sample(large, grid[None], mode="bicubic", padding_mode="reflection", align_corners=False)
        frames.append(sampled.clamp(0, 1))
    return Film(frames, exact)


def moving_object(photograph: Tensor, thing: Tensor, count: int, size: int) -> Film:
    """A disc cut from a picture that moves to and fro over a photograph, by whole pixels."""
    behind = images.resize(photograph, size * 9 // 16, size)
    side = size // 4
    disc = images.resize(thing, side, side)
    edge = torch.linspace(-1, 1, side)
    inside = ((edge[:, None].square() + edge.square()) < 0.9).float()
    span = size - side - size // 8

    def corner(index: int) -> tuple[int, int]:
        return size // 16 + span - abs(span - 2 * index % (2 * span)), size // 8

    def covered(index: int) -> Tensor:
        mask = torch.zeros_like(behind[:, :1])
        left, top = corner(index)
        mask[..., top : top + side, left : left + side] = inside
        return mask

    def exact(index: int, earlier: int) -> Masked:
        disc_moved = torch.tensor(corner(earlier)) - torch.tensor(corner(index))
        here = covered(index)
        return here * disc_moved.view(1, 2, 1, 1), torch.maximum(here, 1 - covered(earlier))

    frames = []
    for index in range(count):
        left, top = corner(index)
        frame = behind.clone()
        part = frame[..., top : top + side, left : left + side]
        part.copy_(part.lerp(disc, inside))
        frames.append(frame)
    return Film(frames, exact)


def noise(photograph: Tensor, count: int, size: int) -> Film:
    """A photograph with fresh noise, of 4 of 255 levels, in each frame."""
    still = images.to_size(photograph, size)
    generator = torch.Generator().manual_seed(0)
    zero = torch.zeros_like(still[:, :2]), torch.ones_like(still[:, :1])
    noisy = [still + 4 / 255 * torch.randn(still.shape, generator=generator) for _ in range(count)]
    return Film([frame.clamp(0, 1) for frame in noisy], lambda index, earlier: zero)


def fade(photograph: Tensor, count: int, size: int) -> Film:
    """A photograph that appears from black within 48 frames."""
    still = images.to_size(photograph, size)
    zero = torch.zeros_like(still[:, :2]), torch.ones_like(still[:, :1])
    return Film([still * min(1.0, index / 48) for index in range(count)], lambda index, earlier: zero)


def films(assets: Path, names: list[str], count: int, size: int) -> Iterator[tuple[str, Film]]:
    first, second, third = (images.read(path).image for path in sorted((assets / "contents").glob("*.jpg"))[:3])
    made = {
        "pan": lambda: pan(second, count, size),
        "object": lambda: moving_object(first, third, count, size),
        "noise": lambda: noise(first, count, size),
        "fade": lambda: fade(first, count, size),
    }
    for name in names:
        yield name, made[name]() if name in made else from_file(assets / "video" / f"{name}.mp4", count, size)


def motion(film: Film, gap: int) -> dict[int, Masked]:
    """The flow of each frame to the one ``gap`` before, without those across a cut."""
    frames, exact = film.frames, film.exact
    if exact is not None:
        return {index: exact(index, index - gap) for index in range(gap, len(frames))}
    small = [images.to_size(frame, steady.CUT_EDGE) for frame in frames]
    cuts = [index for index in range(1, len(frames)) if steady.is_cut(small[index - 1], small[index])]
    found = {}
    for index in range(gap, len(frames)):
        if not any(index - gap < cut <= index for cut in cuts):
            back = flow.between(frames[index], frames[index - gap])
            found[index] = back, flow.trust(back, flow.between(frames[index - gap], frames[index]))
    return found


def warping_error(frames: list[Tensor], moved: dict[int, Masked], gap: int) -> float:
    errors = []
    for index, (back, trusted) in moved.items():
        size = torch.tensor([back.shape[-1], back.shape[-2]])
        grid = (2 * flow.places(back).permute(0, 2, 3, 1) + 1) / size - 1
        warped = F.grid_sample(frames[index - gap], grid, padding_mode="border", align_corners=False)
        difference = (frames[index] - warped).square().mean(1, keepdim=True)
        errors.append(float((difference * trusted).sum() / trusted.sum().clamp_min(1)))
    return sum(errors) / max(1, len(errors))


def sharpness(image: Tensor) -> float:
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    return float(F.conv2d(image.mean(1, keepdim=True), kernel).var().clamp_min(1e-12))


def lumas(frames: list[Tensor]) -> str:
    return ", ".join(f"{float(color.luma(frame).mean()):.2f}" for frame in (frames[:25][-1], frames[-1]))


def repainted(frames: list[Tensor], style: str, *, steadily: bool) -> tuple[list[Tensor], float]:
    """The painted frames, and the seconds of processor time for each."""
    model = onepass.load(style)

    def paint(frame: Tensor, film: Statistics | None = None, settle: steady.Carrier | None = None) -> Tensor:
        return onepass.apply(frame, model, film=film, settle=settle)

    paint(frames[0])
    began = time.process_time()
    if steadily:
        numbered = zip(((frame * 255).round().byte() for frame in frames), itertools.count())
        made = [image for image, _ in steady.repaint(numbered, paint)]
    else:
        made = [paint(frame) for frame in frames]
    return made, (time.process_time() - began) / len(frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--styles", nargs="+", default=["the-great-wave", "mosaic", "udnie"])
    parser.add_argument("--films", nargs="+", default=["fox", "bikes", "pan", "object"])
    parser.add_argument("--frames", type=int, default=104)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--save", type=Path, help="a folder for pictures: frames, differences and a time slice")
    args = parser.parse_args()
    judge = Judge(args.assets / "teachers") if (args.assets / "teachers").is_dir() else None
    print(
        "| film | style | error, film | frame by frame | steady | 10 frames | style left | sharp 2 | sharp 100 "
        "| luma, frame by frame | luma, steady | cost |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name, film in films(args.assets, args.films, args.frames, args.size):
        frames = film.frames
        moved = {gap: motion(film, gap) for gap in (1, 10)}
        own = warping_error(frames, moved[1], 1)
        for style in args.styles:
            (plain, slow), (steadied, slower) = (repainted(frames, style, steadily=each) for each in (False, True))
            errors = {
                gap: [warping_error(each, moved[gap], gap) for each in (plain, steadied)] for gap in (1, 10)
            }  # fmt: skip
            left = "-"
            if judge is not None:
                painting, places = (
                    images.read(bundled.locate(style)).image,
                    range(1, len(frames), len(frames) // 4 or 1),
                )
                lefts = [sum(judge(each[i], frames[i], painting)[0] for i in places) for each in (plain, steadied)]
                left = f"{lefts[1] / lefts[0]:.3f}"
            sharp = [sharpness(steadied[i]) / sharpness(plain[i]) for i in (1, min(99, len(frames) - 1))]
            print(
                f"| {name} | {style} | {own:.5f} | {errors[1][0]:.5f} | {errors[1][1] / errors[1][0]:.3f} "
                f"| {errors[10][1] / max(1e-12, errors[10][0]):.3f} | {left} | {sharp[0]:.2f} | {sharp[1]:.2f} "
                f"| {lumas(plain)} | {lumas(steadied)} | {slower / slow:.2f} |",
                flush=True,
            )
            if args.save:
                look(args.save, f"{name}-{style}", frames, plain, steadied)


def look(folder: Path, name: str, frames: list[Tensor], plain: list[Tensor], steadied: list[Tensor]) -> None:
    """Save frames 2 to 4 and 51 to 53 with their differences to those before, and one column over time."""
    places = [index for index in (1, 2, 3, 50, 51, 52) if index < len(frames)]
    rows = [torch.cat([each[index] for index in places], 3) for each in (frames, plain, steadied)]
    for each in (plain, steadied):
        rows.append(torch.cat([(2 * (each[i] - each[i - 1]) + 0.5).clamp(0, 1) for i in places], 3))
    images.write(folder / f"{name}-frames.png", torch.cat(rows, 2))
    middle = frames[0].shape[-1] // 2
    slices = [torch.cat([image[..., middle : middle + 1] for image in each], 3) for each in (frames, plain, steadied)]
    images.write(folder / f"{name}-slice.png", torch.cat([each.repeat_interleave(4, 3) for each in slices], 3))


if __name__ == "__main__":
    main()
