"""What a run folder remembers of wandb: one id for all its starts, and how much of them wandb has."""

from __future__ import annotations

import json
import re
import uuid

from ..errors import RunError, disk_errors
from .folder import RunFolder
from .kept import Mark
from .records import record, write_atomic


class Known(Mark):
    """What the file has: the id, and whose it is."""

    id: str


def identity(run: RunFolder) -> str:
    """One id for all starts of this run; a copy of it gets its own, and wandb has nothing of that yet. Raises RunError
    where the file that has it is damaged."""
    file, remedy = run.path / "wandb_id", "delete it: for wandb it is another run then"
    text = file.read_text(errors="replace").strip() if file.exists() else ""
    known: Known = {"id": text}  # as it was before copies got their own
    if text.startswith("{"):
        known = record(file, remedy, Known) or known
    if text and not re.fullmatch(r"[\w-]+", known["id"], re.ASCII):
        raise RunError(f"{file} is damaged; {remedy}")
    own = bool(text) and run.made(known)
    if own and "folder" in known:
        return known["id"]
    with disk_errors(file):
        if not own:
            (run.path / "wandb_step").unlink(missing_ok=True)
        new: Known = {"id": known["id"] if own else uuid.uuid4().hex[:8], **run.mark()}
    write_atomic(file, (json.dumps(new) + "\n").encode())
    return new["id"]


def sent(run: RunFolder) -> int:
    """The step up to which wandb has every row, whatever a kill has cost it since."""
    try:
        return int((run.path / "wandb_step").read_text())
    except (FileNotFoundError, ValueError):
        return 0


def note_sent(run: RunFolder, step: int) -> None:
    """See `sent`."""
    write_atomic(run.path / "wandb_step", str(step).encode())
