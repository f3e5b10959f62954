"""An object store, s3://, by s3fs and moto. CONTRIBUTING.md says how to run this."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from conftest import opened

from impasto import cli
from impasto.runs import cluster, folders


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket on this machine."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    port = free_port()
    facts = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b",
             "DEFAULT_REGION": "us-east-1"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in facts.items():
            patch.setenv(f"AWS_{name}", value)
        server = moto.ThreadedMotoServer("127.0.0.1", port, verbose=False)
        server.start()
        fsspec.filesystem("s3").mkdir("pictures")
        yield "s3://pictures"
        server.stop()


@pytest.mark.filterwarnings("ignore")
def test_a_table_of_transfers_in_a_store(
    bucket: str, photo: Path, painting: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = fsspec.url_to_fs(bucket)
    for path in (photo, painting):
        store.put_file(str(path), f"pictures/in/{path.name}")
    store.pipe_file("pictures/in/broken.png", b"no picture")
    names = ["photo.png", "broken.png", "missing.png"]
    rows = [{"content": f"{bucket}/in/{name}", "style": f"{bucket}/in/painting.jpg", "out": name} for name in names]
    table = tmp_path / "jobs.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    usual = ["--encoder", tiny, "--steps", "2", "--size", "32", "--quiet"]
    assert cli.main(["transfer", str(table), "-o", f"{bucket}/out", *usual]) == 1
    said = capsys.readouterr().err
    assert "in/broken.png" in said and "in/missing.png" in said and "2 of 3 could not be repainted" in said
    assert "Traceback" not in said
    assert store.ls("pictures/out", detail=False) == ["pictures/out/photo.png"]
    assert cli.main(["transfer", str(photo), str(painting), "-o", str(tmp_path / "alone.png"), *usual]) == 0
    store.get_file("pictures/out/photo.png", str(tmp_path / "there.png"))
    assert np.array_equal(opened(tmp_path / "alone.png"), opened(tmp_path / "there.png"))
    before = store.info("pictures/out/photo.png")
    store.put_file(str(photo), "pictures/in/broken.png")
    assert cli.main(["transfer", str(table), "-o", f"{bucket}/out", "--resume", f"{bucket}/out", *usual]) == 1
    assert "1 of 2 could not be repainted" in capsys.readouterr().err
    store.invalidate_cache()
    assert sorted(store.ls("pictures/out", detail=False)) == ["pictures/out/broken.png", "pictures/out/photo.png"]
    assert store.info("pictures/out/photo.png") == before


@pytest.mark.filterwarnings("ignore")
def test_a_folder_in_a_store(bucket: str, photo: Path) -> None:
    store, _ = fsspec.url_to_fs(bucket)
    for name in ("a.png", "deep/b.png", "notes.txt"):
        store.put_file(str(photo), f"pictures/folder/{name}")
    jobs = cluster.pictures(f"{bucket}/folder", f"{bucket}/repainted", folders.result_name)
    assert [(job.source, job.out) for job in jobs] == [
        (f"{bucket}/folder/{name}", f"{bucket}/repainted/{name}") for name in ("a.png", "deep/b.png")
    ]
    copy: Any = lambda source, out, options: out.write_bytes(source.read_bytes())  # noqa: E731
    assert cluster.attempt(copy, jobs[0]) == ""
    store.invalidate_cache()
    assert cluster.unfinished(jobs, f"{bucket}/repainted") == jobs[1:]


@pytest.mark.filterwarnings("ignore")
def test_what_a_store_refuses(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "jobs.csv"
    table.write_text("content,style\nchelsea,candy\n")
    assert cli.main(["transfer", str(table), "-o", f"{bucket.replace('pictures', 'nowhere')}/out", "--quiet",
                     "--steps", "1", "--size", "16"]) == 1  # fmt: skip
    said = capsys.readouterr().err
    assert "nowhere/out/chelsea-candy.png: " in said and "1 of 1 could not be repainted" in said
    store, _ = fsspec.url_to_fs(bucket)
    store.invalidate_cache()
    assert not store.exists("nowhere")  # not created
