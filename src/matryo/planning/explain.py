"""Five lines of plain words about a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matryo.core import ExitPolicy, Funnel, Margin, Precision, Promise, Stage
from matryo.planning.choices import Candidate, Choices


def headline(choices: Choices, *, full_dim: int, drawn: bool) -> str:
    """The outcome of planning in one sentence.

    Args:
        choices: What came of it.
        full_dim: Width of a whole vector.
        drawn: Whether the queries were drawn from the corpus.
    """
    promise = choices.promise
    what = (
        f"{promise.measure} of {promise.query_floor} times the full width for {promise.floor:.4g} "
        "of all queries"
        if promise.kind == "share"
        else f"{promise.floor:.4g} of full-width {promise.measure}"
    )
    smaller = [one for one in choices.choices if not _is_whole(one.plan.run, full_dim)]
    if smaller and drawn:
        return (
            f"{_brief(smaller[0].plan.run)} kept {smaller[0].kept:.2%} on rows that asked for "
            "their like: figures, and no promise."
        )
    if smaller:
        whole = max(one.cost.bytes_read for one in choices.candidates)
        sure = "" if promise.confidence is None else f", with {promise.confidence:.4g} confidence"
        return (
            f"{_brief(smaller[0].plan.run)} keeps {what}{sure}, and reads "
            f"{whole / smaller[0].cost.bytes_read:.0f} times fewer bytes than the full width."
        )
    where = "Stay at the full width" if choices.choices else "Nothing within the budget will do"
    if choices.needed:
        return (
            f"Cannot tell what else keeps {what}: about {choices.needed:,} certifying queries "
            f"would begin to tell. {where}."
        )
    full = next(one for one in choices.candidates if _is_whole(one.funnel, full_dim))
    cheaper = [
        one for one in choices.candidates if one.status != "too dear" and one.spend < full.spend
    ]
    if not cheaper:
        return f"Nothing is cheaper than the full width, which keeps all there is. {where}."
    best = max(cheaper, key=lambda one: one.kept)
    missed = promise.floor - best.kept
    short = f"misses it by {missed:.4f}" if missed > 0 else "too little for a promise"
    return (
        f"No cheaper plan keeps {what}: the best, {_brief(best.funnel)}, kept {best.kept:.4f} of "
        f"it on the ordering queries, {short}. {where}."
    )


def _is_whole(run: Funnel | ExitPolicy, full_dim: int) -> bool:
    """Whether every row is scored at full width as float32."""
    if not isinstance(run, Funnel):
        return False
    first = run.stages[0]
    return len(run.stages) == 1 and (first.dim, first.precision) == (full_dim, Precision.FLOAT32)


def explain(
    name: str,
    one: Candidate,
    tried: Sequence[Candidate],
    *,
    promise: Promise,
    drawn: bool,
    evidence: Mapping[str, Any],
) -> list[str]:
    """Say in five lines what was chosen, and why its neighbors were not.

    Args:
        name: Name of the choice.
        one: What was chosen.
        tried: Everything that was tried, from the likeliest to pass on.
        promise: What was to be kept.
        drawn: Whether the queries were drawn from the corpus.
        evidence: What the plan records.
    """
    low, high = evidence["interval"]
    queries, cost = evidence["queries"], one.cost
    latency = "unknown" if cost.latency_ms is None else f"{cost.latency_ms:.3g} ms"
    read, ram, disk = map(size_in_words, (cost.bytes_read, cost.ram_bytes, cost.disk_bytes))
    return [
        f"{name.capitalize()}: {in_words(one.funnel)}.",
        in_promise(promise, drawn=drawn),
        f"It costs {latency} a query, {read} read, {ram} of RAM and {disk} on disk for "
        f"{evidence['documents']:,} documents (modelled for {evidence['machine']}).",
        _neighbors(one, tried),
        f"Ordered on {queries['order']:,}, certified on {queries['certify']:,} and reported on "
        f"{queries['report']:,} queries ({evidence['origin']} data): {evidence['kept']:.2%} kept "
        f"there, {low:.2%} to {high:.2%}; {evidence['date']}, matryo {evidence['matryo']}, data "
        f"{evidence['calibration'][:12]}.",
    ]


def in_words(funnel: Funnel) -> str:
    """A funnel as a sentence without its full stop."""
    stages = funnel.stages
    if len(stages) == 1:
        return f"score every row by {_numbers(stages[0])} and give back the best {stages[0].keep}"
    margin = isinstance(funnel.stop, Margin)
    parts = [
        f"score every row by {_numbers(stages[0])} and keep {'up to ' if margin else 'the best '}"
        f"{stages[0].keep:,}"
    ]
    parts += [
        f"score those by {_numbers(stage)} and "
        + (
            f"give back the best {stage.keep}"
            if stage is stages[-1]
            else f"keep {'up to' if margin else 'the best'} {stage.keep:,}"
        )
        for stage in stages[1:]
    ]
    words = ", ".join(parts)
    return f"{words}, with fewer rows for queries that need no more" if margin else words


def in_promise(promise: Promise, *, drawn: bool) -> str:
    """What a promise says, as a sentence."""
    if drawn:
        return (
            "No promise: the queries were drawn from the corpus, and real ones may behave "
            "differently."
        )
    where = f" in each of the {len(promise.groups)} groups" if promise.groups else ""
    what = {
        "mean": f"on average {promise.measure} is at least {promise.floor:.4g} times that of the "
        "full width",
        "share": f"at least {promise.floor:.4g} of all queries reach {promise.query_floor} times "
        f"their own full-width {promise.measure}",
        "expected": f"the expected {promise.measure} of the next query is at least "
        f"{promise.floor:.4g}",
    }[promise.kind]
    sure = (
        "an expectation, with no confidence attached"
        if promise.confidence is None
        else f"with {promise.confidence:.4g} confidence"
    )
    truth = (
        "fidelity to the full width"
        if promise.measure.startswith("neighbor_recall")
        else "relevance as judged"
    )
    return f"Promise: {what}{where}, {sure}, for queries like these ({truth})."


def _neighbors(one: Candidate, tried: Sequence[Candidate]) -> str:
    """Why not the next cheaper and the next dearer one."""
    others = [other for other in tried if other.funnel != one.funnel]
    cheaper = [other for other in others if other.spend < one.spend]
    dearer = [other for other in others if other.spend > one.spend]
    words = []
    if cheaper:
        near = max(cheaper, key=lambda other: other.spend)
        words.append(f"cheaper is {_brief(near.funnel)}, which {_why_not(near)}")
    else:
        words.append("nothing cheaper seemed to keep the floor")
    if dearer:
        near = min(dearer, key=lambda other: other.spend)
        ratio = near.spend / max(one.spend, 1e-12)
        words.append(
            f"dearer is {_brief(near.funnel)}, {ratio:.2f} times as dear for {near.kept:.2%}"
        )
    return f"Beside it, {'; '.join(words)} (on the ordering queries)."


def _why_not(other: Candidate) -> str:
    if other.status == "certified":
        return f"is certified too and kept {other.kept:.2%}"
    if other.status == "failed":
        return f"kept {other.kept:.2%} and failed its test (p = {other.p_value:.2g})"
    return f"kept {other.kept:.2%} and was not tested, a safer one having failed"


def _brief(run: Funnel | ExitPolicy) -> str:
    """The text of a funnel without the numbers of its stop rule."""
    if not isinstance(run, Funnel) or run.stop is None:
        return str(run)
    return f"{Funnel(run.stages)} stopping early"


def _numbers(stage: Stage) -> str:
    plain = "" if stage.precision.value == "float32" else f" as {stage.precision}"
    return f"{stage.dim} numbers{plain}"


def size_in_words(number: float) -> str:
    """Bytes in the unit of 1000 that suits them, as 3.2 MB."""
    units = ("B", "kB", "MB", "GB")
    place = min(int(math.log10(max(number, 1)) // 3), len(units) - 1)
    return f"{number / 1000**place:.3g} {units[place]}"
