"""Repaint a photograph: python examples/repaint.py [CONTENT STYLE OUT]"""

import sys

import impasto
from impasto import bundled

content, style, out = sys.argv[1:] or ("chelsea", "starry-night", "repainted.png")
picture = impasto.stylize(bundled.locate(content), bundled.locate(style))
impasto.write(out, picture)
print(out)
