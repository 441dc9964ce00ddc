"""The choice of a recomputation policy for a given memory."""

from __future__ import annotations

import os
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forked import Command, meeting, together
from same_run import assert_equal

import tdformer
from cluster.build import memory, planner
from cluster.build.shards import write_shards
from cluster.config import BatchPlan, load
from cluster.errors import RunError
from cluster.jobs.processes import check_inputs
from cluster.run.folder import RunFolder
from pipelines.loader import train_loader
from pipelines.order import Cursor, Share
from tdformer.kernels import stands_for

GIB = 2**30


def choose(gib: float, *words: str) -> planner.Recompute:
    config = load(None, words)
    with torch.device("meta"):
        model = tdformer.create_model("hst_4_384", segments=2, feedback="all")
        return planner.choose(model, config, BatchPlan(32, 1, 32, 1, 32, 1), memory.Memory(gib * GIB, "a test's"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_fastest_that_fits_is_taken(precision: str) -> None:
    words = [f"train.precision={precision}"]
    found = [choose(1000, *words), choose(4, *words)]
    assert found[0].cost is None and found[1].cost is not None  # where there is plenty, nothing is counted
    while (found[-1].policy, found[-1].borders) != ("unit", 2):
        found.append(choose(0.999 * found[-1].total / 0.9 / GIB, *words))  # a tenth stays free
    assert [(c.policy, c.borders) for c in found] == [("none", 1), ("none", 1), ("block", 1), ("unit", 1), ("unit", 2)]
    assert all(after.total < before.total for before, after in pairwise(found))
    with pytest.raises(RunError, match="a micro-batch of 32 needs .* GiB a process with recompute.policy=unit") as none:
        choose(0.01, *words)
    assert str(none.value).endswith("; lower train.micro_batch or set recompute.memory, if there is more")


def test_fp16_is_planned_as_bf16() -> None:
    plan = BatchPlan(4, 1, 4, 1, 4, 1)
    with torch.device("meta"):
        model = tdformer.create_model("quickstart")
        of = {
            precision: planner.price(model, load(None, [f"train.precision={precision}"]), plan, "none", 1).total
            for precision in ("fp16", "bf16", "fp32")
        }
    assert of["fp16"] == of["bf16"] < of["fp32"]


def test_zero_stages_shard_the_training_state() -> None:
    model = tdformer.create_model("quickstart")
    count = sum(p.numel() for p in model.parameters())

    def each(*words: str, world: int = 4, accumulation: int = 1) -> float:
        micro = 64 // world // accumulation
        plan = BatchPlan(64, world, micro, accumulation, micro, 1)
        return planner.state_bytes(model, load(None, words), plan) / count

    # Of a model that is a single bucket: with ZeRO two are filled, one of them copied; ZeRO 3 has all weights whole.
    assert [each(f"engine.zero_stage={stage}") for stage in range(4)] == [16 + 4, 11 + 12, 8 + 12, 5 + 12 + 4]
    assert each("train.optimizer=sgd") == 12 + 4 and each("train.optimizer=lamb") == 16 + 4
    assert each("train.ema_decay=0.9", world=1) == 20
    model.segments = 2  # autograd sums a weight's gradient over the segments beside the one that is there
    assert [each(f"engine.zero_stage={stage}") for stage in range(4)] == [16 + 4, 11 + 12, 12 + 12, 9 + 12 + 4]
    assert each(world=1, accumulation=2) == 20


def test_a_graph_keeps_a_step_s_memory_beside_one_that_logs() -> None:
    """Its activations and gradients, whatever else there is."""
    plan, words = BatchPlan(8, 1, 4, 2, 4, 1), ("train.ema_decay=0.9",)
    with torch.device("meta"):
        model = tdformer.create_model("quickstart", segments=2, feedback="all")
        plain, graph = load(None, words), load(None, [*words, "engine.graph=true"])
        one, other = (planner.price(model, config, plan, "none", 1) for config in (plain, graph))
        assert one.cost is not None
        kept = planner.activations(plain, one.cost) + planner.state_parts(model, plain, plan, one.cost).gradients
        assert other.total == one.total + kept
        assert other.total < planner.at_most(model, graph, plan)


def test_buckets_are_small_beside_a_large_model() -> None:
    plan = BatchPlan(64, 64, 1, 1, 1, 1)
    with torch.device("meta"):
        model = tdformer.create_model("hst_10_768")
    count = sum(p.numel() for p in model.parameters())
    assert 4 * planner.bucket(model) == 25 * 2**20 >= 4 * max(p.numel() for p in model.parameters())
    found = [planner.state_bytes(model, load(None, [f"engine.zero_stage={s}"]), plan) / count for s in range(4)]
    assert found == pytest.approx([16.4, 9.3, 5.4, 2.3], abs=0.1)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_shards("digits", folder / "shards", samples_per_shard=500)
    (folder / "recipe.yaml").write_text(f"name: run\ndata: {{dataset: digits, root: {folder / 'shards'}}}\n")
    return folder / "recipe.yaml"


def test_a_gpu_has_the_samples_of_two_steps(recipe: Path) -> None:
    """As many bytes as the loader's batches have; a CPU has none beside the loader's."""
    setup = check_inputs(load(recipe, ["train.global_batch=96", "train.micro_batch=24"]), 1)
    plan, share = setup.plan, Share(24, 4, 0, 1)
    loader = train_loader(setup.samples, Cursor(0, 0, 0, 96, setup.samples.digest), share, view=setup.view)
    sizes = [batch.images.nbytes for batch in next(iter(loader))]
    assert len(sizes) == 4
    of = {}
    for device in ("cpu", "cuda"):
        with stands_for(device), torch.device("meta"):
            of[device] = planner.state_parts(setup.outline, setup.config, plan)
    assert of["cpu"].batches == 0 and of["cuda"].batches == 2 * sum(sizes)
    assert sum(of["cuda"]) == sum(of["cpu"]) + 2 * sum(sizes)


def needed(recipe: Path, *words: str, world: int = 1) -> float:
    """GiB of one step on one of `world` processes."""
    config = load(recipe, words)
    plan = check_inputs(config, world).plan
    with torch.device("meta"):
        model = tdformer.create_model(config.model.name, in_channels=1, image_size=8, num_classes=10)
        return planner.price(model, config, plan, config.recompute.policy, 1).total / GIB


@pytest.mark.parametrize("policy", ["auto", "none", "block", "time", "unit"])
def test_what_cannot_fit_is_refused_before_a_run_folder_is_made(
    cli: Any, tmp_path: Path, recipe: Path, policy: str
) -> None:
    words = ("train", recipe, f"recompute.policy={policy}")
    done = cli(*words, "recompute.memory=0.001")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: a micro-batch of 128 needs ") and "lower train.micro_batch" in line
    assert "0.00 of 0.00 GiB may be used (recompute.memory)" in line and "raise recompute.memory" in line
    assert not (tmp_path / "runs").exists()


def test_what_fits_closely_is_told_and_trained(cli: Any, recipe: Path) -> None:
    words, each = ("train.epochs=1", "recompute.policy=none"), needed(recipe, "recompute.policy=none")
    with pytest.raises(RunError, match="set recompute.policy=unit or raise recompute.memory"):
        _check(recipe, *words, f"recompute.memory={each / 0.91}")
    assert _check(recipe, *words, f"recompute.memory={each / 0.79}") is None
    done = cli("train", recipe, *words, f"recompute.memory={each / 0.85}")
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: a micro-batch of 128 needs {each:.2f} GiB")
    done = cli("train", recipe, *words, "recompute.memory=0.001")
    assert (done.returncode, done.stderr) == (0, "")  # it is finished, and needs none
    done = cli("train", recipe, "train.epochs=1", "name=auto", "recompute.policy=auto", "recompute.memory=8")
    assert done.returncode == 0, done.stderr
    assert "recompute none: " in done.stdout


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_goes_on_with_other_memory(tmp_path: Path, recipe: Path, precision: str) -> None:
    """By default the memory chooses what is computed again: another one at each start, and the same bits."""
    cut = ("model.time_steps=4", "model.segments=2", "model.feedback=all", "model.clamp=[-9,9]", "train.ema_decay=0.9")
    words = (
        recipe,
        *cut,
        "train.epochs=1",
        "train.global_batch=240",
        f"train.precision={precision}",
        "train.threads=1",
    )
    said = []
    for runs, sizes in (("whole", ["2"]), ("again", ["2", "0.023", "0.015"])):
        for size in sizes:
            command = ("train", *words, f"runs_dir={runs}", f"recompute.memory={size}", "log.every_steps=1")
            process = Command(*command, "checkpoint.every_steps=1", cwd=tmp_path, merged=True)
            if size != sizes[-1]:
                metrics = RunFolder(tmp_path / runs / "run").metrics
                rows = len(metrics.read()) + 2
                while len(metrics.read()) < rows and process.returncode is None:
                    time.sleep(0.005)
                process.kill()
            said.append(process.communicate()[0])
    assert [re.search("recompute ([a-z]+)", one)[1] for one in said] == ["none", "none", "block", "unit"]
    assert_equal(tmp_path / "whole", tmp_path / "again")


def test_the_least_memory_of_all_ranks_counts(tmp_path: Path, recipe: Path) -> None:
    """Two machines may differ in memory, and with ZeRO 3 what is computed again is gathered again."""
    unit, block = (
        needed(recipe, "engine.zero_stage=3", f"recompute.policy={policy}", world=2) for policy in ("unit", "block")
    )
    there = meeting(2)
    ranks = [
        Command(
            *("train", recipe, "train.epochs=1", "engine.zero_stage=3", f"recompute.memory={size}"),
            cwd=tmp_path,
            env=os.environ | there | {"RANK": str(rank)},
            merged=True,
        )
        for rank, size in enumerate((2, (unit + block) / 2 / 0.9))
    ]
    said = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "recompute unit: " in said[0]


def _check(recipe: Path, *words: str, world: int = 1) -> str | None:
    config = load(recipe, words)
    return check_inputs(config, world).check_memory(memory.here(config, world))


def test_what_may_be_lowered_is_named(recipe: Path) -> None:
    small, cut = "recompute.memory=0.001", ["model.segments=2", "model.time_steps=4"]
    for words, world, remedies in (
        (["recompute.policy=time"], 1, "lower train.micro_batch, set recompute.policy=unit or raise"),
        (["recompute.policy=unit", *cut], 1, "lower train.micro_batch, raise recompute.borders, up to 2 or raise"),
        (["train.micro_batch=1", "recompute.policy=unit"], 2, "); raise engine.zero_stage or raise"),
        (["train.micro_batch=1", "engine.zero_stage=3"], 2, "); raise recompute.memory"),
        (
            ["train.micro_batch=1", "recompute.policy=unit", "engine.graph=true"],
            2,
            "); set engine.graph=false or raise",
        ),
    ):
        with pytest.raises(RunError) as refused:
            _check(recipe, small, *words, world=world)
        assert remedies in str(refused.value)


def test_a_step_that_cannot_be_priced_is_taken(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise NotImplementedError("no meta kernel\nfor this")

    monkeypatch.setattr(planner, "measure_step", unknown)
    warning = _check(recipe, "recompute.memory=0.001", "recompute.policy=unit")
    assert warning == "the memory of a step is not known beforehand (no meta kernel)"


def test_ulimit_counts(tmp_path: Path, recipe: Path) -> None:
    """2 GiB are left to a step of some 2.7: nothing of it is ever allocated."""
    limit = (
        "import os, resource; taken = int(open('/proc/self/statm').read().split()[0]) * 4096; "
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 2**31, taken + 2**31)); from cluster.cli import main; main()"
    )
    words = ("train", recipe, "model.time_steps=64", "train.global_batch=1437", "recompute.policy=none")
    done = Command(*words, cwd=tmp_path, program=limit).completed()
    assert done.returncode == 2, done.stderr
    assert "GiB may be used (what ulimit -v leaves); lower train.micro_batch" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_launch_is_priced_for_its_nodes(cli: Any, tmp_path: Path, recipe: Path) -> None:
    words = ("launch", recipe, "--where=slurm", "--processes-per-node=2", "site.memory_gb=0.002")
    done = cli(*words)
    assert done.returncode == 2 and "(site.memory_gb shared by 2 processes)" in done.stderr
    assert "start fewer processes on a machine" in done.stderr
    assert not (tmp_path / "runs").exists()


def _least(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/meet", 2), rank=rank, world_size=2)
    plan = BatchPlan(64, 2, 32, 1, 32, 1)
    with torch.device("meta"):
        model = tdformer.create_model("quickstart")
    for sizes, refused in (((1, 0.001), True), ((0.001, 1), False), ((1, 1), False)):
        config = load(None, ["recompute.policy=none", f"recompute.memory={sizes[rank]}"])
        try:
            assert planner.planned(model, config, plan) is None and not refused
        except RunError as error:
            assert refused and "a micro-batch of 32 needs" in str(error)  # the same on both
    dist.destroy_process_group()


def test_a_rank_with_too_little_for_what_the_first_one_chose_ends_the_start(tmp_path: Path) -> None:
    """The first one has looked for itself."""
    together(_least, 2, str(tmp_path))


def test_the_bound_is_above_every_policy() -> None:
    """What is far below the memory is not priced, so the bound may not be below what it bounds."""
    for name, size, channels, steps in (
        ("quickstart", 8, 1, 1),
        ("hst_4_384", 32, 3, 4),
        ("hst_2_256", 32, 2, 4),
        ("sdt_2_256", 32, 3, 2),
        ("spikformer_4_384", 32, 3, 4),
    ):
        for options in ({"segments": 1}, {"segments": steps, "feedback": "all"}):
            with torch.device("meta"):
                model = tdformer.create_model(name, image_size=size, in_channels=channels, time_steps=steps, **options)
                for policy in ("none", "unit") if size == 8 else ("none",):
                    plan, config = BatchPlan(2, 1, 2, 1, 2, 1), load()
                    assert planner.price(model, config, plan, policy, 1).total < planner.at_most(model, config, plan)
    wide, plan = load(None, ["model.width=192", "model.time_steps=1"]), BatchPlan(1, 1, 1, 1, 1, 1)
    with torch.device("meta"), stands_for("cpu"):  # whose optimizer needs more than one picture does
        model = tdformer.create_model("quickstart", width=192, time_steps=1, image_size=8)
        assert planner.price(model, wide, plan, "unit", 1).total < planner.at_most(model, wide, plan)
