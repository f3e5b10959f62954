"""Print the peak memory and time of one job as JSON; run.py calls this in a separate process.

    python benchmarks/memory.py ours SIZE MEMORY_GB STEPS | baseline SIZE

The memory is the increase over an interpreter that has imported everything.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from baseline import iteration

from impasto import bundled, images, machine, presets
from impasto.runs import transfer as run_transfer


def main() -> None:
    kind, size, *rest = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
    own = psutil.Process().memory_info().rss
    start = time.perf_counter()
    if kind == "ours":
        inputs = run_transfer.read_inputs("rocket", ["starry-night"])
        # A square: the goals are stated for squares.
        side = min(inputs.content.image.shape[-2:])
        square = replace(inputs.content, image=inputs.content.image[..., :side, :side])
        recipe = replace(presets.impasto, size=size, steps=int(rest[1]), scales=(1.0,), flat=0.0)
        with TemporaryDirectory() as folder, machine.reused_memory(sparingly=float(rest[0]) > 0):
            watch = run_transfer.Watch(Path(folder) / "out.png", memory=float(rest[0]), quiet=True)
            run_transfer.paint(replace(inputs, content=square), recipe, watch)
    else:
        content, style = (
            images.resize(images.to_tensor(bundled.locate(name)), size, size) for name in ("rocket", "starry-night")
        )
        iteration(content, style)()
    seconds = time.perf_counter() - start
    # Not ru_maxrss, which a child process inherits from its parent.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    peak = 1024 * int(line.split()[1])
    print(json.dumps({"gb": (peak - own) / 1e9, "seconds": seconds, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
