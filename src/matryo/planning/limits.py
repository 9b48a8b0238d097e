"""What a budget leaves of the candidates, and which of its limits contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations

from matryo.core import InputError
from matryo.planning.cost import Budget
from matryo.planning.sequence import Candidate


def within(seen: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """Mark what is too dear.

    Raises:
        InputError: a limit that no candidate stays within, or two that none meets together.
    """
    fits = [budget.fits(one.cost) for one in seen]
    if not any(fits):
        raise _contradiction(seen, budget)
    return [
        one if fit else replace(one, status="too dear") for one, fit in zip(seen, fits, strict=True)
    ]


def _contradiction(seen: Sequence[Candidate], budget: Budget) -> InputError:
    limits = [
        Budget(**{name: value}) for name, value in asdict(budget).items() if value is not None
    ]
    for limit in limits:
        if not any(limit.fits(one.cost) for one in seen):
            nearest = min(seen, key=lambda one: _reach(one, limit))
            return InputError(
                f"no candidate stays within this limit; the nearest is {nearest.funnel}, which "
                f"{limit.misses(nearest.cost)[0]}",
                hint="allow more, or cut the corpus or the dims down",
                funnel=str(nearest.funnel),
            )
    for one, other in combinations(limits, 2):
        if not any(one.fits(c.cost) and other.fits(c.cost) for c in seen):
            best = min((c for c in seen if one.fits(c.cost)), key=lambda c: _reach(c, other))
            return InputError(
                f"two limits contradict each other, {_named(one)} and {_named(other)}: of what "
                f"meets the first, {best.funnel} comes nearest, but {other.misses(best.cost)[0]}",
                hint="loosen one of the two",
                funnel=str(best.funnel),
            )
    return InputError(
        f"no candidate stays within all {len(limits)} limits, though any two of them can be met",
        hint="loosen one of them",
    )


def _reach(one: Candidate, limit: Budget) -> float:
    """How much of the only limit of a budget a candidate takes."""
    used = asdict(one.cost)
    return max(
        float("inf") if used[name] is None else used[name] / value
        for name, value in asdict(limit).items()
        if value is not None
    )


def _named(limit: Budget) -> str:
    name, value = next((n, v) for n, v in asdict(limit).items() if v is not None)
    return f"{name} {value:g}"
