#!/usr/bin/env python3
"""impasto in GIMP 2.10: Filters > impasto > STYLE repaints the layer in one pass, as a new layer above it.

GIMP 2.10 talks to plug-ins in C; this one calls libgimp through ctypes, and impasto through its command.
"""

import os
import subprocess
import sys
import tempfile
from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, Union, c_char_p, c_double, c_int, c_int32, c_void_p, pointer

COMMAND = os.environ.get("IMPASTO", "impasto")  # the command, if it is not on GIMP's PATH: /home/me/.venv/bin/impasto
GENERAL = "plug-in-impasto"  # for scripts: any style, or a model's file

# libgimp's constants
INT32, STRING, IMAGE, DRAWABLE, STATUS = 0, 4, 13, 16, 21
EXECUTION_ERROR, SUCCESS = 0, 3
PLUGIN, NONINTERACTIVE, MASK_OF_SELECTION = 1, 1, 4

windows = sys.platform == "win32"
gimp = CDLL("libgimp-2.0-0.dll" if windows else "libgimp-2.0.so.0")


class Data(Union):
    # The largest member of the C union is a colour, 4 doubles.
    _fields_ = [("int32", c_int32), ("string", c_char_p), ("colour", c_double * 4)]


class Parameter(Structure):
    _fields_ = [("type", c_int), ("data", Data)]


class Definition(Structure):
    _fields_ = [("type", c_int), ("name", c_char_p), ("description", c_char_p)]


QUERY = CFUNCTYPE(None)
RUN = CFUNCTYPE(None, c_char_p, c_int, POINTER(Parameter), POINTER(c_int), POINTER(POINTER(Parameter)))


class PlugIn(Structure):
    _fields_ = [("init", c_void_p), ("quit", c_void_p), ("query", QUERY), ("run", RUN)]


def impasto(*arguments):
    """Run the command; its error is one line, which becomes that of the plug-in."""
    try:
        done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"{COMMAND}: {error.strerror}; set COMMAND in {__file__}") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "impasto failed").splitlines()[-1])
    return done.stdout


@QUERY
def query():
    takes = [(INT32, b"run-mode", b"1: without dialogs"), (IMAGE, b"image", b""), (DRAWABLE, b"drawable", b"A layer")]
    install(GENERAL, "", [*takes, (STRING, b"style", b"A bundled style, or a model's file")])
    for line in impasto("list", "styles").splitlines():
        style = line.split()[0]
        install(f"{GENERAL}-{style}", style.replace("-", " ").capitalize(), takes)


def install(name, label, parameters):
    gimp.gimp_install_procedure(
        name.encode(), b"Repaint the layer in one pass, as a new layer", b"", b"impasto contributors", b"MIT", b"2026",
        label.encode() or None, b"RGB*, GRAY*", PLUGIN, len(parameters), 0,
        (Definition * len(parameters))(*parameters), None,
    )  # fmt: skip
    if label:
        gimp.gimp_plugin_menu_register(name.encode(), b"<Image>/Filters/impasto")


returned = Parameter(STATUS)  # kept alive after `run`, for libgimp to read


@RUN
def run(name, count, parameters, returned_count, returned_values):
    returned_count[0], returned_values[0] = 1, pointer(returned)
    image, layer = (parameters[index].data.int32 for index in (1, 2))
    general = name.decode() == GENERAL
    style = parameters[3].data.string.decode() if general else name.decode()[len(GENERAL) + 1 :]
    try:
        repaint(image, layer, style)
        returned.data.int32 = SUCCESS
    except Exception as error:
        gimp.gimp_message(str(error).encode())
        returned.data.int32 = EXECUTION_ERROR


def repaint(image, layer, style):
    with tempfile.TemporaryDirectory() as folder:
        before, after = (os.path.join(folder, name).encode() for name in ("layer.png", "painted.png"))
        gimp.gimp_progress_init(b"impasto: repainting")
        if not gimp.gimp_file_save(NONINTERACTIVE, image, layer, before, before):
            raise RuntimeError("the layer cannot be saved as PNG")
        impasto("apply", before.decode(), "--style", style, "-o", after.decode(), "--quiet")
        painted = gimp.gimp_file_load_layer(NONINTERACTIVE, image, after)
        if painted < 0:
            raise RuntimeError("the result cannot be read")
    left, top = c_int(), c_int()
    gimp.gimp_drawable_offsets(layer, pointer(left), pointer(top))
    gimp.gimp_image_undo_group_start(image)
    gimp.gimp_item_set_name(painted, os.path.basename(style).encode())
    parent, position = gimp.gimp_item_get_parent(layer), gimp.gimp_image_get_item_position(image, layer)
    gimp.gimp_image_insert_layer(image, painted, max(parent, 0), position)
    gimp.gimp_layer_set_offsets(painted, left, top)
    if not gimp.gimp_selection_is_empty(image):
        gimp.gimp_layer_add_mask(painted, gimp.gimp_layer_create_mask(painted, MASK_OF_SELECTION))
    gimp.gimp_image_undo_group_end(image)
    gimp.gimp_displays_flush()


if __name__ == "__main__":
    arguments = [each.encode() for each in sys.argv]
    sys.exit(
        gimp.gimp_main(pointer(PlugIn(None, None, query, run)), len(arguments), (c_char_p * len(arguments))(*arguments))
    )
