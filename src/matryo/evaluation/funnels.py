"""What any funnel would answer, read off the shortlists of its stages.

A row survives a stage where it stands among the best `keep` of the rows that the stage received.
Nothing is searched again, so hundreds of funnels cost little more than one. What cannot be read
off, because scores are within rounding of one another or because a row lies beyond a list, is taken
to be worse than it is, never better: a row that perhaps passes holds its place in the answer, so
that nothing behind it moves up, and counts as lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matryo.core import Exact, Funnel, InputError, Lists, Margin, Stage, UnsupportedError
from matryo.evaluation import measures
from matryo.search import NOWHERE, Level, Shortlist, TopK

_ROUNDING = 1e-5  # of float32 scores, as a share of the largest
_BEYOND = np.iinfo(np.int32).max  # the place of a row that is not listed
_WINDOW = 4  # rows of a middle stage's list that are looked at, for each row that it keeps


@dataclass(frozen=True)
class Judged:
    """Relevance judgments of the queries at hand.

    Attributes:
        queries: Id of each query.
        documents: Id of each row of the corpus.
        qrels: Judgments by query id and document id, at least one positive for each query.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    qrels: Mapping[str, Mapping[str, int]]


class _Standing(NamedTuple):
    """Where rows stand in a list, as far as it can be told; all are `(queries, rows)`.

    Attributes:
        first: Place, from 0, that a row does not stand before.
        last: Place that it does not stand behind.
        least: Score that it reaches for certain.
        most: Score that it does not exceed.
    """

    first: NDArray[np.int32]
    last: NDArray[np.int32]
    least: NDArray[np.float32]
    most: NDArray[np.float32]

    def of_first(self, width: int) -> _Standing:
        """That of the first rows only."""
        first, last, least, most = (part[:, :width] for part in self)
        return _Standing(first, last, least, most)  # type: ignore[arg-type]


_Passed = tuple[NDArray[np.bool_], NDArray[np.bool_]]  # for certain, perhaps


@dataclass
class FunnelTable:
    """Quality and work of funnels on a set of queries.

    Args:
        lists: Shortlists of the same queries by level, one of them float32 at full width.
        k: Rows that an answer holds.
        judged: Judgments, for measures of relevance.

    Raises:
        InputError: no shortlist of the full width as float32, fewer exact rows than k in a list, or
            a query that finds fewer rows than k.
    """

    lists: Mapping[Level, Shortlist]
    k: int
    judged: Judged | None = None
    _standings: dict[tuple[Level, Level], _Standing] = field(default_factory=dict)
    _last_received: tuple[Any, tuple[NDArray[np.int32], NDArray[np.int32]]] | None = None

    def __post_init__(self) -> None:
        self.full = Level(max(level.dim for level in self.lists))
        if self.full not in self.lists:
            raise InputError(f"expected a shortlist of {self.full}, the full width in float32")
        settled = min(lists.settled for lists in self.lists.values())
        if not 1 <= self.k <= settled:
            raise InputError(
                f"k must be at least 1 and at most the exact rows of every list, {settled}, "
                f"got {self.k}",
                hint="make the shortlists with a larger cap and settle",
                k=self.k,
            )
        truth = self.lists[self.full]
        few = np.flatnonzero(truth.rows[:, self.k - 1] == NOWHERE)
        if few.size:
            raise InputError(
                f"an answer holds {self.k} rows, but query number {few[0]} can find only "
                f"{(truth.rows[few[0]] != NOWHERE).sum()}",
                hint="ask for fewer rows, or leave such queries out",
            )
        kth = truth.scores[:, self.k - 1]
        # rows as near as the k-th neighbor are as good as it
        near = truth.scores[:, : truth.settled] >= kth[:, None]
        self._truth = np.where(near, truth.rows[:, : truth.settled], NOWHERE - 1)

    @property
    def cap(self) -> int:
        """Rows of the shortest kind of list: what a stage keeps beyond them is not known."""
        return int(min(lists.rows.shape[1] for lists in self.lists.values()))

    @property
    def n_queries(self) -> int:
        """Queries behind every figure."""
        return len(self._truth)

    def values(self, funnels: Sequence[Funnel], measure: str) -> NDArray[np.float64]:
        """Quality of each funnel on each query.

        Args:
            funnels: Funnels whose stages all have a shortlist and whose last stage keeps k rows.
            measure: `neighbor_recall@k`, or a ranking measure as ir-measures writes it.

        Returns:
            `(funnels, queries)` numbers from 0 to 1.

        Raises:
            InputError: a measure that needs judgments or more rows, or a funnel as in `answer`.
            UnsupportedError: a funnel as in `answer`.
        """
        answers = [self.answer(funnel) for funnel in funnels]
        if measure == f"neighbor_recall@{self.k}":
            return np.array([self._recall(answer) for answer in answers])
        if self.judged is None:
            raise InputError(f"{measure} needs judgments, and there are none")
        return self._relevance(answers, measure)

    def answer(self, funnel: Funnel) -> NDArray[np.int32]:
        """`(queries, k)` rows that a funnel gives back, best first.

        `NOWHERE` stands for a row that is not known, and at the end for none. Where no row is
        `NOWHERE`, this is the answer; otherwise the rows that are there stand in it no later.

        Raises:
            InputError: a stage without a shortlist, or a last stage that does not keep k rows.
            UnsupportedError: a funnel that reads inverted lists or stops by bounds.
        """
        self._check(funnel)
        last = _level(funnel.stages[-1])
        head = self.lists[last]
        sure, maybe = self._passing(funnel, len(funnel.stages) - 1, last, head.settled)
        # survivors first, each side in its order
        order = np.argsort(~maybe, axis=1, kind="stable")[:, : self.k]
        rows = np.where(sure, head.rows[:, : head.settled], np.int32(NOWHERE))
        return np.take_along_axis(rows, order, axis=1)

    def answer_scores(self, funnel: Funnel) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores `(queries, k)` of a funnel's answers: at its last stage, and at full width.

        Both are -inf where there is no row, or where it lies beyond the full width's list.
        """
        rows, last = self.answer(funnel), _level(funnel.stages[-1])
        own, whole = (_scores(lists, rows) for lists in (self.lists[last], self.lists[self.full]))
        return own, whole

    def rows(self, funnel: Funnel, n_rows: int) -> tuple[float, ...]:
        """Mean number of rows that enter each stage, of `n_rows` stored ones."""
        self._check(funnel)
        entering = [np.full(self.n_queries, n_rows)]
        for place, stage in enumerate(funnel.stages[:-1]):
            if isinstance(funnel.stop, Margin):
                width = self._window(funnel, place)
                _, maybe = self._passing(funnel, place + 1, _level(stage), width)
                passed = np.maximum(maybe.sum(axis=1), funnel.stop.probe)
            else:
                passed = np.full(self.n_queries, stage.keep)
            entering.append(np.minimum(passed, entering[-1]))
        return tuple(float(counts.mean()) for counts in entering)

    def margin_gaps(self, stages: Sequence[Stage], probe: int) -> list[NDArray[np.float64]]:
        """For each stage but the last, pairs of bar and score of the true neighbors.

        Returns:
            Arrays `(pairs, 2)`: the k-th best score of the next stage among the first `probe` rows,
            and the score of a true neighbor at this stage. Neighbors beyond the list are left out.
        """
        neighbors = self.lists[self.full].rows[:, : self.k]
        gaps = []
        for here, there in pairwise(stages):
            first = self.lists[_level(here)].rows[:, :probe]
            ahead = _scores(self.lists[_level(there)], first)
            bar = np.broadcast_to(_kth(ahead, self.k)[:, None], neighbors.shape)
            found = _scores(self.lists[_level(here)], neighbors)
            pairs = np.stack([bar.ravel(), found.ravel()], axis=1)
            gaps.append(pairs[np.isfinite(pairs).all(axis=1)].astype(np.float64))
        return gaps

    def _check(self, funnel: Funnel) -> None:
        if isinstance(funnel.stop, Exact) or isinstance(funnel.stages[0].access, Lists):
            raise UnsupportedError(
                "shortlists tell what stages that read every row keep, with or without a margin, "
                f"got {funnel}",
                hint="search with it instead",
            )
        if funnel.stages[-1].keep != self.k:
            raise InputError(f"expected a last stage that keeps {self.k} rows, got {funnel}")
        for stage in funnel.stages:
            if _level(stage) not in self.lists:
                raise InputError(
                    f"there is no shortlist of {_level(stage)}, which {funnel} has a stage at",
                    hint=f"there are {', '.join(map(str, sorted(self.lists)))}",
                )

    def _passing(self, funnel: Funnel, place: int, level: Level, width: int) -> _Passed:
        """Which of the first rows of a level's list pass the stages before `place`."""
        sure = maybe = self.lists[level].rows[:, :width] != NOWHERE
        for i, stage in enumerate(funnel.stages[:place]):
            own = self._standing(_level(stage), level, width)
            fewest, most = self._ahead(funnel, i, own)
            passes, perhaps = most < stage.keep, fewest < stage.keep
            if isinstance(funnel.stop, Margin):
                low, high = self._cut(funnel, i)
                passes = (passes & (own.least >= high)) | (most < funnel.stop.probe)
                perhaps = (perhaps & (own.most >= low)) | (fewest < funnel.stop.probe)
            sure, maybe = sure & passes, maybe & perhaps
        return sure, maybe

    def _ahead(
        self, funnel: Funnel, place: int, own: _Standing
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """How many rows that a stage received stand before these: at least, and at most."""
        if place == 0:
            return own.first, own.last
        width = self._window(funnel, place)
        sure, maybe = self._received(funnel, place, width)
        fewest = np.take_along_axis(sure, np.minimum(own.first, width), axis=1)
        # the row itself is counted, and is not before itself
        most = np.take_along_axis(maybe, np.minimum(own.last, width - 1) + 1, axis=1) - 1
        return fewest, np.where(own.last < width, most, np.int32(_BEYOND))

    def _received(
        self, funnel: Funnel, place: int, width: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """How many of the first rows of a stage's own list it received: for certain, and perhaps.

        Kept from one funnel to the next, since neighbors among the candidates often share it.
        """
        level = _level(funnel.stages[place])
        key = funnel.stages[:place], level, funnel.stop, width
        if self._last_received is None or self._last_received[0] != key:
            sure, maybe = (
                np.pad(np.cumsum(passed, axis=1, dtype=np.int32), ((0, 0), (1, 0)))
                for passed in self._passing(funnel, place, level, width)
            )
            self._last_received = key, (sure, maybe)
        return self._last_received[1]

    def _window(self, funnel: Funnel, place: int) -> int:
        """Rows of a stage's own list that are looked at, to see which of them it received."""
        lists = self.lists[_level(funnel.stages[place])]
        wanted = max(funnel.stages[place].keep, lists.settled)
        if isinstance(funnel.stop, Margin):
            wanted = max(wanted, funnel.stop.probe)
        return int(min(_WINDOW * wanted if place else wanted, lists.rows.shape[1]))

    def _cut(self, funnel: Funnel, place: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Between which scores the one lies that a row must reach at this stage; see `Margin`."""
        stop = funnel.stop
        assert isinstance(stop, Margin)  # noqa: S101  # for the type checker; callers have looked
        line = stop.lines[place]
        fixed = line.level - stop.width * line.spread
        bars = self._bar(funnel, place, stop.probe)
        ends = np.sort([line.slope * bar if line.slope else np.zeros(len(bar)) for bar in bars], 0)
        return ends[0][:, None] + fixed, ends[1][:, None] + fixed

    def _bar(
        self, funnel: Funnel, place: int, probe: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends of the k-th best score at the next stage, of the first rows that this one received.

        What is looked at may hold fewer than `probe` of those: then there is no upper end.
        """
        here, there = (_level(stage) for stage in funnel.stages[place : place + 2])
        lists, width = self.lists[here], self._window(funnel, place)
        if place == 0:
            width = min(max(probe, lists.settled), lists.rows.shape[1])
        sure, maybe = self._passing(funnel, place, here, width)
        fewest, most = self._ahead(funnel, place, self._standing(here, here, width))
        ahead = self._standing(there, here, width)
        low = _kth(np.where(sure & (most < probe), ahead.least, -np.inf), self.k)
        high = _kth(np.where(maybe & (fewest < probe), ahead.most, -np.inf), self.k)
        more = not lists.whole or width < lists.rows.shape[1]
        high[(sure.sum(axis=1) < probe) & more] = np.inf
        return low, high

    def _standing(self, level: Level, last: Level, width: int) -> _Standing:
        """Where the first rows of the list of `last` stand in that of `level`."""
        key = level, last
        if key not in self._standings or self._standings[key].first.shape[1] < width:
            self._standings[key] = _stand(self.lists[level], self.lists[last].rows[:, :width])
        return self._standings[key].of_first(width)

    def _recall(self, answer: NDArray[np.int32]) -> NDArray[np.float64]:
        hits = (answer[:, :, None] == self._truth[:, None, :]).any(axis=2)
        recall: NDArray[np.float64] = hits.sum(axis=1) / self.k
        return recall

    def _relevance(self, answers: Sequence[NDArray[np.int32]], measure: str) -> NDArray[np.float64]:
        """Each different answer is measured once: most funnels agree on most queries."""
        judged = self.judged
        assert judged is not None  # noqa: S101  # for the type checker; `values` has looked
        measures.parse_relevance([measure])
        if measures.cutoff(measure) > self.k:
            raise InputError(f"answers of {self.k} rows cannot be measured by {measure}")
        number = np.arange(self.n_queries, dtype=np.int32)[:, None]
        stacked = np.concatenate([np.concatenate([number, rows], axis=1) for rows in answers])
        unique, inverse = np.unique(stacked, axis=0, return_inverse=True)
        names = [str(i) for i in range(len(unique))]
        scores = np.broadcast_to(-np.arange(self.k, dtype=np.float32), (len(unique), self.k))
        # what is lost holds its place, under names that no document has
        lost = len(judged.documents) + np.arange(self.k)
        found = np.where(unique[:, 1:] == NOWHERE, lost, unique[:, 1:])
        values = measures.relevance(
            TopK(found, scores, []),
            query_ids=names,
            document_ids=[*judged.documents, *(f"\x1f{i}" for i in range(self.k))],
            qrels={
                name: judged.qrels[judged.queries[q]]
                for name, q in zip(names, unique[:, 0].tolist(), strict=True)
            },
            names=[measure],
        )[measure]
        return values[inverse.reshape(-1)].reshape(len(answers), self.n_queries)


def _level(stage: Stage) -> Level:
    return Level(stage.dim, stage.precision)


def _kth(scores: NDArray[np.floating], k: int) -> NDArray[np.float64]:
    """The k-th best score of each query; -inf where there are fewer."""
    if scores.shape[1] < k:
        return np.full(len(scores), -np.inf)
    return -np.partition(-scores, k - 1, axis=1)[:, k - 1].astype(np.float64)


def _find(lists: Shortlist, wanted: NDArray[np.int32]) -> NDArray[np.int32]:
    """Places of rows in the lists of their queries, from 0; `_BEYOND` where they are not listed."""
    order = np.arange(lists.rows.shape[1], dtype=np.int32)
    height = int(max(lists.rows.max(), wanted.max())) + 2  # the last number stands for no row
    found, places = np.full(height, _BEYOND, np.int32), np.empty(wanted.shape, np.int32)
    for query, (rows, asked) in enumerate(zip(lists.rows, wanted, strict=True)):
        found[rows] = order
        found[NOWHERE] = _BEYOND
        places[query] = found[asked]
        found[rows] = _BEYOND
    return places


def _scores(lists: Shortlist, wanted: NDArray[np.int32]) -> NDArray[np.float32]:
    """Scores of rows in the lists of their queries; -inf where they are not listed."""
    place = _find(lists, wanted)
    own = np.take_along_axis(lists.scores, np.minimum(place, lists.rows.shape[1] - 1), axis=1)
    return np.where(place < _BEYOND, own, np.float32(-np.inf))


def _stand(lists: Shortlist, wanted: NDArray[np.int32]) -> _Standing:
    """Where rows stand in the lists of their queries, whatever rounding did to their scores."""
    scores, place = lists.scores, _find(lists, wanted)
    listed = place < _BEYOND
    own = np.take_along_axis(scores, np.minimum(place, scores.shape[1] - 1), axis=1)
    ends = (lists.rows != NOWHERE).sum(axis=1)[:, None]
    tail, above = (np.take_along_axis(scores, np.maximum(ends - i, 0), axis=1) for i in (1, 2))
    slack = np.float32(_ROUNDING) * np.maximum(np.abs(scores[:, :1]), np.abs(tail))
    # a list that ends among rows which rounding may confuse has more of them behind its end
    crowded = (above <= tail + slack) & (not lists.whole)
    # rows settled exactly stand in the order that is served, unless one that is not may be better
    rival = np.take_along_axis(scores, np.minimum(ends - 1, lists.settled), axis=1)
    rival[(ends <= lists.settled) & ~crowded] = -np.inf
    exact = (place < lists.settled) & (own > rival + slack)
    most = np.where(listed, own, tail) + np.where(exact, np.float32(0), slack)
    least = np.where(listed, own - slack, np.float32(-np.inf))
    first, last = place.copy(), place.copy()
    for query, falling in enumerate(-scores):
        open_ = ~exact[query]
        first[query, open_] = falling.searchsorted(-most[query, open_], side="left")
        last[query, open_] = falling.searchsorted(-least[query, open_], side="right") - 1
    first = np.where(listed | crowded, first, ends.astype(np.int32))
    last = np.where(listed & ~(crowded & (least <= tail)), last, np.int32(_BEYOND))
    return _Standing(first, np.where(exact, place, last), np.where(exact, own, least), most)
