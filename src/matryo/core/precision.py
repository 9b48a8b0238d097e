"""Number formats of stored vectors."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import numpy as np

from matryo.core.errors import UnknownNameError


class Precision(StrEnum):
    """How one number of a vector is stored.

    `int4`, `int2` and `binary` are packed, two, four and eight dimensions to a byte, the first
    dimension in the highest bits. They keep directions only.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT4 = "int4"
    INT2 = "int2"
    BINARY = "binary"

    @classmethod
    def parse(cls, name: str) -> Precision:
        """Read a precision by its name.

        Raises:
            UnknownNameError: no precision has this name.
        """
        try:
            return cls(name.strip())
        except ValueError:
            raise UnknownNameError.among("precision", name, [p.value for p in cls]) from None

    @classmethod
    def parse_list(cls, names: str | Iterable[str]) -> list[Precision]:
        """Read precisions from text (`"float32,int8"`) or names; each is kept once, in order."""
        parts = names.split(",") if isinstance(names, str) else names
        return list(dict.fromkeys(cls.parse(part) for part in parts))

    @property
    def bits(self) -> int:
        """Bits per dimension."""
        return {"float32": 32, "float16": 16, "int8": 8, "int4": 4, "int2": 2, "binary": 1}[self]

    @property
    def is_packed(self) -> bool:
        """Whether a byte holds several dimensions."""
        return self.bits < 8

    @property
    def dtype(self) -> np.dtype[Any]:
        """What numpy keeps its codes in."""
        return np.dtype("uint8" if self.is_packed else self.value)

    def columns(self, dim: int) -> int:
        """Numbers of `dtype` that the codes of `dim` numbers take."""
        return -(-dim * self.bits // 8) if self.is_packed else dim

    def bytes_per_vector(self, dim: int) -> int:
        """Bytes that one vector of `dim` numbers takes, without ids and without any index."""
        return -(-dim * self.bits // 8)
