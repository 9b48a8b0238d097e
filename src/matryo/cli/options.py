"""Options that several verbs share, each with its one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path, typer.Argument(help="A benchmark folder, or a file of vectors or texts.")]
Qrels = Annotated[Path | None, typer.Option(help="File of relevance judgments.")]
Groups = Annotated[
    Path | None, typer.Option(help="File with the columns id and group, for the queries.")
]
Model = Annotated[str, typer.Option(help="Encoder for texts; see `matryo models`.")]
BaseUrl = Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible API.")]
MetricName = Annotated[str | None, typer.Option(help="cosine, dot or l2.")]
PreStep = Annotated[
    str | None, typer.Option(help="Step before the cut for vectors from files: layer_norm.")
]
NQueries = Annotated[int, typer.Option(min=1, help="Queries to draw where none are given.")]
Synthetic = Annotated[bool, typer.Option(help="Declare these data as made up.")]
Strict = Annotated[bool, typer.Option(help="Refuse sizes the model was not trained at.")]
SplitName = Annotated[str | None, typer.Option(help="Split of a benchmark folder.")]
Column = Annotated[str | None, typer.Option(help="Column of the texts or vectors.")]
IdColumn = Annotated[str | None, typer.Option(help="Column of the ids.")]
ArrayName = Annotated[str | None, typer.Option(help="Array of a file that holds several.")]
QueryArray = Annotated[str | None, typer.Option(help="The same for the queries.")]
Cache = Annotated[bool, typer.Option(help="Keep encodings for the next run.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
Results = Annotated[Path | None, typer.Option(help="Write all that was found as JSON.")]
Weights = Annotated[str | None, typer.Option(help="What each size weighs, as 1,1,2.")]


def weights_of(text: str | None) -> list[float] | None:
    """The numbers of `--weights`.

    Raises:
        BadParameter: no numbers with commas between them.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers with commas, got {text!r}", param_hint="--weights"
        ) from None
