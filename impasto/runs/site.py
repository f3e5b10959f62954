"""A static site that repaints photographs in the browser: the styles as ONNX, and ONNX Runtime for WebAssembly."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from impasto import bundled, files, interop, onepass
from impasto.errors import InputError
from impasto.runs import terminal

PAGE = Path(__file__).parent.parent / "site"
RUNTIME = "onnxruntime-web@1.30.0"  # MIT; the package of npm
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
UNFINISHED = {"styles", "runtime"}  # what an interrupted export leaves
PARTS = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def build(out: Path, *, quiet: bool) -> None:
    """Write the site to the folder ``out``; needs npm, to fetch ONNX Runtime once.

    Raises:
        InputError: the folder has other files, or the runtime cannot be fetched.
        WeightsError: the exporter is not installed.
    """
    if out.exists() and (not out.is_dir() or ({*os.listdir(out)} - UNFINISHED and not (out / "styles.json").is_file())):
        raise InputError(f"{out}: is not an empty folder; name a new one")
    (out / "styles").mkdir(parents=True, exist_ok=True)
    fetch_runtime(out / "runtime")
    with (
        terminal.progress(len(bundled.STYLES), quiet=quiet, label="exporting") as report,
        tempfile.TemporaryDirectory() as place,
    ):
        for done, name in enumerate(bundled.STYLES, 1):
            model = onepass.load(name)
            network = onepass.require_network(model, name)
            graph = Path(place) / f"{model.crispness}.onnx"  # the same for all styles with this filter, but the weights
            if not graph.exists():
                interop.to_onnx(network, graph, margin=model.margin, finish=onepass.finish(model), fold=False)
            with files.atomic(out / "styles" / f"{name}.onnx") as part:
                interop.with_weights(graph, network, part)
            thumbnail = bundled.thumbnail(name)
            assert thumbnail is not None
            shutil.copyfile(thumbnail, out / "styles" / f"{name}.jpg")
            report(done, name)
    for each in PAGE.iterdir():
        shutil.copyfile(each, out / each.name)
    titles = [{"name": name, "title": shipped.title} for name, shipped in bundled.STYLES.items()]
    (out / "styles.json").write_text(json.dumps(titles))


def fetch_runtime(folder: Path) -> None:
    """Download ONNX Runtime for the web with npm, and check it; InputError if that fails."""
    if all((folder / part).exists() for part in PARTS):
        return
    with tempfile.TemporaryDirectory() as place:
        try:
            npm = ["npm", "pack", RUNTIME, "--silent", "--pack-destination", place]
            subprocess.run(npm, check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            raise InputError(f"{RUNTIME} cannot be fetched with npm ({type(error).__name__}); install npm") from None
        (package,) = Path(place).glob("*.tgz")
        if hashlib.sha256(package.read_bytes()).hexdigest() != SHA256:
            raise InputError(f"{RUNTIME}: npm returned an unexpected package")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(package) as archive:
            for part in PARTS:
                content = archive.extractfile(f"package/dist/{part}")
                assert content is not None
                with files.atomic(folder / part) as written:
                    written.write_bytes(content.read())
