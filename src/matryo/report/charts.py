"""Charts of a measurement as plotly specifications: plain dicts, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matryo.core import Precision
from matryo.report.axes import Figure, floor_line, floor_note, layout, log_range, origin_note
from matryo.report.wording import count, interval, percent

Row = Mapping[str, Any]

_PRECISIONS = [precision.value for precision in Precision]
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star")
_RAMP = 5


def quality_chart(results: Mapping[str, Any], measure: str) -> Figure:
    """Share of the full-width value kept, against bytes per vector: one line per precision.

    Args:
        results: A checked results document.
        measure: Name of the measure to show.

    Returns:
        `data` and `layout` for plotly, and under `narrow` what changes in the layout where the
        chart is narrow. Rows without `kept` have no point.
    """
    rows = [
        row for row in results["results"] if row["measure"] == measure and row["kept"] is not None
    ]
    # the widest first: a legend shows the marker of a line's first point, and that one is filled
    by_size = sorted(rows, key=lambda row: -row["bytes_per_vector"])
    cuts = [row for row in by_size if row["method"] == "cut"]
    lines = [
        (precision, [row for row in cuts if row["precision"] == precision])
        for precision in _PRECISIONS
        if any(row["precision"] == precision for row in cuts)
    ]
    baselines = [
        (method, [row for row in by_size if row["method"] == method])
        for method in ("rotation", "random")
        if any(row["method"] == method for row in by_size)
    ]
    floor = results["settings"]["floor"]
    sizes = sorted({row["bytes_per_vector"] for row in rows})
    shown = layout(
        x={
            "type": "log",
            "title": {"text": "bytes per vector", "standoff": 8},
            "tickvals": sizes,
            "ticktext": [f"{count(size)} B" for size in sizes],
            "autotickangles": [0, -45],
            "range": log_range(sizes),
        },
        y={
            "title": {"text": f"{escape(measure)}, share kept", "standoff": 12},
            "tickformat": ".0%",
            "range": _share_range(rows, floor),
        },
    )
    shown["margin"]["t"] = 56  # room for a label above the highest point
    shown["shapes"] = [floor_line(floor)]
    shown["annotations"] = [
        floor_note(floor),
        origin_note(results["data"]["origin"]),
        *_marks(results["verdict"], cuts),
    ]
    return {
        "data": [
            *(_band(precision, line) for precision, line in lines),
            *(_baseline(method, line) for method, line in baselines),
            *(_line(precision, line) for precision, line in lines),
        ],
        "layout": shown,
        "narrow": {"xaxis.ticktext": _spaced_labels(sizes)},
    }


def score_shift_chart(results: Mapping[str, Any]) -> Figure:
    """Which score of a prefix stands for which full-width score: one monotone curve per size."""
    rows = results["score_shift"]
    dims = sorted({row["dim"] for row in rows})
    precisions = [name for name in _PRECISIONS if any(row["precision"] == name for row in rows)]
    dashes = ("solid", "dash", "dot", "dashdot")
    ends = [score for row in rows for score in (*row["full"], *row["prefix"])]
    low, high = min(ends, default=0), max(ends, default=1)
    # from the smallest size to the largest, spread over the whole ramp
    step = (_RAMP - 1) / max(len(dims) - 1, 1)
    curves = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{row['dim']}" if len(precisions) == 1 else f"{row['dim']} {row['precision']}",
            "x": row["full"],
            "y": row["prefix"],
            "line": {
                "color": f"var(--ramp-{1 + round(step * dims.index(row['dim']))})",
                "dash": dashes[precisions.index(row["precision"]) % len(dashes)],
                "width": 2.25,
            },
            "hovertemplate": (
                f"<b>{row['dim']} numbers, {row['precision']}</b><br>"
                "full width %{x:.3f}<br>prefix %{y:.3f}<extra></extra>"
            ),
        }
        for row in sorted(rows, key=lambda row: (row["dim"], precisions.index(row["precision"])))
    ]
    unchanged = {
        "type": "scatter",
        "mode": "lines",
        "name": "no shift",
        "x": [low, high],
        "y": [low, high],
        "line": {"color": "var(--floor)", "dash": "dot", "width": 1.25},
        "hoverinfo": "skip",
    }
    shown = layout(
        x={"title": {"text": "score at full width", "standoff": 8}},
        y={"title": {"text": "score of the prefix", "standoff": 12}},
    )
    shown["annotations"] = [origin_note(results["data"]["origin"])]
    shown["legend"]["title"] = {"text": "numbers"}
    return {"data": [*curves, unchanged], "layout": shown, "narrow": {}}


def losses_chart(document: Mapping[str, Any]) -> Figure:
    """The loss of every size along a training run: one line per size."""
    history = document["history"]
    dims = [dim for dim in map(str, document["settings"]["dims"]) if dim in history[-1]["per_size"]]
    step = (_RAMP - 1) / max(len(dims) - 1, 1)
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": dim,
            "x": [row["step"] for row in history if dim in row["per_size"]],
            "y": [row["per_size"][dim] for row in history if dim in row["per_size"]],
            "line": {"color": f"var(--ramp-{1 + round(step * at)})", "width": 2.25},
            "hovertemplate": (
                f"<b>{dim} numbers</b><br>step %{{x}}<br>loss %{{y:.4f}}<extra></extra>"
            ),
        }
        for at, dim in enumerate(dims)
    ]
    shown = layout(
        x={"title": {"text": "step", "standoff": 8}},
        y={"title": {"text": "loss", "standoff": 12}},
    )
    shown["annotations"] = [origin_note(document["data"]["origin"])]
    shown["legend"]["title"] = {"text": "numbers"}
    return {"data": lines, "layout": shown, "narrow": {}}


def _line(precision: str, rows: Sequence[Row]) -> dict[str, Any]:
    color = _color(precision)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": precision,
        "legendgroup": precision,
        "x": [row["bytes_per_vector"] for row in rows],
        "y": [row["kept"] for row in rows],
        "text": [_hover(row) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": color, "width": 2.5},
        "marker": {
            "symbol": _SYMBOLS[_PRECISIONS.index(precision)],
            "size": 9,
            # a hollow marker is one filled with the page's own color, so that the line behind it
            # does not shine through
            "color": ["var(--card)" if row["trained"] is False else color for row in rows],
            "line": {"color": color, "width": 2},
        },
    }


def _baseline(method: str, rows: Sequence[Row]) -> dict[str, Any]:
    color = "var(--baseline)"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": method,
        "legendrank": 2000,  # after the lines, though drawn under them
        "x": [row["bytes_per_vector"] for row in rows],
        "y": [row["kept"] for row in rows],
        "text": [_hover(row) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {
            "color": color,
            "width": 1.5,
            "dash": {"rotation": "dash", "random": "dot"}[method],
        },
        "marker": {"symbol": "x-thin", "size": 6, "line": {"color": color, "width": 1.5}},
    }


def _band(precision: str, rows: Sequence[Row]) -> dict[str, Any]:
    bounded = [row for row in rows if row["kept_low"] is not None]
    upper = [(row["bytes_per_vector"], row["kept_high"]) for row in bounded]
    lower = [(row["bytes_per_vector"], row["kept_low"]) for row in reversed(bounded)]
    return {
        "type": "scatter",
        "mode": "lines",
        "legendgroup": precision,
        "showlegend": False,
        "hoverinfo": "skip",
        "x": [x for x, _ in upper + lower],
        "y": [y for _, y in upper + lower],
        "fill": "toself",
        "fillcolor": f"{_color(precision)} / 0.16",
        "line": {"width": 0},
    }


def _marks(verdict: Mapping[str, Any], cuts: Sequence[Row]) -> list[dict[str, Any]]:
    """Arrows with a label at the recommended size and at the knee; one label where they meet."""
    named: dict[tuple[int, str], list[str]] = {}
    for name in ("recommended", "knee"):
        if point := verdict[name]:
            named.setdefault((point["dim"], point["precision"]), []).append(name)
    return [
        {
            "text": f"<b>{' and '.join(names)}</b><br>{row['dim']} {row['precision']}",
            # plotly places annotations on a logarithmic axis by the exponent
            "x": math.log10(row["bytes_per_vector"]),
            "y": row["kept"],
            "ax": -18 if "recommended" in names else 18,
            "ay": -46 if "recommended" in names else 56,
            "standoff": 7,
            "arrowhead": 0,
            "arrowwidth": 1.25,
            "arrowcolor": "var(--ink)",
            "font": {"color": "var(--ink)", "size": 12},
            "bgcolor": "var(--card)",
            "bordercolor": "var(--line)",
            "borderpad": 4,
            "align": "left",
        }
        for row in cuts
        if (names := named.get((row["dim"], row["precision"])))
    ]


def _share_range(rows: Sequence[Row], floor: float) -> list[float]:
    # left to itself plotly widens the axis for the arrows' labels and flattens the lines
    shares = [floor, 1.0, *(row["kept"] for row in rows)]
    shares += [
        row[end] for row in rows for end in ("kept_low", "kept_high") if row[end] is not None
    ]
    margin = 0.06 * (max(shares) - min(shares)) or 0.02
    return [min(shares) - margin, max(shares) + margin]


def _spaced_labels(sizes: Sequence[int]) -> list[str]:
    """Labels of the ticks without those that would touch a neighbor; the widest has one."""
    low, high = log_range(sizes)
    labels, previous = [], math.inf
    for size in reversed(sizes):
        apart = previous - math.log10(size) >= (high - low) / 11
        labels.append(f"{count(size)} B" if apart else "")
        previous = math.log10(size) if apart else previous
    return labels[::-1]


def _hover(row: Row) -> str:
    lines = [f"<b>{row['dim']} numbers, {row['precision']}</b>"]
    if row["method"] != "cut":
        lines[0] += f" ({row['method']})"
    bounds = interval(row["low"], row["high"]) if row["low"] is not None else ""
    lines.append(f"{escape(row['measure'])} {row['value']:.3f} {bounds}")
    lines.append(f"{percent(row['kept'])} of full width, n = {count(row['n'])}")
    lines.append(row["verdict"])
    if row["trained"] is False:
        lines.append("the model was not trained at this size")
    return "<br>".join(lines)


def _color(precision: str) -> str:
    return f"var(--series-{_PRECISIONS.index(precision) + 1})"
