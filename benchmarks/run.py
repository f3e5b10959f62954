"""Measure speed and memory of ours and of the baseline, in turn in one run; reports ratios and the hardware.

    python benchmarks/run.py [--quick]

Writes benchmarks/results.md and benchmarks/results.json. Takes about 20 minutes, with --quick 3.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from baseline import iteration
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track
from torch.profiler import ProfilerActivity, profile, record_function

import impasto
from impasto import bundled, encoder, images, machine, objective, optimize, presets, transfer, winograd
from impasto.recipes import Transfer

HERE = Path(__file__).parent
STDERR = Console(stderr=True)
SIZE = 512
BASELINE = "baseline: PyTorchBlog's loop, VGG-19, eager float32"
GROUPS = {
    "convolutions": ("convolution", "conv2d", "mkldnn"),
    "Gram matrices and their gradient": ("bmm", "mm", "baddbmm"),
    "pooling": ("max_pool", "max_unpool"),
    "rectifiers": ("relu", "threshold", "clamp_min"),
    "copies and casts": ("copy", "to", "cat", "contiguous", "fill", "zero", "empty"),
}
Row = tuple[str, ...]


def pair(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A content and a style, stretched to a square."""
    content, style = (images.to_tensor(bundled.locate(name)) for name in ("rocket", "starry-night"))
    return images.resize(content, size, size), images.resize(style, size, size)


def vgg19() -> encoder.VGG:
    torch.manual_seed(0)
    return encoder.VGG().requires_grad_(False).eval()


def ours(network: encoder.VGG, size: int, precision: Any, *, minimal: bool = True) -> Callable[[], object]:
    """One iteration of our implementation: loss and gradient of the default recipe."""
    content, style = pair(size)
    goal = objective.build(network, replace(presets.impasto, precision=precision), content, [style])
    if not minimal:  # the same, with PyTorch's convolutions
        goal = replace(goal, frozen=encoder.Frozen(network, goal.layers, goal.dtype))
    return lambda: goal(content)


def seconds(body: Callable[[], object]) -> float:
    start = time.perf_counter()
    body()
    return time.perf_counter() - start


def iterations(rounds: int) -> dict[str, list[float]]:
    """Seconds per iteration at 512 x 512; each round runs every implementation once."""
    vgg, compact = vgg19(), encoder.load("compact")
    contenders: dict[str, Callable[[], object]] = {
        BASELINE: iteration(*pair(SIZE)),
        "ours, VGG-19, float32": ours(vgg, SIZE, "float32"),
        "ours, VGG-19, auto precision": ours(vgg, SIZE, "auto"),
        "the same without minimal filtering": ours(vgg, SIZE, "auto", minimal=False),
        "ours, compact, float32": ours(compact, SIZE, "float32"),
        "ours, compact, auto precision": ours(compact, SIZE, "auto"),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in track(range(rounds + 1), "iterations", console=STDERR):
        for name, body in contenders.items():
            # Each with the allocator that it normally uses; for the baseline that is the default one.
            with contextlib.nullcontext() if name == BASELINE else machine.reused_memory():
                for _ in range(1 if name == BASELINE else 2):  # the second still adds to the reused memory
                    body()
                taken = seconds(body)
            if turn:  # the first is a warm-up
                times[name].append(taken)
    return times


def scaling(sizes: Sequence[int], rounds: int) -> dict[int, float]:
    """Seconds per iteration and megapixel with the compact encoder, for squares of each side."""
    compact = encoder.load("compact")
    bodies = {size: ours(compact, size, "auto") for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in track(range(rounds + 1), "cost against size", console=STDERR):
        for size, body in bodies.items():
            times[size].append(seconds(body) / (size * size / 1e6))
    return {size: median(values[1:]) for size, values in times.items()}


def to_the_same_loss(size: int, steps: int) -> dict[str, float]:
    """Seconds of the pytorch-blog preset with Adam, and of our schedule until it reaches the same loss."""
    content, style = (images.to_size(images.to_tensor(bundled.locate(n)), size) for n in ("rocket", "starry-night"))

    def run(recipe: Transfer, target: float) -> tuple[float, float, int]:
        start, loss, count = time.perf_counter(), float("inf"), 0
        for step in transfer.steps(content, style, recipe):
            loss, count = step.loss, count + 1
            if step.scale == 1 and loss <= target:
                break
        return time.perf_counter() - start, loss, count

    blog = replace(presets.pytorch_blog, size=size, steps=steps)
    schedule = {name: getattr(presets.impasto, name) for name in ("optimizer", "rate", "scales", "flat", "steps")}
    theirs, loss, _ = run(blog, 0.0)
    best, reached, count = run(replace(blog, **schedule), loss)
    return {"adam_s": theirs, "adam_loss": loss, "ours_s": best, "ours_loss": reached, "ours_iterations": count}


def optimizers(size: int, steps: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds and final loss of our L-BFGS and of PyTorch's, in turn, on the default recipe's objective, unclipped."""
    content, style = pair(size)
    goal = objective.build(encoder.load("compact"), presets.impasto, content, [style])

    def our_lbfgs() -> torch.Tensor:
        *_, last = optimize.minimize(content, goal, optimizer="lbfgs", steps=steps, rate=1.0)
        return last.x

    def torch_lbfgs() -> torch.Tensor:
        x = content.clone()
        solver = torch.optim.LBFGS([x], max_iter=steps, max_eval=10 * steps, tolerance_grad=0, tolerance_change=0,
                                   history_size=optimize.HISTORY, line_search_fn="strong_wolfe")  # fmt: skip

        def closure() -> torch.Tensor:
            terms, x.grad = goal(x)
            return torch.stack([*terms.values()]).sum()

        solver.step(closure)
        return x

    found: dict[str, list[tuple[float, float]]] = {"`optimize.LBFGS`": [], "`torch.optim.LBFGS`, strong Wolfe": []}
    for _ in track(range(rounds), "L-BFGS", console=STDERR):
        for name, body in zip(found, (our_lbfgs, torch_lbfgs), strict=True):
            start = time.perf_counter()
            x = body()
            found[name].append((time.perf_counter() - start, sum(float(term) for term in goal(x)[0].values())))
    return {name: (median(taken for taken, _ in runs), runs[-1][1]) for name, runs in found.items()}


def where_time_goes(network: encoder.VGG, rounds: int = 5) -> dict[str, float]:
    """The share of an iteration's time spent in each group of operations."""
    body = ours(network, SIZE, "auto")
    body()
    minimal = record_function("convolution")(winograd.convolve)  # counts its parts as one operation
    with patch.object(winograd, "convolve", minimal), profile(activities=[ProfilerActivity.CPU]) as prof:
        for _ in range(rounds):
            body()
    shares = dict.fromkeys([*GROUPS, "the rest"], 0.0)
    for event in prof.events():
        above = event
        while above.cpu_parent is not None and above.name != "convolution":
            above = above.cpu_parent
        name = (above if above.name == "convolution" else event).name.removeprefix("aten::").lstrip("_")
        group = next((group for group, names in GROUPS.items() if name.startswith(names)), "the rest")
        shares[group] += event.self_cpu_time_total
    total = sum(shares.values())
    return {group: taken / total for group, taken in shares.items()}


def convolution_rates(network: encoder.VGG) -> list[Row]:
    """TFLOP/s of each kind of convolution in an iteration, and of a matrix product of the same shape."""
    dtype = machine.precision("auto", torch.device("cpu"))
    rows, seen = [], set()
    for place in ("1_2", "2_1", "2_2", "3_1", "3_2", "4_1", "4_2", "5_1"):
        kernel = getattr(network, f"conv{place}").weight
        side = SIZE >> (int(place[0]) - 1)
        out, into = kernel.shape[:2]
        if (out, into, side) in seen:
            continue
        seen.add((out, into, side))
        convolution = winograd.Convolution(kernel.to(dtype))
        x = torch.randn(1, into, side, side).to(dtype, memory_format=torch.channels_last)
        a, b = torch.randn(side * side, 9 * into).to(dtype), torch.randn(9 * into, out).to(dtype)
        flops = 2 * side * side * 9 * into * out
        with torch.no_grad():
            bodies = (lambda x=x, c=convolution: c(x, padding=1), lambda a=a, b=b: a @ b)
            rates = [flops / min(seconds(body) for _ in range(8)) / 1e12 for body in bodies]
        rows.append((f"{into} to {out} at {side}", *(f"{rate:.2f}" for rate in rates), f"{rates[0] / rates[1]:.2f}"))
    return rows


def process(arguments: list[str], runs: int) -> list[float]:
    """Seconds of whole `impasto` processes."""
    return [at_once(arguments, 1) for _ in track(range(runs), " ".join(arguments[:1]), console=STDERR)]


def at_once(arguments: list[str], count: int) -> float:
    """Seconds until ``count`` whole `impasto` processes, started at once, are done."""
    with tempfile.TemporaryDirectory() as folder:
        commands = [
            [sys.executable, "-m", "impasto", *(part.replace("OUT", f"{folder}/{index}.png") for part in arguments)]
            for index in range(count)
        ]
        start = time.perf_counter()
        running = [subprocess.Popen(each, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for each in commands]
        assert [each.wait() for each in running] == [0] * count
        return time.perf_counter() - start


def together(arguments: list[str], rounds: int) -> dict[int, float]:
    """The time of two and of three `impasto` processes at once, divided by that of one after the other."""
    # In turn, so that other load on the machine affects all counts alike.
    times = [
        [at_once(arguments, count) for count in (1, 2, 3)] for _ in track(range(rounds), "at once", console=STDERR)
    ]
    one, two, three = (median(column) for column in zip(*times, strict=True))
    return {2: two / (2 * one), 3: three / (3 * one)}


def lanes(rounds: int) -> float:
    """The time of two transfers in threads of one process, as in the studio, divided by that of one after the other."""
    recipe = replace(presets.impasto, size=384, steps=30)

    def job() -> None:
        transfer.stylize(str(bundled.locate("rocket")), str(bundled.locate("starry-night")), recipe)

    job()
    ratios = []
    for _ in track(range(rounds), "lanes", console=STDERR):
        start = time.perf_counter()
        job()
        job()
        halfway = time.perf_counter()
        threads = [threading.Thread(target=job) for _ in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        ratios.append((time.perf_counter() - halfway) / (halfway - start))
    return median(ratios)


def memory(*arguments: object) -> dict[str, float]:
    """Run memory.py in a separate process and return what it measures."""
    STDERR.print("memory:", *arguments)
    command = [sys.executable, str(HERE / "memory.py"), *map(str, arguments)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def hardware() -> str:
    model = platform.processor() or platform.machine()
    flags = ""
    if (info := Path("/proc/cpuinfo")).exists():
        text = info.read_text()
        model = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), model)
        flags = ", ".join(flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in text)
    return (
        f"{model}, {os.cpu_count()} cores ({flags}), torch {torch.__version__} with {torch.get_num_threads()} threads"
    )


def table(head: Row, rows: Sequence[Row]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows), ""]


def report(record: Mapping[str, Any]) -> str:
    """The text of results.md."""
    middle = {name: median(values) for name, values in record["iterations"].items()}
    base = middle[BASELINE]
    goals = {"ours, VGG-19, float32": "1.5 x", "ours, VGG-19, auto precision": "6 x"}
    goals["ours, compact, auto precision"] = "25 x"
    lines = [
        "# Benchmarks",
        "",
        f"Measured by `python benchmarks/run.py` on {record['date']}, impasto {impasto.__version__}, "
        f"commit {record['commit']}.",
        "",
        f"Hardware: {record['hardware']}. The machine is shared: ratios are more reliable than seconds.",
        "",
        f"An iteration is loss and gradient at {SIZE} x {SIZE}; the implementations take turns in one process. The",
        "baseline runs its network twice per iteration, as in the article. Other runs are in notes.md.",
        "",
    ]
    lines += table(
        ("one iteration", "median", "baseline / this", "goal"),
        [(name, f"{s:.3f} s", f"{base / s:.1f} x", goals.get(name, "")) for name, s in middle.items()],
    )
    rows = [
        ("`impasto transfer rocket starry-night`", f"{median(record['transfer']):.1f} s", "15 s"),
        ("the same, one step at 64 px: the start-up", f"{median(record['start']):.1f} s", ""),
        ("`impasto --help`", f"{median(record['help']):.2f} s", "0.5 s"),
    ]
    rows += [
        (f"{count} transfers at 384 px at once, against one after the other", f"{ratio:.2f} x", f"{goal} x")
        for (count, ratio), goal in zip(record["together"].items(), (1.2, 1.3), strict=True)
    ]
    rows.append(("two transfers in one process at once, as in the studio", f"{record['lanes']:.2f} x", "1.2 x"))
    lines += table(("whole process", "median", "goal"), rows)
    if race := record["race"]:
        rows = [
            ("`pytorch-blog`, Adam", f"{race['adam_s']:.1f} s", f"{race['adam_loss']:.4g}", ""),
            (
                f"the same objective, our schedule, {race['ours_iterations']:.0f} iterations",
                f"{race['ours_s']:.1f} s",
                f"{race['ours_loss']:.4g}",
                f"{race['ours_s'] / race['adam_s']:.3f} (goal 0.05)",
            ),
        ]
        lines += [f"At {race['size']:.0f} px, {race['steps']:.0f} steps of Adam, compact:", ""]
        lines += table(("to the same loss", "time", "loss", "ratio"), rows)
    lines += table(
        ("L-BFGS, 10 pairs, 256 px, compact, 100 iterations", "time", "loss"),
        [(name, f"{taken:.1f} s", f"{loss:.4f}") for name, (taken, loss) in record["optimizers"].items()],
    )
    first = next(iter(record["scaling"].values()))
    lines += table(
        ("compact, square of", "s / megapixel and iteration", "against the smallest (goal 1.3)"),
        [(f"{size} px", f"{cost:.3f}", f"{cost / first:.2f}") for size, cost in record["scaling"].items()],
    )
    lines += ["Peak memory above that of the interpreter with everything imported, one scale, compact:", ""]
    lines += table(
        ("job", "memory", "time", "goal"),
        [
            (name, f"{found['gb']:.2f} GB", f"{found['seconds']:.0f} s", found["goal"])
            for name, found in record["memory"].items()
        ],
    )
    lines += ["Where an iteration's time goes:", ""]
    lines += table(
        ("operations", *record["profile"]),
        [
            (group, *(f"{shares[group]:.0%}" for shares in record["profile"].values()))
            for group in [*GROUPS, "the rest"]
        ],
    )
    lines += [
        "Convolutions and matrix products of the same shape (positions x 9 inputs x outputs), TFLOP/s. Minimal",
        "filtering needs fewer operations than are counted here:",
        "",
    ]
    lines += table(
        ("3x3, channels and side", "convolution", "product", "ratio"), [tuple(row) for row in record["rates"]]
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, small sizes, under two minutes")
    quick = parser.parse_args().quick
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    record: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown",
        "hardware": hardware(),
    }
    record["help"] = process(["--help"], 5)
    tiny = ["--size", "64", "--steps", "1", "--quiet"]
    record["start"] = process(["transfer", "rocket", "starry-night", "-o", "OUT", *tiny], 3)
    record["transfer"] = process(["transfer", "rocket", "starry-night", "-o", "OUT", "--quiet"], 1 if quick else 3)
    few = ["--size", "384", "--steps", "30", "--quiet"]
    record["together"] = together(["transfer", "rocket", "starry-night", "-o", "OUT", *few], 1 if quick else 3)
    record["lanes"] = lanes(1 if quick else 3)
    jobs: dict[str, tuple[tuple[object, ...], str]] = {}
    for side in (512, 1024) if quick else (512, 1024, 2048):
        jobs[f"ours, {side} px, 3 iterations"] = (("ours", side, 0, 3), "")
        if side < 2048:  # it takes 17 GB and minutes
            jobs[f"baseline, {side} px, 1 iteration"] = (("baseline", side), "")
    if not quick:
        jobs["ours, 4096 px, `--memory 2.5`, 2 iterations"] = (("ours", 4096, 2.5, 2), "2.5 GB")
    record["memory"] = {name: memory(*arguments) | {"goal": goal} for name, (arguments, goal) in jobs.items()}
    record["iterations"] = iterations(2 if quick else 5)
    with machine.reused_memory():
        record["scaling"] = scaling((512, 1024) if quick else (512, 1024, 2048, 4096), 2)
        networks = {"VGG-19": vgg19(), "compact": encoder.load("compact")}
        record["profile"] = {name: where_time_goes(network) for name, network in networks.items()}
        record["rates"] = convolution_rates(networks["VGG-19"])
        record["optimizers"] = optimizers(256, 100, 1 if quick else 3)
    size, steps = (128, 300) if quick else (256, 3000)
    record["race"] = {"size": size, "steps": steps} | to_the_same_loss(size, steps)
    text = report(record)
    Console().print(Markdown(text))
    (HERE / "results.md").write_text(text)
    (HERE / "results.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
