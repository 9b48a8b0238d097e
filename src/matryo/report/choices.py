"""What the page of a plan says of its promise and of its choices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matryo.core import Funnel
from matryo.report.document import find_candidate
from matryo.report.shapes import STATUSES
from matryo.report.wording import joined, level

Row = Mapping[str, Any]

_MOST_NAMED = 6  # groups that are called by their names


def outcome(plan: Row) -> tuple[str, str, str]:
    """What came of planning, for a pill: its looks, its glyph, its text."""
    smaller = [row for row in plan["choices"] if row["funnel"] != full_width(plan)]
    confidence = plan["promise"]["confidence"]
    if smaller and not smaller[0]["plan"]["promise"]:
        return "unsure", "?", "figures, no promise"
    if smaller and confidence is None:
        return "good", "✓", "kept in expectation"
    if smaller:
        return "good", "✓", f"promised with {level(confidence)} confidence"
    if plan["needed"]:
        return "unsure", "?", "cannot tell"
    if plan["choices"]:
        return "plain", "=", "stay at the full width"
    return "bad", "✕", "no plan within the budget"


def promise_in_words(promise: Row) -> str:
    """What is promised, or was asked for, as a sentence."""
    measure, floor = promise["measure"], level(promise["floor"])
    groups = promise["groups"] or []
    named = (
        f"the groups {joined(groups)}" if len(groups) <= _MOST_NAMED else f"{len(groups)} groups"
    )
    where = f", in each of {named}" if groups else ""
    if promise["kind"] == "share":
        reached = level(promise["query_floor"])
        return (
            f"At least {floor} of all queries reach {reached} of their own full-width "
            f"{measure}{where}."
        )
    if promise["kind"] == "expected":
        return f"The {measure} to be expected of the next query is at least {floor}{where}."
    return f"On average {measure} is at least {floor} of what the full width reaches{where}."


def named_choices(plan: Row) -> list[dict[str, Any]]:
    """The choices from cheap to safe; those that coincide are one, with all their names.

    Returns:
        Each as in the document, its `explanation` without its name, and with it: `names`; `stages`,
        as they are drawn; `stops`, whether single queries stop early; `bounds`, where its figures
        and the floor lie on a scale that all choices share, in percent of its length.
    """
    same: dict[str, list[Row]] = {}
    for row in plan["choices"]:
        same.setdefault(row["funnel"], []).append(row)
    floor = plan["promise"]["floor"]
    seen = [row[name] for row in plan["choices"] for name in ("low", "kept", "high")]
    least, most = min([floor, *seen]), max([1.0, *seen])
    return [
        {
            **rows[0],
            "names": [row["name"] for row in rows],
            "stages": _stages(rows[0], plan),
            "explanation": _without_name(rows[0]),
            "stops": Funnel.parse(funnel).stop is not None,
            "bounds": {
                name: round(100 * (value - least) / (most - least or 1), 2)
                for name, value in {**rows[0], "floor": floor}.items()
                if name in ("low", "kept", "high", "floor")
            },
        }
        for funnel, rows in same.items()
    ]


def named_candidates(plan: Row) -> dict[int, list[str]]:
    """Places of the candidates that were chosen, each with the names of its choices."""
    named: dict[int, list[str]] = {}
    for row in plan["choices"]:
        place = find_candidate(row, plan["candidates"])
        if place is not None:
            named.setdefault(place, []).append(row["name"])
    return named


def tested(plan: Row) -> list[dict[str, Any]]:
    """What was on the path: certified, failed, untested; of each the safest first, with `names`."""
    named = named_candidates(plan)
    path = [
        {**one, "names": named.get(place, [])}
        for place, one in enumerate(plan["candidates"])
        if one["status"] in STATUSES[:3]
    ]
    return sorted(
        path, key=lambda one: (STATUSES.index(one["status"]), -one["kept"], -one["bytes_read"])
    )


def full_width(plan: Row) -> str:
    """The text of the search over whole vectors, what every plan is compared with."""
    return f"{max(plan['settings']['dims'])}:{plan['settings']['k']}"


def kept_in_words(promise: Row) -> str:
    """What the share is a share of that a plan keeps."""
    if promise["kind"] == "share":
        return f"queries that reach {level(promise['query_floor'])}"
    return f"{promise['measure']}, share kept"


def _without_name(row: Row) -> list[str]:
    first, *rest = row["explanation"] or [""]
    first = first.removeprefix(f"{row['name'].capitalize()}: ")
    return [first[:1].upper() + first[1:], *rest]


def _stages(row: Row, plan: Row) -> list[dict[str, Any]]:
    """The stages with the rows that enter and leave each, and how wide that is drawn."""
    stages, rows = Funnel.parse(row["funnel"]).stages, row["cost"]["rows_read"]
    return [
        {
            "dim": stage.dim,
            "precision": stage.precision.value,
            "keep": stage.keep,
            "rows": entering,
            "top": _width(entering, plan),
            "bottom": _width(leaving, plan),
        }
        for stage, entering, leaving in zip(stages, rows, [*rows[1:], stages[-1].keep], strict=True)
    ]


def _width(rows: float, plan: Row) -> float:
    """Percent of the full width at which so many rows are drawn, by their logarithm.

    The rows of an answer are drawn at 40, so that there is room for words.
    """
    least, most = plan["settings"]["k"], plan["data"]["documents"]
    part = math.log(max(rows, least) / least) / math.log(max(most, 2 * least) / least)
    return round(40 + 60 * min(part, 1), 2)
