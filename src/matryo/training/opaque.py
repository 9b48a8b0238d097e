"""Functions that torch.compile leaves as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def opaque(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function one step between two compiled graphs.

    The losses look at numbers before they use them and make their own gradients: tracing them would
    break the graph at every check, and gain nothing.
    """
    made: Callable[P, R] = torch.compiler.disable(function)
    return made
