"""Maps that make frozen vectors truncatable: held, applied, saved and handed on.

Hides how a folder of maps is laid out and checked, how two digests become one space, and how a map
is written in the terms of others.
"""

from matryo.adaptation.export import to_numpy, to_onnx, to_sentence_transformers
from matryo.adaptation.saved import NestedMap

__all__ = ["NestedMap", "to_numpy", "to_onnx", "to_sentence_transformers"]
