"""Two of the kills of kills.py, which makes as many as it is told."""

import os
from pathlib import Path

import kills
import pytest


@pytest.mark.skipif(os.name == "nt", reason="needs kill -9")
def test_killed_runs_leave_nothing_damaged(tmp_path: Path) -> None:
    assert kills.main(2, tmp_path, ("transfer", "folder")) == 0
