"""What one query found, and what finding it took."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matryo.core import Precision


@dataclass(frozen=True, slots=True)
class Work:
    """What one stage did.

    Attributes:
        rows_read: Rows of which it read something.
        bytes_read: Bytes of stored vectors that it read.
        rows_kept: Rows that went on to the next stage, or are the answer.
    """

    rows_read: int
    bytes_read: int
    rows_kept: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query found.

    Attributes:
        rows: `(k,)` row numbers, best first; of equal scores the earlier row goes first.
        scores: Their scores at the last stage.
        dim: Numbers of a vector that the scores were computed from.
        precision: Number format that the scores were computed from.
        bytes_read: Bytes of stored vectors that were read.
        dims_read: Numbers read per stored row, on average.
        stages: What each stage did.
        full_scores: The full-width score that each score stands for, by the threshold of a plan;
            None without one.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    dim: int
    precision: Precision
    bytes_read: int
    dims_read: float
    stages: tuple[Work, ...]
    full_scores: NDArray[np.float64] | None = None
