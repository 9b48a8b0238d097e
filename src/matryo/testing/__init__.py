"""Conformance suites for those who write an encoder or a transform, and Hypothesis strategies.

Hides nothing but repetition: matryo's own implementations pass the same suites. Strategies live in
`matryo.testing.strategies`, the only module here that needs hypothesis.
"""

from matryo.testing.encoders import encoder_checks
from matryo.testing.transforms import transform_checks

__all__ = ["encoder_checks", "transform_checks"]
