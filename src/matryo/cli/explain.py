"""`matryo explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(plan: Annotated[Path, typer.Argument(help="A plan written by `matryo plan`.")]) -> None:
    """Say in plain words what a plan does, promises and costs."""
    from matryo.core import Plan

    typer.echo(Plan.load(plan).explain())
