"""`matryo train`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from matryo.cli.options import Seed, Weights, weights_of
from matryo.cli.terminal import print_json, progress_bar, write_json


def run(
    data: Annotated[
        Path,
        typer.Option(
            help="Examples as .jsonl, .csv, .tsv or .parquet: anchor and positive, and negative; "
            "sentence1, sentence2 and score; or text and label."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the model.")],
    model: Annotated[
        str, typer.Option(help="minilm, a sentence-transformers folder, or a name on the hub.")
    ] = "minilm",
    dims: Annotated[
        str, typer.Option(help="Sizes, as 64,128,384; or dense: 16, 32, every 64th and the whole.")
    ] = "dense",
    weights: Weights = None,
    n_dims_per_step: Annotated[
        int | None, typer.Option(min=1, help="Sizes drawn in each step; default all.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the examples.")] = 1.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Updates of the weights, instead of epochs.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Examples in a step, of all processes.")] = 32,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", "--lr", help="After the warmup; it falls to 0.")
    ] = 2e-5,
    warmup: Annotated[float, typer.Option(help="Share of steps in which the rate rises.")] = 0.1,
    scale: Annotated[float, typer.Option(help="What cosines are multiplied by.")] = 20.0,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a text; default what the model says.")
    ] = None,
    cached: Annotated[
        int | None,
        typer.Option(min=1, help="Texts encoded at a time, for batches beyond the memory."),
    ] = None,
    seed: Seed = 0,
    dev: Annotated[
        Path | None, typer.Option(help="Examples to measure on; default some are held out.")
    ] = None,
    dev_share: Annotated[
        float, typer.Option(help="Share to hold out, at least 64; 0 measures nothing.")
    ] = 0.1,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="Where it runs, as torch names it.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Write all that was found; default OUT.results.json.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report as one HTML file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train a model so that every size of its vectors is an embedding."""
    from matryo.core import InputError
    from matryo.jobs import train

    results = results or out.with_name(f"{out.name}.results.json")
    if not results.parent.is_dir():
        raise InputError(f"cannot write {results}: the folder {results.parent} does not exist")
    if report is not None and not report.parent.is_dir():
        raise InputError(f"cannot write {report}: the folder {report.parent} does not exist")
    silent = os.environ.get("RANK", "0") != "0"  # torchrun numbers its processes
    if silent or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of loading and saving too
    with (
        _warnings_as_lines(silent=silent),
        progress_bar(quiet=as_json or silent) as progress,
    ):
        document = train(
            data,
            out,
            model=model,
            dims=dims,
            weights=weights_of(weights),
            n_dims_per_step=n_dims_per_step,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup=warmup,
            scale=scale,
            max_length=max_length,
            cached=cached,
            seed=seed,
            dev=dev,
            dev_share=dev_share,
            save_every=save_every,
            resume=resume,
            device=device,
            progress=progress,
            on_step=_shown(progress),
        )
    if silent:
        return
    write_json(results, document)
    if report is not None:
        from matryo.report import write_report

        write_report(document, report)
    if as_json:
        print_json(document)
    else:
        _print(document, results)


@contextmanager
def _warnings_as_lines(*, silent: bool) -> Iterator[None]:
    """What training warns of, as a line each on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)

        def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            if category is UserWarning and not silent:
                typer.echo(f"warning: {message}", err=True)

        warnings.showwarning = show
        yield


def _shown(progress: Any) -> Any:
    """A callback for every step: one bar, with the loss of each size behind it."""
    before = 0

    def on_step(step: int, total: int, losses: Mapping[int, float]) -> None:
        nonlocal before
        note = "  ".join(f"{dim}: {loss:.3f}" for dim, loss in losses.items())
        progress("training, loss by dim", step - before, total, note=note)
        before = step

    return on_step


def _print(document: Mapping[str, Any], results: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    data, last = document["data"], document["history"][-1]
    losses = ", ".join(f"{dim}: {loss:.4f}" for dim, loss in last["per_size"].items())
    console.print(
        f"Trained on {data['training']:,} {data['kind']} examples in "
        f"{document['settings']['steps']:,} steps; loss at the end {losses}",
        highlight=False,
    )
    for measure in dict.fromkeys(row["measure"] for row in document["quality"]):
        rows = [row for row in document["quality"] if row["measure"] == measure]
        table = Table(
            title=f"{measure} on {rows[0]['n']:,} held-out examples", title_justify="left",
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        )  # fmt: skip
        for name in ("dim", "before", "after", "difference", "interval"):
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(
                str(row["dim"]),
                f"{row['before']:.4f}",
                f"{row['after']:.4f}",
                f"{row['difference']:+.4f}",
                f"{row['low']:+.4f} to {row['high']:+.4f}",
            )
        console.print(table)
    typer.echo(f"Wrote {document['out']} and {results}")
