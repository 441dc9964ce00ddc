"""Tests mirror the packages: those of `cluster/run/lock.py` are in `tests/cluster/run/test_lock.py`. A module that is
tested elsewhere is listed here with the file; a file of no module is of many, and says first what it is about."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGES = ("tdformer", "pipelines", "cluster")

# Types and constants without behaviour of their own, by a file whose tests use them.
TYPES = {
    "cluster/run/kept": "cluster/run/test_damaged_runs",
    "cluster/train/step": "cluster/train/hooks/test_alarms",
    "cluster/paper/style": "cluster/paper/test_network",
    "cluster/study/figures/style": "cluster/study/figures/test_stacked",
    "pipelines/errors": "pipelines/store/test_tar_writer",
    "pipelines/samples": "pipelines/store/test_stored",
    "pipelines/settings": "pipelines/test_kinds",
    "tdformer/options": "tdformer/test_neuron",
    "tdformer/state": "tdformer/test_neuron",
    "tdformer/kernels/protocol": "tdformer/kernels/test_cpu",
}
# Choices of one registry, and backends of one signature: one file holds all of them to the same.
ALIKE = {
    "cluster/build/lamb": "cluster/build/test_optimizers",
    "cluster/build/optimizer": "cluster/build/test_optimizers",
    "tdformer/kernels/attention_gpu": "tdformer/kernels/test_attention",
    "tdformer/kernels/gpu_packing": "tdformer/kernels/test_gpu",
    "tdformer/kernels/gpu_programs": "tdformer/kernels/test_gpu",
}
# A command is a few lines over a room: it is tried where that room is tested.
COMMANDS = {
    "cluster/cli/energy": "cluster/paper/test_energy",
    "cluster/cli/figures": "cluster/paper/test_making",
    "cluster/cli/jobs": "cluster/jobs/test_jobs",
    "cluster/cli/robustness": "cluster/study/test_robustness",
    "cluster/cli/scale": "cluster/study/test_running",
    "cluster/cli/scale_report": "cluster/study/test_report",
}
# A part of something that is tested as a whole: what it does shows there.
PARTS = {
    "cluster/build/operations": "cluster/train/hooks/test_clock",
    "cluster/jobs/alone": "cluster/jobs/test_calibration",
    "cluster/jobs/opening": "cluster/cli/test_first_run",
    "cluster/jobs/planned": "cluster/plan/test_predict",
    "cluster/jobs/rank": "slurm/test_events",
    "cluster/jobs/submission": "cluster/jobs/test_launch",
    "cluster/plan/timed": "cluster/plan/test_predict",
    "cluster/results/corruption": "cluster/study/test_robustness",
    "cluster/run/figures": "docs/test_extend",
    "cluster/run/weights": "cluster/build/test_first_weights",
    "cluster/study/element": "slurm/test_study",
    "cluster/study/places": "cluster/study/test_running",
    "cluster/study/rows": "cluster/study/test_running",
    "cluster/study/status": "cluster/study/test_running",
    "cluster/train/agreement": "cluster/build/test_start",
    "cluster/train/hooks/firing": "cluster/train/test_loop",
    "cluster/train/reading": "cluster/train/test_waits",
    "cluster/train/skips": "cluster/build/test_damaged_data",
    "cluster/train/state": "cluster/train/test_scale",
}
ELSEWHERE = TYPES | ALIKE | COMMANDS | PARTS


def modules() -> list[str]:
    """Without the faces of packages and rooms, and `python -m`."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [str(path.relative_to(ROOT).with_suffix("")) for path in files if not path.name.startswith("__")]


def mirrored(module: str) -> Path:
    path = TESTS / module
    return path.with_name(f"test_{path.name}.py")


def test_each_module_has_its_tests_or_is_listed_with_them() -> None:
    alone = {module for module in modules() if not mirrored(module).exists()}
    assert alone == ELSEWHERE.keys()


def test_the_files_that_are_listed_are_there() -> None:
    assert [file for file in ELSEWHERE.values() if not (TESTS / f"{file}.py").is_file()] == []


def test_a_file_of_no_module_says_what_it_is_about() -> None:
    own = {mirrored(module) for module in modules()}
    for path in sorted(path for package in PACKAGES for path in (TESTS / package).rglob("test_*.py")):
        if path not in own:
            assert len(ast.get_docstring(ast.parse(path.read_text())) or "") > 20, path
