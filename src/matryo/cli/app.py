"""All verbs together, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from matryo.cli import (
    adapt,
    apply,
    check,
    classify,
    demo,
    diff,
    encode,
    explain,
    formats,
    index,
    measure,
    models,
    plan,
    report,
    search,
    train,
)
from matryo.core import MatryoError

app = typer.Typer(
    name="matryo",
    help="Measure, choose and run Matryoshka (nested, truncatable) embeddings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (
    demo,
    measure,
    plan,
    explain,
    check,
    classify,
    train,
    diff,
    adapt,
    apply,
    encode,
    search,
    report,
    formats,
    models,
):
    app.command(verb.__name__.rpartition(".")[2])(verb.run)
app.add_typer(index.app)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("matryo"))
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    del version, debug  # --version is handled by its callback, --debug by main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        app(arguments, prog_name="matryo")
    except SystemExit as end:  # how typer always ends, having shown what was wrong with the usage
        return end.code if isinstance(end.code, int) else 0
    except (MatryoError, OSError) as error:
        if "--debug" in arguments:
            raise
        typer.echo(f"error: {error}", err=True)
        return 1
    return 0
