"""A model as an ONNX graph: its numbers in another runtime, and what a stranger could put into a file."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from firing import digits_run, tiny

import tdformer
from benchmarks import exports
from cluster.build.model import example
from cluster.errors import RunError
from cluster.results import onnx_graph
from cluster.results.export import evaluate_export, export
from cluster.results.predict import predict
from cluster.run import checkpoint
from cluster.train.evaluate import evaluate_run
from pipelines.store.tars import TarDataset
from tdformer.digest import DIGEST, beside, described, of_file

onnx = pytest.importorskip("onnx")
RECIPE = """\
name: run
model: {name: tiny, time_steps: 4, segments: 2, feedback: all}
data: {dataset: digits, size: 16, crop_ratio: 1.0}
train: {global_batch: 60, threads: 1}
"""


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with tiny():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    """A run of a model that fires, and its export."""
    place = tmp_path_factory.mktemp("onnx")
    export(digits_run(place, RECIPE).path, place / "m.onnx", batch=50)
    return place


def test_a_graph_has_the_numbers_of_the_model(place: Path) -> None:
    """Of every time step and segment, on noise, since a spike that rounding flips would show."""
    weights, state = checkpoint.load_weights(place / "run" / "checkpoints" / "step-00000007")
    model = tdformer.create_model(**state["model"]).eval()
    model.load_state_dict(weights)
    images = torch.randn(50, *example(model, 1).shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(images)
    assert (wanted - wanted.mean(0)).abs().max() > 0.1
    found = onnx_graph.read(place / "m.onnx")(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_graph_is_of_the_standard_and_says_what_it_is(place: Path) -> None:
    proto, about = onnx.load(place / "m.onnx"), described(place / "m.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert [(one.domain, one.version) for one in proto.opset_import] == [("", onnx_graph.OPSET)]
    assert about is not None and (about["opset"], about["batch"]) == (onnx_graph.OPSET, 50)
    [said] = proto.metadata_props
    card = json.loads(said.value)
    assert said.key == "card" and card == {key: about[key] for key in card} and "input" in card
    assert b"site-packages" not in (place / "m.onnx").read_bytes() and b".py" not in (place / "m.onnx").read_bytes()


def test_it_is_evaluated_and_predicts(place: Path, tmp_path: Path) -> None:
    [wanted], found = evaluate_run(place / "run"), evaluate_export(place / "m.onnx")
    assert found["samples"] == 120 and found["accuracy"] == wanted["accuracy"] > 0.3
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-4) and found["top5"] == wanted["top5"]
    picture = tmp_path / "a.png"
    picture.write_bytes(TarDataset(place / "shards" / "test").read(5)[0])
    [mine], [theirs] = predict(place / "m.onnx", [picture]), predict(place / "run", [picture])
    assert mine["logits"] == pytest.approx(theirs["logits"], rel=1e-4, abs=1e-4) and "firing" not in mine
    with pytest.raises(RunError, match="model.tau cannot be set for a .onnx file: its program is fixed"):
        evaluate_export(place / "m.onnx", ["model.tau=3"])


def external(proto: Any) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret"


def function(proto: Any) -> None:
    proto.functions.add().name = "f"


def operator(proto: Any) -> None:
    proto.graph.node[0].domain = "com.microsoft"


def branch(proto: Any) -> None:
    attribute = proto.graph.node[0].attribute.add()
    attribute.name, attribute.type = "then_branch", onnx.AttributeProto.GRAPH
    attribute.g.name = "inner"


def more(proto: Any) -> None:
    proto.graph.input.add().name = "more"


def nothing(proto: Any) -> None:
    del proto.graph.node[:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (external, "weights in other files"),
        (function, "functions"),
        (operator, "the operator 'com.microsoft'"),
        (branch, "a graph within"),
        (more, "other inputs or outputs"),
        (nothing, "cannot be read"),
    ],
)
def test_what_no_export_holds_is_refused(place: Path, tmp_path: Path, change: Callable[[Any], None], said: str) -> None:
    """The digest beside it is right."""
    proto, path = onnx.load(place / "m.onnx"), tmp_path / "m.onnx"
    change(proto)
    path.write_bytes(proto.SerializeToString())
    about = json.loads(beside(place / "m.onnx").read_text())
    beside(path).write_text(json.dumps(about | {DIGEST: of_file(path, about)}))
    with pytest.raises(RunError, match=said) as error:
        evaluate_export(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"nothing", bytes(1000), b"\x08\x0a" * 50])
def test_what_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(RunError, match="m.onnx (cannot be read|holds other inputs)") as error:
        onnx_graph.read(tmp_path / "m.onnx")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_the_packages_a_line_says_what_to_install(
    place: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in ("m.onnx", "m.onnx.json"):
        shutil.copy(place / name, tmp_path)
    use = {"onnxscript": lambda: export(place / "run", tmp_path / "n.onnx")}
    with pytest.raises(RunError, match=r"pip install 'tdformer\[onnx\]'"):
        use.get(package, lambda: evaluate_export(tmp_path / "m.onnx"))()
    assert not list(tmp_path.glob("*n.onnx*"))


def test_the_benchmark_compares_programs_with_the_model(place: Path) -> None:
    text = exports.compared(place / "run")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| .")]
    assert [row[0] for row in rows] == ["| .pt2", "| .onnx"] and "of 100 |" in text
    assert all(float(row[2]) < 1e-4 and row[4] == "0 |" for row in rows), text
