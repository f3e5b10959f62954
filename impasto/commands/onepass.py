"""Commands of one-pass networks: train, apply, export."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from impasto.commands.options import Clip, Cluster, Device, Film, Out, Quiet
from impasto.errors import IncompleteError, InputError, Stopped
from impasto.recipes import Training


@dataclass
class TrainCommand:
    """Train a network that repaints photographs in the given STYLE in one pass (Johnson2016).

    Every 200 steps it writes the network so far, and OUT.png as a preview.
    """

    style: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STYLE")]
    """The painting: a picture, or a name from `impasto list styles`."""
    photos: Path
    """A folder of photographs to train on; 1,000 are enough, at most 2,000 are used. Unreadable ones are skipped."""
    out: Out
    """The file to write, .safetensors."""
    settings: Annotated[Training, tyro.conf.arg(name="")]
    resume: bool = False
    """Continue an interrupted training from its checkpoint next to OUT; the result is bit-identical."""
    device: Device = "auto"
    quiet: Quiet = False

    def run(self) -> None:
        from impasto.runs import onepass as run_onepass, terminal, torchrun

        with terminal.saying(self.out) if torchrun.is_first_process() else nullcontext():
            run_onepass.train(
                self.style, self.photos, self.out, self.settings,
                device=self.device, quiet=self.quiet, resume=self.resume,
            )  # fmt: skip


@dataclass
class ApplyCommand:
    """Repaint pictures, videos and folders of pictures in one pass. Results keep the structure of a folder."""

    inputs: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="INPUT [INPUT ...]", help_behavior_hint="(required)"),
    ]
    """A picture, a video, a folder, or a name from `impasto list contents`."""
    style: tuple[str, ...]
    """The style: a painting (a picture file), a name from `impasto list styles`, a file made by `impasto train`, or a
    checkpoint (.pth) of PyTorch's fast_neural_style example. Several are mixed."""
    out: Out
    """The picture or film to write; for a folder or several inputs, a folder. A film is .mp4, .mkv, .webm, .gif,
    another format of docs/films.md, pictures named frame_%04d.png, or a folder of these."""
    style_weights: tuple[float, ...] = ()
    """The weight of each style in the mixture, 0 or more; default: equal weights."""
    masks: tuple[str, ...] = ()
    """For each style a mask of INPUT: the style is painted where the mask is white."""
    strength: float = 1.0
    """From 0, the photograph, to 1, the full style."""
    style_scale: float = 1.0
    """Size of a painting's strokes, more than 0; bundled styles and trained networks have their own."""
    keep_colors: Literal["none", "luma", "histogram"] = "none"
    """Keep the photograph's colours: luma changes only the brightness; histogram matches each channel's histogram."""
    grain: float | None = None
    """Smooth noise added to the photograph against regular patterns in skies, as a fraction of its contrast, 0 to 1.
    If omitted: as in the training; 0 for a painting or a third-party checkpoint."""
    clarity: float | None = None
    """How far faint forms, such as clouds, are brought out, from 0 to 1. If omitted: 1; 0 for a picture as style or
    a third-party checkpoint."""
    crispness: float | None = None
    """How far dots and meshes are removed and strokes get crisp edges (Kuwahara filter), from 0 to 1. If omitted: as in
    the style's recipe; 1 for a picture as style, 0 for a third-party checkpoint."""
    underpainting: float | None = None
    """How strongly the strokes of a first painting, of half the size, are added to clouds and other faint forms of the
    photograph, from 0 to 1: bolder strokes. If omitted: as in the style's recipe, or 0."""
    no_fine_faces: bool = False
    """Paint faces like the rest. By default they are painted again, small ones with finer strokes, so that eyes and
    mouths stay whole; not in films, except with --no-steady."""
    size: int | None = None
    """Long edge of the result in pixels, up to 16,384; 0: the photograph's. If omitted: the photograph's, but over 900
    pixels it is painted at 900 and enlarged: strokes stay visible."""
    no_steady: bool = False
    """Repaint each frame separately. The film then flickers."""
    clip: Film = field(default_factory=Clip)
    fps: float = 0.0
    """Frames per second of an image sequence, up to 1,000; 0 means 25."""
    resume: bool = False
    """Skip pictures of a folder that are already done; continue a half-done film."""
    cluster: Cluster = ""
    device: Device = "auto"
    quiet: Quiet = False

    def run(self) -> None:
        from impasto import images, machine, onepass
        from impasto.runs import batch, cluster, onepass as run_onepass, terminal

        if not self.inputs:
            raise InputError("an input is needed: impasto apply INPUT --style STYLE -o OUT")
        parts = onepass.check_mixture(
            len(self.style), self.style_weights, self.strength,
            grain=self.grain, clarity=self.clarity, crispness=self.crispness, underpainting=self.underpainting,
            size=self.size, masks=self.masks,
        )  # fmt: skip
        models = [onepass.load(style, self.style_scale) for style in self.style]
        if self.style_scale != 1 and all(model.style is None for model in models):
            terminal.note("--style-scale changes nothing: bundled styles and trained networks have their own strokes")
        masks = [images.read(mask) for mask in self.masks]
        terminal.note_empty(masks)
        # The workers of a cluster may not have this machine's GPU.
        device = machine.pick_device("cpu" if self.cluster and self.device == "auto" else self.device)
        painter = run_onepass.Painter(
            models, parts, self.strength, self.keep_colors, device,
            grain=self.grain, clarity=self.clarity, crispness=self.crispness, underpainting=self.underpainting,
            fine_faces=not self.no_fine_faces, size=self.size, masks=masks, sources=[*self.style, *self.masks],
        )  # fmt: skip
        film = self.clip.settings(steady=not self.no_steady, fps=self.fps)
        if self.cluster:
            with terminal.saying(cluster.located(self.out), although=(Stopped, IncompleteError)):
                batch.apply(self.inputs, self.out, painter, self.cluster, quiet=self.quiet, resume=self.resume)
            return
        with terminal.saying(self.out, although=(Stopped, IncompleteError)):
            run_onepass.apply(self.inputs, self.out, painter, quiet=self.quiet, resume=self.resume, film=film)


@dataclass
class ExportCommand:
    """Write a one-pass network, or one of `impasto pix2pix`, as ONNX; needs `pip install 'impasto[export]'`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = ""
    """A name from `impasto list styles`, colorize, a model file, or any-style: the network that paints like any
    painting, with a second input "painting"."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")] = None
    """The file to write, .onnx. Input "image" and output "painted" are float32 (B, 3, H, W) sRGB in [0, 1]. It has
    --crispness, but nothing else that `apply` does around the network."""
    site: Path | None = None
    """Instead of a MODEL: a folder for a web page that repaints photographs in the browser, in all bundled styles. Any
    file server can serve it. Needs npm."""
    quiet: Quiet = False

    def run(self) -> None:
        from impasto import anystyle, bundled, files, interop, kuwahara, networks, onepass, pix2pix
        from impasto.runs import terminal

        if self.site is not None:
            from impasto.runs import site

            site.build(self.site, quiet=self.quiet)
            terminal.say(self.site)
            return
        if not self.model or self.out is None:
            raise InputError(
                "name a model and a file: impasto export MODEL -o OUT.onnx, or impasto export --site FOLDER"
            )
        if self.out.suffix.lower() != ".onnx":
            raise InputError(f"{self.out}: the output must be an .onnx file")
        files.check_output(self.out, [self.model])
        with files.atomic(self.out) as part:
            if self.model == "any-style":
                network = anystyle.Immediate(anystyle.load()[0])
                interop.to_onnx(
                    network, part, ("image", "painting"), margin=networks.MARGIN, finish=kuwahara.filtered_at_once
                )
            elif pix2pix.made(bundled.translator(self.model) or Path(self.model)):
                translator, channels, stride = pix2pix.exportable(pix2pix.load(self.model))
                interop.to_onnx(translator, part, channels=channels, stride=stride)
            else:
                model = onepass.load(self.model)
                trained = onepass.require_network(model, self.model)
                interop.to_onnx(trained, part, margin=model.margin, finish=onepass.finish(model))
        terminal.say(self.out)
