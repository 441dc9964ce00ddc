"""Indexes with other facts, that are right in themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.store import index


def edit(folder: Path, **changes: Any) -> None:
    """Give other facts, and their digest."""
    path = folder / index.INDEX
    facts = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(facts | {"digest": index.facts_digest(facts)}))


def make_old(folder: Path) -> None:
    """Write the index as format 2 had it: its digest is that of the table."""
    path = folder / index.INDEX
    facts = json.loads(path.read_text())
    facts |= {"format": 2, "digest": facts.pop("columns")}
    path.write_text(json.dumps(facts, indent=1))
