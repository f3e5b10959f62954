"""The student of `compact_encoder.py`: its shape, initialisation, fixed channels and final calibration."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from teachers import LAYERS, PLACES, VGG_LAYERS, Teachers
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import datasets
from impasto.encoder import IMAGENET, VGG

WIDTHS = {
    **{"1_1": 32, "1_2": 32, "2_1": 64, "2_2": 64, "3_1": 160, "3_2": 48, "3_3": 48, "3_4": 48},
    **{"4_1": 80, "4_2": 80, "4_3": 64, "4_4": 128, "5_1": 112},
}
REFLECT, EXACT = "3_2", "5_1"  # of `VGG`; large terms cancel in the teacher's kernels, too large for bfloat16
Moments = Mapping[str, tuple[Tensor, Tensor]]  # layer -> mean and deviation of a teacher's channels, (1, C, 1, 1) each


class Own(nn.Module):
    """The head of a layer whose first channels are the teacher's channels that fire, in units of their deviation.

    Args:
        mean, deviation: (1, C, 1, 1) of the teacher's channels.
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        fires = mean.flatten() > 0
        self.register_buffer("fires", fires.float().view(1, -1, 1, 1))
        self.register_buffer("where", (fires.cumsum(0) - 1).clamp_min(0))
        self.register_buffer("offset", mean / deviation)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.where] * self.fires - self.offset


class Student(nn.Module):
    """The encoder, and a head on each layer that has a teacher.

    Args:
        stats: moments of the targets, from `statistics`.
        own: moments of all of the pruned teacher's layers.
    """

    def __init__(self, stats: Moments, own: Moments) -> None:
        super().__init__()
        self.encoder = VGG(WIDTHS, mean=IMAGENET[0], std=IMAGENET[1], places=PLACES, reflect=REFLECT, exact=EXACT)
        self.heads = nn.ModuleDict(
            {
                layer: nn.Conv2d(WIDTHS[layer[4:]], mean.shape[1], 1) if layer in VGG_LAYERS else Own(mean, deviation)
                for layer, (mean, deviation) in stats.items()
            }
        )
        self.own = {place: int((own[f"relu{place}"][0] > 0).sum()) for place in PLACES}

    def forward(self, image: Tensor, layers: tuple[str, ...] = LAYERS) -> dict[str, Tensor]:
        """The teachers' normalised features, as the student predicts them."""
        return {layer: self.heads[layer](x) for layer, x in self.encoder(image, layers).items()}

    def units(self, stats: Moments) -> dict[str, Tensor]:
        """layer -> (C,) factors that convert the encoder's channels to the teachers' units.

        Where the channels are the teacher's, they are its deviations. In the VGG-19's layers, they are the norm of a
        channel's column in the head, in the teacher's own units, so that distances between Gram matrices weigh
        channels as its own do; their geometric mean is 1.
        """
        factors = {}
        for layer, head in self.heads.items():
            deviation = stats[layer][1].flatten()
            if isinstance(head, Own):
                fires = deviation[head.fires.flatten() > 0]
                factors[layer] = F.pad(fires, (0, WIDTHS[layer[4:]] - len(fires)), value=1.0)
            else:
                norm = (head.weight[:, :, 0, 0] * deviation[:, None]).norm(dim=0)
                norm = norm.clamp_min(1e-3 * norm.max())
                factors[layer] = norm / norm.log().mean().exp()  # otherwise the next layer vanishes in float16
        return factors


def settle(patches: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Fit weights by L-BFGS, from those given, so that their rectified products with the patches are as wanted.

    The product should equal the teacher where it fires, and not exceed zero elsewhere: a convex loss, whitened.

    Args:
        patches: (N, F). wanted: (N, C), at least 0. weights: (C, F) to start from. All float64.
    """
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    spread = (values.clamp_min(0) + 1e-7 * values.mean()).sqrt()
    white, fires = patches @ (vectors / spread), wanted > 0
    found = (weights @ vectors * spread).requires_grad_()
    descent = torch.optim.LBFGS(
        [found], max_iter=300, history_size=20, line_search_fn="strong_wolfe", tolerance_change=0
    )

    def loss() -> Tensor:
        descent.zero_grad()
        product = white @ found.T
        value = (torch.where(fires, product, F.relu(product)) - wanted).square().mean(0).sum()
        value.backward()
        return value

    descent.step(loss)
    return (found.detach() / spread) @ vectors.T


def observe(
    encoder: VGG, teachers: Teachers, own: Moments, batch: Tensor, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """place -> 2,500 patches of the layer's input, (N, 9 C_in + 1), and the teacher's channels that fire, (N, C)."""
    seen = {}
    before = (batch - encoder.mean) / encoder.std
    for layer, features in teachers.pruned(batch).items():
        mean, deviation = own[layer]
        features = (features / deviation)[:, mean.flatten() > 0]
        if layer.endswith("_1") and layer != "relu1_1":
            before = F.max_pool2d(before, 2)
        # Not at the border, where the teacher has reflection padding and the student's shallow layers zeros.
        patches = F.unfold(before, 3, padding=0).transpose(1, 2).flatten(0, 1)
        wanted = features[..., 1:-1, 1:-1].flatten(2).transpose(1, 2).flatten(0, 1)
        some = torch.randperm(len(patches), generator=generator, device=batch.device)[:2500]
        seen[layer[4:]] = F.pad(patches[some], (0, 1), value=1.0), wanted[some]
        before = features
    return seen


@torch.no_grad()
def begin(student: Student, teachers: Teachers, own: Moments, pool: datasets.Pool) -> None:
    """Start from random weights; fit the teacher's channels, and give the others zero mean and unit variance.

    The latter follows Mishkin and Matas, "All you need is a good init", 2016.
    """
    generator = torch.Generator(pool.canvas.device).manual_seed(2)
    batches = [datasets.random_crops(pool, 16, 192, generator) for _ in range(12)]
    seen = [observe(student.encoder, teachers, own, batch, generator) for batch in batches]
    x = (batches[0] - student.encoder.mean) / student.encoder.std
    for place, count in student.own.items():
        convolution = getattr(student.encoder, f"conv{place}")
        patches, wanted = (torch.cat(parts).double() for parts in zip(*(part.pop(place) for part in seen), strict=True))
        inputs = patches.shape[1] // 9
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        weights = F.pad(convolution.weight[:count, :inputs].flatten(1), (0, 1)).double()
        convolution.weight[:count] = convolution.bias[:] = 0
        with torch.enable_grad():
            weights = settle(patches, wanted, weights)
        convolution.weight[:count, :inputs] = weights[:, :-1].view(count, inputs, 3, 3)
        convolution.bias[:count] = weights[:, -1]
        if place in student.encoder.reflecting:  # nothing is left to learn there: zero the rest
            convolution.weight[count:] = 0
            continue
        if place.endswith("_1") and place != "1_1":
            x = F.max_pool2d(x, 2)
        deviation, mean = torch.std_mean(convolution(x)[:, count:], (0, 2, 3))
        convolution.weight[count:] /= deviation.view(-1, 1, 1, 1)
        convolution.bias[count:] = -mean / deviation
        x = F.relu(convolution(x))


def hold(student: Student) -> None:
    """Freeze the teacher's own channels, except for the weights by which other channels add to them."""

    def without(rows: int, columns: int, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[:rows, :columns] = 0
        return gradient

    inputs = 3
    for place, count in student.own.items():
        convolution = getattr(student.encoder, f"conv{place}")
        convolution.weight.register_hook(partial(without, count, inputs))
        convolution.bias.register_hook(lambda gradient, count=count: F.pad(gradient[count:], [count, 0]))
        inputs = count


@torch.no_grad()
def calibrate(student: Student, stats: Moments) -> VGG:
    """The encoder with its channels in the teachers' units: a layer is scaled, and the next divides by the scale."""
    units, scale = student.units(stats), None
    for place in PLACES:
        convolution = getattr(student.encoder, f"conv{place}")
        if scale is not None:
            convolution.weight /= scale.view(1, -1, 1, 1)
        scale = units.get(f"relu{place}", torch.ones_like(convolution.bias))
        convolution.weight *= scale.view(-1, 1, 1, 1)
        convolution.bias *= scale
    return student.encoder.cpu()
