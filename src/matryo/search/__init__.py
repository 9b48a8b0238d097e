"""Retrieval in this process, and the only place where scores are computed.

Hides how a document is cut, scaled and coded before it is scored, how one pass over a corpus serves
every size, how rounding and ties are settled, and what a native kernel does where there is one.
"""

from matryo.search.answer import Answer, Work
from matryo.search.blocks import (
    ROWS,
    bounds_of,
    check_packed,
    excess_of,
    from_blocks,
    inverse_lengths_from,
    to_blocks,
)
from matryo.search.certified import (
    CertifiedSearch,
    check_certified,
    cosines_of,
    is_certified,
)
from matryo.search.exact import ExactSearch
from matryo.search.funnel import FunnelSearch
from matryo.search.kernels import REFERENCE, instruction_set, kernel
from matryo.search.onepass import View
from matryo.search.run import run
from matryo.search.scan import MOST_TIES, TopK, scan
from matryo.search.scores import (
    Level,
    check_level,
    packed_scores,
    pair_scores,
    rounded,
    stored_form,
)
from matryo.search.shortlist import NOWHERE, Shortlist, shortlists
from matryo.search.stored import (
    Stored,
    best_first,
    check_reach,
    packed_sums,
    parts,
    rounding,
    row_squares,
    settled_best,
)

__all__ = [
    "MOST_TIES",
    "NOWHERE",
    "REFERENCE",
    "ROWS",
    "Answer",
    "CertifiedSearch",
    "ExactSearch",
    "FunnelSearch",
    "Level",
    "Shortlist",
    "Stored",
    "TopK",
    "View",
    "Work",
    "best_first",
    "bounds_of",
    "check_certified",
    "check_level",
    "check_packed",
    "check_reach",
    "cosines_of",
    "excess_of",
    "from_blocks",
    "instruction_set",
    "inverse_lengths_from",
    "is_certified",
    "kernel",
    "packed_scores",
    "packed_sums",
    "pair_scores",
    "parts",
    "rounded",
    "rounding",
    "row_squares",
    "run",
    "scan",
    "settled_best",
    "shortlists",
    "stored_form",
    "to_blocks",
]
