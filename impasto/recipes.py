"""Recipes: everything that decides a picture, as flat frozen dataclasses. Standard library only.

The command line's flags and help, docs/recipes.md and the receipts in outputs are generated from them; see `presets`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeVar

ContentTerm = Literal["half-sum", "mean", "quarter-mean", "relative", "normalized"]
StyleTerm = Literal["gatys", "mean", "blog", "five", "owl", "relative", "bounded"]

GRAIN = 0.11  # noise, as a fraction of a photograph's contrast: it varies the strokes in skies, and changes no shapes
FIVE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
REGION_COLORS = (
    "#0000ff", "#00ff00", "#ffffff", "#ff0000", "#ffff00", "#808080",
    "#00ffff", "#ff00ff", "#000000", "#ff8000", "#8000ff", "#008040",
)  # fmt: skip
STARTS = ("content", "noise", "style", "one-pass")  # values of `init` that are no paths
LARGEST = 16_384  # the largest long edge of a picture in pixels
SEEDS = 2**32 - 1  # the largest seed: SciPy takes 32 bits

Default = TypeVar("Default", int, float, tuple[float, ...])


def within(least: float, most: float, default: Default, *, above: bool = False) -> Default:
    """A field of a recipe whose values lie in a range.

    `impasto.schema` checks this range, and the help texts and the studio's inputs show it.

    Args:
        least, most: the bounds; of a tuple, those of each value.
        default: the field's value if none is given.
        above: whether values must be more than ``least``; False: at least.

    Returns:
        A field for `dataclasses`, typed as its default.
    """
    return dataclasses.field(default=default, metadata={"range": (least, most, above)})


@dataclass(frozen=True)
class Transfer:
    """Optimisation-based transfer and reconstruction: the pixels themselves are optimised."""

    size: int = within(0, LARGEST, 512)
    """Long edge of the result in pixels; 0 keeps the content's own size."""
    steps: int = within(1, 100_000, 240)
    """Number of iterations, divided evenly among the scales."""
    strength: float = within(0, 10_000, 1.0)
    """How strongly the style is painted: a factor on the style's weight."""

    content_layers: tuple[str, ...] = ("relu4_2",)
    """Encoder layers whose activations are kept from the content."""
    content_weight: float = within(0, 1e9, 1.0)
    """Weight of the content term (alpha)."""
    content_layer_weights: tuple[float, ...] = within(0, 1e9, ())
    """Weight of each content layer; default: 1 each."""
    content_term: ContentTerm = "relative"
    """Normalisation of the content's squared error; see docs/losses.md."""
    style_layers: tuple[str, ...] = FIVE
    """Encoder layers whose Gram matrices are matched to the style's."""
    layer_weights: tuple[float, ...] = within(0, 1e9, ())
    """Weight of each style layer; default: 1 each."""
    style_weight: float = within(0, 1e9, 20.0)
    """Weight of the style term (beta)."""
    style_term: StyleTerm = "relative"
    """Normalisation of the Gram matrices' squared difference; see docs/losses.md."""
    smoothness: float = within(0, 1e6, 3.0)
    """Weight of the total variation; higher values give a smoother picture."""
    feature_scale: float = within(0, 1e6, 0.0)
    """Scale each layer's activations to this root mean square, so that an article's weights fit this encoder. 0: not
    scaled."""

    style_scale: float = within(0, 8, 1.0, above=True)
    """Size of the strokes: the style's long edge as a multiple of the result's."""
    style_weights: tuple[float, ...] = within(0, 1e9, ())
    """Share of each style; default: equal shares."""
    face_strength: float = within(0, 1, 1.0)
    """How strongly the style is painted on faces, relative to the rest; 1: faces are not looked for."""
    keep_colors: Literal["none", "luma", "histogram"] = "none"
    """Keep the content's colours. luma: paint only its brightness; histogram: match the style's colours to it first."""

    palette: bool = False
    """First recolour the content with the style's palette (its whole distribution of colours); optimisation starts from
    that and keeps its structure. Off: start from the content's own colours."""

    init: str = "content"
    """What the optimisation starts from: content, noise, style, one-pass (as `impasto apply` paints), or the path of a
    picture."""
    noise: float = within(0, 10, 0.25, above=True)
    """Standard deviation of the noise around mid grey when starting from noise, for sRGB in [0, 1]."""
    scales: tuple[float, ...] = within(0, 1, (), above=True)
    """Fractions of the size to paint one after the other, each starting from the last; they end with 1. Default:
    halvings down to about 128 pixels."""

    optimizer: Literal["lbfgs", "adam", "descent"] = "lbfgs"
    """L-BFGS with a line search, Adam, or descent along the normalised gradient."""
    rate: float = within(0, 1000, 1.0, above=True)
    """Learning rate for sRGB in [0, 1]; for lbfgs only of the first step; for descent, the length of a step."""
    flat: float = within(0, 1, 0.0)
    """Move to the next scale when the loss fell by less than this fraction over ten steps; 0 disables this."""
    clip: bool = True
    """Keep values in [0, 1] at every step. Off: clip values only when saving."""

    sweep: tuple[float, ...] = within(0, 1e9, ())
    """Style weights to paint one after the other, shown side by side."""
    checkpoint_every: int = within(0, 100_000, 0)
    """Steps between two checkpoints, each the picture and a file to resume from; 0: none."""
    figure: bool = False
    """At each checkpoint, also save content, picture and style side by side. Off: only the picture."""
    frame_every: int = within(0, 100_000, 0)
    """Steps between two frames of the video of the optimisation; if set, OUT.mp4 is saved even without `video`.
    0: chosen for a video of ten seconds."""
    fps: int = within(1, 240, 25)
    """Frames per second of that video, and of a film that is read from numbered pictures."""

    encoder: str = "compact"
    """Perceptual encoder: compact, vgg19, or the path of a weights file."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the encoder; auto: bfloat16 if the processor supports it, otherwise float32."""
    seed: int = within(0, SEEDS, 0)
    """Seed of the noise."""


@dataclass(frozen=True)
class Training:
    """Training of a one-pass network."""

    steps: int = within(1, 10_000_000, 2400)
    """Number of training steps."""
    batch: int = within(1, 1024, 2)
    """Crops per step."""
    crop: int = within(64, 4096, 224)
    """Side of a crop in pixels."""
    rate: float = within(0, 10, 1.5e-3, above=True)
    """Peak learning rate; it rises in the first steps, then falls along a cosine."""
    strength: float = within(0, 10_000, 1.0)
    """How strongly the style is painted: a factor on the style's weight. Bundled styles use 0.6 to 3.4."""
    style_size: int = within(1, LARGEST, 512)
    """Long edge of the photographs that the network is meant for, in pixels."""
    style_scale: float = within(0, 8, 1.0, above=True)
    """Size of the strokes: the style's long edge as a multiple of that of the photographs."""
    descreen: bool = False
    """First remove a canvas's weave or a print's screen from the painting. Off: the network may paint it as a mesh."""
    smoothness: float = within(0, 1e6, 2.0)
    """Weight of the total variation; higher values give a smoother picture."""
    lattice: float = within(0, 1e6, 300.0)
    """Weight of the penalty on regular grids, which upsampling networks tend to paint instead of strokes."""
    grain: float = within(0, 1, GRAIN)
    """Smooth noise added to photographs in training and in `impasto apply`, as a fraction of their contrast;
    it varies the strokes in skies. 0: none."""
    crispness: float = within(0, 1, 1.0)
    """How far `impasto apply` removes dots and meshes afterwards and gives strokes crisp edges. 0 for a style that
    needs fine lines. The training itself does not use it."""
    underpainting: float = within(0, 1, 0.0)
    """How strongly `impasto apply` adds the strokes of a first painting, of half the size, to clouds and other faint
    forms: strokes there get longer and bolder. The training itself does not use it."""
    motion: float = within(0, 1e6, 0.0)
    """For steadier films: weight of the consistency loss. Repainting a shifted crop should equal shifting the repainted
    crop. A step takes twice as long. 0: none."""
    halos: float = within(0, 1e6, 0.0)
    """Weight of the penalty on rims of another colour that are painted around towers, trees or heads. 0: none."""
    weave: float = within(0, 1e6, 0.0)
    """Weight of the penalty on dots, meshes and other fine marks where the photograph is even. 0: none."""
    ramp: float = within(0, 1, 0.1)
    """Fraction of the steps in which the strength rises, so that the network first learns to keep the photograph."""
    start: str = "the-great-wave"
    """Network to start from, which can already reproduce photographs: a bundled style or a model's file.
    Empty: random weights, which need several times the steps."""
    encoder: str = "compact"
    """Perceptual encoder: compact, vgg19, or the path of a weights file."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of network and encoder; auto: bfloat16 if the processor supports it, otherwise float32."""
    seed: int = within(0, SEEDS, 0)
    """Seed of the weights and the crops."""

    def loss_recipe(self) -> Transfer:
        """The recipe of the loss."""
        return Transfer(
            strength=self.strength,
            content_layers=("relu3_1", "relu4_2", "relu5_1"),
            content_layer_weights=(0.7, 1.9, 0.4),
            content_weight=2 / 3,
            content_term="normalized",
            layer_weights=(0.3, 1.0, 1.4, 1.1, 0.8),
            style_weight=20.0,
            style_term="bounded",
            smoothness=self.smoothness,
            encoder=self.encoder,
            precision=self.precision,
        )


@dataclass(frozen=True)
class Photo:
    """Photorealistic transfer: a photograph in another one's light (Luan2017)."""

    size: int = within(1, 8192, 512)
    """Long edge in pixels at which the light is computed. The result has the photograph's own size."""
    steps: int = within(0, 100_000, 0)
    """Iterations of L-BFGS on the style loss (Luan2017) after the fit; 12 give more contrast. 0: none."""
    strength: float = within(0, 2, 1.0)
    """How much of the other photograph's light is applied. 0: none; 1: all of it; more exaggerates it."""
    evenness: float = within(0, 1e6, 3.0)
    """How even the change of light is over tones and places. 0: every area may change differently; large values: the
    whole region changes alike."""
    keep_highlights: float = within(0, 1, 0.0)
    """How far near-white areas of the photograph (lamps, snow) stay as bright as they were; 1: fully."""
    regions: int = within(1, len(REGION_COLORS), 6)
    """Number of regions to find if no masks are given."""
    encoder: str = "compact"
    """Perceptual encoder: compact, vgg19, or the path of a weights file."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the encoder; auto: bfloat16 if the processor supports it, otherwise float32."""
    seed: int = within(0, SEEDS, 0)
    """Seed of the search for regions."""

    def loss_recipe(self) -> Transfer:
        """The recipe of the style loss."""
        # In deep layers, style is an arrangement, which light does not change: matching it gives stains.
        return Transfer(
            content_weight=0.0, style_layers=FIVE[:3], style_weight=231.0, smoothness=0.0,
            encoder=self.encoder, precision=self.precision,
        )  # fmt: skip


@dataclass(frozen=True)
class Translation:
    """Training of a network that translates pictures, from pairs (Isola2017)."""

    epochs: float = within(0, 100_000, 200.0, above=True)
    """How often every pair is used."""
    steps: int = within(0, 100_000_000, 0)
    """Number of training steps; 0: as many as the epochs take."""
    batch: int = within(1, 1024, 1)
    """Pairs per step."""
    rate: float = within(0, 1000, 2e-4, above=True)
    """Learning rate of both networks."""
    constant: float = within(0, 1, 0.5)
    """Share of the steps with this rate; after it, the rate falls linearly to 0."""
    generator: str = "unet256"
    """The network. unet256, unet128: a U-Net that halves 256 or 128 pixels down to one; resnet9, resnet6: 9 or 6
    residual blocks; features: colours from the encoder's features, only with --pairs colorize."""
    width: int = within(1, 1024, 64)
    """Channels of the generator's first layer; use fewer on small machines."""
    critic_width: int = within(1, 1024, 64)
    """Channels of the discriminator's first layer."""
    critic_layers: int = within(0, 6, 3)
    """Layers of the discriminator with a stride: 3 judges patches of 70 pixels, 0 single pixels, 1 of 16, 5 of 286."""
    norm: Literal["batch", "instance"] = "batch"
    """Normalisation. batch: statistics of the current batch, in training and when applied; instance: of each
    picture."""
    dropout: float = within(0, 0.99, 0.5)
    """Probability of dropping a channel. Dropout is the network's noise and stays on when it is applied."""
    resize: bool = False
    """Upsample by resizing before a convolution, which avoids checkerboards. Off: by transposed convolutions, as in the
    paper."""
    gan: Literal["bce", "lsgan", "none"] = "bce"
    """The adversarial loss. bce: cross-entropy; lsgan: squared error; none: only the L1 loss."""
    gan_weight: float = within(0, 1e6, 1.0)
    """Weight of the adversarial loss."""
    l1: float = within(0, 1e6, 100.0)
    """Weight of the L1 distance to the target (lambda)."""
    pairs: Literal["given", "colorize", "edges"] = "given"
    """Where the pairs come from. given: the folder. The others make pairs from photographs: lightness and colours, or
    edges and photograph."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """The direction. AtoB: from the left picture, or the first folder, to the right one, or the second; BtoA: the
    reverse."""
    inputs: int = within(1, 1024, 3)
    """Channels of the inputs: 1 grey, 3 colour, 4 with transparency; TIFF and .npy may have any number."""
    outputs: int = within(1, 1024, 3)
    """Channels of the targets."""
    load: int = within(8, 8192, 286)
    """Short side in pixels to which pairs are resized."""
    crop: int = within(8, 8192, 256)
    """Side in pixels of the random crops from the resized pairs."""
    mirror: bool = True
    """Mirror half of the pairs. Off: do not mirror pairs."""
    validation: float = within(0, 0.9, 0.05)
    """Share of the pairs that is held out to measure L1, PSNR and SSIM."""
    encoder: str = "compact"
    """Perceptual encoder that the generator with features reads."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the networks; auto: bfloat16 if the processor supports it, otherwise float32."""
    seed: int = within(0, SEEDS, 0)
    """Seed of the weights, the crops, the noise and the split."""

    @property
    def channels(self) -> tuple[int, int]:
        """Of inputs and targets, as the networks see them."""
        return {"given": (self.inputs, self.outputs), "colorize": (1, 2), "edges": (1, 3)}[self.pairs]
