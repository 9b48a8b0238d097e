"""`matryo diff`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from matryo.cli.options import Results
from matryo.cli.terminal import print_json, write_json


def run(
    before: Annotated[Path, typer.Argument(help="Results of the first `matryo measure --out`.")],
    after: Annotated[Path, typer.Argument(help="Results of the second, on the same data.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help='Exit with 1 if this holds, as "any dim: nDCG@10 worse by 0.01 (p<0.05)"; '
            "any dim, all dims or dim 64, @int8 if not float32; worse, better or differs; "
            "may be repeated."
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Of all intervals of a measure together.")
    ] = 0.95,
    results: Results = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two measurements query by query; exits with 1 if a condition holds."""
    from matryo.jobs import diff

    compared = diff(before, after, fail_if=fail_if or (), confidence=confidence)
    if results:
        write_json(results, compared)
    if as_json:
        print_json(compared)
    else:
        _print(compared)
    if any(condition["holds"] for condition in compared["conditions"]):
        raise typer.Exit(1)


def _print(compared: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for measure in dict.fromkeys(row["measure"] for row in compared["rows"]):
        rows = [row for row in compared["rows"] if row["measure"] == measure]
        table = Table(
            title=f"{measure} on {rows[0]['n']:,} queries", title_justify="left",
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        )  # fmt: skip
        for name in ("dim", "precision", "before", "after", "difference", "interval", "p"):
            table.add_column(name, justify="left" if name == "precision" else "right")
        for row in rows:
            table.add_row(
                str(row["dim"]),
                row["precision"],
                f"{row['before']:.4f}",
                f"{row['after']:.4f}",
                _signed(row["difference"]),
                _interval(row),
                f"{row['p_value']:.2g}",
                style=_color(row),
            )
        console.print(table)
    console.print(
        f"after minus before, paired by query; intervals hold for all rows of a measure at "
        f"{compared['confidence']:.0%}, and p-values (two-sided) are adjusted for their number "
        "(Holm)",
        style="dim", highlight=False,
    )  # fmt: skip
    for note in compared["notes"]:
        console.print(f"[yellow]Note:[/yellow] {note}", highlight=False)
    for condition in compared["conditions"]:
        console.print(_in_words(condition), highlight=False, markup=False)


def _interval(row: Mapping[str, Any]) -> str:
    if row["low"] == row["high"] == 0:
        return "no query differs"
    return f"{_signed(row['low'])} to {_signed(row['high'])}"


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # never a minus before zeros


def _color(row: Mapping[str, Any]) -> str | None:
    return "red" if row["high"] < 0 else "green" if row["low"] > 0 else None


def _in_words(condition: Mapping[str, Any]) -> str:
    how = f"p adjusted over {len(condition['rows'])} dims (Holm)" if condition["adjusted"] else "p"
    shown = ", ".join(
        f"{row['dim']}: {_signed(row['difference'])} ({row['p_value']:.2g})"
        for row in condition["rows"]
        if row["holds"] or not condition["holds"]
    )
    verdict = "HOLDS" if condition["holds"] else "does not hold"
    return f"{condition['text']}: {verdict}; difference and {how}: {shown}"
