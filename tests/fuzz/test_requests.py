"""Hostile requests to a running studio: none may reach the server's or another session's files, or break it.

FUZZ_EXAMPLES sets how many requests each test sends; `make fuzz` sends many.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import film
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from studio_server import API, call, encoded, serving, upload

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
FEW = settings(
    max_examples=EXAMPLES, derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None, suppress_health_check=list(HealthCheck), database=None,
)  # fmt: skip


@dataclass
class Target:
    """A studio with two sessions, and files that the first one must not reach."""

    client: httpx.Client
    own: str
    others: list[str]
    film: bytes


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    secret = tmp_path_factory.mktemp("server") / "secret.png"
    Image.new("RGB", (64, 48), (1, 2, 3)).save(secret)
    with ExitStack() as stack:
        address = stack.enter_context(serving("--max-upload", "0.3", silent=False))
        one, two = (stack.enter_context(httpx.Client(base_url=address, timeout=120)) for _ in range(2))
        for client in (one, two):
            client.get("/")
        (own,), (other,) = (upload(client, encoded()).json() for client in (one, two))
        clip = film(secret.with_name("clip.mp4")).read_bytes()
        yield Target(one, own, [other, str(secret), "/etc/passwd", "/proc/self/environ", "/dev/zero", __file__], clip)


def spellings(path: str) -> st.SearchStrategy[str]:
    """Ways to name a file, plain and not."""
    folder = str(Path(path).parent)
    return st.sampled_from([
        *(path, f"/{path}", f"//{path}", path[1:], f"{folder}/./{Path(path).name}", f"{folder}//{Path(path).name}"),
        *(f"file://{path}", f"{path}\0", f"{path}%00.png", path.replace("/", "%2f"), path.replace("/", "%252f")),
        *(f"../../../../../..{path}", f"{folder}/../{Path(folder).name}/{Path(path).name}", path.replace("/", "\\")),
        *(f"http://127.0.0.1{API}/file={path}", path.upper(), f" {path}", f"{path}/", f"{path}/."),
    ])  # fmt: skip


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@FEW
@given(data=st.data())
def test_no_spelling_fetches_another_file(target: Target, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(target.others).flatmap(spellings))
    route = data.draw(st.sampled_from([f"{API}/file=", f"{API}/file/", "/file=", "/static/", "/assets/", "/svelte/"]))
    try:
        answer = target.client.get(f"{route}{path}")
    except httpx.InvalidURL:
        return
    assert answer.status_code in (400, 403, 404), (route, path, answer.status_code)


@FEW
@given(data=st.data())
def test_no_request_names_another_file(target: Target, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(target.others).flatmap(spellings))
    wrapped: Any = {"path": path, "meta": {"_type": "gradio.FileData"}} | data.draw(
        st.sampled_from([{}, {"url": path}, {"url": f"{API}/file={path}"}, {"orig_name": "a.svg"}, {"is_stream": True}])
    )
    for _ in range(data.draw(st.integers(0, 4))):
        wrapped = data.draw(st.sampled_from([[wrapped], {"value": wrapped}, {"path": target.own, "x": wrapped}]))
    name = data.draw(
        st.sampled_from(["call/repaint", "call/paint", "call/light", "call/film", "queue/join", "run/stop", "cancel"])
    )
    body = {"data": [wrapped, wrapped, {}], "fn_index": data.draw(st.integers(-3, 60)), "session_hash": "abc"}
    answer = target.client.post(f"{API}/{name}", json=body)
    assert answer.status_code in (400, 404), (name, body, answer.text)


@FEW
@given(body=json_values, name=st.sampled_from(["call/repaint", "call/film", "queue/join", "run/x", "cancel", "upload"]))
def test_no_request_breaks_the_studio(target: Target, body: Any, name: str) -> None:
    try:
        answer = target.client.post(f"{API}/{name}", json=body)
    except ValueError:  # httpx cannot send NaN
        return
    assert answer.status_code < 500, (name, body, answer.text)


@settings(FEW, max_examples=EXAMPLES // 10 + 1)  # each upload starts a process
@given(data=st.binary(max_size=200), name=st.text(max_size=30))
def test_no_upload_breaks_the_studio(target: Target, data: bytes, name: str) -> None:
    for content in (data, encoded()[: len(data) * 2], encoded() + data):
        head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        answer = target.client.post(
            f"{API}/upload", content=head + content + b"\r\n--b--\r\n",
            headers={"content-type": "multipart/form-data; boundary=b"},
        )  # fmt: skip
        assert answer.status_code in (200, 400), (name, content, answer.text)
        for path in answer.json() if answer.status_code == 200 else []:
            assert Path(path).parts[:-2] == Path(target.own).parts[:-2] and Path(path).suffix == ".png"


@settings(FEW, max_examples=EXAMPLES // 10 + 1)
@given(data=st.data())
def test_no_damaged_film_breaks_the_studio(target: Target, data: st.DataObject) -> None:
    content = bytearray(target.film)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=30)):
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] + data.draw(st.binary(max_size=40))
    answer = upload(target.client, bytes(content), "clip.mp4")
    assert answer.status_code in (200, 400) and "Traceback" not in answer.text, answer.text
    for path in answer.json() if answer.status_code == 200 else []:
        wrapped = {"path": path, "meta": {"_type": "gradio.FileData"}}
        said = call(target.client, "film", wrapped, "candy", 0)
        assert ".mp4" in said or "clip" in said or "null" in said, said
