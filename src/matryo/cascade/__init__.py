"""Classification in this process that stops as soon as a prefix is sure enough.

Hides how the heads of all sizes are learned at once, how rows that are still in doubt go on to a
longer prefix, and how heads are stored.
"""

from matryo.cascade.cascade import Answers, Cascade, CascadeReport, Signal, run, signal_of
from matryo.cascade.classifier import NestedClassifier
from matryo.cascade.heads import HEADS, HeadKind, Heads

__all__ = [
    "HEADS",
    "Answers",
    "Cascade",
    "CascadeReport",
    "HeadKind",
    "Heads",
    "NestedClassifier",
    "Signal",
    "run",
    "signal_of",
]
