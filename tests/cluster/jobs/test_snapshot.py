"""The code that a job runs: a copy, replaced as a whole, and nothing of others is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.jobs import snapshot
from cluster.run.provenance import PACKAGES, REVISION

ROOT = Path(__file__).parents[3]


def test_it_is_the_packages_and_what_plugins_there_are(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("A = 1\n")
    (tmp_path / "lab" / "__pycache__").mkdir(parents=True)
    (tmp_path / "lab" / "__init__.py").write_text("B = 2\n")
    run = tmp_path / "run"
    run.mkdir()
    snapshot.take(run, [tmp_path / "mine.py", tmp_path / "lab"])
    snapshot.check(run)
    code = run / "code"
    assert {path.name for path in code.iterdir()} == {REVISION, "mine.py", "lab", *PACKAGES}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert (code / file.relative_to(ROOT)).read_bytes() == file.read_bytes()
    assert [path.name for path in (code / "lab").iterdir()] == ["__init__.py"]
    (code / "left.py").touch()
    snapshot.take(run)
    snapshot.check(run)
    assert {path.name for path in code.iterdir()} == {REVISION, *PACKAGES} and not (run / ".code.tmp").exists()


@pytest.mark.parametrize("theirs", ["file", "link", "folder", "more"])
def test_what_is_none_is_refused(tmp_path: Path, theirs: str) -> None:
    place = tmp_path / "code"
    if theirs == "file":
        place.write_text("mine")
    elif theirs == "link":
        place.symlink_to(ROOT)
    else:
        place.mkdir()
        snapshot.check(tmp_path)  # an empty one is nobody's loss
        (place / "notes.txt").write_text("mine")
        if theirs == "more":
            (place / REVISION).write_text('{"commit": null, "dirty": null}')
    with pytest.raises(RunError, match="is no snapshot of the code that tdformer took; move it away"):
        snapshot.check(tmp_path)
