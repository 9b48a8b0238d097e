"""What the verbs share in showing things: tables on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matryo.core import write_atomically

_COLORS = {"keeps": "green", "below": "red", "cannot tell": "yellow"}


def print_json(value: object) -> None:
    """Print a document for machines."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def write_json(path: Path, value: object) -> None:
    """Write a document, replacing an older one only when the new one is whole."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n")


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Any]:
    """A callback that draws one bar per stage, only on a terminal and never on stdout."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def step(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.advance(tasks[stage], done)

        yield step


def print_results(results: Mapping[str, Any]) -> None:
    """The verdict on top, then one table for each measure."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    data, settings, verdict = results["data"], results["settings"], results["verdict"]
    console.print(f"\n[bold]{verdict['headline']}[/bold]")
    for sentence in verdict["sentences"]:
        console.print(f"  {sentence}")
    for item in data["left_out"]:
        console.print(f"  [yellow]Left out:[/yellow] {item['count']} {item['what']}")
    console.print(
        f"\n{data['name']}: {data['documents']:,} documents, {data['queries']:,} queries, "
        f"{data['origin']} data; floor {settings['floor']:g} of the full width at "
        f"{settings['confidence']:.0%} confidence over all rows of a measure",
        highlight=False,
    )
    for measure in results["measures"]:
        table = Table(title=f"{measure['name']}: {measure['about']}", title_justify="left")
        for name in (
            "dim",
            "precision",
            "bytes",
            "value",
            "interval",
            "kept",
            "interval",
            "verdict",
        ):
            table.add_column(name, justify="left" if name in ("precision", "verdict") else "right")
        for row in results["results"]:
            if row["measure"] == measure["name"] and row["method"] == "cut":
                table.add_row(*_cells(row))
        baseline = [
            row
            for row in results["results"]
            if row["measure"] == measure["name"] and row["method"] != "cut"
        ]
        if baseline:
            table.add_section()
        for row in baseline:
            cells = _cells(row)
            table.add_row(cells[0], row["method"], *cells[2:], style="dim")
        console.print(table)
    if results["threshold"]:
        table = Table(title=f"a full-width score of {results['threshold']['full']:g} becomes")
        for name in ("dim", "precision", "score", "pairs that change sides"):
            table.add_column(name, justify="right")
        for row in results["threshold"]["rows"]:
            table.add_row(
                str(row["dim"]), row["precision"], f"{row['prefix']:.4f}", f"{row['flipped']:.2%}"
            )
        console.print(table)


def _cells(row: Mapping[str, Any]) -> list[str]:
    kept, verdict = row["kept"], row["verdict"]
    mark = "*" if row["trained"] is False else ""
    text = verdict
    if verdict == "cannot tell" and row["needed"]:
        text = f"cannot tell, about {row['needed']:,} queries needed"
    color = _COLORS.get(verdict)
    return [
        f"{row['dim']}{mark}",
        row["precision"],
        f"{row['bytes_per_vector']:,}",
        f"{row['value']:.4f}",
        f"{row['low']:.4f} … {row['high']:.4f}",
        "" if kept is None else f"{kept:.3f}",
        "" if row["kept_low"] is None else f"{row['kept_low']:.3f} … {row['kept_high']:.3f}",
        f"[{color}]{text}[/{color}]" if color else text,
    ]
