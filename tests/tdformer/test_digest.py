"""Digests: of every name, type, shape and value of tensors, of every byte of a file, and of what is said of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tdformer import ModelError, create_model
from tdformer.digest import DIGEST, beside, described, of_file, of_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}
OTHERS: dict[str, tuple[str, dict[str, Tensor]]] = {
    "the options": ("{} ", TENSORS),
    "a name": ("{}", {"a": TENSORS["a"], "c": TENSORS["b"]}),
    "a value": ("{}", TENSORS | {"b": torch.tensor([1, 3])}),
    "a sign of zero": ("{}", TENSORS | {"a": TENSORS["a"] * torch.tensor([[-1.0, 1, 1], [1, 1, 1]])}),
    "a shape": ("{}", TENSORS | {"a": TENSORS["a"].view(3, 2)}),
    "a type": ("{}", TENSORS | {"b": TENSORS["b"].view(torch.float64)}),
    "one less": ("{}", {"a": TENSORS["a"]}),
    "which has what": ("{}", {"a": TENSORS["b"], "b": TENSORS["a"]}),
}


@pytest.mark.parametrize("changed", OTHERS)
def test_another_header_or_tensor_has_another_digest(changed: str) -> None:
    assert of_tensors(*OTHERS[changed]) != of_tensors("{}", TENSORS)


def test_the_order_and_the_memory_of_tensors_are_not_in_it() -> None:
    turned = {"b": TENSORS["b"], "a": TENSORS["a"].t().contiguous().t()}
    assert of_tensors("{}", turned) == of_tensors("{}", TENSORS)
    assert len(of_tensors("", {})) == 64


def write(path: Path, **changes: object) -> dict[str, object]:
    """A file that holds nothing of use, and its description."""
    path.write_bytes(b"weights")
    about: dict[str, object] = {"model": create_model("quickstart").config, "config": {}, "checkpoint": "c", "step": 3}
    about |= changes
    beside(path).write_text(json.dumps(about | {DIGEST: of_file(path, about)}))
    return about


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


def test_a_description_holds_for_its_file_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert beside(path).name == "m.safetensors.json" and described(path) is None
    about = write(path)
    whole = described(path)
    assert whole is not None and {name: whole[name] for name in about} == about
    said = json.loads(beside(path).read_text())
    beside(path).write_text(json.dumps(dict(reversed(said.items())), indent=3))  # spaced and sorted otherwise
    assert described(path) == whole and not caplog.records
    for file, content in ((path, b"weighty"), (beside(path), json.dumps(said | {"step": 4}).encode())):
        before = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(ModelError, match="are not what was exported .SHA-256.: one is damaged; export it again$"):
            described(path)
        file.write_bytes(before)
    assert described(path) == whole


def test_options_are_filled_up_and_looked_at(path: Path) -> None:
    write(path, model={"name": "quickstart", "time_steps": 2})
    found = described(path)
    assert found is not None and found["model"] == create_model("quickstart", time_steps=2).config
    for model in ({"name": "quickstarter"}, {}, [], {"name": "quickstart", "time_steps": "x"}):
        write(path, model=model)
        with pytest.raises(ModelError, match="its model options cannot be used .*export m.safetensors again") as error:
            described(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"step": -1}, {"step": 1.5}, {"step": True}, {"batch": 0}, {"batch": "1"}])
def test_numbers_that_cannot_be(path: Path, changes: dict[str, object]) -> None:
    write(path, **changes)
    with pytest.raises(ModelError, match=r"json says step .*, batch .*; export m.safetensors again"):
        described(path)


def test_a_program_says_for_how_many_images_it_is(tmp_path: Path) -> None:
    program = tmp_path / "m.onnx"
    write(program)
    with pytest.raises(ModelError, match="batch None; export m.onnx again"):
        described(program)
    write(program, batch=2, step=None)
    assert described(program)


def test_what_is_not_ours_is_passed_over_and_what_cannot_be_read_is_told(path: Path) -> None:
    for other in ("[]", "3", "{}", '{"model": {}, "config": {}, "step": 1}'):
        beside(path).write_text(other)
        assert described(path) is None
    for broken in (b"{", b"\xff", b"[" * 100_000):
        beside(path).write_bytes(broken)
        with pytest.raises(ModelError, match="cannot be read .*; export m.safetensors again$"):
            described(path)


def test_an_earlier_versions_description_has_no_digest(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    about = write(path)
    beside(path).write_text(json.dumps(about))
    with caplog.at_level(logging.WARNING, "tdformer.digest"):
        assert described(path) is not None
    assert [record.getMessage() for record in caplog.records] == [
        f"warning: {path} has no digest (an earlier version wrote it): what it holds is not verified"
    ]
