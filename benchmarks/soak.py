"""Run many jobs in the studio from many clients, with stops and closed connections, and see what remains.

    python benchmarks/soak.py [--jobs N] [--clients N]

Prints the answers, how the jobs ended, the growth of memory after the first sixth of them, and the files
left: those that no upload or result needs when all jobs have ended, and all files when the studio has.
Exits with 1 if a request gave 5xx, a job failed or was refused, memory grew by more than 10 %, or files
were left.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

API = "/gradio_api"
STYLES = ("candy", "udnie", "starry-night")


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        codes: how many answers had each status.
        ended: how many jobs ended in each way.
    """

    codes: Counter[int] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    noise = Image.effect_noise((96 + number % 64, 80), 60)
    noise.convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def one_job(client: httpx.Client, number: int, seen: Seen) -> None:
    """Upload a picture and start a job; then wait for it, stop it, close the connection, or never listen."""
    chance = random.Random(number)

    def counted(answer: httpx.Response) -> httpx.Response:
        seen.codes[answer.status_code] += 1
        return answer

    sent = counted(client.post(f"{API}/upload", files={"files": ("photo.jpg", picture(number))}))
    given = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
    way = chance.choice(["wait", "wait", "stop", "close", "leave"])
    if way == "stop":
        last = ""
        for line in trigger(client, "study-go", given, given, "content, layer by layer", 64, 50):
            if '"running' in line and '"running' not in last:  # its first sign
                list(trigger(client, "study-stop"))
            last = line
        seen.ended["stopped" if '"success":true' in last else "failed"] += 1
        return
    name, data = chance.choice(
        [
            ("repaint", [given, chance.choice(STYLES), 1, 0, "none"]),
            ("paint", [given, given, {"size": 64, "steps": 6}]),
            ("light", [given, given, {"size": 64, "steps": 4}]),
        ]
    )
    asked = counted(client.post(f"{API}/call/{name}", json={"data": data}))
    if way == "leave" or asked.status_code != 200:
        seen.ended["left" if asked.status_code == 200 else "refused"] += 1
        return
    with client.stream("GET", f"{API}/call/{name}/{asked.json()['event_id']}") as stream:
        seen.codes[stream.status_code] += 1
        last = ""
        for line in stream.iter_lines():
            if way == "close":
                seen.ended["closed"] += 1
                return
            last = line if line.startswith("data: [") else last
    if not last:
        seen.ended["failed"] += 1
        return
    counted(client.get(f"{API}/file={json.loads(last.removeprefix('data: '))[0]['path']}"))
    seen.ended["done"] += 1


def trigger(client: httpx.Client, element: str, *data: Any) -> Iterator[str]:
    """Click a button of the page, as its script does; yields the answers."""
    config = client.get("/config").json()
    (target,) = (each["id"] for each in config["components"] if each["props"].get("elem_id") == element)
    number = next(each["id"] for each in config["dependencies"] if [target, "click"] in each["targets"])
    asked = {"data": data, "fn_index": number, "session_hash": secrets.token_hex(8)}
    client.post(f"{API}/queue/join", json=asked).raise_for_status()
    with client.stream("GET", f"{API}/queue/data", params={"session_hash": asked["session_hash"]}) as said:
        yield from (line.replace('\\"', '"') for line in said.iter_lines() if '"process_' in line)


def stray(root: Path) -> list[Path]:
    """The files and empty folders that no upload or result needs; the page may still load two previews of a job."""
    found = [path for name in ("incoming", "uploads") for path in (root / name).rglob("*")]
    for folder in (root / "sessions").glob("*/*"):
        inside = sorted(folder.rglob("*"))
        found += [path for path in inside if path.name.startswith((".", "first-")) or path.is_dir()]
        found += [path for path in inside if path.name.startswith("live-")][2:]
        found += [] if inside else [folder]
    return found


def soak(jobs: int, clients: int, rounds: int = 6) -> tuple[Seen, list[int], list[Path]]:
    """Run the jobs in rounds; returns what was seen, the bytes of memory after each round, and the files left."""
    seen = Seen()
    command = [sys.executable, "-m", "impasto", "studio", "--port", "0"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": folder})
        )
        stack.callback(process.terminate)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        (root,) = Path(folder).iterdir()
        before = stray(root)  # Gradio's own
        opened = [stack.enter_context(httpx.Client(base_url=address, timeout=600)) for _ in range(clients)]
        for client in opened:
            seen.codes[client.get("/").status_code] += 1

        def run(numbers: range) -> None:
            with ThreadPoolExecutor(clients) as pool:
                list(pool.map(lambda number: one_job(opened[number % clients], number, seen), numbers))
            settled(process.pid)

        memory = []
        for index in range(rounds):
            run(range(index * jobs // rounds, (index + 1) * jobs // rounds))
            memory.append(psutil.Process(process.pid).memory_info().rss)
        left = [path for path in stray(root) if path not in before]
        stack.close()
        return seen, memory, left + sorted(Path(folder).rglob("*"))


def settled(pid: int) -> None:
    """Wait until the studio has been idle for a moment."""
    process = psutil.Process(pid)
    end = time.monotonic() + 600
    while process.cpu_percent(1.0) > 30 and time.monotonic() < end:  # a job takes 100, an idle studio up to 10
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--clients", type=int, default=20)
    args = parser.parse_args()
    seen, memory, left = soak(args.jobs, args.clients)
    growth = max(memory) / memory[0]
    print(f"answers: {dict(seen.codes)}\njobs: {dict(seen.ended)}\nfiles left: {len(left)}")
    print(f"memory: {', '.join(f'{each / 1e6:.0f}' for each in memory)} MB; at most {growth:.3f} times the first")
    lost = seen.ended["failed"] + seen.ended["refused"]
    return int(any(code >= 500 for code in seen.codes) or lost > 0 or growth > 1.1 or bool(left))


if __name__ == "__main__":
    sys.exit(main())
