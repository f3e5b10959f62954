"""Paint docs/gallery.md: each style that ships, on photographs that ship.

python training/gallery.py
"""

from __future__ import annotations

from pathlib import Path

import torch

from impasto import bundled, images, machine, onepass

DOCS = Path(__file__).parent.parent / "docs"
HEIGHT = 220


def row(paintings: list[torch.Tensor]) -> torch.Tensor:
    """Pictures side by side, brought to one height."""
    return torch.cat([images.resize(x, HEIGHT, round(x.shape[-1] * HEIGHT / x.shape[-2])) for x in paintings], -1)


def main() -> None:
    photographs = [images.to_size(images.to_tensor(bundled.locate(name)), 512) for name in bundled.CONTENTS]
    images.write(DOCS / "images" / "photographs.jpg", row(photographs))
    lines = [
        "# Gallery",
        "",
        "What `impasto apply` makes of four photographs in each style that ships, at 512 pixels, in one pass.",
        "Painted by `python training/gallery.py`; the photographs are scikit-image's: "
        + ", ".join(f"{p.title} ({p.author})" for p in bundled.CONTENTS.values())
        + ".",
        "",
        "![The photographs](images/photographs.jpg)",
        "",
    ]
    for name, style in bundled.STYLES.items():
        model = onepass.load(name)
        painted = row([onepass.apply(photograph, model) for photograph in photographs])
        images.write(DOCS / "images" / f"{name}.jpg", painted)
        lines += [
            f"## {name}",
            "",
            f"After {style.author}, {style.title}, {style.year}.",
            "",
            f"![{name}](images/{name}.jpg)",
            "",
        ]
    (DOCS / "gallery.md").write_text("\n".join(lines))


if __name__ == "__main__":
    with machine.reused_memory():
        main()
