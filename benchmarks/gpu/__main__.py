"""What holds on this GPU, in one command and at most five minutes: exactness, time, memory, loading, checkpoints.

    python -m benchmarks.gpu [--seconds 300] [--only SECTION,...] [--out FOLDER] [--device cpu --size small]

From the tree, without network: torch 2.11 or newer with triton 3.6; what else is missing is named with what it costs.
Sections run in the order of their importance, each within its own time and what is left of the whole; what did not fit
is named. Five minutes do not hold all of them where Triton has compiled nothing yet: `--seconds 560` makes all limits
so much longer, and with `--only "exactness,training step"` these share the time among themselves. gpu.json, written
after each row, has all of it, with the profile of each step and the traceback of what failed; gpu.md the tables that
are printed last. `--device cpu --size small` rehearses every section where there is no GPU; its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, table
from benchmarks.gpu import runs, steps
from benchmarks.gpu.device import Device
from cluster.run.provenance import revision
from cluster.run.records import write_atomic

Rows = list[dict[str, Any]]
Sections = dict[str, tuple[float, tuple[str, ...], Callable[[], Iterable[dict[str, Any]]]]]
SECONDS = 300
"""For all sections, and what the limits of each are for; with more or less time they are so much longer or shorter."""
AGAIN = 10.0


class OutOfTimeError(BaseException):
    """A section's time is over. torch.compile makes each Exception of what it compiles one of its own."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises OutOfTimeError in the block after so many seconds, wherever it is: also between the lines with which torch
    turns gradients off and on again. Where that is lost, as in `__del__`, again every AGAIN seconds."""

    def over(*_: object) -> None:
        raise OutOfTimeError

    before, gradients = signal.signal(signal.SIGALRM, over), torch.is_grad_enabled()
    autocast = {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")}
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        torch.set_grad_enabled(gradients)
        for kind, on in autocast.items():
            torch.set_autocast_enabled(kind, on)


def step_rows(contenders: list[steps.Contender], work: steps.Work, device: Device) -> Iterator[dict[str, Any]]:
    for contender in contenders:
        try:
            row = steps.measured(contender, work, device)
        except Exception as error:  # a compiler's, a library's: of this one alone
            row = {"name": contender.name} | runs.failure(error)
        yield row


def sections(site: runs.Site, work: steps.Work, device: Device) -> Sections:
    """By name, what matters most first: seconds of SECONDS at most, packages that it needs, what gives its rows."""
    cores = len(os.sched_getaffinity(0))
    program = ("deepspeed", "sklearn", "webdataset", "pydantic")

    def some(contenders: list[steps.Contender]) -> Iterator[dict[str, Any]]:
        return step_rows(contenders[::2] if site.small else contenders, work, device)

    return {
        "exactness": (110, program, lambda: runs.exactness(site, max(1, min(7, cores // 2)))),
        "training step": (50, (), lambda: some(steps.OURS)),
        "published style": (75, (), lambda: some(steps.PEERS)),
        "evaluation": (25, (), lambda: some(steps.EVALUATIONS)),
        "loader": (100, program, lambda: runs.loader(site)),
        "checkpoint": (60, program, lambda: runs.checkpoints(site)),
        "kernels": (60, ("pytest", "hypothesis", "sklearn"), lambda: runs.kernels(site)),
        "more training steps": (50, (), lambda: some(steps.MORE)),
        "torch.compile": (90, (), lambda: some(steps.COMPILED)),
    }


def measure(found: dict[str, Any], todo: Sections, site: runs.Site, device: Device, seconds: float, out: Path) -> None:
    """Fill `found`, which is written after each row."""
    end = time.monotonic() + seconds
    share = seconds / min(SECONDS, sum(most for most, *_ in todo.values()))
    for name, (most, needs, rows) in todo.items():
        section: dict[str, Any] = {"rows": []}
        found["sections"][name] = section
        begun = time.monotonic()
        if missing := [package for package in needs if find_spec(package) is None]:
            section["left_out"] = f"needs {', '.join(missing)}"
        elif begun >= end:
            section["left_out"] = "no time was left"
        else:
            site.begin()
            try:
                with within(min(most * share, end - begun)):
                    for row in rows():
                        section["rows"].append(row)
                        write(found, out)
                        print(f"{name}: {row.get('name', '')} {time.monotonic() - begun:.0f} s", flush=True)
            except OutOfTimeError:
                section["left_out"] = f"what comes after {len(section['rows'])} rows: its time was over"
            except Exception as error:  # of this section alone
                failed = runs.failure(error)
                section |= {"left_out": f"what comes after {len(section['rows'])} rows: {failed['error']}"} | failed
            site.end()
            device.free()  # what runs next may be a process of its own
            section["seconds"] = time.monotonic() - begun
        write(found, out)


def write(found: dict[str, Any], out: Path) -> None:
    write_atomic(out / "gpu.json", (json.dumps(found, indent=1) + "\n").encode())


def text(found: dict[str, Any]) -> str:
    """The tables of gpu.md."""
    parts = [f"# A run of `python -m benchmarks.gpu`\n\n{found['where']}, commit {found['commit']}; {found['work']}."]
    for name, section in found["sections"].items():
        parts.append(f"## {name}" + (f"\n\nLeft out: {section['left_out']}." if "left_out" in section else ""))
        if section["rows"]:
            parts.append(_table(section["rows"]))
    return "\n\n".join(parts) + "\n"


def _table(rows: Rows) -> str:
    shown = [_shown(row) for row in rows]
    head = list(dict.fromkeys(key for row in shown for key in row))
    return table(head, [[row.get(key, "") for key in head] for row in shown])


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """A row's cells by their titles."""
    if "name" in row and "error" in row:
        return {"step": row["name"], "error": row["error"]}
    if "ms_per_image" not in row:
        shown = {key: value for key, value in row.items() if key != "details"}
        return {key.replace("_", " "): f"{v:.3g}" if isinstance(v, float) else str(v) for key, v in shown.items()}
    plan = f" ({row['planned_gib']:.1f})" if "planned_gib" in row else ""
    return {
        "step": row["name"],
        "ms an image (range)": f"{row['ms_per_image']:.2f} ({row['least']:.2f}-{row['most']:.2f})",
        "MFU": f"{100 * row['mfu']:.1f} %" if "mfu" in row else "",
        "peak GiB (plan)": f"{row.get('graph_gib', row['peak_gib']):.1f}{plan}",
        "launches": str(row["launches"]),
        "host ms": f"{row['launch_ms']:.0f}",
        "fused neuron": ", ".join(row["fused"]) or "none",
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all sections together; default: {SECONDS}")
    parser.add_argument("--only", metavar="SECTION,...", help="of those in its tables; then the time is theirs")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md; default: a new one")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--model", default="hst_10_768")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no GPU here; --device cpu --size small rehearses it", file=sys.stderr)
        return 2
    out = given.out or Path(tempfile.mkdtemp(prefix="tdformer-gpu-"))
    out.mkdir(parents=True, exist_ok=True)
    if taken := [name for name in ("gpu.json", "gpu.md") if (out / name).exists()]:
        print(f"error: {out / taken[0]} is there already; give another --out", file=sys.stderr)
        return 2
    small = given.size == "small"
    device, work = (
        Device(given.device),
        steps.Work(given.model, *((32, 2, 1, 1, "eager") if small else (224, 64, 3, 6))),
    )
    with tempfile.TemporaryDirectory(prefix="tdformer-gpu-") as folder:
        site = runs.Site(Path(folder), given.device, small)
        found: dict[str, Any] = {
            "where": machine(),
            "software": software(device),
            "commit": revision().get("commit") or "unknown",
            "work": f"{work.model}, T = 4, {work.batch} images of {work.pixels} x {work.pixels}, on {device.name}",
            "operations_per_image": steps.operations(work),
            "sections": {},
        }
        todo = sections(site, work, device)
        if unknown := [name for name in (given.only or "").split(",") if given.only and name not in todo]:
            print(f"error: --only: no section {unknown[0]!r}; there are {', '.join(todo)}", file=sys.stderr)
            return 2
        if given.only:
            todo = {name: todo[name] for name in todo if name in given.only.split(",")}
        measure(found, todo, site, device, given.seconds, out)
    (out / "gpu.md").write_text(text(found))
    print(f"\n{text(found)}\n{out / 'gpu.json'}")
    return 0


def software(device: Device) -> dict[str, str]:
    """Versions: of the driver, CUDA, cuDNN and triton, as far as they are there."""
    versions = {"torch": torch.__version__}
    if find_spec("triton"):
        import triton

        versions["triton"] = triton.__version__
    if device.cuda:
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        driver = Path("/proc/driver/nvidia/version")
        versions["driver"] = driver.read_text().splitlines()[0] if driver.exists() else "unknown"
    return versions


if __name__ == "__main__":
    sys.exit(main())
