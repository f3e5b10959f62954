"""Measure one-pass networks; writes benchmarks/onepass.md.

    python benchmarks/onepass.py [--assets DIR [--train] [--alike STEPS]]

The comparison with optimisation needs --assets, a folder with styles/, contents/ and photos/. --train also trains a new
style, as a user would. --alike trains the paper's network and ours on one style with the same crops, and compares them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

import torch
from rich.progress import track
from run import HERE, STDERR, hardware, process, seconds, table

import impasto
from impasto import bundled, datasets, encoder, images, machine, objective, onepass, onepass_training, optimize, recipes
from impasto.networks import IMPASTO, JOHNSON, Network
from impasto.onepass import Model
from impasto.runs import onepass as run_onepass

SIZE, PHOTOGRAPHS, MOST = 384, 10, 150
PAPER, STYLE, NEW = "the paper's", "the_great_wave.jpg", "woman_with_hat.jpg"
ROW = ("style", "photograph", "one pass", "iterations", "each, in the mean")


def iterations(pairs: list[tuple[torch.Tensor, objective.Objective]], wanted: list[float]) -> tuple[list[int], int]:
    """L-BFGS iterations from each photograph until its objective reaches ``wanted``; MOST if it takes more.

    Also the iterations until the mean objective reaches the mean of ``wanted``, as in figure 5 of Johnson2016.
    """
    runs = [optimize.minimize(*pair, optimizer="lbfgs", steps=MOST, rate=1.0, clip=True) for pair in pairs]
    curves: list[list[float]] = []  # the losses of all photographs before each iteration
    for steps in zip(*runs, strict=True):
        curves.append([step.loss for step in steps])
        if all(loss <= goal for loss, goal in zip(curves[-1], wanted, strict=True)):
            break
    counts = [first(curve, goal) for curve, goal in zip(zip(*curves, strict=True), wanted, strict=True)]
    return counts, first(map(mean, curves), mean(wanted))


def first(curve: Iterable[float], goal: float) -> int:
    return next((index for index, loss in enumerate(curve) if loss <= goal), MOST)


def unseen(
    assets: Path, painting: torch.Tensor, recipe: recipes.Training
) -> Iterator[tuple[torch.Tensor, objective.Objective]]:
    """Photographs outside the training set, each with the training objective."""
    style = onepass_training.prepare_style(painting, recipe)
    for path in sorted((assets / "contents").glob("*.jpg"))[:PHOTOGRAPHS]:
        photograph = images.to_size(images.to_tensor(path), SIZE)
        yield photograph, objective.build(encoder.load(recipe.encoder), recipe.loss_recipe(), photograph, [style])


def value(goal: objective.Objective, picture: torch.Tensor) -> float:
    return float(sum(goal(picture)[0].values()))


def against_optimisation(assets: Path, names: list[str]) -> Iterator[tuple[str, ...]]:
    """For each style, the means over photographs outside its training set, with its training objective."""
    for name in track(names, "one pass against L-BFGS", console=STDERR):
        model = onepass.load(name)
        recipe = recipes.Training(**json.loads(model.metadata["recipe"]))
        painting = images.to_tensor(assets / "styles" / json.loads(model.metadata["style"])["name"])
        pairs = list(unseen(assets, painting, recipe))
        after = [value(goal, onepass.apply(photograph, model)) for photograph, goal in pairs]
        counts, together = iterations(pairs, after)
        before = mean(value(goal, photograph) for photograph, goal in pairs)
        yield Path(name).stem, f"{before:.1f}", f"{mean(after):.2f}", f"{together}", f"{mean(counts):.1f}"


def train(assets: Path) -> list[str]:
    """`impasto train` of a new style with its defaults: minutes of the whole process, and the network's quality."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / Path(NEW).with_suffix(".safetensors")
        command = ["train", str(assets / "styles" / NEW), "--photos", str(assets / "photos"), "-o", str(out)]
        minutes = process(command, 1)[0] / 60
        head = f"`impasto train` of {NEW}, with its defaults: {minutes:.1f} minutes (goal: 20). Then, as above:"
        return [head, "", *table(ROW, list(against_optimisation(assets, [str(out)])))]


def alike(assets: Path, steps: int) -> Iterator[tuple[str, ...]]:
    """The objective of the paper's network and of ours after the same training, on photographs outside it."""
    painting = images.to_tensor(assets / "styles" / STYLE)
    pool = datasets.load(datasets.pictures(assets / "photos"), side=640, short=448)
    recipe = recipes.Training(steps=steps, start="")
    found = {}
    for name, shape in {PAPER: JOHNSON, "ours": IMPASTO}.items():
        torch.manual_seed(recipe.seed)
        network = Network(shape)
        began = time.perf_counter()
        for _ in track(onepass_training.train(painting, pool, recipe, network=network), name, steps, console=STDERR):
            pass
        took = (time.perf_counter() - began) / steps
        model = Model(network.eval(), {"recipe": "{}"})
        values = [
            value(goal, onepass.apply(each, model, grain=recipe.grain))
            for each, goal in unseen(assets, painting, recipe)
        ]
        found[name] = mean(values)
        yield name, f"{took:.2f} s", f"{found[name]:.2f}", f"{found[name] / found[PAPER]:.2f}"


def speeds() -> list[tuple[str, ...]]:
    """Seconds of one pass at 1920 x 1080 of the paper's network and of ours, in turn."""
    image = images.resize(images.to_tensor(bundled.locate("rocket")), 1080, 1920)
    networks = {
        PAPER: Model(Network(JOHNSON).eval(), {}),
        "ours": Model(Network(IMPASTO).eval(), {"recipe": "{}"}),
    }
    contenders: dict[tuple[str, str], Callable[[], object]] = {
        (name, precision): lambda m=model, p=precision: onepass.apply(image, m, precision=p, grain=recipes.GRAIN)
        for precision in ("float32", "auto")
        for name, model in networks.items()
    }
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in contenders}
    for turn in track(range(6), "one pass at 1080p", console=STDERR):
        for key, body in contenders.items():
            found = seconds(body)
            if turn:
                taken[key].append(found)
    middle = {key: median(values) for key, values in taken.items()}
    return [
        (name, precision, f"{took:.2f} s", f"{middle[PAPER, precision] / took:.1f} x")
        for (name, precision), took in middle.items()
    ]


def peak() -> float:
    """Peak GB of a whole process that repaints a picture of 7680 x 4320, including reading and writing."""
    with TemporaryDirectory() as folder:
        photo, out = Path(folder) / "photo.png", Path(folder) / "out.jpg"
        images.write(photo, images.resize(images.to_tensor(bundled.locate("rocket")), 4320, 7680))
        code = (
            "import sys; from impasto.cli import main; "
            f"code = main(['apply', {str(photo)!r}, '--style', 'udnie', '-o', {str(out)!r}, '--quiet']); "
            "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0]); sys.exit(code)"
        )
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return 1024 * int(said.split("VmHWM:")[1].split()[0]) / 1e9


def frames_per_second() -> float:
    """Frames per second of a video of 640 x 360, without reading and writing it."""
    frame = images.resize(images.to_tensor(bundled.locate("rocket")), 360, 640)
    model = onepass.load("udnie")
    return 1 / median(seconds(lambda: onepass.apply(frame, model)) for _ in range(20))


def folder(count: int = 8) -> tuple[float, float]:
    """Pictures of 12 megapixels per second: of a loop over `impasto.apply`, and of `impasto apply FOLDER`."""
    with TemporaryDirectory() as place:
        photos, out = Path(place) / "photos", Path(place) / "out"
        photos.mkdir()
        out.mkdir()
        noisy = images.resize(images.to_tensor(bundled.locate("rocket")), 3000, 4000)
        images.write(photos / "0.jpg", (noisy + 0.03 * torch.randn(noisy.shape)).clamp(0, 1))
        for index in range(1, count):
            (photos / f"{index}.jpg").write_bytes((photos / "0.jpg").read_bytes())
        model = onepass.load("candy")

        def loop() -> None:
            for path in sorted(photos.iterdir()):
                images.write(out / path.name, onepass.apply(path, model))

        painter = run_onepass.Painter([model], [1.0], 1.0, "none", machine.pick_device("auto"))

        def ours() -> None:
            with machine.reused_memory():
                run_onepass.apply([str(photos)], out, painter, quiet=True, resume=False)

        onepass.apply(noisy, model)  # a warm-up
        one, two = zip(*((seconds(loop), seconds(ours)) for _ in range(3)), strict=True)
        return count / median(one), count / median(two)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--alike", type=int, default=0, metavar="STEPS")
    args = parser.parse_args()
    assets = args.assets
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    lines = [
        "# One-pass networks",
        "",
        f"Measured by `python benchmarks/onepass.py` on {datetime.date.today()}, impasto {impasto.__version__}, "
        f"commit {commit}.",
        "",
        f"Hardware: {hardware()}. The machine is shared: ratios are more reliable than seconds.",
        "",
    ]
    small = ["apply", "rocket", "--style", "udnie", "-o", "OUT", "--quiet"]
    rows = [
        ("`impasto apply` of 640 x 427 pixels, whole process", f"{median(process(small, 5)):.1f} s", "3 s"),
        ("peak memory at 7680 x 4320, whole process", f"{peak():.2f} GB", "3 GB"),
        ("frames of 640 x 360", f"{frames_per_second():.1f} per second", ""),
    ]
    loop, ours = folder()
    rows.append(
        (
            f"`impasto apply` of a folder, 4000 x 3000: {ours:.2f} a second; against a loop",
            f"{ours / loop:.2f} x",
            "1.3 x",
        )
    )
    lines += table(("what", "measured", "goal"), rows)
    with machine.reused_memory():
        lines += table(("network, 1920 x 1080", "precision", "one pass", "the paper's / this"), speeds())
        if assets is not None:
            lines += [
                f"The mean objective on {PHOTOGRAPHS} photographs that no network was trained on, at {SIZE} px; the",
                "number of L-BFGS iterations from the photographs that reach this mean, as in figure 5 of Johnson2016",
                "(goal: 40, for ten of twelve styles); and the mean number of iterations that bring each photograph to",
                "the objective of one pass. Other runs are in notes.md.",
                "",
            ]
            lines += table(ROW, list(against_optimisation(assets, list(bundled.STYLES))))
        if assets is not None and args.train:
            lines += train(assets)
        if assets is not None and args.alike:
            lines += [f"Both trained for {args.alike} steps on {STYLE}, with the same crops (goal: 1.05):", ""]
            heads = ("network", "a step", "objective", "ours / the paper's")
            lines += table(heads, list(alike(assets, args.alike)))
    (HERE / "onepass.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
