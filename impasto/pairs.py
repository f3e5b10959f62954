"""Pairs of pictures, input and target, for networks that learn to translate one into the other (Isola2017).

Pairs come from folders, or are made from any photographs: lightness and colours, or edges and photograph.
Networks see them as (B, C, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from impasto import color, datasets, files, images
from impasto.errors import ImageError, InputError

Kind = Literal["given", "colorize", "edges"]

BUDGET = 4 << 30  # bytes of decoded pairs that are kept in memory; others are read again when they are drawn
CHROMA = 110  # |a| and |b| of sRGB are smaller
SIGMA = 1.5  # of the edge detector, in pixels
DEEP = (".tif", ".tiff", ".npy")  # files with any number of channels


def to_network(image: Tensor, kind: Kind) -> Tensor:
    """What a network reads of a picture: (1, C, H, W) in [0, 1] -> (1, C', H, W) in [-1, 1].

    To colorize, its lightness; for edges, its brightness; otherwise the picture itself.
    """
    if kind == "colorize":
        return color.to_lab(image)[:, :1] / 50 - 1
    return 2 * (color.luma(image) if kind == "edges" and image.shape[1] == 3 else image) - 1


def to_picture(output: Tensor, image: Tensor, kind: Kind) -> Tensor:
    """The picture of a network's output: (1, C, H, W) in [-1, 1] -> (1, C', H, W) in [0, 1].

    Args:
        output: of the network; of the kind ``colorize``, only the colours.
        image: the picture that it read, in [0, 1]; of the kind ``colorize``, the result has its lightness.
        kind: how the network's pairs were made.
    """
    if kind == "colorize":
        return color.from_lab(torch.cat([color.to_lab(image)[:, :1], CHROMA * output], 1))
    return (output + 1) / 2


def edges(photograph: Tensor) -> Tensor:
    """The photograph's edges (Canny1986), black on white: (1, 3, H, W) in [0, 1] -> (1, 1, H, W)."""
    from skimage.feature import canny  # imported late: it loads scipy

    found = canny(color.luma(photograph)[0, 0].cpu().numpy(), SIGMA, low_threshold=0.04, high_threshold=0.12)  # type: ignore[no-untyped-call]
    return 1 - torch.from_numpy(found)[None, None].to(photograph)


def read(path: Path, channels: int) -> Tensor:
    """Read a picture with a number of channels: (1, channels, H, W) in [0, 1].

    1 is grey, 3 colour, 4 colour and transparency. TIFF and .npy files may have any number; integers use their full
    range.

    Raises:
        ImageError: the file cannot be read, or has another number of channels.
    """
    if channels in (1, 3, 4) and path.suffix.lower() != ".npy":
        picture = images.read(path)
        if channels == 1:
            return color.luma(picture.image)
        alpha = [torch.ones_like(picture.image[:, :1]) if picture.alpha is None else picture.alpha]
        return torch.cat([picture.image, *alpha], 1) if channels == 4 else picture.image
    try:
        if files.special(path):
            raise OSError("a device or a pipe")
        if path.suffix.lower() == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            import tifffile

            array = tifffile.imread(path)
    except Exception as error:  # any, also of memory: damaged files raise many kinds, and ask for too much
        raise ImageError(f"{path}: cannot be read as {channels} channels ({error}); use .tif or .npy") from error
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] != channels:
        raise ImageError(f"{path}: has the shape {array.shape}, not (height, width, {channels})")
    if array.dtype.kind not in "fu":
        raise ImageError(f"{path}: holds {array.dtype}; use uint8, uint16 or float in [0, 1]")
    if array.dtype.kind == "f" and not ((array > -1e-3) & (array < 1 + 1e-3)).all():
        raise ImageError(f"{path}: holds NaN or values outside [0, 1]; divide 8-bit values by 255")
    full = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    return torch.from_numpy((array / full).astype(np.float32)).permute(2, 0, 1)[None].contiguous()


def write(path: Path, image: Tensor) -> None:
    """Write (1, C, H, W) in [0, 1] with a number of channels that `images.write` does not know: TIFF of 16 bits, .npy.

    Raises:
        ImageError: the file has another suffix.
    """
    array = image[0].permute(1, 2, 0).cpu().numpy()
    with files.atomic(path) as part:
        if path.suffix.lower() == ".npy":
            with part.open("wb") as file:  # np.save would add .npy to the name x.NPY
                np.save(file, array)
        elif path.suffix.lower() in DEEP:
            import tifffile

            values = (65535 * array.clip(0, 1) + 0.5).astype(np.uint16)
            tifffile.imwrite(part, values, photometric="minisblack", planarconfig="contig")
        else:
            raise ImageError(f"{path}: cannot hold {array.shape[2]} channels; use {', '.join(DEEP)}")


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures on disk, each read when it is first drawn.

    Attributes:
        files: input and target of each pair; None: they are the halves of one picture, or both made from it.
        kind: how pairs are made.
        channels: of input and target.
        backwards: translate from right to left, or from the second folder to the first.
        short: the short side in pixels to which pairs are resized; 0: as they are.
        broken: files that could not be used, with the reason.
    """

    files: Sequence[tuple[Path, Path | None]]
    kind: Kind = "given"
    channels: tuple[int, int] = (3, 3)
    backwards: bool = False
    short: int = 286
    broken: dict[Path, str] = field(default_factory=dict)
    _kept: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def split(self, share: float, seed: int) -> tuple[Pairs, Pairs]:
        """These pairs, and a share of them that is held out, chosen by the seed."""
        held = round(share * len(self))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        parts = (sorted(order[held:]), sorted(order[:held]))
        train, test = (replace(self, files=[self.files[i] for i in part], broken={}, _kept={}) for part in parts)
        return train, test

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Input and target of a pair, (1, C, H, W) in [-1, 1].

        Raises:
            ImageError: a file cannot be used.
        """
        if index not in self._kept:
            both = torch.cat(self._read(index), 1).clamp(-1, 1).mul(32767).round().to(torch.int16)  # keeps 16 bits
            if (len(self._kept) + 1) * both.nbytes > BUDGET:
                return self._parts(both)
            self._kept[index] = both
        return self._parts(self._kept[index])

    def _parts(self, both: Tensor) -> tuple[Tensor, Tensor]:
        values = both.float() / 32767
        return values[:, : self.channels[0]], values[:, self.channels[0] :]

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        first, second = self.files[index]
        if self.kind != "given":
            photograph = self._resize(images.read(first).image)
            if self.kind == "edges":
                return 2 * edges(photograph) - 1, 2 * photograph - 1
            lab = color.to_lab(photograph)
            return lab[:, :1] / 50 - 1, lab[:, 1:] / CHROMA
        into, out = self.channels
        if second is None:
            channels = max(into, out)
            whole = read(first, channels)
            half = whole.shape[-1] // 2
            if half == 0:
                raise ImageError(f"{first}: too narrow for two pictures side by side")
            a, b = whole[..., :half], whole[..., half : 2 * half]
            source, target = (b, a) if self.backwards else (a, b)
            source, target = (_narrow(x, n) for x, n in ((source, into), (target, out)))
        else:
            source, target = (read(path, n) for path, n in zip(self._turned(first, second), (into, out), strict=True))
            if source.shape[-2:] != target.shape[-2:]:
                sizes = " and ".join(f"{x.shape[-1]} x {x.shape[-2]}" for x in (source, target))
                raise ImageError(f"{first}: its pair has another size ({sizes})")
        return 2 * self._resize(source) - 1, 2 * self._resize(target) - 1

    def _turned(self, first: Path, second: Path) -> tuple[Path, Path]:
        return (second, first) if self.backwards else (first, second)

    def _resize(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if not self.short:
            return image
        scale = self.short / min(height, width)
        return images.resize(image, max(1, round(scale * height)), max(1, round(scale * width)))

    def draw(self, index: int, batch: int, crop: int, *, mirror: bool, seed: int) -> tuple[Tensor, Tensor]:
        """The batch of a training step: each epoch goes through all pairs in its own order.

        Args:
            index: of the step, from 0.
            batch: number of pairs.
            crop: side of the crops in pixels, at most `short`.
            mirror: mirror half of them.
            seed: with the index, decides everything that is random.

        Returns:
            Inputs and targets, (batch, C, crop, crop) in [-1, 1].

        Raises:
            InputError: no pair can be read.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        drawn: list[Tensor] = []
        for place in range(index * batch, (index + 1) * batch):
            epoch, within = divmod(place, len(self))
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed * 7919 + epoch))
            both = torch.cat(self.usable(int(order[within])), 1)
            top, left, turn = torch.rand(3, generator=generator).tolist()
            top, left = (int(part * (side - crop + 1)) for part, side in zip((top, left), both.shape[-2:], strict=True))
            both = both[..., top : top + crop, left : left + crop]
            drawn.append(both.flip(-1) if mirror and turn < 0.5 else both)
        batch_of = torch.cat(drawn)
        return batch_of[:, : self.channels[0]].contiguous(), batch_of[:, self.channels[0] :].contiguous()

    def some(self, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """At most ``most`` pairs, evenly chosen, as `pair` returns them; `broken` ones are left out."""
        for index in range(0, len(self), max(1, -(-len(self) // most))):
            try:
                yield self.pair(index)
            except ImageError as error:
                self.broken[self.files[index][0]] = str(error)

    def usable(self, index: int) -> tuple[Tensor, Tensor]:
        """The pair, or the next one that can be read."""
        for tried in range(len(self)):
            at = (index + tried) % len(self)
            if self.files[at][0] not in self.broken:
                try:
                    return self.pair(at)
                except ImageError as error:
                    self.broken[self.files[at][0]] = str(error)
        raise InputError(
            f"{self.files[0][0].parent}: none of the pairs can be read: {next(iter(self.broken.values()))}"
        )


def _narrow(image: Tensor, channels: int) -> Tensor:
    return color.luma(image) if channels == 1 and image.shape[1] == 3 else image[:, :channels]


def find(folder: Path, targets: Path | None = None, *, kind: Kind = "given") -> list[tuple[Path, Path | None]]:
    """The pairs of a folder, sorted by path.

    Args:
        folder, targets, kind: those of `survey`.

    Returns:
        The first list of `survey`.
    """
    return survey(folder, targets, kind=kind)[0]


def survey(
    folder: Path, targets: Path | None = None, *, kind: Kind = "given", own: Container[str] = ()
) -> tuple[list[tuple[Path, Path | None]], list[Path]]:
    """The pairs of a folder, and everything else in it that is visible, also pictures without a partner.

    Args:
        folder: of pictures with input and target side by side, of photographs to make pairs from, or with the inputs.
            Two folders A and B in it are the inputs and the targets.
        targets: the folder of the targets, which have the inputs' names; suffixes may differ. None: see ``folder``.
        kind: how pairs are made.
        own: files that are left out, as `datasets.survey` takes them.

    Returns:
        Input and target of each pair, the target None if one file holds both, or both are made from it; and the
        others, each sorted by path.

    Raises:
        InputError: there are none.
    """
    if targets is None and kind == "given" and (folder / "A").is_dir() and (folder / "B").is_dir():
        folder, targets = folder / "A", folder / "B"
    for each in (folder, *([targets] if targets else [])):
        if not each.is_dir():
            raise InputError(f"{each}: not a folder; check the path")
    ours, others = _files(folder, own)
    if targets is None:
        found: list[tuple[Path, Path | None]] = [(path, None) for path in ours]
    else:
        candidates, more = _files(targets, own)
        theirs = {path.relative_to(targets).with_suffix(""): path for path in candidates}
        names = {path: path.relative_to(folder).with_suffix("") for path in ours}
        found = [(path, theirs[name]) for path, name in names.items() if name in theirs]
        used = {path for pair in found for path in pair}
        others = sorted({*ours, *others, *candidates, *more} - used)
    if not found:
        what = "no pictures" if targets is None else f"no picture has the name of one in {targets}"
        raise InputError(f"{folder}: {what}")
    return found, others


def _files(folder: Path, own: Container[str]) -> tuple[list[Path], list[Path]]:
    pictures, others = datasets.survey(folder, own)
    arrays = {path for path in others if path.suffix.lower() == ".npy" and path.is_file()}
    return sorted([*pictures, *arrays]), [path for path in others if path not in arrays]
