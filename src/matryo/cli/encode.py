"""`matryo encode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from matryo.cli.options import BaseUrl, Cache, IdColumn
from matryo.cli.terminal import print_json, progress_bar
from matryo.core import Side, shorten


def run(
    data: Annotated[Path, typer.Argument(help="File of texts: JSONL, CSV, TSV, TXT or Parquet.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File or .matryo folder to write.")],
    side: Annotated[Side, typer.Option(help="Whether the texts ask or answer.")] = Side.DOCUMENT,
    model: Annotated[str, typer.Option(help="Encoder; see `matryo models`.")] = "default",
    base_url: BaseUrl = None,
    dims: Annotated[
        str | None, typer.Option(help="Block borders; the last is the width that is stored.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, float16, int8, int4, int2 or binary.")
    ] = "float32",
    column: Annotated[str | None, typer.Option(help="Column of the texts.")] = None,
    id_column: IdColumn = None,
    allow_untrained: Annotated[
        bool, typer.Option("--allow-untrained", help="Let untrained sizes of a known model pass.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older file.")] = False,
    cache: Cache = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON.")
    ] = False,
) -> None:
    """Encode texts once and write vectors, cut and coded as asked."""
    from matryo.encoders import EncodingCache
    from matryo.jobs import encode

    if base_url and not model.startswith("openai:"):
        raise typer.BadParameter("only openai: models have an address", param_hint="--base-url")
    options: dict[str, Any] = {"base_url": base_url} if base_url else {}
    store = EncodingCache() if cache else None
    try:
        with progress_bar(quiet=as_json) as progress:
            written = encode(
                data,
                out,
                side=side,
                model=model,
                model_options=options,
                dims=dims,
                precision=precision,
                column=column,
                id_column=id_column,
                allow_untrained=allow_untrained,
                overwrite=overwrite,
                cache=store,
                progress=progress,
            )
    finally:
        if store is not None:
            store.close()
    if as_json:
        print_json(written)
        return
    typer.echo(
        f"Wrote {written['rows']:,} {written['side']} vectors of {written['dims'][-1]} numbers as "
        f"{written['precision']} to {written['out']} (space {written['fingerprint'][:12]})"
    )
    if written["left_out"]:
        typer.echo(
            f"Left out {len(written['left_out'])} empty texts: {shorten(written['left_out'])}"
        )
