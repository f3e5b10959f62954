"""Starts the studio in a separate process, as a user does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(*flags: str, **environment: str) -> Iterator[str]:
    """Run a studio; yields its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "impasto", "studio", "--port", "0", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        said, complaints = process.communicate(timeout=30)
        assert (process.returncode, said + complaints) == (0, "")
