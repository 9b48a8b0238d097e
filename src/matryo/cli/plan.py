"""`matryo plan`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matryo.cli.options import (
    ArrayName,
    BaseUrl,
    Cache,
    Column,
    Data,
    Groups,
    IdColumn,
    MetricName,
    Model,
    NQueries,
    PreStep,
    Qrels,
    QueryArray,
    Results,
    Seed,
    SplitName,
    Strict,
    Synthetic,
)
from matryo.cli.terminal import print_json, progress_bar, write_json
from matryo.core import InputError

if TYPE_CHECKING:
    from matryo.planning import Prices


def run(
    data: Data,
    queries: Annotated[
        Path | None, typer.Option(help="File of queries; else some are drawn, and no promise.")
    ] = None,
    qrels: Qrels = None,
    groups: Groups = None,
    floor: Annotated[float, typer.Option(help="Share of the full-width value to promise.")] = 0.98,
    kind: Annotated[str, typer.Option(help="Promise a mean, a share or an expected value.")] = (
        "mean"
    ),
    measure: Annotated[
        str | None,
        typer.Option(help="neighbor_recall@k (fidelity) or as nDCG@10 (relevance)."),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the promise.")] = 0.95,
    query_floor: Annotated[
        float, typer.Option(help="What one query must reach, for a promise of a share.")
    ] = 0.9,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Rows of an answer.")] = 10,
    dims: Annotated[str | None, typer.Option(help="Sizes, as 64,128,256.")] = None,
    precisions: Annotated[
        str, typer.Option(help="Among float32, float16, int8, int4, int2, binary.")
    ] = "float32,int8,int4,int2,binary",
    minimize: Annotated[str, typer.Option(help="bytes, latency or ram.")] = "bytes",
    budget_ram: Annotated[str | None, typer.Option(help="Most RAM, as 2GB.")] = None,
    budget_disk: Annotated[str | None, typer.Option(help="Most disk, as 20GB.")] = None,
    budget_p95: Annotated[str | None, typer.Option(help="Longest p95 latency, as 20ms.")] = None,
    budget_price: Annotated[
        float | None, typer.Option(help="Highest price of a million vectors for a month.")
    ] = None,
    price_ram: Annotated[
        float | None, typer.Option(help="Price of a GB of RAM for a month.")
    ] = None,
    price_disk: Annotated[
        float | None, typer.Option(help="Price of a GB of disk for a month.")
    ] = None,
    machine: Annotated[
        Path | None, typer.Option(help="Profile of another machine; see --save-machine.")
    ] = None,
    save_machine: Annotated[
        Path | None, typer.Option(help="Write the profile that was used.")
    ] = None,
    transform: Annotated[
        Path | None, typer.Option(help="Fitted transform to apply to both sides first.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Full-width score below which rows are left out.")
    ] = None,
    stops: Annotated[bool, typer.Option(help="Consider stopping early for single queries.")] = True,
    model: Model = "default",
    base_url: BaseUrl = None,
    metric: MetricName = None,
    pre_step: PreStep = None,
    n_queries: NQueries = 1000,
    synthetic: Synthetic = False,
    strict: Strict = False,
    split: SplitName = None,
    column: Column = None,
    id_column: IdColumn = None,
    array: ArrayName = None,
    query_array: QueryArray = None,
    cache: Cache = True,
    seed: Seed = 0,
    choice: Annotated[str, typer.Option(help="Which to write: cheap, balanced or safe.")] = "cheap",
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the plan.")] = Path("plan.json"),
    results: Results = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as HTML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Choose the cheapest size or funnel that keeps a floor, with a promise."""
    from matryo.encoders import EncodingCache
    from matryo.jobs import plan
    from matryo.planning import Budget, Machine

    _check(base_url, model, choice)
    prices = _prices(price_ram, price_disk, budget_price)
    for target in (out, results, report, save_machine):
        if target is not None and not target.parent.is_dir():
            raise InputError(f"cannot write {target}: the folder {target.parent} does not exist")
    with (
        EncodingCache() if cache else nullcontext() as store,
        progress_bar(quiet=as_json) as progress,
    ):
        planned = plan(
            data,
            queries=queries,
            qrels=qrels,
            groups=groups,
            transform=transform,
            measure=measure,
            kind=kind,  # type: ignore[arg-type]  # checked where it is used
            floor=floor,
            confidence=confidence,
            query_floor=query_floor,
            k=k,
            dims=dims,
            precisions=precisions,
            minimize=minimize,  # type: ignore[arg-type]  # checked where it is used
            budget=Budget.parse(
                ram=budget_ram, disk=budget_disk, p95=budget_p95, price=budget_price
            ),
            prices=prices,
            machine=machine,
            threshold=threshold,
            stops=stops,
            model=model,
            model_options={"base_url": base_url} if base_url else {},
            metric=metric,  # type: ignore[arg-type]  # checked where it is used
            pre_step=pre_step,
            n_queries=n_queries,
            synthetic=synthetic,
            strict=strict,
            split=split,
            column=column,
            id_column=id_column,
            array=array,
            query_array=query_array,
            cache=store,
            seed=seed,
            progress=progress,
        )
    if planned.plans:
        planned.plans[choice].save(out)
    if save_machine:
        Machine.from_dict(planned.document["machine"]).save(save_machine)
    if results:
        write_json(results, planned.document)
    if report:
        from matryo.report import write_report

        write_report(planned.document, report)
    if as_json:
        print_json(planned.document)
    else:
        _print(planned.document)
    if not planned.plans:
        raise typer.Exit(3)
    typer.echo(f"Wrote the {choice} choice to {out}", err=True)


def _check(base_url: str | None, model: str, choice: str) -> None:
    if base_url and not model.startswith("openai:"):
        raise typer.BadParameter("only openai: models have an address", param_hint="--base-url")
    if choice not in ("cheap", "balanced", "safe"):
        raise typer.BadParameter("expected cheap, balanced or safe", param_hint="--choice")


def _prices(ram: float | None, disk: float | None, budget: float | None) -> Prices | None:
    from matryo.planning import Prices

    if ram is None or disk is None:
        if ram is not None or disk is not None or budget is not None:
            raise typer.BadParameter("prices need both of them", param_hint="--price-ram/-disk")
        return None
    return Prices(ram, disk)


def _print(document: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from matryo.planning import size_in_words

    console = Console()
    data = document["data"]
    console.print(f"\n[bold]{document['verdict']['headline']}[/bold]", highlight=False)
    for sentence in document["verdict"]["sentences"]:
        console.print(f"  {sentence}", highlight=False)
    for item in data["left_out"]:
        console.print(f"  [yellow]Left out:[/yellow] {item['count']} {item['what']}")
    parts = document["split"]
    console.print(
        f"\n{data['name']}: {data['documents']:,} documents, {data['queries']:,} queries "
        f"({parts['order']} order, {parts['certify']} certify, {parts['report']} report), "
        f"{data['origin']} data, {len(document['candidates']):,} candidates",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("choice", "kept", "interval", "RAM", "disk", "read", "modelled", "measured"):
        table.add_column(name, justify="left" if name == "choice" else "right", no_wrap=True)
    for row in document["choices"]:
        cost, measured = row["cost"], row["measured"]
        table.add_row(
            row["name"],
            f"{row['kept']:.3f}",
            f"{row['low']:.3f}–{row['high']:.3f}",
            size_in_words(cost["ram_bytes"]),
            size_in_words(cost["disk_bytes"]),
            size_in_words(cost["bytes_read"]),
            "" if cost["latency_ms"] is None else f"{cost['latency_ms']:.2f} ms",
            "" if measured is None else f"{measured['latency_ms']:.2f} ms",
        )
    if document["choices"]:
        console.print(table)
    said = ""
    for row in document["choices"]:
        lines = row["explanation"]
        if row["funnel"] == said:
            console.print(f"[bold]{row['name'].capitalize()}[/bold]: the same.\n")
            continue
        said = row["funnel"]
        name, _, rest = lines[0].partition(":")
        console.print(f"[bold]{name}[/bold]:{rest}", highlight=False)
        for line in lines[1:]:
            console.print(f"  {line}", highlight=False)
        console.print()
