"""`matryo adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from matryo.cli.options import (
    ArrayName,
    BaseUrl,
    Cache,
    Column,
    Data,
    IdColumn,
    Model,
    PreStep,
    Qrels,
    QueryArray,
    Results,
    Seed,
    SplitName,
    Synthetic,
    Weights,
    weights_of,
)
from matryo.cli.terminal import print_json, progress_bar, write_json
from matryo.core import InputError


def run(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the map.")],
    queries: Annotated[
        Path | None, typer.Option(help="File of queries; else some documents are asked.")
    ] = None,
    qrels: Qrels = None,
    labels: Annotated[
        Path | None, typer.Option(help="File with the columns id and label, for the documents.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="File with the columns id1, id2 and score, for the same.")
    ] = None,
    second: Annotated[
        list[Path] | None,
        typer.Option(help="Further data to try the map on; may be given several times."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="auto tries all that the data allow; or names, as rotation,reorder.")
    ] = "auto",
    dims: Annotated[
        str | None, typer.Option(help="Sizes, as 16,32,64,128; default powers of two from 16.")
    ] = None,
    weights: Weights = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Rows of an answer.")] = 10,
    confidence: Annotated[float, typer.Option(help="Of all intervals of a table together.")] = 0.95,
    taught: Annotated[
        Path | None,
        typer.Option(help="Ids of what may teach, as --save-taught writes them; the rest judges."),
    ] = None,
    save_taught: Annotated[
        Path | None, typer.Option(help="Write the ids of what taught as a JSON array.")
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Write the best map even if the advice is against it."),
    ] = False,
    model: Model = "default",
    base_url: BaseUrl = None,
    pre_step: PreStep = None,
    synthetic: Synthetic = False,
    split: SplitName = None,
    column: Column = None,
    id_column: IdColumn = None,
    array: ArrayName = None,
    query_array: QueryArray = None,
    cache: Cache = True,
    seed: Seed = 0,
    results: Results = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as HTML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Fit a map that makes vectors truncatable, if one is shown to help."""
    from matryo.encoders import EncodingCache
    from matryo.jobs import adapt

    if base_url and not model.startswith("openai:"):
        raise typer.BadParameter("only openai: models have an address", param_hint="--base-url")
    for target in (out, save_taught, results, report):
        if target is not None and not target.parent.is_dir():
            raise InputError(f"cannot write {target}: the folder {target.parent} does not exist")
    if out.exists():
        raise InputError(f"{out} exists already", hint="choose another name")
    with (
        EncodingCache() if cache else nullcontext() as store,
        progress_bar(quiet=as_json) as progress,
    ):
        adapted = adapt(
            data,
            queries=queries,
            qrels=qrels,
            labels=labels,
            pairs=pairs,
            second=second or (),
            methods=method,
            dims=dims,
            weights=weights_of(weights),
            k=k,
            confidence=confidence,
            taught=taught,
            model=model,
            model_options={"base_url": base_url} if base_url else {},
            pre_step=pre_step,
            synthetic=synthetic,
            split=split,
            column=column,
            id_column=id_column,
            array=array,
            query_array=query_array,
            cache=store,
            seed=seed,
            progress=progress,
        )
    written = adapted.recommended or anyway
    if written:
        adapted.map.save(out)
    if save_taught:
        adapted.save_taught(save_taught)
    if results:
        write_json(results, adapted.document)
    if report:
        from matryo.report import write_report

        write_report(adapted.document, report)
    if as_json:
        print_json(adapted.document)
    else:
        _print(adapted.document)
        typer.echo(_next(adapted.document, out, data, queries, model, written=written))


def _next(
    document: Mapping[str, Any],
    out: Path,
    data: Path,
    queries: Path | None,
    model: str,
    *,
    written: bool,
) -> str:
    """What was written, and what to type now."""
    if not written:
        return "No map was written; --anyway writes the best one."
    lines = [f"Wrote the map to {out}. Next:"]
    documents, asked = data, queries
    if document["seconds"]["encode"]:  # a map is applied to vectors
        documents = Path("documents.matryo")
        lines.append(f"  matryo encode TEXTS -o {documents} --model {model}")
        if document["split"]["what"] == "queries":
            asked = Path("queries.matryo")
            lines.append(f"  matryo encode QUERIES -o {asked} --model {model} --side query")
    lines.append(f"  matryo apply {out} {documents} -o mapped.matryo --side document")
    if asked is not None:
        lines.append(f"  matryo apply {out} {asked} -o mapped-queries.matryo --side query")
    return "\n".join(lines)


def _print(document: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    data, verdict = document["data"], document["verdict"]
    console.print(f"\n[bold]{verdict['headline']}[/bold]", highlight=False)
    for sentence in (*verdict["sentences"], *document["how"]):
        console.print(f"  {sentence}", highlight=False)
    for item in data["left_out"]:
        console.print(f"  [yellow]Left out:[/yellow] {item['count']} {item['what']}")
    parts = document["split"]
    console.print(
        f"\n{data['name']}: {parts['taught']:,} {parts['what']} taught (digest "
        f"{parts['digest'][:8]}), {parts['chose']:,} chose and {parts['judged']:,} others judged, "
        f"{data['origin']} data; {document['seconds']['all']:.1f} s",
        highlight=False,
    )
    console.print(_table_of_methods(document))
    console.print(_table_of_gains(document))
    if any(row["trained"] is False for row in document["results"]):
        console.print("* the model was not trained at this size\n", style="dim")


def _table_of_methods(document: Mapping[str, Any]) -> Any:
    """The measure of every method at every size, those with the highest mean first."""
    from rich import box
    from rich.table import Table

    values = {(row["method"], row["dim"]): row for row in document["results"]}
    table = Table(
        title=f"{document['measure']} on the items that judged", title_justify="left",
        box=box.SIMPLE_HEAD, padding=0,
    )  # fmt: skip
    table.add_column("  method", no_wrap=True)
    dims = document["settings"]["dims"]
    for dim in dims:
        untrained = values["cut", dim]["trained"] is False
        table.add_column(f"{dim}{'*' if untrained else ''}", justify="right", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column("fit, s", justify="right", no_wrap=True)
    for one in sorted(document["methods"], key=lambda one: -one["value"]):
        cells = [f"{values[one['name'], dim]['value']:.3f}" for dim in dims]
        seconds = "" if one["seconds"] is None else f"{one['seconds']:.1f}"
        style = "bold" if one["chosen"] else "dim" if one["name"] == "random" else None
        name = f"{'›' if one['chosen'] else ' '} {one['name']}"
        table.add_row(name, *cells, f"{one['value']:.3f}", seconds, style=style)
    return table


def _table_of_gains(document: Mapping[str, Any]) -> Any:
    """What the best map gains over plain cutting: here, and on the further data."""
    from rich import box
    from rich.table import Table

    best = document["map"]["method"]
    table = Table(
        title=f"{best} less plain cutting", title_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for name in ("measure", "dim", "difference", "interval"):
        table.add_column(name, justify="left" if name == "measure" else "right", no_wrap=True)
    here = [{"trial": "", "measure": document["measure"], **row} for row in document["results"]]
    last = None
    for row in (*here, *document["elsewhere"]):
        if row["method"] != best:
            continue
        told = f"{row['measure']} {row['trial'] and 'on ' + row['trial']}".strip()
        table.add_row(
            "" if told == last else told,
            str(row["dim"]),
            f"{row['difference']:+.3f}",
            f"{row['low']:+.3f} to {row['high']:+.3f}",
        )
        last = told
    return table
