"""Files of YAML: what is none is refused in one line, whatever it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from configurations import (
    FILES,
    message,
    read_or_refused,
)
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path_factory: Any, data: st.DataObject):
    content = bytearray(data.draw(st.sampled_from(FILES)).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.sampled_from([0, 1, 1, 1, 20]))
        content[start : start + length] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"\n", b": ", b"\t", b"&a ", b"*a"])
        )
    file = tmp_path_factory.getbasetemp() / "damaged.yaml"
    file.write_bytes(content)
    read_or_refused(file, [])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"train: [1\nlog: 2", "line 2: not valid YAML"),
        (b"seed: 1\nseed: 2\n", "line 2: seed is set twice"),
        (b"train.lr: 1\ntrain:\n  lr: 2\n", "line 3: train.lr is set twice"),
        (b"train: {lr: 1}\nlog: {}\ntrain: {epochs: 2}\n", "line 3: train is set twice"),
        (b"- a\n", "a mapping"),
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"seed: 1\n---\nseed: 2\n", "line 2: not valid YAML"),
        (b"train:\n\tlr: 1\n", "line 2: not valid YAML"),
        (b"seed: \x07\n", "not valid YAML"),
        (b"\xff\xfe\xfa", "byte 0 is not UTF-8"),
        ("name: é\n".encode("latin-1"), "byte 6 is not UTF-8"),
        ("seed: 1\n".encode("utf-16"), "is not UTF-8"),
        (b"1: 2\n", "1 is not a setting"),
        (b"? [a]\n: 1\n", "[a] is not a setting"),
        (b'name: "a\\0b"\n', "name is"),
        (b'name: "\\ud800"\n', "name is"),
        (b"[" * 5_000, "nested too deeply"),
        (b"#" * 2**20 + b"\n", "1,048,577 bytes are no configuration"),
        (b"name: !!python/object/apply:os.system [touch ran]\n", "is a YAML tag"),
        (b"train: !!python/object/new:os.system {lr: 1}\n", "is a YAML tag"),
        (b"site.setup: [!!python/name:os.system x]\n", "is a YAML tag"),
        (b"seed: !!int 7\n", "is a YAML tag"),
        (b"!!python/name:os.system seed: 7\n", "is a YAML tag"),
        (b"site:\n  setup: &a [*a]\n", "site.setup is [[[["),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path: Path, content: bytes, expected: str):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    line = message(path=file)
    assert str(file) in line
    assert expected in line


def test_what_is_no_file_is_refused(tmp_path: Path):
    assert message(path=tmp_path / "none.yaml").endswith("no such configuration file")
    assert "it is not a file" in message(path=tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "it is not a file" in message(path=tmp_path / "pipe")
    assert "cannot be read" in message(path=tmp_path / "a\0b")


def test_aliases_that_would_fill_the_memory_cost_nothing(tmp_path: Path):
    lines = ["site:", "  setup: &a0 [x, x]", *(f"  a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]" for i in range(1, 30))]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))
    assert "site.a1 is not a setting" in message(path=tmp_path / "laughs.yaml")
    nested = "[" + ", ".join(["&a [x, x]", *(f"&{'b' * i} [*{'b' * (i - 1) or 'a'}, *a]" for i in range(1, 30))]) + "]"
    (tmp_path / "laughs.yaml").write_text(f"site.setup: {nested}")
    line = message(path=tmp_path / "laughs.yaml")
    assert "expected a list of texts" in line and len(line) < 300
