"""Files: only regular ones are read, and results appear completely or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import psutil

from impasto.errors import OutputError

# The host and the process that write a temporary file, and a number of this process: so that leftovers of a killed one
# can be recognised, also if it had this process's id, as in a container that is started again.
HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
OURS = secrets.token_hex(4)
TEMPORARY = re.compile(r"\.impasto-([0-9a-f]{8})-(\d+)-([0-9a-f]{8})([0-9a-f]{8})?(\.\w+)?")
DAY = 86400  # seconds
MOST_STRIPS = 200_000  # of a TIFF: Pillow takes 4 s for a million
STRIPS, BIG_TIFF = {273, 279, 324, 325}, 43  # tags: places and lengths of strips and tiles
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # what only writing raises


def special(path: str | Path) -> bool:
    """Whether a path is neither a regular file nor a folder: reading a pipe or a device may never end."""
    mode = os.stat(path).st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def too_many_strips(file: BinaryIO) -> str:
    """What is wrong if the first page of a TIFF is cut into too many strips or tiles; "" if not, or for another file.

    Decoders keep an object for each, although the file itself may be small.
    """
    file.seek(0)
    order = {b"II": "<", b"MM": ">"}.get(file.read(2))

    def values(layout: str) -> tuple[int, ...]:
        return struct.unpack(f"{order}{layout}", file.read(struct.calcsize(f"{order}{layout}")))

    most = 0
    if order:
        with suppress(struct.error, OverflowError):  # cut off: decoders cannot read what follows either
            big = values("H")[0] == BIG_TIFF
            file.seek(values("4xQ" if big else "I")[0])
            for _ in range(values("Q" if big else "H")[0]):
                tag, count = values("2HQ8x" if big else "2HI4x")[::2]
                most = max(most, count if tag in STRIPS else 0)
    file.seek(0)
    return f"is cut into {most} strips, more than {MOST_STRIPS}" if most > MOST_STRIPS else ""


def check_output(path: str | Path, inputs: Iterable[str | Path] = ()) -> Path:
    """Return the path if a file can be written there; to be called before long work.

    Args:
        path: of the result.
        inputs: files that must not be overwritten.

    Raises:
        OutputError: the folder is missing or cannot be written to, the disk is full, or the path is an input, a folder
            or a device.
    """
    path = Path(path)
    try:
        real = path.resolve()
        if real.is_dir():
            raise OutputError(f"{path}: is a folder; name a file inside it")
        if not real.parent.is_dir():
            raise OutputError(f"{path}: the folder {path.parent} does not exist; create it first")
        if real.exists() and special(real):
            raise OutputError(f"{path}: is a device or a pipe, not a file; name another")
        if real.exists() and any(Path(each).exists() and real.samefile(each) for each in inputs):
            raise OutputError(f"{path}: is also an input, which would be overwritten; name another file")
        probe(real)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links
        if isinstance(error, OutputError):
            raise
        raise unwritable(path, error) from error
    return path


def probe(path: Path) -> None:
    """Write and remove a small file next to ``path``; raises OSError."""
    part = temporary(path)
    try:
        part.write_bytes(bytes(4096))
    finally:
        part.unlink(missing_ok=True)


def unwritable(path: str | Path, error: Exception) -> OutputError:
    """The error of a result that could not be written, in one line."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return OutputError(" ".join(f"{path}: cannot be written ({reason}); choose another folder".splitlines()))


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``, which it replaces on success; it is removed on any exception.

    The suffix is kept. Raises OSError.
    """
    try:
        path = Path(path).resolve()  # follow a symbolic link, as an ordinary write does
    except RuntimeError as error:
        raise OSError(0, "a loop of links", str(path)) from error
    sweep(path.parent)
    part = temporary(path)
    try:
        yield part
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        ours = isinstance(error, OSError) and (error.filename in (part, str(part)) or error.errno in FULL)
        if ours:  # name the result, which the user knows
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error  # type: ignore[attr-defined]
        raise


def temporary(path: Path) -> Path:
    """A new name next to ``path``; not mkstemp, whose files have the mode 0600."""
    return path.with_name(f".impasto-{HOST}-{os.getpid()}-{OURS}{secrets.token_hex(4)}{path.suffix}")


def shortened(name: str, most: int) -> str:
    """The beginning of a file name, at most ``most`` bytes of it: file systems count bytes, not characters."""
    return os.fsencode(name)[:most].decode(errors="ignore")


@cache
def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, once per process."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if found := TEMPORARY.fullmatch(entry.name):
                number = int(found[2])
                living = psutil.pid_exists(number) if number != os.getpid() else found[3] == OURS
                dead = found[1] == HOST and not living
                with suppress(OSError):
                    if dead or entry.stat().st_mtime < time.time() - DAY:
                        os.unlink(entry.path)
