"""What a user can cause and put right: one tree of errors, each with a message of one line.

A message names a parameter in backticks: "`memory` must be 0 or more". The command line and the studio `spell` it
in their own way, as --memory and as "memory".
"""

import re


class ImpastoError(Exception):
    """The base of all errors below; `exit_code` is that of the command line."""

    exit_code = 1


class UsageError(ImpastoError):
    """A command line that cannot be parsed."""

    exit_code = 2


class InputError(ImpastoError, ValueError):
    """A parameter, a path or a combination of inputs that cannot be used."""


class RecipeError(InputError):
    """A recipe that cannot be followed; the message names the field."""


class ImageError(ImpastoError, ValueError):
    """A picture that cannot be read or written; the message names the file and the remedy."""


class VideoError(ImpastoError, ValueError):
    """A film that cannot be read or written; the message says why and what helps."""


class WeightsError(ImpastoError, ValueError):
    """Weights that are missing, damaged or of another shape; the message names the file and the remedy."""


class DivergedError(ImpastoError, FloatingPointError):
    """A loss, a gradient or weights that are not finite."""


class IncompleteError(ImpastoError):
    """Some pictures of many could not be done; the others are done."""


class BusyError(ImpastoError):
    """The studio has too many jobs waiting."""


class RefusedError(ImpastoError, ValueError):
    """A file that the studio does not accept."""


class Stopped(ImpastoError):
    """Ctrl-C; what there was has been written."""

    exit_code = 130


def spell(message: str, prefix: str = "", joint: str = " ") -> str:
    """``message`` with other names: for a ``prefix`` of "--" and a ``joint`` of "-", `style_scale` is --style-scale."""
    return re.sub(r"`(\w+)`", lambda name: prefix + name[1].replace("_", joint), message)
