"""The layers of docs/architecture.md: a module imports from earlier layers only; importing impasto loads no torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "impasto"
FLOORS = {
    "errors": {"errors"},
    "system": {"files", "machine", "deep"},
    "decoding": {"decoding"},
    "encoding": {"encoding"},
    "facts": {"recipes", "images", "weights", "bundled", "winograd", "hdr"},
    "parts": {
        "schema",
        "presets",
        "color",
        "masks",
        "matting",
        "encoder",
        "interop",
        "losses",
        "networks",
        "optimize",
        "fitting",
        "flow",
        "video",
        "datasets",
        "sheets",
        "generators",
        "colorizer",
    },
    "tools": {
        "contrast",
        "faces",
        "halos",
        "kuwahara",
        "light",
        "matching",
        "moments",
        "pairs",
        "palette",
        "recording",
        "tiling",
    },
    "objective": {"objective", "anystyle"},
    "methods": {"onepass", "photo", "pix2pix", "transfer", "study", "steady", "muxing"},
    "training": {"onepass_training", "pix2pix_training"},
    "runs": {"runs"},
    "apps": {"studio", "commands", "cli", "__main__"},
}
ORDER = list(FLOORS)


def floor(module: str) -> str:
    return next(name for name, modules in FLOORS.items() if module in modules)


def imports(module: str) -> set[str]:
    """The modules of impasto that a module or package imports, also inside functions."""
    files = [PACKAGE / f"{module}.py"] if (PACKAGE / f"{module}.py").exists() else (PACKAGE / module).rglob("*.py")
    found = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.ImportFrom) and node.module == "impasto":
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("impasto."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("impasto.")}
    return found


FOLDERS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"models"}
MODULES = sorted(FOLDERS | {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"})


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    here = ORDER.index(floor(module))
    for other in imports(module) - {module}:
        there = ORDER.index(floor(other))
        assert there < here or floor(module) == "apps", f"{module} ({floor(module)}) imports {other} ({floor(other)})"


def test_every_module_has_its_tests() -> None:
    missing = [
        name for name in MODULES if name != "__main__" and not (Path(__file__).parent / f"test_{name}.py").exists()
    ]
    assert missing == []


def test_the_map_lists_every_module_in_its_layer() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    listed: dict[str, set[str]] = {}
    for line in text.split("```")[1].splitlines():
        if heading := re.match(r" ([A-Z]+)\b", line):
            layer = listed.setdefault(heading[1].lower(), set())
        elif listed and (name := re.match(r"  ([\w/]+?)(\.py|/)? ", line)):
            layer.add(name[1])
    runs = {f"runs/{path.stem}" for path in PACKAGE.glob("runs/*.py") if path.stem != "__init__"}
    unlisted = {"__main__", "runs", "models", "site"}
    assert {name: found - unlisted for name, found in listed.items()} == {
        name: modules - unlisted | (runs if name == "runs" else set()) for name, modules in FLOORS.items()
    }
    assert len(text.split()) <= 1200


@pytest.mark.parametrize("command", [["-c", "import impasto"], ["-m", "impasto", "--help"]])
def test_import_and_help_load_no_torch(command: list[str]) -> None:
    code = "import runpy, sys; sys.argv = sys.argv[1:]\n"
    if command[0] == "-c":
        code += command[1]
    else:
        code += "sys.argv = ['impasto', '--help']\ntry:\n    runpy.run_module('impasto', run_name='__main__')\n"
        code += "except SystemExit as end:\n    assert end.code == 0"
    code += "\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "impasto"], check=True, capture_output=True)
