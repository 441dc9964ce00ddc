"""The hooks of a run, as one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor

from ...config import Config
from ...errors import RunError
from ...run.kept import Metrics
from ..slots import Addend
from ..state import Resumed
from ..step import Step
from .hook import HOOKS, Hook, Training


def chosen(config: Config) -> Hooks:
    """Those that a configuration turns on by their own settings, then those that it names in `train.hooks`, each once.
    Raises ModelError for a name that nothing is registered under, RunError for one that cannot name a file."""
    names = [name for name in HOOKS if HOOKS.get(name).wanted(config)]
    made = []
    for name in dict.fromkeys([*names, *config.train.hooks]):
        if name in ("model", "optimizer") or not re.fullmatch(r"\w+", name, re.ASCII):
            raise RunError(f"hook {name!r}: what it keeps becomes the file {name}.safetensors; give it another name")
        hook = HOOKS.get(name)(config)
        hook.name = name
        made.append(hook)
    return Hooks(sorted(made, key=lambda hook: hook.watches))


class Hooks:
    """Each method calls that of all hooks, in their order."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = hooks

    def slots(self, world: int) -> dict[str, int]:
        """Raises RunError where two hooks have a slot of the same name."""
        slots = [(name, width) for hook in self.hooks for name, width in hook.slots(world).items()]
        for name, count in Counter(name for name, _ in slots).items():
            if count > 1:
                owners = [hook.name for hook in self.hooks if name in hook.slots(world)]
                raise RunError(f"the hooks {' and '.join(owners)} both have a slot {name!r}; rename one")
        return dict(slots)

    def begin(self, run: Training, rows: Iterable[Metrics], resumed: Resumed | None) -> None:
        """And `load` what a checkpoint has of each."""
        for hook in self.hooks:
            hook.begin(run, rows)
            if resumed is not None:
                state, tensors = resumed.state.hooks.get(hook.name, {}), resumed.parts.get(hook.name, {})
                if state or tensors:
                    hook.load(state, tensors)

    @contextmanager
    def during(self, step: Step) -> Iterator[None]:
        with ExitStack() as stack:
            for hook in self.hooks:
                stack.enter_context(hook.during(step))
            yield

    def share(self, step: Step) -> dict[str, Addend]:
        return {name: value for hook in self.hooks for name, value in hook.share(step).items()}

    def step(self, step: Step) -> None:
        for hook in self.hooks:
            hook.step(step)

    def logged(self, step: Step) -> None:
        for hook in self.hooks:
            hook.logged(step)

    def evaluated(self, row: Mapping[str, object]) -> None:
        for hook in self.hooks:
            hook.evaluated(row)

    def saved(self, step: int) -> None:
        for hook in self.hooks:
            hook.saved(step)

    def end(self, summary: dict[str, object] | None) -> None:
        with ExitStack() as stack:  # all of them, also where one fails
            for hook in reversed(self.hooks):
                stack.callback(hook.end, summary)

    def weights(self) -> dict[str, Tensor] | None:
        """Of the first hook that has some."""
        return next((found for hook in self.hooks if (found := hook.weights()) is not None), None)

    def state(self) -> dict[str, dict[str, object]]:
        return {hook.name: state for hook in self.hooks if (state := hook.state())}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        return {hook.name: tensors for hook in self.hooks if (tensors := hook.tensors())}
