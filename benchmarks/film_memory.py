"""Print the memory of repainting a long film, as `impasto apply` does, from decoding to encoding.

    python benchmarks/film_memory.py CLIP [--frames 1000] [--size 640x360] [--style mosaic] [--paint SIZE]

CLIP is played again and again until there are as many frames, resized to SIZE. Printed are the resident memory after
50, 100, 200, ... frames, and the peak. `--paint` is the --size of `impasto apply`.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from impasto import images, machine, onepass, recording, video
from impasto.runs import film as run_film, onepass as run_onepass


def looped(clip: Path, out: Path, count: int, width: int, height: int) -> Path:
    frames = [images.resize(frame.float() / 255, height, width) for frame, _ in
              itertools.islice(video.find(clip).frames(), min(count, 200))]  # fmt: skip
    with recording.writer(out, height, width, fps=25) as add:
        for frame in itertools.islice(itertools.cycle(frames), count):
            add(frame)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--style", default="mosaic")
    parser.add_argument("--paint", type=int)
    parser.add_argument("--film", type=Path, help="a film to repaint as it is; for a process of its own")
    args = parser.parse_args()
    if args.film is None:  # the frames that are looped would count
        with TemporaryDirectory() as folder:
            width, height = map(int, args.size.split("x"))
            film = looped(args.clip, Path(folder) / "film.mp4", args.frames, width, height)
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--film", str(film)], check=True)
        return
    process, began = psutil.Process(), time.perf_counter()
    with machine.reused_memory(), TemporaryDirectory() as folder:
        model = onepass.load(args.style)
        painter = run_onepass.Painter([model], [1.0], 1.0, "none", machine.pick_device("auto"), size=args.paint)
        out, settings = Path(folder) / "out.mp4", run_film.Settings()
        marks = {50 * 2**power for power in range(12)} | {1, 10, args.frames}
        with run_film.painting(args.film, out, painter, settings, receipt={}) as made:
            for _ in made:
                if made.done in marks:
                    print(f"{made.done} frames: {process.memory_info().rss / 1e6:.0f} MB", flush=True)
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(f"peak {int(line.split()[1]) / 1e6:.2f} GB, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
