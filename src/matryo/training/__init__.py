"""Nested embeddings from torch: losses summed over sizes for the price of the full width.

Hides how one pass over blocks of dims serves every size, how a gradient is made without keeping
scores, and how batches are spread over processes and over time. Losses are functions of plain
tensors; no model is patched, and nothing is remembered between two calls.
"""

from matryo.training.cached import cached_step
from matryo.training.contrastive import nested_info_nce
from matryo.training.distillation import nested_distillation, nested_vector_mse
from matryo.training.general import nested
from matryo.training.heads import (
    NestedLinear,
    nested_cosine_softmax,
    nested_multilabel,
    nested_softmax,
)
from matryo.training.layers import LayersLoss, nested_layers, pooled_layers
from matryo.training.maps import LearnedMap, learn_map
from matryo.training.pairs import (
    PAIR_METRICS,
    PairMetric,
    contrastive,
    correlation,
    cosent,
    nested_pair_scores,
    nested_pairs,
    nested_triplet,
)
from matryo.training.quantized import PrecisionsLoss, nested_precisions, straight_through
from matryo.training.ranks import check_ranks_agree, gather_with_grad, own_targets
from matryo.training.result import NestedLoss
from matryo.training.sampling import SizeSampler
from matryo.training.saving import save_nested
from matryo.training.sizes import Sizes, dense_dims, sizes_of
from matryo.training.slicing import at_ffn_width, extract, reorder_ffn, smaller_encoder

__all__ = [
    "PAIR_METRICS",
    "LayersLoss",
    "LearnedMap",
    "NestedLinear",
    "NestedLoss",
    "PairMetric",
    "PrecisionsLoss",
    "SizeSampler",
    "Sizes",
    "at_ffn_width",
    "cached_step",
    "check_ranks_agree",
    "contrastive",
    "correlation",
    "cosent",
    "dense_dims",
    "extract",
    "gather_with_grad",
    "learn_map",
    "nested",
    "nested_cosine_softmax",
    "nested_distillation",
    "nested_info_nce",
    "nested_layers",
    "nested_multilabel",
    "nested_pair_scores",
    "nested_pairs",
    "nested_precisions",
    "nested_softmax",
    "nested_triplet",
    "nested_vector_mse",
    "own_targets",
    "pooled_layers",
    "reorder_ffn",
    "save_nested",
    "sizes_of",
    "smaller_encoder",
    "straight_through",
]
