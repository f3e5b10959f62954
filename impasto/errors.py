"""Errors that a user can cause and fix: one tree, each with a message of one line.

A message names a parameter in backticks: "`memory` must be 0 or more". The command line and the studio `spell` it
in their own way, as --memory and as "memory".
"""

import re


class ImpastoError(Exception):
    """The base class of all errors below; `exit_code` is the command line's."""

    exit_code = 1


class UsageError(ImpastoError):
    """A command line that cannot be parsed."""

    exit_code = 2


class InputError(ImpastoError, ValueError):
    """A parameter, a path or a combination of inputs that cannot be used."""


class RecipeError(InputError):
    """A recipe with an invalid value; the message names the field."""


class ImageError(ImpastoError, ValueError):
    """A picture that cannot be read or written; the message names the file and a fix."""


class OutputError(ImageError):
    """A result that cannot be written; the message names the file and a fix."""


class VideoError(ImpastoError, ValueError):
    """A film that cannot be read or written; the message names the cause and a fix."""


class WeightsError(ImpastoError, ValueError):
    """Weights that are missing, damaged or of another shape; the message names the file and a fix."""


class DivergedError(ImpastoError, FloatingPointError):
    """A loss, a gradient or weights that are not finite."""


class IncompleteError(ImpastoError):
    """Some of several pictures could not be painted; the others were."""


class BusyError(ImpastoError):
    """The studio has too many jobs waiting."""


class RefusedError(ImpastoError, ValueError):
    """A file that the studio does not accept."""


class Stopped(ImpastoError):
    """Stopped by Ctrl-C, after the result so far was written."""

    exit_code = 130


def spell(message: str, prefix: str = "", joint: str = " ") -> str:
    """Respell the parameters in a message.

    Args:
        message: names parameters in backticks.
        prefix: put before each name.
        joint: replaces underscores in names.

    Returns:
        The message without backticks. With the prefix "--" and the joint "-", `style_scale` becomes --style-scale.
    """
    return re.sub(r"`(\w+)`", lambda name: prefix + name[1].replace("_", joint), message)


def lack_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's or of PyTorch's means that memory ran out."""
    said = ("out of memory", "allocate memory", "enough memory", "bad_alloc")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(each in str(error).lower() for each in said)
    )
