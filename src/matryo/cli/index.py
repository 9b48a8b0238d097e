"""`matryo index` and its verbs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from matryo.cli.options import ArrayName, BaseUrl, Cache, Column, IdColumn, MetricName
from matryo.cli.terminal import print_json, progress_bar
from matryo.core import InputError, shorten

app = typer.Typer(
    name="index", help="Build, change and look at an index on disk.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of an index.")]
Rows = Annotated[
    Path, typer.Argument(metavar="DATA", help="Vectors, or texts: JSONL, TSV, CSV, a BEIR folder.")
]
Batch = Annotated[int, typer.Option(min=1, help="Rows of one commit.")]
ModelOrNot = Annotated[
    str | None, typer.Option(help="Encoder for texts, or of vectors from files; default default.")
]
TransformFile = Annotated[
    Path | None, typer.Option(help="File of the transform that the plan names.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@app.command()
def build(
    data: Rows,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new index.")],
    plan: Annotated[Path | None, typer.Option(help="Plan, as `matryo plan` writes it.")] = None,
    funnel: Annotated[
        str | None, typer.Option(help="What to run instead of a plan, as 64@int8:500,256:10.")
    ] = None,
    model: ModelOrNot = None,
    base_url: BaseUrl = None,
    transform: TransformFile = None,
    metric: MetricName = None,
    field: Annotated[
        list[str] | None,
        typer.Option(help="Column to keep as name:type (bool, int, float, str); several times."),
    ] = None,
    batch: Batch = 65_536,
    column: Column = None,
    id_column: IdColumn = None,
    array: ArrayName = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted build stopped.")
    ] = False,
    cache: Cache = True,
    as_json: AsJson = False,
) -> None:
    """Make an index of vectors or texts, however many they are."""
    from matryo.core import Funnel, Plan
    from matryo.encoders import EncodingCache
    from matryo.jobs import build_index, parse_fields

    if plan is not None and funnel is None:
        run: Plan | Funnel = Plan.load(plan)
    elif funnel is not None and plan is None:
        run = Funnel.parse(funnel)
    else:
        raise typer.BadParameter("give one of the two", param_hint="--plan/--funnel")
    with (
        EncodingCache() if cache else nullcontext() as store,
        progress_bar(quiet=as_json) as progress,
    ):
        built = build_index(
            data,
            out,
            run,
            model=model,
            model_options=options_of(model, base_url),
            transform=transform,
            metric=metric,  # type: ignore[arg-type]  # checked where it is used
            fields=parse_fields(field or []),
            batch=batch,
            column=column,
            id_column=id_column,
            array=array,
            resume=resume,
            cache=store,
            progress=progress,
        )
    if as_json:
        print_json(built)
        return
    if built["resumed_at"]:
        typer.echo(f"{built['resumed_at']:,} rows were there already")
    typer.echo(f"Built {built['out']} of {built['rows']:,} rows for {built['funnel']}")
    typer.echo(f"Space: {built['space']}")
    _say_left_out(built["left_out"])


@app.command()
def add(
    index: Folder,
    data: Rows,
    upsert: Annotated[
        bool, typer.Option("--upsert", help="Replace rows whose ids are there already.")
    ] = False,
    model: ModelOrNot = None,
    base_url: BaseUrl = None,
    transform: TransformFile = None,
    batch: Batch = 65_536,
    column: Column = None,
    id_column: IdColumn = None,
    array: ArrayName = None,
    cache: Cache = True,
    as_json: AsJson = False,
) -> None:
    """Add vectors or texts, with the fields of the index that they have."""
    from matryo.encoders import EncodingCache
    from matryo.jobs import add_to_index

    with (
        EncodingCache() if cache else nullcontext() as store,
        progress_bar(quiet=as_json) as progress,
    ):
        added = add_to_index(
            index,
            data,
            upsert=upsert,
            model=model,
            model_options=options_of(model, base_url),
            transform=transform,
            batch=batch,
            column=column,
            id_column=id_column,
            array=array,
            cache=store,
            progress=progress,
        )
    if as_json:
        print_json(added)
        return
    typer.echo(f"Added {added['added']:,} rows; {index} has {added['rows']:,}")
    _say_left_out(added["left_out"])


@app.command()
def delete(
    index: Folder,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of rows.")] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", help="File with an id a line instead.")
    ] = None,
) -> None:
    """Remove rows; if one id is not there, nothing is removed."""
    from matryo.stores import Index

    if (from_file is None) == (not ids):
        raise typer.BadParameter("give ids, or a file of them", param_hint="IDS/--from")
    named = list(ids or []) if from_file is None else from_file.read_text("utf-8").splitlines()
    with Index.open(index) as opened:
        opened.delete(_numbers(named) if opened.info()["ids"] == "int" else named)
        typer.echo(f"Removed {len(named):,} rows; {index} has {len(opened):,}")


@app.command()
def info(index: Folder, as_json: AsJson = False) -> None:
    """Show what an index is and holds."""
    from matryo.stores import Index

    with Index.open(index, read_only=True) as opened:
        facts = opened.info()
    if as_json:
        print_json(facts)
        return
    from matryo.planning import size_in_words

    clipped = ", ".join(f"{share:.2%} at {at}" for at, share in facts["clipped_share"].items())
    fields = ", ".join(f"{name} ({kind})" for name, kind in facts["fields"].items())
    for name, value in (
        ("rows", f"{facts['rows']:,}, and {facts['dead_rows']:,} that are dead"),
        ("segments", f"{facts['segments']:,}"),
        ("bytes", f"{facts['size_bytes']:,} ({size_in_words(facts['size_bytes'])})"),
        ("space", f"{facts['space']} ({facts['fingerprint']})"),
        ("funnel", facts["funnel"]),
        ("transform", facts["transform"] or "none"),
        ("fields", fields or "none"),
        ("clipped", clipped or "no int8 stage"),
        ("kernel", _kernel_in_words(facts["kernel"])),
    ):
        typer.echo(f"{name + ':':<11}{value}")


@app.command()
def compact(index: Folder) -> None:
    """Merge all segments into one, and drop what is dead."""
    from matryo.planning import size_in_words
    from matryo.stores import Index

    with Index.open(index) as opened:
        before = opened.info()
        opened.compact()
        after = opened.info()
    typer.echo(
        f"Merged {before['segments']:,} segments into {after['segments']:,}: "
        f"{size_in_words(before['size_bytes'])} became {size_in_words(after['size_bytes'])}"
    )


@app.command()
def snapshot(
    index: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the copy.")],
) -> None:
    """Copy what an index holds now, every byte checked; others may write meanwhile."""
    from matryo.stores import Index

    with Index.open(index, read_only=True) as opened:
        opened.snapshot(out)
        typer.echo(f"Copied {len(opened):,} rows to {out}")


def options_of(model: str | None, base_url: str | None) -> dict[str, Any]:
    """Options of the encoder; only those of an API have an address.

    A model that is recorded in an index may be one too, so it is named together with the address.
    """
    if base_url is None:
        return {}
    if model is None or not model.startswith("openai:"):
        raise typer.BadParameter("only openai: models have an address", param_hint="--base-url")
    return {"base_url": base_url}


def _say_left_out(ids: list[str | int]) -> None:
    if ids:
        typer.echo(f"Left out {len(ids):,} empty texts: {shorten(ids)}")


def _kernel_in_words(name: str) -> str:
    """What searches are made of here, and why it is the slow reference where it is."""
    from matryo.search import REFERENCE, kernel

    if name != REFERENCE:
        return f"{name} (native)"
    if kernel() is not None:
        return f"{name} (the slow reference, as MATRYO_KERNEL says)"
    return (
        f"{name} (the slow reference: there was no C++ compiler when matryo was installed; "
        "install one, then matryo again)"
    )


def _numbers(texts: list[str]) -> list[int]:
    odd = [text for text in texts if not text.removeprefix("-").isdecimal()]
    if odd:
        raise InputError(f"the ids of this index are integers, got {shorten(odd)}", ids=odd)
    return [int(text) for text in texts]
