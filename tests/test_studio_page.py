"""The studio's page in Chromium, used as a person would."""

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import film, frames, save_picture
from PIL import Image
from playwright.sync_api import Browser, Page, TimeoutError as TakesTooLong, sync_playwright
from studio_server import drawer, serving

from impasto import bundled, images

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="browser tests need chromium: apt-get install chromium")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
DONE = '#repaint-status [data-state="done"]'


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    network = drawer(tmp_path_factory.mktemp("networks") / "lines.safetensors")
    with serving("--models", str(network)) as where:
        yield where


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page with a new session; every test also checks that it sends no request to another host."""
    context = browser.new_context(viewport=DESKTOP)
    foreign: list[str] = []
    context.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else foreign.append(r.url))
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    opened.goto(address)
    opened.wait_for_selector("#styles button")
    yield opened
    context.close()
    assert foreign == []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return {
        "photo": save_picture(folder / "photo.png", 96, 64, seed=1),
        "painting": save_picture(folder / "painting.jpg", 64, 64, seed=2),
    }


def choose(page: Page, file: Path, where: str = "#photo") -> None:
    page.set_input_files(f"{where} input[type=file]", str(file))
    page.wait_for_selector(f'{where} img[src*="/file="]')
    page.wait_for_timeout(300)  # the layout below moves


def saved(page: Page, tmp_path: Path, tab: str = "repaint") -> Path:
    with page.expect_download() as download:
        page.click(f"#{tab}-save")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    return path


def paint_own(page: Page, files: dict[str, Path]) -> None:
    """Start an optimisation that takes a while, after the same in one pass."""
    choose(page, files["photo"])
    page.click("#own button")
    choose(page, files["painting"], "#painting")
    page.wait_for_selector(DONE)
    page.click("#paint")


def test_one_pass(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    choose(page, files["photo"])
    page.click("#styles button >> nth=1")
    page.wait_for_selector("#repaint-pair img")
    page.wait_for_selector(DONE)
    picture = saved(page, tmp_path)
    receipt = images.read_receipt(picture)
    assert (receipt["command"], receipt["styles"]) == ("apply", [list(bundled.STYLES)[1]])
    with Image.open(picture) as painted, Image.open(files["photo"]) as photo:
        assert painted.size == photo.size
        assert np.abs(np.asarray(painted, float) - np.asarray(photo, float)).mean() > 5


def test_any_painting_in_one_pass(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    choose(page, files["photo"])
    page.click("#own button")
    choose(page, files["painting"], "#painting")
    page.wait_for_selector("#repaint-pair img")
    page.wait_for_selector(DONE)
    receipt = images.read_receipt(saved(page, tmp_path))
    assert receipt["command"] == "apply" and "painting" in receipt["models"][0]
    page.click("#styles button >> nth=1")
    page.wait_for_selector("#painting img", state="detached")
    page.wait_for_function("document.querySelector('#repaint-save') !== null")
    page.wait_for_selector(DONE)


def test_settings_are_restored_from_a_receipt(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    receipt = {"command": "transfer", "recipe": {"strength": 0.35, "size": 640, "seed": 7, "steps": 33}}
    images.write(tmp_path / "ours.png", images.to_tensor(files["photo"]), receipt=receipt)
    choose(page, tmp_path / "ours.png")
    page.wait_for_function("document.querySelector('#strength input[type=number]').value == '0.35'")
    page.click("#more button")
    assert page.get_by_label("seed", exact=True).input_value() == "7"
    page.click("#advanced button")
    assert page.get_by_label("steps", exact=True).input_value() == "33"


def test_the_picture_changes_while_it_is_painted_and_stop_keeps_it(
    page: Page, files: dict[str, Path], tmp_path: Path
) -> None:
    paint_own(page, files)
    first = page.wait_for_selector("#repaint-live img").get_attribute("src")
    page.wait_for_function(f"(document.querySelector('#repaint-live img') || {{src: {first!r}}}).src != {first!r}")
    assert page.locator("#repaint-status polyline").count() == 1
    page.click("#repaint-stop")
    page.wait_for_selector('#repaint-status [data-state="stopped"]', timeout=5000)
    page.wait_for_selector("#repaint-pair img")
    assert images.read_receipt(saved(page, tmp_path))["command"] == "transfer"


def test_paint_on(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    choose(page, files["photo"])
    page.click(f"#styles button >> nth={list(bundled.STYLES).index('candy')}")
    page.wait_for_selector(DONE)
    page.click("#onward")
    page.wait_for_selector("#repaint-live img")
    page.click("#repaint-stop")
    page.wait_for_selector('#repaint-status [data-state="stopped"]')
    receipt = images.read_receipt(saved(page, tmp_path))
    assert receipt["begun"]["name"] == "photo-candy.png"
    assert [style["name"] for style in receipt["styles"]] == ["candy.jpg"]


def test_several_styles_in_one_pass_and_onward(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    choose(page, files["photo"])
    page.click("#more button")
    for title in ("Udnie", "La Muse"):
        page.click("#mixture input")
        page.click(f'#mixture [role="option"]:has-text("{title}")')
    page.wait_for_selector("#repaint-results button >> nth=1")
    page.wait_for_selector(DONE)
    assert images.read_receipt(saved(page, tmp_path))["styles"] == ["udnie", "la-muse"]
    page.fill('label:has-text("Their weights") input, label:has-text("Their weights") textarea', "2 1")
    page.click("#onward")
    page.wait_for_selector("#repaint-live img")
    page.click("#repaint-stop")
    page.wait_for_selector('#repaint-status [data-state="stopped"]')
    receipt = images.read_receipt(saved(page, tmp_path))
    assert [style["name"] for style in receipt["styles"]] == ["udnie.jpg", "la-muse.jpg"]
    assert receipt["recipe"]["style_weights"] == [2, 1]


def test_a_reopened_page_finds_its_job(page: Page, files: dict[str, Path]) -> None:
    paint_own(page, files)
    page.wait_for_selector("#repaint-live img")
    page.reload()
    page.wait_for_selector("#repaint-live img")
    page.click("#repaint-stop")
    page.wait_for_selector('#repaint-status [data-state="stopped"]')
    page.reload()
    page.wait_for_selector("#repaint-pair img")


def test_two_tabs_at_once_wait_for_each_other(
    page: Page, browser: Browser, address: str, files: dict[str, Path]
) -> None:
    paint_own(page, files)
    page.wait_for_selector('#repaint-status [data-state="running"]')
    other = browser.new_context(viewport=DESKTOP).new_page()
    other.goto(address)
    paint_own(other, files)
    other.wait_for_selector('#repaint-status [data-state="waiting"]')
    page.click("#repaint-stop")
    other.wait_for_selector('#repaint-status [data-state="running"]')
    other.click("#repaint-stop")
    other.wait_for_selector('#repaint-status [data-state="stopped"]')
    other.context.close()


def test_the_stop_button_does_not_move(page: Page, files: dict[str, Path]) -> None:
    """A click counts only if the button is still under the pointer when the mouse button is released."""
    paint_own(page, files)
    page.wait_for_selector('#repaint-status [data-state="running"]')
    page.hover("#repaint-stop")
    before = page.locator("#repaint-stop").bounding_box()
    page.mouse.down()
    page.wait_for_selector("#repaint-live img")
    page.wait_for_selector("#repaint-status svg")
    page.mouse.up()
    assert page.locator("#repaint-stop").bounding_box() == before
    page.wait_for_selector('#repaint-status [data-state="stopped"]')


def test_the_brush_limits_the_painted_area(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    choose(page, files["photo"])
    page.click("#where button")
    canvas = page.wait_for_selector("#brush canvas")
    page.wait_for_timeout(1500)
    canvas.scroll_into_view_if_needed()
    page.locator("#brush").scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.32, box["y"] + box["height"] * 0.52, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.click("#styles button >> nth=4")
    page.wait_for_selector(DONE)
    with Image.open(saved(page, tmp_path)) as painted, Image.open(files["photo"]) as photo:
        change = np.abs(np.asarray(painted, float) - np.asarray(photo, float)).sum(2)
    assert change[:, -16:].max() == 0 and change.max() > 20


def test_a_bad_file_shows_an_error(page: Page, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("<html><script>alert(1)</script>")
    page.set_input_files("#photo input[type=file]", str(tmp_path / "bad.png"))
    page.get_by_text(re.compile("not a picture")).first.wait_for()
    assert page.locator("#photo img").count() == 0


def test_keyboard_only(page: Page, files: dict[str, Path]) -> None:
    choose(page, files["photo"])  # the file dialog is not part of the page
    page.locator("#photo").press("Tab")
    for _ in range(40):
        if page.evaluate("document.activeElement.closest('#styles') !== null"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)


def test_the_page_does_not_scroll_sideways_on_a_phone(page: Page, files: dict[str, Path]) -> None:
    page.set_viewport_size(PHONE)
    choose(page, files["photo"])
    page.click("#styles button >> nth=2")
    page.wait_for_selector(DONE)
    for tab in ("Film", "Photo", "Translate", "Study", "Repaint"):
        page.set_viewport_size(DESKTOP)  # a phone shows some of the tabs in a menu
        page.get_by_role("tab", name=tab, exact=True).click()
        page.set_viewport_size(PHONE)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab


def test_light(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    page.get_by_role("tab", name="Photo", exact=True).click()
    choose(page, files["photo"], "#light-photo")
    choose(page, files["painting"], "#light-style")
    page.click("#regions button")
    page.click("#light-find")
    page.wait_for_selector("#light-theirs canvas")
    page.click("#light-go")
    page.wait_for_selector('#photo-status [data-state="done"]')
    assert images.read_receipt(saved(page, tmp_path, "photo"))["command"] == "photo"


def test_film(page: Page, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Film", exact=True).click()
    (tmp_path / "text.mp4").write_text("no film")
    page.set_input_files("#film-clip input[type=file]", str(tmp_path / "text.mp4"))
    page.get_by_text(re.compile("^HTTP 400: not a picture or a film; upload")).first.wait_for()
    page.reload()
    page.get_by_role("tab", name="Film", exact=True).click()
    clip = film(tmp_path / "clip.mp4", count=400, rate=10, width=96)  # long: the page may be slower than the film
    page.set_input_files("#film-clip input[type=file]", str(clip))
    page.wait_for_selector("#film-clip video")
    page.wait_for_timeout(300)  # the layout below moves
    page.click("#film-styles button >> nth=1")
    page.wait_for_selector("#film-live img")
    page.wait_for_selector("#film-film video")
    page.click("#film-stop")
    page.wait_for_selector('#film-status [data-state="stopped"]')
    painted = saved(page, tmp_path, "film")
    assert painted.suffix == ".mp4" and 20 <= len(frames(painted)) < 400


def test_translate(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    page.get_by_role("tab", name="Translate", exact=True).click()
    choose(page, files["photo"], "#translate-photo")
    page.click("#translate-go")
    page.wait_for_selector('#translate-status [data-state="done"]')
    assert images.read_receipt(saved(page, tmp_path, "translate"))["command"] == "pix2pix apply"


def test_draw_on_the_canvas(page: Page, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Translate", exact=True).click()
    for patience in (10_000, 20_000, 60_000):  # a click is lost while Gradio builds the tab, or answers another one
        page.click('#translate-model label:has-text("colorize")')
        with suppress(TakesTooLong):
            with page.expect_response(lambda answer: answer.url.endswith("/canvas.png"), timeout=patience):
                page.click('#translate-model label:has-text("lines")')
            page.wait_for_selector("#translate-canvas canvas", timeout=patience)
            break
    canvas = page.wait_for_selector("#translate-canvas canvas", timeout=20_000)
    page.click("#translate-go")
    page.get_by_text("draw something first").wait_for()
    made = []
    for height in (0.4, 0.5):  # a line, then another one below
        page.wait_for_timeout(1500)  # the paper is put under the brush
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * height)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * height, steps=8)
        page.mouse.up()
        page.wait_for_timeout(500)
        page.click("#translate-go")
        if made:  # the gallery shows two results or more
            page.wait_for_selector("#translate-results button >> nth=1")
        page.wait_for_selector('#translate-status [data-state="done"]')
        picture = saved(page, tmp_path, "translate")
        assert images.read_receipt(picture)["command"] == "pix2pix apply"
        made.append(images.to_tensor(picture))
    assert made[0].shape == made[1].shape == (1, 3, 512, 512)
    rows = (made[0] - made[1]).abs().amax((0, 1, 3))
    assert rows.max() > 0.2 and 128 < rows.argmax() < 384  # at the second line; the network's norms spread a little


def test_study(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    page.get_by_role("tab", name="Study", exact=True).click()
    choose(page, files["photo"], "#study-photo")
    choose(page, files["painting"], "#study-style")
    page.fill("#study-size input", "64")
    page.fill("#study-steps input", "2")
    page.click("#study-go")
    page.wait_for_selector('#study-status [data-state="done"]')
    with Image.open(saved(page, tmp_path, "study")) as sheet:
        assert sheet.width > 3 * 64
