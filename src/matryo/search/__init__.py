"""Retrieval in this process, and the only place where scores are computed.

Hides how a document is cut, scaled and coded before it is scored, how one pass over a corpus serves
every size, and how rounding and ties are settled.
"""

from matryo.search.funnel import Answer, FunnelSearch
from matryo.search.scan import MOST_TIES, TopK, View, scan
from matryo.search.scores import Level, check_level, pair_scores, stored_form

__all__ = [
    "MOST_TIES",
    "Answer",
    "FunnelSearch",
    "Level",
    "TopK",
    "View",
    "check_level",
    "pair_scores",
    "scan",
    "stored_form",
]
