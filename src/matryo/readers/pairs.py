"""Examples to train on: pairs, triplets, scored pairs or labelled texts, told apart by columns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from matryo.core import DIGEST_LENGTH, FormatError, InputError, TooFewError, canonical, shorten
from matryo.readers.records import read_records

Kind = Literal["triplets", "pairs", "scored", "labelled"]

# The first kind whose columns are all there; triplets have those of pairs too.
_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "triplets": ("anchor", "positive", "negative"),
    "pairs": ("anchor", "positive"),
    "scored": ("sentence1", "sentence2", "score"),
    "labelled": ("text", "label"),
}
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Examples of one kind.

    Attributes:
        name: Name of the file without its suffix.
        kind: `pairs`, `triplets`, `scored` or `labelled`.
        columns: The texts, column by column: `anchor` and `positive`, for instance.
        marks: The score of each example, or its label; empty for pairs and triplets.
        where: File and line of each example, for messages.
    """

    name: str
    kind: Kind
    columns: dict[str, list[str]]
    marks: list[Any]
    where: list[str]

    def __len__(self) -> int:
        return len(self.where)

    def take(self, rows: Sequence[int]) -> TrainingData:
        """Some of the examples, in this order."""
        columns = {name: [texts[row] for row in rows] for name, texts in self.columns.items()}
        marks = [self.marks[row] for row in rows] if self.marks else []
        return TrainingData(self.name, self.kind, columns, marks, [self.where[i] for i in rows])

    def digest(self) -> str:
        """32 hexadecimal digits that tell other examples, or another order, apart."""
        parts = canonical([self.kind, self.columns, self.marks])
        return hashlib.sha256(parts).hexdigest()[:DIGEST_LENGTH]


def read_training_data(path: str | Path) -> TrainingData:
    """Read examples from a .jsonl, .csv, .tsv or .parquet file.

    Columns say what they are: `anchor` and `positive` are pairs, with `negative` triplets;
    `sentence1`, `sentence2` and `score` scored pairs; `text` and `label` labelled texts. Other
    columns are passed over.

    Raises:
        InputError: no such file, columns of no kind or of several, a missing field; or examples
            that nothing can be learned from.
        FormatError: a line that cannot be read, an empty text or label, or a score that is no
            finite number of float32.
    """
    path = Path(path)
    kind = _kind_of(path)
    names = _COLUMNS[kind]
    texts = names if kind in ("triplets", "pairs") else names[:-1]
    columns: dict[str, list[str]] = {name: [] for name in texts}
    marks: list[Any] = []
    where: list[str] = []
    for place, record in read_records(path, names):
        for name in texts:
            columns[name].append(_text(record[name], name, place))
        if kind == "scored":
            marks.append(_score(record["score"], place))
        elif kind == "labelled":
            marks.append(_label(record["label"], place))
        where.append(place)
    data = TrainingData(path.stem, kind, columns, marks, where)
    _check_teaches(data, path)
    return data


def _kind_of(path: Path) -> Kind:
    every = list(dict.fromkeys(name for names in _COLUMNS.values() for name in names))
    first = next(read_records(path, (), every), None)
    if first is None:
        raise InputError(f"{path}: expected examples to train on, got none")
    found = [kind for kind, names in _COLUMNS.items() if set(names) <= set(first[1])]
    if found[:2] == ["triplets", "pairs"]:
        found.remove("pairs")
    if len(found) != 1:
        known = "; ".join(f"{', '.join(names)} ({kind})" for kind, names in _COLUMNS.items())
        raise InputError(
            f"{path}: expected the columns of one kind of examples, got "
            f"{shorten(list(first[1]), shown=20)}, which are of {' and '.join(found) or 'none'}",
            hint=f"rename or leave out columns; known are: {known}",
        )
    return found[0]


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        got = "an empty one" if isinstance(value, str) else type(value).__name__
        raise FormatError(f"{where}: expected a text in field {name!r}, got {got}", field=name)
    return value.strip()


def _score(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= _LARGEST:
        raise FormatError(
            f"{where}: expected a finite number in field 'score', got {value!r}", field="score"
        )
    return number


def _label(value: Any, where: str) -> str:
    if isinstance(value, (bool, float)) or not isinstance(value, (str, int)):
        raise FormatError(
            f"{where}: expected a label, as text or a whole number, in field 'label', got "
            f"{value!r}",
            field="label",
        )
    if not str(value).strip():
        raise FormatError(f"{where}: expected a label in field 'label', got none", field="label")
    return str(value).strip()


def _check_teaches(data: TrainingData, path: Path) -> None:
    """Refuse examples that are all alike."""
    if len(data) < 2:
        raise TooFewError(f"{path}: expected at least 2 examples, got {len(data)}", needed=2)
    if data.kind == "labelled" and len(set(data.marks)) < 2:
        raise InputError(f"{path}: expected at least 2 classes, got only {data.marks[0]!r}")
    if data.kind == "scored" and len(set(data.marks)) < 2:
        raise InputError(
            f"{path}: expected scores that differ, got {data.marks[0]:g} for all {len(data)} "
            "pairs: nothing says which are more alike"
        )
    if data.kind in ("pairs", "triplets") and len(set(data.columns["positive"])) < 2:
        raise InputError(
            f"{path}: all {len(data)} examples have the same positive, "
            f"{shorten(data.columns['positive'][:1])}: nothing can be told apart"
        )
