"""What the index holds as of one commit: a value that a search takes and keeps.

Rows are numbered through all segments, in the order of the segments. A row is alive until it is
deleted or replaced; an id is alive in one segment at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from matryo.core import FormatError
from matryo.stores.embedded.catalog import FILE, Contents, Key
from matryo.stores.embedded.fields import CHUNK, Chunk, Field, Value
from matryo.stores.embedded.ids import IdKind, ascending, find, ids_of, sought
from matryo.stores.embedded.segments import Segment, SegmentEntry
from matryo.stores.embedded.where import matcher

Places = slice | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """A segment, with what has changed since it was written.

    Attributes:
        segment: The file.
        columns: Chunks of rows: whether they are alive, and then one column per field.
    """

    segment: Segment
    columns: tuple[tuple[Chunk, ...], ...]

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """`(rows,)` which rows are alive."""
        return np.concatenate([chunk.decoded.numbers for chunk in self.columns[0]])

    def without(self, rows: NDArray[np.int64]) -> Part:
        """The same part, with these rows dead."""
        return self.replaced(0, dict.fromkeys(rows.tolist(), False)) if len(rows) else self

    def replaced(self, column: int, values: Mapping[int, Value | None]) -> Part:
        """The same part, with other values for some rows of a column."""
        by_chunk: dict[int, dict[int, Value | None]] = {}
        for row, value in values.items():
            by_chunk.setdefault(row // CHUNK, {})[row % CHUNK] = value
        chunks = list(self.columns[column])
        for place, changed in by_chunk.items():
            chunks[place] = chunks[place].replaced(changed)
        columns = list(self.columns)
        columns[column] = tuple(chunks)
        return replace(self, columns=tuple(columns))

    def values(self, column: int) -> list[Value | None]:
        """A column as a list, None where a row has no value."""
        return [value for chunk in self.columns[column] for value in chunk.to_list()]


@dataclass(frozen=True, eq=False)
class State:
    """A commit.

    Attributes:
        commit: Its number, from 0 on.
        next_segment: Number of the segment that would be written next.
        id_kind: What ids are; None before the first row.
        clipped: For each int8 level, how many numbers were clipped and how many were coded since
            the index was made.
        parts: Segments in the order of their numbers.
        fields: What rows may have.
    """

    commit: int
    next_segment: int
    id_kind: IdKind | None
    clipped: dict[str, tuple[int, int]]
    parts: tuple[Part, ...]
    fields: tuple[Field, ...]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Number of the first row of each part, and how many rows there are."""
        return np.cumsum([0, *(len(part.segment) for part in self.parts)], dtype=np.int64)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Numbers of the rows that are alive, ascending."""
        if not self.parts:
            return np.empty(0, np.int64)
        return np.flatnonzero(np.concatenate([part.alive for part in self.parts]))

    @cached_property
    def opened(self) -> dict[Any, Any]:
        """What the native kernel has opened of its segments."""
        return {}

    def matching(self, where: object) -> list[NDArray[np.bool_]]:
        """For each part which rows are alive and match a filter.

        Raises:
            InputError: the filter does not fit the fields.
        """
        matches = matcher(where, self.fields)
        flags = []
        for part in self.parts:
            places = zip(*part.columns[1:], strict=True)
            flags.append(part.alive & np.concatenate([matches(chunks) for chunks in places]))
        return flags

    @cached_property
    def masks(self) -> list[NDArray[np.uint32] | None]:
        """Which rows are alive, as `masks_of` says it."""
        return masks_of([part.alive for part in self.parts])

    def split(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, Places, NDArray[np.int64]]]:
        """For each part that has some of the rows: its place, theirs, and their numbers in it."""
        if len(self.parts) == 1:
            yield 0, slice(None), rows
            return
        owner = np.searchsorted(self.offsets[1:], rows, side="right")
        for number in np.unique(owner).tolist():
            places = np.flatnonzero(owner == number)
            yield number, places, rows[places] - self.offsets[number]

    def gathered(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of an array that all segments have."""
        first = self.parts[0].segment[name]
        gathered = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for number, places, local in self.split(rows):
            gathered[places] = self.parts[number].segment[name][local]
        return gathered

    def ids(self, rows: NDArray[np.int64]) -> list[Any]:
        """The ids of some rows."""
        ids: list[Any] = [None] * len(rows)
        for number, places, local in self.split(rows):
            found = ids_of(self.parts[number].segment, local)
            if isinstance(places, slice):
                return found
            for place, name in zip(places.tolist(), found, strict=True):
                ids[place] = name
        return ids

    def find(self, ids: Sequence[Any]) -> NDArray[np.int64]:
        """The number of the living row of each id, -1 where there is none."""
        found = np.full(len(ids), -1, np.int64)
        if not ids:
            return found
        wanted = sought(ids)
        for part, (start, _) in zip(self.parts, pairwise(self.offsets.tolist()), strict=True):
            rows = find(part.segment, ids, wanted)
            here = (rows >= 0) & part.alive[rows]
            found[here] = rows[here] + start
        return found

    @property
    def files(self) -> dict[str, int]:
        """Names of the files of its segments, with their numbers."""
        entries = [part.segment.entry for part in self.parts]
        return {entry.file: entry.number for entry in entries}

    def without(self, rows: NDArray[np.int64]) -> tuple[Part, ...]:
        """Its parts after these rows have died."""
        parts = list(self.parts)
        for number, _, local in self.split(rows):
            parts[number] = parts[number].without(local)
        return tuple(parts)

    def column(self, column: int, rows: NDArray[np.int64]) -> list[Value | None]:
        """The values that some rows have in a column of the parts."""
        values: list[Value | None] = [None] * len(rows)
        for number, places, local in self.split(rows):
            own = self.parts[number].values(column)
            for place, row in zip(
                np.arange(len(rows))[places].tolist(), local.tolist(), strict=True
            ):
                values[place] = own[row]
        return values

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Where each row, dead or alive, stands in the order of ids."""
        ranks = np.empty(int(self.offsets[-1]), np.int64)
        ranks[ascending(self.ids(np.arange(len(ranks))))] = np.arange(len(ranks))
        return ranks

    def by_id(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ascending rows in the order of their ids."""
        return rows if len(self.parts) <= 1 else rows[np.argsort(self.ranks[rows])]

    def ranking(
        self, rows: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows by falling score, those of equal scores by their ids instead of their numbers."""
        same = np.flatnonzero(scores[1:] == scores[:-1])
        if len(self.parts) == 1 or not same.size:
            return rows, scores  # a segment has its rows in the order of their ids
        tied = np.union1d(same, same + 1)
        place = np.zeros(len(rows), np.int64)
        place[tied[ascending(self.ids(rows[tied]))]] = np.arange(len(tied))
        order = np.lexsort((place, -scores))
        return rows[order], scores[order]


def masks_of(flags: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.uint32] | None]:
    """For each part one bit per row, 32 to a number, the first row lowest; None if all are set."""
    masks: list[NDArray[np.uint32] | None] = []
    for each in flags:
        bits = np.packbits(np.pad(each, (0, -len(each) % 32)), bitorder="little")
        masks.append(None if each.all() else bits.view("<u4"))
    return masks


def record_of(state: State) -> dict[str, Any]:
    """What the catalog keeps of a state beside its chunks."""
    return {
        "commit": state.commit,
        "next_segment": state.next_segment,
        "id_kind": state.id_kind,
        "clipped": {level: list(counts) for level, counts in state.clipped.items()},
        "segments": [part.segment.entry.to_dict() for part in state.parts],
    }


def state_of(
    folder: Path, contents: Contents, fields: tuple[Field, ...], opened: Mapping[str, Segment]
) -> State:
    """What was committed, with its segments open."""
    record = contents.commit
    parts = []
    for values in record["segments"]:
        entry = SegmentEntry(**values)
        segment = opened.get(entry.file) or Segment(folder, entry)
        columns = []
        for number, kind in enumerate((bool, *(field.type for field in fields))):
            chunks = []
            for place, start in enumerate(range(0, entry.rows, CHUNK)):
                key: Key = (entry.number, number, place)
                if key not in contents.chunks:
                    raise FormatError(
                        f"{folder / FILE}: the file is damaged (chunk {key} is missing)",
                        hint="restore the index from a snapshot, or build it again",
                        path=folder / FILE,
                    )
                rows = min(CHUNK, entry.rows - start)
                chunks.append(Chunk(kind, rows, contents.chunks[key]))
            columns.append(tuple(chunks))
        parts.append(Part(segment, tuple(columns)))
    return State(
        record["commit"],
        record["next_segment"],
        cast("IdKind | None", record["id_kind"]),
        {level: (counts[0], counts[1]) for level, counts in record["clipped"].items()},
        tuple(parts),
        fields,
    )


def changed_chunks(before: Sequence[Part], after: Sequence[Part]) -> dict[Key, bytes]:
    """The chunks of some parts that are not those of the same segments before."""
    known = {part.segment.entry.number: part.columns for part in before}
    changed: dict[Key, bytes] = {}
    for part in after:
        number = part.segment.entry.number
        for column, chunks in enumerate(part.columns):
            same = known[number][column] if number in known else (None,) * len(chunks)
            for place, (chunk, old) in enumerate(zip(chunks, same, strict=True)):
                if chunk is not old:
                    changed[number, column, place] = chunk.data
    return changed
