"""The command that lists recipes, styles, contents, translations and weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

import tyro

from impasto import presets


@dataclass
class ListCommand:
    """List what is available, with sources, sizes and licences."""

    what: tyro.conf.Positional[Literal["recipes", "styles", "contents", "translations", "weights"]]
    """What to list."""

    def run(self) -> None:
        from impasto import bundled, weights

        if self.what == "recipes":
            rows = [(name, presets.ABOUT[name]) for name in presets.TRANSFERS]
        elif self.what == "translations":
            rows = [*bundled.TRANSLATORS.items(), *presets.ABOUT_TRANSLATIONS.items()]
        elif self.what == "weights":
            rows = [
                (name, f"{entry.size / 1e6:.1f} MB, {entry.licence}; {entry.source}")
                for name, entry in weights.WEIGHTS.items()
            ]
        else:
            works = bundled.STYLES if self.what == "styles" else bundled.CONTENTS
            rows = [(n, f"{p.title}; by: {p.author}; year: {p.year}; rights: {p.rights}") for n, p in works.items()]
        width = max((len(name) for name, _ in rows), default=0)
        for name, about in rows:
            print(f"{name:<{width}}  {about}")
            thumbnail = bundled.thumbnail(name) if self.what == "styles" and sys.stdout.isatty() else None
            if thumbnail is not None:
                from impasto import sheets

                print(sheets.blocks(thumbnail, columns=32))
