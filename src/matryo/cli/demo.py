"""`matryo demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from matryo.cli.terminal import print_json, print_results, progress_bar, write_json


def run(
    out: Annotated[Path, typer.Option(help="Folder for report.html and results.json.")] = Path(),
    floor: Annotated[float, typer.Option(help="Share of the full-width value to keep.")] = 0.95,
    with_text: Annotated[
        bool, typer.Option("--with-text", help="Put the three queries' texts into the report.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run the main job on WordNet definitions, with the default model; no network is needed."""
    from matryo.jobs import demo, without_text
    from matryo.report import write_report

    with progress_bar(quiet=as_json) as progress:
        results = demo(floor=floor, progress=progress)
    kept = results if with_text else without_text(results)
    write_json(out / "results.json", kept)
    write_report(kept, out / "report.html")
    if as_json:
        print_json(kept)
        return
    print_results(results)
    _print_funnel(results["funnel"])
    seconds = results["seconds"]
    typer.echo(
        f"\nEncoded in {seconds['encode']:.1f} s, measured in {seconds['measure']:.1f} s. "
        f"Wrote {out / 'report.html'} and {out / 'results.json'}.\n\n"
        "Next, on your own data:\n"
        "  matryo measure vectors.npy --queries queries.npy --report report.html\n"
        "  matryo measure texts.jsonl --model default --report report.html\n"
        "  matryo measure BEIR_FOLDER --floor 0.98 --report report.html"
    )


def _print_funnel(funnel: dict[str, Any]) -> None:
    """Three queries at full width and by the funnel, side by side."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"\n[bold]Full width beside the funnel {funnel['text']}[/bold]")
    for row in funnel["queries"]:
        table = Table(title=f"“{row['text']}”", title_justify="left")
        for name in ("full", "funnel"):
            answer = row[name]
            table.add_column(f"{name}: {answer['ms']:.2f} ms, {answer['bytes'] / 1e6:.1f} MB read")
        for left, right in list(zip(row["full"]["ids"], row["funnel"]["ids"], strict=True))[:3]:
            table.add_row(funnel["documents"][str(left)], funnel["documents"][str(right)])
        console.print(table)
        console.print(f"  {row['overlap']} of the top 10 are the same\n")
