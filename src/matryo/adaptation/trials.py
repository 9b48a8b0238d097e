"""What maps are tried on: vectors that none of them was fitted on.

A trial turns a map into figures, one row for each of its items (a query, a pair, a labelled vector)
and one column for each size, and knows how to compare two maps on the same items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from matryo.core import Transform
from matryo.evaluation import (
    Interval,
    neighbor_recall,
    neighbor_votes,
    relevance,
    trec_order,
)
from matryo.search import Level, TopK, View, scan
from matryo.transforms import truncate

Both = tuple[Transform, Transform]  # map of queries, map of documents; None leaves vectors alone
Items = NDArray[np.integer]
Figures = NDArray[np.floating]
Weights = NDArray[np.floating]  # they add up to 1

_RESAMPLES = 1000
_VOTERS = 5


class Trial(Protocol):
    """A task on held-out items; higher figures are better.

    Attributes:
        measure: What is measured, as `nDCG@10`.
        n_items: How many there are.
    """

    measure: str
    n_items: int

    def figures(self, both: Both | None, dims: Sequence[int]) -> Figures:
        """`(items, sizes)` for a map, or for plain cutting."""

    def means(self, figures: Figures, items: Items) -> NDArray[np.float64]:
        """`(sizes,)` values of the measure over some items."""

    def difference(
        self, a: Figures, b: Figures, weights: Weights, items: Items, *, confidence: float
    ) -> Interval:
        """Interval for the value of a less that of b over some items, a weighted mean of sizes."""


class _Shares:
    """Figures from 0 to 1, whose mean is the value."""

    def means(self, figures: Figures, items: Items) -> NDArray[np.float64]:
        """`(sizes,)` means over some items."""
        return np.asarray(figures[items].mean(0), np.float64)

    def difference(
        self, a: Figures, b: Figures, weights: Weights, items: Items, *, confidence: float
    ) -> Interval:
        """Student's t interval of the paired differences.

        Of the usual tests this one keeps its level best on differences of search measures (Urbano
        and others 2019, "Statistical Significance Testing in Information Retrieval"). A bound for
        any numbers from -1 to 1 would be three times as wide on 57 queries of Cranfield, and would
        advise against maps that help.
        """
        gaps = (a[items] - b[items]) @ weights
        value, error = float(gaps.mean()), float(stats.sem(gaps))
        reach = float(stats.t.isf((1 - confidence) / 2, len(gaps) - 1)) * error
        return Interval(value - reach, value + reach)


@dataclass
class SearchTrial(_Shares):
    """Search: the share of full-width neighbors found or, with judgments, a relevance measure.

    Attributes:
        queries: `(q, full_dim)`.
        corpus: `(n, full_dim)`, all that is searched.
        judged: Names of queries and of documents, and judgments by name; None measures fidelity.
        exclude: For each query the rows that it must not find, itself for instance.
        k: Rows of an answer.
    """

    queries: NDArray[np.floating]
    corpus: NDArray[np.floating]
    judged: tuple[Sequence[str], Sequence[str], Mapping[str, Mapping[str, int]]] | None = None
    exclude: Sequence[NDArray[np.integer]] | None = None
    k: int = 10

    def __post_init__(self) -> None:
        self.n_items = len(self.queries)
        self.measure = f"neighbor_recall@{self.k}" if self.judged is None else f"nDCG@{self.k}"
        full_dim = self.corpus.shape[1]
        self._truth = None if self.judged else self._search(None, [full_dim])[full_dim]

    def figures(self, both: Both | None, dims: Sequence[int]) -> Figures:
        """One for each query and size."""
        found = self._search(both, dims)
        return np.stack([self._values(found[dim]) for dim in dims], axis=1)

    def _search(self, both: Both | None, dims: Sequence[int]) -> dict[int, TopK]:
        queries, corpus = _mapped(both, self.queries, self.corpus)
        found = scan(
            queries,
            corpus,
            {"": View([Level(dim) for dim in dims])},
            k=self.k,
            exclude=self.exclude,
            tie_order=trec_order(self.judged[1]) if self.judged else None,
        )
        return {level.dim: top for (_, level), top in found.items()}

    def _values(self, found: TopK) -> NDArray[np.float64]:
        if self._truth is not None:
            return neighbor_recall(found, self._truth, self.k)
        assert self.judged is not None  # noqa: S101  # there is a truth otherwise
        query_ids, document_ids, qrels = self.judged
        made = relevance(
            found,
            query_ids=query_ids,
            document_ids=document_ids,
            qrels=qrels,
            names=[self.measure],
        )
        return made[self.measure]


@dataclass
class LabelsTrial(_Shares):
    """Classification by the votes of the nearest labelled vectors.

    Attributes:
        known: `(n, full_dim)` vectors that vote.
        labels: `(n,)` their class numbers from 0.
        vectors: `(m, full_dim)` vectors to classify.
        truth: `(m,)` their class numbers.
    """

    known: NDArray[np.floating]
    labels: NDArray[np.integer]
    vectors: NDArray[np.floating]
    truth: NDArray[np.integer]

    def __post_init__(self) -> None:
        self.n_items, self.measure = len(self.vectors), f"accuracy ({_VOTERS} neighbors)"

    def figures(self, both: Both | None, dims: Sequence[int]) -> Figures:
        """1 where the vote is right, for each vector and size."""
        vectors, known = _mapped(both, self.vectors, self.known)
        found = scan(vectors, known, {"": View([Level(dim) for dim in dims])}, k=_VOTERS)
        hits = [
            neighbor_votes(found["", Level(dim)], self.labels, self.truth, _VOTERS) for dim in dims
        ]
        return np.stack(hits, axis=1)


@dataclass
class PairsTrial:
    """Graded pairs: Spearman's correlation of cosines with the grades.

    Attributes:
        left: `(n, full_dim)`.
        right: `(n, full_dim)`.
        grades: `(n,)`.
    """

    left: NDArray[np.floating]
    right: NDArray[np.floating]
    grades: NDArray[np.floating]

    def __post_init__(self) -> None:
        self.n_items, self.measure = len(self.grades), "Spearman"

    def figures(self, both: Both | None, dims: Sequence[int]) -> Figures:
        """The cosine of each pair at each size."""
        left, right = _mapped(both, self.left, self.right)
        cosines = [np.einsum("ij,ij->i", truncate(left, dim), truncate(right, dim)) for dim in dims]
        return np.stack(cosines, axis=1)

    def means(self, figures: Figures, items: Items) -> NDArray[np.float64]:
        """`(sizes,)` correlations over some items."""
        (values,) = self._correlations(figures, items[None])
        return np.asarray(values)

    def difference(
        self, a: Figures, b: Figures, weights: Weights, items: Items, *, confidence: float
    ) -> Interval:
        """Value ± z · the standard error over paired bootstrap resamples."""
        rng = np.random.default_rng(0)
        picks = items[rng.integers(0, len(items), (_RESAMPLES, len(items)))]
        gaps = (self._correlations(a, picks) - self._correlations(b, picks)) @ weights
        value = float((self.means(a, items) - self.means(b, items)) @ weights)
        reach = float(stats.norm.isf((1 - confidence) / 2)) * float(gaps.std(ddof=1))
        return Interval(value - reach, value + reach)

    def _correlations(self, figures: Figures, picks: Items) -> NDArray[np.float64]:
        """`(picks, sizes)` correlations of some resamples."""
        wanted = _unit_ranks(self.grades[picks])
        made = [(_unit_ranks(scores[picks]) * wanted).sum(1) for scores in figures.T]
        correlations: NDArray[np.float64] = np.stack(made, axis=1)
        return correlations


def _mapped(
    both: Both | None, queries: NDArray[np.floating], documents: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    if both is None:
        return queries, documents
    return both[0].transform(queries), both[1].transform(documents)


def _unit_ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks along the last axis, centred and of length 1: their products are correlations."""
    ranks = stats.rankdata(values, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(ranks, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = ranks / np.where(lengths > 0, lengths, 1)  # all alike: 0 with all
    return unit
