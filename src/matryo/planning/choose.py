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

import numpy as np
from numpy.typing import NDArray

from matryo.core import Funnel, Nesting, Plan, Precision, Promise, Stage, UnknownNameError
from matryo.evaluation import fit_sample, fit_steps
from matryo.planning.candidates import funnel_candidates, levels_of, with_margins
from matryo.planning.certify import Split, check_enough_for, needed_for, split_queries
from matryo.planning.choices import MINIMIZE, Candidate, Choice, Choices, Minimize, Name
from matryo.planning.cost import Prices
from matryo.planning.explain import explain
from matryo.planning.limits import Budget, within
from matryo.planning.machine import Machine
from matryo.planning.parts import Calibration, Part, digest_of, measure_part, worst_group
from matryo.planning.sequence import (
    consider,
    frontier,
    has_knob,
    knob_of,
    name_choices,
    path_of,
    queries_to_go_on,
    try_path,
    turn_knob,
)
from matryo.planning.thresholds import fit_threshold

ORDERING = 128  # queries that put the candidates in order at most
_SHAPES = 4  # funnels that are tried with a stop rule
_WORTH = 0.1  # share of the cost that stop rules must save to be considered
_SURE = 1.645  # standard errors above the floor that a candidate needs to have a chance


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
    stops: bool = True,
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
        stops: Consider funnels that stop early for single queries; most stores cannot run them.
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
    # more of them would order hardly better, and cost time at every size and format
    few = np.random.default_rng(seed).permutation(split.order)[:ORDERING]
    split = replace(split, order=np.sort(few))
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

    def weigh(wanted: Sequence[Funnel]) -> list[Candidate]:
        return consider(wanted, order, machine, minimize=minimize, prices=prices)

    order = measure(split.order, funnels)
    seen = weigh(funnels)
    if stops and promise.kind != "expected":
        stopping = with_margins(order.table, _shapes(seen))
        order.add(stopping)
        seen, said = _with_useful_stops(seen, weigh(stopping))
        notes += said
    seen = within(seen, budget or Budget())
    path = knob_of(seen) if promise.kind == "expected" else path_of(seen, full)

    rest = measure(np.concatenate([split.certify, split.report]), [one.funnel for one in path])
    certify = replace(rest, pick=slice(0, len(split.certify)))
    report = replace(rest, pick=slice(len(split.certify), None))
    if promise.kind == "expected":
        tried, named = turn_knob(path, certify, promise, full)
    else:
        tried = try_path(path, certify, order, promise, full)
        named = name_choices([one for one in tried if one.status == "certified"], promise)
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
        needed=queries_to_go_on(tried, promise, certify),
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


def _shapes(seen: Sequence[Candidate]) -> list[Funnel]:
    """A few funnels of several stages, the best near the floor, for stop rules to be tried on."""
    several = [one for one in frontier(seen) if len(one.funnel.stages) > 1]
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
        min((one.spend for one in group if one.certainty > _SURE), default=math.inf)
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


def _faster_whole(whole: Candidate, named: Sequence[tuple[Name, Candidate]]) -> list[str]:
    """Say so where searching everything takes no longer than the cheapest choice."""
    cheap = named[0][1].cost.latency_ms if named else None
    alone = whole.cost.latency_ms
    if cheap is None or alone is None or alone > cheap:
        return []
    if whole.status == "too dear" or named[0][1].funnel == whole.funnel:
        return []
    return [
        f"Searching every row at full width takes {alone:.3g} ms (modelled), no longer than the "
        "cheap choice: here a funnel saves memory and reading, not time."
    ]


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
