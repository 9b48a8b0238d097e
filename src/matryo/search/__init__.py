"""Retrieval in this process, and the only place where scores are computed.

Hides how a document is cut, scaled and coded before it is scored, how one pass over a corpus serves
every size, and how rounding and ties are settled.
"""

from matryo.search.answer import Answer, Work
from matryo.search.exact import ExactSearch
from matryo.search.funnel import FunnelSearch
from matryo.search.onepass import View
from matryo.search.run import run
from matryo.search.scan import MOST_TIES, TopK, scan
from matryo.search.scores import Level, check_level, pair_scores, stored_form
from matryo.search.shortlist import NOWHERE, Shortlist, shortlists
from matryo.search.stored import Stored, check_reach, parts, rounding, row_squares, settled_best

__all__ = [
    "MOST_TIES",
    "NOWHERE",
    "Answer",
    "ExactSearch",
    "FunnelSearch",
    "Level",
    "Shortlist",
    "Stored",
    "TopK",
    "View",
    "Work",
    "check_level",
    "check_reach",
    "pair_scores",
    "parts",
    "rounding",
    "row_squares",
    "run",
    "scan",
    "settled_best",
    "shortlists",
    "stored_form",
]
