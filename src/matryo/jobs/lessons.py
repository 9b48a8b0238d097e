"""Data dealt out into what teaches a map and what judges it.

Queries, labelled items and pairs are dealt out by a seed, half and half; where there are none of
them, some documents are taken out of the lesson and asked as queries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.adaptation import FEWEST_ITEMS, LabelsTrial, Lesson, PairsTrial, SearchTrial, Trial
from matryo.core import (
    DimError,
    FormatError,
    InputError,
    Side,
    TooFewError,
    check_vectors,
    shorten,
)
from matryo.jobs.opening import Opening, Search, open_search, prepared
from matryo.jobs.sources import Source, open_source
from matryo.readers import (
    LabelledData,
    LabelledVectors,
    PairsData,
    RetrievalData,
    Rows,
    Texts,
    Vectors,
    read_records,
    read_texts,
)
from matryo.transforms import pre_step as apply_pre_step

_MOST_TAUGHT = 50_000  # documents of a lesson
_MOST_SEARCHED = 100_000  # documents of a trial
_MOST_ASKED = 10_000  # items of a trial
_MOST_DRAWN = 2_000  # documents that are asked as queries, and at most a fifth of all
_PAIR_COLUMNS = ("id1", "id2", "score")

Ids = Sequence[str] | Sequence[int]
Places = NDArray[np.integer]


@dataclass(frozen=True)
class Ask:
    """What every part of a run has to know."""

    opening: Opening
    k: int
    taught: list[str] | None
    methods: str
    seed: int


@dataclass(frozen=True)
class Known:
    """Data, dealt out.

    Attributes:
        lesson: What teaches.
        trial: What chooses and judges.
        task: `retrieval`, `fidelity`, `labelled` or `pairs`.
        what: Of what some taught: `queries`, `documents`, `items` or `pairs`.
        taught: Their ids.
        n_documents: How many there are in all.
        n_queries: How many queries or pairs there are in all.
        n_searched: Documents that are searched, or that vote.
        how: Sentences that say how the data were dealt out.
        drawn: Whether queries had to be drawn from the documents.
    """

    lesson: Lesson
    trial: Trial
    task: str
    what: str
    taught: list[str]
    n_documents: int
    n_queries: int
    n_searched: int
    how: list[str]
    drawn: bool = False


class _Picked:
    """Some rows of many, read by slices."""

    def __init__(self, rows: Rows, places: Places) -> None:
        self._rows, self._places = rows, places
        self.shape = (len(places), rows.shape[1])

    def __getitem__(self, key: slice) -> NDArray[Any]:
        return self._rows[self._places[key]]


def deal_out(
    ask: Ask,
    source: Source,
    *,
    queries: Any = None,
    qrels: str | Path | None = None,
    labels: str | Path | None = None,
    pairs: str | Path | None = None,
    query_array: str | None = None,
) -> Known:
    """A lesson and a trial that have no item in common; `jobs.adapting.adapt` says how.

    Raises:
        TooFewError: too few items to judge by.
        InputError: data or options that do not fit.
    """
    _check_options(source, queries=queries, qrels=qrels, labels=labels, pairs=pairs)
    if isinstance(source, (LabelledData, LabelledVectors)) or labels is not None:
        return _from_labels(ask, source, labels)
    if isinstance(source, PairsData) or pairs is not None:
        return _from_pairs(ask, source, pairs)
    return _from_search(ask, source, queries, qrels, query_array)


def _from_search(
    ask: Ask, source: Source, queries: Any, qrels: str | Path | None, query_array: str | None
) -> Known:
    """Half of the queries teach; or, where there are none, all documents but those asked."""
    search = _open_search(ask, source, queries, qrels, query_array)
    rng = np.random.default_rng(ask.seed)
    n = search.corpus.shape[0]
    names = [str(name) for name in search.ids]
    if search.drawn:
        return _from_drawn(ask, search, names, rng)
    query_names = list(search.query_ids or [])
    teach, judge = _deal(query_names, ask.taught, rng, "queries", least=FEWEST_ITEMS)
    judge, asked = _sample(judge, _MOST_ASKED, rng), len(judge)
    relevant, needed = None, np.empty(0, np.int64)
    judged: tuple[Sequence[str], Sequence[str], Mapping[str, Mapping[str, int]]] | None = None
    if search.judged is not None:
        place = {name: row for row, name in enumerate(names)}
        qrels_of = search.judged[2]
        relevant = [
            np.array([place[d] for d, grade in qrels_of[query_names[row]].items() if grade > 0])
            for row in teach
        ]
        needed = np.array([place[d] for row in judge for d in qrels_of[query_names[row]]])
    shown = _sample(np.arange(n), _MOST_TAUGHT, rng, keep=_joined(relevant))
    searched = _sample(np.arange(n), _MOST_SEARCHED, rng, keep=needed)
    if search.judged is not None:
        relevant = [np.searchsorted(shown, rows) for rows in relevant or ()]
        judged = ([query_names[i] for i in judge], [names[i] for i in searched], search.judged[2])
    lesson = Lesson(
        _read(search.corpus, shown, names, "documents"),
        queries=search.queries[teach],
        relevant=relevant,
        stream=_stream(ask.methods, search.corpus, np.arange(n)),
    )
    corpus = _read(search.corpus, searched, names, "documents")
    trial = SearchTrial(search.queries[judge], corpus, judged=judged, k=ask.k)
    with_what = "with their relevant documents" if judged else "as they are, since nobody judged"
    how = [
        f"{len(teach):,} queries taught, {with_what}, and {len(judge):,} others were asked.",
        *_sampled(n, len(shown), len(searched), streamed=lesson.stream is not None),
    ]
    if len(judge) < asked:
        how.append(f"Of {asked:,} queries that did not teach, {len(judge):,} were asked.")
    return Known(
        lesson, trial, "retrieval" if judged else "fidelity", "queries",
        [query_names[i] for i in teach], n, len(query_names), len(searched), how,
    )  # fmt: skip


def _from_drawn(ask: Ask, search: Search, names: list[str], rng: np.random.Generator) -> Known:
    """Documents that are asked, and their equals, teach nothing and do not find themselves."""
    exclude = search.exclude or []
    n, held = search.corpus.shape[0], _joined(exclude)
    free = np.setdiff1d(np.arange(n), held)
    if ask.taught is not None:
        free = np.intersect1d(_rows_of(ask.taught, names, "documents"), free)
    if not len(free):
        raise InputError("every document is asked or equals one that is: nothing is left to teach")
    shown = _sample(free, _MOST_TAUGHT, rng)
    searched = _sample(np.arange(n), _MOST_SEARCHED, rng)
    lesson = Lesson(
        _read(search.corpus, shown, names, "documents"),
        stream=_stream(ask.methods, search.corpus, free),
    )
    inside = [np.searchsorted(searched, rows[np.isin(rows, searched)]) for rows in exclude]
    corpus = _read(search.corpus, searched, names, "documents")
    trial = SearchTrial(search.queries, corpus, exclude=inside, k=ask.k)
    how = [
        f"There were no queries: {len(search.queries):,} documents were drawn (seed {ask.seed}) "
        "and asked instead. They and their equals taught nothing, and none may find itself.",
        *_sampled(n, len(shown), len(searched), streamed=lesson.stream is not None),
    ]
    taught = free if lesson.stream is not None else shown
    return Known(
        lesson, trial, "fidelity", "documents", [names[i] for i in taught],
        n, len(search.queries), len(searched), how, drawn=True,
    )  # fmt: skip


def _from_labels(ask: Ask, source: Source, labels: str | Path | None) -> Known:
    """Half of the labelled items teach, a quarter votes, a quarter is classified."""
    rng = np.random.default_rng(ask.seed)
    rows, names, given = _labelled(ask.opening, source, labels)
    classes, numbers = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        raise TooFewError(
            f"labels must name at least 2 classes, got only {str(classes[0])!r}", needed=2
        )
    teach, rest = _deal(names, ask.taught, rng, "items", least=2 * FEWEST_ITEMS)
    mixed = rng.permutation(rest)
    half = len(mixed) // 2
    voters, asked = np.sort(mixed[half:]), np.sort(mixed[:half])
    n_teach = len(teach)
    teach, voters, asked = (
        _sample(part, most, rng)
        for part, most in (
            (teach, _MOST_TAUGHT), (voters, _MOST_SEARCHED), (asked, _MOST_ASKED),
        )
    )  # fmt: skip
    lesson = Lesson(_read(rows, teach, names, "items"), labels=numbers[teach])
    trial = LabelsTrial(
        _read(rows, voters, names, "items"), numbers[voters],
        _read(rows, asked, names, "items"), numbers[asked],
    )  # fmt: skip
    how = [
        f"{len(teach):,} items of {len(classes):,} classes taught; of the others {len(voters):,} "
        f"vote and {len(asked):,} are classified.",
    ]
    if labels is None:
        how.append("All are from the training part; the test part was left for measuring.")
    if n_teach > len(teach):
        how.append(f"A sample of {len(teach):,} of {n_teach:,} items taught.")
    taught = [names[i] for i in teach]
    return Known(
        lesson, trial, "labelled", "items", taught, len(names), len(asked), len(voters), how
    )


def _from_pairs(ask: Ask, source: Source, pairs: str | Path | None) -> Known:
    """Half of the pairs teach, half judge; documents of pairs that judge do not teach."""
    rng = np.random.default_rng(ask.seed)
    if isinstance(source, PairsData):
        left, right = _encode_pairs(ask.opening, source)
        grades, names = source.scores, _pair_names(source)
        teach, judge = _deal(names, ask.taught, rng, "pairs", least=FEWEST_ITEMS)
        documents = np.concatenate([left[teach], right[teach]])
        shown, n = _sample(np.arange(len(documents)), _MOST_TAUGHT, rng), 2 * len(left)
        documents = documents[shown]
    else:
        rows, ids = _documents(ask.opening, source)
        first, second, grades = _read_pairs(pairs, ids)
        names = [str(row) for row in range(len(grades))]
        teach, judge = _deal(names, ask.taught, rng, "pairs", least=FEWEST_ITEMS)
        held = np.union1d(first[judge], second[judge])
        n = len(ids)
        shown = _sample(np.setdiff1d(np.arange(n), held), _MOST_TAUGHT, rng)
        documents = _read(rows, shown, ids, "documents")
        left, right = (_read(rows, side, ids, "documents") for side in (first, second))
    for part, who in ((teach, "teach"), (judge, "judge")):
        if len(np.unique(grades[part])) < 2:
            raise InputError(
                f"expected scores that differ among the {len(part)} pairs that {who}, got "
                f"{grades[part][0] if len(part) else 'none'} only"
            )
    lesson = Lesson(documents, pairs=(left[teach], right[teach], grades[teach]))
    trial = PairsTrial(left[judge], right[judge], grades[judge])
    how = [
        f"{len(teach):,} pairs taught, {len(judge):,} others judged; {len(documents):,} vectors "
        "outside the latter taught those methods that need no scores."
    ]
    taught = [names[i] for i in teach]
    return Known(lesson, trial, "pairs", "pairs", taught, n, len(names), len(judge), how)


def further_trials(ask: Ask, second: Iterable[str | Path | Source], width: int) -> dict[str, Trial]:
    """A trial on all of every further data set."""
    trials: dict[str, Trial] = {}
    for data in second:
        source = open_source(data)
        if source.name in trials:
            raise InputError(f"two further data sets are called {source.name!r}: rename one")
        noted = len(ask.opening.left_out)
        trial, vectors = _whole_trial(ask, source)
        for item in ask.opening.left_out[noted:]:
            item["what"] += f" ({source.name})"
        if vectors.shape[1] != width:
            raise DimError(
                f"{source.name}: expected vectors of {width} numbers, as the first data have, got "
                f"{vectors.shape[1]}",
                hint="encode both with the same model",
                dim=vectors.shape[1],
                full_dim=width,
            )
        trials[source.name] = trial
    return trials


def _whole_trial(ask: Ask, source: Source) -> tuple[Trial, NDArray[np.floating]]:
    rng = np.random.default_rng(ask.seed)
    if isinstance(source, PairsData):
        left, right = _encode_pairs(ask.opening, source)
        return PairsTrial(left, right, source.scores), left
    if isinstance(source, (LabelledData, LabelledVectors)):
        train, names, labels = _labelled(ask.opening, source, None)
        if isinstance(source, LabelledData):
            test = ask.opening.encode(source.test, Side.DOCUMENT)
        else:
            test = apply_pre_step(source.test, ask.opening.pre_step).astype(np.float32)
        numbers = np.unique([*labels, *map(str, source.test_labels)], return_inverse=True)[1]
        votes, truth = numbers[: len(names)], numbers[len(names) :]
        known, asked = (
            _sample(np.arange(len(part)), most, rng)
            for part, most in ((votes, _MOST_SEARCHED), (truth, _MOST_ASKED))
        )
        vote = _read(train, known, names, "items")
        return LabelsTrial(vote, votes[known], test[asked], truth[asked]), vote
    search = _open_search(ask, source, None, None, None)
    names = [str(name) for name in search.ids]
    kept: Places = np.arange(len(names))
    those: Places = np.arange(len(search.queries))
    judged, exclude = search.judged, search.exclude
    if judged is None:
        kept = _sample(kept, _MOST_SEARCHED, rng)
        exclude = [np.searchsorted(kept, rows[np.isin(rows, kept)]) for rows in exclude or ()]
    else:
        those = _sample(those, _MOST_ASKED, rng)
        place = {name: row for row, name in enumerate(names)}
        needed = np.array([place[d] for i in those for d in judged[2][judged[0][i]]])
        kept = _sample(kept, _MOST_SEARCHED, rng, keep=needed)
        judged = [judged[0][i] for i in those], [names[i] for i in kept], judged[2]
    corpus = _read(search.corpus, kept, names, "documents")
    return SearchTrial(search.queries[those], corpus, judged=judged, exclude=exclude, k=ask.k), (
        corpus
    )


def _open_search(
    ask: Ask, source: Source, queries: Any, qrels: str | Path | None, query_array: str | None
) -> Search:
    if not isinstance(source, (RetrievalData, Texts, Vectors)):
        raise InputError(f"expected documents to search, got {type(source).__name__}")
    if queries is None and not isinstance(source, RetrievalData):
        n, least = len(source.ids), 5 * FEWEST_ITEMS
        if n < least:
            raise TooFewError(
                f"without queries at least {least} documents are needed, since a fifth of them is "
                f"asked, got {n}",
                hint="give queries, labels or scored pairs, or more documents",
                needed=least,
            )
        ask.opening.n_queries = min(_MOST_DRAWN, n // 5)
    search = open_search(ask.opening, source, queries, qrels, query_array=query_array)
    if search.queries.shape[1] != search.corpus.shape[1]:
        raise DimError(
            f"queries and documents must have one width, got {search.queries.shape[1]} numbers and "
            f"{search.corpus.shape[1]}",
            hint="encode both with the same model, and give both whole",
            dim=search.queries.shape[1],
            full_dim=search.corpus.shape[1],
        )
    return search


def _documents(opening: Opening, source: Source) -> tuple[Rows, list[str]]:
    """Vectors of a plain file, and their ids."""
    if isinstance(source, Texts):
        return opening.encode(source, Side.DOCUMENT), [str(name) for name in source.ids]
    if not isinstance(source, Vectors):
        raise InputError(f"expected a file of vectors or texts, got {type(source).__name__}")
    opening.meet(source, "the documents", Side.DOCUMENT)
    return prepared(source, opening.pre_step), [str(name) for name in source.ids]


def _labelled(
    opening: Opening, source: Source, labels: str | Path | None
) -> tuple[Rows, list[str], list[str]]:
    """Rows that have a label, their ids, and the labels."""
    if isinstance(source, LabelledData):
        names = [str(name) for name in source.train.ids]
        return opening.encode(source.train, Side.DOCUMENT), names, source.train_labels
    if isinstance(source, LabelledVectors):
        train = apply_pre_step(source.train, opening.pre_step).astype(np.float32, copy=False)
        return train, [str(i) for i in range(len(train))], [str(x) for x in source.train_labels]
    rows, ids = _documents(opening, source)
    if labels is None:
        raise InputError(f"expected labelled data, got {type(source).__name__}")
    table = read_texts(labels, column="label", id_column="id")
    known = {str(name): label for name, label in zip(table.ids, table.texts, strict=True)}
    _rows_of(list(known), ids, "items", where=labels)
    kept = [row for row, name in enumerate(ids) if name in known]
    opening.note_left_out("items without a label", [name for name in ids if name not in known])
    if len(kept) < len(ids):
        rows = _Picked(rows, np.array(kept))
    return rows, [ids[row] for row in kept], [known[ids[row]] for row in kept]


def _encode_pairs(
    opening: Opening, source: PairsData
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    opening.note_left_out("pairs with an empty text", source.left_out)
    first = opening.encode(source.first, Side.QUERY)
    return first, opening.encode(source.second, Side.DOCUMENT)


def _pair_names(source: PairsData) -> list[str]:
    """Row numbers in the file."""
    empty = set(source.left_out)
    every = range(len(source.scores) + len(empty))
    return [str(row) for row in every if row not in empty]


def _read_pairs(
    path: str | Path | None, ids: list[str]
) -> tuple[Places, Places, NDArray[np.float64]]:
    """Rows of both sides of every pair, and its score."""
    first, second, scores = [], [], []
    for where, record in read_records(Path(path or ""), _PAIR_COLUMNS):
        try:
            score = float(record["score"])
        except (TypeError, ValueError):
            score = np.nan
        if not np.isfinite(score):
            raise FormatError(f"{where}: expected a number as score, got {record['score']!r}")
        first.append(str(record["id1"]))
        second.append(str(record["id2"]))
        scores.append(score)
    _rows_of(list(dict.fromkeys([*first, *second])), ids, "documents", where=path)
    place = {name: row for row, name in enumerate(ids)}
    left, right = (np.array([place[name] for name in side]) for side in (first, second))
    return left, right, np.array(scores)


def _deal(
    names: Sequence[str],
    taught: Sequence[str] | None,
    rng: np.random.Generator,
    what: str,
    *,
    least: int,
) -> tuple[Places, Places]:
    """Rows that teach and rows that judge."""
    n = len(names)
    if taught is None:
        mixed = rng.permutation(n)
        teach: Places = np.sort(mixed[: n // 2])
        judge: Places = np.sort(mixed[n // 2 :])
    else:
        teach = _rows_of(taught, names, what)
        judge = np.setdiff1d(np.arange(n), teach)
    if (n < 2 * least if taught is None else len(judge) < least) or not len(teach):
        raise TooFewError(
            f"half of the {what} teach and half judge: at least {2 * least} are needed, got {n}"
            if taught is None
            else f"at least {least} {what} that did not teach are needed, got {len(judge)}",
            hint="give more of them; without any, matryo adapt draws documents to ask",
            needed=2 * least if taught is None else least,
        )
    return teach, judge


def _rows_of(
    wanted: Sequence[str], names: Sequence[str], what: str, *, where: object = None
) -> Places:
    """Rows by their ids; unknown ones are refused."""
    place = {name: row for row, name in enumerate(names)}
    unknown = [name for name in wanted if name not in place]
    if unknown:
        raise InputError(
            f"{where or 'taught'}: expected ids of {what} that are there, got {len(unknown)} of "
            f"{len(wanted)} that are not: {shorten(unknown)}",
            hint="ids are compared as text, exactly",
            ids=unknown,
        )
    return np.unique(np.array([place[name] for name in wanted], np.int64))


def _sample(
    rows: Places, most: int, rng: np.random.Generator, keep: Places | None = None
) -> Places:
    """At most so many rows, in order, and among them all that must be kept."""
    if len(rows) <= most:
        return rows
    kept = np.empty(0, np.int64) if keep is None else np.unique(keep)
    others = np.setdiff1d(rows, kept)
    drawn = rng.choice(others, max(0, most - len(kept)), replace=False)
    return np.union1d(kept, drawn)


def _joined(parts: Sequence[Places] | None) -> Places:
    return np.unique(np.concatenate(list(parts))) if parts else np.empty(0, np.int64)


def _read(rows: Rows, places: Places, ids: Ids, what: str) -> NDArray[np.float32]:
    """Some rows, all of which can be scored."""
    whole = len(places) == rows.shape[0]
    read = np.asarray(rows[:] if whole else rows[places], np.float32)
    check_vectors(read, what=what, ids=[ids[row] for row in places])
    return read


def _stream(methods: str, rows: Rows, free: Places) -> Rows | None:
    """All rows that may teach, for a rotation alone: no other method learns from a stream."""
    if methods.strip() != "rotation" or len(free) <= _MOST_TAUGHT:
        return None
    return rows if len(free) == rows.shape[0] else _Picked(rows, free)


def _sampled(n: int, shown: int, searched: int, *, streamed: bool) -> list[str]:
    """What is said where not all documents were used."""
    how = []
    if streamed:
        how.append("The rotation was learned from all documents that may teach.")
    elif shown < n and shown == _MOST_TAUGHT:
        how.append(f"A sample of {shown:,} of {n:,} documents taught.")
    if searched < n:
        how.append(
            f"A sample of {searched:,} of {n:,} documents was searched: among all of them every "
            "figure would be lower."
        )
    return how


def _check_options(source: Source, **given: object) -> None:
    """Refuse data that bring their own, and more than one kind of lesson."""
    named = [name for name, value in given.items() if value is not None]
    if named and not isinstance(source, (Texts, Vectors)):
        raise InputError(
            f"{source.name} is a whole data set, so no other {' or '.join(named)} can be given",
            hint="give its file of documents instead, with what is known of them",
        )
    if len({"queries" if name == "qrels" else name for name in named}) > 1:
        raise InputError(
            f"expected queries, labels or pairs, one of them, got {' and '.join(named)}",
            hint="choose by one of them, and try the map on the others with --second",
        )


def read_taught(taught: str | Path | Sequence[str] | None) -> list[str] | None:
    """Ids, from a file that holds one JSON array of them or as they are."""
    if taught is None or not isinstance(taught, (str, Path)):
        return None if taught is None else [str(name) for name in taught]
    path = Path(taught)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of ids, got nothing: it does not exist")
    try:
        ids = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: expected one JSON array of ids, got: {error}") from None
    if not isinstance(ids, list) or not all(isinstance(name, (str, int)) for name in ids):
        raise FormatError(f"{path}: expected one JSON array of ids, got something else")
    return [str(name) for name in ids]
