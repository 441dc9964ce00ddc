"""`python -m benchmarks.gpu`, rehearsed where there is no GPU."""

from __future__ import annotations

import ast
import gc
import json
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Command, apart

from benchmarks import ROOT, peer, published
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import runs, steps
from benchmarks.gpu.device import Device
from cluster.build.shards import write_shards
from tdformer import kernels

TINY = """
import sys
from tdformer.backbones import MODELS, Entry, QKFormer, QKFormerSizes
MODELS.register("tiny", Entry(QKFormer, QKFormerSizes("imagenet", (16, 24, 32), (1, 1, 2), 4), 32, 3, 10))
from benchmarks.gpu import runs
from benchmarks.gpu.__main__ import main
from cluster.train import graph
from forked import Command
from tape import Tape

graph.RECORDERS["cpu"] = Tape  # a graph is CUDA's alone

def launch(site, *words, module):
    program = f"import runpy; runpy.run_module({module!r}, run_name='__main__')"
    return Command(*words, cwd=site.folder, env=site.env, program=program, merged=True)

runs.Site.launch = launch
sys.exit(main())
"""
"""The benchmark with a tiny model, whose nine runs of commands are forked: their imports were half of its time."""


def test_the_gpu_s_benchmark_is_rehearsed(tmp_path: Path) -> None:
    """Every section, on the CPU: what only CUDA does is in `Device`."""
    words = ("--device=cpu", "--size=small", "--model=tiny", "--out=found", "--seconds=3000")
    rehearsal = Command(*words, cwd=tmp_path, program=TINY)
    done = rehearsal.completed(timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found" / "gpu.json").read_text())
    sections = found["sections"]
    rows = [row for section in sections.values() for row in section["rows"]]
    assert not [name for name, section in sections.items() if "left_out" in section or not section["rows"]], sections
    assert not [row["error"] for row in rows if "error" in row]
    (exact,) = sections["exactness"]["rows"]
    assert exact["twice"] and exact["resumed"]
    assert all(row["kernels"] and row["ms_per_image"] > 0 for row in rows if "name" in row)
    assert any("as a graph" in row["name"] for row in sections["training step"]["rows"])
    (fed,) = sections["loader"]["rows"]
    assert fed["images_per_second"] > 0 and fed["bare_images_per_second"] > 0 and "RandAugment" in fed["augmentation"]
    assert 0 < sections["checkpoint"]["rows"][0]["held_up_s"] <= sections["checkpoint"]["rows"][0]["written_s"]
    assert (tmp_path / "found" / "gpu.md").read_text() in done.stdout
    again = Command(*words, cwd=tmp_path, program=TINY).completed()
    assert again.returncode == 2 and "gpu.json is there already" in again.stderr


def test_the_gpu_s_benchmark_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.startswith("error: torch sees no GPU here")


def test_what_does_not_fit_the_gpu_s_time_is_named(tmp_path: Path) -> None:
    words = ("--device=cpu", "--size=small", "--model=tiny", "--out=found", "--seconds=0.2")
    done = Command(*words, cwd=tmp_path, program=TINY).completed()
    assert done.returncode == 0, done.stderr
    sections = json.loads((tmp_path / "found" / "gpu.json").read_text())["sections"]
    assert len(sections) == 9 and all("time was" in section["left_out"] for section in sections.values())


def test_the_gpu_s_sections_are_chosen_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--device=cpu", "--size=small", f"--out={tmp_path}", "--seconds=0.01"]
    assert gpu.main([*words, "--only=loader,stepp"]) == 2
    assert capsys.readouterr().err.startswith("error: --only: no section 'stepp'; there are exactness, training step,")
    assert not list(tmp_path.iterdir())
    assert gpu.main([*words, "--only=loader,training step"]) == 0
    assert list(json.loads((tmp_path / "gpu.json").read_text())["sections"]) == ["training step", "loader"]


class Programs(runs.Site):
    """Its commands are programs of Python."""

    def launch(self, *words: str, module: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-Sc", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def measured(site: runs.Site, out: Path, seconds: float = 60.0, **sections: Callable[[], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"sections": {}}
    todo = {name: (seconds, (), rows) for name, rows in sections.items()}
    gpu.measure(found, todo, site, Device("cpu"), seconds * len(sections), out)
    assert json.loads((out / "gpu.json").read_text()) == found
    return found["sections"]


def test_what_fails_is_a_row_and_loses_no_other(tmp_path: Path) -> None:
    site = Programs(tmp_path, "cpu", True)
    programs = ["print(1)", "import sys; print('why'); print('that'); sys.exit(3)", "print(3)"]

    def act(case: tuple[int, str]) -> dict[str, Any]:
        return {"said": site.finish(case[1])}

    def fails() -> Iterator[dict[str, Any]]:
        yield {"name": "one", "said": (tmp_path / "gpu.json").exists()}
        yield {"name": "two", "said": len(json.loads((tmp_path / "gpu.json").read_text())["sections"]["fails"]["rows"])}
        raise AssertionError("of this section\nalone")

    work = steps.Work("no such model", 32, 1, 1, 1)
    found = measured(
        site,
        tmp_path,
        beside=lambda: runs.beside(site, 2, act, list(enumerate(programs))),
        fails=fails,
        steps=lambda: gpu.step_rows(steps.OURS[:2], work, Device("cpu")),
    )
    rows = {row.get("stage"): row for row in found["beside"]["rows"]}
    assert sorted(row["said"] for row in found["beside"]["rows"] if "said" in row) == ["1\n", "3\n"]
    assert rows[1]["error"].startswith("RuntimeError: import sys") and rows[1]["error"].endswith("ended with 3: that")
    assert rows[1]["details"].endswith("why\nthat\n")
    assert [row["said"] for row in found["fails"]["rows"]] == [True, 1]
    assert found["fails"]["left_out"] == "what comes after 2 rows: AssertionError: of this section"
    assert 'AssertionError("of this section' in found["fails"]["details"]
    assert [row["error"].startswith("ModelError: ") for row in found["steps"]["rows"]] == [True, True]
    assert "details" not in gpu.text({"where": "", "commit": "", "work": "", "sections": found})


def test_what_is_beside_each_other_ends_with_its_time(tmp_path: Path) -> None:
    site, started = Programs(tmp_path, "cpu", True), tmp_path / "started"
    program = f"import time; open({str(started)!r}, 'a').write('.'); time.sleep(100)"
    started.touch()

    def act(case: tuple[int, str]) -> dict[str, Any]:
        try:
            site.finish(program)
        finally:
            return {"again": site.finish(program)}  # noqa: B012 - whatever became of the first one

    def late() -> Iterator[dict[str, Any]]:
        before = started.read_text()
        yield {"threads": threading.active_count(), "before": before, "ran": site.finish("print(1)")}

    threads = threading.active_count()
    found = measured(
        site, tmp_path, 1.0, beside=lambda: runs.beside(site, 2, act, [(0, ""), (1, ""), (2, "")]), late=late
    )
    assert found["beside"]["left_out"] == "what comes after 0 rows: its time was over"
    assert found["late"]["rows"] == [{"threads": threads, "before": started.read_text(), "ran": "1\n"}]
    assert len(started.read_text()) <= 2


def test_what_a_section_leaves_is_freed_before_the_next(tmp_path: Path) -> None:
    left: list[weakref.ref[torch.nn.Module]] = []

    def leaves() -> Iterator[dict[str, Any]]:
        model = torch.nn.Module()
        object.__setattr__(model, "itself", model)
        left.append(weakref.ref(model))
        yield {}

    gc.disable()
    try:
        found = measured(
            runs.Site(tmp_path, "cpu", True),
            tmp_path,
            leaves=leaves,
            finds=lambda: iter([{"there": left[0]() is not None}]),
        )
    finally:
        gc.enable()
    assert found["finds"]["rows"] == [{"there": False}]


def test_time_is_over_where_exceptions_are_caught_or_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(gpu.OutOfTimeError), gpu.within(0.02):
        try:
            time.sleep(60)
        except Exception as error:  # as torch.compile does with a backend's
            raise RuntimeError("of a backend") from error
    monkeypatch.setattr(gpu, "AGAIN", 0.5)
    with pytest.raises(gpu.OutOfTimeError), gpu.within(0.02):
        try:
            time.sleep(60)
        except gpu.OutOfTimeError:
            time.sleep(60)


def test_what_is_on_the_path_alone_is_there_for_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alone.py").write_text("import benchmarks; print(benchmarks.__file__)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = runs.Site(tmp_path, "cpu", True).finish(module="alone")
    assert Path(said.strip()).parents[1] == ROOT


def test_what_is_cut_short_leaves_torch_as_it_was() -> None:
    """Also between the lines that turn gradients off and on again."""
    layer, found = torch.nn.Linear(1, 1), []
    for _ in range(100):
        with pytest.raises(gpu.OutOfTimeError), gpu.within(0.002):
            while True:
                with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(False):
                    layer(torch.ones(1, 1))
        found.append(torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"))
    assert all(found)


def look(folder: Path) -> None:
    write_shards("digits", folder / "shards")
    words = ["data.dataset=digits", f"data.root={folder / 'shards'}", f"runs_dir={folder / 'runs'}"]
    with runs.trainer([*words, "train.threads=3", "engine.device=cpu"]) as made:
        assert made.state.step == 0 and torch.get_num_threads() == 3
        assert torch.are_deterministic_algorithms_enabled()


def test_its_steps_beside_training_calculate_as_training_does(tmp_path: Path) -> None:
    apart(look, tmp_path)


def test_a_neuron_s_kernels_have_the_names_that_are_looked_for() -> None:
    source = Path(kernels.__file__).with_name("gpu_programs.py").read_text()
    programs = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert set(steps.OWN) <= programs
    assert all(steps.fused(name) for name in steps.OWN) and not any(map(steps.fused, programs - set(steps.OWN)))
    assert steps.fused("void lif_forward<c10::Half>(c10::Half const*, float const*)")
    assert not steps.fused("void at::native::vectorized_elementwise_kernel<4, lif_forward>")
    if peer.INSTALLED:
        import spikingjelly

        for file, names in steps.SPIKINGJELLY.items():
            source = (Path(spikingjelly.__file__).parent / "_ops" / "lif" / file).read_text()
            assert all(re.search(rf"(def|void) {name}\(", source) for name in names), file


def test_a_peer_s_peak_counts_what_it_keeps_of_a_step() -> None:
    class Seen(Device):
        kept: list[object]

        def peak(self, run: Callable[[], None], model: torch.nn.Module) -> int:
            self.kept = [neuron.v for neuron in model.modules() if isinstance(neuron, published.LIF)]
            return super().peak(run, model)

    device = Seen("cpu")
    contender = steps.Contender("of a neuron", lambda _: torch.nn.Sequential(Pictures(), published.LIF()), train=False)
    steps.measured(contender, steps.Work("", 4, 1, 1, 1), device)
    assert device.kept == [0.0]


class Pictures(torch.nn.Module):
    """As a model, with a weight, that gives a neuron a step of them."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.unsqueeze(0)


def test_a_fused_neuron_is_the_published_one() -> None:
    """What stands in for the peer at its best computes what the peer does."""
    x = torch.randn(4, 2, 8, 5, 5)
    found = []
    for neuron in (published.LIF, steps.Fused, *([steps.SpikingJelly] if peer.INSTALLED else [])):
        own = x.clone().requires_grad_()
        layer = neuron(0.5)
        first = layer(own[:2])
        assert first.is_contiguous()
        spikes = torch.cat([first, layer(own[2:])])
        (spikes * x.roll(1, 1)).sum().backward()
        found.append((spikes.detach(), own.grad))
    assert 0 < found[0][0].mean() < 1
    for spikes, grad in found[1:]:
        torch.testing.assert_close(spikes, found[0][0])
        torch.testing.assert_close(grad, found[0][1])
