"""The operators that are called: on a GPU each is a kernel, or a few."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """Records their names while it is entered, but for those that compute nothing: views, and memory that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        if not (function.is_view or name.startswith(("split", "empty"))):
            self.names.append(name)
        return function(*args, **(kwargs or {}))
