"""The commands: what can be asked of each, generated from the recipes. No torch is imported before one runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from impasto import fields, recipes
from impasto.recipes import Photo, RecipeError, Training, Transfer

if TYPE_CHECKING:
    from impasto.session import Inputs, Watch

Device = Literal["auto", "cpu", "cuda", "mps"]
Out = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
Settings = Annotated[Transfer, tyro.conf.arg(name="")]


def peek(arguments: Sequence[str], flag: str) -> str | None:
    """The value of a flag, wherever it stands."""
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"{flag}="):
            return argument[len(flag) + 1 :]
    return None


def find_recipe(name: str) -> Transfer:
    """A preset by its name, or the recipe in a JSON file or in a picture's receipt.

    Raises:
        RecipeError: there is none such.
    """
    if name in recipes.TRANSFERS:
        return recipes.TRANSFERS[name]
    path = Path(name)
    if not path.exists():
        raise RecipeError(f"unknown recipe {name!r}: one of {', '.join(recipes.TRANSFERS)}, or a file with one")
    if path.suffix.lower() == ".json":
        import json

        try:
            return fields.from_json(json.loads(path.read_text()), Transfer)
        except (ValueError, AttributeError) as error:
            raise RecipeError(f"{path}: no recipe: {error}") from None
    from impasto import images

    return fields.from_json(images.read_receipt(path)["recipe"], Transfer)


def starting_recipe(arguments: Sequence[str], fallback: Transfer) -> Transfer:
    if name := peek(arguments, "--recipe"):
        return find_recipe(name)
    if path := peek(arguments, "--resume"):
        import json

        from impasto import session

        return fields.from_json(json.loads(session.load_state(Path(path))["receipt"])["recipe"], Transfer)
    return fallback


@dataclass
class TransferCommand:
    """Repaint CONTENT in the manner of one STYLE or several, by optimisation (Gatys et al. 2016).

    CONTENT and STYLE are pictures, or names out of `impasto list contents` and `impasto list styles`.
    The flags below --resume are the recipe's; their defaults are those of --recipe.
    """

    content: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONTENT")]
    """The photograph."""
    styles: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="STYLE [STYLE ...]")]
    """The painting, or several."""
    out: Out
    """Where the picture goes: .png, .jpg, .webp or .tif."""
    settings: Settings
    recipe: str = "impasto"
    """A preset (`impasto list recipes`), a JSON file, or a picture that impasto made, whose recipe is then followed."""
    content_masks: tuple[str, ...] = ()
    """For each style a mask of the content: it is painted where that is white."""
    style_masks: tuple[str, ...] = ()
    """For each style a mask of it: only what is white there counts."""
    video: Path | None = None
    """Film the optimisation, to this .mp4; a resumed run films what is left."""
    device: Device = "auto"
    """Where to compute."""
    memory: float = 0.0
    """Memory that may be used, in GB: what does not fit is painted in tiles, without seams; 0: what is free."""
    quiet: bool = False
    """Print the path of the result alone."""
    resume: Path | None = None
    """Go on from the OUT.resume that --checkpoint-every leaves: the same command again, and this flag."""

    def run(self) -> None:
        from impasto import session

        if not self.styles:
            raise RecipeError("a style is needed: impasto transfer CONTENT STYLE -o OUT")
        inputs = session.read_inputs(self.content, self.styles, self.content_masks, self.style_masks)
        film = self.video or (self.out.with_suffix(".mp4") if self.settings.frame_every else None)
        state = session.load_state(self.resume) if self.resume else None
        watch = session.Watch(
            self.out, film=film, device=self.device, memory=self.memory, quiet=self.quiet, state=state
        )
        paint_and_say(inputs, self.settings, watch)


@dataclass
class ReconstructCommand:
    """Show what an encoder's layers know of IMAGE: its content, or its style, painted from noise.

    Mahendran and Vedaldi 2015 for the content, Gatys et al. 2015 (texture synthesis) for the style.
    """

    image: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IMAGE")]
    """The picture."""
    of: Literal["content", "style"]
    """What of it."""
    layers: tuple[str, ...]
    """The layers, for example relu4_2; for a style usually several: relu1_1 relu2_1 relu3_1."""
    out: Out
    """Where the picture goes."""
    settings: Settings
    video: Path | None = None
    """Film the optimisation, to this .mp4."""
    device: Device = "auto"
    """Where to compute."""
    memory: float = 0.0
    """Memory that may be used, in GB: what does not fit is painted in tiles, without seams; 0: what is free."""
    quiet: bool = False
    """Print the path of the result alone."""

    def run(self) -> None:
        from impasto import session

        chosen: Any = {f"{self.of}_layers": self.layers}
        recipe = replace(self.settings, layer_weights=(), **chosen)
        inputs = session.read_inputs(self.image, [self.image] if self.of == "style" else [])
        watch = session.Watch(
            self.out, command="reconstruct", film=self.video, device=self.device, memory=self.memory, quiet=self.quiet
        )
        paint_and_say(inputs, recipe, watch)


@dataclass
class StudyCommand:
    """Draw a labelled sheet, as the sources do in their figures.

    content: content reconstructions from relu1_1, 2_1, 3_1, 4_1, 5_1. style: style reconstructions from the first
    one, two, ... five of these. descent: source 001's descent on the style of one layer, for each of its layers.
    strengths: transfers from faint to strong.
    """

    content: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONTENT")]
    """The photograph."""
    style: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STYLE")]
    """The painting."""
    over: Literal["content", "style", "descent", "strengths"]
    """What changes from panel to panel."""
    out: Out
    """Where the sheet goes."""
    size: int = 256
    """Long edge of each panel in pixels."""
    steps: int = 0
    """Iterations for each panel; 0: the recipe's own."""
    encoder: str = "compact"
    """Perceptual encoder: compact, vgg19, or the path of a weights file."""
    strengths: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    """The strengths of `--over strengths`."""
    seed: int = 0
    """Seed of the noise."""
    device: Device = "auto"
    """Where to compute."""
    memory: float = 0.0
    """Memory that may be used, in GB: what does not fit is painted in tiles, without seams; 0: what is free."""
    quiet: bool = False
    """Print the path of the result alone."""

    def run(self) -> None:
        from impasto import images, session, study

        images.check_output(self.out)
        inputs = session.read_inputs(self.content, [self.style])
        session.fetch_encoder(self.encoder, quiet=self.quiet)
        chosen = {"size": self.size, "encoder": self.encoder, "seed": self.seed} | (
            {"steps": self.steps} if self.steps else {}
        )
        panels = study.panels(self.over, strengths=self.strengths, **chosen)
        sheet, stopped = session.draw(
            inputs, panels, title=f"study over {self.over}", device=self.device, memory=self.memory, quiet=self.quiet
        )
        images.write(self.out, sheet)
        session.say(self.out)
        if stopped:
            raise session.Stopped("stopped: the sheet holds what there was")


@dataclass
class ReplayCommand:
    """Repeat a result from the receipt in it: the same inputs, recipe, seed and encoder."""

    picture: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PICTURE")]
    """A picture that impasto made."""
    out: Out
    """Where the repetition goes."""
    inputs: tuple[Path, ...] = ()
    """Folders where its inputs may lie, beside the current one and the picture's own; found by their sha256."""
    device: Device = "auto"
    """Where to compute."""
    memory: float = 0.0
    """Memory that may be used, in GB: what does not fit is painted in tiles, without seams; 0: what is free."""
    quiet: bool = False
    """Print the path of the result alone."""

    def run(self) -> None:
        from impasto import images, session

        receipt = images.read_receipt(self.picture)
        if receipt["command"] in ("apply", "photo"):
            raise RecipeError(
                f"{self.picture}: made by impasto {receipt['command']}, which is not replayed: run it again"
            )
        recipe, inputs = session.from_receipt(receipt, [Path(), self.picture.parent, *self.inputs])
        watch = session.Watch(
            self.out, command=receipt["command"], device=self.device, memory=self.memory, quiet=self.quiet
        )
        paint_and_say(inputs, recipe, watch)


@dataclass
class TrainCommand:
    """Train a network that repaints photographs in the manner of STYLE in one pass (Johnson et al. 2016).

    A preview of the network so far, OUT.png, is painted every few hundred steps.
    """

    style: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STYLE")]
    """The painting: a picture, or a name out of `impasto list styles`."""
    photos: Path
    """A folder of photographs to learn from; a thousand are enough. Broken ones are skipped and counted."""
    out: Out
    """Where the network goes: .safetensors."""
    settings: Annotated[Training, tyro.conf.arg(name="")]
    resume: bool = False
    """Go on from the checkpoint that an interrupted training left beside OUT, to the bit."""
    device: Device = "auto"
    """Where to compute."""
    quiet: bool = False
    """Print the path of the result alone."""

    def run(self) -> None:
        from impasto import onepass, session

        try:
            onepass.train(
                self.style, self.photos, self.out, self.settings,
                device=self.device, quiet=self.quiet, resume=self.resume,
            )  # fmt: skip
        except session.Stopped:
            session.say(self.out)
            raise
        if onepass.first():
            session.say(self.out)


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
    resume: bool = False
    """Leave out pictures of a folder that are done already."""
    device: Device = "auto"
    """Where to compute."""
    quiet: bool = False
    """Print the path of the result alone."""

    def run(self) -> None:
        from impasto import feedforward, machine, onepass, session

        parts = feedforward.check_mixture(len(self.style), self.style_weights, self.strength)
        models = [feedforward.load(style) for style in self.style]
        painter = onepass.Painter(models, parts, self.strength, self.keep_colors, machine.pick_device(self.device))
        try:
            onepass.apply(self.input, self.out, painter, quiet=self.quiet, resume=self.resume)
        except (session.Stopped, onepass.Failed):
            session.say(self.out)
            raise
        session.say(self.out)


@dataclass
class PhotoCommand:
    """Give the photograph CONTENT the light of the photograph STYLE, without a painted look (Luan et al. 2017).

    What takes from what is found by itself, or said by two masks of flat colours: the same colour, the same region.
    """

    content: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONTENT")]
    """The photograph."""
    style: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STYLE")]
    """The photograph whose light it gets."""
    out: Out
    """Where the result goes; it has CONTENT's size and all of its detail."""
    settings: Annotated[Photo, tyro.conf.arg(name="")]
    content_mask: Path | None = None
    """CONTENT's regions in flat colours."""
    style_mask: Path | None = None
    """STYLE's regions in the same colours."""
    save_masks: bool = False
    """Save the regions that are used as OUT-content-mask.png and OUT-style-mask.png, to be looked at and edited."""
    resume: Path | None = None
    """Go on from the OUT.resume that an interrupted run left."""
    device: Device = "auto"
    """Where to compute."""
    quiet: bool = False
    """Print the path of the result alone."""

    def run(self) -> None:
        from impasto import photograph, session

        try:
            photograph.paint(
                self.content, self.style, self.out, self.settings, content_mask=self.content_mask,
                style_mask=self.style_mask, keep_masks=self.save_masks, resume=self.resume, device=self.device,
                quiet=self.quiet,
            )  # fmt: skip
        except session.Stopped:
            session.say(self.out)
            raise
        session.say(self.out)


@dataclass
class ExportCommand:
    """Write a one-pass network as ONNX, for pictures of any size; needs `pip install 'impasto[export]'`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A name out of `impasto list styles`, or a model's file."""
    out: Out
    """Where it goes: .onnx. Its input "image" and its output "painted" are float32 (B, 3, H, W) sRGB in [0, 1]."""

    def run(self) -> None:
        from impasto import exchange, feedforward, images, session

        if self.out.suffix.lower() != ".onnx" or not self.out.parent.is_dir():
            raise RecipeError(f"{self.out}: a network is exported to an .onnx file in a folder that exists")
        model = feedforward.load(self.model)
        with images.atomic(self.out) as part:
            exchange.to_onnx(model.network, part)
        session.say(self.out)


@dataclass
class StudioCommand:
    """Open the studio: a page on this machine where photographs are repainted; needs `pip install 'impasto[studio]'`.

    It prints its address, and ends with Ctrl-C. Nothing leaves this machine.
    """

    host: str = "127.0.0.1"
    """The address to listen on. Any but this machine's own needs --auth."""
    port: int = 7860
    """The port to listen on; 0: any that is free."""
    auth: str = ""
    """The name to log in with; the password is asked for, or read from IMPASTO_PASSWORD."""
    max_upload: float = 25.0
    """The largest file that may be uploaded, in MB."""
    max_jobs: int = 1
    """Paintings that are worked on at once; the others wait."""
    open: bool = False
    """Open the page in the browser."""

    def run(self) -> None:
        if self.host not in ("127.0.0.1", "localhost", "::1") and not self.auth:
            raise RecipeError(f"--host {self.host} lets others in: say who may with --auth NAME")
        if self.max_jobs < 1 or not 0 < self.max_upload < 1e4 or not 0 <= self.port < 65536:
            raise RecipeError("--max-jobs must be 1 or more, --max-upload more than 0 MB, --port from 0 to 65535")
        try:
            from impasto import studio
        except ModuleNotFoundError as error:
            raise RecipeError(f"the studio needs {error.name}: pip install 'impasto[studio]'") from None
        studio.serve(
            host=self.host, port=self.port, user=self.auth, max_upload=self.max_upload, max_jobs=self.max_jobs,
            open_browser=self.open,
        )  # fmt: skip


@dataclass
class ListCommand:
    """What there is, with sources, sizes and licences."""

    what: Annotated[
        tyro.conf.Positional[Literal["recipes", "styles", "contents", "weights"]],
        tyro.conf.arg(metavar="WHAT"),
    ]
    """recipes, styles, contents or weights."""

    def run(self) -> None:
        from impasto import pictures, weights

        if self.what == "recipes":
            rows = [(name, recipes.ABOUT[name]) for name in recipes.TRANSFERS]
        elif self.what == "weights":
            rows = [
                (name, f"{entry.size / 1e6:.1f} MB, {entry.licence}; {entry.source}")
                for name, entry in weights.WEIGHTS.items()
            ]
        else:
            shipped = pictures.STYLES if self.what == "styles" else pictures.CONTENTS
            rows = [(name, f"{p.title}, {p.author}, {p.year}; {p.rights}") for name, p in shipped.items()]
        width = max((len(name) for name, _ in rows), default=0)
        for name, about in rows:
            print(f"{name:<{width}}  {about}")
            thumbnail = pictures.thumbnail(name) if self.what == "styles" and sys.stdout.isatty() else None
            if thumbnail is not None:
                from impasto import sheets

                print(sheets.blocks(thumbnail, columns=32))


def paint_and_say(inputs: Inputs, recipe: Transfer, watch: Watch) -> None:
    """Paint, and print where the result is, also when Ctrl-C came between; a sweep becomes one sheet."""
    from impasto import images, session, sheets, transfer

    try:
        if recipe.sweep:
            images.check_output(watch.out)
            results = []
            for label, each in transfer.sweep(recipe):
                out = session.numbered(watch.out, f"{each.style_weight:g}")
                results.append((label, session.paint(inputs, each, replace(watch, out=out))))
            sheet = sheets.sheet(results)
            images.write(watch.out, sheet, receipt=session.receipt(watch.command, recipe, inputs))
        else:
            session.paint(inputs, recipe, watch)
    except session.Stopped:
        session.say(watch.out)
        raise
    session.say(watch.out)


def _transfer(arguments: Sequence[str]) -> TransferCommand:
    recipe = starting_recipe(arguments, recipes.impasto)
    return TransferCommand(tyro.MISSING, tyro.MISSING, tyro.MISSING, recipe)


def _reconstruct(arguments: Sequence[str]) -> ReconstructCommand:
    of = peek(arguments, "--of")
    recipe = recipes.reconstruct_content if of == "content" else recipes.reconstruct_style
    return ReconstructCommand(tyro.MISSING, tyro.MISSING, tyro.MISSING, tyro.MISSING, recipe)


DEFAULTS: dict[str, Any] = {
    "transfer": _transfer,
    "reconstruct": _reconstruct,
    "study": lambda arguments: StudyCommand(tyro.MISSING, tyro.MISSING, tyro.MISSING, tyro.MISSING),
    "train": lambda arguments: TrainCommand(tyro.MISSING, tyro.MISSING, tyro.MISSING, Training()),
    "apply": lambda arguments: ApplyCommand(tyro.MISSING, tyro.MISSING, tyro.MISSING),
    "photo": lambda arguments: PhotoCommand(tyro.MISSING, tyro.MISSING, tyro.MISSING, Photo()),
    "export": lambda arguments: ExportCommand(tyro.MISSING, tyro.MISSING),
    "replay": lambda arguments: ReplayCommand(tyro.MISSING, tyro.MISSING),
    "studio": lambda arguments: StudioCommand(),
    "list": lambda arguments: ListCommand(tyro.MISSING),
}
