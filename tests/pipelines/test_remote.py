"""What a throttling or restarting object store answers passes, and is asked again; what it refuses is not."""

from __future__ import annotations

from pathlib import Path

import file_server as fs
import pytest

from pipelines.errors import DataError
from pipelines.remote import Patience, Remote

QUICK = Patience(tries=2, pause=0.0, timeout=5.0)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_passes_is_asked_again(tmp_path: Path, status: int) -> None:
    (tmp_path / "index.json").write_bytes(b"content")
    with fs.serving(tmp_path) as server:
        server.faults["index.json"] = [lambda handler, _: handler.send_error(status)]
        assert (Remote(server.url, QUICK) / "index.json").read_bytes() == b"content"
        assert server.requests["index.json"] == 2
        server.faults["index.json"] = [lambda handler, _: handler.send_error(status)] * 2
        with pytest.raises(DataError, match=f"HTTP status {status}; 2 tries"):
            (Remote(server.url, QUICK) / "index.json").read_bytes()


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_a_status_that_does_not_pass_is_final(tmp_path: Path, status: int) -> None:
    (tmp_path / "index.json").write_bytes(b"content")
    with fs.serving(tmp_path) as server:
        server.faults["index.json"] = [lambda handler, _: handler.send_error(status)]
        with pytest.raises(DataError, match=f"HTTP status {status}; 1 try"):
            (Remote(server.url, QUICK) / "index.json").read_bytes()


def test_an_answer_that_is_cut_is_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_bytes(b"content")
    with fs.serving(tmp_path) as server:
        server.faults["index.json"] = [fs.cut]
        assert (Remote(server.url, QUICK) / "index.json").read_bytes() == b"content"
