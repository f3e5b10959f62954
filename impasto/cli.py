"""The command line, generated from the recipes. No torch is imported before a command runs."""

from __future__ import annotations

import dataclasses
import difflib
import gc
import inspect
import io
import os
import re
import signal
import sys
import threading
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import tyro
import tyro._errors

from impasto import __version__, schema
from impasto.commands import DEFAULTS
from impasto.errors import ImpastoError, UsageError, lack_of_memory, spell

ABOUT = {
    "transfer": "repaint a photograph in the style of a painting, by optimisation",
    "reconstruct": "show what an encoder's layers represent: a picture's content, or its style",
    "train": "train a network that repaints photographs in one style in one pass",
    "apply": "repaint a picture, a video or a folder in one pass",
    "photo": "give a photograph the light of another one, without a painted look",
    "pix2pix train": "train a network on pairs of pictures, to turn one into the other",
    "pix2pix apply": "translate a picture, a video or a folder with a network of pix2pix train",
    "studio": "open a web page on this machine that repaints, relights and colours pictures",
    "export": "write a network as ONNX, or a page that repaints in the browser",
    "study": "draw a labelled sheet that compares layers or strengths",
    "replay": "repeat a result from the receipt stored in it",
    "list": "list the recipes, styles, contents, translations or weights",
}

LIGHT = ("list", "studio")  # run without torch

OPENMP_SPIN_COUNT = "5000"  # about 0.1 ms; see docs/scale.md

EXAMPLES = """\
  impasto transfer chelsea composition-vii -o cat.png
  impasto transfer photo.jpg painting.jpg -o out.png --size 1024 --keep-colors luma
  impasto transfer photo.jpg painting.jpg -o out.png --recipe gatys-2016 --video out.mp4
  impasto apply photo.jpg --style the-great-wave -o wave.jpg
  impasto train painting.jpg --photos holidays/ -o mine.safetensors
  impasto reconstruct painting.jpg --of style --layers relu1_1 relu2_1 -o texture.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    share_cores()
    for stream in (sys.stdout, sys.stderr):  # names that the terminal's encoding lacks are no error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return guarded(lambda: print(usage(), flush=True)) or (0 if arguments else 2)
    if arguments[0] == "--version":
        return guarded(lambda: print(f"impasto {__version__}", flush=True))
    name, *rest = arguments
    if rest and f"{name} {rest[0]}" in ABOUT:
        name, rest = f"{name} {rest[0]}", rest[1:]
    second = [each.removeprefix(f"{name} ") for each in ABOUT if each.startswith(f"{name} ")]
    if second:
        if rest and rest[0] in ("-h", "--help"):
            return guarded(lambda: print("\n".join(f"impasto {name} {each} --help" for each in second), flush=True))
        return fail(f"impasto {name}: name what to do: {' or '.join(second)}; see impasto {name} {second[0]} --help", 2)
    if name not in ABOUT:
        return fail(f"unknown command {name!r}: one of {', '.join(ABOUT)}; see impasto --help", 2)
    return guarded(lambda: execute(name, rest))


def share_cores() -> None:
    """Let idle threads of GNU OpenMP sleep soon, so that several processes can share the cores.

    By default they spin for milliseconds, and take the cores from the threads that they wait for. The variable is read
    once, when torch is imported.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = OPENMP_SPIN_COUNT


def execute(name: str, arguments: list[str]) -> None:
    command = parse(name, arguments)
    if name in LIGHT:
        command.run()
        return
    if "torch" not in sys.modules:
        # Garbage collection during the import would take a sixth of a short command's time.
        gc.disable()
        import_module("torch")
        gc.freeze()
        gc.enable()
    from impasto import machine, video

    # A picture given to `apply` may be huge; video frames are not, and a folder's pictures reuse each other's memory.
    given = command.inputs if name == "apply" else [command.input] if name == "pix2pix apply" else []
    huge = len(given) == 1 and not os.path.isdir(given[0]) and not video.is_film(Path(given[0]))
    with machine.reused_memory(sparingly=huge or getattr(command, "memory", 0) > 0):
        command.run()


def usage() -> str:
    lines = [f"impasto {__version__}: repaints photographs.", "", "usage: impasto COMMAND ...", ""]
    lines += [f"  {name:<14} {about}" for name, about in ABOUT.items()]
    lines += [
        "",
        "examples:",
        EXAMPLES.rstrip(),
        "",
        "See impasto COMMAND --help for the options of a command; impasto --version prints the version.",
    ]
    return "\n".join(lines)


def fail(message: str, code: int = 1) -> int:
    print("impasto: " + " ".join(message.split()), file=sys.stderr)
    return code


def guarded(run: Any) -> int:
    """Run, and report expected errors in one line; IMPASTO_DEBUG=1 shows the traceback."""
    try:
        with ended_by_signals():
            try:
                run()
            finally:
                print(end="", flush=True)
    except BrokenPipeError:  # the reader closed the pipe
        drop_output()
    except Exception as error:
        if os.environ.get("IMPASTO_DEBUG") and not isinstance(error, UsageError):
            raise
        if isinstance(error, ImpastoError):
            return fail(spell(str(error), "--", "-"), error.exit_code)
        if isinstance(error, OSError):
            place = error.filename or ("standard output" if drop_output() else "a file")
            return fail(f"{place}: {error.strerror or error}")
        if lack_of_memory(error):
            return fail("not enough memory: use a smaller picture, or a smaller --size")
        raise
    except KeyboardInterrupt:
        return fail("stopped", 130)
    return 0


def drop_output() -> bool:
    """Drop what standard output does not take: Python would try again at exit. Returns whether there is such."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C, and keep finished work. A signal that is ignored, as by nohup, stays so."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def parse(name: str, arguments: list[str]) -> Any:
    """Parse the arguments of a command; --recipe and --resume set the defaults of its recipe."""
    default = DEFAULTS[name](arguments)
    set_help_texts(default)

    def refuse(event: Any) -> NoReturn:
        raise UsageError(f"{reason(event, type(default))}; see impasto {name} --help")

    with tyro._errors.on_parse_error(refuse):
        return tyro.cli(
            type(default),
            args=arguments,
            default=default,
            prog=f"impasto {name}",
            description=inspect.getdoc(type(default)),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )


def set_help_texts(command: Any) -> None:
    """Set each field's help to its docstring in one paragraph; tyro would keep the line breaks of the source.

    A switch that is on by default becomes --no-NAME, whose help is what follows "Off: ".
    """
    texts = schema.described(type(command))
    for field in dataclasses.fields(command):
        value, text = getattr(command, field.name), texts.get(field.name)
        if text:
            shown = text
            if value is True:
                shown = text.partition(" Off: ")[2]
                type(command).__annotations__[field.name] = typing.Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
            field.metadata = MappingProxyType(
                {**field.metadata, "help": spell(shown[:1].upper() + shown[1:], "--", "-")}
            )
        if dataclasses.is_dataclass(value):
            set_help_texts(value)


def flags(kind: type) -> Iterator[tuple[str, str]]:
    """The flags of a command, each with the type of its value."""
    for name, inner in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            yield from flags(inner)
        else:
            yield f"--{name.replace('_', '-')}", inner.__name__.upper() if isinstance(inner, type) else ""


def reason(event: Any, kind: type) -> str:
    """Why tyro rejects the arguments, in one line; its events are private and may change with its version."""

    def spelt(argument: Any) -> str:
        return str(argument.get_invocation_text()[1].as_str_no_ansi()).replace("{None}|", "")

    what = type(event).__name__
    if what == "UnrecognizedArgs":
        known = dict(flags(kind))
        near = [each for token in event.tokens for each in difflib.get_close_matches(token, known, 1, 0.8)]
        hint = f" Perhaps you meant: {', '.join(f'{each} {known[each]}'.strip() for each in near)}" if near else ""
        return f"Unrecognized options: {', '.join(event.tokens)}{hint}"
    if what == "MissingArgs":
        return f"Missing: {', '.join(spelt(each.arg) for each in event.missing_arguments)}"
    named = spelt(event.argument) if getattr(event, "argument", None) else "the arguments"
    if what == "InvalidChoice":
        return f"{named} must be one of {', '.join(event.choices)}, not {event.value!r}"
    message = str(getattr(event, "message", "not understood"))
    if number := re.search(r"(to float|with base 10): (.*)", message):
        kind_of_number = "number" if number[1] == "to float" else "whole number"
        return f"{named.split()[0]} must be a {kind_of_number}, not {number[2]}"
    return f"{named}: {message}"
