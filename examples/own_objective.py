"""Your own loss on the same engine: a photograph with the style's shallow textures, and no content term."""

import sys

import impasto
from impasto import bundled, encoder, images, losses, optimize

content, style, out = sys.argv[1:] or ("rocket", "the-scream", "textured.png")
photograph, painting = (images.to_size(images.to_tensor(bundled.locate(name)), 256) for name in (content, style))
network = encoder.load("compact")
layers = ["relu1_1", "relu2_1", "relu3_1"]
targets = {layer: losses.gram(x) for layer, x in network(painting, layers).items()}


def terms(image):
    features = network(image, layers).items()
    return {
        layer: losses.style_loss(losses.gram(x), targets[layer], x[0, 0].numel(), "relative") for layer, x in features
    }


*_, step = optimize.minimize(photograph, optimize.by_autograd(terms), optimizer="lbfgs", steps=30, rate=1.0)
impasto.write(out, step.image.clamp(0, 1))
print(out)
