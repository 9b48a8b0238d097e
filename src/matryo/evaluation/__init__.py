"""Measures quality at every size; never chooses one.

Hides how fidelity and relevance are computed from one pass, which bound stands behind an interval,
how baselines are fitted without seeing a query, and how a verdict follows from what is shown.
"""

from matryo.evaluation.bounds import (
    conformal_knob,
    fewest_certifying,
    gains,
    hoeffding_bentkus_p_value,
    mean_p_value,
    queries_to_certify,
    share_p_value,
)
from matryo.evaluation.curves import (
    Curves,
    Grid,
    fit_sample,
    fit_steps,
    measure_labels,
    measure_pairs,
    measure_search,
)
from matryo.evaluation.funnels import FunnelTable, Judged
from matryo.evaluation.intervals import (
    Interval,
    difference_interval,
    fewest_queries,
    mean_interval,
    queries_needed,
    share_interval,
    spearman_shares,
)
from matryo.evaluation.measures import (
    cutoff,
    neighbor_recall,
    neighbor_votes,
    parse_relevance,
    relevance,
    trec_order,
)
from matryo.evaluation.records import Origin, Record, Rules, compare, judge, knee
from matryo.evaluation.shift import ScoreMap, fit_score_map

__all__ = [
    "Curves",
    "FunnelTable",
    "Grid",
    "Interval",
    "Judged",
    "Origin",
    "Record",
    "Rules",
    "ScoreMap",
    "compare",
    "conformal_knob",
    "cutoff",
    "difference_interval",
    "fewest_certifying",
    "fewest_queries",
    "fit_sample",
    "fit_score_map",
    "fit_steps",
    "gains",
    "hoeffding_bentkus_p_value",
    "judge",
    "knee",
    "mean_interval",
    "mean_p_value",
    "measure_labels",
    "measure_pairs",
    "measure_search",
    "neighbor_recall",
    "neighbor_votes",
    "parse_relevance",
    "queries_needed",
    "queries_to_certify",
    "relevance",
    "share_interval",
    "share_p_value",
    "spearman_shares",
    "trec_order",
]
