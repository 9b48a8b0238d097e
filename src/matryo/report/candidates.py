"""The picture of all candidates of a plan: what each keeps against what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from matryo.report.axes import Figure, floor_line, floor_note, layout, log_range, origin_note
from matryo.report.choices import kept_in_words, named_candidates
from matryo.report.shapes import STATUSES
from matryo.report.wording import duration_ms, p_value, short_bytes, size_bytes

Candidate = Mapping[str, Any]

# What a plan can minimize: the field of a candidate, its axis, and how a tick is written.
COSTS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "bytes": ("bytes_read", "bytes per query (modelled)", short_bytes),
    "latency": ("latency_ms", "latency (modelled)", lambda ms: f"{ms:g}\u202fms"),
    "ram": ("ram_bytes", "RAM (modelled)", short_bytes),
}
_MARKERS: dict[str, dict[str, Any]] = {
    "passed over": {"size": 5, "color": "var(--baseline) / 0.55"},
    "too dear": {"size": 6, "color": "var(--card)", "line": {"color": "var(--baseline)"}},
    "untested": {"size": 10, "color": "var(--card)", "line": {"color": "var(--unsure)"}},
    "failed": {"size": 9, "symbol": "x-thin", "line": {"color": "var(--bad)", "width": 2.5}},
    "certified": {"size": 10, "color": "var(--good)", "line": {"color": "var(--card)"}},
}
_LABELS = {"cheap": -12, "balanced": -44, "safe": -76}  # pixels up from the dot


def candidates_chart(plan: Mapping[str, Any], cost: str) -> Figure:
    """What every candidate keeps on the ordering queries, against one of its costs.

    Args:
        plan: A checked plan document.
        cost: A name among `COSTS`.

    Returns:
        `data` and `layout` for plotly, and under `narrow` what changes in the layout where the
        chart is narrow. Candidates whose cost is not known have no point.
    """
    field, title, written = COSTS[cost]
    seen = [one for one in plan["candidates"] if (one[field] or 0) > 0]
    named = [(names, plan["candidates"][at]) for at, names in named_candidates(plan).items()]
    chosen = [(names, one) for names, one in named if (one[field] or 0) > 0]
    low, high = shares_shown(plan)
    ends = log_range([one[field] for one in seen if one["kept"] >= low])
    # the left of the axis is free for the labels of the choices
    wide, narrow = (_with_room(ends, [one[field] for _, one in chosen], p) for p in (0.2, 0.38))
    ticks = _ticks(*narrow)
    room = 0.05 * (high - low)
    shown = layout(
        x={
            "type": "log",
            "title": {"text": title, "standoff": 8},
            "tickvals": ticks,
            "ticktext": [written(tick) for tick in ticks],
            "range": wide,
        },
        y={
            "title": {"text": escape(kept_in_words(plan["promise"])), "standoff": 12},
            "tickformat": ".0%" if high - low > 0.05 else ".1%",
            "range": [low - room, high + room],
        },
    )
    # room for the label of a choice near the upper end
    above = [8 * len(names) - _LABELS[names[0]] for names, _ in chosen]
    shown["margin"]["t"] = max([20, *above])
    shown["shapes"] = [floor_line(plan["promise"]["floor"])]
    shown["annotations"] = [
        {**floor_note(plan["promise"]["floor"]), "x": 1, "xanchor": "right"},
        origin_note(plan["data"]["origin"]),
        *(_label(names, one, field) for names, one in chosen),
    ]
    dots = [
        _dots(status, those, field)
        # from the many to the few, so that those that matter lie on top
        for status in reversed(STATUSES)
        if (those := [one for one in seen if one["status"] == status])
    ]
    return {
        "data": [_best(seen, field), *dots, _ring([one for _, one in chosen], field)],
        "layout": shown,
        "narrow": {
            "xaxis.range": narrow,
            "xaxis.ticktext": [written(tick) if _is_decade(tick) else "" for tick in ticks],
        },
    }


def shares_shown(plan: Mapping[str, Any]) -> tuple[float, float]:
    """The shares that the picture shows: what lies far below the floor would flatten the rest."""
    floor = plan["promise"]["floor"]
    kept = [one["kept"] for one in plan["candidates"]]
    tested = [one["kept"] for one in plan["candidates"] if one["status"] in STATUSES[:2]]
    near = floor - 2 * (1 - floor)
    return min([max(near, min(kept, default=near)), *tested]), max([1.0, *kept])


def _dots(status: str, those: Sequence[Candidate], field: str) -> dict[str, Any]:
    marker = _MARKERS[status]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": status,
        "x": [one[field] for one in those],
        "y": [one["kept"] for one in those],
        "text": [one["funnel"] + (" stopping early" if one["stops"] else "") for one in those],
        "customdata": [_costs(one) for one in those],
        "hovertemplate": (
            f"<b>%{{text}}</b><br>%{{y:.1%}} on the ordering queries<br>%{{customdata}}<br>{status}"
            "<extra></extra>"
        ),
        "marker": {
            "symbol": ["diamond" if one["stops"] else "circle" for one in those],
            **marker,
            "line": {"width": 1.5, **marker.get("line", {"width": 0})},
        },
    }


def _costs(one: Candidate) -> str:
    latency = "" if one["latency_ms"] is None else f"{duration_ms(one['latency_ms'])}, "
    tested = "" if one["p_value"] is None else f"<br>p {p_value(one['p_value'])}"
    read, ram = size_bytes(one["bytes_read"]), size_bytes(one["ram_bytes"])
    return f"{latency}{read} read, {ram} of RAM (modelled){tested}"


def _best(seen: Sequence[Candidate], field: str) -> dict[str, Any]:
    """Stairs along the candidates that keep more than every cheaper one."""
    stairs: list[Candidate] = []
    for one in sorted(seen, key=lambda one: (one[field], -one["kept"])):
        if one["status"] != "too dear" and (not stairs or one["kept"] > stairs[-1]["kept"]):
            stairs.append(one)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best at its price",
        "x": [one[field] for one in stairs],
        "y": [one["kept"] for one in stairs],
        "line": {"color": "var(--baseline)", "width": 1.25, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _ring(chosen: Sequence[Candidate], field: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "chosen",
        "x": [one[field] for one in chosen],
        "y": [one["kept"] for one in chosen],
        "hoverinfo": "skip",
        "marker": {
            "symbol": "circle-open",
            "size": 19,
            "color": "var(--accent)",
            "line": {"width": 2.5},
        },
    }


def _label(names: Sequence[str], one: Candidate, field: str) -> dict[str, Any]:
    """The names of a choice with an arrow, on the side of the dot where no candidate can be."""
    return {
        "text": f"<b>{'<br>'.join(names)}</b>",
        "x": math.log10(one[field]),  # plotly places annotations by the exponent
        "y": one["kept"],
        "ax": -40,
        "ay": _LABELS[names[0]],
        "xanchor": "right",
        "standoff": 10,
        "arrowhead": 0,
        "arrowwidth": 1.25,
        "arrowcolor": "var(--ink)",
        "font": {"color": "var(--ink)", "size": 12},
        "bgcolor": "var(--card)",
        "bordercolor": "var(--line)",
        "borderpad": 4,
    }


def _with_room(ends: Sequence[float], costs: Sequence[float], part: float) -> list[float]:
    """The ends of a logarithmic axis, the lower so low that the first `part` has no such cost."""
    low, high = ends
    return [min([low, *((math.log10(cost) - part * high) / (1 - part) for cost in costs)]), high]


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten between two exponents; of many powers only the 1."""
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    powers = range(math.floor(low), math.ceil(high))
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _is_decade(tick: float) -> bool:
    return f"{tick:e}".startswith("1.0")
