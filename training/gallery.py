"""Write docs/gallery.md: each bundled style, and any painting, on the bundled photographs.

    python training/gallery.py [--photos DIR]

DIR holds the photographs of `MORE`, for the sheet of colorize; without it, that sheet is left as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from impasto import bundled, color, images, machine, onepass, pix2pix

DOCS = Path(__file__).parent.parent / "docs"
HEIGHT = 220
# File names, and where the photographs are from.
MORE = {
    "china.jpg": "danielbuechele, CC BY 2.0, from scikit-learn",
    "flower.jpg": "vultilion, CC BY 2.0, from scikit-learn",
    "grace_hopper.jpg": "James S. Davis, US Navy, public domain, from Matplotlib",
    "motorcycle.png": "Scharstein et al. 2014, Middlebury stereo benchmark, from scikit-image",
    "raccoon.png": "pixnio.com, CC0, from SciPy",
    "camera.png": "Lav Varshney, CC0, from scikit-image; a grey photograph, without true colours",
}
PAINTINGS = ("starry-night", "composition-vii", "the-great-wave", "udnie")  # for the network of any painting


def row(paintings: list[torch.Tensor]) -> torch.Tensor:
    """Pictures side by side, resized to the same height."""
    return torch.cat([images.resize(x, HEIGHT, round(x.shape[-1] * HEIGHT / x.shape[-2])) for x in paintings], -1)


def colorized(photographs: list[torch.Tensor]) -> torch.Tensor:
    """A sheet of photographs in grey, coloured, and as they are."""
    grey = [color.luma(photograph).expand(-1, 3, -1, -1) for photograph in photographs]
    colours = [pix2pix.apply(photograph, "colorize") for photograph in grey]
    return torch.cat([row(each) for each in (grey, colours, photographs)], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of the other photographs for colorize")
    folder = parser.parse_args().photos
    photographs = [images.to_size(images.to_tensor(bundled.locate(name)), 512) for name in bundled.CONTENTS]
    images.write(DOCS / "images" / "photographs.jpg", row(photographs))
    lines = [
        "# Gallery",
        "",
        "`impasto transfer chelsea composition-vii -o cat.png`, by optimisation:",
        "",
        "![A cat, repainted](images/chelsea-composition-vii.jpg)",
        "",
        "The same on the photographs and paintings of seven pictures published with jcjohnson/neural-style (2015):",
        "",
        "![Seven pictures](images/optimised.jpg)",
        "",
        "`impasto apply` on four photographs, in each bundled style, at 512 pixels. Written by",
        "`python training/gallery.py`. The photographs come from scikit-image:",
        "",
        *(f"- {photograph.title} ({photograph.author})" for photograph in bundled.CONTENTS.values()),
        "",
        "![The photographs](images/photographs.jpg)",
        "",
    ]
    for name, style in bundled.STYLES.items():
        known = [part for part in (style.author, style.title, style.year) if part != "unknown"]
        model = onepass.load(name)
        painted = row([onepass.apply(photograph, model) for photograph in photographs])
        images.write(DOCS / "images" / f"{name}.jpg", painted)
        lines += [
            f"## {name}",
            "",
            f"After {', '.join(known)}." if len(known) > 1 else f"{style.title}, painter unknown.",
            "",
            f"![{name}](images/{name}.jpg)",
            "",
        ]
    rows = []
    for name in PAINTINGS:
        painting = images.to_tensor(bundled.locate(name))
        model = onepass.from_painting(painting)
        side = min(painting.shape[-2:])
        top, left = ((length - side) // 2 for length in painting.shape[-2:])
        square = painting[..., top : top + side, left : left + side]
        rows.append(row([square, *(onepass.apply(photograph, model) for photograph in photographs)]))
    images.write(DOCS / "images" / "any-style.jpg", torch.cat(rows, 2))
    lines += [
        "## Any painting",
        "",
        "`impasto apply PHOTO --style PAINTING.jpg`: one network for all paintings. The paintings are on the left.",
        "",
        "![Any painting](images/any-style.jpg)",
        "",
    ]
    images.write(DOCS / "images" / "colorize.jpg", colorized(photographs))
    if folder:
        more = [images.to_size(images.to_tensor(folder / name), 512) for name in MORE]
        images.write(DOCS / "images" / "colorize-more.jpg", colorized(more))
    lines += [
        "## colorize",
        "",
        "`impasto pix2pix apply colorize` on the photographs in grey. The last row has the true colours.",
        "",
        "![colorize](images/colorize.jpg)",
        "",
        "Six more, which training never saw either:",
        "",
        *(f"- {source}" for source in MORE.values()),
        "",
        "![colorize on six more](images/colorize-more.jpg)",
        "",
    ]
    (DOCS / "gallery.md").write_text("\n".join(lines))


if __name__ == "__main__":
    with machine.reused_memory():
        main()
