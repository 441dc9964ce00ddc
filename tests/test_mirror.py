"""Tests mirror the packages: those of `cluster/run/lock.py` are in `tests/cluster/run/test_lock.py`. A module that is
tested elsewhere is listed here with the file; a file of no module is of many, and says first what it is about."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGES = ("tdformer", "pipelines", "cluster")

# Types, registries and constants without behaviour of their own, by a file whose tests use them.
TYPES = {
    "cluster/build/optimizer": "cluster/build/test_optimizers",
    "cluster/paper/style": "cluster/paper/test_network",
    "cluster/plan/timed": "cluster/plan/test_predict",
    "cluster/run/figures": "docs/test_extend",
    "cluster/run/kept": "cluster/run/test_damaged_runs",
    "cluster/study/figures/style": "cluster/study/figures/test_stacked",
    "cluster/train/step": "cluster/train/hooks/test_alarms",
    "pipelines/errors": "pipelines/store/test_tar_writer",
    "pipelines/samples": "pipelines/store/test_stored",
    "pipelines/settings": "pipelines/test_kinds",
    "tdformer/kernels/protocol": "tdformer/kernels/test_cpu",
    "tdformer/options": "tdformer/test_neuron",
    "tdformer/state": "tdformer/test_neuron",
}
# Triton's programs: they are interpreted, and compiled, in processes of their own, which one file starts for several.
PROGRAMS = {
    "tdformer/kernels/attention_gpu": "tdformer/kernels/test_attention",
    "tdformer/kernels/gpu_packing": "tdformer/kernels/test_gpu",
    "tdformer/kernels/gpu_programs": "tdformer/kernels/test_gpu",
}
# Two modules that are tried on what takes long to make, and is made once: a timed machine, ten runs.
SHARED = {
    "cluster/jobs/alone": "cluster/jobs/test_calibration",
    "cluster/results/corruption": "cluster/study/test_robustness",
}
ELSEWHERE = TYPES | PROGRAMS | SHARED


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
