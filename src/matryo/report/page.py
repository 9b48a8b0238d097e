"""From a results document to one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matryo.core import InputError, Space, write_atomically
from matryo.report import wording
from matryo.report.charts import quality_chart, score_shift_chart
from matryo.report.document import METHODS, read_document

_FOLDER = Path(__file__).parent
_FILTERS = ("count", "percent", "level", "signed", "size_bytes", "duration_ms")


def write_report(results: Mapping[str, Any], path: str | Path, *, overwrite: bool = True) -> None:
    """Write a results document as one HTML file that opens without a network.

    The file holds the chart library too (plotly.js, about 4.8 MB, nearly all of its size). It
    shows what the document says and measures nothing; texts of documents and queries appear only
    where the document has them.

    Args:
        results: A results document, as `docs/results-schema.md` describes it.
        path: The file to write; its folder must exist.
        overwrite: Replace a file that is there already.

    Raises:
        FormatError: not a results document of this format; `field` names what is wrong.
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
    # the first measure is the one shown before anybody chooses
    measures = sorted(document["measures"], key=lambda measure: not measure["primary"])
    charts = {"quality": [quality_chart(document, measure["name"]) for measure in measures]}
    if document["score_shift"]:
        charts["shift"] = [score_shift_chart(document)]
    space = document["space"]
    return environment.get_template("report.html.jinja").render(
        document=document,
        space=None if space is None else Space.from_dict(space).describe(),
        measures=measures,
        rows={measure["name"]: _rows(document, measure["name"]) for measure in measures},
        widest=max((row["bytes_per_vector"] for row in document["results"]), default=1),
        charts=charts,
        wording=wording,
        style=(_FOLDER / "report.css").read_text("utf-8"),
        script=(_FOLDER / "report.js").read_text("utf-8"),
        plotly=get_plotlyjs(),
    )


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
