"""Compare photorealistic transfer with the published results of Luan2017; writes benchmarks/photo.md.

    python benchmarks/photo.py --assets DIR [--sheets DIR] [--only NAME ...]

For each pair it measures the photorealism energy of the result (matting Laplacian of the content, mean over the
channels), the style loss within the masks with the original VGG-19 (relu1_1, relu2_1, relu3_1), and the structural
similarity of the luma gradients with the content's. --sheets draws content, style and all results.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from statistics import median

import torch
from rich.progress import track
from run import HERE, STDERR, hardware, seconds, table
from skimage.metrics import structural_similarity
from torch import Tensor

import impasto
from impasto import color, encoder, images, machine, objective, photo, sheets
from impasto.matting import Guide
from impasto.recipes import Photo, Transfer

BLOCKS = ("relu1_1", "relu2_1", "relu3_1")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    folder = args.assets / "photo_pairs"
    names = args.only or sorted(path.name.split("_")[0] for path in folder.glob("*_content.jpg"))
    teacher = encoder.load(str(args.assets / "teachers" / "vgg19_conv1_1_to_conv3_4_caffe.safetensors"))
    judge = Transfer(content_weight=0.0, content_layers=(), style_layers=BLOCKS, smoothness=0.0, precision="float32")
    recipe, rows, wins, times = Photo(), [], [], []
    for name in track(names, console=STDERR):
        content, style, published = (
            images.to_tensor(folder / f"{name}_{what}.jpg") for what in ("content", "style", "published_result")
        )
        published = images.resize(published, content.shape[-2], content.shape[-1])
        marks = (images.to_tensor(folder / f"{name}_{what}_mask.png") for what in ("content", "style"))
        given = photo.from_masks(*marks, content, style)
        results: dict[str, Tensor] = {"published": published}

        def solve(
            label: str, found: bool, content: Tensor = content, style: Tensor = style,
            given: photo.Regions = given, results: dict[str, Tensor] = results,
        ) -> None:  # fmt: skip
            regions = photo.find(content, style, recipe) if found else given
            *_, last = photo.steps(content, style, regions, recipe)
            results[label] = (255 * last.lift(content)).round() / 255

        times.append(seconds(lambda solve=solve: solve("ours", False)))
        solve("without masks", True)
        guide = Guide(content.double())
        at = given.at(content, style)
        goal = objective.build(teacher, judge, content, [style] * len(at.style), at.content, at.style)
        found = {
            label: (energy(result, guide), float(goal(result)[0]["style"]), structure(result, content))
            for label, result in results.items()
        }
        base = found["published"]
        wins.append([[f[0] < base[0], f[1] < base[1], f[2] > base[2]] for f in (found["ours"], found["without masks"])])
        rows.append((name, *(f"{1e6 * f[0]:.1f} / {f[1]:.2f} / {f[2]:.3f}" for f in found.values())))
        print(rows[-1], flush=True)
        if args.sheets:
            panels = [("content", content), ("style", style), *results.items()]
            images.write(args.sheets / f"{name}.png", sheets.sheet(panels, columns=3))
    share = torch.tensor(wins).float().mean(0)  # (2, 3)
    goals = ("80 %", "60 %", "80 %")
    what = ("photorealism energy below the published", "masked style loss below", "structure above")
    lines = [
        "# Photorealistic transfer",
        "",
        f"Measured by `python benchmarks/photo.py` on {datetime.date.today()}, impasto {impasto.__version__}, on",
        f"{len(names)} pairs of Luan2017. Hardware: {hardware()}. One pair at its own size, about 700 px:",
        f"{median(times):.0f} s at the median, {max(times):.0f} s at the most.",
        "",
    ]
    lines += table(
        ("pairs where ours has", "with masks", "goal", "without masks"),
        [
            (which, f"{masked:.0%}", goal, f"{free:.0%}")
            for which, masked, goal, free in zip(what, share[0].tolist(), goals, share[1].tolist(), strict=True)
        ],
    )
    lines += ["Energy x 1e6 / style loss / structure:", ""]
    lines += table(("pair", "published", "ours", "ours without masks"), rows)
    (HERE / "photo.md").write_text("\n".join(lines))


if __name__ == "__main__":
    with machine.reused_memory():
        main()
