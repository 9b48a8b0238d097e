"""What any funnel would answer, read off the shortlists of its stages.

A row survives a stage where it stands among the best `keep` of that stage's shortlist. Nothing is
searched again, so hundreds of funnels cost little more than one. Where the truth cannot be read
off, it is taken to be worse than it is, never better: a row counts as standing behind every row
whose score is within rounding of its own; a middle stage is taken to rank the row among all rows,
not only among those it received; and what lies beyond a list counts as lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from matryo.core import Funnel, InputError, Margin, Stage
from matryo.evaluation import measures
from matryo.search import NOWHERE, Level, Shortlist, TopK

_ROUNDING = 1e-5  # of float32 scores, as a share of the largest


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


@dataclass
class FunnelTable:
    """Quality and work of funnels on a set of queries.

    Args:
        lists: Shortlists of the same queries by level, one of them float32 at full width.
        k: Rows that an answer holds.
        judged: Judgments, for measures of relevance.
    """

    lists: Mapping[Level, Shortlist]
    k: int
    judged: Judged | None = None
    _places: dict[tuple[Level, Level], NDArray[np.int32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.full = Level(max(level.dim for level in self.lists))
        if self.full not in self.lists:
            raise InputError(f"expected a shortlist of {self.full}, the full width in float32")
        truth = self.lists[self.full]
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
        """
        answers = [self.answer(funnel) for funnel in funnels]
        if measure == f"neighbor_recall@{self.k}":
            return np.array([self._recall(answer) for answer in answers])
        if self.judged is None:
            raise InputError(f"{measure} needs judgments, and there are none")
        return self._relevance(answers, measure)

    def answer(self, funnel: Funnel) -> NDArray[np.int32]:
        """`(queries, k)` rows that a funnel gives back, best first, then `NOWHERE`."""
        last = _level(funnel.stages[-1])
        head = self.lists[last]
        alive = head.rows[:, : head.settled] != NOWHERE
        for place, stage in enumerate(funnel.stages[:-1]):
            alive &= self._survives(last, funnel, place, stage)
        # survivors first, each side in its order
        order = np.argsort(~alive, axis=1, kind="stable")[:, : self.k]
        rows = np.take_along_axis(head.rows[:, : head.settled], order, axis=1)
        return np.where(np.take_along_axis(alive, order, axis=1), rows, NOWHERE)

    def answer_scores(self, funnel: Funnel) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores `(queries, k)` of a funnel's answers: at its last stage, and at full width.

        Both are -inf where there is no row, or where it lies beyond the full width's list.
        """
        rows, last = self.answer(funnel), _level(funnel.stages[-1])
        scores = []
        for lists in (self.lists[last], self.lists[self.full]):
            place = _places(lists, rows)
            own = np.take_along_axis(lists.scores, np.minimum(place, self.cap - 1), axis=1)
            scores.append(np.where(place < lists.rows.shape[1], own, np.float32(-np.inf)))
        return scores[0], scores[1]

    def rows(self, funnel: Funnel, n_rows: int) -> tuple[float, ...]:
        """Mean number of rows that enter each stage, of `n_rows` stored ones."""
        entering = [float(n_rows)]
        for place, stage in enumerate(funnel.stages[:-1]):
            if isinstance(funnel.stop, Margin):
                scores = self.lists[_level(stage)].scores[:, : stage.keep]
                passed = (scores >= self._cut(funnel, place)[:, None]).sum(axis=1)
                entering.append(
                    float(np.maximum(passed, min(funnel.stop.probe, stage.keep)).mean())
                )
            else:
                entering.append(float(min(stage.keep, n_rows)))
        return tuple(entering)

    def margin_gaps(self, stages: Sequence[Stage], probe: int) -> list[NDArray[np.float64]]:
        """For each stage but the last, pairs of bar and score of the true neighbors.

        Returns:
            Arrays `(pairs, 2)`: the k-th best score of the next stage among the first `probe` rows,
            and the score of a true neighbor at this stage. Neighbors beyond the list are left out.
        """
        gaps = []
        for place, stage in enumerate(stages[:-1]):
            bar = self._bar(stages, place, probe)
            level = _level(stage)
            where = self._place(level, self.full)[:, : self.k]
            scores = self.lists[level].scores
            known = where < scores.shape[1]
            found = np.take_along_axis(scores, np.minimum(where, scores.shape[1] - 1), axis=1)
            pairs = np.stack([np.broadcast_to(bar[:, None], found.shape)[known], found[known]], 1)
            gaps.append(pairs[np.isfinite(pairs).all(axis=1)].astype(np.float64))
        return gaps

    def _survives(self, last: Level, funnel: Funnel, place: int, stage: Stage) -> NDArray[np.bool_]:
        """Which of the first rows of the last level's list pass this stage."""
        level = _level(stage)
        where = self._place(level, last)
        passes: NDArray[np.bool_] = where < stage.keep
        if isinstance(funnel.stop, Margin):
            scores = self.lists[level].scores
            own = np.take_along_axis(scores, np.minimum(where, scores.shape[1] - 1), axis=1)
            near = (where < scores.shape[1]) & (own >= self._cut(funnel, place)[:, None])
            passes &= near | (where < funnel.stop.probe)
        return passes

    def _cut(self, funnel: Funnel, place: int) -> NDArray[np.float64]:
        """The score that a row must reach at this stage, for each query; see `Margin`."""
        stop = funnel.stop
        assert isinstance(stop, Margin)  # noqa: S101  # for the type checker; callers have looked
        line = stop.lines[place]
        bar = self._bar(funnel.stages, place, stop.probe)
        return line.slope * bar + line.level - stop.width * line.spread

    def _bar(self, stages: Sequence[Stage], place: int, probe: int) -> NDArray[np.float64]:
        """k-th best score at the next stage among the first `probe` rows of this one."""
        here, there = _level(stages[place]), _level(stages[place + 1])
        scores = self.lists[there].scores
        where = self._place(there, here)[:, :probe]
        own = np.take_along_axis(scores, np.minimum(where, scores.shape[1] - 1), axis=1)
        own = np.where(where < scores.shape[1], own, -np.inf)
        bar = -np.partition(-own, self.k - 1, axis=1)[:, self.k - 1]
        return bar.astype(np.float64)

    def _place(self, level: Level, last: Level) -> NDArray[np.int32]:
        """Where the first rows of one level's list stand in another's, from 0; beyond is far."""
        key = level, last
        if key not in self._places:
            mine, other = self.lists[level], self.lists[last]
            self._places[key] = _places(mine, other.rows[:, : other.settled])
        return self._places[key]

    def _recall(self, answer: NDArray[np.int32]) -> NDArray[np.float64]:
        hits = (answer[:, :, None] == self._truth[:, None, :]).any(axis=2)
        recall: NDArray[np.float64] = hits.sum(axis=1) / self.k
        return recall

    def _relevance(self, answers: Sequence[NDArray[np.int32]], measure: str) -> NDArray[np.float64]:
        """Each different answer is measured once: most funnels agree on most queries."""
        judged = self.judged
        assert judged is not None  # noqa: S101  # for the type checker; `values` has looked
        number = np.arange(self.n_queries, dtype=np.int32)[:, None]
        stacked = np.concatenate([np.concatenate([number, rows], axis=1) for rows in answers])
        unique, inverse = np.unique(stacked, axis=0, return_inverse=True)
        names = [str(i) for i in range(len(unique))]
        scores = np.broadcast_to(-np.arange(self.k, dtype=np.float32), (len(unique), self.k))
        values = measures.relevance(
            TopK(unique[:, 1:].astype(np.int64), scores, []),
            query_ids=names,
            document_ids=judged.documents,
            qrels={
                name: judged.qrels[judged.queries[q]]
                for name, q in zip(names, unique[:, 0].tolist(), strict=True)
            },
            names=[measure],
        )[measure]
        return values[inverse.reshape(-1)].reshape(len(answers), self.n_queries)


def _level(stage: Stage) -> Level:
    return Level(stage.dim, stage.precision)


def _places(lists: Shortlist, wanted: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where rows stand in the lists of their queries, behind all that is within rounding."""
    cap = lists.rows.shape[1]
    beyond = np.iinfo(np.int32).max
    height = int(max(lists.rows.max(), wanted.max())) + 2  # the last number stands for no row
    found = np.full(height, beyond, np.int32)
    places = np.empty(wanted.shape, np.int32)
    order = np.arange(cap, dtype=np.int32)
    slack = np.float32(_ROUNDING) * np.abs(lists.scores[:, 0])
    for query, (rows, scores, asked) in enumerate(
        zip(lists.rows, lists.scores, wanted, strict=True)
    ):
        found[rows] = order
        found[NOWHERE] = beyond
        place = found[asked]
        known = place < beyond
        # rows settled exactly need no slack, and the order among them is the served one
        loose = known & (place >= lists.settled)
        worst = scores[place[loose]] - slack[query]
        place[loose] = np.searchsorted(-scores, -worst, side="right") - 1
        places[query] = place
        found[rows] = beyond
    return places
