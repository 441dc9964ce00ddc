"""Checkpoints from somebody else: of what their pickles hold, only the weights are read, and nothing runs."""

from __future__ import annotations

import argparse
import builtins
import collections
import copyreg
import datetime
import functools
import io
import operator
import os
import pathlib
import pickle
import runpy
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tdformer import ModelError, create_model, load_pretrained
from tdformer.weight_files import Unread


class Reduced:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], *given: Any, state: Any = None) -> None:
        self.all = (function, given) if state is None else (function, given, state)

    def __reduce__(self) -> Any:
        return self.all

    def __call__(self) -> None:
        """What is called can be the result of a call."""


class Stateful:
    """Runs something when its state is put back."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["path"]).touch()


def legacy(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


PAYLOADS: dict[str, Callable[[str], Any]] = {
    "os": lambda mark: Reduced(os.system, f"touch {mark}"),
    "eval": lambda mark: Reduced(builtins.eval, f"open({mark!r}, 'w')"),
    "exec": lambda mark: Reduced(builtins.exec, f"open({mark!r}, 'w')"),
    "open": lambda mark: Reduced(builtins.open, mark, "w"),
    "subprocess": lambda mark: Reduced(subprocess.check_call, ["touch", mark]),
    "method": lambda mark: Reduced(Reduced(builtins.getattr, pathlib.Path(mark), "touch")),
    "mkdir": lambda mark: Reduced(os.mkdir, mark),
    "partial": lambda mark: Reduced(functools.partial(os.mkdir, mark)),
    "caller": lambda mark: Reduced(operator.methodcaller("touch"), pathlib.Path(mark)),
    "runpy": lambda mark: Reduced(runpy.run_path, f"{mark}.py"),
    "pickle": lambda mark: Reduced(pickle.loads, pickle.dumps(Reduced(os.mkdir, mark))),
    "storage": lambda mark: Reduced(torch.storage._load_from_bytes, legacy(Reduced(os.mkdir, mark))),
    "load": lambda mark: Reduced(functools.partial(torch.load, f"{mark}.pth", weights_only=False)),
    "numpy": lambda mark: Reduced(np.load, f"{mark}.npy", None, True),
    "state": Stateful,
    "state of a list": lambda mark: Reduced(copyreg._reconstructor, Stateful, object, None, state={"path": mark}),
    "rebuilt": lambda mark: Reduced(torch._tensor._rebuild_from_type_v2, os.mkdir, Tensor, (mark,), None),
}


def opcodes(mark: str) -> dict[str, bytes]:
    """Pickles that no pickler writes."""
    call = f"(S'touch {mark}'\ntR"
    return {
        "INST": f"(S'touch {mark}'\nios\nsystem\n.".encode(),
        "OBJ": f"(cos\nsystem\nS'touch {mark}'\no.".encode(),
        "nested name": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c"
        + bytes([len(mark) + 6])
        + b"touch "
        + mark.encode()
        + b"\x85R.",
        "dotted": f"\x80\x02ctorch\nos.system\n{call}.".encode("latin1"),
        "Storage": f"\x80\x02cos\nsystemStorage\n{call}.".encode("latin1"),
        "EXT": b"\x80\x02\x82\x01.",
        "state of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__N s\x86b.",
        "state of a class": b"\x80\x02ctorch.nn.parameter\nParameter\nN}X\x08\x00\x00\x00__repr__Ns\x86b.",
        "endless memo": b"\x80\x02" + b"]q\x00" + b"h\x00h\x00\x86q\x00" * 1000 + b".",
        "no end": b"\x80\x02}q\x00",
        "long": b"\x80\x02X\xff\xff\xff\xff.",
    }


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return create_model("tiny_hst").state_dict()


def same(source: Path, weights: dict[str, Tensor]) -> list[str]:
    model = create_model("tiny_hst")
    report = load_pretrained(model, source)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    return report.unread


def zipped(data: bytes, path: Path, compress: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("name", PAYLOADS)
def test_no_payload_runs(tmp_path: Path, weights: dict[str, Tensor], name: str, zip_format: bool) -> None:
    """It is passed over, or the file is refused in one line."""
    mark = str(tmp_path / "mark")
    (tmp_path / "mark.py").write_text(f"open({mark!r}, 'w')")
    (tmp_path / "mark.pth").write_bytes(legacy(Reduced(os.mkdir, mark)))
    np.save(f"{mark}.npy", np.array([Reduced(os.mkdir, mark)], object), allow_pickle=True)
    content = {"model": weights, "args": PAYLOADS[name](mark)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zip_format)
    passed = False
    try:
        same(tmp_path / "a.pth", weights)
        passed = True
    except ModelError as error:
        assert str(error).startswith(f"{tmp_path / 'a.pth'}: ") and "\n" not in str(error) and len(str(error)) < 400
    assert not Path(mark).exists()
    assert not (passed and (name == "os" or not zip_format))
    with pytest.MonkeyPatch.context() as patch:  # and it would have
        patch.setattr(Stateful, "__reduce__", object.__reduce__)
        try:
            torch.load(tmp_path / "a.pth", weights_only=False)
        except Exception as error:
            print(error)
    assert Path(mark).exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("alone", [True, False], ids=["file", "zip"])
def test_no_protocol_runs(tmp_path: Path, protocol: int, alone: bool) -> None:
    mark, path = tmp_path / "mark", tmp_path / "a.pth"
    data = pickle.dumps(Reduced(os.system, f"touch {mark}"), protocol)
    path.write_bytes(data) if alone else zipped(data, path)
    with pytest.raises(ModelError) as error:
        load_pretrained(create_model("tiny_hst"), path)
    assert "\n" not in str(error.value) and not mark.exists()


@pytest.mark.parametrize("name", opcodes("x"))
@pytest.mark.parametrize("alone", [True, False], ids=["file", "zip"])
def test_no_handmade_pickle_runs(tmp_path: Path, name: str, alone: bool) -> None:
    mark, path = tmp_path / "mark", tmp_path / "a.pth"
    data = opcodes(str(mark))[name]
    path.write_bytes(data) if alone else zipped(data, path)
    before = torch._utils._rebuild_tensor_v2.__defaults__, torch.nn.Parameter.__repr__
    with pytest.raises(ModelError) as error:
        load_pretrained(create_model("tiny_hst"), path)
    assert "\n" not in str(error.value) and not mark.exists()
    assert before == (torch._utils._rebuild_tensor_v2.__defaults__, torch.nn.Parameter.__repr__)


def made_elsewhere() -> Any:
    """An object of a class that is nowhere to be found when it is read."""
    module = types.ModuleType("recipes")
    exec("class Options(dict):\n    pass\nclass Meter:\n    pass", vars(module))
    meter = module.Meter()
    meter.value, meter.history = 0.5, [1, 2]
    sys.modules["recipes"] = module
    return meter


HARMLESS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "numpy scalar": (lambda: np.float64(81.2), ["numpy._core.multiarray.scalar", "numpy.dtype"]),
    "numpy numbers": (lambda: [np.int64(3), np.float32(1), np.bool_(True)], ["numpy._core.multiarray.scalar"]),
    "array": (lambda: np.arange(3), ["numpy._core.multiarray._reconstruct", "numpy.ndarray"]),
    "path": (lambda: Path("out") / "log.txt", ["pathlib.PosixPath"]),
    "arguments": (lambda: argparse.Namespace(lr=0.1, out=Path("x"), best=np.float64(1)), ["argparse.Namespace"]),
    "ordered": (lambda: collections.OrderedDict(a=np.float64(1)), ["numpy.dtype"]),
    "default": (lambda: collections.defaultdict(list, a=[1]), ["builtins.list", "collections.defaultdict"]),
    "queue": (lambda: collections.deque([1.0, 2.0], maxlen=20), ["collections.deque"]),
    "counter": (lambda: collections.Counter("aab"), []),
    "time": (lambda: datetime.datetime(2024, 1, 2), ["datetime.datetime"]),
    "set": (lambda: {1, 2}, []),
    "simple": (lambda: types.SimpleNamespace(a=1), ["types.SimpleNamespace"]),
    "function": (lambda: os.path.join, ["posixpath.join"]),
    "elsewhere": (made_elsewhere, ["recipes.Meter"]),
    "layer": (lambda: torch.nn.Linear(2, 2), ["torch.nn.modules.linear.Linear"]),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_lies_beside_the_weights_stays_unread(tmp_path: Path, weights: dict[str, Tensor], name: str) -> None:
    value, named = HARMLESS[name][0](), HARMLESS[name][1]
    torch.save({"args": value, "state_dict": weights, "best": [value]}, tmp_path / "a.pth")
    sys.modules.pop("recipes", None)
    unread = same(tmp_path / "a.pth", weights)
    assert set(named) <= set(unread) and bool(named) == bool(unread)
    assert "recipes" not in sys.modules


def test_a_plain_checkpoint_has_nothing_unread(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    for zip_format in (True, False):
        torch.save({"model": weights, "epoch": 3}, tmp_path / "a.pth", _use_new_zipfile_serialization=zip_format)
        assert same(tmp_path / "a.pth", weights) == []


def test_a_stand_in_is_no_weight(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    """Also not a layer that was pickled whole, nor tensors without values."""
    model, name = create_model("tiny_hst"), next(iter(weights))
    for content, said in (
        (model, f"holds a {Unread.__name__}, not a dict"),
        (weights | {name: np.float64(1)}, f"'{name}' is no tensor"),
        (weights | {name: weights[name].to_sparse()}, f"'{name}' is no tensor"),
        (weights | {name: weights[name].to("meta")}, f"'{name}' is no tensor"),
        (weights | {name: weights[name].to(torch.complex64)}, f"'{name}' is no tensor"),
        (weights | {name: torch.quantize_per_tensor(weights[name], 1, 0, torch.qint8)}, f"'{name}' is no tensor"),
        (weights | {name: weights[name].flatten()[:1].expand(2**40)}, f"{name} is [{2**40}]"),
    ):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(ModelError) as error:
            load_pretrained(create_model("tiny_hst"), tmp_path / "a.pth")
        assert said in str(error.value) and "\n" not in str(error.value)


def test_a_zip_is_compared_with_its_checksums_and_its_size(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    """torch.load reads changed weights, and a pickle of 1 GB from 1 MB."""
    path = tmp_path / "a.pth"
    torch.save(weights, path)
    content = bytearray(path.read_bytes())
    value = weights["head.weight"].numpy().tobytes()
    content[content.index(value) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        load_pretrained(create_model("tiny_hst"), path)
    torch.load(path, weights_only=True)
    zipped(bytes(2**30), path, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="its parts exceed the file"):
        load_pretrained(create_model("tiny_hst"), path)
