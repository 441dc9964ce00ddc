"""Checkpoints: a folder that appears by one rename when it is whole, and is verified before it is used.

What is stored is canonical: parameters and optimizer moments by parameter name, in fp32, whatever ZeRO stage and
number of ranks wrote them; so any stage and any number of ranks can go on from it. No file here can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipelines import disk
from tdformer.digest import Described
from tdformer.errors import first_line

from ..errors import RunError, disk_errors, thread_errors
from .folder import STEP
from .lock import check
from .records import record, refresh, write_atomic

Tensors = dict[str, torch.Tensor]
Done = Callable[[int], None]
"""Told of bytes, as they are done."""
MANIFEST, STATE = "manifest.json", "state.json"
FORMAT = 2
"""Of state.json, in which an absent one means 1: before `metrics_sha256`. A higher one is of a newer version."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between two looks at a checkpoint that some ranks find whole and others do not: 15.5 in all."""


class FileFacts(TypedDict):
    """Of a file, in the manifest."""

    bytes: int
    sha256: str


class Manifest(TypedDict, total=False):
    """manifest.json."""

    step: int
    files: dict[str, FileFacts]


class Saved(Described, total=False):
    """state.json: what `train.state` keeps, and of what is said of an exported file what is known here."""

    format: int | None
    state: dict[str, Any]


_HIDDEN = re.compile(rf"\.{STEP.pattern}(\.old)?\.tmp")
_FILE = re.compile(r"(manifest|state)\.json|\w+\.safetensors|\.tmp\w{6}")  # the last is what safetensors writes to


def save(
    root: Path,
    step: int,
    parts: dict[str, Tensors],
    state: dict[str, object],
    keep: int,
    best: bool = False,
    done: Done = lambda _: None,
) -> Path:
    """Write `root/step-XXXXXXXX`: one safetensors file for each of `parts`, and `state` as JSON; keep the last `keep`,
    and the last one that was the `best` when it was written (named in `root/best`).

    The folder is written under a hidden name, synced, given a manifest of sizes and digests, and renamed.
    Raises RunError when the disk is full, or something that we did not write is in the way; what was there before is
    untouched then.
    """
    final = root / f"step-{step:08d}"
    hidden = _hidden(root, step)
    root.mkdir(exist_ok=True)  # without parents: a run that was moved away is not begun again in its old place
    clean(root)
    for place in (final, hidden):
        if place.exists() and not _ours(place):
            raise RunError(
                f"{place} is no checkpoint that tdformer wrote; move it away, and run the same command again"
            )
    try:
        hidden.mkdir()
        for part, tensors in parts.items():
            save_file({k: v.contiguous() for k, v in tensors.items()}, hidden / f"{part}.safetensors")
        (hidden / STATE).write_text(json.dumps(state, indent=1))
        files = {path.name: _facts(path, done) for path in sorted(hidden.iterdir())}
        (hidden / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
        for path in hidden.iterdir():
            disk.sync_blocks(path, done)
        disk.sync(hidden)
        check(root.parent)
        if final.exists():  # the same step again, after a fall-back past a damaged checkpoint
            _discard(final)
        disk.publish(hidden, final)
        done(1)
        write_atomic(root / "latest", f"{final.name}\n".encode())
        if best:
            write_atomic(root / "best", f"{final.name}\n".encode())
    except (OSError, SafetensorError) as error:
        _remove(hidden)
        if disk.is_full(error):
            remedy = "free some and run the same command again: it goes on from the checkpoint before"
            raise RunError(disk.no_space(f"for checkpoint {final}", remedy)) from error
        raise
    for path in complete(root)[keep:]:
        if path.name != _named(root / "best") and _ours(path):
            _discard(path)
    return final


class Saver:
    """Writes checkpoints one at a time in a thread, from tensors that nobody else changes."""

    def __init__(self, root: Path, keep: int) -> None:
        self.root, self.keep = root, keep
        self._done = 0
        self._hidden = root
        self._begun = time.monotonic()  # the last save, or the start
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(
        self, step: int, parts: dict[str, Tensors], state: dict[str, object], best: bool, first: Callable[[], None]
    ) -> None:
        """Start to call `first`, then write; `save` says what. The one before must have been waited for."""

        def run() -> None:
            try:
                with disk_errors(self.root):
                    first()
                    save(self.root, step, parts, state, self.keep, best, self._count)
            except BaseException as error:
                self._error = error

        self._hidden = _hidden(self.root, step)
        thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        with thread_errors("a checkpoint"):
            thread.start()
        self._thread, self._begun = thread, time.monotonic()

    def due(self, minutes: float | None) -> bool:
        """Whether one was begun so long ago (None: never), and is written: a slow disk puts the next one off."""
        if minutes is None or (self._thread is not None and self._thread.is_alive()):
            return False
        return time.monotonic() - self._begun >= 60 * minutes

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for what was begun to be on the disk, or for some seconds: a number that differs from the last one's as
        long as there is progress, None at the end. Raises what `save` raised."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return self._done + self._written()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return None

    def _count(self, done: int) -> None:
        self._done += done

    def _written(self) -> int:
        """Bytes in the files so far: safetensors says nothing until one is whole."""
        with suppress(OSError):
            return sum(entry.stat().st_size for entry in os.scandir(self._hidden))
        return 0


def complete(root: Path) -> list[Path]:
    """The checkpoints in `root`, newest first."""
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if STEP.fullmatch(p.name)), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The optimizer step in a checkpoint's name."""
    match = STEP.fullmatch(path.name)
    if match is None:
        raise RunError(f"{path} is not a checkpoint; one is a folder named step-XXXXXXXX")
    return int(match[1])


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None."""
    try:
        files = (record(path / MANIFEST, "use another checkpoint", Manifest, "files") or {})["files"]
        for name, expected in files.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if (path / name).stat().st_size != expected["bytes"]:
                return f"{name} has {(path / name).stat().st_size} bytes instead of {expected['bytes']}"
            if _facts(path / name) != expected:
                return f"{name} does not have the digest of the manifest"
        if STATE not in files:
            return f"{STATE} is not in the manifest"
    except (RunError, OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    return None


def verify_together(
    path: Path, gather: Callable[[str | None], list[str | None]], look: Callable[[Path], str | None]
) -> str | None:
    """What the first rank that finds a fault says of a checkpoint: all use it or none. All ranks call it together.

    A shared file system may show a host an older listing. So where ranks do not agree, those that find a fault look
    again, a few times; where all find one there is nothing to wait for.

    gather: every rank's word, by rank; look: this rank's: a fault, "" for none, None where others look for it.
    """
    said = look(path)
    for pause in (*PAUSES, 0.0):
        words = [word for word in gather(said) if word is not None]
        faults = [word for word in words if word]
        if not pause or len(faults) in (0, len(words)):
            break
        time.sleep(pause)
        if said:
            refresh(path / MANIFEST)
            said = look(path)
    return next(iter(faults), None)


def newest_good(
    root: Path,
    warn: Callable[[str], None],
    found: list[Path] | None = None,
    verify: Callable[[Path], str | None] = verify,
) -> Path | None:
    """The newest checkpoint that passes `verify`, or None if there is none at all; damaged ones are named to `warn`.

    found: those to choose from, newest first, if not all in `root`. Raises RunError if all that there are are damaged.
    """
    found = complete(root) if found is None else found
    for path in found:
        fault = verify(path)
        if fault is None:
            return path
        warn(f"checkpoint {path} is damaged: {fault}; trying the one before it")
    if found:
        raise RunError(f"every checkpoint in {root} is damaged; restore one, or delete the folder to start again")
    return None


def load(path: Path, verified: bool = False) -> tuple[dict[str, Tensors], Saved]:
    """The parts and the state of one checkpoint. Raises RunError, naming the fault, if it does not verify or is of a
    newer version."""
    fault = None if verified else verify(path)
    if fault is not None:
        raise RunError(f"checkpoint {path} is damaged: {fault}; use another one")
    state: Saved = record(path / STATE, "use another checkpoint", Saved, "format") or {}
    if (found := state.get("format") or 1) > FORMAT:
        raise RunError(f"{path} is of a newer version (format {found}, this one reads up to {FORMAT}); update tdformer")
    return _parts(path), state


def load_weights(path: Path, verified: bool = False) -> tuple[Tensors, Saved]:
    """What evaluation needs of a checkpoint: the averaged weights where there are some, else the model's; the state."""
    parts, state = load(path, verified)
    weights = parts.get("ema") or parts.get("model")
    if not weights or not isinstance(state.get("model"), dict):
        raise RunError(f"checkpoint {path} holds no model; use another one")
    return weights, state


def _parts(path: Path) -> dict[str, Tensors]:
    """The tensors in each file of a checkpoint. Raises RunError for what is no safetensors file, which whoever made the
    checkpoint can have given the right digest."""
    try:
        return {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors")) if file.is_file()}
    except (SafetensorError, OSError) as error:
        raise RunError(f"checkpoint {path} cannot be read ({first_line(error)}); use another one") from error


def clean(root: Path) -> None:
    """Remove what a killed save or removal left behind."""
    for path in root.glob(".*.tmp"):
        if _HIDDEN.fullmatch(path.name):
            _remove(path)
        elif re.fullmatch(r"\.(latest|best)(\.[0-9a-f]{8})?\.tmp", path.name):
            path.unlink(missing_ok=True)


def _hidden(root: Path, step: int) -> Path:
    return root / f".step-{step:08d}.tmp"


def _named(pointer: Path) -> str:
    return pointer.read_text().strip() if pointer.exists() else ""


def _discard(path: Path) -> None:
    """Remove a checkpoint so that at no moment a part of it is visible."""
    hidden = path.with_name(f".{path.name}.old.tmp")
    os.rename(path, hidden)
    _remove(hidden)


def _ours(path: Path) -> bool:
    """Whether a folder is a checkpoint, damaged or not, with nothing else in it."""
    if path.is_symlink() or not (path / MANIFEST).is_file():
        return False
    return all(_FILE.fullmatch(file.name) and file.is_file() for file in path.iterdir())


def _remove(hidden: Path) -> None:
    """Remove the files of a checkpoint, and its folder if nothing else is in it."""
    with suppress(OSError):
        for file in hidden.iterdir():
            if _FILE.fullmatch(file.name):
                file.unlink()
        hidden.rmdir()


def _facts(path: Path, done: Done = lambda _: None) -> FileFacts:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
        done(len(block))
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            yield block
