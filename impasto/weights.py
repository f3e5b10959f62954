"""Pretrained weights: a table of files, where they are stored, how they are downloaded and read safely."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from impasto import files
from impasto.errors import DivergedError, WeightsError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from torch import Tensor, nn

MODELS = Path(__file__).parent / "models"  # the bundled files
CHUNK = 1 << 18  # bytes between two yields
TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Weights:
    """One pretrained file. A bundled one has no `url`; a `sha256` of "" or `size` of 0 is not checked."""

    name: str
    file: str
    url: str | None
    sha256: str
    size: int
    """Bytes."""
    licence: str
    source: str
    """Who made it, in one line."""


WEIGHTS: dict[str, Weights] = {
    "compact": Weights(
        name="compact",
        file="compact.safetensors",
        url=None,
        sha256="1b69c63448a0748a6a55042e45f95ecbc689b338969f880467ce6595d0d396d4",
        size=1_222_560,
        licence="MIT",
        source="distilled for impasto from VGG-19 (Simonyan and Zisserman) "
        "and a pruned VGG-19 (Wang2020); see compact.md",
    ),
    "any-style": Weights(
        name="any-style",
        file="any-style.safetensors",
        url=None,
        sha256="931b274e6a345ea050de1a7c07718960cc1b0588370e08fcd52b231909d3e4ea",
        size=1_699_758,
        licence="MIT",
        source="trained for impasto; see any-style.md",
    ),
    "vgg19": Weights(
        name="vgg19",
        file="vgg19-dcbb9e9d.pth",
        url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        size=574673361,
        licence="BSD-3-Clause (torchvision); trained on ImageNet",
        source="torchvision, VGG19_Weights.IMAGENET1K_V1",
    ),
}


def cache() -> Path:
    """The folder of downloaded weights: $IMPASTO_CACHE, or `impasto` in the user's cache; it is not created here."""
    try:
        if chosen := os.environ.get("IMPASTO_CACHE"):
            return Path(chosen).expanduser().absolute()
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
            base = xdg if xdg.is_absolute() else Path.home() / ".cache"  # XDG: a relative path is ignored
    except RuntimeError as error:  # the user has no home folder
        raise WeightsError(f"no cache folder for weights ({error}); set IMPASTO_CACHE to a folder") from error
    return base / "impasto"


def find(name: str) -> Path | None:
    """The file of these weights, bundled, downloaded or placed in `cache()` by hand; None if there is none.

    Raises WeightsError for an unknown name, and for a file that differs from the table.
    """
    weights = _entry(name)
    file = (cache() if weights.url else MODELS) / weights.file
    try:
        if not file.is_file():
            return None
        # Hashed each time: 570 MB take about a second, and a stored check could outlive the file.
        if weights.size and (size := file.stat().st_size) != weights.size:
            raise _wrong(file, f"it has {size} bytes, not {weights.size}")
        if weights.sha256 and (found := sha256(file)) != weights.sha256:
            raise _wrong(file, f"its sha256 is {found}, not {weights.sha256}")
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({_brief(error)}); fix its permissions or delete it") from error
    return file


def download(name: str) -> Iterator[tuple[int, int]]:
    """Download a file to `cache()`, yielding (bytes done, bytes in all); an interrupted download is resumed.

    Raises WeightsError, whose message says how to place the file by hand; an existing file is left as it was.
    """
    weights = _entry(name)
    if weights.url is None:
        raise WeightsError(f"{MODELS / weights.file}: bundled, so not downloaded; if it is missing, reinstall impasto")
    target = cache() / weights.file
    part = target.with_name(weights.file + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab") as out:  # append only: the file is always a valid prefix
            _lock(out, part)
            if part.stat().st_size > weights.size:
                out.truncate(0)
            yield from _fetch(weights, weights.url, out)
            out.flush()
            found = sha256(part)
        if found != weights.sha256:
            part.unlink(missing_ok=True)
            raise _failed(weights, f"the downloaded file has another sha256, {found}, and was removed")
        os.replace(part, target)
    except OSError as error:  # of the disk: _fetch turns network errors into WeightsError
        remedy = "free disk space or set IMPASTO_CACHE to another folder, then try again to resume"
        raise WeightsError(f"{part}: cannot be written ({_brief(error)}); {remedy}") from error


def path(name: str) -> Path:
    """The file of these weights, downloaded first if needed; raises WeightsError as `find` and `download` do."""
    if (file := find(name)) is None:
        for _ in download(name):
            pass
        file = cache() / WEIGHTS[name].file
    return file


def load(file: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict and the metadata of a safetensors or PyTorch file, on the CPU; code in the file is never run.

    The content decides, not the suffix. A nested {"state_dict": ...} and names "module..." of DataParallel are
    unwrapped; floats below 32 bits become float32. The metadata of a pickle is empty.
    Raises WeightsError for a file that is missing, unreadable, not a dict of tensors, or holds NaN or infinity.
    """
    import torch
    from safetensors import safe_open

    file = Path(file)
    metadata: dict[str, str] = {}
    state: Any
    try:
        if not file.is_file():
            what = "a folder" if file.is_dir() else "missing"
            raise WeightsError(f"{file}: {what}, not a file of weights; name a .safetensors, .pth or .pt file")
        with file.open("rb") as opened_file:
            head = opened_file.read(9)
        if head[8:9] == b"{":  # after the length of safetensors' header
            with safe_open(file, framework="pt", device="cpu") as opened:
                metadata = dict(sorted((opened.metadata() or {}).items()))  # the reader's order is random
                state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 -- not a dict
        elif head[:4] == b"PK\3\4" or head[:2] in (b"\x80\2", b"\x80\3", b"\x80\4"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, about its old formats
                state = torch.load(file, map_location="cpu", weights_only=True)
            check_stored(state, file)
        else:
            raise WeightsError(
                f"{file}: damaged, or not a file of weights: download it again, or use .safetensors or .pth"
            )
        if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        if not (isinstance(state, dict) and state and all(isinstance(each, torch.Tensor) for each in state.values())):
            raise WeightsError(f"{file}: not a dict of tensors; save only the state_dict, preferably as .safetensors")
        if all(str(key).startswith("module.") for key in state):  # saved from DataParallel
            state = {str(key).removeprefix("module."): value for key, value in state.items()}
        tensors: dict[str, Tensor] = {}
        for key, value in state.items():
            tensor = value.detach()
            if tensor.is_floating_point():
                tensor = tensor.float() if tensor.element_size() < 4 else tensor
                # NaN and infinity show in the extremes, without a copy
                if tensor.numel() and not all(extreme.isfinite() for extreme in tensor.aminmax()):
                    raise WeightsError(f"{file}: tensor {key} holds NaN or infinity; download or train it again")
            tensors[str(key)] = tensor
    except WeightsError:
        raise
    except Exception as error:  # damaged files raise a dozen types
        remedy = "download it again, or save plain tensors as .safetensors"
        raise WeightsError(f"{file}: damaged, or not only plain tensors ({_brief(error)}); {remedy}") from error
    return tensors, metadata


def save(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors, the same bytes for the same content.

    Args:
        file: to write.
        tensors: contiguous.
        metadata: stored in the header, sorted.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.torch import save as serialized

    data = serialized(dict(tensors), dict(metadata))
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:begin]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # the tensors are aligned to 8 bytes
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.write(memoryview(data)[begin:])


def save_network(file: Path, network: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write a network's weights as float16 safetensors; `load` reads them as float32.

    Args:
        file: to write.
        network: whose weights are written.
        metadata: stored in the header, sorted.

    Raises:
        DivergedError: the weights are not finite.
        OSError: the file cannot be written.
    """
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().contiguous()
        for name, tensor in network.state_dict().items()
    }
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise DivergedError("the network's weights are not finite, so they are not written: try a lower `rate`")
    save(file, tensors, metadata)


def check_stored(state: Any, file: Path) -> None:
    """Check that no tensor is larger than its file: a few bytes can declare a view of any size.

    Raises:
        WeightsError: one is.
    """
    import torch

    todo, size = [state], file.stat().st_size
    while todo:
        each = todo.pop()
        if isinstance(each, dict | list | tuple):
            todo += each.values() if isinstance(each, dict) else each
        elif isinstance(each, torch.Tensor) and each.numel() * each.element_size() > size:
            raise WeightsError(f"{file}: damaged: a tensor is larger than the file")


def _fetch(weights: Weights, url: str, out: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Download the missing bytes, and append them to `out`."""
    done, size = os.fstat(out.fileno()).st_size, weights.size
    if done == size:
        yield done, size
        return
    headers = {"User-Agent": "impasto"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except (OSError, HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise _failed(weights, _brief(error)) from error
    with response:
        begin, total = 0, response.headers.get("Content-Length")
        sent = re.match(r"bytes (\d+)-\d+/(.+)", response.headers.get("Content-Range", ""))
        if response.status == 206 and sent:
            begin, total = int(sent[1]), sent[2]
        if total not in (None, "*", str(size)) or begin not in (0, done):  # a login page, for example: keep the part
            raise _failed(weights, f"the server sends {total} bytes from {begin}, not {size} from {done}")
        if begin != done:  # the server ignores Range: start over
            out.truncate(0)
            done = 0
        yield done, size
        while done < size:
            try:
                chunk = response.read(min(CHUNK, size - done))
            except (OSError, HTTPException) as error:
                raise _failed(weights, _brief(error)) from error
            if not chunk:
                raise _failed(weights, f"the connection ended at byte {done} of {size}")
            out.write(chunk)
            done += len(chunk)
            yield done, size


def _lock(out: IO[bytes], part: Path) -> None:
    """Lock against concurrent downloads; on Windows, rely on the checksum."""
    if sys.platform != "win32":
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WeightsError(f"{part}: another process is downloading it; wait for it and try again") from error


def _entry(name: str) -> Weights:
    if name not in WEIGHTS:
        raise WeightsError(f"unknown weights {name!r}; use one of {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def sha256(file: Path) -> str:
    """The sha256 of a file, in hexadecimal; WeightsError for a device or a pipe, which may never end."""
    if files.special(file):
        raise WeightsError(f"{file}: is a device or a pipe, not a file")
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _brief(error: BaseException) -> str:
    """The error's reason in one short line."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(reason.removeprefix("<urlopen error ").removesuffix(">").split())[:120]


def _wrong(file: Path, why: str) -> WeightsError:
    return WeightsError(f"{file}: not the expected file: {why}; delete it and try again")


def _failed(weights: Weights, why: str) -> WeightsError:
    by_hand = f"download {weights.url} (sha256 {weights.sha256}) and save it as {cache() / weights.file}"
    return WeightsError(f"{weights.file}: download failed ({why}); try again to resume, or {by_hand}")
