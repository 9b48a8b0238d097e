"""`matryo search`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from matryo.cli.index import Folder, TransformFile, options_of
from matryo.cli.options import BaseUrl, Cache
from matryo.cli.terminal import print_json


def run(
    index: Folder,
    text: Annotated[str, typer.Argument(help="What is asked.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Rows to find.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(
            help='Filter as JSON, as ["and", ["year", ">=", 2000], ["lang", "==", "en"]].'
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Encoder of the text; default that of the index.")
    ] = None,
    base_url: BaseUrl = None,
    transform: TransformFile = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what every stage read and kept.")
    ] = False,
    cache: Cache = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Find the rows of an index that answer a text best."""
    from matryo.encoders import EncodingCache
    from matryo.jobs import search_index

    chosen = _filter(where) if where is not None else None
    with EncodingCache() if cache else nullcontext() as store:
        found = search_index(
            Path(index),
            text,
            k=k,
            where=chosen,
            model=model,
            model_options=options_of(model, base_url),
            transform=transform,
            explain=explain,
            cache=store,
        )
    if as_json:
        print_json(found)
    else:
        _print(found, k)


def _filter(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(
            f'expected JSON as ["year", ">=", 2000], got {text!r}: {error}', param_hint="--where"
        ) from None


def _print(found: Mapping[str, Any], k: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    texts = any(isinstance(hit["fields"].get("text"), str) for hit in found["hits"])
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("id", overflow="fold")
    if texts:
        table.add_column("text", overflow="fold")
    for hit in found["hits"]:
        # what was indexed is shown as it is: it may look like markup
        shown = [Text(str(hit["id"]))]
        shown += [Text(hit["fields"].get("text") or "")] if texts else []
        table.add_row(str(hit["rank"]), f"{hit['score']:.4f}", *shown)
    console.print(table)
    if not found["complete"]:
        console.print(f"Fewer than {k:,} rows match: {len(found['hits']):,}", highlight=False)
    console.print(
        f"{found['rows']:,} rows; scores of {found['dim']} numbers in {found['precision']}",
        highlight=False,
    )
    if found["steps"] is not None:
        console.print(_steps(found))


def _steps(found: Mapping[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    for name in ("rows read", "bytes read", "rows kept", "microseconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in found["steps"]:
        took = step["microseconds"]
        table.add_row(
            step["name"],
            *(f"{step[name]:,}" for name in ("rows_read", "bytes_read", "rows_kept")),
            "" if took is None else f"{took:,.0f}",
        )
    return table
