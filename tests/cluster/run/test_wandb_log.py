"""`tdformer sync` with wandb's own client, over HTTP, to a server of ours that keeps what it is sent."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from forked import Command, children

from cluster.build.shards import write_shards
from cluster.config import flat
from cluster.run.folder import RunFolder
from cluster.run.provenance import revision
from cluster.run.wandb_id import identity

ROOT = Path(__file__).parents[3]
RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: shards}
train: {epochs: 2, global_batch: 160, micro_batch: 40, threads: 1}
checkpoint: {every_steps: 100}
log: {every_steps: 1, wandb: offline, wandb_project: us/trial}
"""


class Server(ThreadingHTTPServer):
    """The part of wandb's protocol that `wandb sync` speaks; what it was told is kept by run id."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.configs: dict[str, dict[str, Any]] = {}
        self.history: dict[str, dict[int, dict[str, Any]]] = {}
        """Of each run: rows by their line in its history."""
        self.ended: list[str] = []
        self.projects: set[tuple[str | None, str]] = set()
        """Entities and projects that were named."""

    def graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            run, known = given["name"], given["name"] in self.history
            self.projects.add((given.get("entity"), given["project"]))
            self.configs.setdefault(run, {}).update(json.loads(given["config"] or "{}"))
            lines = len(self.history.setdefault(run, {}))
            project = {"id": "project", "name": given["project"], "entity": {"id": "entity", "name": "us"}}
            bucket = {"id": run, "name": run, "displayName": run, "historyLineCount": lines, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": not known}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": {"id": "user", "entity": "us", "username": "us", "flags": "{}", "teams": {"edges": []}}}
        return {}

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        chunk = sent.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        for line, row in enumerate(chunk["content"], chunk["offset"]):
            self.history[run][line] = json.loads(row)
        if sent.get("complete"):
            self.ended.append(run)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            answer = {"data": self.server.graphql(asked["query"], asked.get("variables") or {})}
        elif self.path.startswith("/files/") and self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[4], json.loads(body))
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_all_starts_arrive_as_one_run(tmp_path: Path, server: Server) -> None:
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    folder = RunFolder(tmp_path / "runs" / "run")

    def start(*words: str, **place: str) -> Command:
        env = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)} | place
        return Command(*words, cwd=tmp_path, env=env, merged=True)

    def finish(process: Command, code: int = 0) -> str:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == code, output
        return output

    def sync() -> str:
        return finish(start("sync", "runs/run", WANDB_BASE_URL=server.url, WANDB_API_KEY="0123456789" * 4))

    def end(process: Command, number: int, rows: int, code: int) -> None:
        """Send it a signal once there are so many rows of metrics."""
        deadline = time.monotonic() + 120
        while len(folder.metrics.read()) < rows:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        # All processes of a job are killed: wandb's own, left alone, ends the log as if the run had ended.
        inside = children(process.pid) if number == signal.SIGKILL else set()
        process.send_signal(number)
        for pid in inside:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        finish(process, code)

    end(start("train", "recipe.yaml", SLURM_JOB_ID="7"), signal.SIGTERM, 5, 143)
    stopped = folder.saved_step()
    end(start("train", "recipe.yaml"), signal.SIGKILL, 12, -signal.SIGKILL)
    saved, killed = folder.saved_step(), folder.metrics.read()[-1]["step"]
    finish(start("train", "recipe.yaml", SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1", SLURM_JOB_PARTITION="gpu"))
    assert folder.status()["started_at"] == saved < killed

    run = identity(folder)
    assert f"sent as run {run}, 3 starts; 1 of them without an end" in sync()
    assert list(server.history) == [run] and server.ended[-1] == run
    assert server.projects == {("us", "trial")}
    expected: dict[int, dict[str, Any]] = {}
    for row in folder.metrics.read():  # an evaluation has the step that it follows
        expected.setdefault(row["step"], {}).update(row)
    assert list(expected) == list(range(1, 17)) and "eval_accuracy" in expected[16]
    rows = [server.history[run][line] for line in range(len(server.history[run]))]
    assert list(dict.fromkeys(row["_step"] for row in rows)) == list(range(1, 17))
    for row in rows:
        metrics = expected[row["_step"]]
        assert {key: row[key] for key in metrics} == metrics and row["images_per_second"] > 0
    firing = {row["_step"] for row in rows if any(key.startswith("firing/") for key in row)}
    assert firing >= {*range(1, stopped + 1), *range(saved + 1, 17)}
    given = {key: entry["value"] for key, entry in server.configs[run].items() if key != "_wandb"}
    resolved = {key: value for key, value in flat(folder.config()).items() if value != {}}  # which wandb leaves out
    assert {key: given[key] for key in resolved} == json.loads(json.dumps(resolved))
    slurm = {"start.job_id": "7", "start.restart_count": "1", "start.job_partition": "gpu"}
    revised = {f"start.{key}": value for key, value in revision().items() if value is not None}
    assert given.items() >= slurm.items() and given.items() >= revised.items()

    refused = finish(start("sync", "runs/run", WANDB_API_KEY="wrong"), 2)
    assert refused.startswith("error: WANDB_API_KEY invalid") and refused.count("\n") == 1
    sync()  # nothing is sent twice
    assert len(server.history[run]) == len(rows)

    log = min(folder.path.glob("wandb/offline-run-*")) / f"run-{run}.wandb"
    log.with_suffix(".wandb.synced").unlink()
    os.truncate(log, log.stat().st_size // 2)
    assert "3 starts; 1 of them without an end" in sync()  # sent as far as it goes
    assert len(rows) < len(server.history[run]) < len(rows) + stopped
    assert "without" not in sync()
