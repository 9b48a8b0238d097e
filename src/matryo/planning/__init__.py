"""Chooses what to run, with a promise: candidates, what they cost, and which of them are certified.

Hides how candidates are ordered on some queries, tested on others and reported on a third part, how
the cost of a funnel is modelled for a machine, and how a finished decision is put into words. It
never serves.
"""

from matryo.planning.calibration import this_machine
from matryo.planning.candidates import funnel_candidates
from matryo.planning.certify import split_queries
from matryo.planning.check import Check, check
from matryo.planning.choices import MINIMIZE, Candidate, Choice, Choices, Minimize
from matryo.planning.choose import choose
from matryo.planning.cost import Cost, Prices, cost
from matryo.planning.exits import CertifiedExits, certify_dim, certify_exits
from matryo.planning.explain import headline, size_in_words
from matryo.planning.limits import Budget
from matryo.planning.machine import Machine
from matryo.planning.parts import Calibration

__all__ = [
    "MINIMIZE",
    "Budget",
    "Calibration",
    "Candidate",
    "CertifiedExits",
    "Check",
    "Choice",
    "Choices",
    "Cost",
    "Machine",
    "Minimize",
    "Prices",
    "certify_dim",
    "certify_exits",
    "check",
    "choose",
    "cost",
    "funnel_candidates",
    "headline",
    "size_in_words",
    "split_queries",
    "this_machine",
]
