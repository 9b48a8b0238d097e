"""Ids: int or text, checked when they come in, sorted in a segment, found again by their keys.

Rows of a segment are sorted by id (integers by number, texts by code point), so that of equal
scores in one segment the earlier row goes first. Integers are looked up where they are; for texts a
segment has 64 bits of BLAKE2b per id, sorted, beside the row of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, check_ids, shorten
from matryo.stores.embedded.segments import NewArray, Segment

IdKind = Literal["int", "str"]
ID_ARRAYS = {"ids", "ends", "text", "keys", "places"}
_INT64 = range(-(2**63), 2**63)


def check_kind(given: Sequence[str] | Sequence[int], kind: IdKind | None) -> list[Any]:
    """Ids as a list of plain ints or texts, all of one kind.

    Args:
        given: Ids without repeats.
        kind: What the index has; None while it has none.

    Raises:
        InputError: ids of two kinds, repeated ones, integers beyond 64 bits, or no Unicode.
    """
    ids = check_ids(given)
    odd = [name for name in ids if kind_of(name) != (kind or kind_of(ids[0]))]
    if odd:
        raise InputError(
            f"an index has ids of one kind, here {kind or kind_of(ids[0])}, got {shorten(odd)}",
            hint="turn them into texts, or into integers, before they are added",
            ids=odd,
        )
    beyond = [name for name in ids if not _can_be_kept(name)]
    if beyond:
        raise InputError(
            "ids must be texts in Unicode or integers from -2^63 to 2^63 - 1, "
            f"got {shorten(beyond)}",
            ids=beyond,
        )
    return list(ids)


def kind_of(name: str | int) -> IdKind:
    """Whether an id is an integer or a text."""
    return "int" if isinstance(name, int) else "str"


def ascending(ids: Sequence[Any]) -> NDArray[np.int64]:
    """The places of ids in the order in which a segment keeps them."""
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)


def id_arrays(ids: Sequence[Any]) -> dict[str, NewArray]:
    """What a segment keeps of sorted ids."""
    n = len(ids)
    if kind_of(ids[0]) == "int":
        return {"ids": NewArray(np.dtype("<i8"), (n,), [np.array(ids, "<i8")])}
    texts = [name.encode("utf-8") for name in ids]
    keys = _keys(ids)
    places = np.argsort(keys, kind="stable")
    ends = np.cumsum([len(text) for text in texts], dtype="<i8")
    return {
        "ends": NewArray(np.dtype("<i8"), (n,), [ends]),
        "text": NewArray(np.dtype("u1"), (int(ends[-1]),), [np.frombuffer(b"".join(texts), "u1")]),
        "keys": NewArray(np.dtype("<u8"), (n,), [keys[places]]),
        "places": NewArray(np.dtype("<i8"), (n,), [places]),
    }


def ids_of(segment: Segment, rows: NDArray[np.int64]) -> list[Any]:
    """The ids of some rows."""
    if "ids" in segment:
        return list(segment["ids"][rows].tolist())
    text, ends = segment["text"], segment["ends"]
    stops = ends[rows].tolist()
    starts = np.where(rows > 0, ends[np.maximum(rows - 1, 0)], 0).tolist()
    return [
        text[start:stop].tobytes().decode("utf-8")
        for start, stop in zip(starts, stops, strict=True)
    ]


def sought(ids: Sequence[Any]) -> NDArray[Any]:
    """What `find` compares of ids: the integers themselves, or the keys of texts."""
    return np.array(ids, np.int64) if kind_of(ids[0]) == "int" else _keys(ids)


def find(segment: Segment, ids: Sequence[Any], wanted: NDArray[Any]) -> NDArray[np.int64]:
    """The row of each id, -1 where the segment does not have it.

    Args:
        segment: Where to look.
        ids: At least one.
        wanted: What `sought` makes of the ids, once for all segments.
    """
    found = np.full(len(ids), -1, np.int64)
    kept = segment["ids" if "ids" in segment else "keys"][:]
    firsts = np.minimum(np.searchsorted(kept, wanted), len(kept) - 1)
    there = np.flatnonzero(kept[firsts] == wanted)
    if "ids" in segment:
        found[there] = firsts[there]
        return found
    lasts = np.searchsorted(kept, wanted[there], "right")
    for number, last in zip(there.tolist(), lasts.tolist(), strict=True):
        rows = segment["places"][firsts[number] : last]
        for row, name in zip(rows.tolist(), ids_of(segment, rows), strict=True):
            if name == ids[number]:
                found[number] = row
    return found


def _keys(texts: Sequence[str]) -> NDArray[np.uint64]:
    digests = [hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), "<u8")


def _can_be_kept(name: str | int) -> bool:
    if isinstance(name, int):
        return name in _INT64
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
