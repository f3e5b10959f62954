"""What the studio refuses: other sessions' and the server's files, bombs, floods, other pages."""

import asyncio
import errno
import importlib.util
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
import typing
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import paged, striped, tiff, wait_for
from PIL import Image
from studio_server import API, call, encoded, file, serving, upload

from impasto import images, presets, recipes
from impasto.errors import ImpastoError, InputError, RefusedError
from impasto.recipes import STARTS, Photo, Transfer
from impasto.studio import inspection, names, work
from impasto.studio.guard import Attempts, Guard, _network
from impasto.studio.jobs import Sessions

# Files


def test_only_the_own_session_can_fetch_an_upload(client: httpx.Client, address: str) -> None:
    (path,) = upload(client, encoded()).json()
    assert client.get(f"{API}/file={path}").content == encoded()
    assert client.get(f"{API}/file={Path(path).parent}/{'a' * 300}").status_code == 404
    with httpx.Client(base_url=address, timeout=60) as other:
        other.get("/")
        assert other.get(f"{API}/file={path}").status_code == 404
        assert call(other, "repaint", file(path), "candy", 1, 0, "none").startswith("404")
    assert httpx.get(f"{address}{API}/file={path}", timeout=60).status_code == 404


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
                  *(f"/{each}/{'a' * 300}" for each in ("assets", "static", "svelte")), f"/static{'/a' * 3000}",
                  f"{API}/component_server", f"{API}/runs", f"{API}/stream/x", "/custom_component/a"):  # fmt: skip
        assert client.get(route).status_code == 404, route


def with_tail(*tail: bytes) -> bytes:
    return b"".join([encoded(), *tail])


def archive() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("a.txt", "a")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares many pixels."""
    buffer = BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("page.png", b"<!doctype html><script>alert(1)</script>", "not a picture"),
        ("page.html", b"<html></html>", "not a picture"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        ("cut.png", encoded()[:30], "not a picture"),
        ("empty.png", b"", "the file is empty"),
        ("both.png", with_tail(b"<html><script>alert(1)</script></html>"), "more than a picture"),
        ("both.zip.png", with_tail(archive()), "more than a picture"),
        ("large.png", bomb(9000, 6000), "50 megapixels"),
        ("bomb.png", bomb(30000, 30000), "50 megapixels"),
    ],
)
def test_bad_uploads_are_refused(client: httpx.Client, name: str, data: bytes, said: str) -> None:
    answer = upload(client, data, name)
    assert answer.status_code == 400 and said in answer.text


def test_a_form_in_an_odd_encoding_is_refused(client: httpx.Client) -> None:
    for route, name, filename in ((f"{API}/upload", "files", "a-!"), ("/login", "username", "a")):
        part = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\na-!\r\n--b--\r\n'
        for charset in ("punycode", "idna", "undefined", "utf-7", "x"):
            kind = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
            assert client.post(route, content=part.encode(), headers=kind).status_code in (400, 404, 422)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/place")


@pytest.mark.parametrize("where", ["impasto.studio.guard._copy", "impasto.studio.guard.Path.rename"])
def test_a_disk_that_fills_up_during_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    async def answered(scope: object, receive: object, send: object) -> None:
        raise AssertionError("not for Gradio")

    monkeypatch.setattr(where, full)
    guard = Guard(answered, Sessions(tmp_path), set(), most_bytes=10**6, most_pixels=10**6, login=False)

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://studio") as client:
            return await client.post(f"{API}/upload", files={"files": ("a.png", encoded())})

    answer = asyncio.run(send())
    assert (answer.status_code, answer.text) == (507, "the file cannot be stored: No space left on device")
    assert not list((tmp_path / "incoming").iterdir())


def test_large_files_are_refused(client: httpx.Client) -> None:
    answer = upload(client, bytes(400_000))
    assert answer.status_code == 413 and "0.3 MB" in answer.text


def test_an_unknown_host_is_refused(client: httpx.Client) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_requests_that_are_not_json_or_too_large(client: httpx.Client) -> None:
    assert client.post(f"{API}/call/repaint", content=b"{").status_code == 400
    assert client.post(f"{API}/call/repaint", content=bytes(5_000_000)).status_code == 413


# What a request may name


@pytest.mark.parametrize("kind", [Transfer, Photo])
@pytest.mark.parametrize("value", ["/etc/passwd", "/dev/zero", "../secret.png", "http://127.0.0.1/", "data:,x", ""])
def test_no_field_of_a_recipe_takes_a_path(kind: Any, value: str) -> None:
    types = typing.get_type_hints(kind)
    for field in fields(kind):
        listed = typing.get_origin(types[field.name]) is tuple
        with pytest.raises(ImpastoError):
            names.recipe(kind(), {field.name: [value] if listed else value})


def test_every_field_of_text_has_its_names() -> None:
    for kind in (Transfer, Photo):
        for field, hint in typing.get_type_hints(kind).items():
            if hint in (str, tuple[str, ...]):
                value = getattr(kind(), field)
                assert names.NAMES[field] and {value} if hint is str else set(value) <= set(names.NAMES[field])
    for preset in presets.TRANSFERS.values():
        assert names.recipe(preset, {}) == preset
    for start in STARTS:
        assert names.recipe(Transfer(), {"init": start}).init == start


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/no-such-file"])
def test_refusals_do_not_tell_which_files_exist(client: httpx.Client, path: str) -> None:
    (photo,) = upload(client, encoded()).json()
    said = {
        call(client, "repaint", file(photo), path, 1, 0, "none"),
        call(client, "paint", file(photo), file(photo), {"encoder": path}),
        call(client, "paint", file(photo), file(photo), {"init": path}),
        call(client, "light", file(photo), file(photo), {"encoder": path}),
    }
    assert len(said) == 3 and all("must be one of" in each and path not in each for each in said)


@pytest.mark.parametrize(
    "receipt",
    [
        {"command": "apply", "styles": ["/etc/passwd"], "style_weights": [1.0]},
        {"command": "apply", "styles": [{"name": "candy"}]},
        {"command": "apply", "styles": 7},
        {"command": "transfer", "recipe": {"seed": 2**70}},
        {"command": "transfer", "recipe": {"strength": "1e9"}},
        {"command": "transfer", "recipe": [["seed", 1]]},
        {"command": "transfer", "recipe": {"content_layers": ["/etc/passwd"]}},
        {"command": "apply", "strength": float("nan")},
    ],
)
def test_receipts_that_name_anything_else_are_not_used(receipt: dict[str, Any]) -> None:
    with pytest.raises(ImpastoError):
        names.from_receipt(receipt)


def test_receipts_of_the_studio_are_used() -> None:
    made = {
        "command": "apply",
        "styles": ["candy", "udnie"],
        "style_weights": [0.25, 0.75],
        "strength": 0.5,
        "size": 64,
    }
    assert names.from_receipt(made) == ({"size": 64, "strength": 0.5}, ["candy", "udnie"], [0.25, 0.75])
    assert names.from_receipt({"command": "transfer", "recipe": {"init": "photo.png", "steps": 9}}) == (
        {"steps": 9}, [], [],
    )  # fmt: skip
    assert names.from_receipt(None) == ({}, [], [])
    assert names.from_receipt({"command": "apply", "size": None, "strength": 1, "styles": ["candy"]}) == (
        {"strength": 1.0}, ["candy"], []
    )  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"data":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"data": [{"url": "data:image/png;base64,AAAA", "meta": {"_type": "gradio.FileData"}}]}',
        b'{"data": [{"url": "http://127.0.0.1/a.png"}]}',
        b'{"data": [{"path": 7}]}',
    ],
)
def test_requests_that_name_files_in_other_ways(client: httpx.Client, content: bytes) -> None:
    assert client.post(f"{API}/call/repaint", content=content).status_code == 400


def test_too_many_files_in_a_request(client: httpx.Client) -> None:
    (photo,) = upload(client, encoded()).json()
    asked = client.post(f"{API}/call/repaint", json={"data": [[file(photo)] * 17]})
    assert asked.status_code == 400


def test_the_page_does_not_tell_where_impasto_is(client: httpx.Client) -> None:
    assert str(Path(recipes.__file__).parent) not in client.get("/config").text


# Pictures


def twice() -> bytes:
    """A TIFF that is large by its first tags, which tifffile takes, and small by its second, which Pillow takes."""
    large = [(256, 4, 1, 90_000), (257, 4, 1, 90_000)]
    small = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1)]
    strips = [(273, 4, 1, 300), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 128)]
    return tiff(large + small + strips, bytes(500))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (twice(), "two sizes|megapixels|not a picture"),
        (striped(3_000_000), "3000000 strips"),
        (bomb(9000, 6000), "50 megapixels"),
        (bomb(30000, 30000), "50 megapixels"),
        (encoded() + b"<svg/onload=alert(1)>", "more than a picture"),
        (encoded() + b"<script/x>alert(1)</script>", "more than a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
def test_inspection(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "upload"
    path.write_bytes(data)
    command = [sys.executable, "-m", "impasto.studio.inspection", str(path), str(inspection.PIXELS)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1
    with pytest.raises(RefusedError, match=said):
        raise RefusedError(found.stdout)


def test_inspection_does_not_count_pages(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(paged(100_000))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert asyncio.run(inspection.inspect([tmp_path / "upload"], most_pixels=10_000)) == [".tiff"]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 3  # 52 s if they are counted


def test_inspection_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    assert asyncio.run(inspection.inspect([tmp_path / "a.png"] * 2, most_pixels=10_000)) == [".png", ".png"]
    monkeypatch.setattr(inspection, "SECONDS", 2.0)  # for one picture, not for all
    monkeypatch.setattr(inspection, "AT_ONCE", asyncio.Semaphore(1))
    began = time.monotonic()
    with pytest.raises(RefusedError, match="seconds to read"):
        asyncio.run(inspection.inspect([tmp_path / "a.png"] * 100, most_pixels=10_000))
    assert time.monotonic() - began < 20  # 100 pictures take longer


def only_restricted() -> None:
    """Runs in a process of its own: prints the decoders that are left after a HEIC photograph was opened."""
    import PIL.Image

    from impasto import decoding

    inspection.restrict()
    decoding._register_heic()
    print(*PIL.Image.ID)


def test_no_decoder_is_added_later() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import test_studio_guard as t; t.only_restricted()"],
        capture_output=True, text=True, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert set(found.stdout.split()) <= inspection.SUFFIXES.keys() and "PNG" in found.stdout, found.stderr


def test_films_are_not_read_as_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(encoded())  # as a decoder of pictures would take it
    with pytest.raises(images.ImageError, match="is a film"):
        work.read(tmp_path / "a.mp4")
    images.write(tmp_path / "b.png", images.to_tensor(tmp_path / "a.mp4"), receipt={})
    assert work.restore(tmp_path / "b.png") == {}
    assert work.restore((tmp_path / "b.png").rename(tmp_path / "b.mp4")) is None


def test_pictures_are_read_with_the_limit_of_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PIXELS", 100)
    (tmp_path / "a.png").write_bytes(encoded())
    for todo in (
        work.one_pass(tmp_path / "a.png", ["candy"]),
        work.optimise(tmp_path / "a.png", [tmp_path / "a.png"], Transfer()),
        work.light(tmp_path / "a.png", tmp_path / "a.png", Photo(), None),
        work.regions(tmp_path / "a.png", tmp_path / "a.png", Photo()),
        work.canvas(tmp_path / "a.png"),
        work.draw_study(tmp_path / "a.png", tmp_path / "a.png", "content", 64, 1),
    ):
        with pytest.raises(images.ImageError, match="more than 100"):
            list(todo.frames(tmp_path))


def test_results_are_no_larger_than_uploads(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    for settings in ({"size": 16_384}, {"size": 4096, "style_scale": 8.0}):
        todo = work.optimise(tmp_path / "a.png", [tmp_path / "a.png"], Transfer(**settings))
        with pytest.raises(InputError, match="too large"):
            list(todo.frames(tmp_path))


def test_light_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded((800, 600)))
    monkeypatch.setattr("impasto.machine.free_memory", lambda device: 1e8)
    with pytest.raises(InputError, match="not enough memory: 800 x 600"):
        list(work.light(tmp_path / "a.png", tmp_path / "a.png", Photo(size=8192, steps=1), None).frames(tmp_path))


# Other pages, and no page


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_requests_of_other_pages(client: httpx.Client, headers: dict[str, str], status: int) -> None:
    answer = client.get("/config", headers=headers)
    assert answer.status_code == status
    assert not [name for name in answer.headers if name.startswith("access-control-allow-origin")]
    assert client.post(f"{API}/upload", files={"files": ("a.png", encoded())}, headers=headers).status_code == status


def test_a_link_on_another_page_leads_to_the_studio(client: httpx.Client) -> None:
    answer = client.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
    assert answer.status_code == 200 and "set-cookie" not in answer.headers


def test_nothing_is_stored_for_requests_without_a_session(client: httpx.Client, address: str) -> None:
    (path,) = upload(client, encoded()).json()
    sessions = Path(path).parent.parent.parent
    before = sorted(sessions.iterdir())
    for _ in range(210):
        client.get("/theme.css", headers={"cookie": "", "sec-fetch-site": "cross-site"})
    assert client.get(f"{API}/file={path}").status_code == 200
    assert sorted(sessions.iterdir()) == before


def test_a_client_cannot_choose_its_session(client: httpx.Client, address: str) -> None:
    (cookie,) = client.cookies
    for chosen in ({cookie: "a" * 40}, {cookie: client.cookies[cookie][:-1]}):
        with httpx.Client(base_url=address, cookies=chosen, timeout=60) as one:
            (path,) = upload(one, encoded()).json()
        with httpx.Client(base_url=address, cookies=chosen, timeout=60) as two:
            assert two.get(f"{API}/file={path}").status_code == 404
    header = {"x-impasto-session": client.cookies[cookie]}  # what examples/studio_client.py sends
    (path,) = upload(client, encoded()).json()
    assert httpx.get(f"{address}{API}/file={path}", headers=header, timeout=60).status_code == 200


def test_files_run_nothing_when_opened_as_a_page(client: httpx.Client) -> None:
    (path,) = upload(client, encoded(), "page.html").json()
    assert path.endswith("/page.png")
    answer = client.get(f"{API}/file={path}")
    assert "sandbox" in answer.headers["content-security-policy"] and answer.headers["content-type"] == "image/png"


# Disk


def everything(path: str) -> list[Path]:
    root = next(each for each in Path(path).parents if each.name.startswith("impasto-studio-"))
    return sorted(each for each in root.rglob("*") if each.is_file())


def test_uploads_that_are_cut_off_or_too_large_leave_nothing(client: httpx.Client, address: str) -> None:
    (path,) = upload(client, encoded()).json()
    before = everything(path)
    host, port = address.removeprefix("http://").split(":")
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    with socket.create_connection((host, int(port))) as half:
        half.sendall(f"POST {API}/upload HTTP/1.1\r\nHost: {host}:{port}\r\n".encode())
        half.sendall(b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 200000\r\n\r\n" + head)
        half.sendall(bytes(100_000))

    def endless() -> Iterator[bytes]:
        yield head
        for _ in range(40):
            yield bytes(100_000)

    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert client.post(f"{API}/upload", content=endless(), headers=kind).status_code == 413
    assert client.post(f"{API}/upload", files={"files": ("a.png", b"no")}).status_code == 400
    assert client.post(f"{API}/upload", content=head[:-8] + b"--b--\r\n", headers=kind).status_code == 400
    nameless = b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\na\r\n--b--\r\n'
    assert client.post(f"{API}/upload", content=nameless, headers=kind).status_code == 400
    assert client.post("/login", files={"a": ("a", bytes(50_000))}).status_code == 413
    wait_for(lambda: everything(path) == before, "nothing but the picture")
    assert list(Path(path).parent.parent.parent.parent.joinpath("incoming").iterdir()) == []


def test_equal_uploads_of_two_sessions_are_two_files(client: httpx.Client, address: str) -> None:
    with httpx.Client(base_url=address, timeout=60) as other:
        other.get("/")
        assert upload(client, encoded()).json() != upload(other, encoded()).json()


def test_only_the_user_can_read_the_folders(client: httpx.Client) -> None:
    (path,) = upload(client, encoded()).json()
    root = next(each for each in Path(path).parents if each.name.startswith("impasto-studio-"))
    assert {stat.S_IMODE(each.stat().st_mode) for each in (root, *root.rglob("*"))} == {0o700, 0o600}


@contextmanager
def started(folder: Path, handler: signal.Handlers = signal.SIG_DFL) -> Iterator[subprocess.Popen[str]]:
    """A studio with its files in a folder. ``handler``: of SIGHUP and SIGINT, whatever the tests themselves have."""

    def handle() -> None:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, handler)

    command = [sys.executable, "-m", "impasto", "studio", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder)},
        preexec_fn=handle,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_signals_leave_no_files(tmp_path: Path, number: int) -> None:
    other = tmp_path / "impasto-studio-of-somebody-else"
    other.mkdir()
    with started(tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
        process.communicate(timeout=30)
    if number == signal.SIGKILL:  # the next one removes them
        with serving(TMPDIR=str(tmp_path)):
            assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == [other]


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """As if started by nohup in a script."""
    with started(tmp_path, signal.SIG_IGN) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        for number in (signal.SIGHUP, signal.SIGINT):
            process.send_signal(number)
        assert httpx.get(f"{address}/theme.css", timeout=60).status_code == 200
        process.terminate()
        assert process.wait(30) == 0 and not list(tmp_path.iterdir())


def test_ctrl_c_while_gradio_loads(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        wait_for(lambda: list(tmp_path.glob("*/lock")), "its folder")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "impasto: stopped\n")
        assert process.returncode == 130 and not list(tmp_path.iterdir())


# The password


def test_auth_requires_name_and_password() -> None:
    with (
        serving("--auth", "ada", IMPASTO_PASSWORD="lovelace") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        assert client.get("/config").status_code == 401
        assert upload(client, encoded()).status_code == 401
        for name in ("cancel", "reset", "queue/join", "call/repaint"):
            assert client.post(f"{API}/{name}", json={"data": []}).status_code == 401
        assert client.get(f"{API}/heartbeat/x").status_code == 401
        assert client.post("/login", data={"username": "ada", "password": "x"}).status_code == 400
        assert client.post("/login", data={"username": "ada", "password": "lovelace"}).status_code == 200
        assert client.get("/config").status_code == 200
        assert upload(client, encoded()).status_code == 200
        for _ in range(Attempts.FREE):
            last = client.post("/login", data={"username": "ada", "password": "x"})
        assert last.status_code == 400
        last = client.post("/login", data={"username": "ada", "password": "lovelace"})
        assert last.status_code == 429 and 0 < int(last.headers["retry-after"]) <= 30


def test_guesses_cannot_choose_their_address() -> None:
    with (
        serving("--auth", "ada", IMPASTO_PASSWORD="lovelace") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        guess = {"username": "ada", "password": "x"}
        for number in range(Attempts.FREE + 1):
            last = client.post("/login", data=guess, headers={"x-forwarded-for": f"10.0.0.{number}"})
        assert last.status_code == 429


def test_waits_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("impasto.studio.guard.time.monotonic", lambda: now)
    attempts, waits = Attempts(), []
    for _ in range(12):
        assert attempts.begin("a") == 0
        waits.append(attempts.begin("a"))
        now += waits[-1]
    assert waits == [0.0, 0.0, 30.0, 60.0, 120.0, 240.0, 480.0, *[900.0] * 5]  # a wait of 0 is an attempt as well
    assert attempts.begin("b") == 0
    attempts.forget("a")
    assert [attempts.begin("a") for _ in range(Attempts.FREE)] == [0.0] * Attempts.FREE
    assert _network("2001:db8::1") == _network("2001:db8::ffff") != _network("2001:db8:1::1")


# Floods


def test_half_requests_do_not_stop_the_studio() -> None:
    few = (256, 256)
    with serving(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, few)) as address:
        host, port = address.removeprefix("http://").split(":")
        halves = []
        for _ in range(250):
            halves.append(socket.create_connection((host, int(port)), timeout=5))
            halves[-1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert httpx.get(f"{address}/theme.css", timeout=30).status_code == 200
        for half in halves:
            half.close()


def test_many_connections_at_once_do_not_stop_the_studio() -> None:
    """They wait for the loop, as on a busy machine, and are not accepted all before the oldest are closed."""
    few = (256, 256)
    with serving(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, few)) as address:
        host, port = address.removeprefix("http://").split(":")
        assert httpx.get(f"{address}/theme.css", timeout=30).status_code == 200
        studio = max(psutil.Process().children(), key=lambda each: each.create_time())
        studio.suspend()
        waiting = [socket.socket() for _ in range(250)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex((host, int(port)))
        studio.resume()
        assert httpx.get(f"{address}/theme.css", timeout=30).status_code == 200
        for each in waiting:
            each.close()


@pytest.fixture
def soak() -> Any:
    spec = importlib.util.spec_from_file_location("soak", Path(__file__).parent.parent / "benchmarks" / "soak.py")
    assert spec is not None and spec.loader is not None
    soak = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = soak  # where its dataclass looks for its types
    spec.loader.exec_module(soak)
    return soak


def test_a_short_soak(soak: Any) -> None:
    seen, _, left = soak.soak(jobs=12, clients=3, rounds=1)
    assert set(seen.codes) == {200} and sum(seen.ended.values()) == 12
    assert seen.ended["stopped"] and seen.ended["failed"] == seen.ended["refused"] == 0
    assert left == []


@pytest.mark.parametrize(
    ("codes", "ended", "memory", "left", "code"),
    [
        ({200: 9}, {"done": 9, "stopped": 1}, [100, 109], [], 0),
        ({200: 9, 500: 1}, {"done": 9}, [100, 100], [], 1),
        ({200: 9}, {"done": 9, "failed": 1}, [100, 100], [], 1),
        ({200: 9, 400: 1}, {"done": 9, "refused": 1}, [100, 100], [], 1),
        ({200: 9}, {"done": 9}, [100, 111], [], 1),
        ({200: 9}, {"done": 9}, [100, 100], [Path("a")], 1),
    ],
)
def test_what_a_soak_does_not_accept(
    soak: Any, monkeypatch: pytest.MonkeyPatch, codes: Any, ended: Any, memory: list[int], left: list[Path], code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["soak.py"])
    seen = soak.Seen(Counter(codes), Counter(ended))
    monkeypatch.setattr(soak, "soak", lambda *_: (seen, memory, left))
    assert soak.main() == code


def test_files_that_nothing_needs(soak: Any, tmp_path: Path) -> None:
    names = ["uploads/a.png", "incoming/x/0", *(f"sessions/s/job/live-{number}.jpg" for number in range(3))]
    names += ["sessions/s/job/photo.png", "sessions/s/job/.impasto-1.png", "sessions/s/other/photo.png", "lock"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sessions/s/empty").mkdir()
    found = {str(path.relative_to(tmp_path)) for path in soak.stray(tmp_path)}
    wanted = {*names[:2], "incoming/x", "sessions/s/job/live-2.jpg", "sessions/s/job/.impasto-1.png"}
    assert found == {*wanted, "sessions/s/empty"}
