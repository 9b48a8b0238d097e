"""`matryo classify`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from matryo.cli.options import BaseUrl, Cache, Model, PreStep, Results, Seed, Synthetic
from matryo.cli.terminal import print_json, progress_bar, write_json
from matryo.core import InputError


def run(
    data: Annotated[
        Path, typer.Argument(help="A folder of labelled texts, or an .npz of labelled vectors.")
    ],
    floor: Annotated[
        float, typer.Option(help="Share of the full-width accuracy to promise.")
    ] = 0.99,
    confidence: Annotated[float, typer.Option(help="Of the promise.")] = 0.95,
    measure: Annotated[
        str, typer.Option(help="accuracy, or agreement@full with the full width's answers.")
    ] = "accuracy",
    kind: Annotated[str, typer.Option(help="Promise a mean, a share or an expected value.")] = (
        "mean"
    ),
    head: Annotated[str, typer.Option(help="separate, tied or nearest_mean.")] = "separate",
    dims: Annotated[
        str | None, typer.Option(help="Sizes, as 16,64,256; default powers of two from 8.")
    ] = None,
    signal: Annotated[
        str, typer.Option(help="What decides to stop: margin or probability.")
    ] = "margin",
    transform: Annotated[
        Path | None, typer.Option(help="Fitted transform to apply to all vectors first.")
    ] = None,
    model: Model = "default",
    base_url: BaseUrl = None,
    pre_step: PreStep = None,
    synthetic: Synthetic = False,
    split: Annotated[str | None, typer.Option(help="Split of a folder to certify on.")] = None,
    cache: Cache = True,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the plan.")] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="Write the heads that the plan is for, as .safetensors.")
    ] = None,
    results: Results = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Fit heads at every size, and choose how early they may stop, with a promise."""
    from matryo.encoders import EncodingCache
    from matryo.jobs import classify

    if base_url and not model.startswith("openai:"):
        raise typer.BadParameter("only openai: models have an address", param_hint="--base-url")
    for target in (out, classifier, results):
        if target is not None and not target.parent.is_dir():
            raise InputError(f"cannot write {target}: the folder {target.parent} does not exist")
    with (
        EncodingCache() if cache else nullcontext() as store,
        progress_bar(quiet=as_json) as progress,
    ):
        classified = classify(
            data,
            floor=floor,
            confidence=confidence,
            measure=measure,
            kind=kind,  # type: ignore[arg-type]  # checked where it is used
            head=head,  # type: ignore[arg-type]  # checked where it is used
            dims=dims,
            signal=signal,  # type: ignore[arg-type]  # checked where it is used
            transform=transform,
            model=model,
            model_options={"base_url": base_url} if base_url else {},
            pre_step=pre_step,
            synthetic=synthetic,
            split=split,
            cache=store,
            seed=seed,
            progress=progress,
        )
    if classifier:
        classified.classifier.save(classifier)
    if out:
        classified.plan.save(out)
    if results:
        write_json(results, classified.document)
    if as_json:
        print_json(classified.document)
    else:
        _print(classified.document)


def _print(document: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    data, parts = document["data"], document["split"]
    console.print(f"\n[bold]{document['verdict']['headline']}[/bold]", highlight=False)
    for sentence in document["verdict"]["sentences"]:
        console.print(f"  {sentence}", highlight=False)
    for item in data["left_out"]:
        console.print(f"  [yellow]Left out:[/yellow] {item['count']} {item['what']}")
    console.print(
        f"\n{data['name']}: {data['train']:,} training and {data['test']:,} test examples of "
        f"{data['classes']} classes ({parts['ordering']} order, {parts['certifying']} certify, "
        f"{parts['reporting']} report), {data['origin']} data",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", "dims", "of full", "accuracy", "interval", "kept", "interval"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    full_dim = document["settings"]["dims"][-1]
    for row in document["results"]:
        if row["certified"]:
            table.add_row(*_cells(row, full_dim))
    console.print(table)


def _cells(row: Mapping[str, Any], full_dim: int) -> list[str]:
    dims, kept = row["expected_dims"]["value"], row["kept"]
    known = kept["value"] is not None
    return [
        row["name"],
        f"{dims:.1f}" if row["name"] == "cascade" else f"{dims:.0f}",
        f"{dims / full_dim:.0%}",
        f"{row['accuracy']['value']:.4f}",
        "–".join(f"{end:.3f}" for end in row["accuracy"]["interval"]),
        f"{kept['value']:.3f}" if known else "",
        "–".join(f"{end:.3f}" for end in kept["interval"]) if known else "",
    ]
