"""Two hosts of a shared file system, one of which sees older listings: a mount over what the other one has written, in
a namespace of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from forked import Command, meeting

from cluster.run import checkpoint

PROGRAM = """
import ctypes, os, sys, threading, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from cluster.run import checkpoint

root, rank, late, forever = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
libc = ctypes.CDLL(None)
newest = checkpoint.complete(root)[0]
if rank == late:
    hidden = os.fsencode(newest)
    if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
        sys.exit(77)
    assert libc.mount(b"none", hidden, b"tmpfs", 0, None) == 0
    def see():
        time.sleep(forever)
        assert libc.umount2(hidden, 2) == 0
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
looks = []

def look(path):
    if rank == late and not looks:
        threading.Thread(target=see, daemon=True).start()
    looks.append(checkpoint.verify(path) or "")
    return looks[-1]

def gather(word):
    words = [None, None]
    dist.all_gather_object(words, word)
    return words

checkpoint.PAUSES = (0.2, 0.4, 0.8, 1.6)
together = lambda path: checkpoint.verify_together(path, gather, look)
found = checkpoint.newest_good(root, lambda line: None, None, together)
print(found.name, *looks, sep="|")
dist.destroy_process_group()
"""


def ranks(root: Path, late: int, seconds: float) -> list[list[str]]:
    """What each of two ranks takes, and found when it looked."""
    env = os.environ | meeting(2)
    words = [[str(root), str(rank), str(late), str(seconds)] for rank in range(2)]
    both = [Command(*w, cwd=root, env=env | {"RANK": w[1]}, program=PROGRAM) for w in words]
    ended = [process.completed() for process in both]
    if any(done.returncode == 77 for done in ended):
        pytest.skip("an older listing needs the right to mount (root)")
    assert [done.returncode for done in ended] == [0, 0], ended
    return [done.stdout.strip().split("|") for done in ended]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"model": {"w": torch.ones(2)}}, {"step": step}, 2)
    return tmp_path


def test_a_checkpoint_that_one_host_sees_late_is_used(root: Path) -> None:
    first, second = ranks(root, late=1, seconds=0.5)
    assert first == ["step-00000002", ""]
    assert second[0] == "step-00000002" and second[-1] == "" and len(second) > 2
    assert all("cannot be read" in word for word in second[1:-1])


def test_one_that_a_host_never_sees_is_passed_over_after_a_while(root: Path) -> None:
    first, second = ranks(root, late=0, seconds=1000)
    assert [first[0], second[0]] == ["step-00000001"] * 2
    assert len(first) == 1 + 5 + 1 and second == ["step-00000001", "", ""]


def test_what_nobody_sees_is_not_waited_for(root: Path) -> None:
    (root / "step-00000002" / checkpoint.MANIFEST).unlink()
    first, second = ranks(root, late=2, seconds=0)
    assert first == second and len(first) == 3 and first[0] == "step-00000001"
