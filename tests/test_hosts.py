"""`torchrun` on two hosts: two network namespaces of this machine, each with one interface. Needs root on Linux."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import save_picture

from impasto import images, onepass

ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """The names of two namespaces that reach each other, and nothing else."""
    first, second = names = (f"impasto-{os.getpid()}-1", f"impasto-{os.getpid()}-2")
    ends = (f"im{os.getpid()}a", f"im{os.getpid()}b")
    try:
        if shutil.which("ip") is None:
            pytest.skip("needs iproute2")
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", ends[0], "netns", first, "type", "veth", "peer", "name", ends[1], "netns", second)
        except subprocess.CalledProcessError:
            pytest.skip("needs the right to make network namespaces")
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError, FileNotFoundError):
                ip("netns", "delete", name)


def test_training_on_two_hosts(hosts: tuple[str, str], painting: Path, tiny: str, tmp_path: Path) -> None:
    """Both take part in every batch; the first writes what one process writes."""
    for number in range(2):
        (tmp_path / "photos").mkdir(exist_ok=True)
        save_picture(tmp_path / "photos" / f"{number}.png", 96, 80, seed=number)
    train = ["-m", "impasto", "train", str(painting), "--photos", str(tmp_path / "photos"), "--encoder", tiny,
             "--steps", "3", "--precision", "float32", "--batch", "2", "--crop", "64", "--style-size", "64", "--quiet",
             "--device", "cpu", "-o"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_FAMILY": "AF_INET"}
    started = []
    for rank, name in enumerate(hosts):
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank),
                  "--nproc-per-node", "1", "--master-addr", ADDRESSES[0], "--master-port", "29400"]  # fmt: skip
        out = tmp_path / f"host-{rank}" / "mine.safetensors"
        out.parent.mkdir()
        started.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *launch, *train, str(out)],
                env={**environment, "GLOO_SOCKET_IFNAME": f"im{os.getpid()}{'ab'[rank]}"},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert not list((tmp_path / "host-1").iterdir())
    alone = subprocess.run([sys.executable, *train, str(tmp_path / "alone.safetensors")], env=environment)
    assert alone.returncode == 0
    # Not the weights: biases before a normalisation have no effect, and Adam moves them by the sign of rounding errors.
    painted = [
        onepass.apply(images.read(painting), model, size=0, grain=0, precision="float32")
        for model in (tmp_path / "host-0" / "mine.safetensors", tmp_path / "alone.safetensors")
    ]
    torch.testing.assert_close(*painted, atol=1e-3, rtol=0)  # the three steps change up to 0.4
