"""Texts with ids, from files of lines or records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matryo.core import FormatError, InputError
from matryo.readers.paths import checked_ids
from matryo.readers.records import Record, read_records

_ID_FIELDS = ("_id", "id")


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts that can be encoded, and the ids of those that cannot.

    Attributes:
        ids: One per text; row numbers from 0 where the file has none.
        texts: None of them empty, without white space at their ends.
        left_out: Ids of empty texts, which have nothing to encode. Callers show them.
        name: Name of the file without its suffix.
    """

    ids: list[str] | list[int]
    texts: list[str]
    left_out: list[str] | list[int]
    name: str

    def __len__(self) -> int:
        return len(self.texts)


def read_texts(
    path: str | Path, *, column: str | None = None, id_column: str | None = None
) -> Texts:
    """Texts of a file, for encoding.

    Args:
        path: A .jsonl, .csv, .tsv (never quoted), .txt (a text a line) or .parquet file.
        column: Field that holds the text; by default the field `title`, where there is one, a
            space, and the field `text`.
        id_column: Field that holds the id; by default `_id` or `id`, else rows are numbered from 0
            as vectors without ids are. Ids of .csv and .tsv are text.

    Raises:
        InputError: no such file, an unknown suffix, a missing field, repeated ids, or not one text
            that is not empty.
        FormatError: an empty file, or a line that cannot be read.
    """
    path = Path(path)
    required = [column or "text", *([id_column] if id_column else [])]
    ids: list[Any] = []
    texts: list[str] = []
    for where, record in read_records(path, required, ["title", *_ID_FIELDS]):
        texts.append(text_of(record, column, where))
        ids.append(_id_of(record, id_column))
    without = [row for row, value in enumerate(ids) if value is None]
    if without and (id_column or len(without) < len(ids)):
        raise InputError(
            f"{path}: expected an id in every record, got none in {len(without)} of {len(ids)}, "
            f"the first being record {without[0]}",
        )
    names = checked_ids(path, None if without else ids, len(texts))
    return split_empty(path, names, texts)


def split_empty(path: Path, ids: list[Any], texts: list[str]) -> Texts:
    """Put the ids of empty texts aside.

    Raises:
        InputError: no text remains.
    """
    if not any(texts):
        raise InputError(
            f"{path}: expected at least one text that is not empty, got "
            + (f"{len(texts)} empty ones" if texts else "no text at all"),
            path=path,
        )
    kept = [row for row, text in enumerate(texts) if text]
    return Texts(
        ids=[ids[row] for row in kept],
        texts=[texts[row] for row in kept],
        left_out=[name for name, text in zip(ids, texts, strict=True) if not text],
        name=path.stem,
    )


def text_of(record: Record, column: str | None, where: str) -> str:
    """The text of one record; empty where there is nothing to encode.

    Raises:
        FormatError: the field holds something else than text.
    """
    parts = []
    for name in (column,) if column else ("title", "text"):
        value = record.get(name)
        if value is not None and not isinstance(value, str):
            raise FormatError(
                f"{where}: expected text in field {name!r}, got {type(value).__name__}"
            )
        parts.append(value or "")
    return " ".join(parts).strip()


def _id_of(record: Record, id_column: str | None) -> Any:
    if id_column:
        return record[id_column]
    return next((record[name] for name in _ID_FIELDS if record.get(name) is not None), None)
