"""From what the candidates keep to the few that are certified, and to their names.

The ordering queries settle a path from the candidate that is likeliest to pass its test to the
cheapest that seems to keep the floor; the certifying queries walk it until the first one fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from matryo.core import Funnel, Precision, Promise, Stage
from matryo.evaluation import conformal_knob
from matryo.planning.certify import queries_needed, try_promise
from matryo.planning.choices import MINIMIZE, NAMES, Candidate, Minimize, Name
from matryo.planning.cost import Prices, cost
from matryo.planning.machine import Machine
from matryo.planning.parts import Part

_PATH = 16  # candidates that are certified at most
_APART = 1.02  # two of them differ in cost by this factor at least
_FAR_APART = 1.25  # the same, of those that are there for safety


def consider(
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


def frontier(seen: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that are likelier to pass than every cheaper one, from dearest to cheapest.

    What counts is not the margin alone: of a thousand candidates the one that seems to keep most
    is often the luckiest.
    """
    best, better = -math.inf, []
    for one in sorted(seen, key=lambda one: (one.spend, -one.certainty)):
        if one.certainty > best and one.spend < math.inf:
            best = one.certainty
            better.append(one)
    return better[::-1]


def path_of(seen: Sequence[Candidate], full: Funnel) -> list[Candidate]:
    """What is certified: the full width, then a few candidates from the likeliest to pass on.

    Many candidates lose nothing on the ordering queries, and the cheapest of those is no safe
    start. Before it come funnels of its own stages that keep more rows.
    """
    allowed = [one for one in seen if one.status != "too dear"]
    better = [one for one in frontier(allowed) if one.funnel != full]
    hopeful = [one for one in better if one.margin > 0] or better[:1]
    safer = [one for one in allowed if hopeful and _keeps_more(one.funnel, hopeful[0].funnel)]
    safer.sort(key=lambda one: -one.spend)
    path: list[Candidate] = []
    for one in [*safer, *hopeful]:
        apart = _APART if one in hopeful else _FAR_APART
        if not path or one.spend < path[-1].spend / apart:
            path.append(one)
    if len(path) > _PATH:
        path = [path[i] for i in np.linspace(0, len(path) - 1, _PATH).round().astype(int)]
    return [one for one in allowed if one.funnel == full] + path


def _keeps_more(one: Funnel, other: Funnel) -> bool:
    """Whether these are the same stages, none of which keeps fewer rows and one of them more."""
    pairs = list(zip(one.stages, other.stages, strict=False))
    if len(one.stages) != len(other.stages) or not all(_same_level(a, b) for a, b in pairs):
        return False
    if one.stop is not None or one == other:
        return False
    return all(a.keep >= b.keep for a, b in pairs)


def try_path(
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


def name_choices(certified: Sequence[Candidate], promise: Promise) -> list[tuple[Name, Candidate]]:
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


def knob_of(seen: Sequence[Candidate]) -> list[Candidate]:
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


def turn_knob(
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
    tried = [replace(one, status="certified") if one.funnel in taken else one for one in path]
    return tried, named


def queries_to_go_on(tried: Sequence[Candidate], promise: Promise, certify: Part) -> int | None:
    """About how many certifying queries would certify the first that failed."""
    failed = next((one for one in tried if one.status == "failed"), None)
    if failed is None or promise.confidence is None:
        return None
    return queries_needed(promise, certify.values(failed.funnel), certify.whole)
