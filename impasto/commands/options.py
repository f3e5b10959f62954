"""Options shared by several commands, with their help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from impasto.errors import InputError

if TYPE_CHECKING:
    from impasto.runs import film


def peek(arguments: Sequence[str], flag: str) -> str | None:
    """The value of a flag among the arguments, if it is there: the last one, in any spelling that tyro accepts."""
    value = None
    for index, argument in enumerate(arguments):
        name, equals, given = argument.partition("=")
        if name.startswith("--") and "--" + name[2:].replace("_", "-") == flag:
            value = given if equals else next(iter(arguments[index + 1 : index + 2]), value)
    return value


Out = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], tyro.conf.arg(help="Device to compute on; auto: cuda, else mps, else cpu.")
]
Memory = Annotated[
    float,
    tyro.conf.arg(
        help="Memory limit in GB, 0 or more; larger pictures are painted in seamless tiles. 0: most of what is free."
    ),
]
Quiet = Annotated[bool, tyro.conf.arg(help="Print only the result's path.")]
Cluster = Annotated[
    str,
    tyro.conf.arg(
        metavar="ADDRESS",
        help="Share the work among the machines of a Ray cluster: auto, or ray://HOST:PORT. Paths may then be URLs, "
        "such as s3://BUCKET/FOLDER.",
    ),
]


@dataclass
class Clip:
    """Which part of a film is repainted, and how the result is encoded."""

    begin: Annotated[str, tyro.conf.arg(name="from")] = ""
    """For films: start time, in seconds or as 0:10. Default: the beginning."""
    to: str = ""
    """For films: end time. Default: the end."""
    crf: int = 18
    """For films: quality, 0 to 51; lower values give better quality and larger files."""

    def settings(self, *, steady: bool, fps: float) -> film.Settings:
        """How to repaint a film; InputError or VideoError for values out of range."""
        from impasto import video
        from impasto.runs import film

        if not (0 <= self.crf <= 51 and 0 <= fps <= 1000):
            raise InputError("`crf` must lie between 0 and 51, `fps` between 0 and 1000")
        start, end = video.seconds(self.begin or "0"), video.seconds(self.to) if self.to else math.inf
        return film.Settings(steady, start, end, self.crf, fps)


Film = Annotated[Clip, tyro.conf.arg(name="")]
