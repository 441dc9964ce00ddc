"""The FFCV copy is written whole, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ffcv", reason="ffcv is not installed (.ci/install.sh)")

from pipelines.errors import DataError
from pipelines.store import beton_writer as beton
from pipelines.store.tars import TarDataset


def test_a_damaged_shard_stops_the_writing_and_leaves_nothing(folder: Path):
    before = sorted(folder.iterdir())
    data = TarDataset(folder)
    with data.paths[1].open("r+b") as file:
        file.seek(int(data.table["offset"][30]) + 100)
        file.write(bytes(4))
    with pytest.raises(DataError, match="sample 30 is damaged"):
        beton.write(folder, processes=2)
    assert sorted(folder.iterdir()) == before


def test_what_cannot_be_written_is_refused(folder: Path):
    with pytest.raises(DataError, match="cannot hold 'jpg'; choose one of pixels, files"):
        beton.write(folder, stored="jpg")
    with pytest.raises(DataError, match="original files keep their size"):
        beton.write(folder, stored="files", max_side=10)


ROOT = Path(__file__).parents[3]
FULL = """
import shutil, sys
from pathlib import Path
from pipelines.store import beton_writer as beton
from pipelines.errors import DataError
if sys.argv[2] == "unforeseen":  # others filled the disk after it was asked
    shutil.disk_usage = lambda folder: type("", (), {"free": 10**12})
try:
    beton.write(Path(sys.argv[1]), processes=2)
except DataError as error:
    print(error)
print(*sorted(p.name for p in Path(sys.argv[1]).glob("*beton*")))
"""


@pytest.mark.parametrize("moment", ["foreseen", "unforeseen"])
def test_a_full_disk_is_one_line_and_leaves_nothing(folder: Path, tmp_path: Path, moment: str):
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    (tmp_path / "disk").mkdir()
    mount = "mount -t tmpfs -o size=3m none disk && cp -r train disk/train"
    inside = ["unshare", "--mount", *user, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if subprocess.run([*inside, "true"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("a full disk needs the right to mount a tmpfs (root, or user namespaces)")
    done = subprocess.run(
        [*inside, sys.executable, "-c", FULL, "disk/train", moment],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    line, left = done.stdout.split("\n")[:2]
    assert line.startswith("no space left to write disk/train/train.beton") and not left
