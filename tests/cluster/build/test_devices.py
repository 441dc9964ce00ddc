"""Which device each rank takes: a table of how GPUs can be shown to ranks, and what real ranks do where one cannot."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Command, meeting

from cluster.build.devices import Seen, asks, look, places
from cluster.build.shards import write_shards
from cluster.errors import RunError

A, B, C, D = "0000:17:00", "0000:3b:00", "0000:5d:00", "0000:c1:00"
ALL = (A, B, C, D)
BROKEN = "CUDA does not start: The NVIDIA driver on your system is too old"
RECIPE = """\
name: run
model: {name: quickstart, time_steps: 1, segments: 1}
data: {dataset: digits, root: shards}
train: {epochs: 1, global_batch: 1436, micro_batch: 2, norm_batch: 2, threads: 1}
checkpoint: {every_steps: 1000}
"""


def on(host: str, *shown: tuple[str, ...], asked: str | None = "SLURM_GPUS_ON_NODE=4") -> list[Seen]:
    return [Seen(host, asked, gpus) for gpus in shown]


@pytest.mark.parametrize(
    ("ranks", "taken"),
    [
        (on("a", *[ALL] * 4), [0, 1, 2, 3]),
        (on("a", (A,), (B,), (C,), (D,)), [0, 0, 0, 0]),  # --gpus-per-task=1, --gpu-bind=single:1
        (on("a", (A, B), (A, B), (C, D), (C, D)), [0, 1, 0, 1]),  # --gpu-bind=closest
        (on("a", (A, B), (C, D), (A, B), (C, D)), [0, 0, 1, 1]),  # the same, ranks spread over the sockets
        (on("a", (A, B), (C, D)), [0, 0]),  # --gpus-per-task=2
        (on("a", (A, B), (A,)), [1, 0]),
        (on("a", *[ALL] * 2), [0, 1]),  # fewer processes than GPUs
        (on("a", *[(A, B)] * 2) + on("b", *[(A, B)] * 2), [0, 1, 0, 1]),
        (on("a", (A,)) + on("b", (A,)), [0, 0]),  # the same address on another host is another GPU
        (on("a", (A,), asked=None), [0]),  # nobody asks, and there it is
        ([Seen("a", None, fault="CUDA sees no GPU")] * 3, None),
        ([Seen("a", None, fault="this torch (2.13.0+cpu) is built without CUDA")], None),
    ],
)
def test_each_rank_takes_a_gpu_of_its_own(ranks: list[Seen], taken: list[int] | None) -> None:
    assert places(ranks) == taken


@pytest.mark.parametrize(
    ("ranks", "line"),
    [
        (
            [Seen("a", "/dev/nvidia0", fault="this torch (2.13.0+cpu) is built without CUDA")] * 2,
            "a: this torch (2.13.0+cpu) is built without CUDA, and GPUs are asked for (/dev/nvidia0 on a); mend ",
        ),
        (on("a", *[ALL] * 4) + [Seen("b", "SLURM_GPUS_ON_NODE=4", fault=BROKEN)] * 4, f"b: {BROKEN}, and"),
        (on("a", *[ALL] * 4, asked=None) + [Seen("b", None, fault=BROKEN)], "b: CUDA does not start"),
        (
            [Seen("a", "engine.device=cuda", fault=BROKEN), Seen("b", "engine.device=cuda", fault=BROKEN)],
            f"a: {BROKEN} (and 1 more), and GPUs are asked for (engine.device=cuda on a)",
        ),
        (
            on("a", *[(A, B)] * 3),
            f"3 processes on a are shown 2 GPUs: rank 2 has none of its own ({A}, {B}); start a process for each GPU",
        ),
        (on("a", (A,), (A,), asked=None), "2 processes on a are shown 1 GPUs: rank 1"),
        (on("a", (A,), (B,)) + on("b", (A,), (A,)), "2 processes on b are shown 1 GPUs: rank 3"),
    ],
)
def test_a_rank_without_a_gpu_is_one_line(ranks: list[Seen], line: str) -> None:
    with pytest.raises(RunError) as error:
        places(ranks)
    assert line in str(error.value) and "\n" not in str(error.value)


SLURM = {"SLURM_JOB_ID": "7"}
DEVICES = ["/dev/nvidia0", "/dev/nvidia1"]


@pytest.mark.parametrize(
    ("wanted", "environ", "devices", "asked"),
    [
        ("auto", {}, [], None),
        ("auto", {}, DEVICES, "/dev/nvidia0"),
        ("cuda", {}, [], "engine.device=cuda"),
        ("cuda", {"CUDA_VISIBLE_DEVICES": ""}, DEVICES, "engine.device=cuda"),
        ("cpu", {"CUDA_VISIBLE_DEVICES": "0"}, DEVICES, None),
        ("auto", {"CUDA_VISIBLE_DEVICES": ""}, DEVICES, None),
        ("auto", {"CUDA_VISIBLE_DEVICES": "-1"}, DEVICES, None),
        ("auto", {"CUDA_VISIBLE_DEVICES": "0,1"}, [], "CUDA_VISIBLE_DEVICES=0,1"),  # also tdformer launch --where local
        ("auto", SLURM, DEVICES, None),  # the job did not ask for those of the node
        ("auto", SLURM | {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, DEVICES, None),
        ("auto", SLURM | {"SLURM_GPUS_PER_NODE": "4"}, [], "SLURM_GPUS_PER_NODE=4"),  # tdformer launch
        ("auto", SLURM | {"SLURM_GPUS_PER_NODE": "0"}, DEVICES, None),
        ("auto", SLURM | {"SLURM_JOB_GPUS": "0,3", "SLURM_GPUS_ON_NODE": "2"}, DEVICES, "SLURM_JOB_GPUS=0,3"),
        ("auto", SLURM | {"SLURM_GPUS_PER_TASK": "1"}, DEVICES, "SLURM_GPUS_PER_TASK=1"),
        ("auto", {"SLURM_GPUS_ON_NODE": "2"}, [], None),  # of a job that this is not
    ],
)
def test_who_asks_for_gpus(wanted: str, environ: dict[str, str], devices: list[str], asked: str | None) -> None:
    assert asks(wanted, environ, devices) == asked


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="of torch's CPU build")
def test_what_a_cpu_build_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fault = f"this torch ({torch.__version__}) is built without CUDA"
    assert look("cuda") == Seen(socket.gethostname(), "engine.device=cuda", fault=fault)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert look("auto").asked is None and "hides all GPUs" in str(look("auto").fault)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    write_shards("digits", folder / "shards")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


ASKING = {"CUDA_VISIBLE_DEVICES": "9"}  # of a host with fewer, or none
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")


@without_cuda
def test_ranks_agree_that_one_of_them_has_no_gpu(place: Path) -> None:
    """Only the second one is asked to take a GPU, as on a host with a broken driver: both end, with the same line."""
    place_of_all = meeting(2) | {"LOCAL_WORLD_SIZE": "2"}
    ranks = [
        Command(
            *("train", "recipe.yaml", "name=agreed"),
            cwd=place,
            env={**os.environ, **place_of_all, "RANK": str(rank), "LOCAL_RANK": str(rank), **(ASKING if rank else {})},
        )
        for rank in range(2)
    ]
    ended = [rank.completed() for rank in ranks]
    assert [e.returncode for e in ended] == [2, 2], ended
    assert ended[0].stderr == ended[1].stderr and ended[0].stderr.count("\n") == 1
    assert f"and GPUs are asked for (CUDA_VISIBLE_DEVICES=9 on {socket.gethostname()})" in ended[0].stderr


@without_cuda
@pytest.mark.parametrize("processes", [1, 2])
def test_asked_for_a_gpu_that_is_not_there_nothing_begins(cli: Any, place: Path, processes: int) -> None:
    words = ("train", place / "recipe.yaml", f"data.root={place / 'shards'}", f"runs_dir={place / 'none'}")
    done = cli(*words, "engine.device=cuda", "--processes", processes)
    assert done.returncode == 2 and "GPUs are asked for (engine.device=cuda on " in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and not (place / "none").exists()


SHOWING = """\
import json, os
import torch
from cluster.train import loop as train
from cluster.cli import main

def run(self, monitor):
    found = {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn": [torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark],
        "tf32": [torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision],
        "compiles": torch.get_float32_matmul_precision(),
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "nccl": os.environ.get("NCCL_ALGO"),
        "device": str(self.device),
    }
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=None, fp32_precision=None):
        pass  # raises where torch's old and new names were mixed
    with open(f"found-{self.rank}.json", "w") as file:
        json.dump(found, file)
    os._exit(0)

train.Trainer.run = run
main()
"""


def found(place: Path, *words: str) -> list[dict[str, object]]:
    """How two ranks would calculate."""
    name = f"name={'-'.join(words).replace('=', '') or 'default'}"
    env = {k: v for k, v in os.environ.items() if k not in ("CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO")}
    done = Command(
        *("train", "recipe.yaml", name, "--processes", 2, "engine.device=cpu", *words),
        cwd=place,
        env=env,
        program=SHOWING,
    ).completed()
    assert done.returncode == 0, done.stderr
    return [json.loads((place / f"found-{rank}.json").read_text()) for rank in range(2)]


def test_every_rank_calculates_as_it_is_told(place: Path) -> None:
    first, second = found(place)
    assert (
        first
        == second
        == {
            "deterministic": True,
            "filled": False,
            "cudnn": [True, False],
            "tf32": ["ieee", first["tf32"][1]],  # type: ignore[index]
            "compiles": "highest",
            "cublas": ":4096:8",
            "nccl": "^NVLS,NVLSTree",
            "device": "cpu",
        }
    )
    assert first["tf32"][1] != "tf32"  # type: ignore[index]
    for rank in found(place, "train.tf32=true", "engine.deterministic=false"):
        assert rank["tf32"] == ["tf32", "tf32"] and rank["compiles"] == "high"
        assert rank["deterministic"] is False and rank["cudnn"] == [False, False]
        assert rank["cublas"] is None and rank["nccl"] is None
