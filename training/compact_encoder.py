"""Distil the embedded compact encoder from its teachers, and measure it.

    python training/compact_encoder.py train --assets DIR --out WORK --compile
    python training/compact_encoder.py export --assets DIR --out WORK

`train` writes WORK/checkpoint.pt, and resumes from it if it exists. `export` calibrates the channels, writes
WORK/compact.safetensors and prints the table of the model card.

Targets are the real VGG-19's relu1_1, relu2_1, relu3_1 and a pruned VGG-19's relu4_1, relu4_2, relu5_1 (Wang2020). The
pruned teacher is narrow, and only about half of its channels ever fire. The first channels of each student layer are
fitted to those, from random weights, with the teacher's previous layer as input: where a rectified channel fires, it is
linear in its input, so this is convex. The other channels of the shallow layers learn what the VGG-19 has in addition;
its features are read from all channels through a 1x1 head, which is dropped afterwards.

The pruned teacher has reflection padding, the VGG-19 zero padding. The student pads like the VGG-19 up to relu3_1,
where it learns to compensate, and like the pruned teacher in deeper layers, where nothing is left to learn.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from easels import Easels
from safetensors.torch import save_file
from student import EXACT, REFLECT, Moments, Student, begin, calibrate, hold
from teachers import LAYERS, VGG_LAYERS, Teachers
from torch import Tensor, nn
from torch.nn import functional as F

from impasto import datasets, fitting
from impasto.encoder import IMAGENET

HELD_OUT = 75
CROPS = ((128, 8), (192, 4))  # (side, batch) in turn
STAGES = ((7_000, 2.5e-3), (11_000, 2e-3), (6_000, 1e-3))  # (steps, rate); half of the last are on the easels
IMPORTANCE = {"relu1_1": 1.0, "relu2_1": 1.5, "relu3_1": 2.5}


def split(assets: Path) -> tuple[list[Path], list[Path]]:
    """All photographs and paintings: those to train on, and the 75 held out."""
    paths = datasets.pictures(assets / "photos") + datasets.pictures(assets / "paintings")
    held_out = [paths[index * len(paths) // HELD_OUT] for index in range(HELD_OUT)]
    return [path for path in paths if path not in set(held_out)], held_out


def held_out_pictures(paths: list[Path], size: int = 224) -> Tensor:
    """(75, 3, size, size): each picture with its short side resized to ``size``, cropped to its centre."""
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
    """Vary colour and contrast, and add noise: optimisation makes pictures that no camera takes."""
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
def statistics(teachers: Teachers, pool: datasets.Pool, device: str) -> tuple[Moments, Moments]:
    """Mean and deviation of the channels of the targets and of all layers of the pruned teacher, over 640 crops.

    A channel that never fires has the mean 0; its deviation is set to the largest, which silences it.
    """
    sums: dict[str, dict[str, list[Tensor]]] = {"targets": {}, "own": {}}
    generator = torch.Generator(device).manual_seed(1)
    for _ in range(40):
        crops = datasets.random_crops(pool, 16, 192, generator)
        for name, features in (("targets", teachers(crops)), ("own", teachers.pruned(crops))):
            for layer, x in features.items():
                sums[name].setdefault(layer, []).append(torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]))

    def moments(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        mean, square = torch.stack(rows).mean(0)
        deviation = (square - mean**2).clamp_min(0).sqrt()
        deviation = torch.where(deviation < 1e-3 * deviation.max(), deviation.max(), deviation)
        return mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1)

    targets, own = ({layer: moments(rows) for layer, rows in part.items()} for part in sums.values())
    return targets, own


def amp(device: str) -> torch.autocast:
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def train(args: argparse.Namespace) -> None:
    device = args.device
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    saved_state = torch.load(checkpoint, map_location=device, weights_only=True) if checkpoint.exists() else {}
    teachers = Teachers(args.assets / "teachers").to(device, memory_format=torch.channels_last).eval()
    training_paths, held_out = split(args.assets)
    pool = datasets.load(training_paths)
    print(f"{len(pool)} pictures, {len(held_out)} held out, {len(pool.skipped)} broken", flush=True)
    pool = pool.to(device)
    stats, own = saved_state.get("moments") or statistics(teachers, pool, device)
    student = Student(stats, own).to(device, memory_format=torch.channels_last)
    held_out_images = held_out_pictures(held_out).to(device)
    if not saved_state:
        begin(student, teachers, own, pool)
        print(0, measure(student, teachers, stats, held_out_images), flush=True)

    mean, deviation = own["relu3_1"]
    fires = (mean.flatten() > 0).nonzero().flatten()

    def distil(crops: Tensor) -> dict[str, Tensor]:
        with amp(device):
            with torch.no_grad():
                targets = teachers.vgg(crops, VGG_LAYERS)
                whole = (teachers.pruned(crops)["relu3_1"].float() / deviation)[:, fires]
            features = student.encoder(crops, VGG_LAYERS)
            terms = {"own": 2 * (features["relu3_1"][:, : len(fires)].float() - whole).square().mean()}
            for layer, x in features.items():
                target, (mean, spread) = targets[layer], stats[layer]
                if layer == "relu1_1":  # a quarter of the positions is enough, at a quarter of the cost
                    x, target = x[:, :, ::2, ::2], target[:, :, ::2, ::2]
                wanted = (target.float() - mean) / spread
                found = student.heads[layer](x).float()
                error = (found - wanted).square().mean((1, 2, 3))
                # Noise excites the shallow layers tenfold; such crops must not outweigh the clean ones.
                terms[layer] = IMPORTANCE[layer] * (error / wanted.square().mean((1, 2, 3)).clamp_min(1)).mean()
                if layer in ("relu2_1", "relu3_1"):
                    pair = covariance(found), covariance(wanted)
                    distance = (pair[0] - pair[1]).float().square().sum((1, 2))
                    error = distance / pair[1].float().square().sum((1, 2)).clamp_min(1)
                    terms[f"gram {layer}"] = IMPORTANCE[layer] * error.mean()
        return terms

    def features(image: Tensor) -> dict[str, Tensor]:
        """The features as the encoder will be used."""
        with amp(device):
            raw, units = student.encoder(image, LAYERS), student.units(stats)
            return {layer: x.float() * units[layer].view(1, -1, 1, 1) for layer, x in raw.items()}

    easels = Easels(student, features)
    compiled, loss = (torch.compile(body, dynamic=False) if args.compile else body for body in (distil, easels.loss))

    def objective(index: int, stage: int) -> dict[str, Tensor]:
        generator = torch.Generator(device).manual_seed((args.seed * 10 + stage) * 1_000_003 + index)
        last = stage == len(STAGES) - 1
        if last and index % 2:
            crops = easels.paint(loss, pool, generator)
        else:
            side, batch = CROPS[index // (1 + last) % 2]
            crops = augment(datasets.random_crops(pool, batch, side, generator), generator)
        return compiled(crops.contiguous(memory_format=torch.channels_last))

    hold(student)
    start = saved = time.monotonic()
    for stage, (steps, rate) in enumerate(STAGES):
        if stage < saved_state.get("stage", 0):
            continue
        state = saved_state if saved_state.get("stage") == stage else None
        for step in fitting.fit(
            student, lambda index, stage=stage: objective(index, stage), steps=steps, rate=rate, warmup=200, state=state
        ):
            last = step.index == step.total
            out_of_time = args.seconds and time.monotonic() - start > args.seconds
            if step.index % 200 == 0 or last:
                terms = {name: round(float(term), 4) for name, term in step.terms.items()}
                print(stage, step.index, f"{time.monotonic() - start:.0f}s", f"{step.rate:.2e}", terms, flush=True)
            if step.index % 2000 == 0 or last or out_of_time:
                print(step.index, measure(student, teachers, stats, held_out_images), flush=True)
            if time.monotonic() - saved > 60 or last or out_of_time:
                torch.save({**step.state(), "stage": stage, "moments": (stats, own)}, checkpoint.with_suffix(".part"))
                checkpoint.with_suffix(".part").replace(checkpoint)
                saved = time.monotonic()
            if out_of_time:
                return


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


def export(args: argparse.Namespace) -> None:
    device = args.device
    checkpoint = torch.load(args.out / "checkpoint.pt", map_location=device, weights_only=True)
    stats, own = checkpoint["moments"]
    student = Student(stats, own).to(device)
    student.load_state_dict(checkpoint["model"])
    teachers = Teachers(args.assets / "teachers").to(device).eval()
    table = measure(student, teachers, stats, held_out_pictures(split(args.assets)[1]).to(device))
    encoder = calibrate(student, stats)
    state = {name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}
    metadata = {
        "name": "compact",
        "mean": json.dumps(IMAGENET[0]),
        "std": json.dumps(IMAGENET[1]),
        "reflect": REFLECT,
        "exact": EXACT,
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
    parser.add_argument("--seconds", type=float, default=0, help="stop after this time, with a checkpoint; 0: never")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the step: twice as fast on a CPU")
    args = parser.parse_args()
    {"train": train, "export": export}[args.command](args)


if __name__ == "__main__":
    main()
