"""Object stores: s3:// by s3fs and moto, gs:// by gcsfs and an emulator. CONTRIBUTING.md says how to run this."""

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


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty bucket on this machine."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    facts = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
             "AWS_DEFAULT_REGION": "us-east-1", "STORAGE_EMULATOR_HOST": address,
             "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}  # fmt: skip
    if request.param == "s3":
        pytest.importorskip("s3fs")
        server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port, verbose=False)
    else:
        pytest.importorskip("gcsfs")
        emulator = pytest.importorskip("gcp_storage_emulator.server")
        server = emulator.create_server("127.0.0.1", port, in_memory=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in facts.items():
            patch.setenv(name, value)
        patch.setattr("socketserver.BaseServer.handle_error", lambda *given: None)  # of closed connections
        server.start()
        fsspec.filesystem(request.param).mkdir("pictures")
        yield f"{request.param}://pictures"
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


@pytest.mark.filterwarnings("ignore")
def test_a_folder_in_a_store_on_a_cluster(
    bucket: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    facts = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args=facts)  # they take over the environment
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    store, _ = fsspec.url_to_fs(bucket)
    for name in ("a.png", "deep/b.png"):
        store.put_file(str(photo), f"pictures/many/{name}")
    usual = ["--style", "candy", "--size", "64", "--quiet"]
    try:
        assert cli.main(["apply", f"{bucket}/many", "-o", f"{bucket}/painted", *usual, "--cluster", "auto"]) == 0
    finally:
        nodes.shutdown()
    store.invalidate_cache()
    painted = sorted(store.find("pictures/painted"))
    assert painted == ["pictures/painted/a.png", "pictures/painted/deep/b.png"]
    assert cli.main(["apply", str(photo), "-o", str(tmp_path / "here.png"), *usual]) == 0
    for path in painted:
        store.get_file(path, str(tmp_path / "there.png"))
        assert np.array_equal(opened(tmp_path / "here.png"), opened(tmp_path / "there.png"))
