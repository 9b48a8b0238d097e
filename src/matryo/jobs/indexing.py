"""Fill an index from a file of vectors or texts, and ask it with a text.

A build works in `<out>.unfinished`: `build.json`, which says what is built of what, and the index,
to which every batch is one commit. A run that is interrupted goes on after the last of them and,
since batches always end at the same rows, ends with the same index. It takes its name when all rows
are there and, for a funnel with inverted lists, merged into one segment.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    Encoder,
    Funnel,
    InputError,
    Lists,
    Metric,
    Plan,
    Precision,
    Side,
    SideSpec,
    Space,
    TooFewError,
    Transform,
    canonical,
    check_vectors,
    replacing_folder,
    shorten,
    sync,
)
from matryo.encoders import EncodingCache, encode_texts, encoder
from matryo.evaluation import fit_steps
from matryo.jobs.unfinished import identity, read_state, state_of
from matryo.readers import (
    FORMATS,
    RECORD_READERS,
    Texts,
    VectorStream,
    read_records,
    read_texts,
    stream_vectors,
    text_of,
)
from matryo.search import Level
from matryo.stores import FIELD_TYPES, Index
from matryo.transforms import load_transform, pre_step

_STATE, _INDEX = "build.json", "index"  # in the folder of an unfinished build
_PART = 8_192  # rows read at once for a sample
_SAMPLE = 20_000  # rows that int8 steps are fitted on, at most
_FEWEST = 32  # rows that int8 steps are fitted on, at least
_UNTYPED = (".csv", ".tsv", ".txt")  # all values are text there
_WORDS = {"true": True, "false": False}

Progress = Callable[[str, int, int], None]


def build_index(
    data: str | Path,
    out: str | Path,
    run: Plan | Funnel | str,
    *,
    model: str | Encoder | None = None,
    model_options: Mapping[str, Any] | None = None,
    transform: str | Path | Transform | None = None,
    metric: Metric | None = None,
    fields: Mapping[str, type] | None = None,
    batch: int = 65_536,
    column: str | None = None,
    id_column: str | None = None,
    array: str | None = None,
    resume: bool = False,
    cache: EncodingCache | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make an index of all rows of a file, however many they are.

    Args:
        data: File or folder of whole vectors of documents; a file of texts (.jsonl, .tsv, .csv,
            .txt); or a folder with a `corpus.jsonl`.
        out: Folder of the index, which does not exist yet.
        run: A plan, or a funnel, as text for instance. int8 steps that a funnel needs are fitted on
            a sample of at most 20,000 rows.
        model: What encodes texts (by default `default`), or where the vectors of a file that does
            not say come from. Such files go through the pre-step of the space.
        model_options: Options of an encoder that is named.
        transform: The transform that a plan names, or its file, to apply to every vector; a funnel
            may have one too.
        metric: How vectors of an unnamed model are scored, by default `cosine`.
        fields: Names and types (`bool`, `int`, `float`, `str`) of columns of the records to keep.
        batch: Rows added at once. Memory grows with it, and what is lost by an interruption.
        column: Column of the texts or vectors.
        id_column: Column of the ids.
        array: Name of the array in a file that holds several.
        resume: Go on where an interrupted build stopped; a finished one is left as it is.
        cache: Where encodings are kept.
        progress: Called with a stage's name, the number done since the last call, and the total.

    Returns:
        What was built: out, rows, funnel, space, fingerprint, the ids of empty texts that were left
        out, and the row it went on from.

    Raises:
        SpaceMismatchError: the data come from another space than that of the plan.
        InputError: `out` or an unfinished build exists, or that build was another; no such column;
            another transform; or what `Index.add` refuses: then nothing is left of the build.
        TooFewError: too few rows to fit int8 steps on.
        UnsupportedError: what `Index.create` refuses.
    """
    target, report = Path(out), progress or (lambda *_: None)
    work = target.with_name(f"{target.name}.unfinished")
    _require_new(target, work, resume=resume)
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}", batch=batch)
    plan = Funnel.parse(run) if isinstance(run, str) else run
    fitted = _loaded(transform)
    if isinstance(plan, Plan):
        _require_transform(plan.transform, fitted, "this plan")
    source = _open(
        data, model=model, model_options=model_options, known=_space_of(plan), column=column,
        id_column=id_column, array=array, cache=cache, report=report,
    )  # fmt: skip
    plan = _settled(plan, source, fitted, metric)
    names = dict(fields or {})
    _require_fields(source, names)
    rows = len(source.ids)
    belongs = {
        "data": identity(source.path),
        "rows": rows,
        "column": column,
        "id_column": id_column,
        "array": array,
        "space": plan.space.fingerprint,
        "run": hashlib.sha256(canonical(plan.to_dict())).hexdigest(),
        "fields": [[name, kind.__name__] for name, kind in names.items()],
        "batch": batch,
    }
    built = {
        "out": str(out),
        "rows": rows,
        "funnel": str(plan.run),
        "space": plan.space.describe(),
        "fingerprint": plan.space.fingerprint,
        "left_out": source.left_out,
        "resumed_at": 0,
    }
    if target.exists():  # only where resume is set
        _require_built(target, work, plan.space, rows)
        shutil.rmtree(work, ignore_errors=True)
        return {**built, "resumed_at": rows}
    if work.exists():
        read_state(work / _STATE, belongs)
    else:
        _begin(work, belongs, plan, fields=names, source=source, fitted=fitted)
    with Index.open(work / _INDEX) as index:
        start = len(index)
        try:
            _add(
                index, source, fitted, fields=names, start=start, batch=batch, report=report,
                upsert=False,
            )  # fmt: skip
            if isinstance(plan.run, Funnel) and isinstance(plan.run.stages[0].access, Lists):
                # one set of lists is read faster than those of every batch
                report("merging", 0, rows)
                index.compact()
                report("merging", rows, rows)
        except InputError:  # the data have to change, and then nothing could go on from here
            shutil.rmtree(work)
            raise
    (work / _INDEX).rename(target)
    sync(target.parent)
    shutil.rmtree(work)
    return {**built, "resumed_at": start}


def add_to_index(
    index: str | Path | Index,
    data: str | Path,
    *,
    upsert: bool = False,
    model: str | Encoder | None = None,
    model_options: Mapping[str, Any] | None = None,
    transform: str | Path | Transform | None = None,
    batch: int = 65_536,
    column: str | None = None,
    id_column: str | None = None,
    array: str | None = None,
    cache: EncodingCache | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Add all rows of a file, with the fields of the index that its records have.

    Every batch is a commit. What an interrupted call has added stays; with `upsert` the call can be
    repeated.

    Args:
        index: The index, or its folder.
        data: As for `build_index`; vectors of a file that does not say come from the index's space.
        upsert: Replace rows whose ids are there already.
        model: What encodes texts, by default the model that the index was built with.
        model_options: Options of an encoder that is named.
        transform: The transform that the index names, or its file.
        batch: Rows added at once.
        column: Column of the texts or vectors.
        id_column: Column of the ids.
        array: Name of the array in a file that holds several.
        cache: Where encodings are kept.
        progress: As for `build_index`.

    Returns:
        How many rows were added, how many there are now, and the ids of texts left out.

    Raises:
        SpaceMismatchError: the data come from another space than the index.
        InputError: another transform, or what `Index.add` refuses.
    """
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}", batch=batch)
    report = progress or (lambda *_: None)
    with nullcontext(index) if isinstance(index, Index) else Index.open(index) as opened:
        fitted = _loaded(transform)
        _require_transform(opened.plan.transform, fitted, "this index")
        source = _open(
            data, model=model, model_options=model_options, known=opened.space, column=column,
            id_column=id_column, array=array, cache=cache, report=report,
            recorded=_encoder_of(opened.plan),
        )  # fmt: skip
        if source.space is not None:
            space = _after(source.space, fitted)
            opened.space.require_same(space, here="this index holds", there="the data come from")
        kinds: dict[str, type] = {
            name: FIELD_TYPES[kind] for name, kind in opened.info()["fields"].items()
        }
        there = _fields_in(source, kinds)
        names = {name: kind for name, kind in kinds.items() if name in there}
        _add(
            opened, source, fitted, fields=names, start=0, batch=batch, report=report,
            upsert=upsert,
        )  # fmt: skip
        return {
            "index": str(opened.path),
            "added": len(source.ids),
            "rows": len(opened),
            "left_out": source.left_out,
        }


def search_index(
    index: str | Path | Index,
    text: str,
    *,
    k: int = 10,
    where: object | None = None,
    model: str | Encoder | None = None,
    model_options: Mapping[str, Any] | None = None,
    transform: str | Path | Transform | None = None,
    explain: bool = False,
    cache: EncodingCache | None = None,
) -> dict[str, Any]:
    """Encode a text as a query, and find the rows that answer it best.

    Args:
        index: The index, or its folder.
        text: The query.
        k: Rows to find.
        where: A filter, as for `Index.search`.
        model: What encodes the text, by default the model that the index was built with, and
            `default` where it was built from vectors.
        model_options: Options of an encoder that is named.
        transform: The transform that the index names, or its file.
        explain: Say what every stage read and kept. The text is searched a second time for that,
            with what the first time read in memory and its checksums compared.
        cache: Where encodings are kept.

    Returns:
        The hits with rank, id, score and fields; whether they are as many as asked for; the dim and
        precision of their scores; and the steps, or None.

    Raises:
        SpaceMismatchError: the model's space is not that of the index.
        InputError: an empty text, another transform, or what `Index.search` refuses.
    """
    opening = nullcontext(index) if isinstance(index, Index) else Index.open(index, read_only=True)
    with opening as opened:
        fitted = _loaded(transform)
        _require_transform(opened.plan.transform, fitted, "this index")
        asking = _encoder(model or _encoder_of(opened.plan) or "default", model_options)
        space = _after(asking.space, fitted)
        opened.space.require_same(space, here="this index holds", there="the query comes from")
        query = encode_texts(asking, [text], side=Side.QUERY, cache=cache)
        query = _mapped(pre_step(query, asking.space.query.pre_step), fitted)
        hits = opened.search(query, k=k, where=where, space=space)
        steps = opened.explain(query, k=k, where=where, space=space)[0] if explain else None
        found = opened.get(hits.ids[0])  # type: ignore[arg-type]  # an index has ids of one kind
        return {
            "index": str(opened.path),
            "text": text,
            "rows": len(opened),
            "hits": [
                {
                    "rank": place + 1,
                    "id": name,
                    "score": float(score),
                    "fields": {field: values[place] for field, values in found.fields.items()},
                }
                for place, (name, score) in enumerate(zip(hits.ids[0], hits.scores[0], strict=True))
            ],
            "complete": hits.complete[0],
            "dim": hits.dim,
            "precision": hits.precision.value,
            "steps": [asdict(step) for step in steps] if steps is not None else None,
        }


def parse_fields(given: Sequence[str]) -> dict[str, type]:
    """Names and types of fields from texts as `year:int`.

    Raises:
        InputError: a text of another form, or a name that is given twice.
    """
    fields: dict[str, type] = {}
    for text in given:
        name, colon, kind = text.rpartition(":")
        if not colon or kind not in FIELD_TYPES or name in fields:
            raise InputError(
                f"expected fields as name:type with one of the types {', '.join(FIELD_TYPES)}, "
                f"each name once, got {text!r}"
            )
        fields[name] = FIELD_TYPES[kind]
    return fields


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """Rows on their way into an index.

    Attributes:
        path: The file they are read from.
        ids: One per row.
        width: Numbers of a vector.
        space: Where the vectors come from, before any transform; None where nothing says.
        encoder: Name of the model, for searches with a text; None where nothing says.
        left_out: Ids of empty texts.
        has_text: Whether the rows are texts, in the field `column` or as `read_texts` finds them.
        column: Column of the texts.
        parts: Called with `(first_row, size)`, the vectors from there on, after their pre-step.
        take: Called with ascending row numbers, their vectors.
    """

    path: Path
    ids: Sequence[str] | Sequence[int]
    width: int
    space: Space | None
    encoder: str | None
    left_out: list[str | int]
    has_text: bool
    column: str | None
    parts: Callable[[int, int], Iterator[NDArray[np.float32]]]
    take: Callable[[NDArray[np.int64]], NDArray[np.float32]]


def _open(
    data: str | Path,
    *,
    model: str | Encoder | None,
    model_options: Mapping[str, Any] | None,
    known: Space | None,
    column: str | None,
    id_column: str | None,
    array: str | None,
    cache: EncodingCache | None,
    report: Progress,
    recorded: str | None = None,
) -> _Source:
    path = Path(data)
    if (path / "corpus.jsonl").is_file():
        path = path / "corpus.jsonl"
    if not path.exists():
        raise InputError(f"there is nothing at {path}", path=path)
    if _holds_vectors(path, column):
        stream = stream_vectors(path, name=array, id_column=id_column, vector_column=column)
        return _of_vectors(path, stream, model, model_options, known)
    named = model or recorded or "default"
    encoding = _encoder(named, model_options)
    return _of_texts(
        path,
        read_texts(path, column=column, id_column=id_column),
        encoding,
        named=named if isinstance(named, str) else None,
        column=column,
        cache=cache,
        report=report,
    )


def _holds_vectors(path: Path, column: str | None) -> bool:
    """Whether a path holds vectors; .jsonl may hold either, .parquet holds vectors here."""
    suffix = path.suffix.lower()
    if path.is_dir() or suffix not in RECORD_READERS:
        known = {kind.suffix for kind in FORMATS}
        if path.is_file() and suffix not in known:
            raise InputError(
                f"{path}: expected a file of vectors or texts, got {suffix or 'no suffix'}",
                hint="see matryo formats",
                path=path,
            )
        return True
    if suffix != ".jsonl" or column is not None:
        return False
    _, first = next(read_records(path, []), ("", {}))
    return bool({"vector", "embedding"} & set(first))


def _of_vectors(
    path: Path,
    stream: VectorStream,
    model: str | Encoder | None,
    model_options: Mapping[str, Any] | None,
    known: Space | None,
) -> _Source:
    if stream.side is Side.QUERY:
        raise InputError(
            f"{path}: an index holds document vectors, got a folder of query vectors",
            hint="encode them with: matryo encode … --side document",
        )
    space, step = stream.space, None
    if space is None:
        space = _encoder(model, model_options).space if model is not None else None
        likely = space or known
        step = likely.document.pre_step if likely is not None else None

    def parts(first: int, size: int) -> Iterator[NDArray[np.float32]]:
        for part in stream.parts(first, size):
            yield pre_step(part, step).astype(np.float32, copy=False)

    def take(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        taken, first = [], 0
        for part in parts(0, _PART):
            inside = rows[(rows >= first) & (rows < first + len(part))]
            taken.append(part[inside - first])
            first += len(part)
            if first > rows[-1]:
                break
        return np.concatenate(taken)

    named = model if isinstance(model, str) else None
    return _Source(path, stream.ids, stream.shape[1], space, named, [], False, None, parts, take)


def _of_texts(
    path: Path,
    texts: Texts,
    encoding: Encoder,
    *,
    named: str | None,
    column: str | None,
    cache: EncodingCache | None,
    report: Progress,
) -> _Source:
    rows = len(texts)
    step = encoding.space.document.pre_step

    def encoded(
        values: list[str], ids: Sequence[str | int], stage: str, total: int
    ) -> NDArray[np.float32]:
        vectors = encode_texts(
            encoding, values, side=Side.DOCUMENT, cache=cache, ids=ids,
            progress=lambda done: report(stage, done, total),
        )  # fmt: skip
        return pre_step(vectors, step).astype(np.float32, copy=False)

    def parts(first: int, size: int) -> Iterator[NDArray[np.float32]]:
        report("encoding texts", first, rows)
        for start in range(first, rows, size):
            part = slice(start, start + size)
            yield encoded(texts.texts[part], texts.ids[part], "encoding texts", rows)

    def take(chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        values = [texts.texts[row] for row in chosen.tolist()]
        ids = [texts.ids[row] for row in chosen.tolist()]
        return encoded(values, ids, "encoding a sample", len(values))

    return _Source(
        path, texts.ids, encoding.space.full_dim, encoding.space, named, list(texts.left_out),
        True, column, parts, take,
    )  # fmt: skip


def _settled(
    run: Plan | Funnel, source: _Source, fitted: Transform | None, metric: Metric | None
) -> Plan:
    """The plan of the index, without int8 steps that have to be fitted.

    Raises:
        SpaceMismatchError: the data come from another space.
        InputError: a metric for vectors whose space is known.
    """
    space = _after(source.space, fitted) if source.space is not None else None
    known = _space_of(run) or space
    if metric is not None and known is not None and metric != known.metric:
        raise InputError(
            f"the space of these vectors is scored by {known.metric}, got the metric {metric}",
            hint="leave the metric out",
        )
    if isinstance(run, Plan):
        if space is not None:
            run.space.require_same(space, here="this plan is for", there="the data come from")
        plan = run
    else:
        unnamed = Space("vectors of an unnamed model", source.width, metric=metric or "cosine")
        digest = fitted.digest if fitted is not None else None
        plan = Plan(space or _after(unnamed, fitted), run, transform=digest)
    if source.encoder is None:
        return plan
    return replace(plan, evidence={**(plan.evidence or {}), "encoder": source.encoder})


def _begin(
    work: Path,
    belongs: Mapping[str, Any],
    plan: Plan,
    *,
    fields: Mapping[str, type],
    source: _Source,
    fitted: Transform | None,
) -> None:
    """Make the folder of a build, with an empty index that has its int8 steps."""
    levels = (
        [Level(stage.dim, stage.precision) for stage in plan.run.stages]
        if isinstance(plan.run, Funnel) and not plan.scales
        else []
    )
    if any(level.precision is Precision.INT8 for level in levels):
        rows = len(source.ids)
        if rows < _FEWEST:
            raise TooFewError(
                f"at least {_FEWEST} rows are needed to fit int8 steps, got {rows}",
                hint="give a plan, which has them, or a funnel without int8",
                needed=_FEWEST,
            )
        chosen = np.random.default_rng(0).choice(rows, min(rows, _SAMPLE), replace=False)
        chosen = np.sort(chosen).astype(np.int64)
        sample = source.take(chosen)
        check_vectors(
            sample, what="vectors", ids=[source.ids[row] for row in chosen.tolist()],
            allow_zero=plan.space.metric != "cosine",
        )  # fmt: skip
        steps = fit_steps(_mapped(sample, fitted), levels, plan.space.metric)
        plan = replace(plan, scales=steps)
    with replacing_folder(work, overwrite=False) as temporary:
        Index.create(temporary / _INDEX, plan.space, plan, fields=fields).close()
        (temporary / _STATE).write_text(state_of(belongs), "utf-8")


def _add(
    index: Index,
    source: _Source,
    fitted: Transform | None,
    *,
    fields: Mapping[str, type],
    start: int,
    batch: int,
    report: Progress,
    upsert: bool,
) -> None:
    """Add the rows of a source from `start` on, a commit for every batch."""
    rows, done = len(source.ids), start
    put = index.upsert if upsert else index.add
    values = islice(_values(source, fields), start, None)
    report("adding rows", start, rows)
    for part in source.parts(start, batch):
        ids = source.ids[done : done + len(part)]
        if fitted is not None:  # the index checks what comes out of it, and all others
            check_vectors(
                part, what="vectors", ids=ids, first_row=done,
                allow_zero=index.space.metric != "cosine",
            )  # fmt: skip
        own = list(islice(values, len(part))) if fields else []
        columns = {name: [row[place] for row in own] for place, name in enumerate(fields)}
        put(ids, _mapped(part, fitted), columns)
        done += len(part)
        report("adding rows", len(part), rows)


def _values(source: _Source, fields: Mapping[str, type]) -> Iterator[list[Any]]:
    """The fields of every row; None where a record has none."""
    if not fields:
        return
    untyped = source.path.suffix.lower() in _UNTYPED
    for where, record in _records(source, fields):
        values = [record.get(name) for name in fields]
        if untyped:
            values = [
                _typed(value, name, kind, where)
                for value, (name, kind) in zip(values, fields.items(), strict=True)
            ]
        yield values


def _records(source: _Source, names: Mapping[str, type]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of the rows, in their order: those of empty texts are no rows."""
    optional = [*names, *((source.column or "text", "title") if source.has_text else ())]
    for where, record in read_records(source.path, [], optional):
        if not source.has_text or text_of(record, source.column, where):
            yield where, record


def _typed(value: str | None, name: str, kind: type, where: str) -> Any:
    """A value of a file in which all are text; an empty one is none.

    Raises:
        InputError: it cannot be read as this type.
    """
    if not value:
        return None
    try:
        return _WORDS[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError):
        raise InputError(
            f"{where}: field {name!r}: expected {kind.__name__}, got {value!r}"
            + (" (true and false are known)" if kind is bool else ""),
            field=name,
        ) from None


def _fields_in(source: _Source, names: Mapping[str, type]) -> set[str]:
    """Which of these fields any record has."""
    suffix = source.path.suffix.lower()
    if not names or source.path.is_dir() or suffix not in (*RECORD_READERS, ".parquet"):
        return set()
    seen: set[str] = set()
    for _, record in read_records(source.path, [], list(names)):
        seen |= names.keys() & record.keys()
        if len(seen) == len(names):
            break
    return seen


def _require_fields(source: _Source, names: Mapping[str, type]) -> None:
    missing = sorted(names.keys() - _fields_in(source, names))
    if missing:
        raise InputError(
            f"{source.path}: expected records with the fields {', '.join(names)}, found none with "
            f"{shorten(missing)}",
            hint="fields are columns of .jsonl, .csv, .tsv and .parquet, by their names",
            fields=missing,
        )


def _encoder(model: str | Encoder, options: Mapping[str, Any] | None) -> Encoder:
    return encoder(model, **(options or {})) if isinstance(model, str) else model


def _encoder_of(plan: Plan) -> str | None:
    """The model that an index was built with, where it is known."""
    named = (plan.evidence or {}).get("encoder")
    return named if isinstance(named, str) else None


def _space_of(run: Plan | Funnel) -> Space | None:
    return run.space if isinstance(run, Plan) else None


def _loaded(transform: str | Path | Transform | None) -> Transform | None:
    return load_transform(transform) if isinstance(transform, (str, Path)) else transform


def _require_transform(named: str | None, fitted: Transform | None, what: str) -> None:
    """Refuse another transform than the one a plan names."""
    given = fitted.digest if fitted is not None else None
    if named != given:
        raise InputError(
            f"{what} is for vectors after {_said(named)}, got {_said(given)}",
            hint="give the file of the transform that the plan was made with"
            if named
            else "leave the transform out",
        )


def _said(digest: str | None) -> str:
    return f"the transform with digest {digest}" if digest else "no transform"


def _after(space: Space, fitted: Transform | None) -> Space:
    """The space after a transform that both sides go through."""
    if fitted is None:
        return space
    if fitted.digest in (space.query.map, space.document.map):
        raise InputError(
            f"these vectors have been through the transform with digest {fitted.digest} already",
            hint="give the vectors from before it, since queries have to go through it too",
        )

    def after(side: SideSpec) -> SideSpec:
        return replace(side, map=fitted.digest)

    width = fitted.transform(np.zeros((1, space.full_dim), np.float32)).shape[1]
    return replace(space, full_dim=width, query=after(space.query), document=after(space.document))


def _mapped(vectors: NDArray[np.floating], fitted: Transform | None) -> NDArray[Any]:
    return vectors if fitted is None else fitted.transform(vectors)


def _require_new(target: Path, work: Path, *, resume: bool) -> None:
    """Refuse, before anything is read, what would end in an error later."""
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist")
    if resume:
        return
    if target.exists():
        raise InputError(f"{target} exists already", hint="choose another name, or remove it")
    if work.exists():
        raise InputError(
            f"{work} holds an unfinished build",
            hint="go on with it (resume, --resume), or remove it",
            path=work,
        )


def _require_built(target: Path, work: Path, space: Space, rows: int) -> None:
    """Refuse to take another index for the result."""
    if (work / _INDEX).exists():
        raise InputError(f"{target} exists already, and the build in {work} has not ended")
    with Index.open(target, read_only=True) as found:
        if len(found) != rows or found.space != space:
            raise InputError(
                f"{target} exists already, and is not what this build would make: expected {rows} "
                f"rows of {space.describe()}, got {len(found)} of {found.space.describe()}",
                hint="choose another name, or remove it",
            )
