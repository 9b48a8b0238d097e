"""Choose a funnel with a promise: the main job of planning.

A pass over the corpus with the ordering queries gives the quality of every candidate; a second one
with the others certifies a short path of them and reports. What is handed on are plans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    Funnel,
    Nesting,
    Plan,
    Precision,
    Promise,
    Stage,
    UnknownNameError,
)
from matryo.evaluation import Interval, conformal_knob, fit_sample, fit_steps
from matryo.planning.candidates import funnel_candidates, levels_of, with_margins
from matryo.planning.certify import (
    Split,
    check_enough_for,
    needed_for,
    queries_needed,
    split_queries,
    try_promise,
)
from matryo.planning.cost import Budget, Cost, Machine, Prices, cost
from matryo.planning.explain import explain
from matryo.planning.limits import within
from matryo.planning.parts import Calibration, Part, digest_of, measure_part, worst_group
from matryo.planning.thresholds import fit_threshold

Name = Literal["cheap", "balanced", "safe"]
Minimize = Literal["bytes", "latency", "ram"]
MINIMIZE: dict[Minimize, str] = {
    "bytes": "bytes_read",
    "latency": "latency_ms",
    "ram": "ram_bytes",
}
# The part of the allowed loss that each choice may use, as the ordering queries saw it.
NAMES: tuple[tuple[Name, float], ...] = (("cheap", 1.0), ("balanced", 0.5), ("safe", 0.25))

_ORDERING = 400  # queries that put the candidates in order at most
_SHAPES = 6  # funnels that are tried with a stop rule
_PATH = 16  # candidates that are certified at most
_APART = 1.02  # two of them differ in cost by this factor at least
_WORTH = 0.1  # share of the cost that stop rules must save to be considered
_SURE = 1.645  # standard errors above the floor that a candidate needs to have a chance


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


def choose(
    data: Calibration,
    promise: Promise,
    *,
    nesting: Nesting,
    precisions: Sequence[Precision],
    k: int,
    machine: Machine,
    minimize: Minimize = "bytes",
    budget: Budget | None = None,
    prices: Prices | None = None,
    threshold: float | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Choices:
    """Choose the cheapest funnels that keep a promise.

    Args:
        data: Queries and documents, and what is known of them.
        promise: What must be kept; its `groups` are filled in here, where the data have groups.
        nesting: Sizes that a stage may have; the last one is the full width.
        precisions: Number formats that may be stored.
        k: Rows of an answer.
        machine: Where the plan will run; what a funnel costs is modelled for it.
        minimize: `bytes` read for a query, which no machine changes; its modelled `latency`; or
            `ram`, which leads to long shortlists.
        budget: What it may cost.
        prices: What memory costs.
        threshold: Full-width score below which rows are left out of an answer.
        seed: Seed of the split.
        progress: Called with the number of corpus rows done since the last call, 2 n in all.

    Raises:
        TooFewError: so few queries that no outcome could carry the promise; `needed` is the number
            of certifying ones that would do.
        InputError: limits of the budget that contradict each other or that nothing meets.
    """
    if minimize not in MINIMIZE:
        raise UnknownNameError.among("cost", minimize, MINIMIZE)
    split = split_queries(len(data.queries), seed=seed, groups=data.groups)
    promise, notes = _with_groups(promise, data, split)
    check_enough_for(
        promise, len(split.certify), hint=f"give at least {2 * needed_for(promise)} queries in all"
    )
    full = Funnel((Stage(nesting.full_dim, k),))
    funnels = funnel_candidates(nesting, precisions, k=k, n_rows=data.corpus.shape[0])
    if promise.kind == "expected":
        funnels = [full, *filter(has_knob, funnels)]
    sample = fit_sample(data.corpus, nesting, data.space.metric, exclude=data.exclude, ids=data.ids)
    scales = fit_steps(sample, levels_of(nesting, precisions), data.space.metric)

    def measure(numbers: NDArray[np.int64], wanted: Sequence[Funnel]) -> Part:
        return measure_part(
            data, numbers, wanted, promise=promise, full=full, scales=scales, progress=progress
        )

    def consider(wanted: Sequence[Funnel]) -> list[Candidate]:
        return _consider(wanted, order, machine, minimize=minimize, prices=prices)

    order = measure(split.order[:_ORDERING], funnels)
    seen = consider(funnels)
    if promise.kind != "expected":
        stopping = with_margins(order.table, _shapes(seen))
        order.add(stopping)
        seen, said = _with_useful_stops(seen, consider(stopping))
        notes += said
    seen = within(seen, budget or Budget())
    path = _knob(seen) if promise.kind == "expected" else _path(seen, full)

    rest = measure(np.concatenate([split.certify, split.report]), [one.funnel for one in path])
    certify = replace(rest, pick=slice(0, len(split.certify)))
    report = replace(rest, pick=slice(len(split.certify), None))
    if promise.kind == "expected":
        tried, named = _turn_knob(path, certify, promise, full)
    else:
        tried = _try(path, certify, order, promise, full)
        named = _name([one for one in tried if one.status == "certified"], promise)
    if data.groups is not None and not promise.groups:
        notes += [f"{name.capitalize()}: {worst_group(rest, one.funnel)}" for name, one in named]
    notes += _faster_whole(next(one for one in seen if one.funnel == full), named)
    tested = {one.funnel: one for one in tried}
    record = _Record(data, promise, tried, split, scales, machine, (order, certify, report))
    return Choices(
        promise=promise,
        choices=[record.choice(name, one, len(named), threshold) for name, one in named],
        candidates=[tested.get(one.funnel, one) for one in seen],
        split={name: len(part) for name, part in asdict(split).items()},
        needed=_needed(tried, promise, certify),
        notes=notes,
    )


def _with_groups(promise: Promise, data: Calibration, split: Split) -> tuple[Promise, list[str]]:
    """The promise for every group, where each of them has queries enough to certify it."""
    if data.groups is None:
        return promise, []
    names, counts = np.unique(np.array(list(data.groups))[split.certify], return_counts=True)
    needed = needed_for(promise)
    if promise.confidence is not None and counts.min() >= needed:
        return replace(promise, groups=tuple(map(str, names))), []
    why = (
        "an expected promise is about all queries"
        if promise.confidence is None
        else f"the group {str(names[counts.argmin()])!r} has {counts.min()} certifying queries, "
        f"and {needed} are needed"
    )
    return promise, [f"The promise is about all queries together, not about every group: {why}."]


def _consider(
    funnels: Sequence[Funnel],
    order: Part,
    machine: Machine,
    *,
    minimize: Minimize,
    prices: Prices | None,
) -> list[Candidate]:
    """What each funnel keeps on the ordering queries, and what it costs."""
    seen = []
    for funnel in funnels:
        margin, error = order.margin(funnel)
        rows = order.table.rows(funnel, order.n_rows)
        price = cost(funnel, order.n_rows, machine, rows=rows, prices=prices)
        spend = getattr(price, MINIMIZE[minimize])
        spend = math.inf if spend is None else float(spend)
        seen.append(Candidate(funnel, price, order.kept(funnel), margin, error, spend))
    return seen


def _frontier(seen: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that keep more than every cheaper one, from the dearest to the cheapest."""
    best, frontier = -math.inf, []
    for one in sorted(seen, key=lambda one: (one.spend, -one.margin)):
        if one.margin > best and one.spend < math.inf:
            best = one.margin
            frontier.append(one)
    return frontier[::-1]


def _shapes(seen: Sequence[Candidate]) -> list[Funnel]:
    """A few funnels of several stages, the best near the floor, for stop rules to be tried on."""
    several = [one for one in _frontier(seen) if len(one.funnel.stages) > 1]
    several.sort(key=lambda one: abs(one.margin))
    levels: dict[tuple[str, ...], Funnel] = {}
    for one in several:
        key = tuple(f"{stage.dim}@{stage.precision}" for stage in one.funnel.stages)
        levels.setdefault(key, one.funnel)
    return list(levels.values())[:_SHAPES]


def _with_useful_stops(
    plain: list[Candidate], stopping: list[Candidate]
) -> tuple[list[Candidate], list[str]]:
    """Add the stop rules if the best of them saves enough, and say what it would save."""
    cheapest = [
        min((one.spend for one in group if one.margin > _SURE * one.error), default=math.inf)
        for group in (plain, stopping)
    ]
    saved = 1 - cheapest[1] / cheapest[0] if math.inf not in cheapest else 0.0
    if saved < _WORTH:
        return plain, [
            f"Stopping early for single queries would save {max(saved, 0):.0%} on the ordering "
            "queries (modelled), too little to be worth it: fixed funnels only."
        ]
    return plain + stopping, [
        f"Stopping early for single queries saves about {saved:.0%} on the ordering queries "
        "(modelled): funnels with a stop rule are among the candidates."
    ]


def _path(seen: Sequence[Candidate], full: Funnel) -> list[Candidate]:
    """What is certified: the full width, then a few candidates from the likeliest to pass on."""
    allowed = [one for one in seen if one.status != "too dear"]
    frontier = [one for one in _frontier(allowed) if one.funnel != full]
    hopeful = [one for one in frontier if one.margin > 0] or frontier[:1]
    hopeful.sort(key=lambda one: (-one.margin / max(one.error, 1e-12), -one.spend))
    path: list[Candidate] = []
    for one in hopeful:
        if all(abs(math.log(one.spend / other.spend)) > math.log(_APART) for other in path):
            path.append(one)
    if len(path) > _PATH:
        path = [path[i] for i in np.linspace(0, len(path) - 1, _PATH).round().astype(int)]
    return [one for one in allowed if one.funnel == full] + path


def _try(
    path: Sequence[Candidate], certify: Part, order: Part, promise: Promise, full: Funnel
) -> list[Candidate]:
    """The path with what the tests said, up to the first that failed."""
    tried: list[Candidate] = []
    for one in path:
        if any(other.status == "failed" for other in tried):
            tried.append(replace(one, status="untested"))
        elif one.funnel == full:
            tried.append(replace(one, status="certified"))  # it keeps all that it is measured by
        else:
            trial = try_promise(
                promise,
                certify.values(one.funnel),
                certify.whole,
                learned=(order.values(one.funnel), order.whole),
                groups=certify.names,
                learned_groups=order.names,
            )
            status: Literal["certified", "failed"] = "certified" if trial.passed else "failed"
            tried.append(replace(one, status=status, p_value=trial.p_value))
    return tried


def _name(certified: Sequence[Candidate], promise: Promise) -> list[tuple[Name, Candidate]]:
    """Cheap, balanced and safe: the cheapest that used so much of the allowed loss at most."""
    named: list[tuple[Name, Candidate]] = []
    for name, share in NAMES:
        lost = share * (1 - promise.floor)
        good = [one for one in certified if 1 - one.kept <= lost + 1e-12]
        if good:
            named.append((name, min(good, key=lambda one: one.spend)))
        elif certified:
            named.append((name, max(certified, key=lambda one: (one.kept, -one.spend))))
    return named


def has_knob(funnel: Funnel) -> bool:
    """Whether a longer shortlist can never lose a neighbor: two stages, the last one exact."""
    stages = funnel.stages
    return len(stages) == 2 and stages[-1].precision is Precision.FLOAT32 and funnel.stop is None


def _knob(seen: Sequence[Candidate]) -> list[Candidate]:
    """The funnels of one first stage, by the length of the shortlist: the cheapest that seem to do.

    Which first stage is settled on the ordering queries; how long the shortlist must be is left to
    the certifying ones.
    """
    allowed = [one for one in seen if one.status != "too dear"]
    knobs = [one for one in allowed if has_knob(one.funnel)]
    good = [one for one in knobs if one.margin >= 0] or knobs
    if not good:
        return list(allowed)
    first = min(good, key=lambda one: one.spend).funnel.stages[0]
    same = [one for one in knobs if _same_level(one.funnel.stages[0], first)]
    whole = [one for one in allowed if not has_knob(one.funnel)]
    return sorted(same, key=lambda one: one.funnel.stages[0].keep) + whole


def _same_level(a: Stage, b: Stage) -> bool:
    return (a.dim, a.precision) == (b.dim, b.precision)


def _turn_knob(
    path: Sequence[Candidate], certify: Part, promise: Promise, full: Funnel
) -> tuple[list[Candidate], list[tuple[Name, Candidate]]]:
    """Conformal risk control along the shortlist, once for each choice."""
    losses = np.array([1 - certify.values(one.funnel) for one in path])
    named: list[tuple[Name, Candidate]] = []
    for name, share in NAMES:
        setting = conformal_knob(losses, share * (1 - promise.floor))
        if setting is not None:
            named.append((name, replace(path[setting], status="certified")))
        elif path[-1].funnel == full:
            # nothing is lost at full width, however few queries say so
            named.append((name, replace(path[-1], status="certified")))
    taken = {one.funnel for _, one in named}
    tried = [
        replace(one, status="certified" if one.funnel in taken else "untested") for one in path
    ]
    return tried, named


def _faster_whole(whole: Candidate, named: Sequence[tuple[Name, Candidate]]) -> list[str]:
    """Say so where searching everything takes no longer than the cheapest choice."""
    cheap = named[0][1].cost.latency_ms if named else None
    alone = whole.cost.latency_ms
    if cheap is None or alone is None or named[0][1].funnel == whole.funnel or alone > cheap:
        return []
    return [
        f"Searching every row at full width takes {alone:.3g} ms (modelled), no longer than the "
        "cheap choice: here a funnel saves memory and reading, not time."
    ]


def _needed(tried: Sequence[Candidate], promise: Promise, certify: Part) -> int | None:
    """About how many certifying queries would certify the first that failed."""
    failed = next((one for one in tried if one.status == "failed"), None)
    if failed is None or promise.confidence is None:
        return None
    return queries_needed(promise, certify.values(failed.funnel), certify.whole)


@dataclass(frozen=True)
class _Record:
    """What every choice of a run has in common, to be written down with each."""

    data: Calibration
    promise: Promise
    tried: Sequence[Candidate]
    split: Split
    scales: Mapping[int, NDArray[np.float32]]
    machine: Machine
    parts: tuple[Part, Part, Part]

    def choice(self, name: Name, one: Candidate, family: int, threshold: float | None) -> Choice:
        """The choice with its plan: the figures are those of the reporting queries."""
        order, certify, report = self.parts
        kept, interval = report.kept(one.funnel), report.interval(one.funnel, family)
        carried, about = None, None
        if threshold is not None:
            carried, about = fit_threshold(
                order, certify, one.funnel, threshold, confidence=self.promise.confidence or 0.95
            )
        evidence = {
            "matryo": version("matryo"),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "calibration": digest_of(self.data),
            "origin": self.data.origin,
            "documents": int(self.data.corpus.shape[0]),
            "queries": {part: len(numbers) for part, numbers in asdict(self.split).items()},
            "p_value": one.p_value,
            "kept": kept,
            "interval": list(interval),
            "cost": asdict(one.cost),
            "machine": f"{self.machine.name}, {self.machine.engine}",
            "threshold": about,
        }
        explanation = explain(
            name, one, self.tried, promise=self.promise, drawn=self.data.drawn, evidence=evidence
        )
        stages = one.funnel.stages
        plan = Plan(
            space=self.data.space,
            run=one.funnel,
            transform=self.data.transform,
            promise=None if self.data.drawn else self.promise,
            evidence={**evidence, "explanation": explanation},
            threshold=carried,
            scales={s.dim: self.scales[s.dim] for s in stages if s.precision is Precision.INT8},
        )
        return Choice(name, plan, one.cost, kept, interval, len(report.whole))
