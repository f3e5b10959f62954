"""The plug-ins for other programs, in integrations/, with the host's interface or the host itself."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SMALL
from torch import Tensor

import impasto
from impasto import cli, networks, onepass, presets

PLUGINS = Path(__file__).parent.parent / "integrations"


@pytest.mark.parametrize("file", sorted([*PLUGINS.glob("*/*.py")]), ids=lambda path: path.parent.name)
def test_plugins_are_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 150


def test_the_dockerfile_has_no_faults() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, PLUGINS.parent / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


# ComfyUI


class Bar:
    """comfy.utils.ProgressBar, as documented."""

    def __init__(self, total: int) -> None:
        self.total, self.current = total, 0
        BARS.append(self)

    def update(self, value: int) -> None:
        self.current += value


BARS: list[Bar] = []


class Interrupted(Exception):
    pass


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plug-in, loaded as ComfyUI does, with a stub of the parts of ComfyUI that it may use."""
    host = SimpleNamespace(cancelled=False)

    def check() -> None:
        if host.cancelled:
            raise Interrupted

    management = {
        "get_torch_device": lambda: torch.device("cpu"),
        "throw_exception_if_processing_interrupted": check,
    }
    for name, content in {"": {}, ".utils": {"ProgressBar": Bar}, ".model_management": management}.items():
        module = ModuleType(f"comfy{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        if name:
            setattr(sys.modules["comfy"], name[1:], module)
    spec = importlib.util.spec_from_file_location("impasto_nodes", PLUGINS / "comfyui" / "__init__.py")
    assert spec is not None and spec.loader is not None
    host.plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host.plugin)
    BARS.clear()
    return host


def run_node(plugin: Any, name: str, **inputs: Any) -> Tensor:
    """Run a node as ComfyUI does: in inference mode, by the name of its function."""
    node = plugin.NODE_CLASS_MAPPINGS[name]
    declared = node.INPUT_TYPES()
    assert set(declared["required"]) <= set(inputs) <= set(declared["required"]) | set(declared.get("optional", {}))
    assert node.RETURN_TYPES == ("IMAGE",) and plugin.NODE_DISPLAY_NAME_MAPPINGS[name]
    with torch.inference_mode():
        (image,) = getattr(node(), node.FUNCTION)(**inputs)
    assert isinstance(image, Tensor)
    return image


@pytest.mark.parametrize("channels", [3, 4])
def test_comfyui_repaints_a_batch_in_one_pass(comfy: Any, channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tmp_path / "small.safetensors"
    onepass.save(model, networks.Network(SMALL), {})
    batch = torch.rand(2, 40, 48, channels)
    given: dict[str, Any] = {"style": "candy", "strength": 0.5, "keep_colors": "luma", "model": str(model)}
    painted = run_node(comfy.plugin, "ImpastoOnePass", image=batch, **given)
    assert painted.shape == (2, 40, 48, 3) and painted.is_contiguous() and painted.dtype == torch.float32
    for each, ours in zip(batch, painted, strict=True):
        expected = impasto.apply(each[..., :3].permute(2, 0, 1), model, strength=0.5, keep_colors="luma")
        torch.testing.assert_close(ours, expected[0].permute(1, 2, 0))
    assert [(bar.current, bar.total) for bar in BARS] == [(2, 2)]


def test_comfyui_paints_by_optimisation(comfy: Any, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = impasto.Transfer(steps=3, encoder=tiny)
    monkeypatch.setitem(presets.TRANSFERS, "impasto", small)
    image, painting = torch.rand(1, 32, 40, 3), torch.rand(1, 24, 24, 3)
    given = {"painting": painting, "recipe": "impasto", "strength": 2.0, "size": 64, "seed": 1}
    painted = run_node(comfy.plugin, "ImpastoOptimise", image=image, **given)
    assert painted.shape == (1, 51, 64, 3)
    assert [(bar.current, bar.total) for bar in BARS] == [(3, 3)]
    comfy.cancelled = True
    with pytest.raises(Interrupted):
        run_node(comfy.plugin, "ImpastoOptimise", image=image, **given)


# GIMP

GIMP = shutil.which("gimp-console-2.10")
SHIPPED = Path("/usr/lib/gimp/2.0/plug-ins")


@pytest.fixture
def gimp(tmp_path: Path) -> Callable[[str], str]:
    """A function that runs Script-Fu in GIMP's batch mode, with the plug-in and no others than it needs."""
    if GIMP is None:
        pytest.skip("GIMP 2.10 is not installed")
    plugins, home = tmp_path / "plug-ins", tmp_path / "profile"
    plugins.mkdir()
    home.mkdir()
    for name in ("script-fu", "file-png"):
        (plugins / name).symlink_to(SHIPPED / name)
    shutil.copy(PLUGINS / "gimp" / "impasto-gimp.py", plugins)
    (home / "gimprc").write_text(f'(plug-in-path "{plugins}")\n')
    command = tmp_path / "impasto"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m impasto "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {"GIMP2_DIRECTORY": str(home), "IMPASTO": str(command)}

    def run(script: str) -> str:
        batch = [GIMP, "--no-interface", "--no-data", "--no-fonts", "--batch", script, "--batch", "(gimp-quit 0)"]
        done = subprocess.run(batch, env=environment, capture_output=True, text=True, timeout=120)
        return done.stdout + done.stderr

    return run


def test_gimp_repaints_a_layer(gimp: Callable[[str], str], photo: Path, tmp_path: Path) -> None:
    direct, out = tmp_path / "direct.png", tmp_path / "out.png"
    torch.manual_seed(0)
    model = tmp_path / "mine.safetensors"
    onepass.save(model, networks.Network(SMALL), {})
    assert cli.main(["apply", str(photo), "--style", str(model), "-o", str(direct), "--quiet"]) == 0
    said = gimp(f"""
        (let* ((image (car (gimp-file-load RUN-NONINTERACTIVE "{photo}" "{photo}")))
               (layer (car (gimp-image-get-active-layer image))))
          (gimp-image-select-rectangle image CHANNEL-OP-REPLACE 0 0 20 32)
          (plug-in-impasto RUN-NONINTERACTIVE image layer "{model}")
          (gimp-message (car (gimp-item-get-name (car (gimp-image-get-active-layer image)))))
          (gimp-message (if (defined? 'plug-in-impasto-candy) "candy is there" "no candy"))
          (let ((flat (car (gimp-image-flatten image))))
            (file-png-save RUN-NONINTERACTIVE image flat "{out}" "{out}" 0 9 0 0 0 0 0)))
    """)
    assert "mine.safetensors" in said and "candy is there" in said, said
    before, painted, after = (impasto.read(path).image for path in (photo, direct, out))
    torch.testing.assert_close(after[..., :20], painted[..., :20])  # inside the selection
    torch.testing.assert_close(after[..., 20:], before[..., 20:])


def test_gimp_shows_the_commands_error(gimp: Callable[[str], str], photo: Path) -> None:
    said = gimp(f"""
        (let* ((image (car (gimp-file-load RUN-NONINTERACTIVE "{photo}" "{photo}"))))
          (plug-in-impasto RUN-NONINTERACTIVE image (car (gimp-image-get-active-layer image)) "no-such-style"))
    """)
    assert "no-such-style: neither a bundled style" in said, said
