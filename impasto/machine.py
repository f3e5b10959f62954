"""The machine: its device, its memory and its fastest precision."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from impasto.errors import InputError

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8  # malloc.h
# What to restore, since glibc cannot report its settings: the environment variable that sets each, and the value that
# glibc has usually arrived at once tensors were freed.
USUAL = {
    TRIM_THRESHOLD: ("MALLOC_TRIM_THRESHOLD_", 32 << 20),
    MMAP_THRESHOLD: ("MALLOC_MMAP_THRESHOLD_", 32 << 20),
    MMAP_MAX: ("MALLOC_MMAP_MAX_", 65536),
    ARENA_MAX: ("MALLOC_ARENA_MAX", 0),
}


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name; auto is the first available of cuda, mps and cpu.

    Raises:
        InputError: the machine has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there.get(name, False):
        raise InputError(f"`device` {name}: this machine has none; try auto")
    return torch.device(name)


def precision(name: str, device: torch.device) -> torch.dtype:
    """The encoder's dtype; auto is bfloat16 if the hardware supports it, otherwise float32.

    Raises:
        InputError: the name is not auto, bfloat16 or float32.
    """
    if name in ("bfloat16", "float32"):
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if name != "auto":
        raise InputError(f"`precision` must be auto, bfloat16 or float32, not {name!r}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast else torch.float32


def free_memory(device: torch.device) -> float:
    """Bytes of free memory on a device, within a container's limit."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own cache
        return float(torch.cuda.mem_get_info(device)[0] + reusable)
    free = float(psutil.virtual_memory().available)
    limit, used, use = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current", "memory.stat"))
    if limit.exists() and (text := limit.read_text().strip()) != "max":  # a container may have less than its host
        cached = dict(line.split() for line in use.read_text().splitlines())["inactive_file"]  # freed when needed
        free = min(free, float(text) - float(used.read_text()) + float(cached))
    return free


@contextlib.contextmanager
def reused_memory(*, sparingly: bool = False) -> Iterator[None]:
    """Make glibc keep freed memory: allocating new pages takes a sixth of an iteration, half for a large picture.

    It changes the whole process, so only the command line and the studio call it, once, and no library function.

    Args:
        sparingly: still return blocks above 32 MB to the system.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(ARENA_MAX, 1)  # the arenas of other threads cannot keep large blocks
        libc.mallopt(MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(MMAP_MAX, 65536 if sparingly else 0)
        libc.mallopt(TRIM_THRESHOLD, 32 << 20 if sparingly else -1)  # -1: never
    except (OSError, AttributeError):  # another C library
        yield
        return
    try:
        yield
    finally:
        for option, (variable, usual) in USUAL.items():
            libc.mallopt(option, int(os.environ.get(variable, usual)))
        give_memory_back()


def give_memory_back() -> None:
    """Return unused memory that glibc has kept to the system."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
