"""Measures quality at every size; never chooses one.

Hides how fidelity and relevance are computed from one pass, which bound stands behind an interval,
how baselines are fitted without seeing a query, and how a verdict follows from what is shown.
"""

from matryo.evaluation.curves import (
    Curves,
    Grid,
    fit_steps,
    measure_labels,
    measure_pairs,
    measure_search,
)
from matryo.evaluation.intervals import (
    Interval,
    difference_interval,
    fewest_queries,
    mean_interval,
    queries_needed,
    share_interval,
    spearman_shares,
)
from matryo.evaluation.measures import neighbor_recall, parse_relevance, relevance, trec_order
from matryo.evaluation.records import Origin, Record, Rules, compare, judge, knee
from matryo.evaluation.shift import ScoreMap, fit_score_map

__all__ = [
    "Curves",
    "Grid",
    "Interval",
    "Origin",
    "Record",
    "Rules",
    "ScoreMap",
    "compare",
    "difference_interval",
    "fewest_queries",
    "fit_score_map",
    "fit_steps",
    "judge",
    "knee",
    "mean_interval",
    "measure_labels",
    "measure_pairs",
    "measure_search",
    "neighbor_recall",
    "parse_relevance",
    "queries_needed",
    "relevance",
    "share_interval",
    "spearman_shares",
    "trec_order",
]
