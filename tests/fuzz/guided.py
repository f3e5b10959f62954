"""Fuzz pictures, guided by coverage: `PYTHONPATH=tests python tests/fuzz/guided.py -max_total_time=60`.

Needs Atheris (`pip install atheris`), which has wheels for Linux. The options are those of libFuzzer. An exception that
is not ours, or an input that takes 5 s or 2 GB, ends it, and the input is kept.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["impasto", "PIL", "tifffile"]):
    from impasto import images, machine
    from impasto.errors import ImpastoError

import test_damaged

FOLDER = tempfile.TemporaryDirectory()
PICTURE = Path(FOLDER.name) / "picture"


def one_input(data: bytes) -> None:
    PICTURE.write_bytes(data)
    for read in (images.read, images.read_receipt):
        with suppress(ImpastoError):
            read(PICTURE)


def main() -> None:
    machine.free_memory = lambda device: 1e11
    corpus = Path(FOLDER.name) / "corpus"
    corpus.mkdir()
    for name, sound in test_damaged.PICTURES.items():
        (corpus / name.replace(" ", "-")).write_bytes(sound())
    limits = ["-timeout=5", "-rss_limit_mb=2500", f"-artifact_prefix={Path.cwd()}/"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
