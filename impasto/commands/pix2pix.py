"""Commands of paired image-to-image translation: pix2pix train, pix2pix apply."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from impasto import presets
from impasto.commands.options import Device, Out, Quiet, peek
from impasto.errors import IncompleteError, InputError, RecipeError, Stopped
from impasto.recipes import SEEDS, Translation


@dataclass
class TranslatorTrainCommand:
    """Train a network on the pairs in FOLDER, to turn one picture of a pair into the other (Isola2017).

    Every 200 steps it writes the network, and OUT.png and OUT.csv with held-out pairs and losses.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Pictures with both halves of a pair side by side, a folder with the folders A and B, or photographs."""
    out: Out
    """The file to write, .safetensors."""
    settings: Annotated[Translation, tyro.conf.arg(name="")]
    recipe: str = "pix2pix"
    """A preset (`impasto list translations`); other flags override single values of it."""
    targets: Path | None = None
    """The folder of the target pictures; FOLDER then holds the inputs, under the same names."""
    resume: bool = False
    """Continue an interrupted training from its checkpoint next to OUT; the result is bit-identical."""
    device: Device = "auto"
    quiet: Quiet = False

    def run(self) -> None:
        from impasto.runs import pix2pix as run_pix2pix, terminal, torchrun

        with terminal.saying(self.out) if torchrun.is_first_process() else nullcontext():
            run_pix2pix.train(
                self.folder, self.targets, self.out, self.settings,
                device=self.device, quiet=self.quiet, resume=self.resume,
            )  # fmt: skip


@dataclass
class TranslatorApplyCommand:
    """Translate INPUT by a network that `impasto pix2pix train` made: a picture, a video, or a folder of pictures."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The bundled network, colorize, or a file made by `impasto pix2pix train`."""
    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="INPUT")]
    """A picture, a video, a folder, or a name from `impasto list contents`."""
    out: Out
    """The picture, film (as in `impasto apply`) or folder to write."""
    seed: int = 0
    """Seed of the dropout noise. Each seed gives a different result. 0 to 4,294,967,295."""
    no_dropout: bool = False
    """Switch the dropout off."""
    trace: bool = False
    """For models trained with `--pairs edges`: find the edges of the photograph INPUT and translate them."""
    resume: bool = False
    """Skip pictures of a folder that are already done; continue a half-done film."""
    device: Device = "auto"
    quiet: Quiet = False

    def run(self) -> None:
        from impasto import machine, pix2pix
        from impasto.runs import pix2pix as run_pix2pix, terminal

        if not 0 <= self.seed <= SEEDS:
            raise InputError(f"`seed` must lie between 0 and {SEEDS:,}, not {self.seed}")
        model = pix2pix.load(self.model)
        seed = None if self.no_dropout else self.seed
        translator = run_pix2pix.Translator(model, seed, self.trace, machine.pick_device(self.device), [self.model])
        with terminal.saying(self.out, although=(Stopped, IncompleteError)):
            run_pix2pix.apply(self.input, self.out, translator, quiet=self.quiet, resume=self.resume)


def default_train(arguments: Sequence[str]) -> TranslatorTrainCommand:
    name = peek(arguments, "--recipe") or "pix2pix"
    if name not in presets.TRANSLATIONS:
        raise RecipeError(f"unknown recipe {name!r}: one of {', '.join(presets.TRANSLATIONS)}")
    return TranslatorTrainCommand(tyro.MISSING, tyro.MISSING, presets.TRANSLATIONS[name])
