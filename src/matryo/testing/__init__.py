"""Conformance suites for those who write an encoder, a transform or a store, and strategies.

Hides nothing but repetition: matryo's own implementations pass the same suites. Hypothesis
strategies live in `matryo.testing.strategies`, the only module here that needs hypothesis.
"""

from matryo.testing.encoders import encoder_checks
from matryo.testing.stores import SAMPLE_FIELDS, StoreCheck, StoreFactory, store_checks
from matryo.testing.transforms import transform_checks

__all__ = [
    "SAMPLE_FIELDS",
    "StoreCheck",
    "StoreFactory",
    "encoder_checks",
    "store_checks",
    "transform_checks",
]
