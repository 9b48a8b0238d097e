"""The data that a plan is chosen on, and what funnels do on a part of its queries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from matryo.core import Funnel, InputError, Promise, Space
from matryo.evaluation import FunnelTable, Interval, Judged, Origin
from matryo.planning.certify import interval_of, kept_of, margin_of
from matryo.readers import Rows
from matryo.search import Level, View, shortlists

_DIGESTED = 4096  # rows of the corpus that its digest covers
_SPARE = 16
_SETTLE = 3  # answers whose order is exact in every shortlist


@dataclass(frozen=True)
class Calibration:
    """The data that a plan is chosen on.

    Attributes:
        queries: `(q, full_dim)` whole query vectors, after every map.
        corpus: `(n, full_dim)` whole document vectors.
        space: Where both come from.
        judged: Judgments, for a promise of relevance.
        exclude: For each query the rows it must not find.
        groups: Name of the group of each query.
        ids: Names of the rows, for messages.
        origin: What the data are.
        drawn: Whether the queries were drawn from the corpus: then there are figures, and no
            promise.
        transform: Digest of the map that was applied to both sides, or None.
    """

    queries: NDArray[np.floating]
    corpus: Rows
    space: Space
    judged: Judged | None = None
    exclude: Sequence[NDArray[np.integer]] | None = None
    groups: Sequence[str] | None = None
    ids: Sequence[str | int] | None = None
    origin: Origin = "real"
    drawn: bool = False
    transform: str | None = None


@dataclass(frozen=True)
class Part:
    """Some of the queries, and the values of funnels on them.

    Attributes:
        table: What any funnel answers on these queries.
        promise: What is asked of a funnel.
        full: The full width, that shares are taken of.
        n_rows: Documents.
        groups: Group of each query, or None.
        known: Values of the promise's measure by funnel.
        pick: Those of the queries that count.
    """

    table: FunnelTable
    promise: Promise
    full: Funnel
    n_rows: int
    groups: NDArray[np.str_] | None
    known: dict[Funnel, NDArray[np.float64]]
    pick: slice = field(default_factory=lambda: slice(None))

    def add(self, funnels: Sequence[Funnel]) -> None:
        """Learn the values of more funnels."""
        new = [funnel for funnel in dict.fromkeys(funnels) if funnel not in self.known]
        if new:
            values = self.table.values(new, self.promise.measure)
            self.known.update(zip(new, values, strict=True))

    def values(self, funnel: Funnel) -> NDArray[np.float64]:
        """`(n,)` values of the measure, one per query."""
        return self.known[funnel][self.pick]

    @property
    def whole(self) -> NDArray[np.float64]:
        """`(n,)` values of the full width."""
        return self.values(self.full)

    @property
    def names(self) -> NDArray[np.str_] | None:
        """`(n,)` group of each query, or None."""
        return None if self.groups is None else self.groups[self.pick]

    def kept(self, funnel: Funnel) -> float:
        """See `kept_of`."""
        return kept_of(self.promise, self.values(funnel), self.whole)

    def margin(self, funnel: Funnel) -> tuple[float, float]:
        """How far the promise is kept here, and the standard error of that."""
        return margin_of(self.promise, self.values(funnel), self.whole)

    def interval(self, funnel: Funnel, family: int) -> Interval:
        """Interval of `kept`, one of a family that holds together."""
        return interval_of(self.promise, self.values(funnel), self.whole, family=family)


def measure_part(
    data: Calibration,
    numbers: NDArray[np.integer],
    funnels: Sequence[Funnel],
    *,
    promise: Promise,
    full: Funnel,
    scales: Mapping[int, NDArray[np.float32]],
    progress: Callable[[int], None] | None = None,
) -> Part:
    """Read the corpus once with some of the queries, for every level that a funnel names.

    Args:
        data: Queries and documents.
        numbers: Which queries.
        funnels: What will be asked about.
        promise: Its measure is what is measured.
        full: The full width.
        scales: int8 steps by dim.
        progress: Called with the number of corpus rows done since the last call.

    Raises:
        InputError: the full width has a value of 0 on every query.
    """
    k = full.stages[0].keep
    stages = [stage for funnel in [full, *funnels] for stage in funnel.stages]
    lists = shortlists(
        data.queries[numbers],
        data.corpus,
        View(sorted({Level(s.dim, s.precision) for s in stages}), scales=scales),
        # a few rows more than are kept, so that ties at the end of the longest can be told apart
        cap=max(_SETTLE * k, *(stage.keep for stage in stages)) + _SPARE,
        settle=_SETTLE * k,
        metric=data.space.metric,
        exclude=None if data.exclude is None else [data.exclude[i] for i in numbers],
        ids=data.ids,
        progress=progress,
    )
    judged = data.judged
    if judged is not None:
        judged = replace(judged, queries=[judged.queries[i] for i in numbers])
    groups = None if data.groups is None else np.array(list(data.groups))[numbers]
    table = FunnelTable(lists, k, judged)
    part = Part(table, promise, full, data.corpus.shape[0], groups, {})
    part.add([full, *funnels])
    if not part.whole.any():
        raise InputError(
            f"{promise.measure} is 0 at full width on every query, so no share of it can be kept",
            hint="check that queries, documents and judgments belong together",
        )
    return part


def worst_group(part: Part, funnel: Funnel) -> str:
    """The group that keeps least, with an interval that holds for all groups together."""
    assert part.names is not None  # noqa: S101  # only asked where there are groups
    names = np.unique(part.names)
    rows = []
    for name in names:
        here = np.flatnonzero(part.names == name)
        own = replace(
            part, known={f: v[part.pick][here] for f, v in part.known.items()}, pick=slice(None)
        )
        if own.whole.any():
            rows.append((own.kept(funnel), str(name), own.interval(funnel, len(names)), len(here)))
    kept, name, interval, n = min(rows)
    return (
        f"of {len(names)} groups, {name!r} keeps least, {kept:.1%} ({interval.low:.1%} to "
        f"{interval.high:.1%}, an interval for all groups together, {n} queries)."
    )


def digest_of(data: Calibration) -> str:
    """SHA-256 over all queries, and over up to 4,096 documents evenly spread over the corpus."""
    n = data.corpus.shape[0]
    rows = np.unique(np.linspace(0, n - 1, min(n, _DIGESTED)).round().astype(np.int64))
    state = hashlib.sha256(f"{data.space.fingerprint} {data.corpus.shape}".encode())
    for part in (data.queries, data.corpus[rows]):
        state.update(np.ascontiguousarray(part, "<f4").tobytes())
    return state.hexdigest()
