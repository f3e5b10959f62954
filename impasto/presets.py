"""Every published preset, each with its reference; docs/recipes.md is generated from this file."""

from __future__ import annotations

import dataclasses

from impasto.recipes import FIVE, Transfer, Translation

# Structure of the content (Park2019), bounded style (Cheng2021), starting in the palette of the painting (Pitie2007).
impasto = Transfer(
    steps=200,
    content_layers=("relu3_1", "relu4_2", "relu5_1"),
    content_layer_weights=(0.25, 1.0, 0.75),
    content_term="normalized",
    layer_weights=(0.3, 0.9, 1.3, 1.3, 1.2),
    style_weight=120.0,
    style_scale=1.35,
    style_term="bounded",
    face_strength=0.3,
    palette=True,
    flat=0.03,
)

# The content is held closer, and from relu2_1 on, so that no stroke crosses a mouth or an eye. This paints the whole
# picture gently, so faces are not looked for.
portrait = dataclasses.replace(
    impasto,
    content_layers=("relu2_1", "relu3_1", "relu4_2", "relu5_1"),
    content_layer_weights=(2.0, 1.0, 1.0, 1.0),
    style_weight=80.0,
    face_strength=1.0,
    smoothness=6.0,
)

# Gatys2016: eq. 1 (content), eq. 4 and 5 (style, w = 1/5), alpha / beta = 1e-3, L-BFGS, white noise.
# Its sums assume activations in the hundreds, as of the original VGG-19 on 0-255 input.
gatys_2016 = Transfer(
    steps=500,
    content_weight=1e-3,
    content_term="half-sum",
    layer_weights=(0.2,) * 5,
    style_weight=1.0,
    style_term="gatys",
    feature_scale=300.0,
    init="noise",
    smoothness=0.0,
    scales=(1.0,),
    clip=False,
)

# PyTorchBlog. Adam 0.005 is on ImageNet-normalised pixels, whose unit is 0.226 of sRGB's range.
pytorch_blog = Transfer(
    size=768,
    steps=3000,
    content_term="mean",
    layer_weights=(0.2,) * 5,
    style_weight=100.0,
    style_term="blog",
    feature_scale=1.0,
    smoothness=0.0,
    scales=(1.0,),
    optimizer="adam",
    rate=0.005 * 0.226,
    checkpoint_every=500,
    figure=True,
    clip=False,
)

# KerasDescent. A step of 100 on the 0-255 scale; its first experiment matches only block1_conv1, its last
# block1_conv1 and block4_conv1, as here. `impasto study --over descent` paints each layer.
keras_descent = Transfer(
    steps=2000,
    content_layers=(),
    content_weight=0.0,
    style_layers=("relu1_1", "relu4_1"),
    style_weight=1.0,
    style_term="mean",
    smoothness=0.0,
    scales=(1.0,),
    optimizer="descent",
    rate=100 / 255,
    frame_every=10,
    fps=10,
    clip=False,
)

# TensorFlowCourse. "Last output" is the deepest chosen layer. Its code subtracts a tensor from itself in the content
# term; we follow its text. The weights are those of its loop, 20 : 40 (its function's defaults: 10 : 40).
# It states neither steps nor layers: ours.
tensorflow_course = Transfer(
    steps=600,
    content_layers=("relu5_1",),
    content_weight=20.0,
    content_term="quarter-mean",
    layer_weights=(0.2,) * 5,
    style_weight=40.0,
    style_term="gatys",
    feature_scale=1.0,
    init="noise",
    smoothness=0.0,
    scales=(1.0,),
    optimizer="adam",
    rate=0.03,
)

# PyTorchFive states neither rate nor steps: ours.
pytorch_five = Transfer(
    steps=300,
    content_layers=FIVE,
    content_term="mean",
    style_weight=100.0,
    style_term="five",
    feature_scale=1.0,
    smoothness=0.0,
    scales=(1.0,),
    optimizer="adam",
    rate=0.01,
    sweep=(0.1, 100.0, 100_000.0),
    clip=False,
)

# OwlBook. Its rate is not stated: ours. Its noise is 0.256 x gaussian on the network's own input scale.
owl = Transfer(
    steps=250,
    content_term="mean",
    style_weight=20.0,
    style_term="owl",
    feature_scale=300.0,
    smoothness=0.0,
    scales=(1.0,),
    optimizer="adam",
    rate=0.02,
    noise=0.256 / 255,
    checkpoint_every=50,
    clip=False,
)

reconstruct_content = Transfer(
    steps=200,
    style_layers=(),
    style_weight=0.0,
    smoothness=1e-3,
    init="noise",
    scales=(1.0,),
)

reconstruct_style = Transfer(
    steps=300,
    content_layers=(),
    content_weight=0.0,
    style_weight=1.0,
    init="noise",
    smoothness=0.0,
)

# Isola2017, section 6.2: the epochs, the batch, and whether there is jitter (286 to 256 pixels) of each task. The paper
# keeps the rate; the decay of the second half is that of the authors' later code.
TRANSLATIONS: dict[str, Translation] = {
    "pix2pix": Translation(),
    "facades": Translation(direction="BtoA"),
    "maps": Translation(),
    "cityscapes": Translation(direction="BtoA"),
    "day2night": Translation(epochs=17.0, batch=4),
    "thermal2color": Translation(epochs=10.0, batch=4),
    "inpaint": Translation(epochs=25.0, batch=4),
    "edges2photos": Translation(epochs=15.0, batch=4, load=256),
    "edges": Translation(pairs="edges", epochs=15.0, batch=4),
    "colorize": Translation(pairs="colorize", epochs=6.0, batch=4, load=256),
    "colorize-small": Translation(
        pairs="colorize", generator="features", epochs=16.0, batch=16, rate=2e-3, constant=0.0, crop=224, gan="none",
    ),
    "small": Translation(generator="unet128", width=24, critic_width=32, load=143, crop=128, resize=True),
}  # fmt: skip

ABOUT_TRANSLATIONS: dict[str, str] = {
    "pix2pix": "Isola2017: U-Net of width 64, patches of 70 pixels, batch 1, 200 epochs.",
    "facades": "Labels to facades: photographs left, labels right, as in CMP's pairs.",
    "maps": "Aerial photographs to maps, or back with --direction BtoA.",
    "cityscapes": "Labels to street scenes.",
    "day2night": "Day to night: 17 epochs of batch 4.",
    "thermal2color": "Thermal pictures to colour photographs: 10 epochs of batch 4.",
    "inpaint": "Photographs with a hole to whole ones: 25 epochs of batch 4.",
    "edges2photos": "Drawings to shoes or handbags: 15 epochs of batch 4, no jitter.",
    "edges": "Edges to photographs; the pairs are made from any photographs.",
    "colorize": "For `pix2pix train`: grey to colour with the paper's networks; pairs are made from any photographs.",
    "colorize-small": "Grey to colour from the encoder's features: for one to ten thousand photographs.",
    "small": "A U-Net for 128 pixels of width 24, for small machines.",
}

TRANSFERS: dict[str, Transfer] = {
    "impasto": impasto,
    "portrait": portrait,
    "gatys-2016": gatys_2016,
    "pytorch-blog": pytorch_blog,
    "keras-descent": keras_descent,
    "tensorflow-course": tensorflow_course,
    "pytorch-five": pytorch_five,
    "owl": owl,
    "reconstruct-content": reconstruct_content,
    "reconstruct-style": reconstruct_style,
}

ABOUT: dict[str, str] = {
    "impasto": "Our own: unit-free losses, coarse to fine, L-BFGS from the content.",
    "portrait": "Our own, for faces that are not found, such as profiles: closer to the content, smaller strokes.",
    "gatys-2016": "Gatys2016, the paper's equations as PyTorchBlog restates them: L-BFGS from noise.",
    "pytorch-blog": "PyTorchBlog: Gram matrices not normalised, weights 1 : 100, 3,000 steps of Adam from the content.",
    "keras-descent": "KerasDescent: style only, descent along the normalised gradient, with a video.",
    "tensorflow-course": "TensorFlowCourse: Adam 0.03 from noise, clipped to [0, 1] at every step, weights 20 : 40.",
    "pytorch-five": "PyTorchFive: the same five layers for content and style, three betas side by side.",
    "owl": "OwlBook: 250 steps of Adam, Gram matrices over C H W, weights 1 : 20, a checkpoint every 50.",
    "reconstruct-content": "What a layer represents of a picture: only its activations are matched, from noise.",
    "reconstruct-style": "What a layer represents of a style: only its Gram matrix is matched, from noise.",
}


def table() -> str:
    """docs/recipes.md: every preset, with the fields that differ from the default recipe."""
    lines = [
        "# Recipes",
        "",
        "Generated from `impasto/presets.py` by `python -m impasto.presets`. The first table lists all fields of "
        "the default recipe, `impasto`; the others list the fields that differ from it. Weights are content : style. "
        "Names such as Gatys2016 are keys in [references.md](references.md).",
    ]
    for name, recipe in TRANSFERS.items():
        lines += ["", f"## {name}", "", ABOUT[name], "", "| field | value |", "|---|---|"]
        for field in dataclasses.fields(Transfer):
            value = getattr(recipe, field.name)
            if name == "impasto" or value != getattr(impasto, field.name):
                text = " ".join(str(item) for item in value) if isinstance(value, tuple) else f"{value}"
                lines.append(f"| {field.name} | {text or '(none)'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
