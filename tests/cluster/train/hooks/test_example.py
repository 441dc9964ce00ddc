"""The example of docs/hooks.md, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config import load
from cluster.train.hooks import HOOKS, chosen
from cluster.train.step import Step

PAGE = Path(__file__).parents[4] / "docs" / "hooks.md"


def test_the_example_counts_clipped_steps_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.setattr(HOOKS, "_entries", dict(HOOKS._entries))
    exec(program, {})

    def begun(state: dict[str, Any] | None) -> Any:
        hooks = chosen(load(None, ["train.hooks=[clipped]", "train.clip_grad=1"])).hooks
        (hook,) = (hook for hook in hooks if hook.name == "clipped")
        hook.begin(SimpleNamespace(), [])  # type: ignore[arg-type] # it looks at nothing of the run
        if state is not None:
            hook.load(state, {})
        return hook

    shares, hook = [], begun(None)
    for norm in (0.5, 2.0, 3.0, float("nan")):
        hook = begun(hook.state())
        step = Step(1, 0, 0.1, True, 8, 0.0, 0.0, applied=norm == norm, grad_norm=norm)
        hook.step(step)
        shares.append(step.row["clipped"])
    assert shares == [0, 1 / 2, 2 / 3, 2 / 4]
