"""The static site in Chromium, from a plain file server."""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import one_line, opened, save_picture
from playwright.sync_api import sync_playwright
from test_studio_page import CHROMIUM, PHONE, QUIET

from impasto import bundled, cli, images, interop, onepass
from impasto.errors import InputError
from impasto.runs import site as run_site

needs = pytest.mark.skipif(CHROMIUM is None or shutil.which("npm") is None, reason="needs chromium and npm")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site with two of its styles."""
    out = tmp_path_factory.mktemp("site") / "page"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled, "STYLES", {name: bundled.STYLES[name] for name in ("candy", "mosaic")})
        assert cli.main(["export", "--site", str(out), "--quiet"]) == 0
    return out


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@needs
def test_the_page_paints_like_pytorch(address: str, tmp_path: Path) -> None:
    photo = save_picture(tmp_path / "photo.png", 96, 64, seed=1)
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        context = browser.new_context(viewport=PHONE)
        asked: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.set_default_timeout(120_000)
        page.goto(address)
        page.click("#styles button[data-style=candy]")
        page.set_input_files("#file", str(photo))
        page.wait_for_selector('#status[data-state="done"], #status[data-state="failed"]')
        assert page.inner_text("#status").startswith("Painted"), page.inner_text("#status")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        with page.expect_download() as download:
            page.click("#save")
        painted = np.asarray(opened(Path(download.value.path())).convert("RGB"), int)
        page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
        page.wait_for_selector('#status[data-state="failed"]')
        browser.close()
    model = onepass.load("candy")
    ours = onepass.apply(photo, model, size=0, grain=0, clarity=0, underpainting=0, precision="float32")
    assert np.abs(painted - np.asarray(images.to_pil(ours), int)).max() <= 2
    assert faults == [] and all(url.startswith((address, "blob:", "data:")) for url in asked)


@needs
def test_every_style_has_its_own_weights(site: Path) -> None:
    image = torch.rand(1, 3, 40, 56)
    for name in ("candy", "mosaic"):  # two graphs: mosaic is not filtered
        session = onnxruntime.InferenceSession(site / "styles" / f"{name}.onnx", providers=["CPUExecutionProvider"])
        (painted,) = session.run(None, {"image": image.numpy()})
        ours = onepass.apply(image, name, size=0, grain=0, clarity=0, underpainting=0, precision="float32")
        np.testing.assert_allclose(painted, ours.numpy(), atol=1e-3)


def test_nothing_else_is_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "STYLES", {"candy": bundled.STYLES["candy"]})
    monkeypatch.setattr(run_site, "fetch_runtime", lambda folder: None)
    monkeypatch.setattr(interop, "to_onnx", lambda network, path, **_: path.touch())
    monkeypatch.setattr(interop, "with_weights", lambda first, network, path: shutil.copyfile(first, path))
    run_site.build(tmp_path / "page", quiet=True)
    found = sorted(path.relative_to(tmp_path / "page").as_posix() for path in (tmp_path / "page").rglob("*.*"))
    assert found == sorted(
        ["styles.json", "styles/candy.jpg", "styles/candy.onnx", *(path.name for path in run_site.PAGE.iterdir())]
    )


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").touch()
    assert cli.main(["export", "--site", str(tmp_path)]) == 1
    one_line(capsys, "not an empty folder")
    assert cli.main(["export"]) == 1
    one_line(capsys, "name a model and a file")
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):
        with pytest.raises(InputError, match="install npm"):
            run_site.build(tmp_path / "page", quiet=True)
