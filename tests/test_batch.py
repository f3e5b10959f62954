"""Tables of transfers, and folders on a Ray cluster of three nodes."""

import json
import shutil
import socket
import types
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, one_line, opened, save_picture, wait_for

from impasto import cli, networks, onepass, presets, transfer as transfer_method
from impasto.errors import DivergedError, InputError
from impasto.recipes import STARTS
from impasto.runs import batch, cluster, folders

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def table(tmp_path: Path, photo: Path, painting: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    path = tmp_path / "jobs.csv"
    path.write_text(
        "content,style,out,size,style-layers,layer_weights\n"
        'photo.png,painting.jpg,,40,"[""relu1_1"", ""relu2_1""]","[1, 2]"\n'
        'photo.png,"[""painting.jpg"", ""photo.png""]",two.png,,,\n'
        "broken.png,painting.jpg,,,,\n"
    )
    return path


def transfer(table: Path, tiny: str, *more: str) -> int:
    return cli.main(["transfer", str(table), "-o", "out", "--encoder", tiny, "--steps", "2", "--size", "32", *more])


def test_a_table_of_transfers(table: Path, tiny: str, capsys: Capture) -> None:
    assert transfer(table, tiny) == 1
    said = capsys.readouterr()
    assert "broken.png" in said.err and "1 of 3 could not be repainted" in said.err
    assert said.out.splitlines()[-1] == "out"
    assert opened(Path("out/photo-painting.png")).width == 40 and opened(Path("out/two.png")).width == 32
    alone = [
        "transfer",
        "photo.png",
        "painting.jpg",
        "-o",
        "alone.png",
        "--encoder",
        tiny,
        "--steps",
        "2",
        "--size",
        "40",
    ]
    assert cli.main([*alone, "--style-layers", "relu1_1", "relu2_1", "--layer-weights", "1", "2", "--quiet"]) == 0
    assert np.array_equal(opened(Path("alone.png")), opened(Path("out/photo-painting.png")))
    before = Path("out/two.png").stat().st_mtime_ns
    Path("out/photo-painting.png").unlink()
    shutil.copy("photo.png", "broken.png")
    assert transfer(table, tiny, "--resume", ".") == 1
    one_line(capsys, "--resume .: for a table it is OUT, out")
    assert transfer(table, tiny, "--resume", "out", "--quiet") == 0
    assert len(list(Path("out").iterdir())) == 3 and Path("out/two.png").stat().st_mtime_ns == before


def test_a_transfer_that_failed_is_not_done(
    table: Path, tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The picture so far does not count as the result; one from before stays as long as nothing replaces it."""
    table.write_text("content,style,out\nphoto.png,painting.jpg,out.png\n")
    steps, result = transfer_method.steps, Path("out/out.png")

    def failing_after(count: int) -> int:
        def failing(*arguments: Any, **options: Any) -> Iterator[transfer_method.Step]:
            yield from islice(steps(*arguments, **options), count)
            raise DivergedError("the loss is not finite")

        with monkeypatch.context() as patched:
            patched.setattr(transfer_method, "steps", failing)
            code = transfer(table, tiny)
        assert "1 of 1 could not be repainted: out.png" in capsys.readouterr().err
        return code

    assert failing_after(1) == 1 and not result.exists()
    assert transfer(table, tiny, "--resume", "out") == 0
    before = result.read_bytes()
    assert failing_after(0) == 1 and result.read_bytes() == before
    assert failing_after(1) == 1 and not result.exists()


def test_json_lines_are_the_same_as_csv(table: Path, tmp_path: Path) -> None:
    lines = [
        {"content": "photo.png", "style": "painting.jpg", "size": 40, "style_layers": ["relu1_1", "relu2_1"],
         "layer_weights": [1, 2]},
        {"content": "photo.png", "style": ["painting.jpg", "photo.png"], "out": "two.png"},
        {"content": "broken.png", "style": "painting.jpg"},
    ]  # fmt: skip
    other = tmp_path / "jobs.jsonl"
    other.write_text("\n\n".join(map(json.dumps, lines)))
    assert batch.read(other, presets.impasto, "out") == batch.read(table, presets.impasto, "out")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("content,style\n", "no transfers"),
        ("content,size\na.png,3\n", "line 2: the column 'style'"),
        ("content,style,zise\na.png,b.png,3\n", "line 2: unknown recipe field 'zise'"),
        ("content,style,size\na.png,b.png,large\n", "line 2: --size must be a whole number"),
        ("content,style\na.png,b.png,c.png\n", "line 2: more values"),
        ("content,style\na.png,b.png\nc/a.png,b.png\n", "line 3: a-b.png is already"),
        ("content,style\n3,[3]\n", "line 2: content, style and out must be text"),
        ('{"content": "a.png", "style": "b.png", "out": 5}', "line 1: content, style and out must be text"),
        (f"content,style\na.png,{140_000 * 'b'}\n", "line 2: field larger than field limit"),
        (f'content,style\na.png,"{140_000 * "["}"\n', "line 2: field larger than field limit"),
        (f"content,style,size\na.png,b.png,{100_000 * '['}\n", "line 2: --size must be a whole number"),
        (100_000 * "[", "line 1: not a JSON object"),
        *[
            (json.dumps({"content": "a.png", "style": "candy", "init": "content", name: "a\0b"}), "line 1: a name must")
            for name in ("content", "style", "out", "init", "encoder")
        ],
        *[
            (
                json.dumps({"content": "a.png", "style": "candy", "out": name}),
                f"line 1: out {name} must be a name inside",
            )
            for name in ("../x.png", "/tmp/x.png", "a/../../x.png")
        ],
    ],
)
def test_a_faulty_table(text: str, named: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / ("jobs.csv" if text.startswith("content") else "jobs.jsonl")
    path.write_text(text)
    assert cli.main(["transfer", str(path), "-o", str(tmp_path / "out")]) == 1
    one_line(capsys, path.name, named, only=False)


def test_spaces_and_numbers_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(
        'content, style , out, steps\na.png, candy, 1 , 7\na.png, "[""b.png"", ""c.png""]",\n5, 01, b.png\n'
    )
    jobs = batch.read(path, presets.impasto, "s3://out")
    assert [(job.source, job.out) for job in jobs] == [
        ("a.png", "s3://out/1"), ("a.png", "s3://out/a-b-c.png"), ("5", "s3://out/b.png"),
    ]  # fmt: skip
    options = [json.loads(job.options) for job in jobs]
    assert [each["styles"] for each in options] == [["candy"], ["b.png", "c.png"], ["01"]]
    assert options[0]["recipe"]["steps"] == 7


def test_a_table_overwrites_no_input(table: Path, capsys: Capture) -> None:
    table.write_text("content,style,out\nbroken.png,painting.jpg,photo.png\nphoto.png,painting.jpg,\n")
    before = Path("photo.png").read_bytes()
    assert cli.main(["transfer", str(table), "-o", "."]) == 1
    one_line(capsys, "photo.png: is also an input", only=True)
    assert Path("photo.png").read_bytes() == before
    table.write_text("content,style,out,init\nphoto.png,candy,,\nphoto.png,candy,new.png,photo-candy.png\n")
    shutil.copy("photo.png", "photo-candy.png")
    assert cli.main(["transfer", str(table), "-o", "."]) == 1
    one_line(capsys, "photo-candy.png: is also an input", only=True)
    with pytest.raises(InputError, match=r"a\.png: is also an input"):
        batch._left([cluster.Job("memory:///photos/a.png", "memory://photos/a.png")], "memory://photos", False)


@pytest.mark.parametrize("more", [["--content-masks", "photo.png"], ["--video", "a.mp4"], ["--sweep", "1", "2"]])
def test_options_that_a_table_does_not_take(more: list[str], table: Path, tiny: str, capsys: Capture) -> None:
    assert transfer(table, tiny, *more) == 1
    one_line(capsys, "a table takes no masks", only=True)
    table.write_text('content,style,sweep\nphoto.png,painting.jpg,"[1, 2]"\n')
    assert transfer(table, tiny) == 1
    one_line(capsys, "line 2: a table takes no --sweep", only=True)


def test_files_that_a_table_names_are_found_from_other_folders(table: Path, tiny: str) -> None:
    name = Path(tiny).name
    table.write_text(f"content,style,init,encoder\nphoto.png,painting.jpg,photo.png,{name}\nphoto.png,candy,,\n")
    shutil.copy(tiny, ".")
    for folder in ("content", "candy"):  # not what these words mean
        Path(folder).mkdir()
    Path("compact").write_text("not an encoder")
    first, second = batch.read(table, presets.pytorch_five, "out")
    recipe = json.loads(first.options)["recipe"]
    assert recipe["init"] == str(Path("photo.png").absolute()) and Path(recipe["encoder"]).is_absolute()
    plain = json.loads(second.options)
    assert plain["styles"] == ["candy"] and plain["recipe"]["init"] == "content"
    assert plain["recipe"]["encoder"] == "compact"
    for start in STARTS:
        shutil.rmtree(start, ignore_errors=True)
        Path(start).write_text("not a start")
        (job,) = batch.read(table, replace(presets.impasto, init=start), "out")[1:]
        assert json.loads(job.options)["recipe"]["init"] == start


def test_folders_of_urls_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of two folders do not overwrite each other, and a local folder for results is an absolute path."""
    import fsspec

    memory, chosen = fsspec.filesystem("memory"), list[cluster.Job]()
    for folder in ("june", "july"):
        memory.pipe_file(f"/{folder}/a.png", b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "run", lambda address, work, jobs, quiet: chosen.extend(jobs))
    sources, painter = ["memory://june", "memory://july"], types.SimpleNamespace(sources=[])
    batch.apply(sources, "out", painter, "auto", quiet=True, resume=False)  # type: ignore[arg-type]
    assert [job.out for job in chosen] == [str(tmp_path / "out" / folder / "a.png") for folder in ("june", "july")]
    chosen.clear()
    (tmp_path / "may" / "in").mkdir(parents=True)
    save_picture(tmp_path / "may" / "b.png")
    monkeypatch.chdir(tmp_path / "may" / "in")
    batch.apply(["memory://june", ".."], "memory://out", painter, "auto", quiet=True, resume=False)  # type: ignore[arg-type]
    assert [job.out for job in chosen] == ["memory://out/june/a.png", "memory://out/may/b.png"]


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_results_of_urls_overwrite_no_input(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/bucket/b.png", b"")
    photos = tmp_path / "photos"
    photos.mkdir()
    save_picture(photos / "a.png")
    chosen: list[cluster.Job] = []
    monkeypatch.setattr(cluster, "run", lambda address, work, jobs, quiet: chosen.extend(jobs))
    painter: Any = types.SimpleNamespace(sources=[str(photos / "b.png")])
    given = ["memory://bucket", f"{scheme}{photos}"]
    with pytest.raises(InputError, match=r"a\.png: is also an input"):
        batch.apply(given, tmp_path, painter, "auto", quiet=True, resume=False)
    with pytest.raises(InputError, match=r"b\.png: is also an input"):  # a style
        batch.apply(given[:1], f"{scheme}{photos}", painter, "auto", quiet=True, resume=False)
    batch.apply(given, "memory://out", painter, "auto", quiet=True, resume=False)
    work = lambda source, out, options: shutil.copy(source, out)  # noqa: E731
    assert cluster.attempt(work, chosen[1]) == ""
    assert fsspec.filesystem("memory").cat("/out/photos/a.png") == (photos / "a.png").read_bytes()


def test_two_jobs_with_one_result() -> None:
    jobs = [cluster.Job(f"memory://{folder}/a.png", "memory://out/a.png") for folder in ("june", "july")]
    with pytest.raises(InputError, match=r"a\.png: would be the result of two"):
        batch._left(jobs, "memory://out", False)


def test_places() -> None:
    places = {
        "s3://bucket/folder": "s3://bucket/folder", str(Path("s3://bucket/folder")): "s3://bucket/folder",
        "file:///tmp/a": "/tmp/a", str(Path("file:///tmp/a")): "/tmp/a",
        "local:///tmp/a": "/tmp/a", "C:/pictures": "C:/pictures", "a/b": "a/b",
    }  # fmt: skip
    assert {place: cluster.located(place) for place in places} == places


def test_urls(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a.png", "in/b.bmp", "in/.hidden.png", "notes.txt"):
        save_picture(tmp_path / "picture.png")
        memory.makedirs("/photos/in", exist_ok=True)
        memory.put_file(str(tmp_path / "picture.png"), f"/photos/{name}")
    jobs = cluster.pictures("memory://photos", "memory://out", folders.result_name)
    assert [(job.source, job.out) for job in jobs] == [
        ("memory:///photos/a.png", "memory://out/a.png"), ("memory:///photos/in/b.bmp", "memory://out/in/b.bmp.png"),
    ]  # fmt: skip
    work = lambda source, out, options: shutil.copy(source, out)  # noqa: E731
    assert cluster.attempt(work, jobs[0]) == ""
    assert cluster.unfinished(jobs, "memory://out") == jobs[1:]
    assert memory.cat("/out/a.png") == (tmp_path / "picture.png").read_bytes()
    assert "in/c.png" in cluster.attempt(work, cluster.Job("memory:///photos/in/c.png", "memory://out/c.png"))
    with pytest.raises(InputError, match="no picture"):
        cluster.pictures("memory://nothing", "memory://out", folders.result_name)
    with pytest.raises(InputError, match="nowhere"):
        cluster.pictures("nowhere://photos", "memory://out", folders.result_name)


def test_a_store_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each store has its own errors, such as botocore's NoCredentialsError."""
    import fsspec

    def find(*_: object, **__: object) -> list[str]:
        raise type("NoCredentialsError", (Exception,), {})("Unable to locate\ncredentials")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "find", find)
    for look in (
        lambda: cluster.pictures("memory://photos", "memory://out", folders.result_name),
        lambda: cluster.unfinished([cluster.Job("a.png", "memory://out/a.png")], "memory://out"),
    ):
        with pytest.raises(InputError, match=r"memory://\w+: cannot be listed \(Unable"):
            look()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of three nodes with one core each, all on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")  # otherwise some servers of clients die when they start
        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300}  # to notice a dead node
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        head = {**small, "include_dashboard": False, "_system_config": quick, "ray_client_server_port": port}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(**small)
        patch.setenv("RAY_ADDRESS", cluster.address)
        cluster.from_outside = f"ray://127.0.0.1:{port}"
        yield cluster
        cluster.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_a_table_on_a_cluster(nodes: Any, table: Path, tiny: str, tmp_path: Path, capsys: Capture) -> None:
    rows = [f"photo.png,painting.jpg,{seed}.png,{seed}" for seed in range(3)]
    table.write_text("\n".join(["content,style,out,seed", *rows, "broken.png,painting.jpg,,"]))
    assert transfer(table, tiny, "--cluster", "auto", "--quiet") == 1
    said = capsys.readouterr().err
    assert "broken.png" in said and "1 of 4 could not be repainted" in said
    assert sorted(path.name for path in Path("out").iterdir()) == ["0.png", "1.png", "2.png"]
    row = ["transfer", "photo.png", "painting.jpg", "-o", "alone.png", "--encoder", tiny, "--size", "32", "--seed", "2"]
    assert cli.main([*row, "--steps", "2", "--quiet"]) == 0
    assert np.array_equal(opened(Path("alone.png")), opened(Path("out/2.png")))


@pytest.mark.filterwarnings("ignore")
def test_a_folder_on_a_cluster(nodes: Any, photo: Path, tmp_path: Path, capsys: Capture) -> None:
    """First from outside the cluster, with URLs; then from a machine of it."""
    photos, model = tmp_path / "photos", tmp_path / "model.safetensors"
    torch.manual_seed(0)
    onepass.save(model, networks.Network(SMALL), {})
    (photos / "in").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "in/b.bmp", "in/c.png")):
        save_picture(photos / name, 60, 50, seed=seed)
    (photos / "d.png").write_bytes(b"no picture")

    def apply(out: str, *more: str) -> int:
        return cli.main(["apply", str(photos), "--style", str(model), "-o", str(tmp_path / out), "--quiet", *more])

    assert apply("here") == 1
    urls = [f"file://{photos}", "--style", str(model), "-o", f"file://{tmp_path / 'there'}", "--quiet"]
    assert cli.main(["apply", *urls, "--cluster", nodes.from_outside]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("1 of 4 could not be repainted: d.png")
    here, there = (sorted(path for path in (tmp_path / out).rglob("*") if path.is_file()) for out in ("here", "there"))
    assert [path.relative_to(tmp_path / "there") for path in there] == [
        path.relative_to(tmp_path / "here") for path in here
    ]
    assert len(here) == 3
    for one, two in zip(here, there, strict=True):
        assert np.array_equal(opened(one), opened(two))
    before = {path: path.stat().st_mtime_ns for path in there}
    there[0].unlink()
    shutil.copy(photos / "a.png", photos / "d.png")
    assert apply("there", "--cluster", "auto", "--resume") == 0
    assert np.array_equal(opened(here[0]), opened(there[0]))
    assert len(list((tmp_path / "there").iterdir())) == 3  # a.png, d.png, in
    assert [path.stat().st_mtime_ns for path in there[1:]] == [before[path] for path in there[1:]]


@pytest.mark.filterwarnings("ignore")
def test_a_node_killed_in_the_middle(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three nodes are at work when one of them dies; its job, and no finished one, is done again."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    begun.mkdir()

    def work(source: Path, out: Path, options: str) -> None:
        import secrets
        import time

        import ray

        node = ray.get_runtime_context().get_node_id()
        (begun / f"{out.name} {node} {secrets.token_hex(4)}").touch()
        end = time.monotonic() + 300
        while not go.exists():
            assert time.monotonic() < end, "still waiting for the other nodes"
            time.sleep(0.05)
        shutil.copyfile(source, out)

    def kill_a_node() -> None:
        wait_for(lambda: len({path.name.split()[1] for path in begun.iterdir()}) == 3, "work on three nodes", 120)
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
        go.touch()

    outcomes, done = cluster.outcomes, []

    def noted(*arguments: Any) -> Iterator[tuple[str, str]]:
        for outcome in outcomes(*arguments):
            done.append(outcome)
            yield outcome

    monkeypatch.setattr(cluster, "outcomes", noted)
    source = save_picture(tmp_path / "a.png")
    jobs = [cluster.Job(str(source), str(tmp_path / "out" / f"{number}.png")) for number in range(6)]
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_a_node)
        cluster.run("auto", work, jobs, quiet=True)
        killing.result()
    assert sorted(done) == [(job.out, "") for job in jobs]  # nothing lost, nothing twice
    assert {path.read_bytes() for path in (tmp_path / "out").iterdir()} == {source.read_bytes()}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{number}.png" for number in range(6)]
    tries = Counter(path.name.split()[0] for path in begun.iterdir())
    assert set(tries) == {f"{number}.png" for number in range(6)} and sum(tries.values()) == 7


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_refuses(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has Ray's reason in one line, and the next connection succeeds."""
    import ray

    def refuse(*arguments: object, **options: object) -> None:
        raise ConnectionAbortedError("Initialization failure:\nTraceback\nRuntimeError: Version mismatch:\n   Ray: 1\n")

    with monkeypatch.context() as patch:
        patch.setattr("ray.util.client.worker.Worker.connection_info", refuse)
        refused = pytest.raises(InputError, match=r"does not answer \(Version mismatch: Ray: 1\); `ray start")
        with refused, cluster.connected(nodes.from_outside):
            pass
    with cluster.connected("auto"):
        assert ray.is_initialized()


@pytest.mark.parametrize("failures", [2, 3])
def test_a_server_that_dies_by_chance_is_started_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    left = [RuntimeError("Starting Ray client server failed. See the log.")] * failures

    def start(**options: object) -> None:
        if left:
            raise left.pop()

    monkeypatch.setattr("ray.init", start)
    within = pytest.raises(InputError, match="server failed") if failures > 2 else nullcontext()
    with within, cluster.connected("auto"):
        pass
    assert not left


def test_no_cluster(photo: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    for address in ("ray://127.0.0.1:9", "tcp://somewhere", "ray://h:99999", "ray://[h:9", "ray://a..b:9"):
        assert (
            cli.main(["apply", str(photo), "--style", "candy", "-o", str(tmp_path / "out"), "--cluster", address]) == 1
        )
        one_line(capsys, f"--cluster {address}")
