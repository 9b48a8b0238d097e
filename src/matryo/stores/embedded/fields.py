"""Typed fields of rows: checked when they come in, kept in chunks of rows that are replaced whole.

    presence     one bit per row
    values       bool as bytes, int as int64, float as float64, text as int32 places among
    words        the distinct texts of the chunk, sorted, as a JSON array; for text only

A chunk never changes: an update makes another one, so that a reader keeps those it has.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, UnknownNameError

CHUNK = 4096  # rows
FieldType = type[bool] | type[int] | type[float] | type[str]
TYPES: dict[str, FieldType] = {"bool": bool, "int": int, "float": float, "str": str}
RESERVED = ("and", "or", "not")
_DTYPES: dict[FieldType, str] = {bool: "|b1", int: "<i8", float: "<f8", str: "<i4"}
_INT64 = range(-(2**63), 2**63)
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 60
_LARGEST = int(np.finfo(np.float64).max)

Value = bool | int | float | str


class Field(NamedTuple):
    """A field that every row may have."""

    name: str
    type: FieldType


class Values(NamedTuple):
    """A chunk, decoded.

    Attributes:
        present: `(rows,)` bool, whether the row has the field.
        numbers: `(rows,)` values, or places among `words`.
        words: Distinct texts, sorted by code point; empty for other types.
    """

    present: NDArray[np.bool_]
    numbers: NDArray[Any]
    words: list[str]


class Chunk:
    """The values that up to 4,096 successive rows have for one field; None where one has none."""

    def __init__(self, kind: FieldType, rows: int, data: bytes) -> None:
        self.kind, self.rows, self.data = kind, rows, data

    @classmethod
    def of(cls, kind: FieldType, values: Sequence[Value | None]) -> Chunk:
        """Encode checked values."""
        present = [value is not None for value in values]
        words: list[str] = []
        plain: list[Any] = [0 if value is None else value for value in values]
        if kind is str:
            words = sorted({str(value) for value in values if value is not None})
            place = {word: number for number, word in enumerate(words)}
            plain = [0 if value is None else place[str(value)] for value in values]
        parts = [np.packbits(present).tobytes(), np.array(plain, _DTYPES[kind]).tobytes()]
        if kind is str:
            parts.append(json.dumps(words).encode("ascii"))
        return cls(kind, len(values), b"".join(parts))

    @cached_property
    def decoded(self) -> Values:
        """Its values, for filters."""
        dtype, bits = np.dtype(_DTYPES[self.kind]), -(-self.rows // 8)
        end = bits + self.rows * dtype.itemsize
        packed = np.frombuffer(self.data, np.uint8, bits)
        numbers = np.frombuffer(self.data, dtype, self.rows, bits)
        words = json.loads(self.data[end:]) if self.kind is str else []
        return Values(np.unpackbits(packed, count=self.rows).astype(np.bool_), numbers, words)

    def to_list(self) -> list[Value | None]:
        """Its values, None where a row has none."""
        present, numbers, words = self.decoded
        plain = [words[place] for place in numbers] if words else numbers.tolist()
        return [v if there else None for v, there in zip(plain, present.tolist(), strict=True)]

    def value(self, row: int) -> Value | None:
        """The value of one row, None where it has none."""
        present, numbers, words = self.decoded
        if not present[row]:
            return None
        return words[numbers[row]] if words else numbers[row].item()  # type: ignore[no-any-return]

    def replaced(self, values: Mapping[int, Value | None]) -> Chunk:
        """Another chunk, with other values for some of its rows."""
        after = self.to_list()
        for row, value in values.items():
            after[row] = value
        return Chunk.of(self.kind, after)


def chunks_of(kind: FieldType, values: Sequence[Value | None]) -> tuple[Chunk, ...]:
    """The values of all rows of a segment, cut into chunks."""
    return tuple(
        Chunk.of(kind, values[start : start + CHUNK]) for start in range(0, len(values), CHUNK)
    )


def check_fields(fields: Mapping[str, Any]) -> tuple[Field, ...]:
    """The fields of an index, as it was asked for.

    Raises:
        InputError: a name that is empty or a word of filters, or a type that is none of four.
    """
    checked = []
    for name, kind in fields.items():
        if not isinstance(name, str) or not name or name in RESERVED or not _is_unicode(name):
            raise InputError(
                f"a field needs a name other than {', '.join(RESERVED)}, got {name!r}", field=name
            )
        if kind not in TYPES.values():
            raise InputError(
                f"field {name!r}: expected one of the types {', '.join(TYPES)}, got {kind!r}",
                field=name,
            )
        checked.append(Field(name, kind))
    return tuple(checked)


def check_columns(
    columns: Mapping[str, Sequence[Any]] | None, fields: Sequence[Field], ids: Sequence[str | int]
) -> dict[int, list[Value | None]]:
    """Given values by the number of their field, one list per field.

    Raises:
        UnknownNameError: no field has this name.
        InputError: not one value per row, or a value of another type; the row's id is named.
    """
    names = [field.name for field in fields]
    checked = {}
    for name, values in (columns or {}).items():
        if name not in names:
            raise UnknownNameError.among("field", name, names)
        if isinstance(values, (str, bytes)) or len(values) != len(ids):
            raise InputError(
                f"field {name!r}: expected {len(ids)} values, one per row, got {values[:60]!r}"
                if isinstance(values, (str, bytes))
                else f"field {name!r}: expected {len(ids)} values, one per row, got {len(values)}",
                field=name,
            )
        number = names.index(name)
        checked[number] = list(_checked(values, fields[number], ids))
    return checked


def check_value(value: object, field: Field, where: str = "") -> Value:
    """A value as plain Python, if it fits its field.

    Raises:
        InputError: it does not.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    if field.type is float and isinstance(plain, int) and not isinstance(plain, bool):
        plain = float(plain) if abs(plain) <= _LARGEST else plain
    fits = type(plain) is field.type
    if fits and isinstance(plain, int):
        fits = plain in _INT64 or isinstance(plain, bool)
    if fits and isinstance(plain, float):
        fits = not math.isnan(plain)
    if fits and isinstance(plain, str):
        fits = _is_unicode(plain)
    if not fits:
        limits = {int: " from -2^63 to 2^63 - 1", float: " that is a number", str: " in Unicode"}
        raise InputError(
            f"field {field.name!r}{where}: expected {field.type.__name__}"
            f"{limits.get(field.type, '')}, got {shortened(value)}",
            field=field.name,
            value=value,
        )
    return plain  # type: ignore[return-value]  # `fits` says so


def shortened(value: object) -> str:
    """How a value is shown in a message, however long or deep it is."""
    return _SHOWN.repr(value)


def _checked(
    values: Sequence[Any], field: Field, ids: Sequence[str | int]
) -> Iterator[Value | None]:
    for name, value in zip(ids, values, strict=True):
        yield None if value is None else check_value(value, field, f" of row {shortened(name)}")


def _is_unicode(text: str) -> bool:
    """Whether the text has no half of a surrogate pair, which is no character and has no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
