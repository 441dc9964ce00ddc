"""Reading a .pt2 file without running what is in it.

An archive of torch.export can hold pickles and libraries, which torch.export.load loads; its graph can name any
function of torch, and holds text that becomes Python source. Ours hold raw tensors, and a graph of the operators below
whose names are plain words. Anything else is refused before torch builds something from it.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

from torch import nn
from torch._export.serde import schema
from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass
from torch.export.pt2_archive._package import PT2ArchiveReader, _load_constants, _load_state_dict
from torch.utils import _pytree as pytree

from tdformer.errors import first_line

from ..errors import RunError

RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json))"
    r"|data/sample_inputs/model\.pt"  # a pickle: it stays unread
)
_ATEN = """
_assert_tensor_metadata.default add.Tensor add_.Tensor addcmul.default alias.default chunk.default clamp.default
contiguous.default conv2d.default copy_.default einsum.default empty_like.default expand.default
flatten.using_ints full.default full_like.default gather.default ge.Scalar linear.default masked_fill.Scalar
matmul.default max_pool2d.default max_pool2d_with_indices.default mean.dim mul.Tensor new_empty.default
reshape.default select.int sigmoid.default slice.Tensor stack.default sub.Tensor sum.dim_IntList to.dtype transpose.int
unflatten.int unsqueeze.default view.default view_as.default
"""
OPERATORS = frozenset(f"torch.ops.aten.{name}" for name in _ATEN.split()) | {
    "torch.ops.higher_order.wrap_with_autocast"
}
"""What our models are made of. None reads or writes files, or memory outside a tensor."""

_FIELDS = """
arg aten buffer buffer_name config custom_obj_values device dtype forward_arg_names fqn graph graph_module
guards_code in_spec index input_specs inputs is_hop_single_tensor_return is_param is_single_tensor_return kind
layout major minor module_call_graph name nodes opset_version out_spec output_specs outputs parameter
parameter_name path_name persistent range_constraints requires_grad schema_version signature sizes
storage_offset strides sym_bool_values sym_float_values sym_int_values target tensor_constant
tensor_constant_name tensor_meta tensor_values treespec_namedtuple_fields type use_pickle user_input user_output
verifiers as_bool as_device as_float as_floats as_graph as_int as_ints as_layout as_memory_format as_none
as_scalar_type as_string as_tensor as_tensors
"""
FIELDS = frozenset(_FIELDS.split())
"""Of the graph's and the tensors' JSON: no expressions, operators or objects as arguments."""

NAMED = ("tensor_values", "config")
"""Fields that hold others by name."""

EMPTY = ("guards_code", "range_constraints", "custom_obj_values", "treespec_namedtuple_fields")
DROPPED = {"metadata": dict, "torch_version": str}
"""Notes on where a node came from."""

WORD, DOTTED = re.compile(r"\w*", re.ASCII), re.compile(r"([a-zA-Z0-9]\w*(\.[a-zA-Z0-9]\w*)*)?", re.ASCII)
TEXT = {
    "as_string": re.compile(r"[\w,>-]*", re.ASCII),
    **dict.fromkeys(("fqn", "parameter_name", "buffer_name", "tensor_constant_name", *NAMED), DOTTED),
}
"""How text looks, if not like a word."""

_INPUT: tuple[tuple[int], dict[str, int]] = ((0,), {})
SPECS = tuple(pytree.treespec_dumps(pytree.tree_structure(of)) for of in (_INPUT, 0))
"""One tensor in, one out."""


class _Refused(Exception):
    """What a file holds that no export of ours does."""


def read_program(path: Path) -> nn.Module:
    """The program in a .pt2 file that `tdformer export` wrote. Raises RunError for any other; nothing of it has run."""
    try:
        return _program(path.read_bytes())
    except _Refused as refused:
        raise RunError(f"{path} holds {refused}, which no model of ours does: refused; export it again") from None
    except Exception as error:  # torch raises half a dozen kinds for damaged bytes
        raise RunError(f"{path} cannot be read ({first_line(error)}); export it again") from None


def _program(content: bytes) -> nn.Module:
    archive = PT2ArchiveReader(io.BytesIO(content))
    names = archive.get_file_names()
    for name in names:
        if not RECORDS.fullmatch(name):
            raise _Refused(name)
    if sum(archive.archive_file.get_record_size(name) for name in names) > len(content):
        raise _Refused("parts larger than itself")
    for kind in ("weights", "constants"):
        for name, entry in _json(archive, f"data/{kind}/model_{kind}_config.json")["config"].items():
            if entry["use_pickle"] is not False:
                raise _Refused(f"{name} as a pickle")
    graph = _dict_to_dataclass(schema.ExportedProgram, _json(archive, "models/model.json"))
    weights, constants = _load_state_dict(archive, "model"), _load_constants(archive, "model")
    return ExportedProgramDeserializer().deserialize(graph, weights, constants).module()


def _json(archive: PT2ArchiveReader, name: str) -> Any:
    return _checked(json.loads(archive.read_string(name)), name)


def _checked(value: object, field: str) -> object:
    """The value of a field, without notes. Raises _Refused for what is not of the kinds above."""
    if value and field in EMPTY:
        raise _Refused(field)
    if isinstance(value, list):
        return [_checked(item, field) for item in value]
    if isinstance(value, dict):
        for key in value:
            if not (_fits(key, field) if field in NAMED else key in FIELDS or key in DROPPED):
                raise _Refused(f"the field {key!r:.60}")
        return {k: DROPPED[k]() if k in DROPPED else _checked(v, "" if field in NAMED else k) for k, v in value.items()}
    if isinstance(value, str) and not _fits(value, field):
        raise _Refused(f"{value!r:.60} as {field}")
    return value


def _fits(text: str, field: str) -> bool:
    if field == "target":
        return text in OPERATORS
    return text in SPECS if field in ("in_spec", "out_spec") else TEXT.get(field, WORD).fullmatch(text) is not None
