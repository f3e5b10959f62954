"""What runs of training share: the processes that torchrun starts, and checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from impasto import files
from impasto.errors import InputError
from impasto.runs import receipts, terminal


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the processes started by torchrun, if any; yields the device of this process."""
    if not _launched():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
        with suppress(RuntimeError):  # another process has failed, and says why
            distributed.barrier()  # a process that ends while Gloo's threads still work is aborted
    finally:
        distributed.destroy_process_group()


def fetch_encoder(name: str, *, quiet: bool) -> None:
    """Download an encoder if it is missing, in one process of each machine."""
    if not _launched() or int(os.environ["LOCAL_RANK"]) == 0:
        terminal.fetch_encoder(name, quiet=quiet)
    if distributed.is_initialized():
        distributed.barrier()


def is_first_process() -> bool:
    """Whether this is the only process, or torchrun's first: only that one writes files and messages."""
    return not _launched() or int(os.environ["RANK"]) == 0


def _launched() -> bool:
    """Whether torchrun started this process; other programs set some of these variables."""
    return os.environ.keys() >= {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def resumed_state(path: Path, card: dict[str, str]) -> dict[str, Any]:
    """Load the checkpoint of the training that ``card`` describes; InputError for any other file."""
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint; train without `resume`")
    try:
        state = receipts.load_checkpoint(path)
        theirs = state.pop("card")
    except (InputError, KeyError):
        raise InputError(f"{path}: not a checkpoint of this training; remove it to start again") from None
    if theirs != card:
        raise InputError(f"{path}: from a training with other settings or other pictures")
    return state


def write(out: Path, save: Callable[[Path], None]) -> None:
    """Write a network to ``out`` with ``save``.

    Raises:
        OutputError: it could not be written; it is kept where it can be, and the message says where.
    """

    def whole(path: Path) -> None:
        with files.atomic(path) as part:
            save(part)

    try:
        whole(out)
    except OSError as error:
        raise receipts.kept(whole, out, out.suffix, files.unwritable(out, error)) from error
