"""Help texts and docstrings: their words, their length, their sections, and citations by keys."""

import ast
import importlib
import inspect
import io
import pkgutil
import re
import tokenize
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import impasto
from impasto import onepass, recipes, schema
from impasto.commands import DEFAULTS, options
from impasto.runs import onepass as onepass_runs

ROOT = Path(__file__).parent.parent
KINDS = (
    {kind.__name__: kind for kind in (recipes.Transfer, recipes.Training, recipes.Photo, recipes.Translation)}
    | {name: type(default([])) for name, default in DEFAULTS.items()}
    | {"Clip": options.Clip}
)
EXPORTED = [
    name for name in impasto.__all__ if inspect.isfunction(getattr(impasto, name)) and not name.endswith("Error")
]
MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(impasto.__path__, "impasto.")
    if not found.name.endswith("__main__") and found.name.split(".")[1] not in ("commands", "studio")
]
# Public functions with three parameters or more.
LONG = [
    pytest.param(each, id=f"{module.__name__}.{name}")
    for module in MODULES
    for name, each in vars(module).items()
    if inspect.isfunction(each) and each.__module__ == module.__name__ and not name.startswith("_")
    if len(inspect.signature(each).parameters) >= 3
]
# Words for which there are more usual ones: only, again, next to, started, must, so that, further, so, on.
UNUSUAL = re.compile(
    r"\b([Aa]lone|[Aa]new|[Bb]egun|[Bb]eside|[Ss]hall|[Ll]est|[Ff]arther|[Hh]ence|[Uu]pon|[Tt]hereby|[Ss]eldom"
    r"|(?<!there )is none|(is|are) no (folder|picture|style|model|network|file|film|painting|photograph)s?)\b"
)


def prose() -> Iterator[tuple[str, str]]:
    """Every line that people read, with its place: comments, docstrings and messages of Python, whole other files."""
    folders = ("impasto", "docs", "tests", "training", "benchmarks", "examples", "integrations")
    paths = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.*"))]
    for path in paths:
        if path.suffix == ".py":
            for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
                if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string):
                    yield f"{path}:{token.start[0]}", token.string
        elif path.suffix in (".md", ".html", ".js", ".css"):
            yield from ((f"{path}:{number}", line) for number, line in enumerate(path.read_text().splitlines(), 1))


def test_words_are_usual() -> None:
    read = list(prose())
    assert len(read) > 1000
    here = str(Path(__file__))
    assert [
        f"{at}: {found[0]}" for at, text in read if not at.startswith(here) and (found := UNUSUAL.search(text))
    ] == []


@pytest.mark.parametrize("folder", ["impasto", "docs", "tests", "training", "benchmarks", "README.md", "CHANGELOG.md"])
def test_papers_are_cited_by_their_keys(folder: str) -> None:
    path = ROOT / folder
    files = [path] if path.is_file() else [each for kind in ("*.py", "*.md") for each in path.rglob(kind)]
    assert files
    numbered = [f"{each}: {found[0]}" for each in files if (found := re.search(r"(?i)sources? 00\d", each.read_text()))]
    assert numbered == []


def test_sentences_of_docstrings_are_short() -> None:
    long = []
    for path in sorted((ROOT / "impasto").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                parts = re.split(r"\n\s*\n|\n\s*(?:- |[\w, ]+: )", ast.get_docstring(node) or "")
                sentences = [each for part in parts for each in re.split(r"(?<=[.:;])\s+", part)]
                long += [f"{path}: {each}" for each in sentences if len(each.split()) > 40]
    assert long == []


def test_every_cited_key_is_in_the_references() -> None:
    references = (ROOT / "docs" / "references.md").read_text()
    known = set(re.findall(r"\*\*(\w+)\*\*:", references))
    files = [*(ROOT / "impasto").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").glob("*.py")]
    cited = {
        key
        for path in files
        for key in re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)?(?:19|20)\d\d(?:[A-Z]\w*)?\b", path.read_text())
    }
    assert len(cited) > 20
    assert cited - known == set()


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "research").glob("*.md")), ids=lambda path: path.stem)
def test_research_notes_have_dates_and_end_in_decisions(page: Path) -> None:
    sections = re.split(r"^## ", page.read_text(), flags=re.M)[1:]
    assert [section.splitlines()[0] for section in sections if not re.search(r"\*[\w ]+ 20\d\d\.\*", section)] == []
    assert [section.splitlines()[0] for section in sections if "**Decision" not in section] == []


@pytest.mark.parametrize("kind", KINDS)
def test_help_texts_are_short(kind: str) -> None:
    texts = schema.described(KINDS[kind])
    for name, hint in typing.get_type_hints(KINDS[kind], include_extras=True).items():
        for each in getattr(hint, "__metadata__", ()):  # options of several commands have their text in `options`
            texts[name] = texts.get(name) or getattr(each, "help", None) or ""
    assert {name: len(text) for name, text in texts.items() if len(text) > 200} == {}


@pytest.mark.parametrize("name", DEFAULTS)
def test_descriptions_of_commands_are_short(name: str) -> None:
    text = " ".join((inspect.getdoc(KINDS[name]) or "").split())
    assert 0 < len(text) <= 200


def test_help_texts_state_the_constants() -> None:
    assert f"over {onepass.SIZE} pixels" in schema.described(KINDS["apply"])["size"]
    assert f"at most {onepass_runs.PHOTOGRAPHS:,} " in schema.described(KINDS["train"])["photos"]


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_functions_have_sections(name: str) -> None:
    function = getattr(impasto, name)
    text = inspect.getdoc(function) or ""
    assert ("Args:" in text and "Raises:" in text) or name == "stylize"
    assert function.__annotations__["return"] == "None" or "Returns:" in text or "Yields:" in text
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"\b{parameter}\b", text.split("Args:")[1]), parameter


@pytest.mark.parametrize("function", LONG)
def test_long_signatures_have_sections(function: Callable[..., object]) -> None:
    text = inspect.getdoc(function) or ""
    arguments = re.search(r"^Args:\n((?: .*\n)+)", text + "\n", re.M)
    assert arguments
    named = re.findall(r"^    (\w[\w, ]*): ", arguments[1], re.M)
    assert set(inspect.signature(function).parameters) <= set(", ".join(named).split(", "))
    returned = re.search(r"^(Returns|Yields):\n", text, re.M) or "->" in text.splitlines()[0]
    assert returned or function.__annotations__["return"] == "None"
