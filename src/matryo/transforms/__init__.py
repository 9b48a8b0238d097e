"""Vectors in, vectors out: the steps between a model's output and what is stored or scored.

Hides how lengths are computed without overflow, how codes are packed and what they decode to, how
an eigenproblem is streamed, and how scikit-learn is satisfied without importing it. Functions take
an array and return one; the classes beside them hold settings and what was learned.
"""

from matryo.transforms.adaptor import Adaptor
from matryo.transforms.chain import Chain
from matryo.transforms.quantize import (
    PACKED_STEPS,
    Quantize,
    decode,
    encode,
    fit_scales,
    inverse_lengths,
    odd_integers,
)
from matryo.transforms.reorder import Reorder
from matryo.transforms.rotate import Rotation
from matryo.transforms.save import TRANSFORMS, load_transform, save_transform
from matryo.transforms.truncate import (
    PRE_STEPS,
    PreStep,
    Truncate,
    layer_norm,
    normalize,
    pre_step,
    truncate,
)

__all__ = [
    "PACKED_STEPS",
    "PRE_STEPS",
    "TRANSFORMS",
    "Adaptor",
    "Chain",
    "PreStep",
    "Quantize",
    "Reorder",
    "Rotation",
    "Truncate",
    "decode",
    "encode",
    "fit_scales",
    "inverse_lengths",
    "layer_norm",
    "load_transform",
    "normalize",
    "odd_integers",
    "pre_step",
    "save_transform",
    "truncate",
]
