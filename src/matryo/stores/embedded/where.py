"""Filters: which rows may be found, told by their fields.

    ("year", ">=", 2000)                  ==  !=  <  <=  >  >=
    ("language", "in", ["en", "de"])
    ("year", "exists")
    ("and", a, b, ...)   ("or", a, b, ...)   ("not", a)

Tuples or lists. A comparison with a field that a row does not have is false, whatever the operator;
`not` makes it true. Texts are compared by their code points.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, UnknownNameError
from matryo.stores.embedded.fields import Chunk, Field, Value, Values, check_value, shortened

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SHAPE = (
    'write ("field", "==", value), ("field", "in", [values]), ("field", "exists"), '
    '("and", a, b), ("or", a, b) or ("not", a)'
)
_DEEPEST = 100

# for one chunk per field, by the number of the field: which of its rows match
Matcher = Callable[[Sequence[Chunk]], NDArray[np.bool_]]


def matcher(where: object, fields: Sequence[Field], depth: int = 0) -> Matcher:
    """Read a filter.

    Raises:
        InputError: it has another form, is nested deeper than 100 times, or compares a field with
            a value of another type.
        UnknownNameError: no field has this name.
    """
    if not isinstance(where, (tuple, list)) or not where or depth > _DEEPEST:
        raise _not_a_filter(where)
    head, *rest = where
    if head == "not" and len(rest) == 1:
        inner = matcher(rest[0], fields, depth + 1)
        return lambda chunks: ~inner(chunks)
    if head in ("and", "or") and rest:
        parts = [matcher(part, fields, depth + 1) for part in rest]
        join = np.logical_and if head == "and" else np.logical_or
        return lambda chunks: join.reduce([part(chunks) for part in parts])
    if head in ("and", "or", "not") or not isinstance(head, str) or not rest:
        raise _not_a_filter(where)
    names = [field.name for field in fields]
    if head not in names:
        raise UnknownNameError.among("field", head, names)
    number = names.index(head)
    return _comparison(number, fields[number], where)


def _comparison(number: int, field: Field, where: Sequence[Any]) -> Matcher:
    what, given = where[1], where[2:]
    if what == "exists" and not given:
        return lambda chunks: chunks[number].decoded.present
    if what == "in" and len(given) == 1 and isinstance(given[0], (tuple, list)):
        several = [check_value(value, field) for value in given[0]]
        return lambda chunks: _among(chunks[number].decoded, several)
    if what not in _COMPARE or len(given) != 1:
        raise _not_a_filter(where)
    if field.type is bool and what not in ("==", "!="):
        raise InputError(f"field {field.name!r} is a bool: compare it with == or !=, not {what}")
    value = check_value(given[0], field)
    return lambda chunks: _compared(chunks[number].decoded, what, value)


def _compared(values: Values, what: str, value: Value) -> NDArray[np.bool_]:
    numbers, sought = values.numbers, value
    if isinstance(value, str):
        # words are sorted: doubled places leave room between them for a text that is none of them
        place = bisect_left(values.words, value)
        known = place < len(values.words) and values.words[place] == value
        numbers, sought = numbers.astype(np.int64) * 2, 2 * place if known else 2 * place - 1
    matching: NDArray[np.bool_] = values.present & _COMPARE[what](numbers, sought)
    return matching


def _among(values: Values, several: Sequence[Value]) -> NDArray[np.bool_]:
    matching = np.zeros(len(values.present), np.bool_)
    for value in several:
        matching |= _compared(values, "==", value)
    return matching


def _not_a_filter(where: object) -> InputError:
    return InputError(f"expected a filter, got {shortened(where)}", hint=_SHAPE)
