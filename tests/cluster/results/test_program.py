"""A .pt2 file from somebody else: whatever it holds, reading it runs nothing."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export.pt2_archive._package import PT2ArchiveReader, PT2ArchiveWriter

from cluster.build.model import example
from cluster.errors import RunError
from cluster.results.export import program
from cluster.results.program import read_program
from tdformer import create_model
from tdformer.backbones import MODELS, SDT, Entry, SDTSizes, Spikformer, SpikformerSizes

Records = dict[str, bytes]
GRAPH, WEIGHTS, CONSTANTS = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))
        self.register_buffer("scale", torch.rand(4))

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight + self.scale).flatten(1).mean(1)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Small, Records]:
    torch.manual_seed(0)
    model, path = Small(), tmp_path_factory.mktemp("small") / "m.pt2"
    torch.export.save(torch.export.export(model, (torch.zeros(2, 4),), strict=False), path)
    archive = PT2ArchiveReader(str(path))
    return model, {name: archive.read_bytes(name) for name in archive.get_file_names()}


def written(records: Records, path: Path) -> Path:
    with PT2ArchiveWriter(str(path)) as archive:
        for name, content in records.items():
            if not name.startswith((".data/", "byteorder")):
                archive.write_bytes(name, content)
    return path


def pickled(path: Path) -> bytes:
    file = io.BytesIO()
    torch.save(Evil(path), file)
    return file.getvalue()


def changed(records: Records, name: str, change: Callable[[Any], None]) -> Records:
    content = json.loads(records[name])
    change(content)
    return records | {name: json.dumps(content).encode()}


def graph(change: Callable[[Any], None]) -> Callable[[Records, Path], Records]:
    return lambda records, _: changed(records, GRAPH, lambda content: change(content["graph_module"]))


def weight_as_pickle(records: Records, mark: Path) -> Records:
    records = changed(records, WEIGHTS, lambda c: c["config"]["weight"].update(use_pickle=True))
    return records | {"data/weights/weight_0": pickled(mark)}


def constant(name: str) -> Callable[[Records, Path], Records]:
    entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}

    def change(records: Records, mark: Path) -> Records:
        records = changed(records, CONSTANTS, lambda c: c["config"].update(more=entry))
        return records | {f"data/constants/{name}": pickled(mark)}

    return change


def extra(name: str) -> Callable[[Records, Path], Records]:
    return lambda records, mark: records | {name: pickled(mark)}


def code(mark: Path) -> str:
    return f"__import__('os').system('touch {mark}')"


def guard(records: Records, mark: Path) -> Records:
    return changed(records, GRAPH, lambda c: c.update(guards_code=[f"{code(mark)} == 0"]))


def expression(records: Records, mark: Path) -> Records:
    size = {"as_expr": {"expr_str": code(mark), "hint": None}}
    return changed(
        records, GRAPH, lambda c: c["graph_module"]["graph"]["tensor_values"]["images"].update(sizes=[size, size])
    )


def named(records: Records, mark: Path) -> Records:
    """The input's name becomes a line of Python."""
    line = f"images={code(mark)}"
    return records | {GRAPH: records[GRAPH].replace(b'"images"', json.dumps(line).encode())}


def operator(target: str) -> Callable[[Records, Path], Records]:
    return graph(lambda c: c["graph"]["nodes"][0].update(target=target))


def argument(kind: str, value: Any) -> Callable[[Records, Path], Records]:
    return graph(lambda c: c["graph"]["nodes"][0]["inputs"].append({"name": "x", "arg": {kind: value}, "kind": 1}))


def specification(c: Any) -> None:
    leaf = {"type": "collections.defaultdict", "context": '["antigravity", "x", []]', "children_spec": []}
    c["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, leaf])


HOSTILE: dict[str, tuple[Callable[[Records, Path], Records], str]] = {
    "weight": (weight_as_pickle, "weight as a pickle"),
    "constant": (constant("tensor_0"), "more as a pickle"),
    "script object": (constant("custom_obj_0"), "data/constants/custom_obj_0"),
    "object": (constant("opaque_obj_0"), "data/constants/opaque_obj_0"),
    "old weights": (extra("data/weights/model.pt"), "data/weights/model.pt"),
    "old constants": (extra("data/constants/model.pt"), "data/constants/model.pt"),
    "library": (extra("data/aotinductor/model/model.so"), "data/aotinductor/model/model.so"),
    "executorch": (extra("data/executorch/model.pte"), "data/executorch/model.pte"),
    "second model": (extra("models/other.json"), "models/other.json"),
    "extra": (extra("extra/notes"), "extra/notes"),
    "before 2.8": (extra("serialized_state_dict.pt"), "serialized_state_dict.pt"),
    "guard": (guard, "guards_code"),
    "expression": (expression, "'as_expr'"),
    "name": (named, " as name"),
    "function": (operator("torch.os.system"), "'torch.os.system' as target"),
    "file": (operator("torch.ops.aten.from_file.default"), "'torch.ops.aten.from_file.default' as target"),
    "extension": (operator("#x:y"), "'#x:y' as target"),
    "operator": (argument("as_operator", "torch.os.system"), "'as_operator'"),
    "custom": (argument("as_custom_obj", {"name": "x", "class_fqn": "y"}), "'as_custom_obj'"),
    "specification": (graph(specification), "as out_spec"),
    "buffer": (
        graph(lambda c: c["signature"]["input_specs"][1]["buffer"].update(buffer_name="__class__.forward")),
        "'__class__.forward' as buffer_name",
    ),
}


def test_an_export_is_read(small: tuple[Small, Records], tmp_path: Path) -> None:
    model, records = small
    read = read_program(written(records, tmp_path / "m.pt2"))
    images = torch.rand(2, 4)
    assert torch.equal(read(images), model(images))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small_sdt", {"pm": 2, "cm": 3, "clamp": [0, 2]}),
        ("small_sdt_pooled", {}),
        ("small_spikformer", {"neuron": "plif", "border_dtype": "bf16"}),
        ("small_spikformer", {"mixer": "processing", "pm": 2, "cm": 3}),
    ],
)
def test_the_other_backbones_are_read(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """Where a model gains an operator, `OPERATORS` does; `test_exported` reads a QKFormer."""
    small = {
        "small_sdt": Entry(SDT, SDTSizes(16, 1, (False, False, True, True)), 16, 3, 5, 2),
        "small_sdt_pooled": Entry(SDT, SDTSizes(16, 1, (False, False, True, True), pooled_heads=2), 16, 2, 5, 2),
        "small_spikformer": Entry(Spikformer, SpikformerSizes(16, 1, 2, (True,) * 4), 32, 2, 5, 2),
    }
    MODELS.register(name, small[name])
    model = create_model(name, segments=2, feedback="all", **options).eval()
    torch.export.save(program(model, 2), tmp_path / "m.pt2")
    images = torch.rand_like(example(model, 2))
    with torch.no_grad():
        read = read_program(tmp_path / "m.pt2")
        torch.testing.assert_close(read(images), model(images))
        with torch.autocast("cpu", torch.bfloat16):
            under = read(images)
        assert torch.equal(under, read(images))


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_no_export_holds_is_refused(small: tuple[Small, Records], tmp_path: Path, kind: str) -> None:
    change, said = HOSTILE[kind]
    path = written(change(small[1], tmp_path / "mark"), tmp_path / "m.pt2")
    with pytest.raises(RunError, match="refused") as error:
        read_program(path)
    assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", ["weight", "constant", "old weights", "name", "expression"])
def test_they_would_have_run(small: tuple[Small, Records], tmp_path: Path, kind: str) -> None:
    """torch.export.load runs them: if it no longer does, the test above shows less."""
    path = written(HOSTILE[kind][0](small[1], tmp_path / "mark"), tmp_path / "m.pt2")
    try:
        torch.export.load(path).module()(torch.zeros(2, 4))
    except Exception as error:
        print(error)
    assert (tmp_path / "mark").exists()


def test_what_is_not_needed_stays_unread(small: tuple[Small, Records], tmp_path: Path) -> None:
    """The example inputs are a pickle in every export, and notes on a node can be any text."""
    mark = tmp_path / "mark"
    note = {"stack_trace": code(mark), "nn_module_stack": f"a,b,{code(mark)}", "custom": code(mark)}
    records = changed(small[1], GRAPH, lambda c: c["graph_module"]["graph"]["nodes"][0].update(metadata=note))
    read = read_program(written(records | {"data/sample_inputs/model.pt": pickled(mark)}, tmp_path / "m.pt2"))
    images = torch.rand(2, 4)
    assert torch.equal(read(images), small[0](images)) and not mark.exists()


def test_what_is_no_archive(small: tuple[Small, Records], tmp_path: Path) -> None:
    whole = written(small[1], tmp_path / "m.pt2").read_bytes()
    for content in (b"", b"nothing", whole[:100], whole[: len(whole) // 2], whole[10:]):
        (tmp_path / "m.pt2").write_bytes(content)
        with pytest.raises(RunError, match="cannot be read") as error:
            read_program(tmp_path / "m.pt2")
        assert "\n" not in str(error.value)
