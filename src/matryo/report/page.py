"""From a document to one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matryo.core import InputError, Space, write_atomically
from matryo.report import wording
from matryo.report.candidates import COSTS, candidates_chart, shares_shown
from matryo.report.charts import losses_chart, quality_chart, score_shift_chart
from matryo.report.choices import full_width, named_choices, outcome, promise_in_words, tested
from matryo.report.document import read_document
from matryo.report.shapes import METHODS

_FOLDER = Path(__file__).parent
_FILTERS = ("count", "percent", "level", "signed", "size_bytes", "duration_ms", "joined")


def write_report(results: Mapping[str, Any], path: str | Path, *, overwrite: bool = True) -> None:
    """Write a document as one HTML file that opens without a network.

    The file holds the chart library too (plotly.js, about 4.8 MB, nearly all of its size). It
    shows what the document says and measures nothing; texts of documents and queries appear only
    where the document has them.

    Args:
        results: A document of a measurement, a plan, an adaptation or a training run, as
            `docs/results-schema.md` describes them.
        path: The file to write; its folder must exist.
        overwrite: Replace a file that is there already.

    Raises:
        FormatError: not a document of this format; `field` names what is wrong.
        InputError: `space` is not one, `path` exists and `overwrite` is not set, or its folder
            does not exist.
    """
    document = read_document(results)
    if not overwrite and Path(path).exists():
        raise InputError(f"{path} exists already", hint="choose another name, or allow overwriting")
    write_atomically(path, _render(document))


def _render(document: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update({name: getattr(wording, name) for name in _FILTERS})
    kind, space = document["kind"], document["space"]
    pages = {
        "measure": _measurement,
        "plan": _plan,
        "adapt": _adaptation,
        "train": _training,
    }
    shown = pages[kind](document)
    return environment.get_template(f"{kind}.html.jinja").render(
        document=document,
        data=document["data"],
        settings=document["settings"],
        verdict=document["verdict"],
        space=None if space is None else Space.from_dict(space).describe(),
        **shown,
        wording=wording,
        style=(_FOLDER / "report.css").read_text("utf-8"),
        script=(_FOLDER / "report.js").read_text("utf-8"),
        plotly=get_plotlyjs(),
    )


def _measurement(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the page of a measurement shows beside its document."""
    # the first measure is the one shown before anybody chooses
    measures = sorted(document["measures"], key=lambda measure: not measure["primary"])
    charts = {"quality": [quality_chart(document, measure["name"]) for measure in measures]}
    if document["score_shift"]:
        charts["shift"] = [score_shift_chart(document)]
    return {
        "measures": measures,
        "rows": {measure["name"]: _rows(document, measure["name"]) for measure in measures},
        "widest": max((row["bytes_per_vector"] for row in document["results"]), default=1),
        "charts": charts,
    }


def _rows(document: Mapping[str, Any], measure: str) -> list[dict[str, Any]]:
    """The rows of one measure, plain cuts first; `marks` says which the verdict names."""
    verdict = document["verdict"]
    return [
        {
            **row,
            "marks": [
                name
                for name in ("recommended", "knee")
                if row["method"] == "cut"
                and (point := verdict[name])
                and (point["dim"], point["precision"]) == (row["dim"], row["precision"])
            ],
        }
        for row in sorted(document["results"], key=lambda row: METHODS.index(row["method"]))
        if row["measure"] == measure
    ]


def _plan(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the page of a plan shows beside its document."""
    candidates, minimized = document["candidates"], document["settings"]["minimize"]
    # what was minimized is shown before anybody chooses; what nobody knows is not shown at all
    costs = sorted(COSTS, key=lambda name: name != minimized)
    costs = [name for name in costs if any(one[COSTS[name][0]] for one in candidates)]
    low, _ = shares_shown(document)
    whole = full_width(document)
    return {
        "outcome": outcome(document),
        "promised": promise_in_words(document["promise"]),
        "choices": named_choices(document),
        "tested": tested(document),
        "whole": next((one for one in candidates if one["funnel"] == whole), None),
        "costs": costs,
        "charts": {"candidates": [candidates_chart(document, name) for name in costs]},
        "lowest": low,
        "below": sum(one["kept"] < low for one in candidates),
    }


def _adaptation(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the page of an adaptation shows beside its document."""
    values = {(row["method"], row["dim"]): row for row in document["results"]}
    best, dims = document["map"]["method"], document["settings"]["dims"]
    measure = document["measure"]
    gains = [("", measure, row) for row in document["results"] if row["method"] == best]
    gains += [
        (row["trial"], row["measure"], row)
        for row in document["elsewhere"] or ()
        if row["method"] == best
    ]
    return {
        "methods": sorted(document["methods"], key=lambda one: -one["value"]),
        "rows": {
            one["name"]: [values.get((one["name"], dim)) for dim in dims]
            for one in document["methods"]
        },
        "gains": [row for row in gains if row[2]["difference"] is not None],
        "charts": {},
    }


def _training(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the page of a training run shows beside its document."""
    quality = document["quality"]
    measures = dict.fromkeys(row["measure"] for row in quality)
    return {
        "tables": {name: [row for row in quality if row["measure"] == name] for name in measures},
        "charts": {"losses": [losses_chart(document)]},
    }
