"""Commands of one-pass networks: train, apply, export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from impasto.commands.options import Device, Out, Quiet
from impasto.errors import IncompleteError, InputError, Stopped
from impasto.recipes import Training


@dataclass
class TrainCommand:
    """Train a network that repaints photographs in the manner of STYLE in one pass (Johnson2016).

    A preview of the network so far, OUT.png, is painted every few hundred steps.
    """

    style: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STYLE")]
    """The painting: a picture, or a name out of `impasto list styles`."""
    photos: Path
    """A folder of photographs to learn from; a thousand are enough, of more at most 2000 are used. Broken ones
    are skipped and counted."""
    out: Out
    """Where the network goes: .safetensors."""
    settings: Annotated[Training, tyro.conf.arg(name="")]
    resume: bool = False
    """Go on from the checkpoint that an interrupted training left beside OUT, to the bit."""
    device: Device = "auto"
    quiet: Quiet = False

    def run(self) -> None:
        from impasto.runs import onepass as run_onepass, terminal

        try:
            run_onepass.train(
                self.style, self.photos, self.out, self.settings,
                device=self.device, quiet=self.quiet, resume=self.resume,
            )  # fmt: skip
        except Stopped:
            terminal.say(self.out)
            raise
        if run_onepass.first():
            terminal.say(self.out)


@dataclass
class ApplyCommand:
    """Repaint INPUT in one pass: a picture, a film, or a folder of pictures, whose structure is kept."""

    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="INPUT")]
    """A picture, a film, a folder, or a name out of `impasto list contents`."""
    style: tuple[str, ...]
    """The style: a name out of `impasto list styles`, a file that `impasto train` made, or a checkpoint (.pth) of
    PyTorch's fast_neural_style example. Several are mixed."""
    out: Out
    """Where the picture goes, or the film (.mp4), or the folder of pictures."""
    style_weights: tuple[float, ...] = ()
    """The part of each of several styles in the mixture; none: equal parts."""
    strength: float = 1.0
    """0 is the photograph, 1 the full style."""
    keep_colors: Literal["none", "luma", "histogram"] = "none"
    """Keep the photograph's colours: luma paints its brightness alone; histogram gives each channel its histogram."""
    grain: float | None = None
    """How uneven the photograph is made first, so that skies are not painted in a regular pattern; 0: as it is. Left
    out: as in the style's training."""
    size: int | None = None
    """Long edge of the result in pixels, at which it is painted; 0: the photograph's own. Left out: larger photographs
    are painted at 1280 pixels and brought to their own size, so that strokes stay visible."""
    resume: bool = False
    """Leave out pictures of a folder that are done already."""
    device: Device = "auto"
    quiet: Quiet = False

    def run(self) -> None:
        from impasto import machine, onepass
        from impasto.runs import onepass as run_onepass, terminal

        parts = onepass.check_mixture(len(self.style), self.style_weights, self.strength, self.grain, self.size)
        models = [onepass.load(style) for style in self.style]
        device = machine.pick_device(self.device)
        painter = run_onepass.Painter(models, parts, self.strength, self.keep_colors, device, self.grain, self.size)
        with terminal.saying(self.out, although=(Stopped, IncompleteError)):
            run_onepass.apply(self.input, self.out, painter, quiet=self.quiet, resume=self.resume)


@dataclass
class ExportCommand:
    """Write a one-pass network as ONNX, for pictures of any size; needs `pip install 'impasto[export]'`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A name out of `impasto list styles`, or a model's file."""
    out: Out
    """Where it goes: .onnx. Its input "image" and its output "painted" are float32 (B, 3, H, W) sRGB in [0, 1]. What
    `impasto apply` lends a photograph first (--grain) is not in it."""

    def run(self) -> None:
        from impasto import images, interop, onepass
        from impasto.runs import terminal

        if self.out.suffix.lower() != ".onnx" or not self.out.parent.is_dir():
            raise InputError(f"{self.out}: a network is exported to an .onnx file in a folder that exists")
        model = onepass.load(self.model)
        with images.atomic(self.out) as part:
            interop.to_onnx(model.network, part)
        terminal.say(self.out)
