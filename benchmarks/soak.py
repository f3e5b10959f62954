"""Run many jobs in the studio from many clients, with stops and closed connections, and see what remains.

    python benchmarks/soak.py [--jobs N] [--clients N]

Prints the answers, how the jobs ended, the growth of memory after the first sixth of them, and the files
left. Exits with 1 if a request gave 5xx, memory grew by more than 10 %, or files were left.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

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
    name, data = chance.choice(
        [
            ("repaint", [given, chance.choice(STYLES), 1, 0, "none"]),
            ("paint", [given, given, {"size": 64, "steps": 6}]),
            ("light", [given, given, {"size": 64, "steps": 4}]),
        ]
    )
    asked = counted(client.post(f"{API}/call/{name}", json={"data": data}))
    way = chance.choice(["wait", "wait", "close", "leave"])
    if way == "leave" or asked.status_code != 200:
        seen.ended["left" if way == "leave" else "refused"] += 1
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
        stack.close()
        return seen, memory, sorted(Path(folder).rglob("*"))


def settled(pid: int) -> None:
    """Wait until the studio has been idle for a moment."""
    process = psutil.Process(pid)
    end = time.monotonic() + 600
    while process.cpu_percent(2.0) > 5 and time.monotonic() < end:
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
    return int(any(code >= 500 for code in seen.codes) or growth > 1.1 or bool(left))


if __name__ == "__main__":
    sys.exit(main())
