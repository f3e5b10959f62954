"""Results appear completely or not at all, and inputs are never overwritten."""

import io
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from impasto import files
from impasto.errors import OutputError


def test_names_are_cut_between_characters() -> None:
    assert files.shortened("abc", 2) == "ab" and files.shortened("絵画", 5) == "絵"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_cleans_up(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"before")

    def interrupted() -> None:
        with files.atomic(path) as temporary:
            temporary.write_bytes(b"half")
            assert (temporary.parent, temporary.suffix) == (path.parent, ".mp4")
            assert len(list(tmp_path.iterdir())) == 2
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_replaces(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"before")
    (tmp_path / "link.mp4").symlink_to(path)
    with files.atomic(tmp_path / "link.mp4") as temporary:
        temporary.write_bytes(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".impasto-{files.HOST}-{ended.pid}-00000000.png"
    ours = files.temporary(tmp_path / "a.png")
    namesake = (
        tmp_path / f".impasto-{files.HOST}-{os.getpid()}-0000000000000000.png"
    )  # of another container's process 1
    foreign, old = (tmp_path / f".impasto-0123abcd-{ended.pid}-0000000{n}" for n in range(2))
    for path in (left, ours, namesake, foreign, old):
        path.touch()
    os.utime(old, (0, time.time() - 2 * files.DAY))
    files.sweep.cache_clear()
    with files.atomic(tmp_path / "b.png") as part:
        part.touch()
    assert sorted(tmp_path.iterdir()) == sorted([ours, foreign, tmp_path / "b.png"])


def refusal(path: Path, *inputs: Path) -> str:
    with pytest.raises(OutputError) as caught:
        files.check_output(path, inputs)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_check_output(tmp_path: Path) -> None:
    assert files.check_output(str(tmp_path / "a.png")) == tmp_path / "a.png"
    assert not list(tmp_path.iterdir())
    assert "is a folder" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "none" / "a.png")
    assert "name too long" in refusal(tmp_path / f"{'a' * 300}.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop2.png")
    (tmp_path / "loop2.png").symlink_to(tmp_path / "loop.png")
    assert "loop" in refusal(tmp_path / "loop.png").lower()
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe" in refusal(tmp_path / "pipe.png")
    assert "null" in refusal(tmp_path / "a\0.png")


def test_inputs_are_not_overwritten(tmp_path: Path) -> None:
    photo, link, hard = (tmp_path / name for name in ("photo.png", "link.png", "hard.png"))
    photo.write_bytes(b"precious")
    link.symlink_to(photo)
    os.link(photo, hard)
    for path in (photo, link, hard):
        assert "is also an input" in refusal(path, tmp_path / "none.png", photo)
    assert files.check_output(photo, [tmp_path / "none.png"]) == photo


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: real(Path("/dev/full"), data))
    assert "No space left" in refusal(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write anywhere")
def test_a_locked_folder_is_found_at_once(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "Permission denied" in refusal(tmp_path / "locked" / "a.png")


def test_pipes_and_devices_are_special(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    assert [files.special(tmp_path / name) for name in ("file", "", "pipe", "socket")] == [False, False, True, True]
    assert files.special("/dev/zero")


@pytest.mark.parametrize("options", [{"rowsperstrip": 1}, {"tile": (16, 16)}], ids=str)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_strips_are_counted(
    options: dict[str, Any], order: str, big: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((48, 64), np.uint8), byteorder=order, bigtiff=big, **options)
    count = 12 if "tile" in options else 48
    for most, said in ((count, ""), (count - 1, f"is cut into {count} strips, more than {count - 1}")):
        monkeypatch.setattr(files, "MOST_STRIPS", most)
        for data, expected in ((path.read_bytes(), said), (path.read_bytes()[:20], ""), (b"no TIFF", "")):
            file = io.BytesIO(data)
            assert files.too_many_strips(file) == expected and file.tell() == 0
