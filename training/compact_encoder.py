"""Distil the embedded compact encoder from its teachers, and measure it.

    python training/compact_encoder.py train --assets DIR --out WORK --compile
    python training/compact_encoder.py export --assets DIR --out WORK

`train` writes WORK/checkpoint.pt, and goes on from it when it is there. `export` folds the batch norms,
calibrates the channels and writes WORK/compact.safetensors with the table of the model card beside it.

The student has VGG-19's shape at a fraction of its width and starts from random weights. Targets are the
real VGG-19's relu1_1, relu2_1, relu3_1 and a pruned VGG-19's relu4_1, relu4_2, relu5_1 (Wang et al. 2020),
each channel brought to zero mean and unit variance. The VGG-19's are read from the student through a 1x1 head
that is thrown away afterwards. The pruned teacher is no wider than the student, whose channels are its channels
there: distances between activations are then the teacher's own. Channels that never fire in it are free.

A third of the crops are pictures under the brush: transfers that the student itself is optimising all the while.
An encoder that saw photographs alone is led astray by what an optimiser finds (its error there is twice as large).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from easels import Easels
from safetensors.torch import save_file
from teachers import LAYERS, PLACES, PRUNED_LAYERS, VGG_LAYERS, Teachers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from impasto import datasets, training
from impasto.encoder import IMAGENET, VGG

WIDTHS = (32, 64, 128, 128, 128)
HELD_OUT = 75
CROPS = ((128, 8), (192, 4))  # (side, batch) in turn
IMPORTANCE = {"relu3_1": 2.5}  # on the error of features; the rest 1


class Direct(nn.Module):
    """The head of a layer whose channels are the teacher's: brings them to the target's mean and variance.

    Args:
        mean, deviation: (1, C, 1, 1) of the teacher's channels.
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("fires", (mean > 0.05 * deviation).float())
        self.register_buffer("offset", mean / deviation)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fires - self.offset


class Student(nn.Module):
    """The encoder with batch norms while it learns, and a head on each layer that has a teacher.

    Args:
        stats: layer -> mean and deviation of the teacher's channels, as `statistics` gives them.
    """

    def __init__(self, stats: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.encoder = VGG(WIDTHS, mean=IMAGENET[0], std=IMAGENET[1], places=PLACES)
        for place in PLACES:
            convolution = getattr(self.encoder, f"conv{place}")
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            batch_norm = nn.BatchNorm2d(convolution.out_channels, momentum=0.02)
            setattr(self.encoder, f"conv{place}", nn.Sequential(convolution, batch_norm))
        self.heads = nn.ModuleDict(
            {
                layer: nn.Conv2d(WIDTHS[int(layer[4]) - 1], mean.shape[1], 1)
                if layer in VGG_LAYERS
                else Direct(mean, deviation)
                for layer, (mean, deviation) in stats.items()
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """The teachers' normalised features, as the student predicts them."""
        return {layer: self.heads[layer](x) for layer, x in self.encoder(image, LAYERS).items()}


def split(assets: Path) -> tuple[list[Path], list[Path]]:
    """Every picture of the photographs and paintings: those to train on and the 75 held out."""
    paths = datasets.pictures(assets / "photos") + datasets.pictures(assets / "paintings")
    held_out = [paths[index * len(paths) // HELD_OUT] for index in range(HELD_OUT)]
    return [path for path in paths if path not in set(held_out)], held_out


def held_out_pictures(paths: list[Path], size: int = 224) -> Tensor:
    """(75, 3, size, size): each picture's short side brought to ``size``, its middle kept."""
    pool = datasets.load(paths)
    rows = []
    for canvas, (height, width) in zip(pool.canvas, pool.sizes.tolist(), strict=True):
        scale = size / min(height, width)
        shape = (max(size, round(height * scale)), max(size, round(width * scale)))
        picture = F.interpolate(
            canvas[None, :, :height, :width].float() / 255, shape, mode="bicubic", antialias=True
        ).clamp(0, 1)
        top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
        rows.append(picture[..., top : top + size, left : left + size])
    return torch.cat(rows)


def augment(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Colour, contrast and noise: optimisation shows an encoder pictures that no camera would."""
    batch = len(crops)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, 1, 1, generator=generator, device=crops.device)

    def chance(probability: float) -> Tensor:
        return uniform(0, 1, 1) < probability

    grey = crops.mean(1, keepdim=True)
    x = grey + uniform(0.3, 1.5, 1) * (crops - grey)
    x = x.clamp(0, 1) ** torch.exp(uniform(-0.4, 0.4, 1))
    x = (x - 0.5) * uniform(0.6, 1.3, 3) + 0.5 + uniform(-0.12, 0.12, 3)
    x = torch.where(chance(0.4), x, crops)
    x = torch.where(chance(0.06), 1 - x, x)
    x = torch.where(chance(0.08), (x + x.roll(1, 0)) / 2, x)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    x = torch.where(chance(0.15), x + uniform(0, 0.15, 1) * noise, x)
    return x.clamp(0, 1)


def covariance(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, C), the Gram matrix of mean-centred features over positions."""
    flat = x.flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


@torch.no_grad()
def statistics(teachers: Teachers, pool: datasets.Pool, device: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each teacher channel, (1, C, 1, 1), over 640 crops."""
    sums: dict[str, list[Tensor]] = {}
    generator = torch.Generator(device).manual_seed(1)
    for _ in range(40):
        for layer, x in teachers(datasets.random_crops(pool, 16, 192, generator)).items():
            moments = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
            sums.setdefault(layer, []).append(moments)
    result = {}
    for layer, moments in sums.items():
        mean, square = torch.stack(moments).mean(0)
        deviation = (square - mean**2).clamp_min(0).sqrt()
        # A channel that never fires has nothing to teach: a large divisor silences it.
        deviation = torch.where(deviation < 1e-3 * deviation.max(), deviation.max(), deviation)
        result[layer] = (mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1))
    return result


@torch.no_grad()
def revive(student: Student, teachers: Teachers, stats: dict[str, tuple[Tensor, Tensor]], pool: datasets.Pool) -> None:
    """Set channels anew that died early: by least squares from the patches before them to the teacher's channel.

    A rectifier that never fires gets no gradient. Where a channel is the teacher's own, no other can stand in for it.
    """
    generator = torch.Generator(pool.canvas.device).manual_seed(2)
    student.eval()
    for layer in PRUNED_LAYERS:
        place = layer[4:]
        before = f"relu{PLACES[PLACES.index(place) - 1]}"
        rows, targets, outputs = [], [], []
        for _ in range(12):
            crops = datasets.random_crops(pool, 16, 192, generator)
            features = student.encoder(crops, [before, layer])
            x = features[before] if not place.endswith("_1") else F.max_pool2d(features[before], 2)
            rows.append(F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)[::5])
            targets.append((teachers(crops)[layer] / stats[layer][1]).flatten(2).transpose(1, 2).flatten(0, 1)[::5])
            outputs.append(features[layer].flatten(2).transpose(1, 2).flatten(0, 1)[::5])
        patches, target = torch.cat(rows), torch.cat(targets)
        error = (torch.cat(outputs) - target).square().mean(0) / target.var(0)
        dead = ((error > 0.6) & (student.heads[layer].fires.flatten() > 0)).nonzero().flatten().tolist()
        print(f"{layer}: {len(dead)} channels revived", flush=True)
        if not dead:
            continue
        patches = torch.cat([patches, torch.ones_like(patches[:, :1])], 1).double()
        square = patches.T @ patches
        square.diagonal().add_(1e-3 * square.diagonal().mean())
        solution = torch.linalg.solve(square, patches.T @ target[:, dead].double()).float()
        convolution, batch_norm = getattr(student.encoder, f"conv{place}")
        convolution.weight[dead] = solution[:-1].T.reshape(len(dead), *convolution.weight.shape[1:])
        convolution.bias[dead] = solution[-1]
        for tensor, value in (
            (batch_norm.weight, 1), (batch_norm.bias, 0), (batch_norm.running_mean, 0), (batch_norm.running_var, 1),
        ):  # fmt: skip
            tensor[dead] = value
        if place != PLACES[-1]:  # what follows has learnt to do without them
            getattr(student.encoder, f"conv{PLACES[PLACES.index(place) + 1]}")[0].weight[:, dead] = 0
    student.train()


def amp(device: str) -> torch.autocast:
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def train(args: argparse.Namespace) -> None:
    device = args.device
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(args.seed)
    teachers = Teachers(args.assets / "teachers").to(device, memory_format=torch.channels_last).eval()
    training_paths, held_out = split(args.assets)
    pool = datasets.load(training_paths)
    print(f"{len(pool)} pictures, {len(held_out)} held out, {len(pool.skipped)} broken", flush=True)
    pool = pool.to(device)
    stats = statistics(teachers, pool, device)
    student = Student(stats).to(device, memory_format=torch.channels_last)

    def distil(crops: Tensor) -> dict[str, Tensor]:
        with amp(device):
            with torch.no_grad():
                targets = teachers(crops)
            features = student.encoder(crops, LAYERS)
            terms = {}
            for layer, x in features.items():
                target, (mean, deviation) = targets[layer], stats[layer]
                if layer == "relu1_1":  # a quarter of its positions says as much, at a quarter of the cost
                    x, target = x[:, :, ::2, ::2], target[:, :, ::2, ::2]
                wanted = (target.float() - mean) / deviation
                error = (student.heads[layer](x).float() - wanted).square().mean((1, 2, 3))
                # Noise excites the shallow layers tenfold: such crops shall not outweigh the clean ones.
                terms[layer] = (error / wanted.square().mean((1, 2, 3)).clamp_min(1)).mean()
                terms[layer] = IMPORTANCE.get(layer, 1.0) * terms[layer]
                if layer in ("relu2_1", "relu3_1"):
                    pair = covariance(student.heads[layer](x)), covariance(wanted)
                    distance = (pair[0] - pair[1]).float().square().sum((1, 2))
                    terms[f"gram {layer}"] = (distance / pair[1].float().square().sum((1, 2)).clamp_min(1)).mean()
        return terms

    easels = Easels(student, stats)
    compiled, loss = (torch.compile(body, dynamic=False) if args.compile else body for body in (distil, easels.loss))

    batch_norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]

    def objective(index: int) -> dict[str, Tensor]:
        # Statistics of a few crops are not those of the world: the deep layers come to lean on them. From here on the
        # running ones are used, as they will be when they are folded in.
        if index == args.freeze:
            revive(student, teachers, stats, pool)
        for batch_norm in batch_norms:
            batch_norm.train(index < args.freeze)
        generator = torch.Generator(device).manual_seed(args.seed * 1_000_003 + index)
        if index % 3 == 2 and index >= args.freeze:
            crops = easels.paint(loss, pool, generator)
        else:
            side, batch = CROPS[index % 3 % 2]
            crops = augment(datasets.random_crops(pool, batch, side, generator), generator)
        return compiled(crops.contiguous(memory_format=torch.channels_last))

    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    state = torch.load(checkpoint, map_location=device, weights_only=True) if checkpoint.exists() else None
    held_out_images = held_out_pictures(held_out).to(device)
    start = saved = time.monotonic()
    average: dict[str, float] = {}
    for step in training.fit(
        student, objective, steps=args.steps, rate=args.rate, warmup=500, weight_decay=1e-4, state=state
    ):
        last = step.index == step.total
        out_of_time = args.seconds and time.monotonic() - start > args.seconds
        if step.index % 200 == 0 or last:
            average = {name: round(float(term), 4) for name, term in step.terms.items()}
            print(step.index, f"{time.monotonic() - start:.0f}s", f"{step.rate:.2e}", average, flush=True)
        if step.index % 4000 == 0 or last or out_of_time:
            print(step.index, measure(student, teachers, stats, held_out_images), flush=True)
        if time.monotonic() - saved > 60 or last or out_of_time:
            torch.save({**step.state(), "stats": stats}, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
            saved = time.monotonic()
        if out_of_time:
            break


@torch.no_grad()
def measure(
    student: nn.Module, teachers: Teachers, stats: dict[str, tuple[Tensor, Tensor]], images: Tensor
) -> dict[str, tuple[float, float]]:
    """layer -> (unexplained variance, cosine of mean-centred Gram matrices) on held-out pictures, float32.

    Unexplained variance: squared error over the variance of the teacher's channel on these pictures, mean
    over the channels that fire. Cosine: of the covariance matrices of normalised features, mean over pictures.
    """
    was_training = student.training
    student.eval()
    errors: dict[str, Tensor] = {}
    sums: dict[str, list[Tensor]] = {}
    cosines: dict[str, list[Tensor]] = {}
    count: dict[str, int] = {}
    for image in images.split(5):
        targets, outputs = teachers(image), student(image)
        for layer, output in outputs.items():
            mean, deviation = stats[layer]
            target = (targets[layer] - mean) / deviation
            moments = torch.stack([target.sum((0, 2, 3)), target.square().sum((0, 2, 3))]).double()
            sums.setdefault(layer, []).append(moments)
            errors[layer] = errors.get(layer, 0) + (output - target).square().sum((0, 2, 3)).double()
            count[layer] = count.get(layer, 0) + target[:, 0].numel()
            pair = covariance(output).flatten(1), covariance(target).flatten(1)
            cosines.setdefault(layer, []).append(F.cosine_similarity(*pair))
    student.train(was_training)
    table = {}
    for layer, moments in sums.items():
        total, square = torch.stack(moments).sum(0)
        variance = square / count[layer] - (total / count[layer]) ** 2
        fires = variance > 1e-4
        unexplained = (errors[layer] / count[layer] / variance)[fires].mean()
        table[layer] = (round(float(unexplained), 4), round(float(torch.cat(cosines[layer]).mean()), 4))
    return table


@torch.no_grad()
def fold(student: Student, stats: dict[str, tuple[Tensor, Tensor]]) -> VGG:
    """The encoder alone: batch norms folded in, channels calibrated.

    A rectified channel can be scaled freely when the next convolution divides by as much. Where the channels are
    the teacher's they take its units, and the free ones nearly vanish; elsewhere each is scaled by the norm of its
    column in the head, in the teacher's own units, so that distances between Gram matrices weigh the channels as
    the teacher's do.
    """
    student.eval()
    encoder = VGG(WIDTHS, mean=IMAGENET[0], std=IMAGENET[1], places=PLACES)
    scale = None
    for place in PLACES:
        folded = fuse_conv_bn_eval(*getattr(student.encoder, f"conv{place}"))
        kernel, bias = folded.weight.float().cpu(), folded.bias.float().cpu()
        if scale is not None:
            kernel = kernel / scale.view(1, -1, 1, 1)
        if (layer := f"relu{place}") in LAYERS:
            deviation, head = stats[layer][1].cpu().flatten(), student.heads[layer]
            if isinstance(head, Direct):
                scale = deviation * head.fires.cpu().flatten()
            else:
                scale = (head.weight.float().cpu()[:, :, 0, 0] * deviation[:, None]).norm(dim=0)
            scale = scale.clamp_min(1e-3 * scale.max())
        else:
            scale = torch.ones(len(bias))
        convolution = getattr(encoder, f"conv{place}")
        convolution.weight.copy_(kernel * scale.view(-1, 1, 1, 1))
        convolution.bias.copy_(bias * scale)
    return encoder


def export(args: argparse.Namespace) -> None:
    device = args.device
    checkpoint = torch.load(args.out / "checkpoint.pt", map_location=device, weights_only=True)
    stats = checkpoint["stats"]
    student = Student(stats).to(device)
    student.load_state_dict(checkpoint["model"])
    teachers = Teachers(args.assets / "teachers").to(device).eval()
    table = measure(student, teachers, stats, held_out_pictures(split(args.assets)[1]).to(device))
    encoder = fold(student, stats)
    state = {name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}
    metadata = {
        "name": "compact",
        "mean": json.dumps(IMAGENET[0]),
        "std": json.dumps(IMAGENET[1]),
        "steps": str(checkpoint["step"]),
        "held_out": json.dumps(table),
    }
    save_file(state, args.out / "compact.safetensors", metadata)
    print("layer     unexplained variance   Gram cosine")
    for layer, (unexplained, cosine) in table.items():
        print(f"{layer}   {unexplained:.4f}                 {cosine:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "export"])
    parser.add_argument("--assets", type=Path, required=True, help="holds photos/, paintings/ and teachers/")
    parser.add_argument("--out", type=Path, required=True, help="the folder for checkpoints and the result")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--seconds", type=float, default=0, help="stop after so long, with a checkpoint to go on from")
    parser.add_argument(
        "--freeze",
        type=int,
        default=8_000,
        help="step from which batch norms keep their statistics, and the student paints",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the step: twice as fast on a CPU")
    args = parser.parse_args()
    {"train": train, "export": export}[args.command](args)


if __name__ == "__main__":
    main()
