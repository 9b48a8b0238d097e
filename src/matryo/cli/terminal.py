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
    """A callback that draws one bar per stage, only on a terminal and never on stdout.

    It is called with the stage, how many more are done, how many there are in all and, if there is
    something to say, a note that stands behind the bar.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda *_, **__: None
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
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def step(stage: str, done: int, total: int, *, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], advance=done, note=note)

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
    for measure in sorted(results["measures"], key=lambda item: not item["primary"]):
        console.print(_table(results, measure))
    if any(row["trained"] is False for row in results["results"]):
        console.print("\n* the model was not trained at this size", style="dim")
    if results["threshold"]:
        table = Table(title=f"a full-width score of {results['threshold']['full']:g} becomes")
        for name in ("dim", "precision", "score", "pairs that change sides"):
            table.add_column(name, justify="right")
        for row in results["threshold"]["rows"]:
            table.add_row(
                str(row["dim"]), row["precision"], f"{row['prefix']:.4f}", f"{row['flipped']:.2%}"
            )
        console.print(table)


def _table(results: Mapping[str, Any], measure: Mapping[str, Any]) -> Any:
    """The rows of one measure, narrow enough for 80 columns; baselines below."""
    from rich import box
    from rich.table import Table

    rows = [row for row in results["results"] if row["measure"] == measure["name"]]
    # fidelity is a share of the full width already
    with_share = any(row["kept"] not in (None, row["value"]) for row in rows)
    columns = ["dim", "precision", "bytes", "value", "interval"]
    columns += ["kept", "interval", "verdict"] if with_share else ["verdict"]
    title = f"\n{measure['name']}: {measure['about']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        left = name in ("precision", "verdict")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "verdict")
    cut = [row for row in rows if row["method"] == "cut"]
    for row in cut:
        table.add_row(*_cells(row, with_share=with_share), end_section=row is cut[-1])
    for row in rows:
        if row["method"] != "cut":
            cells = _cells(row, with_share=with_share)
            table.add_row(cells[0], row["method"], *cells[2:], style="dim")
    return table


def _cells(row: Mapping[str, Any], *, with_share: bool) -> list[str]:
    text = row["verdict"]
    if row["verdict"] == "cannot tell" and row["needed"]:
        text = f"cannot tell, needs about {row['needed']:,} queries"
    color = _COLORS.get(row["verdict"])
    share = []
    if with_share:
        known = row["kept"] is not None
        share = [
            f"{row['kept']:.3f}" if known else "",
            f"{row['kept_low']:.3f}–{row['kept_high']:.3f}" if known else "",
        ]
    return [
        f"{row['dim']}{'*' if row['trained'] is False else ''}",
        row["precision"],
        f"{row['bytes_per_vector']:,}",
        f"{row['value']:.4f}",
        f"{row['low']:.3f}–{row['high']:.3f}",
        *share,
        f"[{color}]{text}[/{color}]" if color else text,
    ]
