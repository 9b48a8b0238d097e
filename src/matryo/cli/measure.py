"""`matryo measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from matryo.cli.options import (
    ArrayName,
    BaseUrl,
    Cache,
    Column,
    Data,
    IdColumn,
    MetricName,
    Model,
    NQueries,
    PreStep,
    Qrels,
    QueryArray,
    Seed,
    SplitName,
    Strict,
    Synthetic,
)
from matryo.cli.terminal import print_json, print_results, progress_bar, write_json
from matryo.core import InputError


def run(
    data: Data,
    queries: Annotated[
        Path | None, typer.Option(help="File of queries; else some are drawn from the corpus.")
    ] = None,
    qrels: Qrels = None,
    model: Model = "default",
    base_url: BaseUrl = None,
    dims: Annotated[
        str | None, typer.Option(help="Sizes, as 64,128,256; default powers of two and full width.")
    ] = None,
    precisions: Annotated[
        str | None,
        typer.Option(
            help="Among float32, float16, int8, int4, int2, binary; default float32,int8,binary."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Neighbours that count.")] = 10,
    relevance: Annotated[
        str, typer.Option(help="Ranking measures, where there are judgments.")
    ] = "nDCG@10,R@10,RR@10",
    floor: Annotated[float, typer.Option(help="Share of the full-width value to keep.")] = 0.98,
    confidence: Annotated[
        float, typer.Option(help="Of all verdicts of a measure together.")
    ] = 0.95,
    metric: MetricName = None,
    pre_step: PreStep = None,
    threshold: Annotated[
        float | None, typer.Option(help="A full-width score to carry to every size.")
    ] = None,
    n_queries: NQueries = 1000,
    baselines: Annotated[bool, typer.Option(help="Measure random dims and a rotation too.")] = True,
    synthetic: Synthetic = False,
    strict: Strict = False,
    split: SplitName = None,
    column: Column = None,
    id_column: IdColumn = None,
    array: ArrayName = None,
    query_array: QueryArray = None,
    cache: Cache = True,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Write the results as JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as HTML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    require: Annotated[
        str | None,
        typer.Option(help="Exit with 3 unless this row keeps the floor, as 128@int8; for CI."),
    ] = None,
) -> None:
    """Measure every size and precision, with intervals and a verdict."""
    from matryo.encoders import EncodingCache
    from matryo.jobs import measure

    if base_url and not model.startswith("openai:"):
        raise typer.BadParameter("only openai: models have an address", param_hint="--base-url")
    for target in (out, report):
        if target is not None and not target.parent.is_dir():
            raise InputError(f"cannot write {target}: the folder {target.parent} does not exist")
    options: dict[str, Any] = {"base_url": base_url} if base_url else {}
    store = EncodingCache() if cache else None
    try:
        with progress_bar(quiet=as_json) as progress:
            results = measure(
                data,
                queries=queries,
                qrels=qrels,
                model=model,
                model_options=options,
                dims=dims,
                precisions=precisions,
                k=k,
                relevance=relevance.split(","),
                floor=floor,
                confidence=confidence,
                metric=metric,  # type: ignore[arg-type]  # checked where it is used
                pre_step=pre_step,
                threshold=threshold,
                n_queries=n_queries,
                baselines=baselines,
                synthetic=synthetic,
                strict=strict,
                split=split,
                column=column,
                id_column=id_column,
                array=array,
                query_array=query_array,
                cache=store,
                seed=seed,
                progress=progress,
            )
    finally:
        if store is not None:
            store.close()
    if out:
        write_json(out, results)
    if report:
        from matryo.report import write_report

        write_report(results, report)
    if as_json:
        print_json(results)
    else:
        print_results(results)
    if require is not None and not _keeps_floor(results, require):
        raise typer.Exit(3)


def _keeps_floor(results: dict[str, Any], require: str) -> bool:
    primary = next(m["name"] for m in results["measures"] if m["primary"])
    dim, _, precision = require.partition("@")
    for row in results["results"]:
        if (str(row["dim"]), row["precision"]) == (dim, precision or "float32") and (
            row["measure"],
            row["method"],
        ) == (primary, "cut"):
            return row["verdict"] in ("keeps", "reference")
    raise typer.BadParameter(f"{require} was not measured", param_hint="--require")
