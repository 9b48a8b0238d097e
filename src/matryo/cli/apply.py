"""`matryo apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matryo.cli.options import ArrayName, IdColumn
from matryo.cli.terminal import print_json, progress_bar
from matryo.core import Side


def run(
    nested_map: Annotated[
        Path, typer.Argument(metavar="MAP", help="Folder of a map, as `matryo adapt` writes it.")
    ],
    vectors: Annotated[Path, typer.Argument(help="File or folder of whole vectors.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="A .matryo folder, .npy, .parquet, .jsonl, .fvecs, .fbin."
        ),
    ],
    side: Annotated[
        Side | None,
        typer.Option(help="Whether they ask or answer; default what they say, else document."),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(help="Size to cut to and, for cosine, scale to length 1.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the vectors.")] = None,
    id_column: IdColumn = None,
    array: ArrayName = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON.")
    ] = False,
) -> None:
    """Send vectors through a map, however many they are."""
    from matryo.jobs import apply

    with progress_bar(quiet=as_json) as progress:
        written = apply(
            nested_map,
            vectors,
            out,
            side=side,
            dim=dim,
            column=column,
            id_column=id_column,
            array=array,
            resume=resume,
            progress=progress,
        )
    if as_json:
        print_json(written)
        return
    if written["resumed_at"]:
        typer.echo(f"{written['resumed_at']:,} rows were there already")
    typer.echo(
        f"Wrote {written['rows']:,} {written['side']} vectors of {written['dim']} numbers to "
        f"{written['out']} (space {written['fingerprint']})"
    )
