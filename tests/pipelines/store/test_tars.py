"""Shards on another machine: the same samples through a bounded cache, and what a bad remote leads to."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import file_server as fs
import index_files
import numpy as np
import pytest
import torch

from pipelines import order
from pipelines.errors import DataError
from pipelines.loader import eval_loader, train_loader
from pipelines.remote import Patience, Remote
from pipelines.samples import Samples
from pipelines.store import ahead
from pipelines.store.cache import Cache, Item
from pipelines.store.tars import RemoteTarDataset, TarDataset
from pipelines.workers import Workers

ROOT = Path(__file__).parents[3]
QUICK = Patience(tries=3, pause=0.01, timeout=0.5)
SHARD = "test-000001.tar"


@pytest.fixture
def server(copy: Path) -> Iterator[fs.FileServer]:
    """Serves the digits' four shards."""
    with fs.serving(copy) as server:
        yield server
    gc.collect()  # the loader of an epoch that failed joins its workers then: not in the thread of the next server


def remote(root: str, folder: Path, limit: int = 10**9, window: int = 1, patience: Patience = QUICK):
    return RemoteTarDataset(Remote(root, patience), Cache(folder, limit), window)


def epoch(data, window: int, world: int = 1, workers: int = 0, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and ids of the steps from `step` on."""
    at = order.Cursor(5, 1, step, 24, data.digest)
    ranks = [
        train_loader(
            data,
            at,
            order.Share(24 // world, rank=rank, world=world),
            workers=workers,
            window=window,
        )
        for rank in range(world)
    ]
    parts = [batch for ranks_batches in zip(*ranks, strict=True) for batches in ranks_batches for batch in batches]
    return torch.cat([b.images for b in parts]), torch.cat([b.ids for b in parts])


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 2)])
def test_an_epoch_is_what_the_same_shards_give_from_a_disk(
    server: fs.FileServer, copy: Path, tmp_path: Path, world: int, workers: int
):
    images, ids = epoch(TarDataset(copy), 2)
    data = remote(server.url, tmp_path / "cache", window=2)
    for got, expected in zip(epoch(data, 2, world, workers), (images, ids), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(epoch(data, 2, world, workers, step=5)[0], images[5 * 24 :])
    seen = torch.cat([b.ids for b in eval_loader(data, rank=0, world=1, batch_size=50, workers=workers)])
    assert np.array_equal(seen, np.arange(360))
    assert all(server.requests[f"test-00000{i}.tar"] == 1 for i in range(4))
    assert server.most_at_once <= ahead.AT_ONCE + 1


def test_every_way_to_a_file_gives_its_bytes(server: fs.FileServer, copy: Path, tmp_path: Path, monkeypatch):
    """The command of an object store is one of the user's; here it is `cat`, also under the name that gs:// wants."""
    tool = tmp_path / "bin" / "gsutil"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec cat "{copy}/${{2#gs://bucket/digits/}}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    expected = TarDataset(copy)
    for i, root in enumerate(
        (f"{server.url}/?signed=secret", f"file://{copy}", f"pipe:cat {copy}/{{}} | cat", "gs://bucket/digits")
    ):
        data = remote(root, tmp_path / str(i), patience=Patience(1, 0, 10))
        assert data.digest == expected.digest and "secret" not in str(data.folder)
        assert [data.read(i) for i in range(0, 360, 30)] == [expected.read(i) for i in range(0, 360, 30)]


@pytest.mark.parametrize(
    "faults",
    [
        [fs.status(503), fs.status(503)],
        *([fs.status(code)] for code in (500, 502, 504, 408, 425, 429)),
        [fs.cut, fs.flipped],
        [fs.stalled],
        [fs.trickle],
        [fs.slow(0.3)],
        [lambda handler, content: fs.whole(handler, content + b"more")],
    ],
)
def test_what_passes_is_tried_again(server: fs.FileServer, copy: Path, tmp_path: Path, faults):
    server.faults["index.npz"], server.faults[SHARD] = list(faults), list(faults)
    data = remote(server.url, tmp_path / "cache")
    assert data.read(150) == TarDataset(copy).read(150)
    assert server.requests[SHARD] == server.requests["index.npz"] == 1 + len(faults) * (faults[0].__name__ != "fault")
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (fs.status(503), "HTTP status 503; 3 tries); the same command goes on"),
        *((fs.status(code), f"HTTP status {code}; 1 try); check data.root") for code in (400, 401, 403, 404, 410)),
        (fs.cut, "bytes before its end; 3 tries)"),
        (fs.flipped, "its SHA-256 is not that of index.json; 3 tries); write the shards again"),
        (fs.stalled, "no data for 0.5 s; 3 tries)"),
        (fs.trickle, "bytes in 0.5 s; 3 tries)"),
        (lambda handler, content: fs.whole(handler, content[:512]), "512 of "),
        (lambda handler, content: fs.whole(handler, content + b"more"), "more than "),
    ],
)
def test_what_does_not_pass_is_one_line(server: fs.FileServer, tmp_path: Path, fault: fs.Fault, expected: str):
    """From a worker in one case, else from the process itself; both fetch. No other bytes are ever visible."""
    workers = int(fault is fs.flipped)
    data = remote(server.url, tmp_path / "cache")
    server.faults[SHARD] = [fault] * 1000
    with pytest.raises(DataError, match=re.escape(expected)) as error:
        epoch(data, 1, workers=workers)
    assert str(error.value).startswith(f"{server.url}/{SHARD} cannot be fetched (") and "\n" not in str(error.value)
    assert all(whole(path) for path in (tmp_path / "cache").glob("*.file"))


def whole(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("pipe:cat /nowhere/{}", "exit status 1: cat: /nowhere/index.json: No such file or directory; 3 tries)"),
        ("pipe:echo soon >&2; sleep 60; cat {}", "no data for 0.5 s: soon; 3 tries)"),
        ("pipe:exec 1>&-; sleep 60; cat {}", "its command does not end; 3 tries)"),
        ("file:///nowhere", "/nowhere/index.json cannot be fetched (No such file or directory; 1 try)"),
        ("http://127.0.0.1:9", "Connection refused; 3 tries)"),
        ("http://nowhere.invalid", "3 tries)"),
    ],
)
def test_a_remote_that_cannot_be_reached_is_one_line(tmp_path: Path, command: str, expected: str):
    with pytest.raises(DataError, match=re.escape(expected)) as error:
        remote(command, tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert (
        "sleep 60"
        not in subprocess.run(["ps", "-eo", "args", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout
    )


def test_roots_that_nothing_opens_are_refused():
    for root, expected in (
        ("pipe:aws s3 cp s3://bucket/x -", "has no {} for the path"),
        ("s3://bucket/x", "nothing here opens s3:// (s3://bucket/x); give the command"),
    ):
        with pytest.raises(DataError, match=re.escape(expected)):
            Remote(root)


@pytest.mark.parametrize("odd", ["'; touch ran; '", "$(touch ran)", "`touch ran`", "; touch ran", "a\ntouch ran"])
@pytest.mark.parametrize(
    "root", ["gs://bucket", "ais://bucket", "sftp://host", "scp://host", "ftps://host", "pipe:cat {}"]
)
def test_no_name_runs_a_command(tmp_path: Path, monkeypatch, root: str, odd: str):
    """Neither one from an index nor, where it is no command itself, one in the root."""
    for tool in ("gsutil", "ais", "curl"):
        (tmp_path / tool).write_text('#!/bin/sh\nprintf "%s" "$*"\n')
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    places = [Remote(root, Patience(1, 0, 10)) / odd]
    if not root.startswith("pipe:"):
        places.append(Remote(f"{root}/{odd}", Patience(1, 0, 10)) / "index.json")
    for place in places:
        with suppress(DataError):
            assert b"://" in place.read_bytes()  # the tool got it as one word
    assert not (tmp_path / "ran").exists()


def test_user_and_password_of_a_host_come_from_netrc_and_go_nowhere_else(
    server: fs.FileServer, copy: Path, tmp_path: Path, monkeypatch
):
    seen: list[str | None] = []

    def guarded(handler, content: bytes) -> None:
        seen.append(handler.headers["Authorization"])
        fs.whole(handler, content) if seen[-1] else handler.send_error(401)

    def sent_on(handler, content: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", server.url.replace("127.0.0.1", "localhost") + "/index.npz")
        handler.end_headers()

    monkeypatch.setenv("HOME", str(tmp_path))
    server.faults["index.json"] = [guarded, guarded, sent_on]
    server.faults["index.npz"] = [guarded]
    index = Remote(server.url, Patience(1, 0, 10)) / "index.json"
    with pytest.raises(DataError, match="HTTP status 401"):
        index.read_bytes()
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert index.read_bytes() == (copy / "index.json").read_bytes()
    with pytest.raises(DataError, match="HTTP status 401"):
        index.read_bytes()
    assert seen == [None, "Basic " + base64.b64encode(b"me:hunter2").decode(), None]
    (tmp_path / ".netrc").write_text("machine\n")
    with pytest.raises(DataError, match=r"~/.netrc: .*; mend that file"):
        index.read_bytes()


def test_a_command_that_fails_tells_no_secret():
    """What curl and others write of a URL, and what the library says of what it lacks."""
    for command in ("echo cannot open https://me:hunter2@host/x?sig=hunter2 >&2; false", "https://me:hunter2@host/"):
        with pytest.raises(DataError) as error:
            (Remote(f"pipe:{command} # {{}}", Patience(1, 0, 10)) / "x").read_bytes()
        assert "hunter2" not in str(error.value) and "https://***@host/" in str(error.value)


def test_a_cache_folder_of_another_user_is_refused(tmp_path: Path):
    """Also a link that another has made, as anyone can in /tmp; root is another for all but root."""
    folder, link = tmp_path / "cache", tmp_path / "link"
    if os.geteuid():
        folder, who = Path("/usr"), 0
    else:
        folder.mkdir()
        os.chown(folder, 12345, -1)
        link.symlink_to(tmp_path)
        os.chown(link, 12345, -1, follow_symlinks=False)
        who = 12345
        with pytest.raises(DataError, match="link belongs to user 12345"):
            Cache(link, 10**9)
    with pytest.raises(DataError, match=f"{folder} belongs to user {who}, and is no cache of yours; set data.cache"):
        Cache(folder, 10**9)
    Cache(tmp_path / "mine", 10**9)
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700


def test_an_index_cannot_name_files_elsewhere(server: fs.FileServer, copy: Path, tmp_path: Path):
    shards = json.loads((copy / "index.json").read_text())["shards"]
    for key, value in (("name", "../../etc/passwd"), ("sha256", "../x")):
        index_files.edit(copy, shards=[shards[0] | {key: value}, *shards[1:]])
        with pytest.raises(DataError, match="the index in http.* names .*; write the shards again"):
            remote(server.url, tmp_path / "cache")


def test_shards_written_again_are_not_taken_for_the_old_ones(server: fs.FileServer, copy: Path, tmp_path: Path):
    """The index was read before, and the reverse: an old index beside new shards."""
    before = (copy / "index.json").read_bytes(), (copy / "index.npz").read_bytes()
    data = remote(server.url, tmp_path / "cache")
    other = bytearray((copy / SHARD).read_bytes())
    other[-1] ^= 1
    (copy / SHARD).write_bytes(other)
    with pytest.raises(DataError, match=f"{SHARD} cannot be fetched .its SHA-256 is not that of index.json"):
        data.read(150)
    data.read(0)
    (copy / "index.npz").write_bytes(before[1][:-1] + b"?")
    with pytest.raises(DataError, match="index.npz cannot be fetched .its SHA-256 is not that of index.json"):
        remote(server.url, tmp_path / "empty")


def test_a_copy_that_is_damaged_in_the_cache_is_named(server: fs.FileServer, copy: Path, tmp_path: Path):
    data = remote(server.url, tmp_path / "cache")
    good = data.read(150)
    path = data.cache.path(data.items[1])
    content = bytearray(path.read_bytes())
    content[int(data.table["offset"][150])] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{SHARD} .as {path}.: sample 150 is damaged .checksum.; delete that file"):
        data.read(150)
    path.unlink()
    assert remote(server.url, tmp_path / "cache").read(150) == good


def test_the_folder_never_holds_more_than_its_limit(server: fs.FileServer, copy: Path, tmp_path: Path):
    """Room for two windows of one shard, four shards: seen by a thread that looks all the time."""
    largest = sorted(path.stat().st_size for path in copy.glob("*.tar"))[-2:]
    folder, most, stop = tmp_path / "cache", [0], threading.Event()
    (tmp_path / "cache").mkdir()
    (folder / "notes.txt").write_text("of another; not ours to remove")
    data = remote(server.url, folder, limit=sum(largest))

    def look() -> None:
        while not stop.is_set():
            sizes = []
            for name in os.listdir(folder):
                with suppress(FileNotFoundError):
                    sizes.append(os.stat(folder / name).st_size)
            most[0] = max(most[0], sum(sizes) - 30)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        local = TarDataset(copy)
        for workers in (0, 2):
            assert torch.equal(epoch(data, 1, workers=workers)[0], epoch(local, 1)[0])
            assert len(list(eval_loader(data, rank=0, world=1, batch_size=50, workers=workers))) == 8
    finally:
        stop.set()
        watching.join()
    assert max(largest) < most[0] <= sum(largest)
    assert sum(server.requests.values()) > 6 and (folder / "notes.txt").exists()


def test_workers_that_last_read_each_epoch_by_its_own_windows(server: fs.FileServer, copy: Path, tmp_path: Path):
    """And let go of the files of the epoch before, which would take up space after they have left the cache."""
    largest = sorted(path.stat().st_size for path in copy.glob("*.tar"))[-2:]
    data, local = remote(server.url, tmp_path / "cache", limit=sum(largest)), TarDataset(copy)
    pool = Workers(2, data)

    def batches(of: Samples, number: int, workers: int | Workers) -> Iterator[torch.Tensor]:
        at = order.Cursor(5, number, 0, 24, data.digest)
        for (batch,) in train_loader(of, at, order.Share(24), workers=workers, window=1):
            yield batch.images

    def opened(pid: int | None) -> set[str]:
        links = set()
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed: the worker goes on meanwhile
                links.add(os.readlink(path))
        return {link for link in links if link.startswith(str(data.cache.folder))}

    for number in range(4):
        for k, (got, expected) in enumerate(zip(batches(data, number, pool), batches(local, number, 0), strict=True)):
            assert torch.equal(got, expected)
            if k == 1:  # both have answered in this epoch, and may be three batches ahead: in its second window
                first = np.flatnonzero(order.windows(5, number, 4, 1) < 2)
                allowed = {str(data.cache.path(data.items[shard])) for shard in first}
                assert all(opened(pid) <= allowed for pid in pool.pids)
    pool.close()


def test_a_cache_for_less_than_two_windows_is_refused(server: fs.FileServer, copy: Path, tmp_path: Path):
    size = max(path.stat().st_size for path in copy.glob("*.tar"))
    with pytest.raises(DataError, match="two windows of 2 of the largest shards in http.* make data.cache_gb larger"):
        remote(server.url, tmp_path / "cache", limit=3 * size, window=2)


def test_what_is_needed_is_not_removed_and_the_longest_unneeded_goes_first(copy: Path, tmp_path: Path):
    paths = sorted(copy.glob("*.tar"))[:3]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    items = [Item(Remote(f"file://{p}", QUICK), p.stat().st_size, d) for p, d in zip(paths, digests, strict=True)]
    cache = Cache(tmp_path / "cache", sum(item.bytes for item in items[:2]) + 1000)
    for item in items[:2]:
        os.close(cache.open(item))
    held = cache.hold(items[0])
    read = cache.open(items[1])
    cache.touch(items[1])  # needed last, but not held
    os.close(cache.open(items[2]))
    assert [cache.path(item).exists() for item in items] == [True, False, True]
    assert os.pread(read, 10**7, 0) == paths[1].read_bytes()  # an open descriptor keeps what left
    assert cache.hold(items[1]) is None
    other = cache.hold(items[2])
    with pytest.raises(DataError, match="no room in .*cache for file.*all in it is in use; make data.cache_gb larger"):
        cache.open(items[1])
    assert cache.ahead(items[1], lambda: None) is False
    assert held is not None and other is not None
    os.close(held)  # as when its process ends
    assert cache.ahead(items[1], lambda: None) is True
    assert [cache.path(item).exists() for item in items] == [False, True, True]


READ = """
import sys
from pathlib import Path
from pipelines.store.cache import Cache
from pipelines.remote import Remote, Patience
from pipelines.store.tars import RemoteTarDataset
data = RemoteTarDataset(Remote(sys.argv[1], Patience(3, 0.01, 30)), Cache(Path(sys.argv[2]), 10**9), 1)
print(sum(len(data.read(i)[0]) for i in range(0, 360, 30)))
"""


def reading(url: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", READ, url, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_files_leave_in_the_order_in_which_they_were_needed(tmp_path: Path):
    """One for each new one, where there is room for three; not the order in which they came, or that of their names."""
    items = []
    for i in range(6):
        path = tmp_path / str(i)
        path.write_bytes(bytes([i]) * 1000)
        items.append(Item(Remote(f"file://{path}", QUICK), 1000, hashlib.sha256(path.read_bytes()).hexdigest()))
    cache = Cache(tmp_path / "cache", 3000)

    def there() -> set[int]:
        return {i for i, item in enumerate(items) if cache.path(item).exists()}

    for item in items[:3]:
        os.close(cache.open(item))
    for i in (2, 0, 1):
        time.sleep(0.02)  # more than two clock ticks of a file system
        assert cache.touch(items[i])
    assert min((2, 0, 1), key=lambda i: items[i].sha256) != 2
    time.sleep(0.02)
    for i, stay in ((3, {0, 1}), (4, {1, 3}), (5, {3, 4})):
        assert cache.ahead(items[i], lambda: None)
        assert there() == {*stay, i}
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("asked", "waits"), [("7", 7.0), ("3600", 30.0), ("0", 0.01), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.01), ("-1", 0.01)]
)
def test_a_server_that_names_a_time_is_not_asked_before(server: fs.FileServer, monkeypatch, asked: str, waits: float):
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    server.faults["index.json"] = [fs.status(429, retry_after=asked)]
    assert json.loads((Remote(server.url, QUICK) / "index.json").read_bytes())["count"] == 360
    assert waited == [waits] and server.requests["index.json"] == 2


def test_processes_share_a_download_and_a_killed_one_is_replaced(server: fs.FileServer, copy: Path, tmp_path: Path):
    """The first holds the lock of a shard that never comes, and is killed; two others then get it, once."""
    folder = tmp_path / "cache"

    def for_ever(handler, content: bytes) -> None:
        fs.cut(handler, content)
        handler.wfile.flush()
        time.sleep(30)

    server.faults["test-000000.tar"] = [for_ever]
    first = reading(server.url, folder)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    others = [reading(server.url, folder) for _ in range(2)]
    time.sleep(1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    expected = sum(len(TarDataset(copy).read(i)[0]) for i in range(0, 360, 30))
    for process in others:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and int(output) == expected, errors
    assert server.requests["test-000000.tar"] == 2
    assert all(server.requests[f"test-00000{i}.tar"] == 1 for i in (1, 2, 3))
    assert server.requests["index.npz"] == 1 and not list(folder.glob("*.part"))
