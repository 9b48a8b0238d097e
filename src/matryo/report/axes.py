"""What every chart has in common: the axes, the floor, and the origin of the data.

Colors are names of the page's CSS variables (`var(--series-1)`, `var(--series-1) / 0.15` where it
is see-through); the page's script replaces them by the colors of the scheme it is shown in. So a
chart can change from light to dark, and the colors are written down once, in `report.css`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matryo.report.wording import level

Figure = dict[str, Any]


def layout(*, x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    """The layout of a chart in the looks of the page, with these fields for its two axes."""
    axis = {
        "gridcolor": "var(--grid)",
        "linecolor": "var(--line)",
        "tickcolor": "var(--line)",
        "zeroline": False,
        "automargin": True,
        "tickfont": {"size": 12},
        "ticks": "outside",
        "ticklen": 4,
    }
    return {
        "paper_bgcolor": "var(--card)",
        "plot_bgcolor": "var(--card)",
        "font": {"color": "var(--ink)", "size": 13},
        "margin": {"l": 8, "r": 16, "t": 12, "b": 8},
        "xaxis": {**axis, "showgrid": False, **x},
        "yaxis": {**axis, **y},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "font": {"size": 12},
        },
        "hoverlabel": {
            "bgcolor": "var(--card)",
            "bordercolor": "var(--ink)",
            "font": {"color": "var(--ink)"},
            "align": "left",
        },
        "hovermode": "closest",
    }


def log_range(sizes: Sequence[float]) -> list[float]:
    """Ends of a logarithmic axis that shows all sizes, as exponents of 10."""
    low, high = math.log10(min(sizes, default=1)), math.log10(max(sizes, default=10))
    margin = 0.05 * (high - low) or 0.5
    return [low - margin, high + margin]


def floor_line(floor: float) -> dict[str, Any]:
    """The floor as a dashed line across the chart."""
    return {
        "type": "line",
        "layer": "below",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": floor,
        "y1": floor,
        "line": {"color": "var(--floor)", "width": 1.5, "dash": "dash"},
    }


def floor_note(floor: float) -> dict[str, Any]:
    """The level of the floor, written on its line."""
    return {
        "text": f"floor {level(floor)}",
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "y": floor,
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"color": "var(--floor)", "size": 12},
    }


def origin_note(origin: str) -> dict[str, Any]:
    """Where the data come from, in a corner of the chart."""
    return {
        "text": f"{origin} data",
        "xref": "paper",
        "yref": "paper",
        "x": 1,
        "y": 0,
        "xanchor": "right",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"color": "var(--muted)", "size": 11},
    }
