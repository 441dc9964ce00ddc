"""The benchmarks' baseline is the network that it stands for, and the byte counter counts."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tdformer
from benchmarks import (
    augmentation,
    checkpoint,
    collectives,
    dense,
    health,
    information,
    loader,
    order,
    paper_energy,
    parity,
    peer,
    plan,
)
from benchmarks.published import Published
from cluster.jobs import calibration
from cluster.plan import network
from cluster.plan.network import AlphaBeta
from cluster.plan.timed import Timed
from tdformer.backbones import MODELS, Entry, QKFormer, QKFormerSizes
from tdformer.kernels import sparse
from tdformer.measure import live_bytes, measure_evaluation, measure_step


@pytest.fixture(autouse=True)
def tiny() -> None:
    MODELS.register("tiny", Entry(QKFormer, QKFormerSizes("imagenet", (16, 24, 32), (1, 1, 2), 4), 32, 3, 10))
    torch.manual_seed(0)


@pytest.mark.parametrize("segments", [1, 2, 4])
@pytest.mark.parametrize("policy", ["none", "unit"])
def test_the_baseline_is_our_model_without_feedback(segments: int, policy: str) -> None:
    published = Published("tiny", segments, num_classes=10).double()
    for module in published.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.weight.data.uniform_(1, 2)
            module.bias.data.uniform_(0, 1)
    ours = tdformer.create_model("tiny", segments=segments, segment_norm="shared", recompute=policy).double()
    tdformer.load_pretrained(ours, copy.deepcopy(published.state_dict()))
    x, labels = torch.rand(2, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 2])
    expected, found = published(x), ours(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for logits in (expected, found):
        tdformer.segment_loss(logits.double(), labels).backward()
    pairs = [(p.grad, q.grad) for p, q in zip(published.parameters(), ours.parameters(), strict=False)]
    stem = ours.backbone.embeds[0].units[0].current.conv.weight.grad
    torch.testing.assert_close(stem, published.patch_embed1.proj_conv.weight.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.head.weight.grad, published.head.weight.grad, rtol=1e-6, atol=1e-9)
    assert len(pairs) > 20 and stem.abs().max() > 0


@pytest.mark.skipif(not peer.INSTALLED, reason="needs spikingjelly (see benchmarks/peer.py)")
@pytest.mark.parametrize("by", ["block", "unit"])
def test_the_peer_is_the_baseline_and_keeps_less(by: str) -> None:
    x, labels = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    baseline = Published("tiny", 2, num_classes=10)
    torch.manual_seed(1)
    kept = []
    for model in (baseline, peer.memopt("tiny", by, 2, 4, x, num_classes=10)):
        if model is not baseline:
            for own, theirs in zip(model.parameters(), baseline.parameters(), strict=True):
                own.data.copy_(theirs)
        kept.append(measure_step(model, x)[0].kept)
    torch.testing.assert_close(model(x), baseline(x), rtol=1e-4, atol=1e-4)
    assert kept[1] < 0.6 * kept[0]
    tdformer.segment_loss(model(x), labels).backward()
    tdformer.segment_loss(baseline(x), labels).backward()
    torch.testing.assert_close(model.model.head.weight.grad, baseline.head.weight.grad, rtol=1e-3, atol=1e-5)


def test_live_bytes_of_a_known_step() -> None:
    """Two linear layers and a square: what is kept is what their formulas say."""
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 5, bias=False))
    x = torch.rand(8, 10)
    with live_bytes(model) as live:
        y = model(x)
        assert live.now == (8 * 20 + 8 * 5) * 4  # the hidden layer for its gradient, and y
        loss = y.square().sum()
        assert live.now == (8 * 20 + 8 * 5 + 1) * 4 and live.peak == (8 * 20 + 2 * 8 * 5 + 1) * 4
        loss.backward()
        del y, loss
        assert live.now == 0  # gradients of parameters do not count
    assert live.work.flops == 2 * 8 * (10 * 20 + 20 * 5) + 2 * 8 * (10 * 20 + 2 * 20 * 5)
    assert len(live.timeline) > 5


@pytest.mark.parametrize("policy", ["none", "block", "time", "unit"])
@pytest.mark.parametrize("segments", [1, 2, 4])
def test_the_plan_agrees_with_the_measurement(monkeypatch: pytest.MonkeyPatch, policy: str, segments: int) -> None:
    """The model of bytes and operations, which is the step on the meta device, within 10 % of the step itself.

    The plan counts dense convolutions, so events are off.
    """
    monkeypatch.setattr(sparse, "DENSEST", -1.0)
    costs = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            model = tdformer.create_model("hst_4_384", segments=segments, feedback="last", image_size=64)
            model.set_recompute(policy, min(2, segments))
            costs.append(measure_step(model, torch.rand(2, 3, 64, 64))[0])
    plan, found = costs
    assert plan.kept == pytest.approx(found.kept, rel=0.1)
    assert plan.peak == pytest.approx(found.peak, rel=0.1)
    assert plan.flops == pytest.approx(found.flops, rel=0.1)


def test_checkpoints_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every column is a measurement of a real save and a real kill."""
    one = ["--worlds", "1", "--stages", "1", "--of", "quickstart"]
    checkpoint.main(["--models", "tiny", "--rounds", "1", "--folder", str(tmp_path), *one])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    (tiny,) = [[float(cell) for cell in row[1:]] for row in rows if row[0].strip() == "tiny"]
    assert tiny[0] > 0 and all(seconds >= 0 for seconds in tiny)
    stall = next(row for row in rows if row[0].strip() == "1" and row[1].strip() == "1")
    assert float(stall[2]) > 0 and int(stall[3]) > 0
    kill = next(row for row in rows if "kill" in row[0])
    assert float(kill[1]) > 0
    assert not list(tmp_path.iterdir())


def test_collectives_are_counted_and_follow_from_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    """Two ranks take real steps; the rule by which a large model's cost is told is checked against what they did."""
    collectives.main(["--worlds", "2", "--stages", "0", "1", "--segments", "2", "--images", "64"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    counted = {(row[1], row[3]): row[4:] for row in rows if row[0] == "2"}
    assert len(counted) == 4
    for found in counted.values():
        assert 1 < int(found[6]) < int(found[0].split()[0])  # all but the last bucket are summed while backward goes on
        assert int(found[7]) <= 6  # waits: for the sums of the step, the norm of the gradient, and what DeepSpeed reads
    assert counted["0", "all ranks"][2].startswith("52 ") and counted["0", "a rank"][2] == "0"
    for (stage, _), found in counted.items():  # what plans are made with
        assert tuple(int(found[place].split()[0]) for place in (1, 4, 7)) == network.COUNTED[int(stage)]
    modelled = {(row[2], row[3]): row[4:] for row in rows if row[0] == "64"}
    for before, now in modelled.values():
        for a, b in zip(before.split(" / "), now.split(" / "), strict=True):
            assert 50 < float(a[:-1]) < float(b[:-1]) < 100


def test_the_order_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    order.main(["--samples", "5000", "--rounds", "1"])
    said = capsys.readouterr().out
    assert "5,000 samples" in said and all(f"| {word} |" in said for word in ("open", "shuffle", "resume"))
    assert re.search(r"Memory of writing it: names and labels of the files \d+ MiB, rows \d+ MiB", said)


def test_loaders_are_timed_and_their_pixels_compared(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ffcv", reason="ffcv is not installed (make ffcv)")
    loader.main(["--images", "64", "--rounds", "1", "--workers", "1"])
    said = capsys.readouterr().out
    for title in loader.SHAPES:
        rows = [line.strip("| ").split(" | ") for line in said.partition(f"\n{title},")[2].splitlines()]
        found = {row[0]: row[1:] for row in rows if len(row) > 1}
        assert all(float(found[name][0]) > 0 for name in (*loader.LOADERS, loader.OUTSIDE))
        training, evaluation = (next(v for k, v in found.items() if k.startswith(f"ours, {x}")) for x in ("tr", "ev"))
        assert float(training[0]) > 50 and float(evaluation[0]) > 60 and int(evaluation[1]) <= 2


def test_the_recipe_is_timed_by_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "DIFFERENT", 10)
    threads = torch.get_num_threads()
    augmentation.main(["--images", "64", "--rounds", "1"])
    assert torch.get_num_threads() == threads
    said = capsys.readouterr().out
    _, *kinds = said.split("\nFor ")
    assert [kind.partition(":")[0] for kind in kinds] == ["a CPU", "a GPU"]
    for kind in kinds:
        (told,) = re.findall(r"(\d+) images/s a core; ([\d.]+) cores", kind)
        rate, cores = map(float, told)
        assert rate * cores == pytest.approx(loader.WANTED, rel=0.05)
        rows = [line.strip("| ").split(" | ") for line in kind.splitlines() if line.endswith("|")][2:]
        found = {row[0]: row for row in rows}
        assert found["decode, box brought to size"][3] == found["RandAugment around its operations"][3] == "100"
        operations = [float(row[3]) for name, row in found.items() if name.startswith("RandAugment: ")]
        assert 60 < sum(operations) < 140  # two of each picture, each by half
        assert sum(float(row[2].rstrip("%")) for row in rows) == pytest.approx(100, abs=1.5)
        assert ("erasing: its pixels" in found, "erasing: told to the device" in found) == (
            kind.startswith("a CPU"),
            kind.startswith("a GPU"),
        )


def test_photographs_have_the_asked_bytes(tmp_path: Path) -> None:
    photos = loader.write(tmp_path, [(375, 500), (200, 160)], 8, 1)
    sizes, pixels = photos.data.table["size"], photos.data.table["height"] * photos.data.table["width"]
    assert sorted(set(pixels)) == [200 * 160, 375 * 500]
    assert (sizes <= loader.BYTES * pixels).all() and (sizes > 0.75 * loader.BYTES * pixels).all()


def test_a_loaded_model_is_compared_with_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the first neurons that differ are found, where there are some."""
    make = parity.published()["spikformer_2_384"]
    spikes, logits, gradients = parity.in_fp64("spikformer_2_384", make)
    assert (
        re.fullmatch("0 of [1-9][0-9,]+, rate 0.[1-9][0-9]+", spikes)
        and float(logits) < 1e-10
        and float(gradients) < 1e-10
    )
    evaluation, training, *first = parity.in_fp32("spikformer_2_384", make)
    cells = [[float(number) for number in re.findall(r"[\d.e-]+", cell)] for cell in (evaluation, training)]
    assert all(differ < 1e-5 < spread for differ, spread in cells) and first == ["none", "none"], (cells, first)
    loaded = tdformer.load_pretrained

    def otherwise(model: tdformer.TDFormer, weights: dict[str, torch.Tensor]) -> None:
        changed = {name: weights[name] + 1e-3 for name in ("block.1.attn.v_bn.bias", "block.1.mlp.fc1_bn.bias")}
        loaded(model, weights | changed)

    monkeypatch.setattr(tdformer, "load_pretrained", otherwise)
    found = parity.in_fp32("spikformer_2_384", make)[2]
    name, count, currents, distance = re.match(r"`(.+)`: (\d+) of [\d,]+; (\S+); (\S+)$", found).groups()  # type: ignore[union-attr]
    assert name == "block.1.attn.v_lif" and int(count) > 0
    assert float(currents) == pytest.approx(1e-3, rel=0.1) and 0 < float(distance) <= 1e-3


def test_corrections_are_compared_where_the_truth_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    full, rare = np.full((2, 2), 50.0), np.array([[190.0, 0.0], [9.0, 1.0]])
    assert information.miller_madow(full) == information.panzeri_treves(full) == 1 / (400 * math.log(2))
    assert information.miller_madow(rare) == 0  # of four cells one is empty
    assert information.truth(information.law("identical, rate 0.1")) == pytest.approx(0.4690, abs=1e-4)
    information.main(["--repeats", "4", "--images", "64"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ind")]
    assert len(rows) == 2
    for row in rows:
        errors = [abs(float(cell.split()[0])) for cell in row[3:]]
        assert min(errors) == errors[4] < 0.6 * errors[0]  # the jackknife's, against that of no correction


def test_the_cost_of_health_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    health.main(["--rounds", "2", "--models", "spikformer_2_256"])
    step, own, share, ratio, all_steps = re.findall(
        r"[\d.]+", capsys.readouterr().out.splitlines()[-1].split("images")[1]
    )
    assert float(step) > float(own) > 0 and float(ratio) > 0
    assert float(share) == pytest.approx(100 * float(own) / float(step), rel=0.05)
    assert float(all_steps) == pytest.approx(float(share) / 10, abs=0.01)


def test_dense_counts_are_those_of_the_counter_that_others_used() -> None:
    """To the operation, what it told of Spikformer-4-384: products, biases of linear layers once a step, two a value of
    BatchNorm, one a value of neurons and poolings."""
    c, layers = dense.count("spikformer_4_384")
    assert c.first + c.products + c.bias_columns + 2 * c.norm + c.neurons + c.pooled == paper_energy.COUNTER
    # Its "MACs": the picture's convolution at each step, and the head.
    assert c.first + layers["head"].products + layers["head"].bias_columns == 5_312_266


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tiny", {}),
        ("tiny", {"cm": 2, "pm": 3}),
        ("spikformer_2_256", {"cm": 3, "width": 32, "image_size": 32}),
        ("sdt_2_256", {"cm": 1, "width": 32, "mixer": "processing"}),
    ],
)
def test_dense_counts_are_what_the_step_multiplies(name: str, options: dict[str, object]) -> None:
    """Against torch's count of the operators that run, which have a picture's convolution once a segment."""
    options = {"feedback": "all", "segments": 2, "time_steps": 4, **options}
    c, _ = dense.count(name, **options)
    with torch.device("meta"):
        model = tdformer.create_model(name, **options)  # type: ignore[arg-type]
        shape = model.config["in_channels"], *model.config["image_size"]
        work = measure_evaluation(model, torch.empty(1, *shape))
    heads = model.head.weight.numel()  # it runs in each segment
    assert work.matrix_flops / 2 == c.products + heads + c.first * 2 / 4
    assert work.attention_flops / 2 == pytest.approx(min(c.linear, c.quadratic) + c.core / 2)


def test_the_page_has_what_the_paper_s_figures_are_held_against() -> None:
    page = Path("benchmarks/results/paper_energy.md").read_text()
    sizes = {pixels: dense.count("hst_10_768", image_size=pixels) for pixels in paper_energy.POWER}
    assert paper_energy.power({pixels: whole for pixels, (whole, _) in sizes.items()}) in page
    assert paper_energy.stages({pixels: layers for pixels, (_, layers) in sizes.items()}) in page
    base = {name: dense.count(name)[0] for name in paper_energy.BASELINES}
    for made in (paper_energy.baselines(base), paper_energy.matrices(), paper_energy.feedback_energy()):
        assert made in page


def test_the_least_of_rounds_counts() -> None:
    """Of each step, exchange and part; the peak is the first round's, the only one that has it."""
    taken = [calibration.Taken(2.0, 1.0, 7)], [calibration.Taken(3.0, 0.5, 0)]
    links = AlphaBeta(2e-4, 1e-9), AlphaBeta(1e-4, 2e-9)
    planned = [Timed({"matrix": 2.0, "host": 3.0}, 5.0, 1.0)], [Timed({"matrix": 1.0, "host": 4.0}, 4.0, 2.0)]
    rounds = [calibration.Measured(t, p, p, [n], [None]) for t, p, n in zip(taken, planned, links, strict=True)]
    found = plan.least(rounds)
    assert found["taken"] == [{"peak": 7, "seconds": 2.0, "cores": 0.5}]
    assert found["networks"] == [{"alpha": 1e-4, "beta": 1e-9}]
    best = {"parts": {"matrix": 1.0, "host": 3.0}, "tested": 4.0, "end": 1.0}
    assert found["planned"] == {"seconds": [best], "cores": [best]}
