"""torchvision: named where it is missing or of another release, and taken where only its operators are."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from pipelines.errors import DataError
from pipelines.views import vision
from pipelines.views.vision import torchvision


def test_a_torchvision_of_another_release_is_named(monkeypatch: pytest.MonkeyPatch):
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr(vision.importlib, "import_module", fail)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(DataError, match="does not exist\\); install the one of the same release"):
        torchvision()


def test_one_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match=r"^torchvision is missing; pip install 'tdformer\[augment\]'$"):
        torchvision()


def test_operators_that_its_wheel_misses_are_declared_and_it_is_imported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside a torch without CUDA; one with CUDA does not fit."""
    torchvision()  # with what this one needs
    real, asked, declared = importlib.import_module, [], []

    def once(name: str) -> object:
        asked.append(name)
        if len(asked) == 1:
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name)

    monkeypatch.setattr(vision.importlib, "import_module", once)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.library, "define", lambda name, schema: declared.append((name, schema)))
    assert torchvision().__name__ == "torchvision" and asked == ["torchvision"] * 2
    signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert declared == [("torchvision::nms", signature), ("torchvision::qnms", signature)]
