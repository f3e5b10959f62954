"""The commands and their options, generated from the recipes. No torch is imported before one runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tyro import MISSING

from impasto.commands.listing import ListCommand
from impasto.commands.onepass import ApplyCommand, ExportCommand, TrainCommand
from impasto.commands.photo import PhotoCommand
from impasto.commands.pix2pix import TranslatorApplyCommand, default_train
from impasto.commands.studio import StudioCommand
from impasto.commands.transfer import ReplayCommand, StudyCommand, default_reconstruct, default_transfer
from impasto.recipes import Photo, Training

# Each command with its defaults, which can depend on arguments such as --recipe.
DEFAULTS: dict[str, Callable[[Sequence[str]], Any]] = {
    "transfer": default_transfer,
    "reconstruct": default_reconstruct,
    "study": lambda arguments: StudyCommand(MISSING, MISSING, MISSING, MISSING),
    "train": lambda arguments: TrainCommand(MISSING, MISSING, MISSING, Training()),
    "apply": lambda arguments: ApplyCommand(MISSING, MISSING, MISSING),
    "photo": lambda arguments: PhotoCommand(MISSING, MISSING, MISSING, Photo()),
    "pix2pix train": default_train,
    "pix2pix apply": lambda arguments: TranslatorApplyCommand(MISSING, MISSING, MISSING),
    "export": lambda arguments: ExportCommand(),
    "replay": lambda arguments: ReplayCommand(MISSING, MISSING),
    "studio": lambda arguments: StudioCommand(),
    "list": lambda arguments: ListCommand(MISSING),
}
