"""What planning hands around: candidates, and the choices that came of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from matryo.core import Funnel, Plan, Promise
from matryo.evaluation import Interval
from matryo.planning.cost import Cost

Name = Literal["cheap", "balanced", "safe"]
Minimize = Literal["bytes", "latency", "ram"]
MINIMIZE: dict[Minimize, str] = {
    "bytes": "bytes_read",
    "latency": "latency_ms",
    "ram": "ram_bytes",
}
# The part of the allowed loss that each choice may use, as the ordering queries saw it.
NAMES: tuple[tuple[Name, float], ...] = (("cheap", 1.0), ("balanced", 0.5), ("safe", 0.25))


@dataclass(frozen=True)
class Candidate:
    """One funnel that was considered.

    Attributes:
        funnel: What it is.
        cost: What it costs, modelled.
        kept: What it keeps on the ordering queries: the share of the full-width value, or, for a
            promise of a share, the share of queries that reach their floor.
        margin: How far the promise is kept on them.
        error: Standard error of `margin`.
        spend: What is minimized: bytes, or milliseconds; infinite where that is not known.
        status: `certified`; `failed` its test; `untested`, because a safer one failed before;
            `too dear` for the budget; or `passed over`, because another is cheaper and better, or
            it lies below the floor.
        p_value: Of its test, where there was one.
    """

    funnel: Funnel
    cost: Cost
    kept: float
    margin: float
    error: float
    spend: float
    status: Literal["certified", "failed", "untested", "too dear", "passed over"] = "passed over"
    p_value: float | None = None

    @property
    def certainty(self) -> float:
        """Standard errors by which the promise is kept: the higher, the likelier it passes."""
        return self.margin / max(self.error, 1e-12)


@dataclass(frozen=True)
class Choice:
    """One of the named choices.

    Attributes:
        name: `cheap`, `balanced` or `safe`.
        plan: The decision as a value.
        cost: What it costs, modelled.
        kept: As of a candidate, on the reporting queries.
        interval: Of `kept`, holding for all choices together with the confidence of the promise.
        n: Reporting queries.
    """

    name: Name
    plan: Plan
    cost: Cost
    kept: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class Choices:
    """What came of planning.

    Attributes:
        promise: What was to be kept.
        choices: From cheap to safe; empty if nothing within the budget keeps the floor.
        candidates: Everything that was considered.
        split: Queries in each part.
        needed: About how many certifying queries would certify the cheapest candidate that seems
            to keep the floor and was not certified; None if there is none.
        notes: What else is to be said, in sentences.
    """

    promise: Promise
    choices: list[Choice]
    candidates: list[Candidate]
    split: dict[str, int]
    needed: int | None
    notes: list[str]
