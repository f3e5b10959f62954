"""Options that many commands have, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

Out = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], tyro.conf.arg(help="Where to compute.")]
Memory = Annotated[
    float,
    tyro.conf.arg(
        help="Memory that may be used, in GB: what does not fit is painted in tiles, without seams; 0: what is free."
    ),
]
Quiet = Annotated[bool, tyro.conf.arg(help="Print the path of the result alone.")]
