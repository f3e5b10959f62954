"""Films in the studio: what may be uploaded, and the job that repaints them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
import torch
from conftest import film, frames, save_picture, wait_for
from studio_server import serving, trigger, upload

from impasto.errors import InputError, RefusedError
from impasto.runs import onepass as run_onepass
from impasto.studio import films, jobs, work
from impasto.studio.jobs import Job, Session, Sessions
from impasto.studio.pool import Pool


@pytest.fixture
def session(tmp_path: Path) -> Session:
    sessions = Sessions(tmp_path / "studio")
    return sessions.get(sessions.new_token())


def ended(job: Job) -> Job:
    for _ in job.follow(0):
        pass
    return job


def sound(path: Path) -> float:
    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.mp4", ".mp4"), ("a.mov", ".mp4"), ("a.mkv", ".mkv"), ("a.avi", ".avi"), ("a.ts", ".ts")]
)
def test_films_that_are_accepted(name: str, suffix: str, tmp_path: Path) -> None:
    whole = film(tmp_path / name, codec="mp2" if suffix == ".ts" else "aac", sound_rate=48_000)
    unnamed = whole.rename(tmp_path / "0")
    assert films.check(unnamed) == suffix


def playlist(path: Path) -> Path:
    """A list that names another file, which FFmpeg would open."""
    other = film(path.with_name("other.mp4"))
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{other}\n#EXT-X-ENDLIST\n")
    return path


def concatenation(path: Path) -> Path:
    path.write_text(f"ffconcat version 1.0\nfile '{film(path.with_name('other.mp4'))}'\n")
    return path


@pytest.mark.parametrize(
    "make",
    [playlist, concatenation, lambda path: path.write_bytes(b"no film") and path, save_picture],
)
def test_what_is_no_film(make: Callable[[Path], Path], tmp_path: Path) -> None:
    assert films.check(make(tmp_path / "film.png")) is None


def test_films_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match="has no pictures"):
        films.check(film(tmp_path / "sound.mp4", pictures=False))
    with pytest.raises(RefusedError, match="90 seconds long; cut it to 60"):
        films.check(film(tmp_path / "long.mp4", count=90, rate=1))
    with pytest.raises(RefusedError, match="is in pcm_f32le"):
        films.check(film(tmp_path / "odd.mkv", codec="pcm_f32le"))
    whole = film(tmp_path / "film.mp4")
    monkeypatch.setattr(films, "PIXELS", 60 * 48)
    with pytest.raises(RefusedError, match="64 x 48 pixels are too many"):
        films.check(whole)
    monkeypatch.undo()
    monkeypatch.setattr(films, "FRAMES", 5)
    with pytest.raises(RefusedError, match="more than 5 frames"):
        films.check(whole)


def test_a_damaged_film_is_accepted_if_a_picture_can_be_read(tmp_path: Path) -> None:
    whole = film(tmp_path / "film.mkv")
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) * 2 // 3])
    assert films.check(whole) == ".mkv"
    with av.open(str(film(tmp_path / "film.mkv"))) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    damaged = bytearray(data)
    for position, size in places:
        damaged[position + 8 : position + size] = bytes(size - 8)
    whole.write_bytes(damaged)
    with pytest.raises(RefusedError, match="no picture that can be read"):
        films.check(whole)


def test_a_film_is_repainted_and_its_beginning_can_be_watched(session: Session, tmp_path: Path) -> None:
    clip, seen = film(tmp_path / "clip.mp4", count=12, rate=4), []
    todo = work.film(clip, "udnie")
    honest = todo.frames

    def watching(folder: Path):  # type: ignore[no-untyped-def]
        for frame in honest(folder):
            if frame.clip is not None and frame.clip not in seen:
                seen.append(frame.clip)
                assert len(frames(frame.clip)) == 8 and session.owns(str(frame.clip))
            yield frame

    job = ended(Pool(1).submit(Job(session, "film", jobs.Work(watching, todo.finish, todo.draw))))
    assert job.state == "done" and job.result is not None and len(seen) == 1
    painted = frames(job.result.file)
    assert job.result.file.name == "clip-udnie.mp4" and len(painted) == 12
    assert np.abs(painted[0].astype(float) - frames(clip)[0]).mean() > 20
    assert sound(job.result.file) == pytest.approx(1, abs=0.2)
    assert job.folder is not None and {path.name for path in job.folder.iterdir()} == {"clip-udnie.mp4", "still.jpg"}


@pytest.mark.parametrize("name", ["live-concert", "first-dance"])
def test_names_like_those_of_previews(name: str, session: Session, tmp_path: Path) -> None:
    clip = film(tmp_path / f"{name}.mp4", count=3)
    job = ended(Pool(1).submit(Job(session, "film", work.film(clip, "udnie"))))
    assert job.result is not None and len(frames(job.result.file)) == 3


def test_a_film_that_fails_is_kept_so_far(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, count = run_onepass.Painter.__call__, 0

    def failing(*arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        if count > 5:
            raise MemoryError
        return honest(*arguments)

    monkeypatch.setattr(run_onepass.Painter, "__call__", failing)
    todo = work.film(film(tmp_path / "clip.mp4", count=30), "udnie")
    job = ended(Pool(1).submit(Job(session, "film", todo)))
    assert job.state == "failed" and isinstance(job.error, MemoryError) and job.result in session.results
    assert job.result is not None and 1 <= len(frames(job.result.file)) <= 5


def test_stop_keeps_a_playable_part(session: Session, tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4", count=60, rate=10)
    job = Pool(1).submit(Job(session, "film", work.film(clip, save_picture(tmp_path / "painting.png"))))
    wait_for(lambda: job.frame is not None and job.frame.done > 2, "a few frames")
    job.stop()
    assert ended(job).state == "stopped" and job.result is not None
    assert 3 <= len(frames(job.result.file)) < 60
    assert job.folder is not None and {path.suffix for path in job.folder.iterdir()} == {".mp4", ".jpg"}


def test_a_picture_is_no_film(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a picture"):
        work.film(save_picture(tmp_path / "a.png"), "udnie")


def test_the_parts_of_a_film_count(session: Session) -> None:
    session.quota = 100
    folder = session.new_folder()
    (folder / "film.resume").mkdir()
    (folder / "film.resume" / "0000.nut").write_bytes(bytes(200))
    session.make_room()
    assert not folder.exists()


def test_the_tab(tmp_path: Path) -> None:
    with serving("--max-upload", "0.3") as address, httpx.Client(base_url=address, timeout=60) as client:
        client.get("/").raise_for_status()
        (clip,) = upload(client, film(tmp_path / "clip.mov").read_bytes(), "clip.mov").json()
        (photo,) = upload(client, save_picture(tmp_path / "photo.png").read_bytes()).json()
        given = {"path": clip, "meta": {"_type": "gradio.FileData"}}
        picture = given | {"path": photo}
        said = trigger(client, "film-go", "click", given, picture, None, 1, "480", True)
        assert "clip-photo.mp4" in said, said
        assert "is a picture" in trigger(client, "film-go", "click", picture, picture, None, 1, "480", True)
        assert "choose a film" in trigger(client, "film-go", "click", None, picture, None, 1, "480", True)
        said = trigger(client, "study-go", "click", given, given, "content, layer by layer", 64, 2)
        assert "clip.mp4" in said and '"success":false' in said
