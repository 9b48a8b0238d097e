"""Quality of answers, one value per query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import UnknownNameError
from matryo.search import NOWHERE, TopK

RELEVANCE = ("nDCG", "R", "RR", "P", "AP", "Success")


def neighbor_recall(found: TopK, truth: TopK, k: int) -> NDArray[np.float64]:
    """Share of the true `k` nearest neighbours that were found, per query.

    A found row counts if its full-width score is at least that of the true k-th: rows tied with it
    are as good as it.

    Args:
        found: Answers at some level, at least `k` rows wide.
        truth: Answers of exact search at full width, of the same queries.
        k: Neighbours that count.

    Returns:
        `(queries,)` numbers from 0 to 1.
    """
    recalls = np.empty(len(found.rows))
    for i, rows in enumerate(found.rows[:, :k]):
        # beyond k, the truth may hold rows with the score of the k-th: within its rows, then after
        same = truth.rows[i][truth.scores[i] >= truth.scores[i, k - 1]]
        good = np.concatenate([same, truth.tied[i]]) if len(same) == truth.rows.shape[1] else same
        recalls[i] = np.isin(rows, good).sum() / k
    return recalls


def parse_relevance(names: Sequence[str]) -> list[Any]:
    """Measures as ir-measures writes them: `nDCG@10`, `R@100`, `RR@10`.

    Raises:
        UnknownNameError: not such a name, or one without a cutoff.
    """
    import ir_measures

    parsed = []
    for name in names:
        kind, at, cutoff = name.partition("@")
        if kind not in RELEVANCE or not at or not cutoff.isdigit() or not int(cutoff):
            raise UnknownNameError.among("measure", name, [f"{kind}@10" for kind in RELEVANCE])
        parsed.append(ir_measures.parse_measure(name))
    return parsed


def cutoff(name: str) -> int:
    """The rank at which a measure such as `nDCG@10` stops."""
    return int(name.partition("@")[2])


def relevance(
    found: TopK,
    *,
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    qrels: Mapping[str, Mapping[str, int]],
    names: Sequence[str],
) -> dict[str, NDArray[np.float64]]:
    """Ranking measures per query, by ir-measures (trec_eval's own code underneath).

    Documents with one score are ordered as trec_eval orders them, by descending id.

    Args:
        found: Answers, at least as wide as the largest cutoff; `NOWHERE` stands for no row.
        query_ids: Id of each query.
        document_ids: Id of each row of the corpus.
        qrels: Judgments; every query has at least one positive one.
        names: As for `parse_relevance`.

    Returns:
        `(queries,)` values by name.
    """
    import ir_measures

    # The evaluators behind ir-measures differ on equal scores (the one for RR@k puts the smaller id
    # first), so they are given places, which leave nothing to order.
    run = {}
    for query, rows, scores in zip(query_ids, found.rows, found.scores, strict=True):
        pairs = zip(scores, rows, strict=True)
        ranked = sorted((s, document_ids[row]) for s, row in pairs if row != NOWHERE)
        run[query] = {name: float(place) for place, (_, name) in enumerate(ranked)}
    place = {query: i for i, query in enumerate(query_ids)}
    values = {name: np.zeros(len(query_ids)) for name in names}
    measures = dict(zip(parse_relevance(names), names, strict=True))
    wanted = {query: dict(qrels[query]) for query in query_ids}
    for metric in ir_measures.iter_calc(list(measures), wanted, run):
        values[measures[metric.measure]][place[metric.query_id]] = metric.value
    return values


def trec_order(ids: Sequence[str]) -> NDArray[np.int64]:
    """Place of each id among documents with one score: trec_eval puts the larger id first."""
    order = np.empty(len(ids), np.int64)
    by_bytes = sorted(range(len(ids)), key=lambda row: ids[row].encode(), reverse=True)
    order[by_bytes] = np.arange(len(ids))
    return order


def neighbor_votes(
    found: TopK, labels: NDArray[np.integer], truth: NDArray[np.integer], k: int
) -> NDArray[np.float64]:
    """Whether the `k` nearest training rows, weighted by their score, vote for the right label.

    Args:
        found: Nearest training rows of each test row.
        labels: `(n,)` label numbers of the training rows, from 0.
        truth: `(queries,)` label numbers of the test rows.
        k: Neighbours that vote. Of labels with equal votes the smaller number wins.

    Returns:
        `(queries,)` of 0 and 1.
    """
    votes = np.zeros((len(truth), int(labels.max()) + 1))
    rows, scores = found.rows[:, :k], found.scores[:, :k]
    np.add.at(votes, (np.arange(len(truth))[:, None], labels[rows]), np.maximum(scores, 0) + 1e-9)
    right: NDArray[np.float64] = (votes.argmax(axis=1) == truth).astype(np.float64)
    return right


def probe_hits(
    train: NDArray[np.floating],
    labels: NDArray[np.integer],
    test: NDArray[np.floating],
    truth: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Whether a logistic regression on frozen vectors (a linear probe) gives the right label.

    Args:
        train: `(n, dim)` vectors the probe is fitted on.
        labels: `(n,)` their label numbers.
        test: `(queries, dim)` vectors.
        truth: `(queries,)` their label numbers.

    Returns:
        `(queries,)` of 0 and 1.
    """
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=10.0, max_iter=1000).fit(train, labels)
    hits: NDArray[np.float64] = (probe.predict(test) == truth).astype(np.float64)
    return hits
