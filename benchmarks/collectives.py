"""What passes between the ranks in a step, and what it costs on many GPUs.

    python -m benchmarks.collectives [--worlds 1 2 4] [--stages 0 1 2 3] [--segments 1 2 4] [--model hst_10_768]

Counted: real steps of the quick start on gloo, one process a rank: collectives by kind, the bytes that a rank gives to
them, and how often the host reads a value of the device and so waits for it. Modelled: the same for --model, whose
collectives follow from its units and parameters by the rule that the counted ones are checked against; their time on
nodes of 8 H100 as NCCL itself models it (`cluster/plan/network.py`); and from that the efficiency of weak scaling. No
figure of the second table was measured on NCCL.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import tdformer
from cluster.build import planner
from cluster.build.shards import write_shards
from cluster.config import load
from cluster.plan.network import Counted, Network, Rule, exposed
from cluster.run.folder import RunFolder
from pipelines.loader import train_loader
from pipelines.order import Share

from . import machine, table

SHARE = 4
"""Images of a rank in a step that is counted."""
BUCKET = 50_000
"""Elements, instead of those of `planner`, or the quick start would be one bucket."""
KINDS = ("gradients", "weights", "BatchNorm forward", "BatchNorm backward", "norms", "statistics")
NONE = (0, 0)
Counts = dict[str, tuple[int, int]]
"""Number and bytes by kind; of `gradients begun in backward` and `waits` the number alone."""


def options(segments: int) -> dict[str, Any]:
    """Of a model; feedback from a segment before it needs one."""
    return {"time_steps": 4, "segments": segments, "feedback": "all" if segments > 1 else "none"}


class Tally:
    """Counts while `on`; put where torch hands a collective to its backend, and where Python reads a tensor."""

    def __init__(self) -> None:
        self.on, self.phase = False, ""
        self.number: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def collective(self, name: str, given: tuple[Any, ...]) -> None:
        kind = self._kind(name)
        size = next(size for arg in reversed(given) if (size := _nbytes(arg)))  # the input comes last
        self.number[kind] += 1
        self.bytes[kind] += size
        if kind == "gradients" and torch._C._current_graph_task_id() >= 0:
            self.number["gradients begun in backward"] += 1

    def _kind(self, name: str) -> str:
        frame, files = sys._getframe(), set()
        while frame is not None:
            files.add(Path(frame.f_code.co_filename).name)
            frame = frame.f_back  # type: ignore[assignment]
        if "norm.py" in files:
            return f"BatchNorm {self.phase}"
        if "slots.py" in files:
            return "statistics"
        if "gather" in name:
            return "weights"
        return "gradients" if self.phase == "backward" else "norms"

    def read(self) -> None:
        caller = sys._getframe(3).f_code.co_filename
        if "/torch/" not in caller:  # AdamW reads its step, which is on the host
            self.number["waits"] += 1

    def install(self) -> None:
        def wrap(owner: Any, name: str, act: Callable[..., None]) -> None:
            call = getattr(owner, name)

            def wrapped(*given: Any, **named: Any) -> Any:
                if self.on:
                    act(name, given[1:])
                return call(*given, **named)

            setattr(owner, name, wrapped)

        for name in dir(dist.ProcessGroup):
            if any(word in name for word in ("reduce", "gather", "scatter")):
                wrap(dist.ProcessGroup, name, self.collective)
        for name in ("item", "tolist", "__float__", "__int__", "__bool__"):
            wrap(torch.Tensor, name, lambda *_: self.read())

    @contextmanager
    def during(self, owner: Any, **phases: str) -> Iterator[None]:
        """Calls of these functions of `owner` are phases."""
        before = {name: getattr(owner, name) for name in phases}

        def phase(name: str) -> Callable[..., Any]:
            def call(*given: Any, **named: Any) -> Any:
                self.phase = phases[name]
                return before[name](*given, **named)

            return call

        for name in phases:
            setattr(owner, name, phase(name))
        try:
            yield
        finally:
            for name, call in before.items():
                setattr(owner, name, call)


def _nbytes(argument: Any) -> int:
    if isinstance(argument, torch.Tensor):
        return argument.nbytes
    return sum(map(_nbytes, argument)) if isinstance(argument, list | tuple) else 0


@dataclass(frozen=True)
class Case:
    stage: int
    segments: int
    world: int
    together: bool
    """Whether all ranks' images are one norm batch."""

    def words(self, folder: Path) -> list[str]:
        images = SHARE * self.world
        return [
            f"runs_dir={folder}",
            f"name=z{self.stage}-n{self.segments}-{self.together}-{self.world}",
            f"data.root={folder / 'shards'}",
            "data.dataset=digits",
            "train.threads=1",
            f"train.global_batch={images}",
            f"train.norm_batch={images if self.together else SHARE}",
            "model.name=quickstart",
            *(f"model.{key}={value}" for key, value in options(self.segments).items()),
            f"engine.zero_stage={self.stage}",
        ]


def rank(number: int, folder: str, cases: list[Case]) -> None:
    """Counts steps of this rank; the first writes what it found."""
    from cluster.build.setup import Setup
    from cluster.signals import Notice
    from cluster.train import engine
    from cluster.train.loop import Trainer
    from cluster.train.watchdog import Watchdog

    torch.set_num_threads(1)
    planner.BUCKET = BUCKET
    world = cases[0].world
    device = engine.init_distributed(number, world, dist.FileStore(f"{folder}/meet-{world}", world))
    counter = Tally()
    counter.install()
    found = []
    for case in cases:
        config = load(None, case.words(Path(folder)))
        run = RunFolder(config.run_path)
        if not number:
            run.path.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        trainer = Trainer(Setup.to_train(config, world), run, device, Notice(), Watchdog(10), not number)
        batches = train_loader(
            trainer.data,
            trainer.state.cursor,
            Share(trainer.plan.micro_batch, trainer.plan.accumulation, number, world),
        )
        trainer.engine.train()
        with (
            counter.during(trainer.engine, forward="forward", backward="backward"),
            counter.during(engine, update="step"),
        ):
            for step, batch in zip(range(3), batches, strict=False):  # in the first ones ZeRO 3 learns the order
                counter.on = step == 2
                counter.number.clear()
                counter.bytes.clear()
                trainer.step(batch, 0.0)
        counter.on = False
        found.append({kind: (count, counter.bytes[kind]) for kind, count in counter.number.items()})
        dist.barrier()
    if not number:
        Path(folder, f"counts-{world}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # nothing is left to do but to free memory


def counted(cases: list[Case], folder: Path) -> Iterator[tuple[Case, Counts]]:
    for world in sorted({case.world for case in cases}):
        own = [case for case in cases if case.world == world]
        mp.start_processes(rank, (str(folder), own), nprocs=world, start_method="spawn")
        yield from zip(own, json.loads((folder / f"counts-{world}.json").read_text()), strict=True)


def check(rule: Rule, case: Case, found: Counts) -> None:
    """Raises AssertionError where what was counted is something else than the rule says."""
    together = case.together and case.world > 1
    for direction, size in (("forward", 2 * sum(rule.batchnorm)), ("backward", sum(rule.batchnorm))):
        expected = (len(rule.batchnorm), size) if together else NONE
        assert tuple(found.get(f"BatchNorm {direction}", NONE)) == expected, (case, found)
    number, size = found.get("gradients", NONE)
    if case.world == 1 and not number:
        return
    assert abs(number - len(rule.gradients)) <= 2, (case, found, len(rule.gradients))
    assert rule.parameters <= size <= 1.01 * rule.parameters, (case, found, rule.parameters)


def others(found: Counts) -> Counted:
    """What of a step does not follow from the network."""
    gathers, norms, waits = (found.get(kind, NONE)[0] for kind in ("weights", "norms", "waits"))
    return Counted(gathers, norms, waits)


COPY = 2.5e-6
"""Seconds of a small kernel (assumed)."""


def before(rule: Rule, network: Network, ranks: int, group: int, counted: Counted) -> float:
    """As `exposed`, at commit 7590ad3: gradients were summed as a whole after backward; BatchNorm gathered into a list,
    which was copied one by one, and the host read the number of images."""
    whole, seconds = Rule((rule.parameters,), rule.batchnorm, rule.segments), 0.0
    for size in rule.batchnorm if group > 1 else ():
        gathered = network.seconds(size, group, False) - network.seconds(2 * size, group, True)
        seconds += gathered + group * COPY + network.wait
    return seconds + exposed(whole, network, ranks, group, 0.0, counted)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--stages", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--segments", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--model", default="hst_10_768")
    parser.add_argument("--ms", type=float, default=4.4, help="of computing, an image")
    parser.add_argument("--images", nargs="+", type=int, default=[64, 8], help="a GPU and step")
    asked = parser.parse_args(arguments)
    print(f"{machine()}\n", flush=True)
    cases = [
        Case(stage, segments, world, together)
        for world in asked.worlds
        for stage in asked.stages
        for segments in asked.segments
        for together in ([False, True] if world > 1 else [False])
    ]
    results: dict[Case, Counts] = {}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        write_shards("digits", Path(place) / "shards")
        for case, found in counted(cases, Path(place)):
            with torch.device("meta"):
                small = tdformer.create_model("quickstart", **options(case.segments), in_channels=1, image_size=8)
            sizes = [p.numel() for p in small.parameters()]
            check(Rule.of(small, case.segments, min(sum(sizes), max(BUCKET, *sizes))), case, found)
            results[case] = found
            cells = [f"{n} ({size / 1e3:.0f} kB)" if n else "0" for n, size in (found.get(k, NONE) for k in KINDS)]
            begun, waits = (str(found.get(kind, NONE)[0]) for kind in ("gradients begun in backward", "waits"))
            of = [str(case.world), str(case.stage), str(case.segments), "all ranks" if case.together else "a rank"]
            rows.append([*of, *cells, begun, waits])
    head = ["ranks", "ZeRO", "N", "norm batch of", *KINDS, "gradients begun in backward", "waits"]
    print("A step of the quick start (digits, T = 4, feedback to all), counted:\n")
    print(table(head, rows), flush=True)

    rows = []
    for images in asked.images:
        for segments in asked.segments:
            with torch.device("meta"):
                model = tdformer.create_model(asked.model, **options(segments))
            rule, compute = Rule.of(model, segments), asked.ms * images / 1e3
            for stage in (stage for stage in asked.stages if stage < 2):
                found = others(results[Case(stage, segments, max(asked.worlds), False)])
                for name, most in (("a GPU", 1), ("a node", Network.node), ("all GPUs", 128)):
                    worlds = [(ranks, min(ranks, most)) for ranks in (8, 64, 128)]
                    lost = (
                        [before(rule, Network(), *world, found) for world in worlds],
                        [exposed(rule, Network(), *world, compute, found) for world in worlds],
                    )
                    cells = [" / ".join(f"{compute / (compute + seconds):.1%}" for seconds in side) for side in lost]
                    rows.append([str(images), str(segments), str(stage), name, *cells])
    print(f"\nWeak scaling of {asked.model} at {asked.ms} ms an image, modelled, at 8 / 64 / 128 GPUs:\n")
    print(table(["images a GPU", "N", "ZeRO", "norm batch of", "before", "now"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
