"""One environment for all tests, and no silent skips in CI."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before torch is imported, and inherited by the processes that tests start. One thread: the
# tensors are small, and tests with several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A build that was killed leaves a lock there that hangs every later one, so no folder is shared.
os.environ["TORCH_EXTENSIONS_DIR"] = tempfile.mkdtemp(prefix="tdformer-extensions-")
atexit.register(shutil.rmtree, os.environ["TORCH_EXTENSIONS_DIR"], ignore_errors=True)

CI = os.environ.get("CI") == "true"

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
