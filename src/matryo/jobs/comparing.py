"""Compare two measurements query by query, and say whether a condition on the difference holds.

A condition is one line:

    any dim | all dims | dim 64  [@int8] : MEASURE  worse | better | differs  [by N]  [(p<0.05)]

Without a precision it looks at float32. `worse by 0.01` holds where the second run is lower by at
least 0.01, and without a number where it is lower at all. With `(p<…)` it holds where that is
shown: the p-value is that of "it is not so", one-sided for worse and better. For `any dim` p-values
are adjusted for the number of dims it looks at (Holm 1979); `all dims` asks for each of them, which
needs no adjusting (an intersection-union test).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from matryo.core import FormatError, InputError, UnknownNameError, shorten
from matryo.evaluation import Interval

_GRAMMAR = (
    "write it as: any dim | all dims | dim 64, then @int8 if another precision than float32 is "
    "meant, a colon, a measure, worse | better | differs, and if wanted by 0.01 and (p<0.05); "
    'for instance "any dim: nDCG@10 worse (p<0.05)"'
)
_CONDITION = re.compile(
    r"(?:(?P<scope>any|all)\s+dims?|dim\s+(?P<dim>\d+))\s*(?:@(?P<precision>\w+))?\s*:\s*"
    r"(?P<measure>\S+)\s+(?P<change>worse|better|differs)"
    r"(?:\s+by\s+(?P<by>\d*\.?\d+))?(?:\s*\(\s*p\s*<\s*(?P<level>\d*\.?\d+)\s*\))?"
)
_RESAMPLES = 1000
_DRAWS, _AT_ONCE = 20_000, 500
_ROUNDING = 1e-9
Change = Literal["worse", "better", "differs"]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the difference of two runs, as the module describes it.

    Attributes:
        text: As it was written.
        scope: `any` or `all` dims, or one.
        dim: The one.
        precision: Number format it looks at.
        measure: Name of the measure.
        change: What the second run is against the first.
        by: How much it must be at least, in the unit of the measure.
        level: What the p-value must be below; None if the figures alone decide.
    """

    text: str
    scope: Literal["any", "all", "one"]
    dim: int | None
    precision: str
    measure: str
    change: Change
    by: float
    level: float | None

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises:
            InputError: it is none, with the grammar.
        """
        found = _CONDITION.fullmatch(text.strip())
        if found is None:
            raise InputError(f"expected a condition, got {text!r}", hint=_GRAMMAR)
        level = None if found["level"] is None else float(found["level"])
        if level is not None and not 0 < level < 1:
            raise InputError(f"{text!r}: p must be compared with a number between 0 and 1")
        return cls(
            text=text.strip(),
            scope=found["scope"] or "one",  # type: ignore[arg-type]  # the pattern has these only
            dim=None if found["dim"] is None else int(found["dim"]),
            precision=found["precision"] or "float32",
            measure=found["measure"],
            change=found["change"],  # type: ignore[arg-type]  # likewise
            by=float(found["by"] or 0),
            level=level,
        )


def diff(
    before: str | Path | Mapping[str, Any],
    after: str | Path | Mapping[str, Any],
    *,
    fail_if: Sequence[str] = (),
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Compare two results documents of `measure`, on the same queries of the same data.

    Means are compared by a paired randomization test and its interval, rank correlations of pairs
    by a paired bootstrap.

    Args:
        before: The first run: a results.json, or what `measure` returned.
        after: The second run.
        fail_if: Conditions, as the module describes them.
        confidence: With which the intervals of a measure hold together.

    Returns:
        `rows`, one for each size both runs have: `before`, `after`, `difference` (after minus
        before), `low`, `high`, `p_value` (two-sided, adjusted over the rows of a measure), `n`;
        `conditions` with `text`, `holds` and what they looked at; and `notes`.

    Raises:
        InputError: other data, queries or measures in the two runs, or no per-query values; a
            condition that is none, or looks at nothing.
        FormatError: a file that is no results document.
        UnknownNameError: a condition on a measure that was not measured.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be between 0 and 1, got {confidence}")
    conditions = [Condition.parse(text) for text in fail_if]
    runs = [_read_run(one, place) for one, place in ((before, "first"), (after, "second"))]
    _check_alike(*runs)
    pairs = _pair_up(*runs)
    rows = [row for measure in runs[0].measures for row in _rows(pairs, measure, confidence)]
    return {
        "format": 1,
        "kind": "diff",
        "matryo": version("matryo"),
        "before": runs[0].about(),
        "after": runs[1].about(),
        "confidence": confidence,
        "rows": rows,
        "conditions": [_judge(condition, pairs) for condition in conditions],
        "notes": _notes(*runs),
    }


Key = tuple[str, int, str]  # measure, dim, precision


@dataclass(frozen=True)
class _Run:
    """One results document, and the values of its queries."""

    name: str
    document: Mapping[str, Any]
    values: dict[Key, NDArray[np.float64]]

    @property
    def measures(self) -> list[str]:
        return list(dict.fromkeys(measure for measure, _, _ in self.values))

    def about(self) -> dict[str, Any]:
        space = self.document.get("space") or {}
        return {
            "run": self.name,
            "data": self.document["data"]["name"],
            "model": space.get("model"),
            "fingerprint": self.document.get("fingerprint"),
            "created": self.document.get("created"),
        }


def _read_run(source: str | Path | Mapping[str, Any], place: str) -> _Run:
    document: Any
    if isinstance(source, Mapping):
        name, document = f"the {place} run", source
    else:
        name = str(source)
        try:
            document = json.loads(Path(source).read_text("utf-8"))
        except ValueError as error:
            raise FormatError(f"{name}: expected results as JSON, got: {error}") from error
    kind = document.get("kind") if isinstance(document, Mapping) else type(document).__name__
    number = document.get("format") if isinstance(document, Mapping) else None
    if (kind, number) != ("measure", 1):
        raise FormatError(
            f"{name}: expected the results of matryo measure, of format 1, got "
            f"{kind!r} of format {number!r}",
            hint="write them with: matryo measure DATA --out results.json",
        )
    if not document.get("per_query"):
        raise InputError(
            f"{name} has no values of single queries, without which runs cannot be compared",
            hint="measure again with this version of matryo",
        )
    try:
        values = {
            (row["measure"], row["dim"], row["precision"]): np.array(
                row["values"].split(), dtype=np.float64
            )
            for row in document["per_query"]["rows"]
        }
        lengths = {len(numbers) for numbers in values.values()} | {document["data"]["queries"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{name}: expected per-query values as docs/results-schema.md describes them, "
            f"got: {error!r}"
        ) from error
    if len(lengths) > 1 or not values:
        raise FormatError(f"{name}: expected a value for each query in every row of per_query")
    return _Run(name, document, values)


def _check_alike(first: _Run, second: _Run) -> None:
    """Refuse runs whose values do not belong together, naming what differs."""
    differing = []
    for what, path in (
        ("kind of data", ("data", "task")),
        ("origin of the data", ("data", "origin")),
        ("documents", ("data", "documents")),
        ("queries", ("data", "queries")),
        ("judgments", ("per_query", "judgments")),
    ):
        mine, theirs = (run.document[path[0]].get(path[1]) for run in (first, second))
        if mine != theirs:
            differing.append(f"{what}: {mine} and {theirs}")
    asked, others = (run.document["per_query"].get("queries") for run in (first, second))
    if (asked is None) != (others is None) or (asked and set(asked) != set(others)):
        only = sorted(map(str, set(asked or ()) ^ set(others or ())))
        differing.append(f"ids of queries, {len(only)} of them in one run only: {shorten(only)}")
    if first.document["data"]["origin"] == "sample":
        seeds = [run.document["settings"].get("seed") for run in (first, second)]
        if seeds[0] != seeds[1]:
            differing.append(f"seed that drew the queries: {seeds[0]} and {seeds[1]}")
    if set(first.measures) != set(second.measures):
        listed = " and ".join(", ".join(run.measures) for run in (first, second))
        differing.append(f"measures: {listed}")
    if differing:
        raise InputError(
            f"{first.name} and {second.name} cannot be compared query by query; they differ in "
            f"{'; '.join(differing)}",
            hint="measure both on the same data with the same options",
            differing=differing,
        )


def _notes(first: _Run, second: _Run) -> list[str]:
    notes = []
    names = [run.document["data"]["name"] for run in (first, second)]
    if names[0] != names[1]:
        notes.append(f"The data have two names, {names[0]} and {names[1]}, and else look alike.")
    for run, other in ((first, second), (second, first)):
        only = sorted({key[1:] for key in run.values} - {key[1:] for key in other.values})
        if only:
            sizes = ", ".join(f"{dim}@{precision}" for dim, precision in only)
            notes.append(f"Only in {run.name}, and not compared: {sizes}.")
    return notes


class _Pair(Protocol):
    """Two values of one size, query by query."""

    n: int
    before: float
    after: float

    def interval(self, confidence: float, family: int) -> Interval:
        """Interval of after minus before."""

    def p_above(self, by: float) -> float:
        """p-value of "after minus before is at most `by`"."""

    def p_below(self, by: float) -> float:
        """p-value of "before minus after is at most `by`"."""


class _Means:
    """Means of one value per query, by a randomization test and the interval that it leaves.

    The test flips the signs of differences at random, which changes nothing if either run could
    have given either value (Smucker, Allan and Carterette 2007). A shift is refuted exactly where
    few enough means over random subsets of the queries lie beyond it (Hartigan 1969, "Using
    subsample values as typical values"), so that one draw of subsets answers for every shift.
    """

    def __init__(
        self, before: NDArray[np.float64], after: NDArray[np.float64], means: NDArray[np.float64]
    ) -> None:
        self.n, self.before, self.after = len(before), float(before.mean()), float(after.mean())
        self._means = np.sort(means)

    def interval(self, confidence: float, family: int) -> Interval:
        allowed = int((1 - confidence) / family / 2 * (len(self._means) + 1))
        if not allowed:
            return Interval(-1.0, 1.0)
        return Interval(float(self._means[allowed - 1]), float(self._means[-allowed]))

    def p_above(self, by: float) -> float:
        return float(1 + (self._means <= by + _ROUNDING).sum()) / (len(self._means) + 1)

    def p_below(self, by: float) -> float:
        return float(1 + (self._means >= -by - _ROUNDING).sum()) / (len(self._means) + 1)


def _subset_means(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(rows, draws)` means of `(rows, n)` differences over random subsets of the n queries."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(_DRAWS // _AT_ONCE):
        chosen = rng.integers(0, 2, (differences.shape[1], _AT_ONCE)).astype(np.float64)
        chosen[0] += chosen.sum(axis=0) == 0  # an empty subset has no mean
        parts.append(differences @ chosen / chosen.sum(axis=0))
    return np.concatenate(parts, axis=1)


class _Correlations:
    """Rank correlations with the truth, by the normal distribution and a paired bootstrap."""

    def __init__(
        self,
        before: NDArray[np.float64],
        after: NDArray[np.float64],
        truth: NDArray[np.float64],
        picks: NDArray[np.integer],
    ) -> None:
        from scipy import stats

        self._normal = stats.norm

        def unit_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
            ranks = stats.rankdata(values, axis=-1)
            ranks -= ranks.mean(axis=-1, keepdims=True)
            unit: NDArray[np.float64] = ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)
            return unit

        self.n = len(truth)
        goal = unit_ranks(truth)
        self.before, self.after = (float(unit_ranks(v) @ goal) for v in (before, after))
        goals = unit_ranks(truth[picks])
        again = [(unit_ranks(v[picks]) * goals).sum(axis=1) for v in (before, after)]
        self._error = float(np.std(again[1] - again[0], ddof=1))

    def interval(self, confidence: float, family: int) -> Interval:
        reach = float(self._normal.isf((1 - confidence) / family / 2)) * self._error
        difference = self.after - self.before
        return Interval(difference - reach, difference + reach)

    def p_above(self, by: float) -> float:
        return self._p_value(self.after - self.before - by)

    def p_below(self, by: float) -> float:
        return self._p_value(self.before - self.after - by)

    def _p_value(self, beyond: float) -> float:
        if self._error == 0:
            return 1.0 if beyond <= 0 else 0.0
        return float(self._normal.sf(beyond / self._error))


def _pair_up(first: _Run, second: _Run) -> dict[Key, _Pair]:
    """What both runs have, with the queries of the second in the order of the first."""
    asked, others = (run.document["per_query"].get("queries") for run in (first, second))
    order = np.arange(first.document["data"]["queries"])
    if asked and asked != others:
        places = {name: place for place, name in enumerate(others)}
        order = np.array([places[name] for name in asked])
    truth = first.document["per_query"].get("truth")
    pairs = _pairs(
        first.values,
        {key: values[order] for key, values in second.values.items()},
        None if truth is None else np.array(truth.split(), dtype=np.float64),
    )
    if not pairs:
        raise InputError(f"{first.name} and {second.name} have no size in common")
    return pairs


def compare_values(
    before: Mapping[Key, NDArray[np.float64]],
    after: Mapping[Key, NDArray[np.float64]],
    *,
    truth: NDArray[np.float64] | None = None,
    confidence: float = 0.95,
) -> list[dict[str, Any]]:
    """The rows of `diff` for values of the same queries in the same order.

    Args:
        before: `(n,)` values by measure, dim and precision.
        after: The same of the second run.
        truth: `(n,)` judged similarities, where values are scores of pairs.
        confidence: With which the intervals of a measure hold together.
    """
    pairs = _pairs(before, after, truth)
    measures = dict.fromkeys(measure for measure, _, _ in pairs)
    return [row for measure in measures for row in _rows(pairs, measure, confidence)]


def _pairs(
    before: Mapping[Key, NDArray[np.float64]],
    after: Mapping[Key, NDArray[np.float64]],
    truth: NDArray[np.float64] | None,
) -> dict[Key, _Pair]:
    both = {key: (before[key], after[key]) for key in before if key in after}
    if not both:
        return {}
    if truth is None:
        means = _subset_means(np.array([second - first for first, second in both.values()]))
        return {
            key: _Means(*pair, row) for (key, pair), row in zip(both.items(), means, strict=True)
        }
    picks = np.random.default_rng(0).integers(0, len(truth), (_RESAMPLES, len(truth)))
    return {key: _Correlations(*pair, truth, picks) for key, pair in both.items()}


def _rows(pairs: Mapping[Key, _Pair], measure: str, confidence: float) -> list[dict[str, Any]]:
    of_measure = {key: pair for key, pair in pairs.items() if key[0] == measure}
    p_values = _holm([_p_value(pair, "differs", 0.0) for pair in of_measure.values()])
    rows = []
    for ((_, dim, precision), pair), p_value in zip(of_measure.items(), p_values, strict=True):
        low, high = pair.interval(confidence, len(of_measure))
        rows.append(
            {
                "measure": measure,
                "dim": dim,
                "precision": precision,
                "before": pair.before,
                "after": pair.after,
                "difference": pair.after - pair.before,
                "low": low,
                "high": high,
                "p_value": p_value,
                "n": pair.n,
            }
        )
    return sorted(rows, key=lambda row: int(row["dim"]))


def _judge(condition: Condition, pairs: Mapping[Key, _Pair]) -> dict[str, Any]:
    """Whether a condition holds, and the figures that say so."""
    known = {measure for measure, _, _ in pairs}
    if condition.measure not in known:
        raise UnknownNameError.among("compared measure", condition.measure, known)
    looked_at = {
        dim: pair
        for (measure, dim, precision), pair in pairs.items()
        if (measure, precision) == (condition.measure, condition.precision)
        and condition.dim in (None, dim)
    }
    if not looked_at:
        sizes = sorted({key[1:] for key in pairs})
        raise InputError(
            f"{condition.text!r} looks at no size that both runs have",
            hint=f"compared: {', '.join(f'{dim}@{precision}' for dim, precision in sizes)}",
        )
    raw = [_p_value(pair, condition.change, condition.by) for pair in looked_at.values()]
    adjusted = _holm(raw) if condition.scope == "any" else raw
    rows = []
    for (dim, pair), p_value in sorted(zip(looked_at.items(), adjusted, strict=True)):
        difference = pair.after - pair.before
        if condition.level is None:
            holds = _is_so(difference, condition)
        else:
            holds = p_value < condition.level
        rows.append({"dim": dim, "difference": difference, "p_value": p_value, "holds": holds})
    together = all if condition.scope == "all" else any
    return {
        "text": condition.text,
        "holds": together(row["holds"] for row in rows),
        "adjusted": condition.scope == "any" and len(rows) > 1,
        "rows": rows,
    }


def _is_so(difference: float, condition: Condition) -> bool:
    sizes = {"worse": -difference, "better": difference, "differs": abs(difference)}
    # means of equal values may differ by a rounding
    return sizes[condition.change] > (condition.by - _ROUNDING if condition.by else _ROUNDING)


def _p_value(pair: _Pair, change: Change, by: float) -> float:
    """p-value of the opposite of a change of at least `by`."""
    if change == "worse":
        return pair.p_below(by)
    if change == "better":
        return pair.p_above(by)
    return min(1.0, 2 * min(pair.p_below(by), pair.p_above(by)))


def _holm(p_values: Sequence[float]) -> list[float]:
    """p-values of which any may be read as if it were the only one (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]
