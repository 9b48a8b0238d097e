"""Records with named fields, one after the other: .jsonl, .csv, .tsv, .txt and .parquet."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matryo.core import FormatError, InputError, shorten
from matryo.readers.paths import require_file
from matryo.readers.tables import read_table_records

Record = dict[str, Any]
_BOM = b"\xef\xbb\xbf"


def read_records(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, Record]]:
    """Where each record is (file and line, for messages), and its fields.

    Values of .jsonl and .parquet keep their types; those of .csv, .tsv and .txt are text. A line
    of .txt is the field `text`.

    Args:
        path: The file; its suffix says how to read it.
        required: Fields that every record must have.
        optional: Fields to read where a Parquet file has them; other formats hand over all.

    Raises:
        InputError: no such file, an unknown suffix, or a required field is missing.
        FormatError: a line that cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from read_table_records(path, required, optional)
        return
    if suffix not in RECORD_READERS:
        raise InputError(
            f"{path}: expected one of {', '.join([*RECORD_READERS, '.parquet'])}, "
            f"got {suffix or 'no suffix'}",
            path=path,
        )
    require_file(path)
    for number, record in RECORD_READERS[suffix](path):
        for name in required:
            if name not in record:
                raise InputError(
                    f"{path}, line {number}: expected a field {name!r}, got "
                    f"{shorten(list(record), shown=20) or 'none'}",
                    hint="choose the field by its name, or rename it",
                    field=name,
                )
        yield f"{path}, line {number}", record


def read_columns(path: Path) -> list[str]:
    """Names of the columns of a .tsv or .csv file, whether it has rows or not."""
    require_file(path)
    if path.suffix.lower() == ".csv":
        with _csv_rows(path) as rows:
            header: list[str] = next(rows, [])
            return header
    return next(read_lines(path))[1].split("\t")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of every line, without its end.

    Raises:
        FormatError: a line is not UTF-8.
    """
    for number, line in enumerate(_decoded(path), start=1):
        yield number, line.rstrip("\r\n")


def _decoded(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            data = line.removeprefix(_BOM) if number == 1 else line
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise FormatError(
                    f"{path}, line {number}: expected UTF-8, got byte "
                    f"0x{data[error.start]:02x} at place {error.start}",
                    path=path,
                ) from None
            yield text


def _read_jsonl(path: Path) -> Iterator[tuple[int, Record]]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"{path}, line {number}: expected a JSON object, got: {error}", path=path
            ) from None
        if not isinstance(record, dict):
            raise FormatError(
                f"{path}, line {number}: expected a JSON object, got {type(record).__name__}",
                path=path,
            )
        yield number, record


def _read_csv(path: Path) -> Iterator[tuple[int, Record]]:
    with _csv_rows(path) as rows:
        header: list[str] = next(rows, [])
        for row in rows:
            if row:
                yield rows.line_num, _zip_fields(path, rows.line_num, header, row)


@contextmanager
def _csv_rows(path: Path) -> Iterator[Any]:
    # the module's limit of 131,072 characters a field is global, and long documents exceed it
    limit = csv.field_size_limit(sys.maxsize)
    rows = csv.reader(_decoded(path), strict=True)
    try:
        yield rows
    except csv.Error as error:
        raise FormatError(
            f"{path}, line {rows.line_num}: expected CSV, got: {error}", path=path
        ) from None
    finally:
        csv.field_size_limit(limit)


def _read_tsv(path: Path) -> Iterator[tuple[int, Record]]:
    header: list[str] | None = None
    for number, line in read_lines(path):
        if header is None:
            header = line.split("\t")
        elif line or len(header) == 1:
            yield number, _zip_fields(path, number, header, line.split("\t"))


def _read_txt(path: Path) -> Iterator[tuple[int, Record]]:
    for number, line in read_lines(path):
        yield number, {"text": line}


def _zip_fields(path: Path, number: int, header: list[str], row: list[str]) -> Record:
    if len(row) != len(header):
        raise FormatError(
            f"{path}, line {number}: expected {len(header)} fields ({', '.join(header)}), "
            f"got {len(row)}",
            path=path,
        )
    return dict(zip(header, row, strict=True))


RECORD_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Record]]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_txt,
}
