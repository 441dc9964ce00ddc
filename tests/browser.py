"""A headless Chromium that opens pages as a reader does, and is asked what it shows. Without a network.

It is spoken to over its pipe (Chrome DevTools Protocol, messages of JSON that end with a zero byte), which needs no
port and no package.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WIDTH = 1100
_SECONDS = 60
"""Until an answer; pages of 5 MB are read in one."""


@dataclass
class Page:
    """What a browser has of a page."""

    browser: Browser
    session: str
    said: list[str] = field(default_factory=list)
    """Errors and warnings: of scripts, of the console, of what the page's policy forbids."""
    asked: list[str] = field(default_factory=list)
    """Addresses that it asked for."""

    def value(self, script: str) -> Any:
        """Of an expression in the page, as JSON; a promise's once it has one."""
        answer = self.browser.call(
            "Runtime.evaluate", self.session, expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def size(self, width: int, height: int) -> None:
        """What a reader sees at once, in pixels."""
        given = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.call("Emulation.setDeviceMetricsOverride", self.session, **given)

    def picture(self, path: Path, height: int = 0) -> None:
        """A PNG of all of it, or of its first `height` pixels."""
        self.size(WIDTH, height or self.value("document.documentElement.scrollHeight"))
        path.write_bytes(base64.b64decode(self.browser.call("Page.captureScreenshot", self.session)["data"]))


class Browser:
    """One process; its pages share nothing."""

    def __init__(self, program: str, folder: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        words += [f"--user-data-dir={folder}", "--disable-background-networking", "--proxy-server=127.0.0.1:9"]
        # Its ends of the pipes are 3 and 4.
        shell = f'exec 3<&{ours[0]} 4>&{theirs[1]}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *words],
            pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._out, self._in = ours[1], theirs[0]
        self._rest = b""
        self._count = 0
        self._pages: dict[str, Page] = {}

    def open(self, path: Path) -> Page:
        """A page from the disk, once it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for room in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{room}.enable", session)
        page.size(WIDTH, 800)
        self.call("Page.navigate", session, url=path.resolve().as_uri())
        while not page.value("document.readyState == 'complete' && location.href != 'about:blank'"):
            time.sleep(0.02)
        return page

    def call(self, method: str, session: str = "", **given: Any) -> Any:
        """What it answers. Raises AssertionError for an error, or where no answer comes."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": given} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self._note(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], _SECONDS)
            block = os.read(self._in, 1 << 20) if ready else b""
            assert block, f"the browser {'ended' if ready else f'said nothing for {_SECONDS} s'}"
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        page, given = self._pages.get(event.get("sessionId", "")), event.get("params", {})
        if page is None:
            return
        if event["method"] == "Runtime.exceptionThrown":
            page.said.append(str(given["exceptionDetails"].get("exception", given)))
        elif event["method"] == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            page.said.append(str([one.get("value") for one in given["args"]]))
        elif event["method"] == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            page.said.append(given["entry"]["text"])
        elif event["method"] == "Network.requestWillBeSent":
            page.asked.append(given["request"]["url"])

    def close(self) -> None:
        """Without a pipe it ends, too: nothing outlives a test that was killed."""
        os.close(self._out)
        os.close(self._in)
        self._process.wait(_SECONDS)


@contextmanager
def browser() -> Iterator[Browser]:
    """Skips where there is none."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"needs a browser: {', '.join(NAMES[:2])} (.ci/packages.sh)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        running = Browser(program, Path(folder))
        try:
            yield running
        finally:
            running.close()
