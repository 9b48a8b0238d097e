"""The embedded index: what callers see, and the order in which things reach the disk.

A commit writes its segment under a temporary name, waits for the disk, renames it, waits for the
folder, and only then makes it visible by one transaction of the catalog. Whatever a killed writer
leaves behind is not in the catalog, and goes when the index is next opened for writing. Files of
segments that were merged are unlinked after the commit: a process that has them mapped keeps them,
as POSIX promises.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    Capabilities,
    DimError,
    Exact,
    FormatError,
    Funnel,
    Hits,
    InputError,
    NestedVectors,
    Plan,
    Precision,
    Space,
    UnsupportedError,
    check_vectors,
    replacing_folder,
    shorten,
)
from matryo.readers import Vectors
from matryo.search import REFERENCE, instruction_set, kernel
from matryo.stores.embedded.catalog import FILE, FORMAT, KIND, Catalog, Contents
from matryo.stores.embedded.fields import (
    CHUNK,
    TYPES,
    Field,
    check_columns,
    check_fields,
    chunks_of,
)
from matryo.stores.embedded.ids import ascending, check_kind, id_arrays, kind_of
from matryo.stores.embedded.layout import Layout, merged
from matryo.stores.embedded.live import Found, LiveSearch, Step, widened
from matryo.stores.embedded.lock import WriterLock
from matryo.stores.embedded.native import NativeSearch
from matryo.stores.embedded.segments import NewArray, Segment, SegmentEntry, write_segment
from matryo.stores.embedded.state import Part, State, changed_chunks, masks_of, record_of, state_of
from matryo.transforms import fit_scales, truncate

_GIVEN = NDArray[np.floating] | NestedVectors | Vectors
_OURS = re.compile(r"\d+-[0-9a-f]{8}\.seg|\.\d+-[0-9a-f]{8}\.seg\..*\.part")
_MERGED = 8  # segments of about one size are merged
_SMALLEST = 512  # rows; below this, sizes count as one
_NO_ROWS, _NO_SCORES = np.empty(0, np.int64), np.empty(0, np.float32)
_LARGEST_MERGED = 1 << 17  # rows; more at once would make a caller of `add` wait


@dataclass(frozen=True, slots=True)
class Records:
    """Rows as they are kept.

    Attributes:
        ids: As asked for.
        vectors: `(n, full_dim)` float32, as they were given.
        fields: For each field one value per row, None where a row has none.
    """

    ids: list[str] | list[int]
    vectors: NDArray[np.float32]
    fields: dict[str, list[Any]]


class Index:
    """A folder of vectors, searched by the funnel of a plan; `create` or `open` gives one.

    One process, and in it one `Index`, may write; any number may read. A search sees the last
    commit that its index knows of: its own at once, those of another process after `refresh`.
    Threads may share an index. The folder must be on a local disk of a POSIX system.

    Attributes:
        path: The folder.
        plan: What is run, with its int8 steps.
        read_only: Whether it was opened for reading alone.
    """

    def __init__(self, path: str | Path, *, read_only: bool) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._writing = threading.RLock()
        self._reading = threading.Lock()  # of the catalog
        self._target = instruction_set()
        self._lock: WriterLock | None = None
        self._catalog = Catalog(self.path, read_only=read_only)
        try:
            if not read_only:
                self._lock = WriterLock(self.path)
            self.plan, self._fields = _plan_of(self._catalog)
            self._layout = Layout(self.plan)
            self._state: State | None = self._loaded(None)
            # funnels that were asked of a state already: a search may be far shorter than this
            self._prepared: tuple[State | None, dict[Any, NativeSearch]] = None, {}
        except BaseException:
            self._catalog.close()
            if self._lock is not None:
                self._lock.release()
            raise
        if not read_only:
            self._remove_orphans()

    @classmethod
    def create(
        cls,
        path: str | Path,
        space: Space,
        run: Plan | Funnel,
        *,
        scales: Mapping[int, NDArray[np.float32]] | None = None,
        calibration: NDArray[np.floating] | None = None,
        fields: Mapping[str, type] | None = None,
    ) -> Index:
        """Make an empty index and open it for writing.

        Args:
            path: A folder that does not exist yet, in one that does.
            space: Where all its vectors come from: if the plan names a transform, after it.
            run: What to run: a plan for this space, or a funnel.
            scales: int8 steps for each dim with an int8 stage; a plan brings its own.
            calibration: Vectors `(n, full_dim)` to learn the steps from instead; of the same kind
                as those that will be added, and more than a handful.
            fields: Names and types (`bool`, `int`, `float`, `str`) of what rows may have.

        Raises:
            InputError: `path` exists, int8 steps are missing or given twice, or fields that cannot
                be.
            SpaceMismatchError: the plan is for another space.
            UnsupportedError: an exit policy, inverted lists over codes that are not packed, or
                stages that an exact stop cannot be certain by.
        """
        plan = _with_steps(run, space, scales, calibration)
        Layout(plan)
        named = check_fields(fields or {})
        head = {
            "kind": KIND,
            "format": FORMAT,
            "plan": plan.to_dict(),
            "scales": {str(dim): steps.tobytes().hex() for dim, steps in plan.scales.items()},
            "fields": [[field.name, field.type.__name__] for field in named],
        }
        empty = State(0, 1, None, {}, (), named)
        with replacing_folder(path, overwrite=False) as folder:
            Catalog.create(folder / FILE, head, Contents(record_of(empty), {}))
        return cls(path, read_only=False)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        read_only: bool = False,
        verify: Literal["touch", "full"] = "touch",
    ) -> Index:
        """Open an index.

        Args:
            path: Its folder.
            read_only: Do not ask for the right to write, which only one process can have.
            verify: `"touch"`: every page of a file is checked when it is first read from;
                `"full"`: all of them now.

        Raises:
            FormatError: no index, one of a newer format, or a damaged file.
            InputError: another process has it open for writing; `pid` names the process.
        """
        if verify not in ("touch", "full"):
            raise InputError(f"verify must be 'touch' or 'full', got {verify!r}")
        index = cls(path, read_only=read_only)
        if verify == "full":
            with index._reading:
                index._catalog.check_all()
            for part in index._current.parts:
                part.segment.check_all()
        return index

    @property
    def space(self) -> Space:
        """The space of everything in it."""
        return self.plan.space

    @property
    def capabilities(self) -> Capabilities:
        """What it can do by itself; there is no limit to the number of stages."""
        precisions = {level.precision for level in self._layout.coded}
        return Capabilities(
            frozenset({*precisions, Precision.FLOAT32}), stages=2**31 - 1, filters=True, delete=True
        )

    def __len__(self) -> int:
        return len(self._current.rows)

    def ids(self) -> list[str] | list[int]:
        """All ids, ascending."""
        return sorted(self._current.ids(self._current.rows))

    def add(
        self,
        ids: Sequence[str] | Sequence[int],
        vectors: _GIVEN,
        fields: Mapping[str, Sequence[Any]] | None = None,
        *,
        space: Space | None = None,
    ) -> None:
        """Add rows; once this returns they are on the disk, and found by searches.

        Args:
            ids: One per row, texts or integers, none of them in the index yet.
            vectors: `(n, full_dim)` whole vectors of documents; kept as float32.
            fields: For each field one value per row, None where a row has none.
            space: Where the vectors come from, to be compared; nested vectors know it themselves.

        Raises:
            InputError: ids that are there already, repeat or cannot be; or values of other types.
            VectorError: NaN, infinity, or, for a cosine, a vector or a prefix of zeros.
            DimError: vectors that are not as wide as the space.
            SpaceMismatchError: vectors of another space.
            OSError: they could not be written; nothing has changed.
        """
        self._add(ids, vectors, fields, space, replace_known=False)

    def upsert(
        self,
        ids: Sequence[str] | Sequence[int],
        vectors: _GIVEN,
        fields: Mapping[str, Sequence[Any]] | None = None,
        *,
        space: Space | None = None,
    ) -> None:
        """Add rows, or replace those that are there with all their fields; see `add`."""
        self._add(ids, vectors, fields, space, replace_known=True)

    def delete(self, ids: Sequence[str] | Sequence[int]) -> None:
        """Remove rows.

        Raises:
            InputError: ids that are not there; nothing is removed then.
        """
        with self._changing() as state:
            rows = self._found(state, ids)
            if len(rows):
                self._commit(replace(state, parts=state.without(rows)))

    def update_fields(
        self, ids: Sequence[str] | Sequence[int], fields: Mapping[str, Sequence[Any]]
    ) -> None:
        """Set fields of rows, and leave their other fields and vectors as they are.

        Args:
            ids: One per row.
            fields: For each field one value per row; None takes the field away.

        Raises:
            InputError: ids that are not there, or values of other types; nothing is changed then.
            UnknownNameError: no field has this name.
        """
        with self._changing() as state:
            rows = self._found(state, ids)
            columns = check_columns(fields, self._fields, ids)
            if not len(rows) or not columns:
                return
            parts = list(state.parts)
            for number, places, local in state.split(rows):
                for column, values in columns.items():
                    chosen = np.arange(len(rows))[places].tolist()
                    changed = {
                        row: values[place]
                        for row, place in zip(local.tolist(), chosen, strict=True)
                    }
                    parts[number] = parts[number].replaced(column + 1, changed)
            self._commit(replace(state, parts=tuple(parts)))

    def get(self, ids: Sequence[str] | Sequence[int]) -> Records:
        """Rows by their ids.

        Raises:
            InputError: ids that are not there.
        """
        state = self._current
        rows = self._found(state, ids)
        vectors = np.empty((0, self.space.full_dim), np.float32)
        fields: dict[str, list[Any]] = {field.name: [None] * len(rows) for field in self._fields}
        if len(rows):
            vectors = state.gathered("rows", rows)
        for number, places, local in state.split(rows) if len(rows) else ():
            chosen = np.arange(len(rows))[places].tolist()
            for column, field in enumerate(self._fields):
                chunks = state.parts[number].columns[column + 1]
                for row, place in zip(local.tolist(), chosen, strict=True):
                    fields[field.name][place] = chunks[row // CHUNK].value(row % CHUNK)
        return Records(check_kind(ids, state.id_kind), vectors, fields)

    def search(
        self,
        queries: _GIVEN,
        *,
        k: int | None = None,
        funnel: Funnel | None = None,
        where: object | None = None,
        space: Space | None = None,
        threads: int | None = None,
    ) -> Hits:
        """The best `k` rows for each query, among those that match a filter.

        The answer is that of `matryo.search.FunnelSearch` over the matching rows, float32, in the
        order of their ids: of equal scores the smaller id goes first, integers by number and texts
        by code point. A filter is evaluated before the first stage, so no stage keeps fewer rows
        for it. With inverted lists it is the answer over the matching rows of the nearest lists.

        Args:
            queries: `(q, full_dim)` whole vectors of queries, of the space of the index.
            k: Rows per query; by default what the funnel's last stage keeps. With a smaller `k` the
                answer is cut; for a larger one every stage keeps at least `k` rows.
            funnel: What to run instead of the plan's; it may use the codes of the plan's stages,
                and any float32 stage.
            where: A filter in tuples or lists: `("year", ">=", 2000)`, with `==`, `!=`, `<`, `<=`,
                `>` or `>=`; `("language", "in", ["en", "de"])`; `("year", "exists")`; and of these
                `("and", a, b)`, `("or", a, b)` and `("not", a)`. A comparison with a field that a
                row does not have is false, and `not` makes it true.
            space: Where the queries come from, to be compared; nested vectors know it themselves.
            threads: Most threads of the native kernel; by default one per processor that this
                process may use.

        Returns:
            `complete` is False for a query where fewer than `k` rows match, or where the threshold
            of the plan, which counts for its own funnel only, leaves rows out.

        Raises:
            InputError: `k` below 1, or a filter that does not fit the fields.
            UnsupportedError: a funnel that needs other codes.
            VectorError: NaN, infinity, or, for a cosine, a query or a prefix of zeros.
            DimError: queries that are not as wide as the space.
            SpaceMismatchError: queries of another space.
            FormatError: a damaged file.
        """
        hits, _ = self._searched(queries, k, funnel, where, space, threads, explain=False)
        return hits

    def explain(
        self,
        queries: _GIVEN,
        *,
        k: int | None = None,
        funnel: Funnel | None = None,
        where: object | None = None,
        space: Space | None = None,
        threads: int | None = None,
    ) -> list[list[Step]]:
        """For each query, what each step of its search read and kept, and how long it took.

        A filter is a step of its own, before the stages. See `search`.
        """
        _, steps = self._searched(queries, k, funnel, where, space, threads, explain=True)
        return steps

    def info(self) -> dict[str, Any]:
        """What the index is and holds, as plain values.

        `clipped_share` says for each int8 level which share of all numbers that were ever added lay
        beyond the steps of the calibration and was clipped: if it rises, the vectors have drifted.
        """
        state = self._current
        written = int(state.offsets[-1])
        return {
            "path": str(self.path),
            "format": FORMAT,
            "commit": state.commit,
            "rows": len(state.rows),
            "dead_rows": written - len(state.rows),
            "segments": len(state.parts),
            "size_bytes": sum(part.segment.entry.size_bytes for part in state.parts),
            "space": self.space.describe(),
            "fingerprint": self.space.fingerprint,
            "funnel": str(self._layout.funnel),
            "transform": self.plan.transform,
            "ids": state.id_kind,
            "fields": {field.name: field.type.__name__ for field in self._fields},
            "scales": {dim: _digest(steps) for dim, steps in sorted(self.plan.scales.items())},
            "clipped_share": {
                level: clipped / coded for level, (clipped, coded) in state.clipped.items()
            },
            "kernel": self._target,
        }

    def compact(self) -> None:
        """Merge all segments into one and drop what is dead; readers keep what they have open.

        Small segments are merged by `add` and `upsert` as they come to be eight of about one size;
        what is dead in large ones stays until this is called.

        Raises:
            OSError: it could not be written; nothing has changed.
        """
        with self._changing() as state:
            if len(state.parts) > 1 or len(state.rows) < int(state.offsets[-1]):
                self._merge(state, list(range(len(state.parts))))

    def snapshot(self, path: str | Path) -> None:
        """Write what this index sees into another folder, every byte checked on the way.

        Raises:
            InputError: `path` exists.
            FormatError: a file is damaged; nothing is written then.
            OSError: it could not be written; nothing is left of it.
        """
        state = self._current
        with replacing_folder(path, overwrite=False) as folder:
            for part in state.parts:
                part.segment.copy_to(folder)
            contents = Contents(record_of(state), changed_chunks((), state.parts))
            Catalog.create(folder / FILE, self._catalog.head, contents)

    def refresh(self) -> bool:
        """See the last commit of the writer; returns whether there was a new one.

        Raises:
            FormatError: a damaged file.
        """
        with self._reading:
            before = self._current
            if self._catalog.last_commit() == before.commit:
                return False
            self._see(self._loaded(before))
            return True

    def close(self) -> None:
        """Give back the lock and the files; closing twice is no error."""
        with self._writing, self._reading:
            if self._state is not None:
                self._see(None)
                self._catalog.close()
                if self._lock is not None:
                    self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _current(self) -> State:
        state = self._state
        if state is None:
            raise InputError(f"{self.path}: this index was closed", hint="open it again")
        return state

    @contextmanager
    def _changing(self) -> Iterator[State]:
        """The state that a change starts from, while no other thread may change it."""
        if self.read_only:
            raise UnsupportedError(
                f"{self.path}: this index was opened with read_only=True",
                hint="open it for writing",
            )
        with self._writing:
            yield self._current

    def _add(
        self,
        given: Sequence[str] | Sequence[int],
        vectors: _GIVEN,
        fields: Mapping[str, Sequence[Any]] | None,
        space: Space | None,
        *,
        replace_known: bool,
    ) -> None:
        with self._changing() as before:
            ids = check_kind(given, before.id_kind)
            rows = self._whole(vectors, "vectors", space, ids)
            columns = check_columns(fields, self._fields, ids)
            if not ids:
                return
            self._layout.check_rows(rows, ids)
            known = before.find(ids)
            if not replace_known and (known >= 0).any():
                there = [ids[place] for place in np.flatnonzero(known >= 0)]
                raise InputError(
                    f"{len(there)} of these ids {'is' if len(there) == 1 else 'are'} in the index "
                    f"already: {shorten(there)}",
                    hint="upsert replaces rows; delete removes them",
                    ids=there,
                )
            # before the rows are written, so that an error means that they were not
            state = self._merge_small(before)
            if state is not before:
                known = state.find(ids)
            order = ascending(ids)
            if (np.diff(order) < 0).any():  # rows that are in order already are not copied
                rows = rows[order]
            arrays, facts, clipped = self._layout.arrays(rows)
            ids = [ids[place] for place in order]
            entry = self._written(state, {**id_arrays(ids), **arrays}, facts, len(ids))
            filled = [columns.get(number, [None] * len(ids)) for number in range(len(self._fields))]
            part = Part(
                Segment(self.path, entry),
                (
                    chunks_of(bool, [True] * len(ids)),
                    *(
                        chunks_of(field.type, [values[place] for place in order])
                        for field, values in zip(self._fields, filled, strict=True)
                    ),
                ),
            )
            self._commit(
                replace(
                    state,
                    next_segment=state.next_segment + 1,
                    id_kind=kind_of(ids[0]),
                    clipped=_counted(state, clipped, len(ids)),
                    parts=(*state.without(known[known >= 0]), part),
                )
            )

    def _written(
        self, state: State, arrays: Mapping[str, NewArray], facts: Mapping[str, Any], rows: int
    ) -> SegmentEntry:
        # never a name that was used before: whether a commit that failed did take place may be open
        name = f"{state.next_segment:06d}-{secrets.token_hex(4)}.seg"
        return write_segment(self.path / name, state.next_segment, rows, arrays, facts)

    def _merge_small(self, state: State) -> State:
        """Merge eight segments of about one size, if there are, and if that is soon done."""
        sizes: dict[int, list[int]] = {}
        for number, part in enumerate(state.parts):
            rows = int(part.alive.sum())
            size = 0 if rows < _SMALLEST else int(np.log(rows / _SMALLEST) / np.log(_MERGED)) + 1
            sizes.setdefault(size, []).append(number)
        for numbers in sizes.values():
            rows = sum(int(state.parts[number].alive.sum()) for number in numbers)
            if len(numbers) >= _MERGED and rows <= _LARGEST_MERGED:
                return self._merge(state, numbers)
        return state

    def _merge(self, state: State, numbers: Sequence[int]) -> State:
        """Replace some parts by one that has their living rows."""
        offsets = state.offsets
        alive = [offsets[n] + np.flatnonzero(state.parts[n].alive) for n in numbers]
        rows = np.concatenate(alive)
        kept = [part for number, part in enumerate(state.parts) if number not in numbers]
        if len(rows):
            ids = state.ids(rows)
            order = ascending(ids)
            rows, ids = rows[order], [ids[place] for place in order]
            arrays = merged(state, self._layout, rows)
            longest = [state.parts[number].segment.facts["longest"] for number in numbers]
            facts = {"longest": {name: max(each[name] for each in longest) for name in longest[0]}}
            entry = self._written(state, {**id_arrays(ids), **arrays}, facts, len(rows))
            columns = [chunks_of(bool, [True] * len(rows))]
            for number, field in enumerate(self._fields):
                columns.append(chunks_of(field.type, state.column(number + 1, rows)))
            kept.append(Part(Segment(self.path, entry), tuple(columns)))
        return self._commit(replace(state, next_segment=state.next_segment + 1, parts=tuple(kept)))

    def _commit(self, after: State) -> State:
        """Make a state the one that is seen, here and by others."""
        before = self._current
        after = replace(after, commit=before.commit + 1)
        gone = before.files.keys() - after.files.keys()
        new = after.files.keys() - before.files.keys()
        try:
            with self._reading:
                self._catalog.commit(
                    before.commit,
                    record_of(after),
                    changed_chunks(before.parts, after.parts),
                    [before.files[name] for name in gone],
                )
        except BaseException:
            # if even this cannot be read, the files stay until the index is opened again
            with suppress(OSError, FormatError), self._reading:
                if self._catalog.last_commit() == before.commit:
                    self._unlink(new)
                else:  # only the end of it failed: it took place, though perhaps not on the disk
                    self._see(after)
            raise
        self._see(after)
        self._unlink(gone)
        return after

    def _see(self, state: State | None) -> None:
        """Make a state the one that searches take; nothing of the one before is held here."""
        self._state = state
        self._prepared = None, {}

    def _unlink(self, names: set[str]) -> None:
        for name in names:
            with suppress(OSError):  # it is in nobody's way, and goes when the index is next opened
                (self.path / name).unlink()

    def _loaded(self, before: State | None) -> State:
        """The last commit; segments that are open already stay open."""
        opened = {part.segment.entry.file: part.segment for part in before.parts} if before else {}
        while True:
            contents = self._catalog.read()
            try:
                return state_of(self.path, contents, self._fields, opened)
            except FormatError:
                # the writer may have merged these files away since the catalog was read
                if self._catalog.last_commit() == contents.commit["commit"]:
                    raise

    def _remove_orphans(self) -> None:
        known = self._current.files
        orphans = {file.name for file in self.path.iterdir() if _OURS.fullmatch(file.name)}
        self._unlink(orphans - known.keys())

    def _found(self, state: State, ids: Sequence[str] | Sequence[int]) -> NDArray[np.int64]:
        """The rows of ids that must be there."""
        checked = check_kind(ids, state.id_kind)
        rows = state.find(checked)
        if (rows < 0).any():
            missing = [checked[place] for place in np.flatnonzero(rows < 0)]
            raise InputError(
                f"{len(missing)} of these ids {'is' if len(missing) == 1 else 'are'} not in the "
                f"index: {shorten(missing)}",
                ids=missing,
            )
        return rows

    def _whole(
        self,
        given: _GIVEN,
        what: str,
        space: Space | None,
        ids: Sequence[str | int] | None = None,
    ) -> NDArray[Any]:
        """Vectors as float32 (queries in float64 stay so), fit to meet those of the index."""
        there = "the vectors come from" if what == "vectors" else "the queries come from"
        for other in (space, getattr(given, "space", None)):
            if other is not None:
                self.space.require_same(other, here="this index holds", there=there)
        array = np.asarray((given.array if isinstance(given, Vectors) else given)[:])
        allow_zero = not self._layout.normalize
        if array.ndim == 2 and array.shape[1] != self.space.full_dim:
            raise DimError(
                f"{what}: this index holds vectors of {self.space.full_dim} numbers, "
                f"got {array.shape[1]}",
                hint="give whole vectors: the stages of the plan cut them",
                dim=array.shape[1],
            )
        if ids is not None and array.ndim == 2 and len(array) != len(ids):
            raise InputError(f"expected one vector per id, {len(ids)}, got {len(array)}")
        check_vectors(array, what=what, ids=ids, allow_zero=allow_zero)
        if ids is None and array.dtype == np.float64:
            return np.ascontiguousarray(array)
        with np.errstate(over="ignore", under="ignore"):  # what overflows or vanishes is refused
            single = np.asarray(array, np.float32, order="C")
        if array.dtype != np.float32:
            check_vectors(single, what=f"{what} as float32", ids=ids, allow_zero=allow_zero)
        return single

    def _searched(  # noqa: PLR0917  # the options of `search`, in their order
        self,
        queries: _GIVEN,
        k: int | None,
        funnel: Funnel | None,
        where: object | None,
        space: Space | None,
        threads: int | None,
        *,
        explain: bool,
    ) -> tuple[Hits, list[list[Step]]]:
        state = self._current
        chosen = funnel or self._layout.funnel
        last = chosen.stages[-1]
        asked = last.keep if k is None else _checked_k(k)
        used = _checked_threads(threads)
        array = self._whole(queries, "queries", space)
        started = time.perf_counter_ns()
        flags = None if where is None else state.matching(where)
        n_rows = len(state.rows) if flags is None else sum(int(own.sum()) for own in flags)
        took = (time.perf_counter_ns() - started) / 1000
        filtered = [Step("where", len(state.rows), 0, n_rows, took)] if flags is not None else []
        search = self._search_of(state, chosen, asked, flags, used)
        self._layout.check_prefixes(array, chosen, "queries")
        answers = [Found(_NO_ROWS, _NO_SCORES, []) for _ in array]
        if n_rows and search is not None:
            answers = search.found(array, explain=explain)
        ids: list[list[str | int]] = []
        scores, steps = list[NDArray[np.float32]](), list[list[Step]]()
        for answer in answers:
            found, kept = self._above_threshold(answer, chosen)
            ids.append(state.ids(found[:asked]) if len(found) else [])
            scores.append(kept[:asked])
            steps.append([*filtered, *answer.steps])
        complete = [len(names) == asked for names in ids]
        return Hits(ids, scores, last.dim, last.precision, complete), steps

    def _search_of(
        self,
        state: State,
        chosen: Funnel,
        k: int,
        flags: Sequence[NDArray[np.bool_]] | None,
        threads: int,
    ) -> NativeSearch | LiveSearch | None:
        """What runs a funnel over the rows that may be found; None over an empty index."""
        known, prepared = self._prepared  # at once, since other threads may replace it
        if known is not state:
            prepared = {}
            self._prepared = state, prepared
        key = None if chosen is self._layout.funnel else chosen, k, threads
        if flags is None and key in prepared:
            return prepared[key]
        self._layout.check(chosen)
        if not state.parts:
            return None
        run, built = widened(chosen, k), kernel()
        by_blocks = isinstance(run.stop, Exact) and self._layout.certified is None
        if built is None or self._target == REFERENCE or by_blocks:
            rows = state.rows if flags is None else np.flatnonzero(np.concatenate(flags))
            return LiveSearch(state, self._layout, run, rows) if len(rows) else None
        masks = state.masks if flags is None else masks_of(flags)
        native = NativeSearch(
            state, self._layout, run, masks, kernel=built, target=self._target, threads=threads
        )
        if flags is None:
            prepared[key] = native
        return native

    def _above_threshold(
        self, answer: Found, chosen: Funnel
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and scores without those whose full-width score is below the plan's threshold."""
        limit = self.plan.threshold
        if limit is None or chosen != self._layout.funnel:
            return answer.rows, answer.scores
        kept = np.interp(answer.scores, limit.scores, limit.full_scores) >= limit.full
        return answer.rows[kept], answer.scores[kept]


def _with_steps(
    run: Plan | Funnel,
    space: Space,
    scales: Mapping[int, NDArray[np.float32]] | None,
    calibration: NDArray[np.floating] | None,
) -> Plan:
    """A plan for this space, with the int8 steps that its stages need."""
    if isinstance(run, Plan):
        run.space.require_same(space, here="this plan is for", there="the index is for")
    plan = run if isinstance(run, Plan) else Plan(space, run)
    given = [bool(plan.scales), scales is not None, calibration is not None]
    if sum(given) > 1:
        raise InputError("int8 steps come from the plan, from scales or from calibration, got two")
    if scales is not None:
        plan = replace(plan, scales=dict(scales))
    if calibration is not None and isinstance(plan.run, Funnel):
        normalize = space.metric == "cosine"
        dims = {stage.dim for stage in plan.run.stages if stage.precision is Precision.INT8}
        if calibration.ndim != 2 or calibration.shape[1] != space.full_dim:
            raise DimError(
                f"expected calibration vectors of {space.full_dim} numbers, got shape "
                f"{calibration.shape}"
            )
        plan = replace(
            plan,
            scales={d: fit_scales(truncate(calibration, d, normalize=normalize)) for d in dims},
        )
    return plan


def _plan_of(catalog: Catalog) -> tuple[Plan, tuple[Field, ...]]:
    """The plan and the fields that an index was made for."""
    head = catalog.head
    scales = {
        int(dim): np.frombuffer(bytes.fromhex(steps), "<f4").astype(np.float32)
        for dim, steps in head["scales"].items()
    }
    fields = tuple(Field(name, TYPES[kind]) for name, kind in head["fields"])
    return Plan.from_dict(head["plan"], scales), fields


def _counted(state: State, clipped: Mapping[str, int], rows: int) -> dict[str, tuple[int, int]]:
    """How many numbers were clipped and coded, with some more rows."""
    counts = dict(state.clipped)
    for level, count in clipped.items():
        before, coded = counts.get(level, (0, 0))
        counts[level] = (before + count, coded + rows * int(level.partition("@")[0]))
    return counts


def _checked_k(k: object) -> int:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"k must be a whole number of at least 1, got {k!r}", k=k)
    return int(k)


def _checked_threads(threads: object) -> int:
    if threads is None:
        affinity = getattr(os, "sched_getaffinity", None)  # not on every system
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a whole number of at least 1, got {threads!r}")
    return threads


def _digest(steps: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(steps, "<f4").tobytes()).hexdigest()
