"""A page of the API reference for each public module; run by mkdocs (see mkdocs.yml)."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parent.parent / "impasto"


def modules() -> list[str]:
    """Dotted names of the modules whose names do not start with an underscore."""
    paths = sorted(path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py"))
    parts = [path.parts[:-1] if path.name == "__init__" else path.parts for path in paths]
    return [".".join(names) for names in parts if not names[-1].startswith("_")]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and a page that lists them."""
    names = modules()
    pages = {f"api/{name}.md": f"# {name}\n\n::: {name}\n" for name in names}
    pages["api/index.md"] = "# API reference\n\n" + "".join(f"- [{name}]({name}.md)\n" for name in names)
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files
