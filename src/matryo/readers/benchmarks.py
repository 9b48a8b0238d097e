"""Benchmark data: texts or vectors together with what is known to be right."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import FormatError, InputError, check_vectors, shorten
from matryo.readers.arrays import open_npz
from matryo.readers.paths import checked_ids, require_file
from matryo.readers.records import read_columns, read_lines, read_records
from matryo.readers.rows import as_float32, require_floats
from matryo.readers.texts import Texts, read_texts, split_empty, text_of

Qrels = dict[str, dict[str, int]]
_SCORE_NAMES = {"score", "relevance", "rel", "label", "judgment", "judgement", "grade"}
_PAIR_COLUMNS = ("sentence1", "sentence2", "score")
_LABEL_COLUMNS = ("text", "label")
_NPZ_ARRAYS = ("train", "train_labels", "test", "test_labels")


@dataclass(frozen=True, slots=True)
class RetrievalData:
    """Documents, queries, and which document answers which query.

    Attributes:
        name: Name of the folder.
        documents: Every document that has text.
        queries: Every query that has text and at least one positive judgment.
        qrels: Judgments of these queries: query id, document id, score; above 0 is relevant.
        left_out_queries: Ids of queries with text but without positive judgment.
        left_out_judgments: How many judgments named an empty document or an empty query.
    """

    name: str
    documents: Texts
    queries: Texts
    qrels: Qrels
    left_out_queries: list[str]
    left_out_judgments: int


@dataclass(frozen=True, slots=True, eq=False)
class PairsData:
    """Pairs of texts with a score of how alike people find them.

    Attributes:
        name: Name of the folder, or of the file without its suffix.
        first: The first text of every pair.
        second: The second text of every pair.
        scores: `(n,)` float64, higher is more alike.
        left_out: Rows, counted from 0, of which a text is empty.
    """

    name: str
    first: list[str]
    second: list[str]
    scores: NDArray[np.float64]
    left_out: list[int]


@dataclass(frozen=True, slots=True)
class LabelledData:
    """Texts with one label each, to learn from and to test on.

    Attributes:
        name: Name of the folder.
        train: Texts to learn from.
        train_labels: Their labels.
        test: Texts to test on.
        test_labels: Their labels.
    """

    name: str
    train: Texts
    train_labels: list[str]
    test: Texts
    test_labels: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledVectors:
    """Vectors with one label each, to learn from and to test on.

    Attributes:
        name: Name of the file without its suffix.
        train: `(n, dim)` float32.
        train_labels: `(n,)` integers or strings.
        test: `(m, dim)` float32.
        test_labels: `(m,)` integers or strings.
    """

    name: str
    train: NDArray[np.float32]
    train_labels: NDArray[Any]
    test: NDArray[np.float32]
    test_labels: NDArray[Any]


def open_dataset(
    path: str | Path, *, split: str | None = None
) -> RetrievalData | PairsData | LabelledData | LabelledVectors:
    """Read benchmark data of one of four kinds, told apart by its files.

    - retrieval: a folder with `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv` or
      `qrels.tsv`, as BEIR has them
    - pairs: a .tsv or .csv with the columns `sentence1`, `sentence2` and `score`, or a folder with
      such a `<split>` file
    - labelled texts: a folder with `train` and `<split>` as .tsv or .csv with the columns `text`
      and `label`
    - labelled vectors: a .npz with `train`, `train_labels`, `test` and `test_labels`

    Ids of documents and queries become text, as the judgments have them. Judgments of documents
    without text and queries without positive judgment are left out, and counted in the result.

    Args:
        path: The folder or file.
        split: Which part to test on, by default `test`; `qrels.tsv` is read where none is named and
            there is no `qrels/test.tsv`.

    Raises:
        InputError: no known kind, a missing file or column, judgments of unknown ids, repeated ids,
            or nothing left to measure on.
        FormatError: a file or line that cannot be read.
        VectorError: labelled vectors that are not finite, zero, or of two widths.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: expected a data set, got nothing: it does not exist")
    name = path.resolve().name
    if not path.is_dir():
        if split is not None:
            raise InputError(f"{path}: expected a folder to choose the split {split!r} in")
        return _open_file(path, path.stem)
    if (path / "corpus.jsonl").exists():
        return _open_retrieval(path, name, split)
    test = _find_table(path, split or "test")
    if test is not None and set(_PAIR_COLUMNS) <= set(read_columns(test)):
        return _read_pairs(test, name)
    train = _find_table(path, "train")
    if test is not None and train is not None:
        return LabelledData(name, *_read_labelled(train), *_read_labelled(test))
    found = sorted(item.name for item in path.iterdir())
    wanted = split or "test"
    raise InputError(
        f"{path}: no known data set: it holds {shorten(found) or 'nothing'}",
        hint=f"looked for corpus.jsonl, queries.jsonl and qrels.tsv; {wanted}.tsv or .csv with "
        f"{', '.join(_PAIR_COLUMNS)}; train and {wanted} as .tsv or .csv with text, label",
        found=found,
    )


def read_qrels(path: str | Path) -> Qrels:
    """Judgments by query and document, from BEIR's three columns or TREC's four.

    BEIR: query, document, score, with tabs, with or without a header line. TREC: query, a column
    nobody uses, document, score, with tabs or spaces.

    Raises:
        InputError: no such file.
        FormatError: an empty file, a line of another form, a score that is no whole number, or two
            scores of one pair.
    """
    path = Path(path)
    require_file(path)
    qrels: Qrels = {}
    width = None
    for number, line in read_lines(path):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
        if width is None:
            width = len(fields)
            if width in (3, 4) and fields[-1].lower() in _SCORE_NAMES:
                continue
        if len(fields) != width or width not in (3, 4):
            raise FormatError(
                f"{path}, line {number}: expected 3 fields (query, document, score) or TREC's 4, "
                f"the same in every line, got {len(fields)}",
                path=path,
            )
        query, document = fields[0], fields[-2]
        score = _whole(fields[-1], f"{path}, line {number}")
        if qrels.setdefault(query, {}).setdefault(document, score) != score:
            raise FormatError(
                f"{path}, line {number}: expected one score for query {query!r} and document "
                f"{document!r}, got {score} after {qrels[query][document]}",
                path=path,
            )
    if not qrels:
        raise FormatError(f"{path}: expected at least one judgment, got none", path=path)
    return qrels


def _open_file(path: Path, name: str) -> PairsData | LabelledVectors:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _read_labelled_vectors(path, name)
    if suffix in (".tsv", ".csv") and set(_PAIR_COLUMNS) <= set(read_columns(path)):
        return _read_pairs(path, name)
    raise InputError(
        f"{path}: no known data set",
        hint=f"looked for a .tsv or .csv with {', '.join(_PAIR_COLUMNS)}, and for a .npz with "
        f"{', '.join(_NPZ_ARRAYS)}",
    )


def _open_retrieval(folder: Path, name: str, split: str | None) -> RetrievalData:
    documents = _with_text_ids(folder / "corpus.jsonl")
    queries = _with_text_ids(folder / "queries.jsonl")
    qrels_path = _find_qrels(folder, split)
    qrels = read_qrels(qrels_path)
    _require_known(qrels_path, "queries", "queries.jsonl", qrels, queries)
    judged = {document: None for answers in qrels.values() for document in answers}
    _require_known(qrels_path, "documents", "corpus.jsonl", judged, documents)

    empty = set(map(str, documents.left_out))
    kept: Qrels = {}
    texts, unanswered, judgments = [], [], 0
    for query, text in zip(map(str, queries.ids), queries.texts, strict=True):
        answers = {name: score for name, score in qrels.get(query, {}).items() if name not in empty}
        judgments += len(answers)
        if any(score > 0 for score in answers.values()):
            kept[query] = answers
            texts.append(text)
        else:
            unanswered.append(query)
    if not kept:
        raise InputError(
            f"{qrels_path}: expected at least one query with a positive judgment, got none of "
            f"{len(queries)}"
        )
    asked = Texts(list(kept), texts, queries.left_out, queries.name)
    left_out = sum(map(len, qrels.values())) - judgments
    return RetrievalData(name, documents, asked, kept, unanswered, left_out)


def _with_text_ids(path: Path) -> Texts:
    texts = read_texts(path)
    # judgments are text: the integer 7 and the text "7" are one id, and a repeat if both are there
    names = [str(name) for name in (*texts.ids, *texts.left_out)]
    checked_ids(path, names, len(names))
    return Texts(names[: len(texts)], texts.texts, names[len(texts) :], texts.name)


def _find_qrels(folder: Path, split: str | None) -> Path:
    named = folder / "qrels" / f"{split or 'test'}.tsv"
    if named.exists():
        return named
    if split is None and (folder / "qrels.tsv").exists():
        return folder / "qrels.tsv"
    splits = sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))
    looked_for = f"qrels/{split}.tsv" if split else "qrels/test.tsv or qrels.tsv"
    raise InputError(
        f"{folder}: expected judgments in {looked_for}, got no such file",
        hint=f"splits that are there: {', '.join(splits) or 'none'}",
        splits=splits,
    )


def _require_known(path: Path, what: str, source: str, ids: Collection[str], texts: Texts) -> None:
    known = {*texts.ids, *texts.left_out}
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise InputError(
            f"{path}: expected {what} of {source}, got {len(unknown)} of {len(ids)} that are not "
            f"there: {shorten(unknown)}",
            hint="ids are compared as text, exactly; the files may be of two releases",
            ids=unknown,
        )


def _find_table(folder: Path, stem: str) -> Path | None:
    files = (folder / f"{stem}{suffix}" for suffix in (".tsv", ".csv"))
    return next((file for file in files if file.exists()), None)


def _read_pairs(path: Path, name: str) -> PairsData:
    first, second, scores, left_out = [], [], [], []
    for row, (where, record) in enumerate(read_records(path, _PAIR_COLUMNS)):
        score = _number(record["score"], where)
        texts = [text_of(record, column, where) for column in ("sentence1", "sentence2")]
        if not all(texts):
            left_out.append(row)
            continue
        first.append(texts[0])
        second.append(texts[1])
        scores.append(score)
    if not scores:
        raise InputError(f"{path}: expected at least one pair of texts, got none")
    return PairsData(name, first, second, np.array(scores, dtype=np.float64), left_out)


def _read_labelled(path: Path) -> tuple[Texts, list[str]]:
    texts, labels = [], []
    for where, record in read_records(path, _LABEL_COLUMNS):
        if not record["label"].strip():
            raise FormatError(f"{where}: expected a label, got none", path=path)
        texts.append(text_of(record, "text", where))
        labels.append(record["label"].strip())
    split = split_empty(path, list(range(len(texts))), texts)
    return split, [label for label, text in zip(labels, texts, strict=True) if text]


def _read_labelled_vectors(path: Path, name: str) -> LabelledVectors:
    arrays = {}
    with open_npz(path) as archive:
        missing = [key for key in _NPZ_ARRAYS if key not in archive.headers]
        if missing:
            raise InputError(
                f"{path}: expected the arrays {', '.join(_NPZ_ARRAYS)}, "
                f"got {', '.join(archive.headers) or 'none'}",
                missing=missing,
            )
        for part in ("train", "test"):
            vectors, labels = archive.headers[part], archive.headers[f"{part}_labels"]
            require_floats(f"{path}, array {part!r}", vectors.shape, vectors.dtype)
            if labels.shape != vectors.shape[:1] or labels.dtype.kind not in "iuU":
                raise InputError(
                    f"{path}: expected {vectors.shape[0]} integers or strings in {part}_labels, "
                    f"one per row of {part}, got shape {labels.shape} of {labels.dtype}"
                )
        for key in _NPZ_ARRAYS:
            arrays[key] = archive.read(key)
    train, test = (as_float32(arrays[part], path) for part in ("train", "test"))
    if train.shape[1] != test.shape[1]:
        raise InputError(
            f"{path}: expected train and test of one width, "
            f"got {train.shape[1]} and {test.shape[1]} numbers"
        )
    check_vectors(train, what=f"{path}, train")
    check_vectors(test, what=f"{path}, test")
    return LabelledVectors(name, train, arrays["train_labels"], test, arrays["test_labels"])


def _number(text: Any, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(f"{where}: expected a number as score, got {text!r}")
    return value


def _whole(text: str, where: str) -> int:
    value = _number(text, where)
    if value != int(value):
        raise FormatError(f"{where}: expected a whole number as score, got {text!r}")
    return int(value)
