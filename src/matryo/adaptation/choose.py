"""One map for all sizes, chosen on held-out items; or the advice to leave the vectors alone.

The items of a trial are dealt out at random. One half chooses: whatever has the highest mean over
the sizes, plain cutting among them. The other half judges what was chosen, against plain cutting.
Maps that differ by size would make different spaces without a prefix in common, so there is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.adaptation.lesson import Lesson
from matryo.adaptation.methods import METHODS, Both, methods_for
from matryo.adaptation.saved import NestedMap
from matryo.adaptation.trials import Trial
from matryo.core import InputError, MatryoError, Nesting, Space, TooFewError, VectorError
from matryo.transforms import Reorder

FEWEST_ITEMS = 40  # half of them judge, and fewer could not show a difference


@dataclass(frozen=True)
class Choice:
    """What was tried and what came of it.

    Attributes:
        chosen: Name of the method, `"cut"` where plain cutting was best.
        best: Name of the method that was best among the maps, whether chosen or not.
        recommended: Whether the chosen map is shown to be better than plain cutting on average
            over the sizes, and worse at none of them.
        map: The best map.
        rows: One dictionary for each method and size: `method`, `dim`, `value`, and, for the
            best one, `difference`, `low` and `high` against plain cutting.
        overall: `value`, `difference`, `low` and `high` of the mean over the sizes, by method.
        elsewhere: As `rows`, for the best map on every further trial, with its `trial`.
        seconds: What fitting took, by method.
        failed: Why a method was left out, by its name.
        headline: One sentence.
    """

    chosen: str
    best: str
    recommended: bool
    map: NestedMap
    rows: list[dict[str, Any]]
    overall: dict[str, dict[str, float]]
    elsewhere: list[dict[str, Any]]
    seconds: dict[str, float]
    failed: dict[str, str]
    headline: str


def choose_map(
    lesson: Lesson,
    trial: Trial,
    dims: Sequence[int],
    space: Space,
    *,
    methods: str = "auto",
    weights: Sequence[float] | None = None,
    elsewhere: Mapping[str, Trial] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Choice:
    """Fit every map that the lesson allows, and choose.

    Args:
        lesson: What the maps learn from; nothing of it may be an item of a trial.
        trial: Held-out items that choose and judge.
        dims: Sizes in ascending order, below the full width.
        space: Where the vectors come from.
        methods: `"auto"`, or names with commas between them. A method that cannot be fitted on
            these vectors is left out under `"auto"`, and an error where it was named.
        weights: What each size weighs in the mean; 1 by default.
        elsewhere: Further trials by name, of other tasks or other data, for the best map alone.
        confidence: With which all intervals of one table hold together.
        seed: Of the deal, of random dims, and of learned maps.
        progress: Called with the name of a method before it is fitted.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width.
        TooFewError: fewer than 40 items.
        UnknownNameError: no such method.
        InputError: weights that do not fit, or methods that the lesson does not allow.
    """
    full_dim = lesson.documents.shape[1]
    nesting = Nesting.parse(dims, full_dim=full_dim)
    sizes = [dim for dim in nesting if dim < full_dim]
    shares = _shares(weights, sizes)
    if trial.n_items < FEWEST_ITEMS:
        raise TooFewError(
            f"a map is chosen and judged on at least {FEWEST_ITEMS} held-out items, got "
            f"{trial.n_items}",
            needed=FEWEST_ITEMS,
        )
    names = methods_for(lesson, methods)
    rng = np.random.default_rng(seed)
    deal = rng.permutation(trial.n_items)
    choosing, judging = np.sort(deal[: len(deal) // 2]), np.sort(deal[len(deal) // 2 :])
    shuffled = Reorder.of(rng.permutation(full_dim))
    every = [*sizes, full_dim]
    figures = {"cut": trial.figures(None, every)}
    fitted: dict[str, Both] = {}
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    with suppress(VectorError):  # where zeros come first by chance, there is nothing to compare
        figures["random"] = trial.figures((shuffled, shuffled), every)
    for name in names:
        if progress:
            progress(name)
        started = time.perf_counter()
        try:
            both = METHODS[name].fit(lesson, tuple(every), seed)
            seconds[name] = time.perf_counter() - started
            figures[name] = trial.figures(both, every)
        except MatryoError as error:
            if methods != "auto":
                raise
            failed[name] = str(error).splitlines()[0]
        else:
            fitted[name] = both
    scores = {
        name: float(trial.means(figures[name], choosing)[:-1] @ shares) for name in ("cut", *fitted)
    }
    if not fitted:
        raise InputError(f"no map could be fitted: {'; '.join(failed.values())}", failed=failed)
    best = max(fitted, key=lambda name: scores[name])
    chosen = best if scores[best] > scores["cut"] else "cut"
    rows = _rows(trial, figures, every, judging, best, confidence=confidence)
    overall = _overall(trial, figures, shares, judging, best, confidence=confidence)
    further = []
    for name, other in (elsewhere or {}).items():
        there = {
            "cut": other.figures(None, every),
            best: other.figures(fitted[best], every),
        }
        table = _rows(other, there, every, np.arange(other.n_items), best, confidence=confidence)
        further += [{"trial": name, "measure": other.measure, **row} for row in table]
    worse = [row["dim"] for row in rows if row["dim"] < full_dim and row.get("high", 1.0) < 0]
    recommended = chosen != "cut" and overall[best]["low"] > 0 and not worse
    notes = {
        "method": best,
        "what": METHODS[best].what,
        "lossless_at_full_width": METHODS[best].lossless,
        "seconds": round(seconds[best], 3),
        "seed": seed,
        "documents": len(lesson.documents),
        "measure": trial.measure,
        "recommended": recommended,
        "overall": overall[best],
    }
    made = NestedMap(*fitted[best], space, tuple(every), notes)
    headline = _headline(chosen, best, overall[best], trial.measure, worse, recommended=recommended)
    return Choice(
        chosen, best, recommended, made, rows, overall, further, seconds, failed, headline
    )


def _shares(weights: Sequence[float] | None, sizes: Sequence[int]) -> NDArray[np.float64]:
    """What each size counts for in the mean; they add up to 1."""
    if not sizes:
        raise InputError("expected at least one dim below the full width to choose a map for")
    given = np.ones(len(sizes)) if weights is None else np.array(weights, np.float64)
    if given.shape != (len(sizes),) or not (given >= 0).all() or not 0 < given.sum() < np.inf:
        raise InputError(
            f"expected one weight of at least 0 for each of the {len(sizes)} dims below the full "
            f"width, not all of them 0, got {weights}",
            weights=weights,
        )
    shares: NDArray[np.float64] = given / given.sum()
    return shares


def _rows(
    trial: Trial,
    figures: Mapping[str, NDArray[np.floating]],
    dims: Sequence[int],
    items: NDArray[np.integer],
    best: str,
    *,
    confidence: float,
) -> list[dict[str, Any]]:
    """The value of every method at every size, and what the best map gains or loses."""
    rows: list[dict[str, Any]] = []
    each = 1 - (1 - confidence) / len(dims)  # Bonferroni: all sizes hold together
    for name, made in figures.items():
        values = trial.means(made, items)
        for at, (dim, value) in enumerate(zip(dims, values, strict=True)):
            row: dict[str, Any] = {"method": name, "dim": dim, "value": float(value)}
            if name == best:
                cut = figures["cut"]
                low, high = trial.difference(
                    made[:, [at]], cut[:, [at]], np.ones(1), items, confidence=each
                )
                gap = float(value - trial.means(cut, items)[at])
                row |= {"difference": gap, "low": low, "high": high}
            rows.append(row)
    return rows


def _overall(
    trial: Trial,
    figures: Mapping[str, NDArray[np.floating]],
    shares: NDArray[np.float64],
    items: NDArray[np.integer],
    best: str,
    *,
    confidence: float,
) -> dict[str, dict[str, float]]:
    """The mean over the sizes below the full width, and what the best map gains there."""
    overall = {
        name: {"value": float(trial.means(made, items)[:-1] @ shares)}
        for name, made in figures.items()
    }
    low, high = trial.difference(
        figures[best][:, :-1], figures["cut"][:, :-1], shares, items, confidence=confidence
    )
    gap = overall[best]["value"] - overall["cut"]["value"]
    overall[best] |= {"difference": gap, "low": low, "high": high}
    return overall


def _headline(
    chosen: str,
    best: str,
    gain: Mapping[str, float],
    measure: str,
    worse: Sequence[int],
    *,
    recommended: bool,
) -> str:
    told = (
        f"{best} ({METHODS[best].what}): {gain['difference']:+.3f} in {measure} on average "
        f"over the sizes ({gain['low']:+.3f} to {gain['high']:+.3f})"
    )
    if recommended:
        return told + "."
    if chosen == "cut":
        return f"Leave the vectors alone: plain cutting did best. The next was {told}."
    if worse:
        return f"Leave the vectors alone: {told}, but worse at {', '.join(map(str, worse))}."
    return f"Leave the vectors alone: {told} is not shown to be a gain."
