"""The studio without a browser: its guard, its jobs, its forms, its API."""

import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from conftest import one_line, save_picture, wait_for
from PIL import Image
from studio_server import serving

from impasto import cli, images, recipes
from impasto.errors import BusyError, RecipeError
from impasto.recipes import Photo, Transfer
from impasto.studio import forms
from impasto.studio.jobs import SESSIONS, Frame, Job, Pool, Result, Session, Sessions, Work
from impasto.studio.viewer import status

API = "/gradio_api"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving("--max-upload", "0.3") as where:
        yield where


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as opened:
        opened.get("/").raise_for_status()  # sets the session's cookie
        yield opened


def upload(client: httpx.Client, data: bytes, name: str = "photo.png") -> httpx.Response:
    return client.post(f"{API}/upload", files={"files": (name, data)})


def encoded(size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def call(client: httpx.Client, name: str, *data: Any) -> str:
    """Call a function of the API; returns its last answer, a line of JSON."""
    asked = client.post(f"{API}/call/{name}", json={"data": data})
    if asked.status_code != 200:
        return f"{asked.status_code} {asked.text}"
    said = client.get(f"{API}/call/{name}/{asked.json()['event_id']}").text
    return said.strip().rsplit("data: ", 1)[-1]


def file(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


# Files


def test_only_the_own_session_can_fetch_an_upload(client: httpx.Client, address: str) -> None:
    (path,) = upload(client, encoded()).json()
    assert client.get(f"{API}/file={path}").content == encoded()
    with httpx.Client(base_url=address) as other:
        other.get("/")
        assert other.get(f"{API}/file={path}").status_code == 404
        assert call(other, "repaint", file(path), "candy", 1, 0, "none").startswith("404")
    assert httpx.get(f"{address}{API}/file={path}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "../../etc/passwd", "//etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "%2Fetc%2Fpasswd"),
        *("..%252f..%252fetc/passwd", "/proc/self/environ", "/etc/passwd%00.png", "http://127.0.0.1:22/"),
        *("\\etc\\passwd", "C:/Windows/win.ini", __file__, str(Path(recipes.__file__))),
    ],
)
def test_other_files_are_not_found(client: httpx.Client, path: str) -> None:
    for route in (f"{API}/file={path}", f"{API}/file/{path}", f"/file={path}", f"/static/{path}", f"/assets/{path}"):
        answer = client.get(route)
        assert answer.status_code in (403, 404), route
        assert b"root:" not in answer.content
    assert not call(client, "repaint", file(path), "candy", 1, 0, "none").startswith("[{")


def test_unused_routes_are_closed(client: httpx.Client) -> None:
    for route in ("/docs", "/openapi.json", "/monitoring", f"{API}/proxy=http://127.0.0.1", f"{API}/deep_link",
                  f"{API}/component_server", f"{API}/runs", f"{API}/stream/x", "/custom_component/a"):  # fmt: skip
        assert client.get(route).status_code == 404, route


def with_tail(*tail: bytes) -> bytes:
    return b"".join([encoded(), *tail])


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("a.txt", "a")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares many pixels."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("page.png", b"<!doctype html><script>alert(1)</script>", "not a picture"),
        ("page.html", b"<html></html>", "not a picture"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        ("cut.png", encoded()[:30], "not a picture"),
        ("empty.png", b"", "not a picture"),
        ("both.png", with_tail(b"<html><script>alert(1)</script></html>"), "more than a picture"),
        ("both.zip.png", with_tail(archive()), "more than a picture"),
        ("large.png", bomb(9000, 6000), "50 megapixels"),
        ("bomb.png", bomb(30000, 30000), "50 megapixels"),
    ],
)
def test_bad_uploads_are_refused(client: httpx.Client, name: str, data: bytes, said: str) -> None:
    answer = upload(client, data, name)
    assert answer.status_code == 400 and said in answer.json()["detail"]


def test_large_files_are_refused(client: httpx.Client) -> None:
    answer = upload(client, bytes(400_000))
    assert answer.status_code == 413 and "0 MB" in answer.json()["detail"]


def test_an_unknown_host_is_refused(client: httpx.Client) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_requests_that_are_not_json_or_too_large(client: httpx.Client) -> None:
    assert client.post(f"{API}/call/repaint", content=b"{").status_code == 400
    assert client.post(f"{API}/call/repaint", content=bytes(5_000_000)).status_code == 413


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


def test_optimisation_and_light(client: httpx.Client, tiny: str) -> None:
    (photo,) = upload(client, encoded()).json()
    (other,) = upload(client, encoded((50, 70), "JPEG"), "other.jpg").json()
    settings = {"size": 48, "steps": 3, "encoder": tiny}
    for name, more in (("paint", {}), ("light", {"radius": 2})):
        (result,) = json.loads(call(client, name, file(photo), file(other), settings | more))
        data = client.get(f"{API}/file={result['path']}").content
        receipt = images.read_receipt(write(Path(photo).with_name(f"{name}.png"), data))
        assert receipt["recipe"]["steps"] == 3


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("repaint", ["cubism", 1, 0, "none"], "cubism"),
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


def test_auth_requires_name_and_password() -> None:
    with serving("--auth", "ada", IMPASTO_PASSWORD="lovelace") as address, httpx.Client(base_url=address) as client:
        assert client.get("/config").status_code == 401
        assert client.post("/login", data={"username": "ada", "password": "x"}).status_code == 400
        assert client.post("/login", data={"username": "ada", "password": "lovelace"}).status_code == 200
        assert client.get("/config").status_code == 200


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        *[(["--host", "0.0.0.0"], "--auth"), (["--max-jobs", "0"], "--max-jobs"), (["--port", "99999"], "--port")],
        *[(["--auth", "ada"], "IMPASTO_PASSWORD"), (["--max-upload", "nan"], "--max-upload")],
    ],
)
def test_invalid_flags(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMPASTO_PASSWORD", raising=False)
    assert cli.main(["studio", *flags]) == 1
    one_line(capsys, named, only=True)


# Jobs


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Sessions(tmp_path).get("a" * 20)


def counting(session: Session, gate: threading.Event, total: int = 3) -> Work[int]:
    """Work whose steps wait for the gate; the result is the number of steps."""

    def frames() -> Iterator[Frame[int]]:
        for done in range(1, total + 1):
            yield Frame(done, total, loss=1 / done, image=done)
            gate.wait(5)

    def finish(done: int) -> Result:
        path = session.path("result.txt")
        path.write_text(str(done))
        return Result(path)

    return Work(frames, finish, lambda image, path: None)


def ended(job: Job) -> Job:
    for _ in job.follow(0):
        pass
    return job


def test_a_finished_job(session: Session) -> None:
    gate = threading.Event()
    gate.set()
    job = ended(Pool(1).submit(Job(session, "repaint", counting(session, gate))))
    assert (job.state, job.losses) == ("done", [1, 1 / 2, 1 / 3])
    assert job.result is not None and job.result.file.read_text() == "3"
    assert session.results == [job.result] and str(job.result.file) in session.files


def test_stop_keeps_the_picture_so_far(session: Session) -> None:
    gate = threading.Event()
    job = Pool(1).submit(Job(session, "repaint", counting(session, gate)))
    wait_for(lambda: job.frame, "a frame")
    job.stop()
    gate.set()
    assert ended(job).state == "stopped"
    assert job.result is not None and job.result.file.read_text() in "12"


def test_stop_before_the_first_picture(session: Session) -> None:
    gate = threading.Event()

    def frames() -> Iterator[Frame[int]]:
        yield Frame(0, 2, "looking")
        gate.wait(5)
        yield Frame(0, 2, "still looking")

    def finish(image: object) -> Result:
        raise AssertionError("there is nothing to finish")

    job = Pool(1).submit(Job(session, "repaint", Work(frames, finish, lambda image, path: None)))
    wait_for(lambda: job.frame, "a frame")
    job.stop()
    gate.set()
    assert ended(job).state == "stopped" and job.result is None and session.results == []
    assert ">stopped<" in status(job, 0)
    assert ">stopped<" in status(Job(session, "repaint", None, "stopped"), 0)  # while it waited


def test_jobs_wait_and_a_new_one_replaces_the_last_of_its_kind(session: Session, tmp_path: Path) -> None:
    gate, pool = threading.Event(), Pool(1)
    others = Sessions(tmp_path / "others")
    first = pool.submit(Job(session, "repaint", counting(session, gate)))
    wait_for(lambda: first.state != "waiting", "its turn")
    waiting = [pool.submit(Job(others.get(f"{n:020}"), "repaint", counting(session, gate))) for n in range(2)]
    assert [pool.ahead(job) for job in waiting] == [0, 1]
    again = pool.submit(Job(waiting[0].session, "repaint", counting(session, gate)))
    assert waiting[0].state == "stopped" and pool.ahead(again) == 1
    gate.set()
    assert [ended(job).state for job in (first, waiting[1], again)] == ["done", "done", "done"]


def test_too_many_jobs(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.studio.jobs.WAITING", 1)
    gate, pool, others = threading.Event(), Pool(1), Sessions(tmp_path / "others")
    running = pool.submit(Job(session, "repaint", counting(session, gate)))
    wait_for(lambda: running.state != "waiting", "its turn")
    pool.submit(Job(others.get("b" * 20), "repaint", counting(session, gate)))
    with pytest.raises(BusyError):
        pool.submit(Job(others.get("c" * 20), "repaint", counting(session, gate)))
    gate.set()


def test_the_error_of_a_job_is_kept(session: Session) -> None:
    def frames() -> Iterator[Frame[int]]:
        yield Frame(1, 2)
        raise ValueError("a reason")

    work = Work(frames, lambda image: Result(Path()), lambda image, path: None)
    job = ended(Pool(1).submit(Job(session, "repaint", work)))
    assert job.state == "failed" and str(job.error) == "a reason"


def test_the_longest_idle_sessions_are_dropped(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    first = sessions.get("0" * 20)
    first.path("a.png").write_text("a")
    for number in range(1, SESSIONS + 1):
        sessions.get(f"{number:020}")
    assert len(sessions.known) == SESSIONS and "0" * 20 not in sessions.known and not first.folder.exists()


# Forms


@pytest.mark.parametrize("recipe", [Transfer(), Photo(), recipes.owl])
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
    assert forms.changed(Photo(), {"steps": 3}) == replace(Photo(), steps=3)
    with pytest.raises(RecipeError, match="stepps"):
        forms.changed(Photo(), {"stepps": 3})


def test_a_used_port_and_exit_during_work(address: str, tmp_path: Path) -> None:
    port = address.rsplit(":", 1)[1]
    taken = subprocess.run(
        [sys.executable, "-m", "impasto", "studio", "--port", port], capture_output=True, text=True, timeout=60
    )
    assert taken.returncode == 1 and f"--port {port}" in taken.stderr and taken.stderr.count("\n") == 1
    with serving(TMPDIR=str(tmp_path)) as other, httpx.Client(base_url=other, timeout=60) as client:
        client.get("/").raise_for_status()
        (photo,) = upload(client, encoded()).json()
        assert list(tmp_path.glob("impasto-studio-*/uploads/*/photo.png"))
        asked = client.post(f"{API}/call/paint", json={"data": [file(photo), file(photo), {"size": 256}]})
        with client.stream("GET", f"{API}/call/paint/{asked.json()['event_id']}") as said:
            next(line for line in said.iter_lines() if "live.jpg" in line)
    assert not list(tmp_path.iterdir())
