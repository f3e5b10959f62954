"""Four of the kills of kills.py, SIGKILL and SIGTERM of a folder and a film; it makes as many as it is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(os.name == "nt", reason="needs kill -9")
def test_killed_runs_leave_nothing_damaged() -> None:
    """In a process of its own: one that has computed with OpenMP cannot be forked."""
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), "4", "folder", "film"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
