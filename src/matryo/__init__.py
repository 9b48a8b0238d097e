"""Measure, choose and run Matryoshka (nested, truncatable) embeddings.

The public names are loaded when they are first used, so that importing matryo costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryo.core import (
        Funnel,
        MatryoError,
        NestedVectors,
        Nesting,
        Plan,
        Precision,
        Side,
        Space,
        Stage,
    )
    from matryo.encoders import encoder
    from matryo.jobs import (
        adapt,
        apply,
        build_index,
        check,
        classify,
        demo,
        diff,
        encode,
        measure,
        plan,
        search_index,
        train,
    )
    from matryo.readers import read_vectors, write_vectors
    from matryo.report import write_report
    from matryo.search import run
    from matryo.stores import Index
    from matryo.transforms import Rotation, truncate

_HOMES = {
    "Funnel": "core",
    "Index": "stores",
    "MatryoError": "core",
    "NestedVectors": "core",
    "Nesting": "core",
    "Plan": "core",
    "Precision": "core",
    "Rotation": "transforms",
    "Side": "core",
    "Space": "core",
    "Stage": "core",
    "adapt": "jobs",
    "apply": "jobs",
    "build_index": "jobs",
    "check": "jobs",
    "classify": "jobs",
    "demo": "jobs",
    "diff": "jobs",
    "encode": "jobs",
    "encoder": "encoders",
    "measure": "jobs",
    "plan": "jobs",
    "read_vectors": "readers",
    "run": "search",
    "search_index": "jobs",
    "train": "jobs",
    "truncate": "transforms",
    "write_report": "report",
    "write_vectors": "readers",
}

__all__ = [
    "Funnel",
    "Index",
    "MatryoError",
    "NestedVectors",
    "Nesting",
    "Plan",
    "Precision",
    "Rotation",
    "Side",
    "Space",
    "Stage",
    "adapt",
    "apply",
    "build_index",
    "check",
    "classify",
    "demo",
    "diff",
    "encode",
    "encoder",
    "measure",
    "plan",
    "read_vectors",
    "run",
    "search_index",
    "train",
    "truncate",
    "write_report",
    "write_vectors",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("matryo")
    if name not in _HOMES:
        raise AttributeError(f"module 'matryo' has no attribute {name!r}")
    return getattr(importlib.import_module(f"matryo.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
