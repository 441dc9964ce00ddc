"""Figures of a run by name, each drawn anew from its rows after an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tdformer.plugins import Registry

from . import curves

Figure = Callable[[Iterable[Mapping[str, object]], str, float], bytes]
"""A PNG of rows of metrics.jsonl and speed.jsonl, the run's name, and how many optimizer steps an epoch has."""

FIGURES: Registry[Figure] = Registry("figure")
FIGURES.register("curves", curves.draw)
