"""A trained model as a folder that says what it may be cut to, where servers look for it.

vLLM and Text Embeddings Inference read `is_matryoshka` and `matryoshka_dimensions` in the
configuration of the transformer; so does matryo. People read the model card.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matryo.core import DimError, InputError, Nesting, UnsupportedError, check_dim, replacing_folder
from matryo.training.sentence_transformers import full_width

_OPENING, _CLOSING = "<!-- sizes -->", "<!-- end of sizes -->"


def save_nested(
    model: Any,
    folder: str | Path,
    dims: str | Iterable[int] | Nesting,
    *,
    results: Sequence[Mapping[str, Any]] = (),
    truncate_dim: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a model of sentence-transformers with the sizes it was trained at.

    Plain sentence-transformers loads the folder, and gives equal vectors. The model itself is left
    as it is.

    Args:
        model: What to save.
        folder: Where to.
        dims: Sizes in ascending order.
        results: Rows of a table for the model card, each with its `dim`; those of an evaluator fit.
        truncate_dim: Size that loaded models cut their vectors to; None leaves them whole.
        overwrite: Replace a folder that is there already.

    Returns:
        The folder.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width; or such a size.
        InputError: the folder exists already, or a row of the results has no `dim` or another one.
        UnsupportedError: a model without a transformer, for which no server looks anywhere.
    """
    nesting = dims if isinstance(dims, Nesting) else Nesting.parse(dims)
    width = full_width(model)
    if width is not None:
        check_dim(nesting.full_dim, width)
    if truncate_dim is not None and truncate_dim not in nesting.dims:
        raise DimError(
            f"truncate_dim must be one of the dims {nesting}, got {truncate_dim!r}",
            dim=truncate_dim,
        )
    table = _table(results, nesting) if results else ""
    with replacing_folder(folder, overwrite=overwrite) as temporary:
        model.save(str(temporary))
        _add_sizes(temporary, nesting)
        settings = temporary / "config_sentence_transformers.json"
        told = json.loads(settings.read_text("utf-8"))
        told.pop("truncate_dim", None)
        if truncate_dim is not None:
            told["truncate_dim"] = truncate_dim
        _write(settings, told)
        _add_section(temporary / "README.md", nesting, table)
    return Path(folder)


def _add_sizes(folder: Path, nesting: Nesting) -> None:
    first = json.loads((folder / "modules.json").read_text("utf-8"))[0]
    file = folder / first["path"] / "config.json"
    told = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if "model_type" not in told:
        raise UnsupportedError(
            "sizes are written to the configuration of a transformer, got a model that begins "
            f"with {first['type'].rpartition('.')[2]}",
            hint="save it with model.save(folder), and say on the model card what it may be cut to",
        )
    told |= {"is_matryoshka": True, "matryoshka_dimensions": list(nesting)}
    _write(file, told)


def _write(file: Path, told: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", "utf-8")


def _add_section(card: Path, nesting: Nesting, table: str) -> None:
    """Say on the model card what the model may be cut to; what was said before is replaced."""
    text = card.read_text("utf-8") if card.is_file() else ""
    before, _, rest = text.partition(_OPENING)
    after = rest.partition(_CLOSING)[2]
    section = f"""{_OPENING}
## Sizes

The first {_listed(nesting)} numbers of a vector are an embedding by themselves. Scale what is cut
to length 1 again.

{table}{_CLOSING}"""
    card.write_text(f"{before.rstrip()}\n\n{section}\n{after.lstrip()}".lstrip(), "utf-8")


def _listed(nesting: Nesting) -> str:
    *some, last = map(str, nesting)
    return f"{', '.join(some)} or {last}" if some else last


def _table(results: Sequence[Mapping[str, Any]], nesting: Nesting) -> str:
    columns = list(dict.fromkeys(column for row in results for column in row))
    for row in results:
        if row.get("dim") not in nesting.dims:
            raise InputError(
                f"results: expected rows with a dim among {nesting}, got {row.get('dim')!r}"
            )
    columns.sort(key=lambda column: column != "dim")
    lines = [columns, ["---:"] * len(columns)]
    lines += [[_number(row.get(column)) for column in columns] for row in results]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
