"""One environment for all tests, no silent skips in CI, and which tests are slow, as measured."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported, and inherited by the processes that tests start. One thread: the
# tensors are small, and tests with several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Runs that have several threads all the same do not spin where one waits: that would take the cores from other tests.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# Whether there are GPUs is asked of their driver: what has started CUDA to find out cannot be forked.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
# A build that was killed leaves a lock there that hangs every later one, so no folder is shared.
os.environ["TORCH_EXTENSIONS_DIR"] = tempfile.mkdtemp(prefix="tdformer-extensions-")
atexit.register(shutil.rmtree, os.environ["TORCH_EXTENSIONS_DIR"], ignore_errors=True)

CI = os.environ.get("CI") == "true"
MEASURED = Path(__file__).with_name("durations.txt")
"""Seconds and name of each test function that takes one or more, all its parameters together."""
SLOW = 1.0
"""Seconds from which on a test is marked `slow`; `make check` leaves those out."""

settings.register_profile("shared machine", deadline=None)  # times say nothing here
settings.load_profile("shared machine")


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Everything a test needs can be installed, except a GPU: in CI a skip hides a missing step."""
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI=true, where only gpu tests may be: {report.longreprtext}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if item.get_closest_marker("gpu") is None:
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _fail_if_skipped(report)
    return report


def pytest_configure(config: pytest.Config) -> None:
    """No test sees a GPU, unless it is those that need one that are asked for (`-m gpu`): the others are a processor's.
    Before torch is imported; xdist's workers have it from here."""
    if config.getoption("markexpr").split()[:1] != ["gpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--measure", action="store_true", help=f"write {MEASURED.name}: on a quiet machine, and all tests")


def _state_of_torch() -> dict[str, object]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {"grad": True}
    return {
        "grad": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "distributed": torch.distributed.is_initialized(),
    }


@pytest.fixture(autouse=True)
def as_found() -> Iterator[None]:
    """What holds for a whole process is after a test as it was before: the next one may be anybody's."""
    before, folder = _state_of_torch(), Path.cwd()
    yield
    after = _state_of_torch()
    if not after["grad"]:
        sys.modules["torch"].set_grad_enabled(True)
    os.chdir(folder)
    assert after["grad"], "gradients are off after this test"
    assert {key: after[key] for key in before} == before


def _function(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def _starts_processes(item: pytest.Item) -> bool:
    names = {*vars(item.module), *item.fixturenames} if isinstance(item, pytest.Function) else set()
    return not names.isdisjoint(
        {"Command", "Ranks", "together", "apart", "subprocess", "multiprocessing", "cli", "python", "user_command"}
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow: by its measured seconds, or, in a file of which none was measured, as it starts processes."""
    lines = MEASURED.read_text().splitlines() if MEASURED.exists() else []
    seconds = {name: float(took) for took, name in (line.split(maxsplit=1) for line in lines)}
    measured = {name.partition("::")[0] for name in seconds}
    for item in items:
        known = item.nodeid.partition("::")[0] in measured
        if seconds.get(_function(item.nodeid), 0.0) >= SLOW or (not known and _starts_processes(item)):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """What is imported and collected stays to the end: Python need not look through it for garbage again and again. Of
    385 tests in one process that took 29 of 98 s of CPU."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--measure"):
        return
    took: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                took[_function(report.nodeid)] += report.duration
    lines = [f"{seconds:.1f} {name}" for name, seconds in sorted(took.items()) if seconds >= 1]
    MEASURED.write_text("\n".join(lines) + "\n")
