"""Receipts, which record how a picture was made, and checkpoints of interrupted runs."""

from __future__ import annotations

import json
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

import impasto
from impasto import bundled, encoder, files, images, schema, weights
from impasto.errors import ImageError, ImpastoError, InputError, OutputError, lack_of_memory
from impasto.images import Picture
from impasto.recipes import STARTS, Photo, Training, Transfer, Translation

Resumable = TypeVar("Resumable")
PAINTED = {
    "content": "entry",
    "styles": "entries",
    "content_masks": "entries",
    "style_masks": "entries",
    "begun?": "entry",
}
# What replaying and resuming read of a receipt, by its command; a field with "?" may be missing.
FIELDS: dict[str, dict[str, str]] = {
    "transfer": {"recipe": "recipe", "encoder": "sha256", **PAINTED},
    "reconstruct": {"recipe": "recipe", "encoder": "sha256", **PAINTED},
    "photo": {
        "recipe": "recipe", "encoder": "sha256", "content": "entry", "style": "entry", "content_mask?": "entry",
        "style_mask?": "entry",
    },
}  # fmt: skip


FILES = ("encoder", "init", "start")  # fields of recipes that may be paths


def build(command: str, **facts: Any) -> dict[str, Any]:
    """Everything that determines a result, as JSON values.

    Args:
        command: the name of the impasto command.
        facts: recipes become their fields; pictures and paths become file name and sha256, also in a list. Folders
            are not recorded: pictures are shared, and their paths are private.

    Returns:
        The receipt: impasto's version, the command, and the facts.
    """
    return {"impasto": impasto.__version__, "command": command} | {name: _plain(fact) for name, fact in facts.items()}


def _plain(fact: Any) -> Any:
    if isinstance(fact, Picture):
        return {"name": Path(fact.name).name, "sha256": fact.sha256}
    if isinstance(fact, Path):
        return {"name": fact.name, "sha256": weights.sha256(fact)}
    if isinstance(fact, list | tuple):
        return [_plain(each) for each in fact]
    if isinstance(fact, Transfer | Training | Photo | Translation):
        fields = schema.to_json(fact)
        return {name: Path(value).name if name in FILES else value for name, value in fields.items()}
    return fact


def card(receipt: Mapping[str, Any]) -> dict[str, str]:
    """A receipt as the metadata of a weights file, which holds only strings."""
    facts = {name: fact for name, fact in receipt.items() if name != "command"}
    return {name: fact if isinstance(fact, str) else json.dumps(fact, sort_keys=True) for name, fact in facts.items()}


def read(path: Path) -> dict[str, Any]:
    """Read a picture's receipt, and check it as `check` does.

    Raises:
        ImageError: the picture cannot be read, or has no receipt.
        InputError: the receipt is damaged, or of a command that cannot be replayed.
    """
    receipt = images.read_receipt(path)
    try:
        check(receipt)
    except InputError as error:
        raise InputError(f"{path}: its receipt cannot be used: {error}") from None
    return receipt


def check(receipt: Any) -> None:
    """Check every field of a receipt that is read later.

    Raises:
        InputError: it is damaged, or of a command that cannot be replayed; the message names the field.
    """
    command = receipt.get("command") if isinstance(receipt, dict) else None
    if command in ("apply", "train", "pix2pix apply", "pix2pix train"):
        raise InputError(f"it was made by impasto {command}, which cannot be replayed: run it again")
    if not isinstance(command, str) or command not in FIELDS:
        raise InputError("it names no known command")
    for field, kind in FIELDS[command].items():
        name = field.removesuffix("?")
        if name not in receipt and field != name:
            continue
        value = receipt.get(name)
        if kind == "recipe":
            if not isinstance(value, dict):
                raise InputError("it has no recipe")
            recipe = schema.from_json(value, Photo) if command == "photo" else schema.from_json(value, Transfer)
            _check_name("encoder", recipe.encoder)
            if isinstance(recipe, Transfer) and recipe.init not in STARTS and "begun" not in receipt:
                raise InputError("it does not hold the picture of its init")
        elif kind == "sha256":
            _check_sha256(name, value)
        else:
            for entry in value if kind == "entries" and isinstance(value, list) else [value]:
                _check_entry(name, entry)


def _check_sha256(name: str, value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise InputError(f"its {name} has no sha256")


def _check_name(name: str, file: object) -> None:
    if not isinstance(file, str) or file in ("", ".", "..") or re.search(r"[/\\\0]", file):
        raise InputError(f"its {name} is not the name of a file")


def _check_entry(name: str, entry: object) -> None:
    """An entry names a file, never a path: replaying must not read files outside the folders that it was given."""
    if not isinstance(entry, dict):
        raise InputError(f"it has no {name.replace('_', ' ')}")
    _check_name(name.replace("_", " "), entry.get("name"))
    _check_sha256(name.replace("_", " "), entry.get("sha256"))


def write(path: Path, image: torch.Tensor, source: Picture | None = None, **facts: Any) -> None:
    """`images.write`; if that fails, the picture is kept as PNG where it can be, and the error says where.

    Args:
        path, image: of the picture.
        source: the picture whose transparency, colour profile and depth it gets.
        facts: the other arguments of `images.write`.

    Raises:
        ImageError: the picture could not be written to ``path``.
    """
    if source is not None:
        facts |= {"alpha": source.alpha, "profile": source.profile, "bits": source.bits}
    try:
        images.write(path, image, **facts)
    except ImageError as error:
        raise kept(lambda other: images.write(other, image, **facts), path, ".png", error) from error


def kept(save: Callable[[Path], object], path: Path, suffix: str, error: ImageError) -> ImageError:
    """Save what could not be written to ``path`` where it can be.

    Args:
        save: writes it to a path.
        path: where it should have gone.
        suffix: of the new name.
        error: why it could not.

    Returns:
        The error to raise, which says where it is.
    """
    for folder in (path.parent, Path(tempfile.gettempdir())):
        other = folder / f"{files.shortened(path.stem, 100)}-{secrets.token_hex(4)}{suffix}"
        try:
            save(other)
        except (OSError, ImageError):
            continue
        return type(error)(f"{error}; what was made is kept as {other}")
    return error


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; OutputError if that is not possible."""
    try:
        with files.atomic(path) as part:
            torch.save(dict(state), part)
    except (OSError, RuntimeError) as error:  # RuntimeError: how torch reports a full disk
        if lack_of_memory(error):
            raise
        raise files.unwritable(path, error) from error


def resume_file(out: Path) -> Path:
    return out.with_suffix(".resume")


def claim(out: Path) -> Path:
    """OUT.resume, to write checkpoints to; OutputError if there is something else, which would be lost."""
    path = resume_file(out)
    try:
        if path.exists():
            load_checkpoint(path)
    except InputError:
        raise OutputError(f"{path}: is needed for the checkpoint, but holds something else; move it away") from None
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain values; code in it is never run.

    Raises:
        InputError: it is missing, damaged or not a checkpoint.
    """
    try:
        if files.special(path) or not path.stat().st_size:
            raise ValueError
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights.check_stored(state, path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file to resume from") from None
    except Exception as error:
        if lack_of_memory(error):
            raise
        raise InputError(f"{path}: not a checkpoint: give the OUT.resume next to the result") from None
    return dict(state)


def load_state(path: Path) -> dict[str, Any]:
    """Read the checkpoint of a transfer or a photograph, and check its receipt.

    Raises:
        InputError: it is missing, damaged or not a checkpoint.
    """
    state = load_checkpoint(path)
    try:
        check(json.loads(state["receipt"]))
        inner = state["inner"]
        fits = (
            int(state["done"]) >= 0
            and torch.is_tensor(inner["image"])
            and isinstance(inner["optimizer"], dict)
            and int(inner["index"]) >= 0
            and all(isinstance(loss, float) for loss in inner["losses"])
        )
    except (InputError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise InputError(f"{path}: not a checkpoint of this command: give the OUT.resume next to the result")
    return state


def resuming(steps: Iterator[Resumable]) -> Iterator[Resumable]:
    """The steps of a run that resumes; InputError if its checkpoint does not fit, which the first step shows."""
    try:
        first = next(steps, None)
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        if isinstance(error, ImpastoError) or lack_of_memory(error):
            raise
        raise InputError("the checkpoint does not fit this run: remove it, and start again") from error
    if first is not None:
        yield first
        yield from steps


def check_resumable(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run is resumed with the settings and inputs that it started with.

    Raises:
        InputError: some differ; the message names them.
    """
    if before.get("command") != now.get("command"):
        raise InputError(f"cannot resume: the checkpoint is of impasto {before.get('command')}")
    settings = {f"`{name}`" for name, value in now["recipe"].items() if before["recipe"].get(name) != value}
    facts = {*before, *now} - {"recipe", "impasto"}
    others = {name.replace("_", " ") for name in facts if before.get(name) != now.get(name)}
    if settings or others:
        raise InputError(f"cannot resume: these differ from the checkpoint: {', '.join(sorted(settings | others))}")


def find_input(entry: Mapping[str, str], folders: Sequence[Path]) -> Path:
    """Find the file that a receipt names, in the folders or among the bundled pictures.

    Raises:
        InputError: no file with this name has the same sha256.
    """
    pictures = [bundled.locate(name) for name in (*bundled.STYLES, *bundled.CONTENTS)]
    for path in [folder / entry["name"] for folder in folders] + [p for p in pictures if p.name == entry["name"]]:
        if path.is_file() and weights.sha256(path) == entry["sha256"]:
            return path
    raise InputError(f"{entry['name']} (sha256 {entry['sha256'][:12]}...) was not found: name its folder with `inputs`")


def find_encoder(receipt: Mapping[str, Any], name: str, folders: Sequence[Path]) -> str:
    """The encoder of a receipt's recipe.

    Args:
        receipt: holds the encoder's sha256.
        name: the encoder in the recipe: a name in `weights.WEIGHTS`, or that of a file.
        folders: where to look for the file.

    Returns:
        The name, or the path of the file.

    Raises:
        InputError: it is not the one that made the picture, or its file was not found.
    """
    if name not in weights.WEIGHTS:
        return str(find_input({"name": name, "sha256": receipt["encoder"]}, folders))
    if receipt["encoder"] != weights.sha256(encoder.file(name)):
        raise InputError(f"encoder {name} is not the file that made this picture")
    return name
