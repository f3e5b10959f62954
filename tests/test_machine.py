"""Devices, memory and precision."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from impasto import machine
from impasto.errors import InputError


def test_device() -> None:
    with pytest.raises(InputError, match="abacus"):
        machine.pick_device("abacus")
    assert (machine.pick_device().type == "cuda") == torch.cuda.is_available()


def test_automatic_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, wanted in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert machine.pick_device().type == wanted


def test_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The free memory of the machine, or what is left of a container's limit if that is less."""
    assert 0 < machine.free_memory(torch.device("cpu")) <= psutil.virtual_memory().total
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5_000_000))
    files: dict[str, str] = {}
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in files)
    monkeypatch.setattr(Path, "read_text", lambda path: files[str(path)])
    for limit, wanted in [("", 5e6), ("max\n", 5e6), ("3000000\n", 2e6), ("9000000\n", 5e6)]:
        if limit:
            found = {"max": limit, "current": "1500000\n", "stat": "anon 900000\ninactive_file 500000\n"}
            files |= {f"/sys/fs/cgroup/memory.{name}": text for name, text in found.items()}
        assert machine.free_memory(torch.device("cpu")) == wanted


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert machine.precision("float32", cpu) == torch.float32
    assert machine.precision("bfloat16", cpu) == torch.bfloat16


@pytest.mark.parametrize(("avx512", "amx"), [(False, False), (True, False), (False, True)])
def test_automatic_precision(monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    fast = torch.bfloat16 if avx512 or amx else torch.float32
    assert machine.precision("auto", torch.device("cpu")) == fast
    assert machine.precision("auto", torch.device("mps")) == torch.float32


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
@pytest.mark.parametrize(("mode", "kept"), [("sparingly=False", True), ("sparingly=True", False)])
@pytest.mark.parametrize("thread", [False, True])
def test_reused_memory_is_kept_and_given_back(mode: str, kept: bool, thread: bool) -> None:
    """In a separate process: the memory held after freeing a block of 256 MB inside, one of 512 MB outside."""
    code = f"""
import psutil, threading, torch
from impasto import machine
held = lambda: psutil.Process().memory_info().rss
def block(size):
    work = threading.Thread(target=torch.ones, args=(size,))
    (work.start(), work.join()) if {thread} else torch.ones(size)
before = held()
try:
    with machine.reused_memory({mode}):
        block(1 << 26)
        inside = held() - before
        raise KeyError
except KeyError:
    pass
outside = held() - before
block(1 << 27)  # twice as large: it cannot lie where the first was, in a heap that small blocks may keep
after = held() - before
print(inside, outside, after)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    inside, outside, after = (int(word) for word in said.split())
    assert (inside > 2e8) == kept
    assert outside < 1e8 and after < 1e8  # the earlier setting is restored
