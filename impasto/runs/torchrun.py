"""What runs of training share: the processes that torchrun starts, the loop over the steps, and checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from impasto import files
from impasto.errors import DivergedError, InputError, OutputError, Stopped
from impasto.fitting import TrainingStep
from impasto.runs import receipts, terminal

EVERY = 200  # steps between two checkpoints


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


def claim(out: Path, suffixes: Sequence[str]) -> set[str]:
    """Name the files that a training writes, so that they are not taken for its pictures.

    Args:
        out: the network; its checkpoint is one of the files.
        suffixes: of the others.

    Returns:
        Their paths, as `os.path.realpath` names them.

    Raises:
        OutputError: one of the others is there before the network and the checkpoint: it is something else.
    """
    others = [out.with_suffix(suffix) for suffix in suffixes]
    first = [out, receipts.resume_file(out)]
    if not any(path.exists() for path in first):
        for path in others:
            if path.exists():
                raise OutputError(f"{path}: is needed for the training, but holds something else; move it away")
    return {os.path.realpath(path) for path in (*first, *others)}


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


def follow(
    steps: Iterator[TrainingStep], save: Callable[[TrainingStep], None], *, total: int, resumed: bool, quiet: bool
) -> None:
    """Go through the steps of a training; the first process saves every `EVERY` steps and at the end.

    Args:
        steps: of the training.
        save: writes the network as it is after a step, and what the training needs to continue from there.
        total: steps in all.
        resumed: whether the training continues from a checkpoint.
        quiet: show no progress.

    Raises:
        InputError: the checkpoint does not fit.
        Stopped: after Ctrl-C; the last step has been saved.
        whatever the steps raise: and what ``save`` raises at the last step.
    """
    with terminal.progress(total, quiet=quiet, label="training") as report, terminal.interruption() as interrupted:
        for step in receipts.resuming(steps) if resumed else steps:
            if step.index % 10 == 0:
                report(step.index, terminal.spelled(step.terms))
            stopped = interrupted()
            if is_first_process() and (stopped or step.index % EVERY == 0 or step.index == total):
                # Skip weights that are not finite: the next check of the loss restores earlier ones.
                with suppress(*([] if step.index == total else [DivergedError])):
                    save(step)
            if stopped:
                raise Stopped(f"stopped at step {step.index} of {step.total}")


def write(out: Path, save: Callable[[Path], None]) -> None:
    """Write a result to ``out`` with ``save``.

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
