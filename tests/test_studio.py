"""The studio without a browser: its guard, its jobs, its forms, its API."""

import errno
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
from conftest import film, one_line, save_picture, wait_for
from PIL import Image
from studio_server import API, call, defaults, drawer, encoded, file, serving, trigger, upload

from impasto import cli, images, presets, schema
from impasto.errors import BusyError, InputError, RecipeError
from impasto.recipes import Photo, Transfer
from impasto.studio import forms, jobs, names, server
from impasto.studio.jobs import Frame, Job, Result, Session, Sessions, Work
from impasto.studio.pool import JOBS, WAITING, Pool
from impasto.studio.viewer import complaint, status

# The API


def test_the_example(address: str, tmp_path: Path) -> None:
    example = Path(__file__).parent.parent / "examples" / "studio_client.py"
    photo, out = save_picture(tmp_path / "photo.png", 70, 50), tmp_path / "out.png"
    said = subprocess.run(
        [sys.executable, str(example), address, str(photo), "candy", str(out)], capture_output=True, text=True
    )  # fmt: skip
    assert said.stdout == f"{out}\n", said.stderr
    assert images.read_receipt(out)["styles"] == ["candy"]
    with Image.open(out) as painted:
        assert painted.size == (70, 50)


def test_optimisation_and_light(client: httpx.Client) -> None:
    (photo,) = upload(client, encoded()).json()
    (other,) = upload(client, encoded((50, 70), "JPEG"), "other.jpg").json()
    settings = {"size": 48, "steps": 3}
    for name, more in (("paint", {"init": "one-pass"}), ("light", {"evenness": 2})):
        (result,) = json.loads(call(client, name, file(photo), file(other), settings | more))
        data = client.get(f"{API}/file={result['path']}").content
        receipt = images.read_receipt(write(Path(photo).with_name(f"{name}.png"), data))
        assert receipt["recipe"]["steps"] == 3


def test_the_brush_limits_the_painted_area(client: httpx.Client, tmp_path: Path) -> None:
    layer = Image.new("RGBA", (64, 48))
    layer.paste((224, 80, 58, 255), (0, 0, 32, 48))
    layer.save(tmp_path / "layer.png")
    (photo,), (drawn,) = (upload(client, data).json() for data in (encoded(), (tmp_path / "layer.png").read_bytes()))
    drawing = {"background": file(photo), "layers": [file(drawn)], "composite": file(photo)}
    settings = ["", 1, "as the photograph", "the painting's", drawing, 1.0]
    said = trigger(client, "painting", "upload", file(photo), None, None, ["candy"], *settings)
    found = re.search(r'"path":"([^"]+-candy.png)"', said)
    assert found is not None, said
    data = client.get(f"{API}/file={found[1]}").content
    painted, before = (np.asarray(Image.open(io.BytesIO(each)).convert("RGB"), float) for each in (data, encoded()))
    change = np.abs(painted - before).sum(2)
    assert change[:, 40:].max() == 0 and change[:, :24].max() > 20


def test_a_receipt_that_cannot_be_used_does_not_break_the_page(client: httpx.Client, tmp_path: Path) -> None:
    picture = images.to_tensor(np.asarray(Image.open(io.BytesIO(encoded()))))
    images.write(tmp_path / "a.png", picture, receipt={"command": "transfer", "recipe": {"seed": 2**70}})
    (photo,) = upload(client, (tmp_path / "a.png").read_bytes()).json()
    said = trigger(client, "photo", "change", file(photo))
    assert '"success":true' in said and "canvas.png" in said


def test_regions_are_found_and_used(client: httpx.Client) -> None:
    (photo,), (other,) = (upload(client, encoded(size)).json() for size in ((64, 48), (50, 70)))
    settings = defaults(client, "light-find", "click")[2:]
    settings[3] = 2  # steps, after strength, keep_highlights and size
    said = trigger(client, "light-find", "click", file(photo), file(other), *settings)
    masks = re.findall(r'"path":"([^"]+-mask.png)"', said)
    assert len(set(masks)) == 2, said
    drawings = [{"background": None, "layers": [], "composite": file(mask)} for mask in dict.fromkeys(masks)]
    said = trigger(client, "light-go", "click", file(photo), file(other), *drawings, *settings)
    assert re.search(r'"path":"[^"]+/photo-photo.png"', said), said


@pytest.mark.parametrize(
    ("tab", "button", "count"),
    [
        ("study", "study-go", 2), ("photo", "light-go", 2), ("film", "film-go", 2), ("translate", "translate-go", 1),
        ("repaint", "paint", 2), ("repaint", "onward", 2),
    ],
)  # fmt: skip
def test_every_tab_works_with_its_defaults(
    client: httpx.Client, tmp_path: Path, tab: str, button: str, count: int
) -> None:
    first = film(tmp_path / "a.mp4", count=3).read_bytes() if tab == "film" else encoded()
    given = [file(upload(client, data).json()[0]) for data in (first, encoded())][:count]
    values = defaults(client, button, "click")[count:]
    said = trigger(client, button, "click", *given, *values, until=r"[1-9]\d* of \d+<")
    trigger(client, f"{tab}-stop", "click")
    assert '"success":false' not in said, said


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("repaint", ["cubism", 1, 0, "none"], "must be one of udnie"),
        ("repaint", ["candy", 1, 10**9, "none"], "size must be 16,384 or less"),
        ("repaint", ["candy", None, 0, "none"], "strength must be a number"),
        ("repaint", ["candy", 1, 0, "sepia"], "keep colors must be one of none"),
        ("repaint", ["candy", 7, 0, "none"], "strength must"),
    ],
)
def test_bad_settings(client: httpx.Client, name: str, arguments: list[Any], said: str) -> None:
    (photo,) = upload(client, encoded()).json()
    assert said in call(client, name, file(photo), *arguments)


def test_twenty_clients_at_once(address: str) -> None:
    def one(number: int) -> list[int]:
        with httpx.Client(base_url=address, timeout=120) as client:
            codes = [client.get("/").status_code]
            sent = upload(client, encoded((96 + number, 64)))
            codes.append(sent.status_code)
            said = call(client, "repaint", file(sent.json()[0]), "udnie", 1, 0, "none")
            codes.append(client.get(f"{API}/file={json.loads(said)[0]['path']}").status_code)
            return codes

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == [[200, 200, 200]] * 20


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        *[(["--host", "0.0.0.0"], "--auth"), (["--max-jobs", "0"], "--max-jobs"), (["--port", "99999"], "--port")],
        *[(["--auth", "ada"], "IMPASTO_PASSWORD"), (["--max-upload", "nan"], "--max-upload")],
        (["--max-minutes", "0"], "--max-minutes"),
    ],
)
def test_invalid_flags(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMPASTO_PASSWORD", raising=False)
    assert cli.main(["studio", *flags]) == 1
    one_line(capsys, named, only=True)


@pytest.mark.parametrize("host", ["a..b", "\u00e9..b"])
def test_a_host_that_is_no_name(host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_PASSWORD", "secret")
    assert cli.main(["studio", "--auth", "ada", "--host", host, "--port", "0"]) == 1
    one_line(capsys, f"--host {host}", only=True)


# Jobs


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return new(Sessions(tmp_path))


def new(sessions: Sessions) -> Session:
    return sessions.get(sessions.new_token())


def counting(gate: threading.Event, total: int = 3) -> Work[int]:
    """Work whose steps wait for the gate; the result is the number of steps."""

    def frames(folder: Path) -> Generator[Frame[int]]:
        for done in range(1, total + 1):
            yield Frame(done, total, loss=1 / done, image=done)
            gate.wait(5)

    def finish(done: int, folder: Path) -> Result:
        path = folder / "result.txt"
        path.write_text(str(done))
        return Result(path)

    return Work(frames, finish)


def ended(job: Job) -> Job:
    for _ in job.follow(0):
        pass
    return job


def test_a_finished_job(session: Session) -> None:
    gate = threading.Event()
    gate.set()
    job = ended(Pool(1).submit(Job(session, "repaint", counting(gate))))
    assert (job.state, job.losses) == ("done", [1, 1 / 2, 1 / 3])
    assert job.result is not None and job.result.file.read_text() == "3"
    assert session.results == [job.result] and session.owns(str(job.result.file))


def test_stop_keeps_the_picture_so_far(session: Session) -> None:
    gate = threading.Event()
    job = Pool(1).submit(Job(session, "repaint", counting(gate)))
    wait_for(lambda: job.frame, "a frame")
    job.stop()
    gate.set()
    assert ended(job).state == "stopped"
    assert job.result is not None and job.result.file.read_text() in "12"


def test_stop_before_the_first_picture(session: Session) -> None:
    gate = threading.Event()

    def frames(folder: Path) -> Generator[Frame[int]]:
        yield Frame(0, 2, "looking")
        gate.wait(5)
        yield Frame(0, 2, "still looking")

    def finish(image: object, folder: Path) -> Result:
        raise AssertionError("there is nothing to finish")

    job = Pool(1).submit(Job(session, "repaint", Work(frames, finish)))
    wait_for(lambda: job.frame, "a frame")
    job.stop()
    gate.set()
    assert ended(job).state == "stopped" and job.result is None and session.results == []
    assert ">stopped<" in status(job, 0)
    assert ">stopped<" in status(Job(session, "repaint", None, state="stopped"), 0)  # while it waited


def test_jobs_wait_and_a_new_one_replaces_the_last_of_its_kind(session: Session, tmp_path: Path) -> None:
    gate, pool = threading.Event(), Pool(1)
    others = Sessions(tmp_path / "others")
    first = pool.submit(Job(session, "repaint", counting(gate)))
    wait_for(lambda: first.state != "waiting", "its turn")
    waiting = [pool.submit(Job(new(others), "repaint", counting(gate))) for n in range(2)]
    assert [pool.ahead(job) for job in waiting] == [0, 1]
    again = pool.submit(Job(waiting[0].session, "repaint", counting(gate)))
    assert waiting[0].state == "stopped" and pool.ahead(again) == 1
    gate.set()
    assert [ended(job).state for job in (first, waiting[1], again)] == ["done", "done", "done"]


def test_too_many_jobs(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.studio.pool.WAITING", 1)
    gate, pool, others = threading.Event(), Pool(1), Sessions(tmp_path / "others")
    running = pool.submit(Job(session, "repaint", counting(gate)))
    wait_for(lambda: running.state != "waiting", "its turn")
    pool.submit(Job(new(others), "repaint", counting(gate)))
    with pytest.raises(BusyError):
        pool.submit(Job(new(others), "repaint", counting(gate)))
    with pytest.raises(BusyError):  # and what this session had goes on
        pool.submit(Job(session, "repaint", counting(gate)))
    assert not running.stopping
    gate.set()


def test_the_error_of_a_job_is_kept(session: Session) -> None:
    def frames(folder: Path) -> Generator[Frame[int]]:
        yield Frame(1, 2)
        raise ValueError("a reason")

    work = Work(frames, lambda image, folder: Result(folder))
    job = ended(Pool(1).submit(Job(session, "repaint", work)))
    assert job.state == "failed" and str(job.error) == "a reason"
    assert list(session.folder.iterdir()) == []


def test_a_job_that_fails_keeps_its_picture(session: Session) -> None:
    def frames(folder: Path) -> Generator[Frame[int]]:
        yield Frame(1, 2, image=7)
        raise ValueError("a reason")

    def finish(image: int, folder: Path) -> Result:
        return Result(save_picture(folder / f"{image}.png"))

    job = ended(Pool(1).submit(Job(session, "repaint", Work(frames, finish))))
    assert job.state == "failed" and str(job.error) == "a reason"
    assert job.result is not None and job.result.file.name == "7.png" and job.result.file.exists()
    assert session.results == [job.result]


def test_two_pools_stop_the_earlier_job_of_a_kind(session: Session) -> None:
    """Both are asked for at the same moment: without a lock, both find no earlier job, and one cannot be stopped."""
    meeting = threading.Barrier(2)

    class Meeting(dict[str, Job]):
        def get(self, *arguments: Any) -> Any:
            found = super().get(*arguments)
            with suppress(threading.BrokenBarrierError):
                meeting.wait(0.5)
            return found

    session.jobs = Meeting()
    gate = threading.Event()
    with ThreadPoolExecutor(2) as callers:
        submitted = [callers.submit(Pool(1).submit, Job(session, "repaint", counting(gate))) for _ in range(2)]
        made = [each.result() for each in submitted]
    assert [job.stopping for job in made].count(True) == 1
    assert not session.jobs["repaint"].stopping
    gate.set()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/place"), "No space left on device"),
        (InputError("/secret/place/<b>.png: broken"), "&lt;b&gt;.png: broken"),
        (KeyError("/secret"), "unexpected error: KeyError"),
    ],
)
def test_what_the_page_says_of_an_error(error: Exception, shown: str) -> None:
    assert shown in complaint(error) and "secret" not in complaint(error)


def slow_preparation(started: threading.Event) -> Work[int]:
    """Work that calls impasto's functions for ever before its first picture."""

    def frames(folder: Path) -> Generator[Frame[int]]:
        yield Frame(0, 1, "preparing")
        started.set()
        while True:
            schema.check(Transfer())

    return Work(frames, lambda image, folder: Result(folder))


def test_stop_during_preparation(session: Session) -> None:
    started = threading.Event()
    job = Pool(1).submit(Job(session, "repaint", slow_preparation(started)))
    assert started.wait(30)
    job.stop()
    assert ended(job).state == "stopped" and job.result is None


def test_stop_is_not_lost_while_the_limits_are_checked(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(session, "repaint", slow_preparation(threading.Event()))
    job.ends = time.monotonic() + 60

    def pressed(session: Session) -> bool:
        job.stop()
        return False

    monkeypatch.setattr(Session, "unwatched", property(pressed))
    assert job._ending() and not job.reason


def test_the_time_limit(session: Session) -> None:
    pool = Pool(1, 0.1)
    prepared = ended(pool.submit(Job(session, "repaint", slow_preparation(threading.Event()))))
    assert prepared.state == "failed" and "the time limit was reached" in str(prepared.error)
    gate = threading.Event()
    painted = Pool(1, 0.1).submit(Job(session, "repaint", counting(gate, 1000)))
    time.sleep(0.15)
    gate.set()
    assert ended(painted).state == "stopped" and painted.result is not None
    assert "the time limit was reached" in status(painted, 0)


def test_a_job_that_nobody_follows_ends(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "UNWATCHED", 0.05)
    gate = threading.Event()
    with session.watched():
        job = Pool(1).submit(Job(session, "repaint", counting(gate, 1000)))
        time.sleep(0.1)
        assert not session.unwatched
    time.sleep(0.1)
    gate.set()
    assert ended(job).state == "stopped" and job.reason == "nobody followed this job"


def test_one_session_cannot_fill_the_queue(session: Session) -> None:
    gate, pool = threading.Event(), Pool(1)
    for number in range(JOBS):
        pool.submit(Job(session, f"api-{number}", counting(gate)))
    with pytest.raises(BusyError, match="stop one first"):
        pool.submit(Job(session, "api-more", counting(gate)))
    assert pool.submit(Job(session, "api-5", counting(gate))).state == "waiting"  # in place of its own
    for job in session.jobs.values():
        job.stop()
    gate.set()


def test_stopped_jobs_do_not_fill_the_queue(session: Session) -> None:
    gate, pool = threading.Event(), Pool(1)
    running = pool.submit(Job(session, "photo", counting(gate)))
    wait_for(lambda: running.frame, "a frame")
    for _ in range(3 * WAITING):
        pool.submit(Job(session, "repaint", counting(gate)))
    assert len(pool.waiting) <= 2
    gate.set()


# Sessions


def store(session: Session, size: int = 1) -> Path:
    path = session.new_folder() / "a.png"
    path.write_bytes(bytes(size))
    return path


def test_sessions_with_pictures_are_not_dropped_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SESSIONS", 3)
    sessions = Sessions(tmp_path)
    first, empty = new(sessions), new(sessions)
    kept = store(first)
    store(new(sessions))
    store(new(sessions))  # takes the place of the empty one
    assert kept.exists() and empty.token not in sessions.known
    with pytest.raises(BusyError, match="too many people"):
        new(sessions)
    assert kept.exists() and len(sessions.known) == 3


def test_uploads_without_results_do_not_fill_the_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SESSIONS", 2)
    sessions = Sessions(tmp_path)
    painted, sent = new(sessions), new(sessions)
    painted.results.append(Result(store(painted)))
    store(sent)
    for each in (painted, sent):
        each.seen -= 2 * jobs.UNWATCHED
    assert new(sessions).token in sessions.known
    assert sent.token not in sessions.known and painted.results[0].file.exists()


def test_a_token_is_made_by_the_studio_only(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    token = sessions.new_token()
    assert sessions.valid(token) and not Sessions(tmp_path).valid(token)
    for wrong in ("", "a" * 20, token[:-1], "x" + token, ".", "\u00e9.x"):
        assert not sessions.valid(wrong)
    assert sessions.find(token) is None and list((tmp_path / "sessions").iterdir()) == []


def test_a_session_owns_only_its_files(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    session, other = new(sessions), new(sessions)
    path = store(session)
    assert session.owns(str(path)) and not other.owns(str(path))
    (path.parent / "link.png").symlink_to("/etc/passwd")
    for wrong in (
        *(
            "",
            "/",
            "/etc/passwd",
            f"{path.parent}/{'a' * 300}",
            str(path.parent),
            f"{path}/",
            f"{path}/x",
            str(path.parent / "link.png"),
        ),
        *(f"{path.parent}//a.png", f"{path.parent}/./a.png", f"{path.parent}/../{path.parent.name}/a.png"),
        *(str(path.relative_to(tmp_path)), f"{path}\0", f"file://{path}"),
    ):
        assert not session.owns(wrong), wrong


def test_the_quota_removes_what_was_not_used_for_longest(session: Session) -> None:
    session.quota = 250
    paths = [store(session, 100) for _ in range(4)]
    for age, path in enumerate(paths):
        os.utime(path.parent, (time.time() - age,) * 2)
    session.make_room()
    assert [path.exists() for path in paths] == [True, True, False, False]


def test_the_quota_holds_the_largest_upload_and_its_result(tmp_path: Path) -> None:
    assert new(Sessions(tmp_path / "a", 100_000_000)).quota == jobs.QUOTA
    session = new(Sessions(tmp_path / "b", 600_000_000))
    path = store(session)
    os.truncate(path, 600_000_000)  # takes no space on the disk
    session.make_room()
    assert path.exists()


def test_old_files_and_sessions_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(tmp_path)
    active, idle = new(sessions), new(sessions)
    old, recent = store(active), store(active)
    store(idle)
    os.utime(old.parent, (time.time() - jobs.KEPT - 1,) * 2)
    idle.seen -= jobs.KEPT + 1
    sessions.tidy()
    assert not old.exists() and recent.exists()
    assert list(sessions.known.values()) == [active] and not idle.folder.exists()


def test_a_job_leaves_one_folder_which_goes_with_its_result(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "RESULTS", 2)
    gate = threading.Event()
    gate.set()
    pool = Pool(1)
    for _ in range(4):
        ended(pool.submit(Job(session, "repaint", counting(gate))))
    wait_for(lambda: len(list(session.folder.iterdir())) == len(session.results) == 2, "only the last two results")
    assert all(result.file.exists() for result in session.results)


def test_a_full_disk_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SPARE", 1 << 80)
    with pytest.raises(BusyError, match="disk"):
        session.new_folder()


# Forms


@pytest.mark.parametrize("recipe", [Transfer(), Photo(), presets.owl])
def test_a_form_returns_its_recipe(recipe: Any) -> None:
    names = [field.name for field in fields(recipe)]
    with gr.Blocks():
        inputs = forms.form(recipe, names)
    assert forms.read(type(recipe), {name: each.value for name, each in zip(names, inputs, strict=True)}) == recipe
    assert all(len(each.info) > 10 for each in inputs)


def test_invalid_form_values() -> None:
    with pytest.raises(RecipeError, match="layer_weights"):
        forms.read(Transfer, {"layer_weights": "1 many"})
    with pytest.raises(RecipeError, match="steps"):
        forms.read(Transfer, {"steps": None})
    assert names.recipe(Photo(), {"steps": 3}) == replace(Photo(), steps=3)
    with pytest.raises(RecipeError, match="stepps"):
        names.recipe(Photo(), {"stepps": 3})


def test_a_used_port_and_exit_during_work(address: str, tmp_path: Path) -> None:
    port = address.rsplit(":", 1)[1]
    taken = subprocess.run(
        [sys.executable, "-m", "impasto", "studio", "--port", port], capture_output=True, text=True, timeout=60
    )
    assert taken.returncode == 1 and f"--port {port}" in taken.stderr and taken.stderr.count("\n") == 1
    with serving(TMPDIR=str(tmp_path)) as other, httpx.Client(base_url=other, timeout=60) as client:
        client.get("/").raise_for_status()
        (photo,) = upload(client, encoded()).json()
        assert list(tmp_path.glob("impasto-studio-*/sessions/*/*/photo.png"))
        asked = client.post(f"{API}/call/paint", json={"data": [file(photo), file(photo), {"size": 256}]})
        with client.stream("GET", f"{API}/call/paint/{asked.json()['event_id']}") as said:
            next(line for line in said.iter_lines() if "live-" in line)
    assert not list(tmp_path.iterdir())


def test_names_of_results_are_cut(session: Session, tmp_path: Path) -> None:
    from impasto.studio import work

    first, second = (save_picture(tmp_path / f"{letter * 60}.png", 32, 24) for letter in "絵画")
    small = Transfer(size=24, steps=1, style_layers=("relu1_1",), layer_weights=(1.0,))
    for todo in (
        work.light(first, second, Photo(), None), work.one_pass(first, [second]),
        work.optimise(first, [second], small), work.translate(first, "colorize"),
        work.film(film(tmp_path / f"{'映' * 60}.mp4", count=2), second),
    ):  # fmt: skip
        job = ended(Pool(1).submit(Job(session, "t", todo)))
        assert job.result is not None and len(os.fsencode(job.result.file.name)) <= 204, job.error


def test_only_bundled_networks_translate(session: Session, photo: Path, tmp_path: Path) -> None:
    from impasto.studio import work

    with pytest.raises(InputError, match="no such network"):
        work.translate(photo, str(tmp_path / "other.safetensors"))
    job = ended(Pool(1).submit(Job(session, "translate", work.translate(photo, "colorize"))))
    assert job.result is not None and images.read_receipt(job.result.file)["command"] == "pix2pix apply"


def test_a_drawing_lies_on_white_paper(session: Session, tmp_path: Path) -> None:
    from impasto.studio import work

    drawing = Image.new("RGBA", (32, 32))
    drawing.paste((0, 0, 0, 255), (8, 0, 16, 32))
    drawing.save(tmp_path / "drawing.png")
    flat = Image.new("RGB", (32, 32), "white")
    flat.paste(drawing, mask=drawing)
    flat.save(tmp_path / "flat.png")
    network, made = drawer(tmp_path / "lines.safetensors"), []
    for name, drawn in (("drawing", True), ("flat", False)):
        job = ended(Pool(1).submit(Job(session, "t", work.translate(tmp_path / f"{name}.png", network, drawn=drawn))))
        assert job.result is not None, job.error
        made.append(images.read(job.result.file))
    assert torch.equal(made[0].image, made[1].image) and made[0].alpha is None


def test_a_photograph_becomes_a_drawing(session: Session, photo: Path) -> None:
    from impasto.studio import work

    job = ended(Pool(1).submit(Job(session, "c", work.canvas(photo, size=32, trace=True), shown=False)))
    assert job.result is not None
    traced = images.to_tensor(job.result.file)
    assert max(traced.shape[-2:]) == 32 and set(traced.unique().tolist()) <= {0.0, 1.0} and traced.mean() > 0.5


def test_networks_of_the_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.safetensors").write_text("no network")
    network = drawer(tmp_path / "colorize.safetensors")
    for path, said in ((tmp_path / "text.safetensors", "text.safetensors"), (network, "has this name")):
        assert cli.main(["studio", "--models", str(path)]) == 1
        one_line(capsys, said, only=True)


def test_gradio_remembers_a_few_pages_only(tmp_path: Path) -> None:
    """A page takes 0.3 MB of memory, and anybody may open as many as they like."""
    app: Any = server.application(
        tmp_path, most_bytes=1, jobs=1, seconds=1, hosts=["localhost"], models={}
    ).app  # fmt: skip
    while not hasattr(app, "routes"):
        app = app.app
    pages = app.routes[-1].app.state_holder
    for number in range(server.PAGES + 5):
        pages[str(number)]
    assert len(pages.session_data) == server.PAGES
