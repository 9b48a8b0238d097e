"""Figures with their uncertainty and their verdict: what every table and report is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, TooFewError
from matryo.evaluation.intervals import (
    Interval,
    difference_interval,
    fewest_queries,
    mean_interval,
    queries_needed,
    share_interval,
)
from matryo.search import Level

Origin = Literal["real", "sample", "synthetic"]
Method = Literal["cut", "random", "rotation"]
Verdict = Literal["keeps", "below", "cannot tell", "figure only", "reference"]


@dataclass(frozen=True, slots=True)
class Record:
    """One figure.

    Attributes:
        dim: Prefix length.
        precision: Number format of the documents.
        method: `cut` (the prefix itself), or a baseline: `random` dims, or `rotation` before the
            cut.
        measure: Name of the measure.
        value: Mean over the queries.
        low: Lower end of the interval of `value`, which holds for all rows of a measure and method
            together.
        high: Upper end.
        kept: Share of the full-width value, None where that is 0.
        kept_low: Lower end of the interval of `kept`, from which the verdict follows.
        kept_high: Upper end.
        n: Number of queries.
        origin: `real`; `sample` (queries drawn from the corpus); or `synthetic`.
        verdict: Against the floor; `figure only` where no floor or no promise applies.
        needed: About how many queries would decide, where the verdict is `cannot tell`.
        bytes_per_vector: What one stored vector takes.
        trained: Whether the model was trained at this dim; None where nobody knows.
    """

    dim: int
    precision: str
    method: Method
    measure: str
    value: float
    low: float
    high: float
    kept: float | None
    kept_low: float | None
    kept_high: float | None
    n: int
    origin: Origin
    verdict: Verdict
    needed: int | None
    bytes_per_vector: int
    trained: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the figures of one run are judged by.

    Attributes:
        floor: Share of the full-width value to keep, above 0 and at most 1.
        confidence: With which all intervals of a measure hold together.
        origin: What the data are.
        drawn: Whether the queries were drawn from the corpus: figures then, and no promise.
    """

    floor: float
    confidence: float
    origin: Origin
    drawn: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.floor) and 0 < self.floor <= 1):
            raise InputError(
                f"floor must be above 0 and at most 1, as a share of the full width, "
                f"got {self.floor}",
                floor=self.floor,
            )
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence must be between 0 and 1, got {self.confidence}")

    def check_enough(self, n: int, family: int) -> None:
        """Refuse so few queries that no verdict could come of any result.

        Raises:
            TooFewError: with the number that is needed at least.
        """
        if self.drawn:
            return
        needed = fewest_queries(self.floor, confidence=self.confidence, family=family)
        if n < needed:
            raise TooFewError(
                f"at least {needed} queries are needed for any verdict at floor {self.floor:g} and "
                f"{self.confidence:.0%} confidence over {family} rows, got {n}",
                hint="give more queries, or leave out the floor",
                needed=needed,
            )


def judge(
    values: NDArray[np.floating],
    full: NDArray[np.floating],
    level: Level,
    *,
    measure: str,
    method: Method,
    family: int,
    rules: Rules,
    reference: bool = False,
) -> Record:
    """Make the record of one level from its value per query and those of the full width.

    The verdict is read off the interval of `kept` that is shown beside it.
    """
    confidence = rules.confidence
    low, high = mean_interval(values, confidence=confidence, family=family)
    kept: float | None = None
    share: Interval | None = None
    needed = None
    if (full == 1).all():
        kept, share = float(values.mean()), Interval(low, high)
    elif full.any():
        kept = float(values.mean() / full.mean())
        share = share_interval(values, full, confidence=confidence, family=family)
    verdict = give_verdict(share, rules, reference=reference)
    if verdict == "cannot tell" and share is not None:
        needed = queries_needed(values, full, rules.floor, confidence=confidence, family=family)
    if reference and share is not None:
        kept, share = 1.0, Interval(1.0, 1.0)
        if measure.startswith("neighbor_recall"):
            low = high = 1.0  # exact search is what recall is measured against
    return Record(
        dim=level.dim,
        precision=level.precision.value,
        method=method,
        measure=measure,
        value=float(values.mean()),
        low=low,
        high=high,
        kept=kept,
        kept_low=share.low if share else None,
        kept_high=share.high if share else None,
        n=len(values),
        origin=rules.origin,
        verdict=verdict,
        needed=needed,
        bytes_per_vector=level.precision.bytes_per_vector(level.dim),
    )


def give_verdict(share: Interval | None, rules: Rules, *, reference: bool) -> Verdict:
    """Where the interval of the kept share lies against the floor."""
    if reference:
        return "reference"
    if rules.drawn:
        return "figure only"
    if share is None:
        return "cannot tell"
    if share.low >= rules.floor:
        return "keeps"
    return "below" if share.high < rules.floor else "cannot tell"


def compare(
    a: NDArray[np.floating], b: NDArray[np.floating], *, confidence: float, family: int
) -> dict[str, Any]:
    """Mean difference a - b over the same queries, its interval, and whether it is shown."""
    low, high = difference_interval(a, b, confidence=confidence, family=family)
    return {
        "difference": float(a.mean() - b.mean()),
        "low": low,
        "high": high,
        "n": len(a),
        "shown": "a" if low > 0 else "b" if high < 0 else None,
    }


def knee(records: Sequence[Record]) -> Record | None:
    """The size after which more bytes buy little: farthest above the chord of kept against bytes.

    The curve is quality over the logarithm of bytes, from the smallest to the largest row given
    (Satopää et al. 2011, "Finding a kneedle in a haystack", without its smoothing).
    """
    rows = sorted((r for r in records if r.kept is not None), key=lambda r: r.bytes_per_vector)
    if len(rows) < 3:
        return None
    x = np.log([row.bytes_per_vector for row in rows])
    y = np.array([row.kept for row in rows])
    if x[-1] == x[0] or y[-1] <= y[0]:
        return None
    above = (y - y[0]) / (y[-1] - y[0]) - (x - x[0]) / (x[-1] - x[0])
    best = int(above.argmax())
    return rows[best] if above[best] > 0 else None
