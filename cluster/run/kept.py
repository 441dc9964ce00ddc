"""What the files of a run hold: the keys that are read of their rows and records, and the kinds of their values.

A row may have more, and lack some: those that an earlier version did not write, or that nobody knows.
"""

from __future__ import annotations

from typing import TypedDict


class Mark(TypedDict, total=False):
    """The folder that a record was written in; see `folder.RunFolder.mark`."""

    folder: str | None
    inode: int | None


class Metrics(TypedDict, total=False):
    """A row of metrics.jsonl."""

    step: int
    epoch: int
    loss: float | None
    eval_accuracy: float


class Speed(TypedDict, total=False):
    """A row of speed.jsonl."""

    step: int
    images: int
    seconds: float
    images_per_second: float
    data_wait_seconds: float


class Start(TypedDict, total=False):
    """A row of starts.jsonl: what `provenance`, `surroundings` and `build.operations` note."""

    time: str
    commit: str | None
    dirty: bool | None
    device: str
    cpu: str
    micro_batch: int
    policy: str
    borders: int
    world: int
    parameters: int
    flop_image: int | None
    flop_image_done: int | None


class Crash(TypedDict, total=False):
    """A row of crashes.jsonl; see `jobs.aftermath`."""

    time: float
    job: str
    exit_code: int
    checkpoint: int
    saved: bool
    limit: bool


class Heard(TypedDict):
    """The last sign of life of a process that has held the folder."""

    pid: int
    host: str
    time: float | None


class Beat(Mark, total=False):
    """A row of clock.jsonl, with the parts of its time (`clock.PARTS`); a start's first one has who it is."""

    start: int
    time: float
    seconds: float
    world: int
    monotonic: float
    host: str
    pid: int
    job: str | None
    submitted: float | None
    heard: Heard | None
    exit_code: int


class Said(Mark, total=False):
    """status.json; see `folder.RunFolder.tell`."""

    state: str
    time: int | float
    step: int | None
    total: int | None
    started_at: int | None
    pid: int | None
    loss: int | float | None
    images_per_second: int | float | None
    tflops: int | float | None
    mfu: int | float | None
    hfu: int | float | None
    seconds_left: int | float | None
    restarts: str | None
    reason: str | None


class Summary(TypedDict):
    """summary.json."""

    accuracy: int | float
    epochs: int
    step: int


class Launched(Mark):
    """job.json of a launched run."""

    id: str
    slurm: bool
    nodes: int
    processes: int
    gpus: int
    host: str | None


class Submitted(TypedDict):
    """Of it: which job, and when."""

    id: str
    time: int | float | None


class Revision(TypedDict, total=False):
    """revision.json of a snapshot: the commit of its code, whether files differed from that, and whose code beside."""

    commit: str | None
    dirty: bool | None
    plugins: list[str] | None


class Stopped(TypedDict):
    """stopped.json of a cell: the rule that ended it, and where."""

    step: int
    rule: str
