"""What a segment holds for the funnel of a plan, beside its ids.

    rows             whole vectors as they were given, float32, so that rescoring is one read a row
    codes LEVEL      codes of the cut, scaled prefixes of a level, contiguous; with several numbers
                     to a byte they are kept as `packed` says
    squares LEVEL    squared lengths of what the codes stand for; for the metric l2 only
    block N, rests   for an exact stop: the numbers between two stages, and what may follow them

float32 levels after the first stage have no codes: their numbers are read from the whole rows, and
cut and scaled on the way. A funnel that is not the plan's may therefore have any float32 stage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    Exact,
    Funnel,
    InputError,
    Lists,
    Plan,
    Precision,
    UnsupportedError,
    VectorError,
    name_rows,
    shorten,
)
from matryo.search import (
    ExactSearch,
    Level,
    check_certified,
    check_level,
    check_packed,
    cosines_of,
    is_certified,
    parts,
    row_squares,
)
from matryo.stores.embedded.packed import (
    PackedCodes,
    angle_arrays,
    codes_of,
    cosines_name,
    packed_arrays,
)
from matryo.stores.embedded.segments import NewArray, one
from matryo.stores.embedded.state import State
from matryo.transforms import decode, encode, truncate

_PLAIN = ("squares ", "block ", "rests")  # names of arrays with one row for each row
LONGEST_UNIT = 1 + 1e-6  # of a row that was scaled to length 1 in float32
_LARGEST_CODE = 127
_PART = 4096  # rows encoded or copied at once: whole blocks


class Layout:
    """How rows become arrays of a segment, by the funnel of a plan.

    Raises:
        UnsupportedError: a plan for a cascade, one whose precisions have no meaning for its metric,
            or inverted lists over codes that are not packed.
        InputError: int8 steps are missing.
    """

    def __init__(self, plan: Plan) -> None:
        if not isinstance(plan.run, Funnel):
            raise UnsupportedError(
                "expected a plan with a funnel, got one with an exit policy, for a cascade",
                hint="classify with matryo.cascade.run",
            )
        self.plan, self.funnel = plan, plan.run
        self.metric, self.full_dim = plan.space.metric, plan.space.full_dim
        self.normalize = self.metric == "cosine"
        self.coded: dict[Level, None] = {}  # in the order of the stages
        for number, stage in enumerate(self.funnel.stages):
            level = Level(stage.dim, stage.precision)
            check_level(level, self.metric)
            if level.precision.is_packed:
                check_packed(level)
            self.steps(level)
            # what a scan reads must be contiguous; whole rows are, unless they need to be scaled
            as_given = level == (self.full_dim, Precision.FLOAT32) and not self.normalize
            scanned = number == 0 and not as_given
            if level.precision is not Precision.FLOAT32 or scanned:
                self.coded[level] = None
        self.certified: Level | None = None  # of an exact stop that goes by angles
        if isinstance(self.funnel.stop, Exact) and is_certified(self.funnel.stages):
            check_certified(self.funnel.stages, self.metric, self.full_dim)
            self.certified = next(iter(self.coded))
        elif isinstance(self.funnel.stop, Exact):
            self.coded = {}  # it has blocks instead
        self._check_lists()
        self.check(self.funnel)
        if isinstance(self.funnel.stop, Exact) and self.certified is None:
            one = np.ones((1, self.full_dim), np.float32)
            ExactSearch(one, self.funnel.stages, metric=self.metric)  # refuses what it cannot run

    def check(self, funnel: Funnel) -> None:
        """Refuse a funnel for which segments do not hold what it reads.

        Raises:
            UnsupportedError: it needs other codes, inverted lists, or another exact stop.
        """
        first, own = funnel.stages[0], self.funnel.stages[0]
        if isinstance(first.access, Lists) and not (
            isinstance(own.access, Lists)
            and (first.dim, first.precision, first.access.dim)
            == (own.dim, own.precision, own.access.dim)
        ):
            raise UnsupportedError(
                f"this index has no inverted lists as in {funnel}, it was made for {self.funnel}",
                hint="leave the lists out, as in 64:500,768:10, or make another index",
            )
        for stage in funnel.stages:
            level = Level(stage.dim, stage.precision)
            stored = level in self.coded or level.precision is Precision.FLOAT32
            if stage.dim > self.full_dim or not stored:
                raise UnsupportedError(
                    f"this index has no codes for the stage {stage}, it was made for {self.funnel}",
                    hint="make another index for other codes; float32 stages may have any dim",
                )
        levels, kept = (
            [Level(stage.dim, stage.precision) for stage in each.stages]
            for each in (funnel, self.funnel)
        )
        if isinstance(funnel.stop, Exact) and not (
            isinstance(self.funnel.stop, Exact) and levels == kept
        ):
            raise UnsupportedError(
                f"this index has no bounds for an exact stop at {', '.join(map(str, levels))}, it "
                f"was made for {self.funnel}",
                hint=f"{self.full_dim}:10 reads everything, and is as certain",
            )

    def lists_of(self, level: Level) -> Lists | None:
        """The lists in which the codes of a level are kept."""
        first = self.funnel.stages[0]
        if level == (first.dim, first.precision) and isinstance(first.access, Lists):
            return first.access
        return None

    def _check_lists(self) -> None:
        """Refuse lists over codes that cannot be kept in lists."""
        first = self.funnel.stages[0]
        if not isinstance(first.access, Lists):
            return
        if isinstance(self.funnel.stop, Exact):
            raise UnsupportedError(f"an exact stop needs every row, got lists in {self.funnel}")
        if not first.precision.is_packed or first.access.dim > first.dim:
            raise UnsupportedError(
                "inverted lists need a first stage of int4, int2 or binary codes, and no more "
                f"dims than it has, got {first}",
                hint="for instance 128@int4[64x32]:200",
            )
        if any(
            (stage.dim, stage.precision) == (first.dim, first.precision)
            for stage in self.funnel.stages[1:]
        ):
            raise UnsupportedError(
                f"codes in lists can serve the first stage alone, got {self.funnel}"
            )

    def steps(self, level: Level) -> NDArray[np.float32] | None:
        """The int8 steps of a level, None for other precisions.

        Raises:
            InputError: they are missing.
        """
        if level.precision is not Precision.INT8:
            return None
        if level.dim not in self.plan.scales:
            raise InputError(
                f"an index with a stage {level} needs int8 steps for {level.dim} numbers, got none",
                hint="give scales from fit_scales, or calibration vectors to learn them from",
                dim=level.dim,
            )
        return self.plan.scales[level.dim]

    def check_prefixes(
        self,
        vectors: NDArray[np.floating],
        funnel: Funnel,
        what: str,
        ids: Sequence[str | int] | None = None,
    ) -> None:
        """Refuse vectors that have no direction left where a stage cuts them.

        Raises:
            VectorError: there are some; `ids` names them.
        """
        shortest = min(stage.dim for stage in funnel.stages)
        bad = np.flatnonzero(~vectors[:, :shortest].any(axis=1))
        if self.normalize and bad.size:
            names = name_rows(bad, ids)
            raise VectorError(
                f"{what} cut to {shortest} numbers: only zeros remain of {bad.size} "
                f"{'row' if bad.size == 1 else 'rows'}: {shorten(names)}",
                hint="leave these rows out; they have no direction to compare",
                ids=names,
            )

    def check_rows(self, vectors: NDArray[np.float32], ids: Sequence[str | int]) -> None:
        """Refuse rows that have no direction left where a stage cuts them, or that overflow there.

        Raises:
            VectorError: there are some; `ids` names them.
        """
        self.check_prefixes(vectors, self.funnel, "vectors", ids)
        halves = [level.dim for level in self.coded if level.precision is Precision.FLOAT16]
        if halves and not self.normalize:
            largest = np.abs(vectors[:, : max(halves)]).max(axis=1)
            bad = np.flatnonzero(largest > np.finfo(np.float16).max)
            if bad.size:
                names = name_rows(bad, ids)
                raise VectorError(
                    f"vectors: a stage keeps them as float16, which ends at 65504, got larger "
                    f"numbers in {bad.size} {'row' if bad.size == 1 else 'rows'}: {shorten(names)}",
                    hint="divide documents and queries by one number, or plan with float32",
                    ids=names,
                )

    def arrays(
        self, vectors: NDArray[np.float32]
    ) -> tuple[dict[str, NewArray], dict[str, Any], dict[str, int]]:
        """What a segment holds of checked vectors.

        Returns:
            The arrays; facts about them, which are the greatest lengths of what each level stands
            for; and for each int8 level, how many numbers its steps clipped.
        """
        arrays = {"rows": NewArray(np.dtype("<f4"), vectors.shape, [vectors])}
        longest = {"rows": float(np.sqrt(row_squares(vectors).max()))}
        clipped: dict[str, int] = {}
        for level in self.coded:
            codes, squares, beyond = self._encoded(vectors, level)
            if level.precision.is_packed:
                arrays |= packed_arrays(codes, level, self.lists_of(level))
            else:
                arrays[codes_of(level)] = one(codes)
            if self.metric == "l2":
                arrays[squares_of(level)] = one(squares)
            longest[str(level)] = float(np.sqrt(squares.max()))
            if level.precision is Precision.INT8:
                clipped[str(level)] = beyond
        if self.certified is not None:
            arrays |= angle_arrays(self._cosines(vectors, self.certified), self.certified)
        elif isinstance(self.funnel.stop, Exact):
            exact = ExactSearch(vectors, self.funnel.stages, metric=self.metric)
            for number, block in enumerate(exact.blocks):
                arrays[f"block {number}"] = one(block)
            arrays["rests"] = one(exact.rests.T)
        return arrays, {"longest": longest}, clipped

    def _cosines(self, vectors: NDArray[np.float32], level: Level) -> NDArray[np.float32]:
        """Of the angles between rows and the codes of an exact stop."""
        dim, precision = level
        cosines = np.empty(len(vectors), np.float32)
        for part in parts(len(vectors), _PART):
            codes = encode(truncate(vectors[part], dim), precision)
            whole = truncate(vectors[part], self.full_dim)
            cosines[part] = cosines_of(whole, decode(codes, precision, dim=dim))
        return cosines

    def _encoded(
        self, vectors: NDArray[np.float32], level: Level
    ) -> tuple[NDArray[Any], NDArray[np.float64], int]:
        """Codes, squared lengths of what they stand for, and how many numbers were clipped."""
        steps, precision = self.steps(level), level.precision
        codes = np.empty((len(vectors), precision.columns(level.dim)), precision.dtype)
        squares = np.ones(len(vectors), np.float64)  # as they are for packed codes

        def fill(part: slice) -> int:
            prefix = truncate(vectors[part, : level.dim], level.dim, normalize=self.normalize)
            codes[part] = own = encode(prefix, precision, scales=steps)
            if not precision.is_packed:
                squares[part] = row_squares(decode(own, precision, dim=level.dim, scales=steps))
            if steps is None:
                return 0
            rows, columns = np.nonzero(np.abs(own) == _LARGEST_CODE)
            beyond = np.rint(np.abs(prefix[rows, columns]) / steps[columns]) > _LARGEST_CODE
            return int(beyond.sum())

        spans = list(parts(len(vectors), _PART))
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy works without the interpreter lock
            clipped = sum((pool.map if len(spans) > 1 else map)(fill, spans))
        return codes, squares, clipped


def merged(state: State, layout: Layout, rows: NDArray[np.int64]) -> dict[str, NewArray]:
    """The arrays of a segment that has these rows, in this order.

    Packed codes are gathered in memory; all other numbers are read as they are written.
    """
    first, arrays = state.parts[0].segment, {}
    for name in ["rows", *(name for name in first.names if name.startswith(_PLAIN))]:
        like = first[name]
        shape = (len(rows), *like.shape[1:])
        arrays[name] = NewArray(like.dtype, shape, _gathered(state, name, rows))
    for level in layout.coded:
        if level.precision.is_packed:
            codes = np.empty((len(rows), level.precision.columns(level.dim)), np.uint8)
            for number, places, local in state.split(rows):
                codes[places] = PackedCodes(state.parts[number].segment, level)[local]
            arrays |= packed_arrays(codes, level, layout.lists_of(level))
            if level == layout.certified:
                arrays |= angle_arrays(state.gathered(cosines_name(level), rows), level)
        else:
            name, like = codes_of(level), first[codes_of(level)]
            shape = (len(rows), *like.shape[1:])
            arrays[name] = NewArray(like.dtype, shape, _gathered(state, name, rows))
    return arrays


def _gathered(state: State, name: str, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    for part in parts(len(rows), _PART):
        yield state.gathered(name, rows[part])


def squares_of(level: Level) -> str:
    """Name of the array with the squared lengths of a level."""
    return f"squares {level}"
