"""`matryo report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from matryo.core import FormatError


def run(
    results: Annotated[Path, typer.Argument(help="Results of measure, plan, adapt or train.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")] = Path(
        "report.html"
    ),
    with_text: Annotated[
        bool, typer.Option("--with-text", help="Keep texts that the results hold.")
    ] = False,
) -> None:
    """Write one HTML file that opens without a network."""
    from matryo.jobs import without_text
    from matryo.report import write_report

    try:
        document = json.loads(results.read_text("utf-8"))
    except ValueError as error:
        raise FormatError(f"{results}: expected results as JSON, got: {error}") from error
    if not isinstance(document, dict):
        raise FormatError(f"{results}: expected one JSON object, got {type(document).__name__}")
    write_report(document if with_text else without_text(document), out)
    typer.echo(f"Wrote {out}")
