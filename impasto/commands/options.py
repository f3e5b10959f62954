"""Options shared by several commands, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

Out = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], tyro.conf.arg(help="Device to compute on; auto: cuda, else mps, else cpu.")
]
Memory = Annotated[
    float,
    tyro.conf.arg(
        help="Memory limit in GB; larger pictures are painted in tiles, without seams. 0: most of what is free."
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
