"""The T steps of a model as an ONNX graph, and reading one: `pip install 'tdformer[onnx]'`.

Reading runs only operators of the ONNX standard, on what is in the file: no functions, no operators of other domains,
no weights in other files.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tdformer.errors import first_line

from ..errors import RunError

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""Of the standard's operators; runtimes from 2023 on have it."""
INPUT, OUTPUT = "images", "logits"
CARD = "card"
"""The key of the model card, as JSON, in the graph's metadata."""


def write(program: torch.export.ExportedProgram, card: Mapping[str, object], file: Path) -> None:
    """Write a program of one input and one output as ONNX, the weights inside. The same program gives the same bytes:
    what the exporter notes of each node, such as lines of code, is left out. Raises RunError without the packages."""
    with _packages(), _quiet():
        import onnxscript  # noqa: F401, torch asks for it

        made = torch.onnx.export(
            program, input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET, dynamo=True, verbose=False
        )
    assert made is not None
    proto = made.model_proto
    graph = proto.graph
    for noted in (proto, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del noted.metadata_props[:]
    said = proto.metadata_props.add()
    said.key, said.value = CARD, json.dumps(card)
    file.write_bytes(proto.SerializeToString(deterministic=True))


def read(path: Path) -> Callable[[Tensor], Tensor]:
    """The function in an ONNX file that `write` made, on the CPU: images of its batch, or frames, -> logits. Raises
    RunError for another file, and without the packages."""
    with _packages():
        import onnx
        import onnxruntime
    try:
        content = path.read_bytes()
        _check(onnx.load_model_from_string(content))
        how = onnxruntime.SessionOptions()
        how.intra_op_num_threads, how.log_severity_level = torch.get_num_threads(), 4
        session = onnxruntime.InferenceSession(content, how, providers=["CPUExecutionProvider"])
    except _Refused as refused:
        raise RunError(f"{path} holds {refused}, which no model of ours does: refused; export it again") from None
    except Exception as error:  # protobuf and onnxruntime raise a dozen kinds
        raise RunError(f"{path} cannot be read ({first_line(error)}); export it again") from None

    def run(images: Tensor) -> Tensor:
        [logits] = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run


class _Refused(Exception):
    """What a file holds that no export of ours does."""


def _check(proto: ModelProto) -> None:
    """Raises _Refused for what could reach beyond the file."""
    graph = proto.graph
    if proto.functions:
        raise _Refused("functions")
    tensors = [*graph.initializer, *(attribute.t for node in graph.node for attribute in node.attribute)]
    if graph.sparse_initializer or any(tensor.data_location or tensor.external_data for tensor in tensors):
        raise _Refused("weights in other files")
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise _Refused(f"the operator {node.domain!r:.40} {node.op_type!r:.40}")
        if any(attribute.HasField("g") or attribute.graphs or attribute.tensors for attribute in node.attribute):
            raise _Refused(f"a graph within {node.op_type!r:.40}")
    if [one.name for one in graph.input] != [INPUT] or [one.name for one in graph.output] != [OUTPUT]:
        raise _Refused("other inputs or outputs")


@contextmanager
def _packages() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise RunError(f"ONNX needs packages that are not here ({error}); pip install 'tdformer[onnx]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of its own deprecations, and of packages that it tries."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
