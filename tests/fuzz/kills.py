"""Kill runs at random moments, and look at what is left: `python tests/fuzz/kills.py [COUNT [NAME ...]]`.

After kill -9 or SIGTERM nothing under a final name may be damaged, the next run must remove what was left behind, and
a resumed run must equal one that was never stopped, to the bit. A resumed film is encoded in parts, each after the last
decoded frame of the one before, so it must have the same frames, nearly the same. Only runs that were still at work
when the signal came are counted.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from impasto import cli, files
from impasto.runs import onepass as run_onepass, torchrun, transfer as run_transfer

STYLE = "the-great-wave"
NEAR = 11  # levels of 255, on average over a frame, that a continued film may be away; one frame later is 12 away
IMPORTED = (run_onepass, run_transfer)  # before any process is forked


def prepare(folder: Path) -> None:
    """Two pictures, a folder of photographs and a film."""
    draw = np.random.default_rng(0)

    def picture(path: Path, side: int = 96) -> None:
        small = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(path)

    picture(folder / "photo.png")
    picture(folder / "style.png")
    (folder / "photos").mkdir()
    for index in range(8):
        picture(folder / "photos" / f"{index}.png")
    import av

    with av.open(str(folder / "film.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        with Image.open(folder / "photo.png") as photo:
            scene = np.asarray(photo)
        for index in range(16):  # the camera moves
            pixels = np.ascontiguousarray(scene[16:80, 2 * index : 2 * index + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


COMMANDS = {
    "transfer": ["transfer", "photo.png", "style.png", "-o", "OUT.png", "--size", "64", "--steps", "40",
                 "--checkpoint-every", "2"],
    "folder": ["apply", "photos", "--style", STYLE, "-o", "OUT"],
    "film": ["apply", "film.mp4", "--style", STYLE, "-o", "OUT.mp4"],
    "train": ["train", "style.png", "--photos", "photos", "-o", "OUT.safetensors", "--steps", "12", "--batch", "1",
              "--crop", "64", "--style-size", "64", "--strength", "1"],
}  # fmt: skip
RESULTS = {"transfer": "OUT.png", "folder": "OUT", "film": "OUT.mp4", "train": "OUT.safetensors"}


class Run:
    """A command in a forked process, so that torch is imported once.

    Attributes:
        complaint: what it wrote to the standard error, once it has ended.
        hit: whether a signal was sent to it.
    """

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.complaint, self.log, self.hit = "", folder / "stderr.log", False
        self.log.touch()
        self.process = multiprocessing.get_context("fork").Process(target=self.work, args=(arguments, folder))
        self.process.start()

    def work(self, arguments: list[str], folder: Path) -> None:
        os.chdir(folder)
        for stream, path in ((1, os.devnull), (2, str(self.log))):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        files.sweep.cache_clear()
        torchrun.EVERY = 2
        torch.set_num_threads(1)
        sys.exit(cli.main([*arguments, "--quiet"]))

    def end(self, number: signal.Signals | None = None, wait: float | None = None) -> int | None:
        """Wait, then send a signal if it still runs; returns the exit code."""
        self.process.join(wait)
        if number is not None and self.process.is_alive():
            assert self.process.pid is not None
            os.kill(self.process.pid, number)
            self.hit = True
        self.process.join()
        self.complaint = self.log.read_text()
        self.log.unlink()
        return self.process.exitcode


def check(path: Path) -> None:
    """Read a file completely, by its suffix."""
    if path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".safetensors":
        load_file(path)
    elif path.suffix == ".resume":
        torch.load(path, weights_only=True)
    elif path.suffix == ".mp4":
        import av

        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 0


def contents(path: Path) -> dict[str, bytes]:
    """What a result holds, without what may differ: pixels, tensors, frames."""
    if path.is_dir():
        return {each.name: Image.open(each).tobytes() for each in sorted(path.iterdir())}
    if path.suffix == ".png":
        return {"": Image.open(path).tobytes()}
    return {"": path.read_bytes()}


def closeness(one: Path, other: bytes) -> float:
    """The largest mean difference between the frames of two films, in levels; infinite if they differ in number."""
    import av

    films = []
    for source in (str(one), io.BytesIO(other)):
        with av.open(source) as container:
            films.append([frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)])
    if len(films[0]) != len(films[1]):
        return np.inf
    return max(float(np.abs(ours - theirs).mean()) for ours, theirs in zip(*films, strict=True))


def kill(
    name: str, folder: Path, number: signal.Signals, wait: float, wanted: dict[str, bytes], *, resume: bool = True
) -> bool:
    """Kill a command after a while, check what is left, run it to its end, and compare; False if it had ended."""
    begun = set(folder.rglob("*"))
    run = Run(COMMANDS[name], folder)
    run.end(number, wait)
    if not run.hit:
        return False
    assert "Traceback" not in run.complaint, run.complaint
    made = [path for path in set(folder.rglob("*")) - begun if path.is_file() and ".impasto-" not in path.name]
    for path in made:
        check(path)
    if number is signal.SIGTERM:
        assert not [*folder.rglob(".impasto-*")]
    again = [*COMMANDS[name]]
    resume = resume and (name == "folder" or (folder / "OUT.resume").exists())
    if resume:
        again += ["--resume", "OUT.resume"] if name == "transfer" else ["--resume"]
    run = Run(again, folder)
    assert run.end() == 0, run.complaint
    assert not [*folder.rglob(".impasto-*")], "leftovers"
    assert not (folder / "OUT.resume").exists(), "a checkpoint is left"
    if name == "film" and resume:
        difference = closeness(folder / RESULTS[name], wanted[""])
        assert difference < NEAR, f"another film: {difference:.1f} levels"
    else:
        assert contents(folder / RESULTS[name]) == wanted, "another result"
    return True


def clear(folder: Path) -> None:
    for path in folder.glob("OUT*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def main(count: int, folder: Path, names: tuple[str, ...] = tuple(COMMANDS)) -> int:
    """Kill ``count`` times, taking turns; returns the number of failures."""
    prepare(folder)
    wanted, seconds = {}, {}
    for name in names:
        begun = time.monotonic()
        run = Run(COMMANDS[name], folder)
        assert run.end() == 0, run.complaint
        seconds[name] = time.monotonic() - begun
        wanted[name] = contents(folder / RESULTS[name])
        clear(folder)
    draw, failed = random.Random(int(os.environ.get("SEED", "0"))), 0
    for index in range(count):
        name = names[index % len(names)]
        number = (signal.SIGKILL, signal.SIGTERM)[index // len(names) % 2]
        wait, resume = draw.uniform(0, 1) * seconds[name], draw.random() < 0.75
        try:
            while not kill(name, folder, number, wait, wanted[name], resume=resume):
                clear(folder)
                wait /= 2
            print(f"{index + 1}: {name}, {number.name} after {wait:.1f} s: survived", flush=True)
        except AssertionError as error:
            failed += 1
            print(f"{index + 1}: {name}, {number.name} after {wait:.1f} s: {error}", flush=True)
        clear(folder)
        for path in folder.rglob(".impasto-*"):
            path.unlink()
    print(f"{count - failed} of {count} survived")
    return failed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        count, *names = sys.argv[1:] or ["50"]
        sys.exit(main(int(count), Path(place), tuple(names) or tuple(COMMANDS)) > 0)
