"""Folders of pictures, and random crops of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from impasto import decoding, images
from impasto.errors import InputError

FLAT = 0.01  # standard deviation, for sRGB in [0, 1], below which there is no contrast: 2.5 of 255 levels
DRAWS = 100  # attempts to find crops with contrast


def pictures(folder: str | Path) -> list[Path]:
    """Every picture file below ``folder``: the first list of `survey`."""
    return survey(folder)[0]


def survey(folder: str | Path, own: Container[str] = ()) -> tuple[list[Path], list[Path]]:
    """The pictures below a folder, by their suffix, and everything else that is visible: files, unreadable folders.

    Links to folders are followed, into each folder once. Hidden files and folders are skipped: their names begin with
    a dot, as those of macOS's "._photo.jpg" and of our temporary files.

    Args:
        folder: to search.
        own: files that belong to the run and are in neither list, as `os.path.realpath` names them.

    Returns:
        The pictures and the others, each sorted by path.
    """
    found: list[Path] = []
    others: list[Path] = []
    entered = {os.path.realpath(folder)}

    def complain(error: OSError) -> None:
        others.append(Path(error.filename))

    for place, below, names in os.walk(folder, onerror=complain, followlinks=True):
        visible = [os.path.join(place, name) for name in sorted(below) if name[0] != "."]
        visible.sort(key=os.path.islink)  # the folders themselves go before links to them
        below.clear()
        for path in visible:
            if (real := os.path.realpath(path)) not in entered:
                entered.add(real)
                below.append(os.path.basename(path))
        for file in (Path(place, name) for name in names if name[0] != "."):
            if own and os.path.realpath(file) in own:
                continue
            (found if file.suffix.lower() in images.SUFFIXES and file.is_file() else others).append(file)
    return sorted(found), sorted(others)


@dataclass(frozen=True)
class Pool:
    """Pictures held in memory, each in the top left corner of a square canvas.

    Attributes:
        canvas: (N, 3, S, S) uint8.
        sizes: (N, 2) height and width of each picture on its canvas.
        skipped: the files that could not be read.
        flat: the pictures without contrast, which were left out.
        replaced: the number of "flat" crops that `random_crops` drew again.
    """

    canvas: Tensor
    sizes: Tensor
    skipped: tuple[Path, ...] = ()
    flat: tuple[Path, ...] = ()
    replaced: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.canvas)

    def to(self, device: torch.device | str) -> Pool:
        return replace(self, canvas=self.canvas.to(device), sizes=self.sizes.to(device))


def load(
    paths: Sequence[Path],
    *,
    side: int = 384,
    short: int = 256,
    contrast: float = 0.0,
    report: Callable[[int], object] = lambda done: None,
) -> Pool:
    """Read pictures into a `Pool`, upright and never enlarged; broken files are skipped and listed.

    Args:
        paths: picture files.
        side: of the canvas, in pixels; larger pictures are cropped to their centre.
        short: the largest short side of a picture, in pixels; larger pictures are reduced.
        contrast: pictures with less are left out and listed; measured as in `random_crops`. 0: all are kept.
        report: called with the number of files read so far.

    Returns:
        The pictures in the order of ``paths``, on the CPU.
    """

    def read(path: Path) -> np.ndarray | None:
        try:
            if not path.stat().st_size:  # also of the endless files in /proc
                return None
            with path.open("rb") as opened, decoding.decoder(opened) as file:
                file.draft("RGB", (short, short))  # decode a JPEG at a reduced size
                decoding.check_size(str(path), *file.size)
                plain = file.mode[0] not in "IF" and not file.has_transparency_data
                picture = ImageOps.exif_transpose(file).convert("RGB") if plain else None
            picture = picture or images.to_pil(images.read(path).image)
        except Exception:  # Pillow's decoders raise nearly any exception on damaged files
            return None
        scale = min(1.0, short / min(picture.size))
        if scale < 1:
            width, height = (max(1, round(scale * length)) for length in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        left, top = (max(0, (length - side) // 2) for length in picture.size)
        return np.array(picture)[top : top + side, left : left + side]

    canvas = np.zeros((len(paths), 3, side, side), np.uint8)  # takes memory only where it is written
    sizes: list[tuple[int, int]] = []
    skipped: list[Path] = []
    flat: list[Path] = []
    threads = ThreadPoolExecutor()
    try:
        for path, array in zip(paths, threads.map(read, paths), strict=True):
            if array is None:
                skipped.append(path)
            elif contrast and array.std((0, 1)).max() < 255 * contrast:
                flat.append(path)
            else:
                height, width = array.shape[:2]
                canvas[len(sizes), :, :height, :width] = array.transpose(2, 0, 1)
                sizes.append((height, width))
            report(len(sizes) + len(skipped) + len(flat))
    finally:  # after Ctrl-C the rest is not read
        threads.shutdown(cancel_futures=True)
    return Pool(torch.from_numpy(canvas[: len(sizes)]), torch.tensor(sizes).reshape(-1, 2), tuple(skipped), tuple(flat))


def random_crops(
    pool: Pool,
    batch: int,
    size: int,
    generator: torch.Generator,
    *,
    zoom: tuple[float, float] = (0.7, 2.0),
    contrast: float = 0.0,
) -> Tensor:
    """Random square crops, zoomed and mirrored.

    Args:
        pool: the pictures.
        batch: number of crops.
        size: side of a crop in pixels.
        generator: of the random numbers, on the pool's device.
        zoom: range of the enlargement, log-uniform; larger if a picture is smaller than the crop.
        contrast: smallest standard deviation, over a crop, of the channel that varies most. A crop with less is drawn
            again and counted in ``pool.replaced``; 0: all are taken.

    Returns:
        (batch, 3, size, size) float32 sRGB in [0, 1].

    Raises:
        InputError: no crop with enough contrast was found.
    """
    crops = _draw(pool, batch, size, generator, zoom)
    for _ in range(DRAWS):
        flat = crops.std((2, 3)).amax(1) < contrast  # (B,)
        if not contrast or not flat.any():
            return crops
        pool.replaced["flat"] += int(flat.sum())
        crops = torch.where(flat[:, None, None, None], _draw(pool, batch, size, generator, zoom), crops)
    raise InputError("the photographs have almost no contrast: there is nothing in them to learn from")


def _draw(pool: Pool, batch: int, size: int, generator: torch.Generator, zoom: tuple[float, float]) -> Tensor:
    device = pool.canvas.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    rows = torch.randint(len(pool), (batch,), generator=generator, device=device)
    height_width = pool.sizes[rows].float()  # (B, 2)
    least = torch.maximum(size / height_width.amin(1), torch.tensor(zoom[0], device=device))  # (B,)
    most = torch.maximum(1.25 * least, torch.tensor(zoom[1], device=device))
    window = size / (least * (most / least) ** uniform(batch))  # (B,) side of the crop on the picture
    corner = uniform(batch, 2) * (height_width - window[:, None]).clamp_min(0)  # (B, 2)
    offsets = (torch.arange(size, device=device) + 0.5) / size  # (S,)
    side = pool.canvas.shape[-1]
    # Stay half a pixel inside the picture: the canvas beyond it is black.
    places = (corner[..., None] + offsets * window[:, None, None]).clamp_min(0.5).minimum(height_width[..., None] - 0.5)
    down, across = (2 * places / side - 1).unbind(1)  # (B, S) each, in grid_sample's [-1, 1]
    across = torch.where(uniform(batch, 1) < 0.5, across.flip(1), across)
    grid = torch.stack(
        [across[:, None, :].expand(-1, size, -1), down[:, :, None].expand(-1, -1, size)], dim=-1
    )  # (B, S, S, 2)
    crops = F.grid_sample(pool.canvas[rows].float() / 255, grid, mode="bilinear", align_corners=False)
    return crops.clamp(0, 1)
