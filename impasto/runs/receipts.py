"""Receipts, which record how a picture was made, and checkpoints of interrupted runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import impasto
from impasto import bundled, encoder, files, schema, weights
from impasto.errors import InputError
from impasto.images import Picture
from impasto.recipes import Photo, Training, Transfer, Translation


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
    return schema.to_json(fact) if isinstance(fact, Transfer | Training | Photo | Translation) else fact


def card(receipt: Mapping[str, Any]) -> dict[str, str]:
    """A receipt as the metadata of a weights file, which holds only strings."""
    facts = {name: fact for name, fact in receipt.items() if name != "command"}
    return {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in facts.items()}


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; OSError if that is not possible."""
    try:
        with files.atomic(path) as part:
            torch.save(dict(state), part)
    except RuntimeError as error:  # how torch reports a full disk
        raise OSError(0, f"cannot be written ({error})", str(path)) from None


def resume_file(out: Path) -> Path:
    return out.with_suffix(".resume")


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        InputError: it is missing, damaged or not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        json.loads(state["receipt"]), int(state["done"]), state["inner"]["image"].shape
    except FileNotFoundError:
        raise InputError(f"{path}: no such file to resume from") from None
    except Exception:
        raise InputError(f"{path}: not a checkpoint: give the OUT.resume next to the result") from None
    return dict(state)


def check_resumable(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run is resumed with the settings and inputs that it started with.

    Raises:
        InputError: some differ; the message names them.
    """
    settings = {f"`{name}`" for name, value in now["recipe"].items() if before["recipe"].get(name) != value}
    others = {
        name.replace("_", " ") for name in now if name not in ("recipe", "impasto") and before.get(name) != now[name]
    }
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


def check_encoder(receipt: Mapping[str, Any], name: str) -> None:
    """InputError if the encoder is not the one of the receipt."""
    if receipt["encoder"] != weights.sha256(encoder.file(name)):
        raise InputError(f"encoder {name} is not the file that made this picture")
