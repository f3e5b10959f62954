"""Print the loss, and stop when it levels off: engines are generators, so leaving the loop stops them."""

import sys
from dataclasses import replace

import impasto
from impasto import bundled

content, style, out = sys.argv[1:] or ("coffee", "the-great-wave", "watched.png")
recipe = replace(impasto.presets.impasto, size=256, scales=(1.0,), steps=200)
before = float("inf")
for step in impasto.steps(bundled.locate(content), bundled.locate(style), recipe):
    if step.index % 10 == 0:
        print(f"step {step.index}: {step.loss:.4f}", {name: round(term, 4) for name, term in step.terms.items()})
        if step.loss > 0.98 * before:
            break
        before = step.loss
impasto.write(out, step.image)
print(out)
