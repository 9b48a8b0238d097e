"""`matryo check`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from matryo.cli.options import (
    ArrayName,
    Cache,
    Column,
    Data,
    Groups,
    IdColumn,
    Model,
    PreStep,
    Qrels,
    QueryArray,
    SplitName,
)
from matryo.cli.terminal import print_json, progress_bar


def run(
    plan: Annotated[Path, typer.Argument(help="A plan written by `matryo plan`.")],
    data: Data,
    queries: Annotated[Path | None, typer.Option(help="File of new queries.")] = None,
    qrels: Qrels = None,
    groups: Groups = None,
    transform: Annotated[
        Path | None, typer.Option(help="The fitted transform that the plan names.")
    ] = None,
    model: Model = "default",
    pre_step: PreStep = None,
    split: SplitName = None,
    column: Column = None,
    id_column: IdColumn = None,
    array: ArrayName = None,
    query_array: QueryArray = None,
    cache: Cache = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Certify a plan again on new queries; exits with 3 if its promise is broken."""
    from matryo.encoders import EncodingCache
    from matryo.jobs import check

    with (
        EncodingCache() if cache else nullcontext() as store,
        progress_bar(quiet=as_json) as progress,
    ):
        done = check(
            plan,
            data,
            queries=queries,
            qrels=qrels,
            groups=groups,
            transform=transform,
            model=model,
            pre_step=pre_step,
            split=split,
            column=column,
            id_column=id_column,
            array=array,
            query_array=query_array,
            cache=store,
            progress=progress,
        )
    if as_json:
        print_json(done)
    else:
        promise, (low, high) = done["plan"]["promise"], done["interval"]
        needed = f", about {done['needed']:,} queries would do" if done["needed"] else ""
        p_value = "" if done["p_value"] is None else f", p = {done['p_value']:.2g}"
        typer.echo(
            f"{done['verdict'].capitalize()}{needed}: {done['kept']:.4f} of {promise['measure']} "
            f"is kept on {done['n']:,} queries ({low:.4f} to {high:.4f}{p_value}); "
            f"{promise['floor']:g} was promised."
        )
        if done["same_data"]:
            typer.echo("These are the data that the plan was chosen on: they say nothing new.")
    if done["verdict"] == "broken":
        raise typer.Exit(3)
