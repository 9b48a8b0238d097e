"""`matryo formats`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from matryo.cli.terminal import print_json


def run(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the files that can be read and written."""
    from rich.console import Console
    from rich.table import Table

    from matryo.readers import FORMATS

    if as_json:
        print_json([asdict(item) for item in FORMATS])
        return
    table = Table()
    for name in ("suffix", "what", "reads", "writes", "extra"):
        table.add_column(name)
    for item in FORMATS:
        extra = f"matryo\\[{item.extra}]" if item.extra else ""
        reads, writes = ", ".join(item.reads), ", ".join(item.writes)
        table.add_row(item.suffix, item.about, reads, writes, extra)
    Console().print(table)
