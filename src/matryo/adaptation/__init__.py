"""Maps that make frozen vectors truncatable: fitted, tried, chosen, saved and handed on.

Hides which maps a lesson allows and how each is fitted, how one is chosen on items that none has
seen, how a folder of maps is checked, and how a map is written in the terms of others.
"""

from matryo.adaptation.choose import FEWEST_ITEMS, Choice, choose_map
from matryo.adaptation.export import to_numpy, to_onnx, to_sentence_transformers
from matryo.adaptation.lesson import Lesson
from matryo.adaptation.methods import METHODS
from matryo.adaptation.saved import NestedMap
from matryo.adaptation.trials import LabelsTrial, PairsTrial, SearchTrial, Trial

__all__ = [
    "FEWEST_ITEMS",
    "METHODS",
    "Choice",
    "LabelsTrial",
    "Lesson",
    "NestedMap",
    "PairsTrial",
    "SearchTrial",
    "Trial",
    "choose_map",
    "to_numpy",
    "to_onnx",
    "to_sentence_transformers",
]
