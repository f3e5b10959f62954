"""Films as they are written: those of an optimisation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import frames, hide

from impasto import recording
from impasto.errors import ImpastoError, VideoError


def test_frames_are_brought_to_one_even_size_and_keep_their_colour(tmp_path: Path) -> None:
    red = torch.tensor([0.8, 0.2, 0.1]).view(1, 3, 1, 1)
    with recording.writer(tmp_path / "film.mp4", 33, 47, fps=10) as add:
        for side in (8, 16, 33):
            add(red.expand(1, 3, side, side + 1))
    film = frames(tmp_path / "film.mp4")
    assert [frame.shape for frame in film] == [(32, 46, 3)] * 3
    assert np.abs(film[2].mean((0, 1)) - [204, 51, 25.5]).max() < 6


def test_an_error_while_writing_keeps_the_old_video(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"what was there")

    def broken() -> None:
        with recording.writer(path, 16, 16, fps=10) as add:
            add(torch.zeros(1, 3, 16, 16))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "said"), [("film.gif", ".mp4"), ("none/film.mp4", "does not exist")])
def test_invalid_output_paths(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ImpastoError, match=said), recording.writer(tmp_path / name, 16, 16, fps=10):
        pass


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "av")
    with (
        pytest.raises(VideoError, match=r"pip install 'impasto\[video\]'"),
        recording.writer(tmp_path / "film.mp4", 16, 16, fps=10),
    ):
        pass
