"""The registry of what can be added from outside."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tdformer import ModelError
from tdformer.plugins import Registry


@dataclass(frozen=True)
class Size:
    width: int


def test_names_keep_the_order_of_registration_and_their_origin() -> None:
    sizes: Registry[Size] = Registry("size")
    big, small = Size(8), Size(2)
    assert sizes.register("big", big) is big
    sizes.register("a", small)
    assert sizes.names() == list(sizes) == ["big", "a"] and len(sizes) == 2
    assert sizes.get("a") is small and "a" in sizes and "b" not in sizes
    assert sizes.origin("a") == __name__


def test_a_decorator_registers_what_is_below_it() -> None:
    rules: Registry[Callable[[int], int]] = Registry("rule")

    @rules.register("double")
    def double(x: int) -> int:
        return 2 * x

    assert rules.get("double")(4) == double(4) == 8 and rules.origin("double") == __name__


def test_an_unknown_name_is_one_line_with_the_nearest() -> None:
    sizes: Registry[Size] = Registry("size")
    with pytest.raises(ModelError, match="^size 'big' is unknown; choose from none yet$"):
        sizes.get("big")
    sizes.register("large", Size(8))
    sizes.register("small", Size(2))
    with pytest.raises(ModelError, match="^size 'lage' is unknown; did you mean 'large'\\?$"):
        sizes.get("lage")
    with pytest.raises(ModelError, match="^size 'xyz' is unknown; choose from large, small$"):
        sizes.origin("xyz")


def test_a_name_belongs_to_one_thing(tmp_path, monkeypatch) -> None:
    """Another module's is refused, and a second one of the same module; a module that is loaded again is not."""
    sizes: Registry[object] = Registry("size")
    monkeypatch.setattr(sys.modules[__name__], "shared_sizes", sizes, raising=False)
    sizes.register("small", Size(2))
    sizes.register("small", Size(2))
    with pytest.raises(ModelError, match=f"^size 'small' of {__name__} is there already, from {__name__}; choose"):
        sizes.register("small", Size(3))
    source = "import sys\n@sys.modules['%s'].shared_sizes.register('%s')\nclass Small: ...\n"
    (tmp_path / "lab_sizes.py").write_text(source % (__name__, "wide"))
    (tmp_path / "lab_other.py").write_text(source % (__name__, "wide"))
    monkeypatch.syspath_prepend(tmp_path)
    lab = importlib.import_module("lab_sizes")
    first = lab.Small
    assert importlib.reload(lab).Small is not first
    assert sizes.get("wide") is lab.Small and sizes.origin("wide") == "lab_sizes"
    with pytest.raises(ModelError, match="^size 'wide' of lab_other is there already, from lab_sizes; choose"):
        importlib.import_module("lab_other")
