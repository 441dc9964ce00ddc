"""Plans: parts and sums, an H100's published steps, each recipe, the memory of a real step, and the command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import tdformer
from benchmarks.plan import courses
from cluster import config as configs
from cluster.build import optimizers
from cluster.build.memory import GIB, Memory
from cluster.build.shards import write_shards
from cluster.config.shape import Shape
from cluster.errors import RunError
from cluster.plan import rates
from cluster.plan.absent import setup_of
from cluster.plan.chips import chip
from cluster.plan.figures import NOT_IN_TOTAL, Plan
from cluster.plan.machine import Machine
from cluster.plan.network import AlphaBeta
from cluster.plan.predict import Terms, predict
from cluster.plan.timed import Timed
from cluster.run import checkpoint
from tdformer.measure import Work, measure_step
from tdformer.measure.memory import EVERY

H100, ONE = chip("h100"), Shape(1, 1, 1)
IMAGENET = ("train.global_batch=48", "train.norm_batch=24")


def planned(recipe: str, *words: str, shape: Shape = ONE, terms: Terms | None = None) -> Plan:
    """On H100s."""
    return predict(setup_of(configs.load(configs.recipe(recipe), words), shape.world), shape, H100, terms=terms)


def values(section: dict[str, Any]) -> dict[str, float]:
    return {key: figure.value for key, figure in section.items() if figure.value is not None}


def test_parts_sum_to_totals() -> None:
    words = ("train.ema_decay=0.9", "engine.zero_stage=1", "train.micro_batch=6", "recompute.policy=unit")
    plan = planned("imagenet/hst_10_384", *IMAGENET, *words, shape=Shape(2, 2, 2), terms=Terms(2.0, 1000))
    for section in (plan.memory, plan.step, plan.disk):
        found = values(section)
        parts = [value for key, value in found.items() if key not in NOT_IN_TOTAL]
        assert found["total"] == pytest.approx(sum(parts), rel=1e-9) and all(part >= 0 for part in parts), found
    assert all(plan.memory[key].value for key in ("weights", "gradients", "optimizer", "ema", "buckets"))
    assert all(plan.step[key].value for key in ("matrix", "attention", "neuron", "other", "gradients", "optimizer"))
    assert plan.step["batchnorm_collectives"].value  # 24 images of 6 each are on four GPUs
    run = values(plan.run)
    assert run["cost"] == pytest.approx(2 * run["gpu_hours"]) and run["gpu_hours"] == pytest.approx(4 * run["hours"])
    assert 0 < run["goodput"] < 1 and run["hours"] > run["training_hours"]


def test_what_it_says_to_programs() -> None:
    plan = planned("digits")
    told = json.loads(json.dumps(plan.as_json(), allow_nan=False))
    for name in ("memory", "host", "step", "run", "checkpoint", "disk"):
        for key, figure in told[name].items():
            assert re.fullmatch("[a-z][a-z0-9_]*", key) and figure.keys() == {"value", "unit", "source"}, key
            assert figure["source"] and (figure["value"] is None or isinstance(figure["value"], float | int)), key
    row = plan.row()
    assert row["predicted.seconds_step"] == plan.step["total"].value
    assert row["predicted.peak_gib"] == plan.memory["total"].value  # tensors on a GPU
    assert "predicted.gib.libraries" not in row
    of_step = [value for key, value in row.items() if key.startswith("predicted.seconds.") and value is not None]
    assert sum(of_step) == pytest.approx(plan.step["total"].value)
    assert "predicted.gib.kept_activations" in row and "predicted.gib.total" not in row
    assert row["predicted.seconds.loader"] is None  # nobody has timed it
    assert "not known" in plan.text() and plan.line().startswith("plan: ")


def test_of_a_cpu_the_peak_is_all_that_is_resident() -> None:
    config = configs.load(configs.recipe("digits"), [])
    plan = predict(setup_of(config, 1), Shape(1, 1, 0), None)
    row, (tensors, libraries) = plan.row(), (plan.memory["total"].value, plan.host["libraries"].value)
    assert tensors is not None and libraries is not None and row["predicted.gib.libraries"] == libraries
    assert row["predicted.peak_gib"] == pytest.approx(tensors + libraries)


@pytest.mark.parametrize("number", [0, 2, 5])
def test_an_h100s_steps(number: int) -> None:
    """As the rates that are kept say, within what benchmarks/results/plan.md states: 10 %. The last one's host is
    slower than its GPU."""
    step = rates.measured()["h100"]["steps"][number]
    course, found = courses()[number], rates.of_chip(H100, "bf16", False)
    assert sum(found.parts(course[-1]).values()) + found.host(course) == pytest.approx(step["ms"] / 1e3, rel=0.1)
    assert course[-1].flops / step["images"] == pytest.approx({224: 560e9, 384: 1640e9}[step["size"]], rel=0.6)
    assert found.clocks(course)[1] == pytest.approx(min(step["host_ms"], step["ms"]) / 1e3, rel=0.1)


def course(*moments: tuple[int, int, int]) -> list[Work]:
    """(operators, bytes, kernels) until then."""
    return [Work(operators=n, other_bytes=moved, launches=kernels) for n, moved, kernels in moments]


def test_a_device_waits_for_its_host_and_the_host_for_the_device() -> None:
    """A byte takes a second, the launch of an operator one; so much by hand."""
    found = rates.Rates(0, 0, 0, 1, 0, 0, 1, 0, "by hand")
    assert found.clocks(course((3, 30, 3))) == (30, 3) and found.host(course((3, 30, 3))) == 0
    assert found.clocks(course((30, 3, 30))) == (30, 30) and found.host(course((30, 3, 30))) == 27
    # slow launches first: as a whole, device and host are busy for 33 s each; one after the other they are not
    small, large = (30, 3, 30), (33, 33, 33)
    assert found.clocks(course(small, large)) == (60, 33) and found.host(course(small, large)) == 27
    # large work first: the host is 30 s ahead, and the device never waits
    assert found.clocks(course((3, 30, 3), (33, 33, 33))) == (33, 33) and found.host(course((3, 30, 3), large)) == 0
    # unless the queue is full: then launches go on only when the first work is done
    full = course((3, 300, rates.QUEUE), (4, 301, 2 * rates.QUEUE))
    assert found.clocks(full) == (301, 301)


def test_the_course_of_a_step() -> None:
    """It grows, ends with all of it, and pooling is among other bytes, though it remembers integers."""
    for name in ("spikformer_2_384", "quickstart"):
        costs = []
        for device in ("meta", "cpu"):
            with torch.device(device):
                model = tdformer.create_model(name, time_steps=2, image_size=16, recompute="none")
                channels = model.config["in_channels"]
                costs.append(measure_step(model, torch.zeros(2, channels, 16, 16))[0])
        work, whole = costs[0].work, costs[0].course
        assert whole[-1] == work and len(whole) == work.operators // EVERY + 1
        assert all(a.operators < b.operators and a.launches < b.launches for a, b in pairwise(whole[:-1]))
        convolutions = sum(isinstance(part, torch.nn.Conv2d) for part in model.modules())
        assert work.launches == work.operators + (2 + 5) * convolutions
        pooled, odd = (one.work.packing_bytes for one in costs)
        assert pooled == odd < work.other_bytes / 1000  # labels, and no places


def test_other_gpus_are_scaled() -> None:
    work = Work(operators=1, matrix_flops=10**12, other_bytes=10**9)
    one, other = (rates.of_chip(chip(name), "bf16", False) for name in ("h100", "a100"))
    assert other.matrix_flop / one.matrix_flop == pytest.approx(989.4 / 312)
    assert other.other_byte / one.other_byte == pytest.approx(3.35 / 1.555)
    assert sum(other.parts(work).values()) > sum(one.parts(work).values())
    assert "scaled by the datasheets" in other.source and "measured on an H100" in one.source
    with pytest.raises(RunError, match=r"v100 has no bf16; set train.precision=fp16 or fp32"):
        rates.of_chip(chip("v100"), "bf16", False)


def test_every_recipe_has_a_plan() -> None:
    """Of each its data, batch and model; the step of one of each network, size and number of segments."""
    seen = set()
    for name in configs.recipes():
        setup = setup_of(configs.load(configs.recipe(name), ["recompute.policy=none"]), 1)
        model, data = setup.outline, setup.config.data
        assert len(setup.samples) > 1000 and setup.test is not None and len(setup.test) >= 288
        key = (setup.config.model.name, model.segments, *model.config["image_size"])
        if data.dataset != "imagenet" or key in seen:
            continue
        seen.add(key)
        two = [f"train.{key}_batch=2" for key in ("global", "micro", "norm")]
        plan = planned(name, *two, "recompute.policy=unit")
        assert plan.fits and plan.run["hours"].value and plan.memory["largest_micro_batch"].value == 2
    assert len(seen) > 8


def test_what_does_not_fit() -> None:
    """The largest micro-batch that does is told, and fits when it is taken."""
    words = ("recompute.policy=none", "train.global_batch=96", "train.norm_batch=24", "recompute.memory=10")
    plan = planned("imagenet/hst_10_384", *words)
    largest = plan.memory["largest_micro_batch"].value
    assert not plan.fits and largest in (8, 12, 24)
    assert f"train.micro_batch={largest} is the largest that fits" in plan.warnings[0]
    again = planned("imagenet/hst_10_384", *words, f"train.micro_batch={largest}")
    assert again.fits and not again.warnings and again.about["accumulation"] == 96 // largest
    assert not planned("imagenet/hst_10_384", *words, "recompute.memory=0.1").memory["largest_micro_batch"].value


def test_what_nobody_knows(tmp_path: Path) -> None:
    """Sizes of a folder of pictures must be given; and the memory of GPUs that are not named."""
    words = ["data.dataset=folder", f"data.root={tmp_path}", "data.size=32", "train.global_batch=8"]
    config = configs.load(None, words)
    with pytest.raises(RunError, match="how many images folder has is not known.*--images N"):
        setup_of(config, 1)
    with pytest.raises(RunError, match=r"how many classes folder has is not known.*model.num_classes=N"):
        setup_of(config, 1, images=500)
    shared = configs.load(None, [*words, "model.num_classes=7", "data.share=0.1"])
    assert len(setup_of(shared, 1, images=500).samples) == 50
    setup = setup_of(configs.load(None, [*words, "model.num_classes=7"]), 1, images=500)
    plan = predict(setup, Shape(1, 1, 1), None)
    assert plan.run["steps"].value == 62 and plan.about["parameters"] > 10**5  # type: ignore[operator]
    assert plan.memory["available"].value is None and plan.fits and plan.run["hours"].value is None
    assert "time is not known" in plan.line()


def test_a_measured_machine() -> None:
    """Its operators, its network and its loader take part."""
    parts = {"matrix": 0.1, "attention": 0.01, "neuron": 0.05, "other": 0.02, "host": 0.03}
    machine = Machine("this machine", Memory(GIB, "here")).timed(
        Timed(parts, 0.04, 0.005), AlphaBeta(1e-3, 1e-9), 100.0
    )
    plan = predict(setup_of(configs.load(configs.recipe("digits")), 2), Shape(1, 2, 0), None, machine)
    step = values(plan.step)
    assert step["loader"] == pytest.approx(32 / 100) and step["batchnorm_collectives"] > 0 and step["gradients"] > 2e-3
    assert step["hidden_gradients"] == 0  # cores that sum them do not compute
    assert step | parts == step and step["optimizer"] == 0.005 and plan.step["other"].source == "measured here"
    tests = plan.run["evaluation_hours"].source.split(" ")[0]
    batches = int(tests) * -(-360 // (2 * plan.about["micro_batch"]))  # type: ignore[operator]
    assert plan.run["evaluation_hours"].value == pytest.approx(batches * 0.04 / 3600)
    workers = configs.load(configs.recipe("digits"), ["data.workers=1"])
    behind = values(predict(setup_of(workers, 2), Shape(1, 2, 0), None, machine).step)
    assert behind["loader"] == pytest.approx(max(0.0, 0.32 - (step["total"] - step["loader"])))


def test_what_was_timed_is_not_counted() -> None:
    def count() -> Work:
        raise AssertionError

    assert Timed({}, 0.04, 0.005).evaluation(count) == 0.04
    work, found = Work(other_bytes=3), rates.Rates(0, 0, 0, 2, 0, 0, 0, 0, "by hand")
    assert found.evaluation(lambda: work) == 6


def test_a_checkpoint_is_as_large_as_that(tmp_path: Path) -> None:
    model = tdformer.create_model("quickstart", time_steps=4, segments=2, feedback="all", in_channels=1, image_size=8)
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    named = [(name, p.detach()) for name, p in model.named_parameters()]
    moments = {f"{key}.{name}": value.clone() for key in optimizers.MOMENTS for name, value in named}
    path = checkpoint.save(tmp_path, 1, {"model": weights, "optimizer": moments}, {}, keep=1)
    real = sum(file.stat().st_size for file in path.iterdir()) / GIB
    assert planned("digits").checkpoint["size"].value == pytest.approx(real, rel=0.05)


# -------------------------------------------------------------------------------------------------------- the commands


def test_the_command(cli: Callable[..., Any]) -> None:
    words = ("plan", "imagenet/hst_10_384", *IMAGENET, "--gpu", "h100", "--gpus-per-node", "2", "--nodes", "2")
    done = cli(*words, "--price", "2.5", "--mtbf", "5000", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["about"]["on"] == "2 nodes with 2 GPUs (h100)" and told["run"]["cost"]["value"] > 0
    assert told["checkpoint"]["best_interval"]["value"] > 0 and told["run"]["images"]["value"] == 1_281_167
    done = cli("plan", "digits", "recompute.memory=0.001", "recompute.policy=none")
    assert done.returncode == 2 and "warning: a process needs 0.01 GiB and has 0.00 (recompute.memory)" in done.stdout
    for wrong, line in (
        (("--gpu", "h10"), "no GPU is called 'h10'; did you mean h100?"),
        (("--gpu", "v100", "train.precision=bf16"), "v100 has no bf16"),
        (("--gpu", "h100", "--gpus-per-node", "0"), "--gpu h100 is of GPUs, and --gpus-per-node is 0"),
        (("--measure", "--nodes", "2"), "--measure times the CPU of this machine"),
        (("train.global_batch=7", "--processes-per-node", "2"), "train.global_batch=7 is not divisible"),
    ):
        done = cli("plan", "digits", *wrong)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and line in done.stderr, done.stderr


def test_a_launch_says_its_plan(cli: Callable[..., Any], tmp_path: Path) -> None:
    write_shards("digits", tmp_path / "data" / "digits")
    launch = ("launch", "digits", "--dry-run")
    done = cli(*launch, "--where", "local")
    assert done.returncode == 0 and re.search(r"^plan: [\d.]+ GiB a process of [\d.]+; time is not", done.stderr, re.M)
    gpus = (*launch, "--where", "slurm", "--gpus-per-node", "2", "site.gpu=h100")
    done = cli(*gpus, "site.minutes=11")
    assert re.search(r"^plan: .* s a step, [\d.]+ h, [\d.]+ GPU-hours$", done.stderr, re.M), done.stderr
    assert done.stdout.startswith("#!")
    assert "is shorter than" not in done.stderr  # an epoch is over soon, and keeps one
    done = cli(*gpus, "site.minutes=2", "site.signal_seconds=10")
    assert "warning: site.minutes=2 is shorter than a start (120 s, assumed) and the 0.0" in done.stderr
    done = cli(*gpus, "site.gpu=h1000")
    assert done.returncode == 2 and "no GPU is called 'h1000'" in done.stderr
    done = cli(*gpus, "recompute.memory=0.001")
    assert done.returncode == 2 and "lower train.micro_batch" in done.stderr
    auto = "train.micro_batch=auto"
    done = cli(*gpus, auto)
    assert re.search(rf"^{auto} is \d+.* ms an image, the least of .*\nplan: .* s a step", done.stderr, re.M), (
        done.stderr
    )
    done = cli(*gpus, auto, "recompute.memory=0.001")
    assert done.returncode == 2 and "raise recompute.memory" in done.stderr and "lower" not in done.stderr
    done = cli(*gpus[:-1], auto)
    assert f"plan: {auto} is chosen as the run starts; set site.gpu" in done.stderr and done.stdout.startswith("#!")
