"""Measure waiting times in the studio, with one client and with twenty; writes benchmarks/studio.md.

    python benchmarks/studio.py [--runs N]

Needs playwright and Chromium. Every number is the median over the runs; each run starts a new studio.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import psutil
from playwright.sync_api import Page, sync_playwright
from run import HERE, hardware, table

import impasto
from impasto import bundled, images

QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
API = "/gradio_api"


def seconds_until(page: Page, selector: str, started: float) -> float:
    page.wait_for_selector(selector, timeout=120_000)
    return time.perf_counter() - started


def one_client(address: str, photo: bytes) -> int:
    """Have a photograph repainted; returns the highest status code of all responses."""
    with httpx.Client(base_url=address, timeout=300) as client:
        codes = [client.get("/").status_code]
        sent = client.post(f"{API}/upload", files={"files": ("photo.jpg", photo)})
        codes.append(sent.status_code)
        given = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
        asked = client.post(f"{API}/call/repaint", json={"data": [given, "udnie", 1, 1024, "none"]})
        said = client.get(f"{API}/call/repaint/{asked.json()['event_id']}").text
        path = json.loads(said.strip().rsplit("data: ", 1)[-1])[0]["path"]
        codes += [asked.status_code, client.get(f"{API}/file={path}").status_code]
        return max(codes)


def once(photo: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto("data:text/html,a browser that is already open")
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "impasto", "studio", "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            page.goto(address)
            found["page ready in an open browser, after the command"] = seconds_until(page, "#styles button", started)
            started = time.perf_counter()
            page.set_input_files("#photo input[type=file]", str(photo))
            page.wait_for_selector('#photo img[src*="/file="]')
            found["a 12-megapixel JPEG uploaded and shown"] = time.perf_counter() - started
            started = time.perf_counter()
            page.click("#styles button >> nth=1")
            found["its first one-pass picture, after the click"] = seconds_until(page, "#repaint-pair img", started)
            page.click(f"#styles button >> nth={list(bundled.STYLES).index('starry-night')}")
            page.wait_for_timeout(4000)
            started = time.perf_counter()
            page.click("#paint")
            found["first live picture of an optimisation"] = seconds_until(page, "#repaint-live img", started)
            page.wait_for_timeout(8000)
            started = time.perf_counter()
            page.click("#repaint-stop")
            seconds_until(page, '#repaint-status [data-state="stopped"]', started)
            found["the picture, after Stop"] = seconds_until(page, "#repaint-pair img", started)
            browser.close()
            small = images.to_size(images.to_tensor(photo), 1024)
            with tempfile.TemporaryDirectory() as folder:
                images.write(Path(folder) / "small.jpg", small)
                data = (Path(folder) / "small.jpg").read_bytes()
            one_client(address, data)
            time.sleep(3)
            memory = psutil.Process(process.pid).memory_info().rss
            started = time.perf_counter()
            with ThreadPoolExecutor(20) as pool:
                worst = max(pool.map(lambda _: one_client(address, data), range(20)))
            assert worst == 200, worst
            found["20 clients at once, a 1024-pixel picture each"] = time.perf_counter() - started
            time.sleep(5)
            found["memory after them, over before"] = psutil.Process(process.pid).memory_info().rss / memory
        finally:
            process.terminate()
            process.wait()
    return found


GOALS = {
    "page ready in an open browser, after the command": 3.0,
    "its first one-pass picture, after the click": 4.0,
    "the picture, after Stop": 1.0,
    "memory after them, over before": 1.1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        images.write(photo, images.resize(images.to_tensor(bundled.locate("rocket")), 3000, 4000))
        runs = [once(photo) for _ in range(args.runs)]
    rows = []
    for name in runs[0]:
        unit = "" if "memory" in name else " s"
        values = [run[name] for run in runs]
        goal = f"{GOALS[name]:g}{unit}" if name in GOALS else ""
        rows.append((name, f"{median(values):.2f}{unit}", f"{max(values):.2f}{unit}", goal))
        print(rows[-1], flush=True)
    lines = [
        "# The studio",
        "",
        f"Measured by `python benchmarks/studio.py` on {datetime.date.today()}, impasto {impasto.__version__}, in",
        f"{args.runs} runs. Hardware: {hardware()}.",
        "",
        *table(("what", "median", "worst", "goal, at most"), rows),
        "No client received an error.",
    ]
    (HERE / "studio.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
