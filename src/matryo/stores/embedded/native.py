"""Funnels over the living rows of an index by the native kernel; see `live` for the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    Exact,
    Funnel,
    Lists,
    Margin,
    MatryoError,
    Precision,
    Stage,
    VectorError,
)
from matryo.search import Level, check_reach
from matryo.stores.embedded.layout import LONGEST_UNIT, Layout
from matryo.stores.embedded.live import Found, Step
from matryo.stores.embedded.packed import codes_of
from matryo.stores.embedded.segments import Segment
from matryo.stores.embedded.state import State
from matryo.transforms import truncate


class NativeSearch:
    """A funnel over some rows of a state, run by the kernel.

    Args:
        state: What the index holds; at least one row.
        layout: What its segments hold.
        funnel: Checked by `layout`; with an exact stop only if it goes by angles.
        living: For each segment which rows may be found, as `State.masks` gives them.
        kernel: The module.
        target: The set of instructions to use.
        threads: Most threads to use.
    """

    def __init__(
        self,
        state: State,
        layout: Layout,
        funnel: Funnel,
        living: Sequence[NDArray[np.uint32] | None],
        *,
        kernel: ModuleType,
        target: str,
        threads: int,
    ) -> None:
        self._kernel, self._target, self._threads = kernel, target, threads
        self._state, self._layout, self._living = state, layout, living
        self._stages, self._margin = funnel.stages, None
        levels = [Level(stage.dim, stage.precision) for stage in funnel.stages]
        self._longest = [_longest(state, layout, level) for level in levels]
        self._numbers = {level: number for number, level in enumerate(dict.fromkeys(levels))}
        self._asked = [
            (self._numbers[level], stage.keep, longest, _probes(stage))
            for level, stage, longest in zip(levels, funnel.stages, self._longest, strict=True)
        ]
        self._certain = isinstance(funnel.stop, Exact)
        if isinstance(funnel.stop, Margin):
            lines = [(line.slope, line.level, line.spread) for line in funnel.stop.lines]
            self._margin = kernel.Margin(funnel.stop.probe, funnel.stop.width, lines)

    def found(self, queries: NDArray[np.floating], *, explain: bool = True) -> list[Found]:
        """What `(q, full_dim)` queries find and, to `explain` it, what every stage did."""
        if self._layout.metric != "cosine":
            self._check_reach(queries)
        try:
            rows, scores, counts, works, microseconds = self._kernel.search(
                self._opened(),
                self._target,
                queries,
                self._asked,
                self._living,
                self._layout.metric,
                self._margin,
                self._certain,
                self._check,
                self._threads,
            )
        except MatryoError:  # of a damaged page
            raise
        except ValueError as error:
            raise VectorError(
                str(error), hint="cut to more numbers: these rows have no direction to compare"
            ) from error
        found = [
            Found(rows[query, :count], scores[query, :count], [])
            for query, count in enumerate(counts.tolist())
        ]
        if explain:
            for each, own_works, own_times in zip(found, works, microseconds, strict=True):
                for stage, work, took in zip(self._stages, own_works, own_times, strict=True):
                    received, kept = work.tolist()
                    size = received * stage.precision.bytes_per_vector(stage.dim)
                    each.steps.append(Step(str(stage), received, size, kept, float(took)))
        return found

    def _check(self, segment: int, page: int) -> None:
        self._state.parts[segment].segment.check_pages(np.array([page]))

    def _opened(self) -> Any:
        """The segments as the kernel reads them; a state keeps them."""
        key = tuple(self._numbers)
        if key not in self._state.opened:
            segments = self._kernel.Segments()
            for part in self._state.parts:
                own = part.segment
                levels = [
                    self._level(own, level, scanned=number == 0)
                    for level, number in self._numbers.items()
                ]
                # ids settle ties between segments; in one segment rows are in their order
                if "ids" in own:
                    segments.add_integers(own["ids"][:], levels)
                else:
                    segments.add_texts(own["ends"][:], own["text"][:], levels)
            self._state.opened[key] = segments
        return self._state.opened[key]

    def _level(self, segment: Segment, level: Level, *, scanned: bool) -> Any:
        dim, precision = level
        if precision.is_packed:
            return self._packed(segment, level)
        coded = codes_of(level) in segment
        section = segment[codes_of(level) if coded else "rows"]
        # what a scan reads is checked whole; other pages as the kernel comes to need them
        numbers, checked = (section[:], None) if scanned else section.unchecked()
        return self._kernel.number_level(
            numbers, dim, self._layout.steps(level), self._layout.normalize and not coded, checked
        )

    def _packed(self, segment: Segment, level: Level) -> Any:
        def read(name: str, of: Level) -> Any:
            return segment[f"{name} {of}"][:].reshape(-1) if f"{name} {of}" in segment else None

        lists = self._layout.lists_of(level)
        own = self._kernel.packed_level(
            level.precision.bits,
            level.dim,
            len(segment),
            read("codes", level),
            read("excess", level),
            read("bounds", level),
        )
        if level == self._layout.certified:
            self._kernel.with_angles(own, read("cosines", level), read("angles", level))
        if lists is not None and f"slots {level}" in segment:
            sizes = read("sizes", level)
            centroids = self._kernel.packed_level(
                Precision.INT4.bits,
                lists.dim,
                len(sizes),
                read("centroids", level),
                read("centroid excess", level),
                read("centroid bounds", level),
            )
            starts, slots = read("starts", level), read("slots", level)
            self._kernel.keep_in_lists(own, centroids, starts, sizes, slots)
        return own

    def _check_reach(self, queries: NDArray[np.floating]) -> None:
        for stage, longest in zip(self._stages, self._longest, strict=True):
            for asked in truncate(queries, stage.dim, normalize=False).tolist():
                check_reach(math.hypot(*asked), longest, self._layout.metric)


def _probes(stage: Stage) -> int:
    """Lists to read; 0 for every row."""
    return stage.access.probes if isinstance(stage.access, Lists) else 0


def _longest(state: State, layout: Layout, level: Level) -> float:
    """Length of the longest row at a level, over all segments."""
    if level.precision.is_packed or (layout.normalize and level not in layout.coded):
        return LONGEST_UNIT
    name = str(level) if level in layout.coded else "rows"
    return max(float(part.segment.facts["longest"][name]) for part in state.parts)
