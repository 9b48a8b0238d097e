"""The native kernel, where it was built.

`MATRYO_KERNEL` says what to use instead of the best that this machine has: the name of a set of
instructions, such as `avx2`, or `numpy` for the reference.
"""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType

from matryo.core import UnknownNameError

REFERENCE = "numpy"


@cache
def kernel() -> ModuleType | None:
    """The kernel, or None if matryo was installed without it."""
    try:
        from matryo.search import _kernel
    except ImportError:
        return None
    return _kernel


def instruction_set() -> str:
    """What scans are made of here: a set of instructions, or `numpy` for the reference.

    Raises:
        UnknownNameError: `MATRYO_KERNEL` names something that is not here.
    """
    built = kernel()
    known: list[str] = [*(built.instruction_sets() if built is not None else []), REFERENCE]
    wanted = os.environ.get("MATRYO_KERNEL", known[0])
    if wanted not in known:
        raise UnknownNameError.among("instruction set in MATRYO_KERNEL", wanted, known)
    return wanted
