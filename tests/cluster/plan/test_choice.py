"""What `train.micro_batch: auto` takes: the least modelled time of all ways that fit, found without pricing all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import TDFORMER, Command
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cluster.build import planner
from cluster.build.memory import GIB, Memory
from cluster.build.setup import Setup
from cluster.build.shards import write_shards
from cluster.config import load
from cluster.config.batches import cuts
from cluster.errors import RunError
from cluster.plan import durations, rates
from cluster.plan.absent import setup_of
from cluster.plan.chips import chip
from cluster.plan.choice import chosen, fitting
from cluster.plan.machine import Machine
from cluster.plan.network import Network
from cluster.run.folder import RunFolder
from tdformer.backbones import MLP, MODELS, Backbone, Entry, Given, pooled
from tdformer.policies import choices
from tdformer.state import State
from tdformer.unit import Unit

H100 = rates.of_chip(chip("h100"), "bf16", False)
WORDS = ("data.dataset=digits", "model.time_steps=2", "model.segments=2", "train.micro_batch=auto")


@dataclass(frozen=True)
class Sizes:
    width: int = 8
    depth: int = 1


class Few(Backbone[Sizes]):
    """Three units, so that a step is priced in a moment."""

    def __init__(self, sizes: Sizes, given: Given) -> None:
        super().__init__(sizes, given)
        self.width = sizes.width
        self.entry = Unit(given.units, given.in_channels, sizes.width, kernel=3)
        self.block = MLP(given.units, sizes.width)

    def parts(self) -> list[nn.Module]:
        return [self.entry, self.block]

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        x = self.step(self.block, state, pooled(self.step(self.entry, state, x), state))
        return x.mean((3, 4)), x


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """It is there for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODELS, "_entries", dict(MODELS._entries))
        MODELS.register("few", Entry(Few, Sizes(), 8, 1, 10))
        yield


def setup(*words: str, world: int = 1) -> Setup:
    return setup_of(load(None, ["model.name=few", *WORDS, *words]), world)


def gpu(speed: rates.Rates, room: float) -> Machine:
    return Machine("made up", Memory(room, "a test's", usable=1.0), speed, Network(), gpu=True)


def every(of: Setup, machine: Machine) -> list[tuple[float, float]]:
    """Seconds of a step and bytes of every way."""
    found = []
    with torch.device("meta"):
        for plan in cuts(of.config, of.plan):
            for choice in choices(of.outline.segments):
                priced = planner.price(of.outline, of.config, plan, *choice)
                assert priced.cost is not None
                step = durations.of_step(of.cut(plan), machine, priced.cost.course)
                found.append((step["total"].value, priced.total))
    return found


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, int, int]:
    """Global batch, processes, norm batch: some that can be."""
    world = draw(st.sampled_from([1, 2, 4]))
    share = draw(st.sampled_from([4, 6, 8, 12]))
    norm = draw(st.sampled_from([n for n in (2, 3, 4, 8) if share * world % n == 0]))
    return share * world, world, norm


speeds = st.lists(st.floats(-2, 2), min_size=8, max_size=8).map(
    lambda powers: rates.Rates(
        *(
            10**power * usual
            for power, usual in zip(powers, (2e-15, 7e-13, 5e-13, 5e-13, 1e-12, 8e-6, 2e-5, 3e-4), strict=True)
        ),
        "made up",
    )
)


looked: list[tuple[int, int]] = []


@settings(max_examples=30, deadline=None, derandomize=True)
@given(batches(), speeds, st.floats(0, 1.2), st.integers(0, 2), st.booleans())
def check(batch: tuple[int, int, int], speed: rates.Rates, share: float, stage: int, mixes: bool) -> None:
    """Against all ways, priced one by one. share: of the way from the least memory that one needs to the most."""
    total, world, norm = batch
    words = (f"train.global_batch={total}", f"train.norm_batch={norm}", f"engine.zero_stage={stage}")
    try:
        of = setup(*words, f"data.mixup={0.8 * mixes}", world=world)
        ways = every(of, gpu(speed, 0))
    except RunError:
        return  # an odd share is not mixed
    sizes = [size for _, size in ways]
    machine = gpu(speed, (min(sizes) + share * (max(sizes) - min(sizes))) / 0.9 + 1)
    room, found = 0.9 * machine.memory.size, chosen(of, machine)
    assert found.way is not None
    assert found.way.seconds == pytest.approx(min(seconds for seconds, size in ways if size <= room), rel=1e-9)
    config, plan = found.setup.config, found.setup.plan
    assert config.train.micro_batch == plan.micro_batch == found.way.plan.micro_batch
    assert config.train.norm_batch == plan.norm_batch == norm
    assert (config.recompute.policy, config.recompute.borders) == found.way.choice
    assert plan.micro_batch * plan.accumulation * world == total and not (mixes and plan.micro_batch % 2)
    assert of.config.train.micro_batch == of.config.recompute.policy == "auto"  # what was asked stays
    looked.append((len(found.looked), len(ways)))


def test_it_is_the_least_of_all_that_fit() -> None:
    check()
    assert sum(priced for priced, _ in looked) < 0.8 * sum(ways for _, ways in looked) and len(looked) > 15


def test_the_micro_batch_before_is_kept_where_it_fits() -> None:
    of = setup("train.global_batch=48", "train.norm_batch=8")
    free = chosen(of, gpu(H100, GIB))
    other = 16 if free.setup.plan.micro_batch != 16 else 24
    kept = chosen(of, gpu(H100, GIB), other)
    assert kept.setup.plan.micro_batch == other and "an image, as before" in (kept.line() or "")
    assert chosen(of, gpu(H100, GIB), 7).setup.plan == free.setup.plan  # on other processes it may not divide
    small = chosen(of, gpu(H100, 1.01 * min(size for _, size in every(of, gpu(H100, 0))) / 0.9), other)
    assert small.way is not None and small.way.plan.micro_batch == 8 and "as before" not in (small.line() or "")


def test_what_fits_nothing_is_refused_in_a_line() -> None:
    of = setup("train.global_batch=48", "train.norm_batch=8")
    found = chosen(of, gpu(H100, 1000))
    assert found.way is None and found.setup.plan.micro_batch == 8  # a plan says what would be needed
    assert found.line() == "train.micro_batch=auto finds none that fits"
    with pytest.raises(RunError) as error:
        fitting(of, gpu(H100, 1000))
    assert re.fullmatch(
        r"a micro-batch of 8 needs 0.00 GiB a process with recompute.policy=unit, and 0.00 of 0.00 GiB may be used "
        r"\(a test's\); set recompute.memory, if there is more",
        str(error.value),
    )


def test_a_policy_that_is_given_stays() -> None:
    of = setup("train.global_batch=48", "train.norm_batch=8", "recompute.policy=unit", "recompute.borders=2")
    found = chosen(of, gpu(H100, GIB))
    assert {way.choice for way in found.looked} == {("unit", 2)}
    assert found.setup.config.recompute == of.config.recompute


def test_without_a_model_of_time_it_is_as_0() -> None:
    of = setup("train.global_batch=48", "train.norm_batch=8")
    for gpus, why in ((False, "on a CPU is not modelled"), (True, "on this GPU is not known; set site.gpu to what it")):
        found = chosen(of, Machine("this machine", Memory(GIB, "here"), gpu=gpus))
        assert found.setup.plan == of.plan and found.setup.plan.micro_batch == 48
        assert (found.line() or "").startswith(f"train.micro_batch=auto is 48, as 0 would be: what a step takes {why}")
        (figure,) = found.section().values()
        assert figure.value is None and figure.source.startswith(f"as 0 is: what a step takes {why}")
    number = setup("train.global_batch=48", "train.micro_batch=16")
    assert chosen(number, gpu(H100, GIB)).setup is number


def test_what_a_start_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU by torch's name for it, or else what `site.gpu` says; its memory is that of the start."""
    memory, config = Memory(GIB, "here"), load(None, ["site.gpu=a100"])
    assert Machine.seen(config, 2, 4, memory) == Machine("this machine", memory)  # no GPU is here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, of, gpu in (
        ("NVIDIA H100 80GB HBM3", config, "h100"),
        ("NVIDIA GTX 1080", config, "a100"),
        ("NVIDIA GTX 1080", load(None, []), "this machine"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        found = Machine.seen(of, 2, 4, memory)
        assert (found.name, found.memory, found.gpu) == (gpu, memory, True)
        assert (found.speed is None) == (gpu == "this machine")
    with pytest.raises(RunError, match="no GPU is called 'h1000'; did you mean h100"):
        Machine.seen(load(None, ["site.gpu=h1000"]), 2, 4, memory)


# -------------------------------------------------------------------------------------------------------- the commands

ON_A_GPU = (
    """
from cluster.plan import rates
from cluster.plan.chips import chip
from cluster.plan.machine import Machine
from cluster.plan.network import Network
speed = rates.of_chip(chip("h100"), "bf16", False)
Machine.seen = lambda config, processes, world, memory: Machine("h100", memory, speed, Network(), gpu=True)
"""
    + TDFORMER
)
"""The command, which takes this machine for one with an H100."""


def test_a_run_goes_on_with_the_micro_batch_it_had(tmp_path: Path) -> None:
    """What a start chose, or was told, is kept by those after it; another run, on two processes, chooses."""
    write_shards("digits", tmp_path / "shards")
    words = ["train", "quickstart", "data.dataset=digits", f"data.root={tmp_path / 'shards'}", "model.width=16"]
    words += ["model.time_steps=2", "train.global_batch=48", "train.norm_batch=8", "train.epochs=1", "data.share=0.1"]
    words += ["checkpoint.every_steps=1", "log.every_steps=1", "train.threads=1", "name=run"]

    def start(*more: str, until: int = 10**6) -> str:
        process = Command(*words, *more, cwd=tmp_path, program=ON_A_GPU, merged=True)
        while process.returncode is None and (folder.saved_step() or 0) < until:
            process._process.join(0.01)
        process.kill()
        return process.communicate()[0]

    folder = RunFolder(tmp_path / "runs" / "run")
    start("train.micro_batch=16", until=1)
    said = start("train.micro_batch=auto")
    assert re.search(
        r"^batch   train.micro_batch=auto is 16 x 3 with recompute \w+: .* an image, as before", said, re.M
    )
    assert folder.summary() is not None and "goes on elsewhere" not in said, said
    assert [row["micro_batch"] for row in folder.starts.read()] == [16, 16]
    assert (folder.micro_batch(1), folder.micro_batch(2)) == (16, None)
    folder = RunFolder(tmp_path / "runs" / "other")
    said = start("train.micro_batch=auto", "train.processes=2", "name=other", until=1)
    assert re.search(r"^batch   train.micro_batch=auto is 24 with recompute none: .*; measured on an H100", said, re.M)
    config = folder.config()
    assert config is not None and (config.train.micro_batch, config.recompute.policy) == (24, "none")
    assert (folder.micro_batch(1), folder.micro_batch(2)) == (None, 24)


def test_a_plan_says_what_was_looked_at(cli: Any) -> None:
    words = (
        "plan",
        "quickstart",
        "data.dataset=digits",
        "train.global_batch=48",
        "train.norm_batch=8",
        "--gpu",
        "h100",
    )
    done = cli(*words, "train.micro_batch=auto", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["about"]["micro_batch"], told["about"]["accumulation"]) == (48, 1)
    (first, *_), least = told["choice"].items(), min(figure["value"] for figure in told["choice"].values())
    assert first[0] == "micro_batch_48_none_1" and first[1]["value"] == least
    assert ": chosen, the least of those that fit; measured on an H100" in first[1]["source"]
    assert least == pytest.approx(1e3 * told["step"]["total"]["value"] / 48)
    done = cli(*words, "train.micro_batch=auto", "recompute.memory=0.001")
    assert done.returncode == 2 and "does not fit" in done.stdout and "no micro-batch fits" in done.stdout
    for wrong in ("many", "1.5", "null"):
        done = cli(*words, f"train.micro_batch={wrong}")
        assert done.returncode == 2 and f"train.micro_batch is {wrong}; expected a whole number or auto" in done.stderr
