"""Measure speed: ours and the baseline in turn in one run, as ratios, beside the hardware.

    python benchmarks/run.py [--quick]

Writes benchmarks/results.md and benchmarks/results.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from baseline import iteration
from rich.console import Console
from rich.progress import track
from rich.table import Table

import impasto
from impasto import encoder, images, pictures, recipes, transfer

HERE = Path(__file__).parent
SIZE = 512


def ours(network: encoder.VGG, content: torch.Tensor, style: torch.Tensor, precision: str) -> Callable[[], float]:
    """One iteration of ours: loss and gradient of the default recipe, on the square that the baseline gets."""
    goal = transfer.objective(network, replace(recipes.impasto, precision=precision), content, [style])
    image = content.clone().requires_grad_()

    def body() -> float:
        image.grad = None
        loss = torch.stack([*goal(image).values()]).sum()
        loss.backward()
        return float(loss.detach())

    return body


def iterations(rounds: int) -> dict[str, list[float]]:
    """Seconds of an iteration at 512 x 512, every contender once in each round."""
    content, style = (
        images.resize(images.to_tensor(pictures.locate(name)), SIZE, SIZE) for name in ("rocket", "starry-night")
    )
    torch.manual_seed(0)
    vgg19 = encoder.VGG().requires_grad_(False).eval().to(memory_format=torch.channels_last)
    compact = encoder.load("compact")
    contenders = {
        "baseline: source 000's loop, VGG-19, eager float32": iteration(content, style),
        "ours, VGG-19, float32": ours(vgg19, content, style, "float32"),
        "ours, VGG-19, auto precision": ours(vgg19, content, style, "auto"),
        "ours, compact, float32": ours(compact, content, style, "float32"),
        "ours, compact, auto precision": ours(compact, content, style, "auto"),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in track(range(rounds + 1), "iterations", console=Console(stderr=True)):
        for name, body in contenders.items():
            start = time.perf_counter()
            body()
            if turn:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
    return times


def process(arguments: list[str], runs: int) -> tuple[list[float], float]:
    """Seconds of whole processes of ours, and the largest peak memory among them in GB."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "impasto", *arguments]
        command = [part.replace("OUT", f"{folder}/out.png") for part in command]
        for _ in track(range(runs), " ".join(arguments[:1]), console=Console(stderr=True)):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under two minutes")
    args = parser.parse_args()
    help_times, _ = process(["--help"], 5)
    transfer_times, memory = process(
        ["transfer", "rocket", "starry-night", "-o", "OUT", "--quiet"], 1 if args.quick else 3
    )
    times = iterations(3 if args.quick else 9)
    middle = {name: median(values) for name, values in times.items()}
    base = next(iter(middle.values()))
    rows = [(name, f"{seconds:.3f} s", f"{base / seconds:.1f} x") for name, seconds in middle.items()]
    rows += [
        ("`impasto transfer rocket starry-night`, whole process", f"{median(transfer_times):.1f} s", ""),
        ("peak memory of that process", f"{memory:.2f} GB", ""),
        ("`impasto --help`, whole process", f"{median(help_times):.2f} s", ""),
    ]
    table = Table("what", "median", "baseline / this")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    lines = [
        "# Benchmarks",
        "",
        f"Measured by `python benchmarks/run.py` on {datetime.date.today()}, impasto {impasto.__version__}, "
        f"commit {commit}.",
        "",
        f"Hardware: {hardware()}. The machine is shared, so that ratios say more than seconds.",
        "",
        f"Iterations are loss and gradient at {SIZE} x {SIZE}; the contenders take turns in one process. The baseline",
        "runs its network twice in each iteration, as the loop that it follows does.",
        "",
        "| what | median | baseline / this |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    (HERE / "results.md").write_text("\n".join(lines) + "\n")
    record = {"date": str(datetime.date.today()), "commit": commit, "hardware": hardware(), "seconds": times}
    record |= {"transfer": transfer_times, "help": help_times, "memory_gb": memory}
    (HERE / "results.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
