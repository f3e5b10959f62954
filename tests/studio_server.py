"""Starts the studio in a separate process, as a user does, and sends it requests."""

import io
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

API = "/gradio_api"


@contextmanager
def serving(
    *flags: str, before: Callable[[], object] | None = None, silent: bool = True, **environment: str
) -> Iterator[str]:
    """Run a studio; yields its address. ``before`` runs in the new process first.

    At the end it must have said nothing, unless it need not be ``silent``.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "impasto", "studio", "--port", "0", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
        preexec_fn=before,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        said, complaints = process.communicate(timeout=30)
        assert process.returncode == 0 and not (silent and said + complaints), said + complaints


def drawer(path: Path) -> Path:
    """A network of pix2pix for edges, with random weights."""
    import torch

    from impasto import pix2pix
    from impasto.generators import Shape, UNet

    torch.manual_seed(0)
    pix2pix.save(path, pix2pix.Model(UNet(Shape(inputs=1, width=2, depth=4)), "edges", {}))
    return path


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


def defaults(client: httpx.Client, element: str, event: str) -> list[Any]:
    """What an event of the page sends if nothing was filled in."""
    config = client.get("/config").json()
    (target,) = (each["id"] for each in config["components"] if each["props"].get("elem_id") == element)
    inputs = next(each["inputs"] for each in config["dependencies"] if [target, event] in each["targets"])
    values = {each["id"]: each["props"].get("value") for each in config["components"]}
    return [values[each] for each in inputs]


def trigger(client: httpx.Client, element: str, event: str, *data: Any, until: str = "process_completed") -> str:
    """Trigger an event of the page as its script does.

    Returns:
        The first output in which the regular expression ``until`` is found, or the last one, or the error.
    """
    config = client.get("/config").json()
    (target,) = (each["id"] for each in config["components"] if each["props"].get("elem_id") == element)
    number = next(each["id"] for each in config["dependencies"] if [target, event] in each["targets"])
    asked = {"data": data, "fn_index": number, "session_hash": secrets.token_hex(8)}
    client.post(f"{API}/queue/join", json=asked).raise_for_status()
    with client.stream("GET", f"{API}/queue/data", params={"session_hash": asked["session_hash"]}) as said:
        return next(line for line in said.iter_lines() if re.search(f"process_completed|{until}", line))
