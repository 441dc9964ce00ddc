"""What `import pipelines` offers, and what it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pipelines


def test_every_name_is_there():
    assert len(set(pipelines.__all__)) == len(pipelines.__all__) > 30
    for name in pipelines.__all__:
        assert getattr(pipelines, name) is not None
    with pytest.raises(AttributeError, match="module 'pipelines' has no attribute 'nothing'"):
        pipelines.nothing  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(pipelines.__file__).read_text())
    lines = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level and node.module != "lazy"
    ]
    assert {name.name for line in lines for name in line.names} == set(pipelines.__all__)


def test_only_what_is_asked_for_is_imported():
    heavy = {"torch", "PIL", "ffcv", "webdataset"}
    program = f"import sys, pipelines; pipelines.Cursor; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_epoch_in_a_few_lines(tmp_path: Path):
    folder = pipelines.write(pipelines.DATASETS.get("digits"), "test", tmp_path)
    data = pipelines.open_split(folder)
    cursor = pipelines.Cursor(seed=0, epoch=0, step=0, global_batch=40, digest=data.digest)
    steps = list(pipelines.train_loader(data, cursor, pipelines.Share(20, accumulation=2)))
    assert [len(step) for step in steps] == [2] * 9
    seen = np.concatenate([batch.ids.numpy() for step in steps for batch in step])
    assert sorted(seen) == list(range(360))
    counted = pipelines.eval_loader(data, batch_size=100)
    assert [len(batch.labels) for batch in counted] == [100, 100, 100, 60]
