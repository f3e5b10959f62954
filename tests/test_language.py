"""Help texts and docstrings: their length, their sections, and citations by keys."""

import inspect
import re
from pathlib import Path

import pytest

import impasto
from impasto import (
    datasets,
    errors,
    fitting,
    onepass,
    onepass_training,
    optimize,
    pairs,
    pix2pix,
    pix2pix_training,
    recipes,
    schema,
    transfer,
    video,
)
from impasto.commands import DEFAULTS
from impasto.runs import (
    onepass as onepass_runs,
    photo as photo_runs,
    pix2pix as pix2pix_runs,
    receipts,
    terminal,
    transfer as transfer_runs,
)

ROOT = Path(__file__).parent.parent
KINDS = {kind.__name__: kind for kind in (recipes.Transfer, recipes.Training, recipes.Photo, recipes.Translation)} | {
    name: type(default([])) for name, default in DEFAULTS.items()
}
EXPORTED = [
    name for name in impasto.__all__ if inspect.isfunction(getattr(impasto, name)) and not name.endswith("Error")
]
# Functions with three parameters or more in the methods, the engines below them and the runs above.
LONG = [
    pytest.param(each, id=f"{module.__name__}.{name}")
    for module in (
        *(
            datasets,
            errors,
            fitting,
            onepass,
            onepass_training,
            optimize,
            pairs,
            pix2pix,
            pix2pix_training,
            transfer,
            video,
        ),
        *(onepass_runs, photo_runs, pix2pix_runs, receipts, terminal, transfer_runs),
    )
    for name, each in vars(module).items()
    if inspect.isfunction(each) and each.__module__ == module.__name__ and not name.startswith("_")
    if len(inspect.signature(each).parameters) >= 3
]


@pytest.mark.parametrize("folder", ["impasto", "docs", "README.md"])
def test_papers_are_cited_by_their_keys(folder: str) -> None:
    path = ROOT / folder
    files = [path] if path.is_file() else [each for kind in ("*.py", "*.md") for each in path.rglob(kind)]
    assert files
    numbered = [f"{each}: {found[0]}" for each in files if (found := re.search(r"(?i)sources? 00\d", each.read_text()))]
    assert numbered == []


@pytest.mark.parametrize("kind", KINDS)
def test_help_texts_are_short(kind: str) -> None:
    texts = schema.described(KINDS[kind])
    assert {name: len(text) for name, text in texts.items() if len(text) > 200} == {}


def test_help_texts_state_the_constants() -> None:
    assert f"over {onepass.SIZE} pixels" in schema.described(KINDS["apply"])["size"]
    assert f"at most {onepass_runs.PHOTOGRAPHS} " in schema.described(KINDS["train"])["photos"]


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_functions_have_sections(name: str) -> None:
    function = getattr(impasto, name)
    text = inspect.getdoc(function) or ""
    assert ("Args:" in text and "Raises:" in text) or name == "stylize"
    assert function.__annotations__["return"] == "None" or "Returns:" in text or "Yields:" in text
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"\b{parameter}\b", text.split("Args:")[1]), parameter


@pytest.mark.parametrize("function", LONG)
def test_parameters_are_explained(function: object) -> None:
    text = inspect.getdoc(function) or ""
    missing = [name for name in inspect.signature(function).parameters if not re.search(rf"\b{name}\b", text)]  # type: ignore[arg-type]
    assert missing == []
