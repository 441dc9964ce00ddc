"""Real runs of the `tdformer` command: the same twice, killed and resumed, fed from JPEGs, and held up by a save."""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from benchmarks import ROOT, python_path
from benchmarks.gpu.device import Device

if TYPE_CHECKING:
    from cluster.train.loop import Trainer

POLICIES = ("none", "unit", "block", "time")
LINES, DETAILS = 40, 3000
"""Last lines of what a process wrote, and last characters of a traceback, that are kept of a failure."""


def failure(error: Exception) -> dict[str, str]:
    """Of a row: its first line, and where it came from with all that it says."""
    first = (str(error).strip().splitlines() or [""])[0][:200]
    details = "".join(traceback.format_exception(error))[-DETAILS:]
    return {"error": f"{type(error).__name__}: {first}", "details": details}


class Site:
    """A folder to run in, on one kind of device. small: a rehearsal."""

    def __init__(self, folder: Path, device: str, small: bool) -> None:
        self.folder, self.small, self.cpu = folder, small, device == "cpu"
        own = {"PYTHONPATH": python_path(ROOT), "OMP_NUM_THREADS": "2"} | (
            {"CUDA_VISIBLE_DEVICES": ""} if self.cpu else {}
        )
        self.env = os.environ | own
        self.started: list[subprocess.Popen[str]] = []
        self._over, self._one = False, threading.Lock()

    def start(self, *words: str, module: str = "cluster.cli") -> subprocess.Popen[str]:
        """Raises RuntimeError after `end`."""
        with self._one:
            if self._over:
                raise RuntimeError("its time is over")
            self.started.append(self.launch(*words, module=module))
            return self.started[-1]

    def launch(self, *words: str, module: str) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-m", module, *words], subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, *words: str, module: str = "cluster.cli") -> str:
        """What it wrote. Raises RuntimeError with its last lines where it fails."""
        process = self.start(*words, module=module)
        said, _ = process.communicate()
        if process.returncode:
            lines = said.splitlines()[-LINES:] or [""]
            what = f"{' '.join(words[:2])} ended with {process.returncode}: {lines[-1]}"
            raise RuntimeError("\n".join([what, *lines]))
        return said

    def begin(self) -> None:
        self.started, self._over = [], False

    def end(self) -> None:
        """Kill what still runs, and start nothing more: its time is over."""
        with self._one:
            self._over = True
            for process in self.started:
                process.kill()

    def rows(self, run: str, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        path = self.folder / "runs" / run / file
        return (
            [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]
            if path.exists()
            else []
        )

    def steps(self, run: str) -> int:
        """Up to its last row."""
        return max((row["step"] for row in self.rows(run)), default=0)


def exactness(site: Site, workers: int) -> Iterator[dict[str, Any]]:
    """Digits: each ZeRO stage and each policy twice, and killed halfway and resumed. Yields a row for each."""
    site.finish("prepare", str(ROOT / "configs" / "digits.yaml"))
    cases = (
        [(1, "unit")]
        if site.small
        else [(0, "none"), *((s, "none") for s in (1, 2, 3)), *((0, p) for p in POLICIES[1:])]
    )
    yield from beside(site, workers, lambda case: _exact(site, *case), cases)


def beside(
    site: Site, workers: int, act: Callable[[tuple[int, str]], dict[str, Any]], cases: Sequence[tuple[int, str]]
) -> Iterator[dict[str, Any]]:
    """Rows of cases that run beside each other, as they are done, also of those that fail. Where what takes them is cut
    short, nothing of them goes on."""
    pool = ThreadPoolExecutor(workers)
    try:
        asked = {pool.submit(act, case): case for case in cases}
        for done in as_completed(asked):
            error = done.exception()
            if error is None:
                yield done.result()
            else:
                assert isinstance(error, Exception)
                stage, policy = asked[done]
                yield {"stage": stage, "policy": policy} | failure(error)
    finally:
        site.end()
        pool.shutdown(cancel_futures=True)


def _exact(site: Site, stage: int, policy: str) -> dict[str, Any]:
    names = [f"{word}-{stage}-{policy}" for word in ("once", "again", "killed")]
    size = ["train.epochs=1", "train.global_batch=480"] if site.small else ["train.epochs=3"]
    words = [
        *("train", str(ROOT / "configs" / "digits.yaml"), "--processes", "1", *size),
        *(
            f"engine.zero_stage={stage}",
            f"recompute.policy={policy}",
            f"log.every_steps={1 if site.small else 3}",  # between rows the host runs ahead of a GPU
            f"checkpoint.every_steps={1 if site.small else 5}",
        ),
    ]
    for name in names[:2]:
        site.finish(*words, f"name={name}")
    killed, half = site.start(*words, f"name={names[2]}"), len(site.rows(names[0])) // 2
    while len(site.rows(names[2])) < half and killed.poll() is None:
        time.sleep(0.002)
    killed.kill()
    killed.communicate()
    at = site.steps(names[2])
    site.finish(*words, f"name={names[2]}")
    once, again, resumed = (_bytes(site.folder / "runs" / name) for name in names)
    return {
        "stage": stage,
        "policy": policy,
        "steps": site.steps(names[0]),
        "twice": once == again,
        "killed_at": at,
        "resumed": once == resumed,
    }


def _bytes(run: Path) -> dict[str, bytes]:
    """The metrics, and weights and moments at the end."""
    newest = max((run / "checkpoints").glob("step-*"), key=lambda path: path.name)
    return {file.name: file.read_bytes() for file in (run / "metrics.jsonl", *sorted(newest.glob("*.safetensors")))}


def pictures(folder: Path, count: int, different: int = 64) -> None:
    """JPEGs of 500 x 375 with structure and noise, in ten classes; `different` of them, the others are links."""
    for i in range(count):
        for split in ("train", "test")[: 1 + (i < 16)]:
            path = folder / split / f"{i % 10}" / f"{i:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            first = folder / "train" / f"{i % different % 10}" / f"{i % different:05d}.jpg"
            if first.exists():
                path.hardlink_to(first)
            else:
                path.write_bytes(_jpeg(i))


def _jpeg(number: int) -> bytes:
    rng, out = np.random.default_rng(number), io.BytesIO()
    coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse) + rng.normal(0, 6, (375, 500, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def recipe(site: Site) -> list[str]:
    """Words of a training run on JPEGs."""
    model, size, batch = ("quickstart", 32, 16) if site.small else ("hst_10_768", 224, 128)
    words = [f"model.name={model}", f"data.size={size}", f"train.global_batch={batch}", "data.augment.flip=0.5"]
    cores = len(os.sched_getaffinity(0))
    workers = 1 if site.small else max(1, min(14, cores - 2))
    words += [f"data.workers={workers}", "data.dataset=folder", f"data.root={site.folder / 'pictures'}"]
    return [*words, "train.precision=bf16", "log.every_steps=4", "data.mixup=0.8", "data.cutmix=1.0"]


AUGMENTED = [
    f"data.augment.{setting}" for setting in ("rand_augment=rand-m9-mstd0.5-inc1", "erasing=0.25", "erasing_mode=pixel")
]


def loader(site: Site) -> Iterator[dict[str, Any]]:
    """From JPEGs in shards to steps, by the published ImageNet augmentation where timm is there, and mixing: images a
    second, beside the same step of batches that are there, and the share of the time that training waits for data."""
    _shards(site)
    (site.folder / "empty.yaml").write_text("{}\n")
    words = [*recipe(site), *(AUGMENTED if find_spec("timm") else []), "checkpoint.every_steps=100000"]
    site.finish("train", "empty.yaml", "--processes", "1", *words, "name=pictures")
    rows = site.rows("pictures", "speed.jsonl")
    rows = rows[len(rows) // 4 :]  # the first ones start workers and choose kernels
    seconds, images, waited = (sum(row[key] for row in rows) for key in ("seconds", "images", "data_wait_seconds"))
    said = site.finish("bare", *words, "name=bare", module="benchmarks.gpu.runs")
    bare = _answer(said)["images_per_second"]
    yield {
        "augmentation": "RandAugment, erasing, mixing" if find_spec("timm") else "flip, mixing",
        "images_per_second": images / seconds,
        "bare_images_per_second": bare,
        "share_of_bare": images / seconds / bare,
        "waiting": waited / seconds,
        "images": images,
    }


def checkpoints(site: Site) -> Iterator[dict[str, Any]]:
    """Seconds that a save holds training up, by ZeRO stage: each in a process of its own."""
    _shards(site)
    for stage in (1,) if site.small else (0, 1):
        said = site.finish(
            "held", *recipe(site), f"engine.zero_stage={stage}", f"name=save-{stage}", module="benchmarks.gpu.runs"
        )
        yield _answer(said) | {"stage": stage}


def _shards(site: Site) -> None:
    """Those of `recipe`, unless they are there."""
    if not (site.folder / "pictures").exists():
        pictures(site.folder / "raw", 64 if site.small else 2560)
        site.finish("shard", "folder", str(site.folder / "pictures"), "--source", str(site.folder / "raw"))


def _answer(said: str) -> dict[str, Any]:
    """What a process of this file says last; libraries may say something after it."""
    found: dict[str, Any] = json.loads(next(line for line in reversed(said.splitlines()) if line.startswith("{")))
    return found


def kernels(site: Site) -> Iterator[dict[str, Any]]:
    """The tests that need a GPU: compiled kernels against the reference, batches sent ahead against the CPU's."""
    tests = [ROOT / "tests" / "tdformer" / "kernels" / "test_gpu.py", ROOT / "tests" / "pipelines" / "test_delivery.py"]
    command = ["-q", "-m", "gpu", "-p", "no:cacheprovider", *map(str, tests)]
    if find_spec("xdist") and not site.small:
        command += ["-n", str(min(8, len(os.sched_getaffinity(0)))), "--dist", "worksteal"]
    yield {"said": site.finish(*command, module="pytest").splitlines()[-1].strip("= ")}


@contextmanager
def trainer(words: list[str]) -> Iterator[Trainer]:
    """One before its first step."""
    import torch.distributed as dist

    from cluster.build import devices, heap
    from cluster.config import load
    from cluster.jobs.processes import check_inputs, threads
    from cluster.run.folder import RunFolder
    from cluster.signals import Notice
    from cluster.train.engine import init_distributed
    from cluster.train.loop import Trainer
    from cluster.train.watchdog import Watchdog

    config = load(None, words)
    devices.exact(config.train.tf32, config.engine.deterministic)  # as `processes.worker` does
    torch.set_num_threads(threads(config, 1))
    heap.keep_freed()
    folder = RunFolder(config.run_path)
    folder.settle(config)
    setup = check_inputs(config, 1)
    device = init_distributed(0, 1, dist.HashStore())
    folder.open(config)
    with Watchdog(config.engine.timeout_minutes) as watchdog:
        yield Trainer(setup, folder, device, Notice(), watchdog, True)
    dist.destroy_process_group()


def hold_up(words: list[str], saves: int = 3) -> dict[str, Any]:
    """What `checkpoints` runs: a trainer before its first step, saved several times."""
    with trainer(words) as made:
        held, whole = _saved(made.save, made.saved, made, saves)
        size = sum(file.stat().st_size for file in next(made.folder.checkpoints.glob("step-*")).iterdir())
    return {"held_up_s": held, "written_s": whole, "mib": size / 2**20}


def bare(words: list[str]) -> dict[str, Any]:
    """What `loader` runs beside training: its step, again and again of one batch that is on the device."""
    with trainer(words) as made:
        made.engine.train()
        batches, _ = next(made.feed.batches(made.state.cursor))
        device, steps = Device(made.device.type), min(12, made.epoch_steps)
        for _ in range(steps // 3):  # the first ones choose kernels
            made.step(batches, 0.0)
        device.wait()
        begun = time.perf_counter()
        for _ in range(steps):
            made.step(batches, 0.0)
        device.wait()
        seconds = time.perf_counter() - begun
        return {"images_per_second": steps * made.config.train.global_batch / seconds}


def _saved(save: Callable[[], None], wait: Callable[[], None], trainer: Trainer, saves: int) -> tuple[float, float]:
    held, whole = [], []
    for _ in range(saves + 1):
        trainer.state.step += 1
        begun = time.perf_counter()
        save()
        held.append(time.perf_counter() - begun)
        wait()
        whole.append(time.perf_counter() - begun)
    return statistics.median(held[1:]), statistics.median(whole[1:])  # the first one makes files and buffers


if __name__ == "__main__":
    print(json.dumps({"held": hold_up, "bare": bare}[sys.argv[1]](sys.argv[2:])), flush=True)
