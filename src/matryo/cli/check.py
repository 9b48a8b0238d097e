"""`matryo check`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from matryo.cli.terminal import print_json, progress_bar


def run(
    plan: Annotated[Path, typer.Argument(help="A plan written by `matryo plan`.")],
    data: Annotated[
        Path, typer.Argument(help="A benchmark folder, or a file of vectors or texts.")
    ],
    queries: Annotated[Path | None, typer.Option(help="File of new queries.")] = None,
    qrels: Annotated[Path | None, typer.Option(help="File of relevance judgments.")] = None,
    groups: Annotated[
        Path | None, typer.Option(help="File with the columns id and group, for the queries.")
    ] = None,
    transform: Annotated[
        Path | None, typer.Option(help="The fitted transform that the plan names.")
    ] = None,
    model: Annotated[str, typer.Option(help="Encoder for texts; see `matryo models`.")] = "default",
    pre_step: Annotated[
        str | None, typer.Option(help="Step before the cut for vectors from files: layer_norm.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a benchmark folder.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of the texts or vectors.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the ids.")] = None,
    array: Annotated[str | None, typer.Option(help="Array of a file that holds several.")] = None,
    query_array: Annotated[str | None, typer.Option(help="The same for the queries.")] = None,
    cache: Annotated[bool, typer.Option(help="Keep encodings for the next run.")] = True,
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
