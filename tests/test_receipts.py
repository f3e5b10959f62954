"""Receipts, checkpoints and cards from elsewhere: whatever is wrong with them, one line says so."""

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import one_line, opened
from safetensors.torch import load_file, save_file

from impasto import cli, images, onepass, pix2pix, weights
from impasto.errors import ImageError, ImpastoError, InputError, WeightsError
from impasto.generators import Shape, UNet
from impasto.networks import Architecture, Network
from impasto.recipes import Photo, Transfer
from impasto.runs import receipts
from impasto.schema import to_json

Capture = pytest.CaptureFixture[str]
SHA = "0" * 64
ENTRY = {"name": "photo.png", "sha256": SHA}
PAINTED = {
    "command": "transfer", "recipe": to_json(Transfer()), "encoder": SHA, "content": ENTRY, "styles": [ENTRY],
    "content_masks": [], "style_masks": [],
}  # fmt: skip
LIT = {"command": "photo", "recipe": to_json(Photo()), "encoder": SHA, "content": ENTRY, "style": ENTRY}
ODD: list[Any] = [None, 7, "x", [], {}, [None], {"name": 1}, float("nan")]
SOUND: list[Any] = [("recipe", {}), ("styles", []), ("content_masks", []), ("style_masks", [])]
DAMAGED = [
    *({name: fact for name, fact in PAINTED.items() if name != left} for left in PAINTED),
    *({**PAINTED, name: odd} for name in PAINTED for odd in ODD if (name, odd) not in SOUND),
    *({**LIT, name: odd} for name in LIT for odd in ODD if (name, odd) not in SOUND),
    *({**PAINTED, "content": {**ENTRY, "sha256": odd}} for odd in ("", "0" * 63, "A" * 64, 5)),
    {**PAINTED, "recipe": {**PAINTED["recipe"], "seed": 2**70}},
    {**PAINTED, "recipe": {**PAINTED["recipe"], "steps": "many"}},
    {**PAINTED, "begun": "photo.png"},
    {},
]
PATHS = ["/etc/passwd", "../photo.png", "a/b.png", "..", ".", "", "C:\\photo.png", "a\0b"]


def with_receipt(path: Path, receipt: Any) -> Path:
    images.write(path, torch.rand(1, 3, 8, 8), receipt=receipt)
    return path


def test_damaged_receipts_are_refused() -> None:
    for receipt in DAMAGED:
        with pytest.raises(ImpastoError) as caught:
            receipts.check(receipt)
            pytest.fail(f"accepted: {receipt}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("field", ["content", "styles", "begun"])
def test_receipts_name_files_and_never_paths(name: str, field: str) -> None:
    entry = {"name": name, "sha256": SHA}
    with pytest.raises(InputError, match="not the name of a file"):
        receipts.check({**PAINTED, field: [entry] if field == "styles" else entry})


def test_sound_receipts_pass() -> None:
    receipts.check(PAINTED)
    receipts.check({**PAINTED, "command": "reconstruct", "begun": ENTRY})
    receipts.check({**LIT, "content_mask": ENTRY, "style_mask": ENTRY})


@pytest.mark.parametrize("command", ["replay", "--recipe"])
@pytest.mark.parametrize(
    "damage", [{}, {"command": "apply"}, {**PAINTED, "recipe": 5}, {"command": ["x"]}], ids=range(4)
)
def test_damaged_receipts_on_the_command_line(
    command: str, damage: dict[str, Any], photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    picture = with_receipt(tmp_path / "made.png", damage)
    out = ["-o", str(tmp_path / "out.png")]
    arguments = ["replay", str(picture)] if command == "replay" else ["transfer", str(photo), str(photo)]
    arguments += [] if command == "replay" else ["--recipe", str(picture)]
    assert cli.main([*arguments, *out]) == 1
    one_line(capsys, "made.png", "receipt", only=True)


def test_replay_keeps_the_picture_itself(photo: Path, tmp_path: Path, capsys: Capture) -> None:
    picture = with_receipt(tmp_path / "made.png", PAINTED)
    assert cli.main(["replay", str(picture), "-o", str(picture)]) == 1
    one_line(capsys, "is also an input", only=True)


def test_equal_facts_give_equal_files(tmp_path: Path) -> None:
    """Neither the order of the receipt's keys nor that of a network's metadata shows."""
    image = torch.rand(1, 3, 8, 8)
    for name, receipt in {"a": {"x": 1, "y": {"p": 1, "q": 2}}, "b": {"y": {"q": 2, "p": 1}, "x": 1}}.items():
        images.write(tmp_path / f"{name}.png", image, receipt=receipt)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    facts = {f"fact {n}": str(n) for n in range(20)}
    weights.save(tmp_path / "a.safetensors", {"w": torch.arange(6.0)}, facts)
    weights.save(tmp_path / "b.safetensors", {"w": torch.arange(6.0)}, dict(reversed(facts.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    state, found = weights.load(tmp_path / "a.safetensors")
    assert (state["w"].tolist(), [*found.items()]) == ([0, 1, 2, 3, 4, 5], sorted(facts.items()))


# Checkpoints


@pytest.fixture
def resume(
    photo: Path, painting: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Makes the checkpoint out.resume of step 2 of 3, changes it by a function, and resumes from it."""
    command = ["transfer", str(photo), str(painting), "-o", str(tmp_path / "out.png"), "--size", "32", "--steps", "3",
               "--scales", "1", "--encoder", tiny, "--checkpoint-every", "2", "--quiet"]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda path, **_: None if path.suffix == ".resume" else os.unlink(path))
        assert cli.main(command) == 0
    checkpoint = tmp_path / "out.resume"
    assert checkpoint.exists()

    def run(change: Callable[[dict[str, Any]], object]) -> int:
        state = torch.load(checkpoint, weights_only=True)
        change(state)
        torch.save(state, tmp_path / "changed.resume")
        return cli.main([*command, "--resume", str(tmp_path / "changed.resume")])

    return run


def edited(state: dict[str, Any], **changes: Any) -> None:
    state["receipt"] = json.dumps({**json.loads(state["receipt"]), **changes})


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no receipt": lambda state: state.pop("receipt"),
    "a receipt that is no JSON": lambda state: state.update(receipt="{"),
    "no recipe": lambda state: edited(state, recipe=None),
    "no optimiser": lambda state: state["inner"].pop("optimizer"),
    "an empty optimiser": lambda state: state["inner"].update(optimizer={}),
    "another optimiser": lambda state: state["inner"].update(optimizer={"state": {}, "param_groups": []}),
    "another shape": lambda state: state["inner"].update(image=torch.rand(1, 3, 5, 7)),
    "one channel": lambda state: state["inner"].update(image=torch.rand(1, 1, 21, 32)),
    "no image": lambda state: state["inner"].pop("image"),
    "an image without axes": lambda state: state["inner"].update(image=torch.rand(())),
    "NaN": lambda state: state["inner"]["image"].fill_(float("nan")),
    "rows of another length": lambda state: state["inner"]["optimizer"].update(rows=torch.rand(2, 5)),
    "an order beyond the rows": lambda state: state["inner"]["optimizer"].update(order=[500]),
    "losses that are no numbers": lambda state: state["inner"].update(losses=["a", "b"]),
    "negative steps": lambda state: state.update(done=-3),
    "steps that are no number": lambda state: state.update(done="x"),
    "a huge view": lambda state: state["inner"].update(image=torch.zeros(1).expand(1, 3, 10**5, 10**5)),
}


def test_damaged_checkpoints(resume: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    for name, change in CHANGES.items():
        assert resume(change) == 1, name
        one_line(capsys)
    assert resume(lambda state: None) == 0
    assert opened(tmp_path / "out.png").size == (32, 21)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: Capture) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    for suffix in (".resume", ".pth", ".safetensors", ".model"):
        path = tmp_path / f"evil{suffix}"
        path.write_bytes(pickle.dumps({"w": Trap()}))
        with pytest.raises(ImpastoError):
            receipts.load_state(path) if suffix == ".resume" else weights.load(path)
    assert not (tmp_path / "trapped").exists()


# Cards


CARDS = [
    {"mean": "x", "std": "[1, 1, 1]"}, {"mean": "[1, 1, 1]"}, {"mean": "[1, 1]", "std": "[1, 1]"},
    {"mean": "[0, 0, 0]", "std": "[1, 1, 0]"}, {"mean": "[0, 0, null]", "std": "[1, 1, 1]"}, {"mean": "5", "std": "5"},
    {"mean": "[0, 0, NaN]", "std": "[1, 1, 1]"}, {"mean": '{"a": 1}', "std": "[1, 1, 1]"},
]  # fmt: skip


@pytest.mark.parametrize("card", CARDS, ids=str)
def test_damaged_encoder_cards(card: dict[str, str], tiny: str, photo: Path, tmp_path: Path, capsys: Capture) -> None:
    save_file(load_file(tiny), tmp_path / "odd.safetensors", card)
    pictures = [str(photo), str(photo), "-o", str(tmp_path / "out.png")]
    assert cli.main(["transfer", *pictures, "--encoder", str(tmp_path / "odd.safetensors"), "--quiet"]) == 1
    one_line(capsys, "odd.safetensors", "mean and std", only=True)


SMALL = {"widths": [0, 4, 6], "blocks": 1, "kernel": 3, "bounded": True, "smooth": False}
SHAPES = [
    "x", "[]", "null", "{}", json.dumps({**SMALL, "blocks": 10**9}), json.dumps({**SMALL, "blocks": -1}),
    json.dumps({**SMALL, "widths": [0, 10**6, 10**6]}), json.dumps({**SMALL, "kernel": "3"}),
    json.dumps({**SMALL, "widths": []}), json.dumps({**SMALL, "more": 1}), "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape[:60])
def test_damaged_model_cards(shape: str, tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in Network(Architecture((0, 4, 6), 1, 3)).state_dict().items()}
    save_file(state, tmp_path / "odd.safetensors", {"architecture": shape})
    with pytest.raises(WeightsError, match=r"odd\.safetensors"):
        onepass.load(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("wrong", [{"depth": 10**7}, {"depth": -1}, {"width": 1000}, {"inputs": "3"}, {"more": 1}])
def test_damaged_cards_of_pix2pix(wrong: dict[str, Any], tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in UNet(Shape(width=2, depth=3)).state_dict().items()}
    card = {"translation": json.dumps({**asdict(Shape(width=2, depth=3)), **wrong}), "pairs": "given"}
    save_file(state, tmp_path / "odd.safetensors", card)
    with pytest.raises(WeightsError, match=r"odd\.safetensors"):
        pix2pix.load(tmp_path / "odd.safetensors")


def test_the_content_of_a_checkpoint_decides(tmp_path: Path) -> None:
    """fast_neural_style's own names end with .model; DataParallel's names begin with "module."."""
    network = Network(Architecture((0, 4, 6), 1, 3))
    onepass.save(tmp_path / "epoch_2.model", network, {})
    assert onepass.load(tmp_path / "epoch_2.model").network.architecture == network.architecture
    plain = {"w": torch.arange(3.0)}
    torch.save({f"module.{name}": tensor for name, tensor in plain.items()}, tmp_path / "parallel.ckpt")
    assert torch.equal(weights.load(tmp_path / "parallel.ckpt")[0]["w"], plain["w"])
    (tmp_path / "text.pth").write_text("no weights, but text")
    with pytest.raises(WeightsError, match="damaged, or not a file of weights"):
        weights.load(tmp_path / "text.pth")


def test_a_tensor_larger_than_its_file(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "view.pth")
    with pytest.raises(WeightsError, match="larger than the file"):
        weights.load(tmp_path / "view.pth")


def test_what_is_kept_has_a_name_that_is_short_enough(tmp_path: Path) -> None:
    def save(path: Path) -> None:
        path.write_bytes(b"kept")

    error = receipts.kept(save, tmp_path / f"{'絵' * 100}.png", ".png", ImageError("no"))
    (kept,) = tmp_path.iterdir()
    assert str(error) == f"no; what was made is kept as {kept}"
