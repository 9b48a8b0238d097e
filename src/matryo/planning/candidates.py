"""Which funnels are worth considering."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from matryo.core import Funnel, InputError, Line, Margin, Nesting, Precision, Stage
from matryo.evaluation import FunnelTable
from matryo.search import Level

_STEP = 1.6  # from one shortlist length to the next
_LONGEST = 1500  # rows that go on from a first stage at most
_REREAD = (1.2, 2.0, 4.0)  # rows that a middle stage keeps, in answers
_PROBE = 2  # answers that a margin probes
_LOOSE = (1.5, 3.0)  # times the rows that a funnel may keep once it has a margin
_WIDTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5)


def keeps(k: int, n_rows: int) -> list[int]:
    """Shortlist lengths for answers of k rows, ascending: at most a quarter of all rows.

    Raises:
        InputError: fewer than 4 times k rows, which no shortlist would make shorter.
    """
    longest = min(_LONGEST, n_rows // 4)
    if longest < k:
        raise InputError(
            f"expected at least {4 * k} documents for answers of {k} rows, got {n_rows}: a "
            "shortlist would save nothing",
            hint="search all of them at full width",
        )
    lengths, length = [], float(k)
    while length <= longest:
        lengths.append(round(length))
        length *= _STEP
    return sorted(set(lengths))


def funnel_candidates(
    nesting: Nesting, precisions: Sequence[Precision], *, k: int, n_rows: int
) -> list[Funnel]:
    """Single sizes, and funnels of two and three stages, for answers of `k` rows.

    Two stages: a prefix at any precision, then the full width as float32 or int8. Three stages: a
    prefix of few bits, then twice as many bits or more of the full width, or of a longer prefix
    where both are single bits, then the full width as float32 for a few rows. The full width as
    float32, which keeps every floor, comes first.

    Args:
        nesting: Sizes; the last one is the full width.
        precisions: Number formats that may be stored; float32 is always allowed at full width.
        k: Rows of an answer.
        n_rows: Documents.
    """
    full_dim = nesting.full_dim
    full = Stage(full_dim, k)
    levels = levels_of(nesting, precisions)
    lengths = keeps(k, n_rows)
    funnels = [Funnel((full,))]
    funnels += [Funnel((Stage(x.dim, k, x.precision),)) for x in levels if x != Level(full_dim)]
    lasts = [Stage(full_dim, k, p) for p in (Precision.FLOAT32, Precision.INT8) if p in precisions]
    for level in levels:
        for last in lasts or [full]:
            if _bits(level) < _bits(Level(last.dim, last.precision)):
                funnels += [
                    Funnel((Stage(level.dim, keep, level.precision), last)) for keep in lengths
                ]
    for level in levels:
        for middle in levels:
            if not _pair(level, middle, full_dim):
                continue
            kept = [max(k + 1, round(share * k)) for share in _REREAD]
            # funnels that differ in their middle alone stand together: what enters it is the same
            funnels += [
                Funnel(
                    (
                        Stage(level.dim, keep, level.precision),
                        Stage(middle.dim, few, middle.precision),
                        full,
                    )
                )
                for keep in lengths
                for few in kept
                if keep > few
            ]
    return list(dict.fromkeys(funnels))


def levels_of(nesting: Nesting, precisions: Sequence[Precision]) -> list[Level]:
    """Every level that a candidate may have a stage at; the full width as float32 is among them."""
    levels = [Level(dim, precision) for dim in nesting for precision in precisions]
    return list(dict.fromkeys([Level(nesting.full_dim), *levels]))


def _pair(first: Level, middle: Level, full_dim: int) -> bool:
    """Whether these may be the first two of three stages: few bits, then clearly more of them.

    A middle shorter than the full width saves hardly anything, so few rows are left to read there;
    only a longer prefix of single bits costs as little.
    """
    if first.precision is Precision.FLOAT32 or middle.precision is Precision.FLOAT32:
        return False
    if middle.dim < full_dim and not first.precision is middle.precision is Precision.BINARY:
        return False
    finer = middle.precision.bits >= first.precision.bits and middle.dim >= first.dim
    return finer and _bits(middle) >= 2 * _bits(first)


def _bits(level: Level) -> int:
    return level.dim * level.precision.bits


def with_margins(table: FunnelTable, funnels: Sequence[Funnel]) -> list[Funnel]:
    """Each of these funnels with a margin of several widths, free to keep more rows.

    Args:
        table: What neighbors score at each stage is learned from it.
        funnels: Funnels of at least two stages.
    """
    stopping = []
    probe = round(_PROBE * table.k)
    for funnel, loose in product(funnels, _LOOSE):
        stages = [
            Stage(stage.dim, min(round(loose * stage.keep), table.cap), stage.precision)
            for stage in funnel.stages[:-1]
        ]
        if stages[-1].keep <= probe:
            continue
        stages.append(funnel.stages[-1])
        lines = tuple(_line(gaps) for gaps in table.margin_gaps(stages, probe))
        stopping += [Funnel(tuple(stages), Margin(probe, width, lines)) for width in _WIDTHS]
    return list(dict.fromkeys(stopping))


def _line(gaps: NDArray[np.float64]) -> Line:
    """The line through pairs of bar and score, by least squares."""
    bar, score = gaps.T
    spread = float(np.var(bar))
    slope = float(np.cov(bar, score, bias=True)[0, 1]) / spread if spread > 0 else 0.0
    rest = score - slope * bar
    return Line(round(slope, 4), round(float(rest.mean()), 4), round(float(rest.std()), 4))
