"""`matryo models`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from matryo.cli.terminal import print_json


def run(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the encoders, and what is known of models that people hold."""
    from rich.console import Console
    from rich.table import Table

    from matryo.encoders import ENCODERS, PRESETS

    encoders = []
    for name in ENCODERS:
        entry = ENCODERS.about(name)
        encoders.append(
            {
                "name": name,
                "about": entry.about if entry else "from another package",
                "extra": entry.extra if entry else "",
                "installed": ENCODERS.is_installed(name),
            }
        )
    if as_json:
        print_json({"encoders": encoders, "presets": [asdict(preset) for preset in PRESETS]})
        return
    console = Console()
    table = Table(title="encoders", title_justify="left")
    for column in ("name", "what", "installed"):
        table.add_column(column)
    for row in encoders:
        ready = "yes" if row["installed"] else f"pip install 'matryo\\[{row['extra']}]'"
        table.add_row(str(row["name"]), str(row["about"]), ready)
    console.print(table)
    table = Table(title="presets", title_justify="left")
    for column in ("model", "provider", "full dim", "sizes", "before the cut", "scaled to 1 by"):
        table.add_column(column)
    for preset in PRESETS:
        sizes = ", ".join(map(str, preset.dims))
        if preset.any_from:
            sizes = f"any from {preset.any_from}"
        steps = preset.document.pre_step or ""
        table.add_row(
            preset.name, preset.provider, str(preset.full_dim), sizes, steps, preset.normalized_by
        )
    console.print(table)
