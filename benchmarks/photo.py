"""Compare photorealistic transfer with the published results of Luan2017; writes benchmarks/photo.md.

    python benchmarks/photo.py --assets DIR [--save DIR] [--only NAME ...] [--size PX] [--free]
    python benchmarks/photo.py --assets DIR --cross --size 256
    python benchmarks/photo.py --assets DIR --relit

For each pair it measures the photorealism energy of the result (matting Laplacian of the content, mean over the
channels), the style loss within the masks with the original VGG-19 (relu1_1, relu2_1, relu3_1), and the structural
similarity of the luma gradients with the content's. --save writes the results, for a blind comparison; --size reduces
the pairs first; --free also finds the regions, without masks. --cross tries several weights of the fit: those that win
most often on every second pair are reported on the others, and the other way round.

--relit measures photographs whose right answer is known: a photograph, with two regions relit by a curve each, is to be
found from the photograph and a mirrored crop of the answer. The measure is the mean CIEDE2000 to the answer, next
to that of Reinhard2001's transfer of means and deviations in each region, in CIELAB.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import torch
from rich.progress import track
from run import HERE, STDERR, hardware, table
from skimage.color import deltaE_ciede2000
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional as F

import impasto
from impasto import color, encoder, images, machine, matching, objective, optimize, photo
from impasto.matting import Guide
from impasto.recipes import Photo, Transfer

BLOCKS = ("relu1_1", "relu2_1", "relu3_1")
ROWS = ("photorealism energy below the published", "masked style loss below", "structure above")
GOALS = ("80 %", "55 %", "80 %")
WEIGHTS = {"evenness": (1.0, 3.0, 10.0), "ALIKE": (0.04, 0.07, 0.12), "PLACED": (0.15, 0.3, 0.6)}  # that --cross tries
Measures = tuple[float, float, float]


@dataclass(frozen=True)
class Pair:
    """A pair of photographs with drawn masks, the published result, and what measures results."""

    name: str
    content: Tensor
    style: Tensor
    published: Tensor
    given: matching.Regions
    measure: Callable[[Tensor], Measures]

    def solve(self, recipe: Photo, regions: matching.Regions | None = None) -> Tensor:
        *_, last = photo.steps(self.content, self.style, regions or self.given, recipe)
        return last.lift(self.content)


def read_pairs(args: argparse.Namespace) -> Iterator[Pair]:
    folder = args.assets / "photo_pairs"
    names = args.only or sorted(path.name.split("_")[0] for path in folder.glob("*_content.jpg"))
    teacher = encoder.load(str(args.assets / "teachers" / "vgg19_conv1_1_to_conv3_4_caffe.safetensors"))
    judge = Transfer(content_weight=0.0, content_layers=(), style_layers=BLOCKS, smoothness=0.0, precision="float32")
    for name in track(names, console=STDERR):
        content, style, published = (
            images.to_tensor(folder / f"{name}_{what}.jpg") for what in ("content", "style", "published_result")
        )
        if args.size:
            content, style = images.to_size(content, args.size), images.to_size(style, args.size)
        marks = (images.to_tensor(folder / f"{name}_{what}_mask.png") for what in ("content", "style"))
        given = matching.from_masks(*marks)
        guide, at = Guide(content.double()), given.at(content, style)
        goal = objective.build(teacher, judge, content, [style] * len(at.style), at.content, at.style)

        def measure(
            result: Tensor, guide: Guide = guide, goal: optimize.ValueAndGradient = goal, content: Tensor = content
        ) -> Measures:
            return energy(result, guide), float(goal(result)[0]["style"]), structure(result, content)

        yield Pair(name, content, style, images.resize(published, *content.shape[-2:]), given, measure)


def energy(result: Tensor, guide: Guide) -> float:
    p = result.double()
    return float((p * guide.laplacian(p)).sum()) / p.numel()


def structure(result: Tensor, content: Tensor) -> float:
    """SSIM of the magnitudes of the luma gradients."""
    sizes = []
    for picture in (result, content):
        down, across = torch.gradient(color.luma(picture)[0, 0])
        sizes.append((down.square() + across.square()).sqrt().numpy())
    return float(structural_similarity(*sizes, data_range=max(float(size.max()) for size in sizes)))


def better(ours: Measures, published: Measures) -> list[bool]:
    return [ours[0] < published[0], ours[1] < published[1], ours[2] > published[2]]


def crossed(wins: Tensor) -> tuple[Tensor, list[int]]:
    """Choose on one half of the pairs, report on the other, both ways.

    Args:
        wins: (pairs, choices, 3) of 0 and 1.

    Returns:
        the mean over all reported pairs, (3,), and the choice of each half.
    """
    halves, reported, chosen = (wins[0::2], wins[1::2]), [], []
    for ours, others in (halves, halves[::-1]):
        best = int(ours.mean((0, 2)).argmax())
        reported.append(others[:, best])
        chosen.append(best)
    return torch.cat(reported).mean(0), chosen


def pairs(args: argparse.Namespace) -> None:
    labels = ["ours", "without masks"] if args.free else ["ours"]
    rows, wins, times = [], [], []
    for pair in read_pairs(args):
        begun = time.perf_counter()
        results = {"ours": pair.solve(Photo())}
        times.append(time.perf_counter() - begun)
        if args.free:
            results["without masks"] = pair.solve(Photo(), matching.find(pair.content, pair.style, Photo()))
        if args.save:
            images.write(args.save / f"{pair.name}.png", results["ours"], dither=True)
        published, *found = (pair.measure(result) for result in (pair.published, *results.values()))
        wins.append([better(each, published) for each in found])
        rows.append((pair.name, *(f"{1e6 * f[0]:.1f} / {f[1]:.2f} / {f[2]:.3f}" for f in (published, *found))))
        print(rows[-1], flush=True)
    shares = torch.tensor(wins).float().mean(0)
    size = f"{args.size} px" if args.size else "its own size, about 700 px"
    lines = [
        "# Photorealistic transfer",
        "",
        f"Measured by `python benchmarks/photo.py` on {datetime.date.today()}, impasto {impasto.__version__}, on",
        f"{len(rows)} pairs of Luan2017. Hardware: {hardware()}. One pair at {size}:",
        f"{median(times):.0f} s at the median, {max(times):.0f} s at the most.",
        "",
    ]
    lines += table(
        ("pairs where ours has", "goal", *labels),
        [
            (which, goal, *(f"{float(share[k]):.0%}" for share in shares))
            for k, (which, goal) in enumerate(zip(ROWS, GOALS, strict=True))
        ],
    )
    lines += ["Energy x 1e6 / style loss / structure:", ""]
    lines += table(("pair", "published", *labels), rows)
    text = "\n".join(lines)
    print(text)
    if not (args.only or args.size):
        (HERE / "photo.md").write_text(text)


def cross_validate(args: argparse.Namespace) -> None:
    choices = [*itertools.product(*WEIGHTS.values())]
    wins = []
    for pair in read_pairs(args):
        published, won = pair.measure(pair.published), []
        for evenness, photo.ALIKE, photo.PLACED in choices:
            won.append(better(pair.measure(pair.solve(Photo(evenness=evenness))), published))
        wins.append(won)
        print(pair.name, *(sum(each) for each in won), flush=True)
    shares = torch.tensor(wins).float()
    reported, chosen = crossed(shares)
    rows = [(choices[k], shares.mean(0)[k]) for k in chosen]
    print(*table(
        ("weights: " + ", ".join(WEIGHTS), *ROWS),
        [(", ".join(f"{each:g}" for each in which), *(f"{float(x):.0%}" for x in share)) for which, share in rows]
        + [("cross-validated", *(f"{float(x):.0%}" for x in reported))],
    ), sep="\n")  # fmt: skip


def curve(colors: Tensor, draw: torch.Generator) -> Tensor:
    """A random change of light: gamma, white and black for each channel."""
    gamma, white, black = (torch.rand(1, 3, 1, 1, generator=draw) for _ in range(3))
    black, white = 0.15 * black.mean(), 0.55 + 0.45 * white
    return black + (white - black) * colors ** (0.6 + 1.2 * gamma)


def reinhard(content: Tensor, style: Tensor, where: Sequence[Tensor], what: Sequence[Tensor]) -> Tensor:
    ours, theirs = color.to_lab(content), color.to_lab(style)
    result = torch.zeros_like(ours)
    for inside, counterpart in zip(where, what, strict=True):
        (spread, middle), (goal, centre) = (
            (part[None, ..., None] for part in torch.std_mean(picture[0, :, mask[0, 0] > 0.5], 1, keepdim=True))
            for picture, mask in ((ours, inside), (theirs, counterpart))
        )
        result += inside * ((ours - middle) * goal / spread.clamp_min(1e-3) + centre)
    return color.from_lab(result)


def difference(one: Tensor, other: Tensor) -> float:
    """Mean CIEDE2000."""
    return float(deltaE_ciede2000(*(color.to_lab(x)[0].permute(1, 2, 0).numpy() for x in (one, other))).mean())


def relit(args: argparse.Namespace) -> None:
    size = args.size or 256
    files = [*sorted((args.assets / "photos" / "scenes").iterdir())[::50], *(args.assets / "contents").iterdir()]
    rows = []
    for index, path in enumerate(track(files, console=STDERR)):
        content = images.to_size(images.to_tensor(path), size)
        nearby = F.avg_pool2d(color.luma(content), size // 8 + 1, 1, size // 16, count_include_pad=False)
        bright = (nearby > nearby.median()).float()
        where = matching.Borders(content, [bright, 1 - bright]).shares(content)  # regions end at edges
        draw = torch.Generator().manual_seed(index)
        answer = torch.stack([mask * curve(content, draw) for mask in where]).sum(0)
        style, *what = ((x[..., content.shape[-1] // 8 :]).flip(3) for x in (answer, *where))
        *_, last = photo.steps(
            content, style, matching.Regions(where, what, torch.rand(2, 3)), replace(Photo(), size=size)
        )
        found = difference(last.image, answer), difference(reinhard(content, style, where, what), answer)
        rows.append((difference(content, answer), *found))
        print(path.name, *(f"{value:.2f}" for value in rows[-1]), flush=True)
    print(
        "mean CIEDE2000 of the photograph, ours, Reinhard:",
        *(f"{mean(column):.2f}" for column in zip(*rows, strict=True)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--cross", action="store_true")
    parser.add_argument("--free", action="store_true")
    parser.add_argument("--relit", action="store_true")
    args = parser.parse_args()
    (relit if args.relit else cross_validate if args.cross else pairs)(args)


if __name__ == "__main__":
    with machine.reused_memory():
        main()
