"""Names that are imported when they are asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipelines.lazy import offered


def test_a_module_is_imported_with_its_first_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a_package_of_two"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "one.py").write_text("A, B, hidden = 1, 2, 3\n")
    (folder / "two.py").write_text("C = 4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    get = offered(folder.name, {"one": ("A", "B"), "two": ["C"]})
    try:
        assert f"{folder.name}.one" not in sys.modules
        assert (get("A"), get("B")) == (1, 2) and f"{folder.name}.two" not in sys.modules
        assert get("C") == 4
        for name in ("hidden", "one", "D"):
            with pytest.raises(AttributeError, match=f"^module 'a_package_of_two' has no attribute '{name}'$"):
                get(name)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
            del sys.modules[name]
