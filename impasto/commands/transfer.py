"""Commands that paint by optimisation: transfer, reconstruct, study, replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from impasto import presets, schema, weights
from impasto.commands.options import Clip, Cluster, Device, Film, Memory, Out, Quiet, peek
from impasto.errors import DivergedError, ImpastoError, IncompleteError, InputError, OutputError, RecipeError, Stopped
from impasto.recipes import STARTS, Transfer
from impasto.study import STRENGTHS

if TYPE_CHECKING:
    from impasto.runs.transfer import Inputs, Watch

Settings = Annotated[Transfer, tyro.conf.arg(name="")]


def find_recipe(name: str) -> Transfer:
    """A preset by its name, or the recipe in a JSON file or in a picture's receipt.

    Raises:
        RecipeError: there is no such recipe.
    """
    if name in presets.TRANSFERS:
        return presets.TRANSFERS[name]
    path = Path(name)
    if not path.exists():
        raise RecipeError(f"unknown recipe {name!r}: one of {', '.join(presets.TRANSFERS)}, or a file with a recipe")
    if path.suffix.lower() == ".json":
        import json

        from impasto import files

        try:
            if files.special(path):
                raise ValueError("a device or a pipe")
            return schema.from_json(json.loads(path.read_text(encoding="utf-8")), Transfer)
        except (ValueError, AttributeError, RecursionError) as error:
            raise RecipeError(f"{path}: not a recipe: {error}") from None
    from impasto.runs import receipts

    return schema.from_json(receipts.read(path)["recipe"], Transfer)


def starting_recipe(arguments: Sequence[str], fallback: Transfer) -> Transfer:
    """The recipe whose values the flags default to; weights of layers that a flag replaces are dropped."""
    recipe = chosen_recipe(arguments, fallback)
    if peek(arguments, "--style-layers") and not peek(arguments, "--layer-weights"):
        recipe = replace(recipe, layer_weights=())
    if peek(arguments, "--content-layers") and not peek(arguments, "--content-layer-weights"):
        recipe = replace(recipe, content_layer_weights=())
    return recipe


def chosen_recipe(arguments: Sequence[str], fallback: Transfer) -> Transfer:
    """The recipe that --recipe or --resume names, else ``fallback``.

    Raises:
        RecipeError: it names a file that is not there, since receipts hold no paths.
    """
    recipe = _stated(arguments, fallback)
    for flag, name, known in (
        ("encoder", recipe.encoder, weights.WEIGHTS), ("init", recipe.init, STARTS),
    ):  # fmt: skip
        if name not in known and not Path(name).is_file() and peek(arguments, f"--{flag}") is None:
            raise RecipeError(f"the recipe's {flag}, {name}, is not in this folder: give `{flag}`")
    return recipe


def _stated(arguments: Sequence[str], fallback: Transfer) -> Transfer:
    if name := peek(arguments, "--recipe"):
        return find_recipe(name)
    path = peek(arguments, "--resume")
    if path and Path(path).is_file():  # not the results of a table, or a film
        import json

        from impasto.runs import receipts

        return schema.from_json(json.loads(receipts.load_state(Path(path))["receipt"])["recipe"], Transfer)
    return fallback


@dataclass
class TransferCommand:
    """Repaint CONTENT in one STYLE or several, by optimisation (Gatys2016).

    The options from --size on are fields of the recipe; --recipe sets their defaults.
    """

    content: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONTENT")]
    """A picture, a name from `impasto list contents`, a film, or a table of transfers. Films take long; each frame
    stays close to the previous ones (Ruder2016)."""
    styles: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="STYLE [STYLE ...]", help_behavior_hint="(required for a picture)"),
    ]
    """Paintings: pictures, or names from `impasto list styles`. None if CONTENT is a table: .csv or .jsonl, with the
    columns content, style, out and any field of the recipe."""
    out: Out
    """The picture to write: .png, .jpg, .webp or .tif; or the film. For a table, a folder."""
    settings: Settings
    recipe: str = "impasto"
    """A preset (`impasto list recipes`), a JSON file, or a picture of `impasto transfer`, whose recipe is used."""
    content_masks: tuple[str, ...] = ()
    """For each style a mask of the content: the style is painted where the mask is white."""
    style_masks: tuple[str, ...] = ()
    """For each style a mask of the painting: only its white areas are used."""
    video: Path | None = None
    """Save a video of the optimisation, .mp4; a resumed run records only the remaining steps."""
    device: Device = "auto"
    memory: Memory = 0.0
    quiet: Quiet = False
    resume: Path | None = None
    """Continue from the OUT.resume that --checkpoint-every writes; repeat the same command with this option. For a
    table or numbered pictures: OUT, to skip what is done; for a sweep: OUT_WEIGHT.resume."""
    clip: Film = field(default_factory=Clip)
    cluster: Cluster = ""

    def run(self) -> None:
        from impasto import recording, video

        self.out = recording.as_pattern(Path(self.content), self.out)
        film = video.is_film(Path(self.content)) and recording.is_written(self.out)
        table = not self.styles and self.content.lower().endswith((".csv", ".jsonl"))
        if film or table:
            swept = self.settings.sweep and self.settings.sweep != find_recipe(self.recipe).sweep
            if self.content_masks or self.style_masks or self.video or swept:
                raise InputError(f"a {'film' if film else 'table'} takes no masks, `video` or `sweep`")
            self.settings = replace(self.settings, sweep=())
        if table:
            self.paint_table()
            return
        if self.cluster:
            raise InputError("`cluster` is for a table of transfers: impasto transfer JOBS.csv -o FOLDER")
        if not self.styles:
            raise InputError("a style is needed: impasto transfer CONTENT STYLE -o OUT")
        if film:
            self.paint_film()
        else:
            self.paint_picture()

    def paint_picture(self) -> None:
        from impasto.runs import receipts, transfer as run_transfer

        inputs = run_transfer.read_inputs(self.content, self.styles, self.content_masks, self.style_masks)
        state = receipts.load_state(self.resume) if self.resume else None
        watch = run_transfer.Watch(
            self.out, film=film_of(self), device=self.device, memory=self.memory, quiet=self.quiet, state=state
        )
        paint_and_say(inputs, self.settings, watch)

    def paint_table(self) -> None:
        from impasto.runs import batch, cluster, terminal

        if self.resume is not None and cluster.located(self.resume) != cluster.located(self.out):
            raise InputError(f"`resume` {self.resume}: for a table it is OUT, {self.out}")
        with terminal.saying(cluster.located(self.out), although=(Stopped, IncompleteError)):
            batch.transfer(
                Path(self.content), self.out, self.settings, self.cluster, device=self.device, memory=self.memory,
                quiet=self.quiet, resume=self.resume is not None,
            )  # fmt: skip

    def paint_film(self) -> None:
        from impasto import bundled, images, recording, video
        from impasto.runs import film, receipts, terminal, transfer as run_transfer

        kept = [self.out, self.out.parent] if video.NUMBER.search(self.out.name) else [receipts.resume_file(self.out)]
        if self.resume is not None and self.resume.resolve() not in [path.resolve() for path in kept]:
            raise InputError(f"`resume` {self.resume}: for this film it is {kept[0]}")
        terminal.fetch_encoder(self.settings.encoder, quiet=self.quiet)
        styles = [images.read(bundled.locate(style)) for style in self.styles]
        recording.check_output(self.out, [style.name for style in styles])
        settings = self.clip.settings(steady=False, fps=self.settings.fps)
        paint = film.by_optimisation(styles, self.settings, device=self.device, memory=self.memory)
        receipt = receipts.build("transfer", **run_transfer.facts(self.settings), styles=styles)
        with terminal.saying(self.out):
            film.repaint(
                Path(self.content), self.out, paint, settings, receipt=receipt, quiet=self.quiet,
                resume=self.resume is not None,
            )  # fmt: skip


@dataclass
class ReconstructCommand:
    """Show what an encoder's layers represent of IMAGE: its content, or its style, painted from noise.

    The content follows Mahendran2015, the style Gatys2015.
    """

    image: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IMAGE")]
    """The picture."""
    of: Literal["content", "style"]
    """What to reconstruct."""
    layers: tuple[str, ...]
    """The layers, for example relu4_2; for a style usually several, such as relu1_1 relu2_1 relu3_1. They replace
    the recipe's."""
    out: Out
    """The picture to write."""
    settings: Settings
    video: Path | None = None
    """Save a video of the optimisation, .mp4."""
    device: Device = "auto"
    memory: Memory = 0.0
    quiet: Quiet = False
    resume: Path | None = None
    """Continue from the OUT.resume that --checkpoint-every writes; repeat the same command with this option."""

    def run(self) -> None:
        from impasto.runs import receipts, transfer as run_transfer

        chosen: Any = {f"{self.of}_layers": self.layers}
        recipe = replace(self.settings, **chosen)
        inputs = run_transfer.read_inputs(self.image, [self.image] if self.of == "style" else [])
        state = receipts.load_state(self.resume) if self.resume else None
        watch = run_transfer.Watch(
            self.out, command="reconstruct", film=film_of(self), device=self.device, memory=self.memory,
            quiet=self.quiet, state=state,
        )  # fmt: skip
        paint_and_say(inputs, recipe, watch)


@dataclass
class StudyCommand:
    """Draw a labelled sheet of results, like the figures of Gatys2016 and KerasDescent."""

    content: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONTENT")]
    """The photograph."""
    style: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STYLE")]
    """The painting."""
    over: Literal["content", "style", "descent", "strengths"]
    """The panels. content: reconstructions from relu1_1, 2_1, ... 5_1; style: from the first one, two, ... five of
    these; descent: gradient descent on one layer's style; strengths: rising strength."""
    out: Out
    """The sheet to write."""
    size: int = 256
    """Long edge of each panel in pixels, up to 16,384; 0: the content's own size."""
    steps: int = 0
    """Iterations for each panel, up to 100,000; 0: as in the recipe."""
    encoder: str = "compact"
    """Perceptual encoder: compact, vgg19, or the path of a weights file."""
    strengths: tuple[float, ...] = STRENGTHS
    """The strengths of `--over strengths`, 0 to 10,000 each."""
    seed: int = 0
    """Seed of the initial noise. 0 to 4,294,967,295."""
    device: Device = "auto"
    memory: Memory = 0.0
    quiet: Quiet = False

    def run(self) -> None:
        from impasto import images, study
        from impasto.runs import receipts, terminal, transfer as run_transfer

        images.check_output(self.out)
        inputs = run_transfer.read_inputs(self.content, [self.style])
        inputs.protect(self.out)
        terminal.fetch_encoder(self.encoder, quiet=self.quiet)
        chosen = {"size": self.size, "encoder": self.encoder, "seed": self.seed} | (
            {"steps": self.steps} if self.steps else {}
        )
        panels = study.panels(self.over, strengths=self.strengths, **chosen)
        sheet, failure = run_transfer.draw(
            inputs, panels, title=f"study over {self.over}", device=self.device, memory=self.memory, quiet=self.quiet
        )
        receipts.write(self.out, sheet)
        terminal.say(self.out)
        if failure is not None:
            raise failure


@dataclass
class ReplayCommand:
    """Repeat a result from the receipt in it: the same inputs, recipe, seed and encoder."""

    picture: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PICTURE")]
    """A picture made by `impasto transfer`, `impasto reconstruct` or `impasto photo`."""
    out: Out
    """The picture to write."""
    inputs: tuple[Path, ...] = ()
    """Folders to search for the inputs and an encoder's file, besides the current one and the picture's own; sha256
    must match."""
    device: Device = "auto"
    memory: Memory = 0.0
    quiet: Quiet = False

    def run(self) -> None:
        from impasto import images
        from impasto.runs import photo as run_photo, receipts, terminal, transfer as run_transfer

        receipt = receipts.read(self.picture)
        images.check_output(self.out, [self.picture])
        folders = [Path(), self.picture.parent, *self.inputs]
        if receipt["command"] == "photo":
            with terminal.saying(self.out):
                run_photo.replay(receipt, folders, self.out, device=self.device, quiet=self.quiet)
            return
        recipe, inputs = run_transfer.from_receipt(receipt, folders)
        watch = run_transfer.Watch(
            self.out, command=receipt["command"], device=self.device, memory=self.memory, quiet=self.quiet
        )
        paint_and_say(inputs, recipe, watch)


def film_of(command: TransferCommand | ReconstructCommand) -> Path | None:
    """Where the video of the optimisation goes, if there is one; OutputError if OUT or OUT.mp4 cannot be written."""
    from impasto import images

    if command.video or not command.settings.frame_every:
        return command.video
    film = images.check_output(command.out).with_suffix(".mp4")
    if film.exists() and not command.out.exists():  # not of an earlier run
        raise OutputError(f"{film}: the recipe's video would overwrite it; move it away, or name a `video`")
    return film


def paint_and_say(inputs: Inputs, recipe: Transfer, watch: Watch) -> None:
    """Paint and print the path of the result, also after Ctrl-C; a sweep becomes one sheet.

    A sweep that is resumed from the checkpoint of one result takes the results before it from their files.
    """
    import json

    from impasto import images, recording, sheets, study
    from impasto.runs import receipts, terminal, transfer as run_transfer

    if not recipe.sweep:
        with terminal.saying(watch.out):
            run_transfer.paint(inputs, recipe, watch)
        return
    inputs.protect(watch.out, recipe.init)
    images.check_output(watch.out)
    if watch.film:
        recording.check_output(watch.film)
    results = []
    failure: ImpastoError | None = None
    half = json.loads(watch.state["receipt"])["recipe"]["style_weight"] if watch.state else None
    begin = recipe.sweep.index(half) if half in recipe.sweep else 0
    for place, (label, each) in enumerate(study.sweep(recipe)):
        number = f"{each.style_weight:g}"
        out = run_transfer.labelled(watch.out, number)
        film = run_transfer.labelled(watch.film, number) if watch.film else None
        run = replace(watch, out=out, film=film, state=watch.state if place == begin else None)
        before = run_transfer.painted(inputs, each, run) if place < begin else None
        try:
            results.append((label, run_transfer.paint(inputs, each, run) if before is None else before))
        except (Stopped, DivergedError) as error:
            failure = error
            if isinstance(error, Stopped):
                terminal.say(out)
            break
    if results:
        receipts.write(watch.out, sheets.sheet(results), receipt=run_transfer.receipt(watch.command, recipe, inputs))
        terminal.say(watch.out)
    if failure is not None:
        raise failure


def default_transfer(arguments: Sequence[str]) -> TransferCommand:
    recipe = starting_recipe(arguments, presets.impasto)
    return TransferCommand(tyro.MISSING, tyro.MISSING, tyro.MISSING, recipe)


def default_reconstruct(arguments: Sequence[str]) -> ReconstructCommand:
    of = peek(arguments, "--of")
    recipe = presets.reconstruct_content if of == "content" else presets.reconstruct_style
    return ReconstructCommand(tyro.MISSING, tyro.MISSING, tyro.MISSING, tyro.MISSING, recipe)
