"""Weights: the table, the cache, interrupted downloads, and untrusted files."""

import hashlib
import http.server
import os
import pickle
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from impasto import weights
from impasto.errors import WeightsError
from impasto.weights import WEIGHTS, Weights

GOOD = random.Random(0).randbytes(3 * weights.CHUNK + 1000)
WRONG = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
HALF = len(GOOD) // 2


class Server(http.server.HTTPServer):
    mode = "range"
    ranges: list[str | None]
    release: threading.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/tiny.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        mode, asked = self.server.mode, self.headers.get("Range")
        self.server.ranges.append(asked)
        if mode == "404":
            self.send_error(404)
            return
        body = {"wrong": WRONG, "page": b"<html>Please log in</html>", "unsized": GOOD + b"more"}.get(mode, GOOD)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and mode not in ("ignore", "page") else 0
        self.send_response(206 if start else 200)
        if start:
            told = start + 7 if mode == "shifted" else start
            self.send_header("Content-Range", f"bytes {told}-{len(body) - 1}/{len(body)}")
        if mode != "unsized":
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = HALF if mode in ("cut", "stall") else len(body)
        try:
            self.wfile.write(body[start:end])
            self.wfile.flush()
        except OSError:  # the client has disconnected
            return
        if mode == "stall":
            self.server.release.wait(5)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as server:
        server.ranges, server.release = [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the entry "tiny" of the table is stored."""
    tiny = Weights("tiny", "tiny.pth", server.url, hashlib.sha256(GOOD).hexdigest(), len(GOOD), "MIT", "this test")
    monkeypatch.setitem(WEIGHTS, "tiny", tiny)
    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tiny.pth"


def part_of(file: Path) -> Path:
    return file.with_name(file.name + ".part")


def put(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def one_line(error: pytest.ExceptionInfo[WeightsError], *parts: object) -> None:
    assert "\n" not in str(error.value)
    for part in parts:
        assert str(part) in str(error.value)


# the table and the cache


def test_every_entry_is_complete() -> None:
    assert {"compact", "vgg19"} <= set(WEIGHTS)
    for name, entry in WEIGHTS.items():
        assert entry.name == name and entry.licence and entry.source
        if entry.url:
            assert entry.url.startswith("https://") and entry.size > 0 and re.fullmatch("[0-9a-f]{64}", entry.sha256)


def test_cache_honours_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path / "mine"))
    assert weights.cache() == tmp_path / "mine"
    monkeypatch.delenv("IMPASTO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for platform, folder in (("linux", "xdg"), ("darwin", "Library/Caches"), ("win32", "local")):
        monkeypatch.setattr(sys, "platform", platform)
        assert weights.cache() == tmp_path / folder / "impasto"
    monkeypatch.setattr(sys, "platform", "linux")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert weights.cache() == tmp_path / ".cache" / "impasto"


def test_importing_loads_no_torch_and_makes_no_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from impasto import weights; weights.cache(); assert weights.find('vgg19') is None; "
        "print(sorted({'torch', 'rich', 'safetensors', 'numpy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "IMPASTO_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    root = Path(weights.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_embedded_weights_are_found_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MODELS", tmp_path)
    entry = Weights("inside", "inside.safetensors", None, "", 0, "MIT", "this test")
    monkeypatch.setitem(WEIGHTS, "inside", entry)
    assert weights.find("inside") is None
    with pytest.raises(WeightsError) as error:
        weights.path("inside")
    one_line(error, tmp_path / "inside.safetensors", "reinstall")
    put(tmp_path / "inside.safetensors", GOOD)
    assert weights.find("inside") == weights.path("inside") == tmp_path / "inside.safetensors"
    monkeypatch.setitem(WEIGHTS, "inside", replace(entry, sha256=hashlib.sha256(WRONG).hexdigest()))
    with pytest.raises(WeightsError, match="sha256"):
        weights.find("inside")


def test_a_file_placed_by_hand_is_used_if_it_is_the_right_one(server: Server, file: Path) -> None:
    assert weights.find("tiny") is None
    put(file, GOOD)
    assert weights.find("tiny") == weights.path("tiny") == file
    for content, reason in ((GOOD[:-1], f"{len(GOOD) - 1} bytes"), (WRONG, hashlib.sha256(WRONG).hexdigest())):
        put(file, content)
        with pytest.raises(WeightsError) as error:
            weights.path("tiny")
        one_line(error, file, reason, "delete it")
        assert file.read_bytes() == content
    assert server.ranges == []


def test_an_unknown_name_lists_the_known_ones() -> None:
    for function in (weights.find, weights.path, lambda name: list(weights.download(name))):
        with pytest.raises(WeightsError, match=r"vgg16.*compact.*vgg19"):
            function("vgg16")


# downloads


def test_download_yields_its_progress(server: Server, file: Path) -> None:
    steps = list(weights.download("tiny"))
    assert [done for done, _ in steps] == [min(i * weights.CHUNK, len(GOOD)) for i in range(5)]
    assert {total for _, total in steps} == {len(GOOD)}
    assert file.read_bytes() == GOOD and os.listdir(file.parent) == ["tiny.pth"]
    assert server.ranges == [None]
    assert weights.path("tiny") == file and server.ranges == [None]


def test_path_downloads_what_is_missing(server: Server, file: Path) -> None:
    assert weights.path("tiny") == file
    assert file.read_bytes() == GOOD and server.ranges == [None]


@pytest.mark.parametrize(("mode", "reason"), [("cut", "connection ended"), ("stall", "timed out")])
def test_a_broken_download_is_resumed(
    mode: str, reason: str, server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.mode = mode
    monkeypatch.setattr(weights, "TIMEOUT", 0.1)
    with pytest.raises(WeightsError) as error:
        weights.path("tiny")
    one_line(error, "tiny.pth", reason, server.url, hashlib.sha256(GOOD).hexdigest(), file, "resume")
    kept = part_of(file).read_bytes()
    assert kept and kept == GOOD[: len(kept)] and not file.exists()
    server.release.set()
    monkeypatch.setattr(weights, "TIMEOUT", 30)
    server.mode = "range"
    steps = list(weights.download("tiny"))
    assert server.ranges == [None, f"bytes={len(kept)}-"]
    assert steps[0] == (len(kept), len(GOOD)) and steps[-1] == (len(GOOD), len(GOOD))
    assert file.read_bytes() == GOOD and not part_of(file).exists()


def test_an_abandoned_download_is_resumed(server: Server, file: Path) -> None:
    download = weights.download("tiny")
    assert isinstance(next(download), tuple)
    assert next(download) == (weights.CHUNK, len(GOOD))
    download.close()  # type: ignore[attr-defined]
    assert part_of(file).read_bytes() == GOOD[: weights.CHUNK]
    assert weights.path("tiny").read_bytes() == GOOD
    assert server.ranges == [None, f"bytes={weights.CHUNK}-"]


def test_a_server_that_ignores_range_starts_over(server: Server, file: Path) -> None:
    server.mode = "ignore"
    put(part_of(file), GOOD[:HALF])
    assert next(iter(weights.download("tiny"))) == (0, len(GOOD))
    put(part_of(file), GOOD[:HALF])
    assert weights.path("tiny").read_bytes() == GOOD
    assert server.ranges == [f"bytes={HALF}-"] * 2


def test_a_server_without_content_length(server: Server, file: Path) -> None:
    server.mode = "unsized"
    assert list(weights.download("tiny"))[-1] == (len(GOOD), len(GOOD))
    assert file.read_bytes() == GOOD


def test_a_complete_part_needs_no_request_and_a_long_one_starts_over(server: Server, file: Path) -> None:
    put(part_of(file), GOOD)
    assert list(weights.download("tiny")) == [(len(GOOD), len(GOOD))]
    assert file.read_bytes() == GOOD and server.ranges == []
    put(part_of(file), GOOD + b"more")
    assert next(iter(weights.download("tiny"))) == (0, len(GOOD))
    assert server.ranges == [None]


def test_wrong_content_is_removed(server: Server, file: Path) -> None:
    server.mode = "wrong"
    with pytest.raises(WeightsError) as error:
        weights.path("tiny")
    one_line(error, server.url, hashlib.sha256(WRONG).hexdigest(), hashlib.sha256(GOOD).hexdigest(), file)
    assert os.listdir(file.parent) == []


@pytest.mark.parametrize(("mode", "reason"), [("page", "26"), ("shifted", str(HALF + 7)), ("404", "404")])
def test_a_wrong_answer_does_not_spoil_the_part(mode: str, reason: str, server: Server, file: Path) -> None:
    server.mode = mode
    put(part_of(file), GOOD[:HALF])
    with pytest.raises(WeightsError) as error:
        weights.path("tiny")
    one_line(error, server.url, reason, hashlib.sha256(GOOD).hexdigest(), file)
    assert server.ranges == [f"bytes={HALF}-"]
    assert part_of(file).read_bytes() == GOOD[:HALF]


def test_a_failed_download_leaves_the_good_file(server: Server, file: Path) -> None:
    put(file, GOOD)
    for mode in ("cut", "404", "wrong"):
        server.mode = mode
        with pytest.raises(WeightsError):
            list(weights.download("tiny"))
        assert file.read_bytes() == GOOD and weights.find("tiny") == file
    assert len(server.ranges) == 3


def test_no_network(server: Server, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:1/tiny.pth"
    monkeypatch.setitem(WEIGHTS, "tiny", replace(WEIGHTS["tiny"], url=nobody))
    with pytest.raises(WeightsError) as error:
        weights.path("tiny")
    one_line(error, "tiny.pth", nobody, hashlib.sha256(GOOD).hexdigest(), file, "refused")


def test_a_cache_that_cannot_be_written(server: Server, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = put(file.parent / "plain", b"a file, not a folder")
    monkeypatch.setenv("IMPASTO_CACHE", str(plain / "cache"))
    with pytest.raises(WeightsError) as error:
        weights.path("tiny")
    one_line(error, plain / "cache" / "tiny.pth.part", "IMPASTO_CACHE")
    assert server.ranges == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk(server: Server, file: Path) -> None:
    file.parent.mkdir()
    part_of(file).symlink_to("/dev/full")
    with pytest.raises(WeightsError) as error:
        weights.path("tiny")
    one_line(error, part_of(file), "No space left", "free disk space")
    assert not file.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_two_downloads_do_not_mix(server: Server, file: Path) -> None:
    first = weights.download("tiny")
    next(first)
    with pytest.raises(WeightsError, match="another process"):
        weights.path("tiny")
    list(first)
    assert file.read_bytes() == GOOD


# loading


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt", "PTH"])
def test_load_returns_what_was_saved_in_float32(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"net.{suffix}"
    state = {
        "full": torch.tensor([1.5, -2.0]),
        "half": torch.tensor([0.1, 0.5], dtype=torch.float16),
        "brain": torch.tensor([3.0], dtype=torch.bfloat16),
        "steps": torch.tensor(7),
        "empty": torch.empty(0),
    }
    if suffix == "safetensors":
        save_file(state, file, metadata={"recipe": "{}"})
    else:
        torch.save(state, file)
    tensors, metadata = weights.load(str(file))
    assert metadata == ({"recipe": "{}"} if suffix == "safetensors" else {})
    assert {key: value.dtype for key, value in tensors.items()} == {
        **dict.fromkeys(("full", "half", "brain", "empty"), torch.float32),
        "steps": torch.int64,
    }
    for key, value in state.items():
        assert torch.equal(tensors[key], value.to(tensors[key].dtype))


def test_load_unwraps_a_state_dict_and_drops_gradients(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    torch.save({"state_dict": dict(module.named_parameters()), "epoch": 3}, tmp_path / "net.pth")
    tensors, _ = weights.load(tmp_path / "net.pth")
    assert set(tensors) == {"weight", "bias"} and torch.equal(tensors["weight"], module.weight)
    assert not tensors["weight"].requires_grad


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_load_names_the_tensor_that_is_not_finite(suffix: str, bad: float, dtype: torch.dtype, tmp_path: Path) -> None:
    file = tmp_path / f"net.{suffix}"
    state = {"fine": torch.ones(2), "conv1_1.weight": torch.tensor([[1.0, bad], [2.0, 3.0]], dtype=dtype)}
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    with pytest.raises(WeightsError) as error:
        weights.load(file)
    one_line(error, file, "conv1_1.weight", "NaN")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_load_refuses_damage(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"net.{suffix}"
    state = {"weight": torch.ones(1000)}
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    whole = file.read_bytes()
    assert weights.load(file)[0]["weight"].sum() == 1000
    for content in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1], b"these are no weights\n" * 9):
        file.write_bytes(content)
        with pytest.raises(WeightsError) as error:
            weights.load(file)
        one_line(error, file, "damaged", "download it again")


class Bomb:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("save", [torch.save, lambda bomb, file: file.write_bytes(pickle.dumps(bomb))])
def test_load_runs_no_code(save: Any, tmp_path: Path) -> None:
    file, victim = tmp_path / "net.pth", tmp_path / "victim"
    save({"weight": Bomb(victim)}, file)
    with pytest.raises(WeightsError) as error:
        weights.load(file)
    one_line(error, file, "safetensors")
    assert not victim.exists()
    torch.load(file, weights_only=False) if save is torch.save else pickle.loads(file.read_bytes())
    assert victim.exists()  # unsafe loading does run the code


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1), {"epoch": 3}, {}, {"state_dict": {"a": 1}}])
def test_load_requires_a_dict_of_tensors(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError) as error:
        weights.load(tmp_path / "net.pth")
    one_line(error, tmp_path / "net.pth", "not a dict of tensors")


def test_load_requires_a_known_file_type(tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    put(tmp_path / "net.onnx", b"onnx")
    for name, reason in (("folder.pth", "a folder"), ("nowhere.pth", "missing"), ("net.onnx", "not a file of weights")):
        with pytest.raises(WeightsError) as error:
            weights.load(tmp_path / name)
        one_line(error, tmp_path / name, reason, ".safetensors")
