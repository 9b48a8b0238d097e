"""Fit a map for vectors that were never nested: one half of what is known teaches, one half judges.

Nothing that taught is asked again. Queries, labelled items and pairs are dealt out by a seed; where
there are none of them, some documents are taken out of the lesson and asked as queries.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.adaptation import METHODS, Choice, NestedMap, choose_map
from matryo.core import (
    DIGEST_LENGTH,
    Encoder,
    InputError,
    Nesting,
    SideSpec,
    Space,
    canonical,
    write_atomically,
)
from matryo.encoders import EncodingCache
from matryo.jobs.lessons import Ask, Known, deal_out, further_trials, read_taught
from matryo.jobs.opening import Opening, Progress
from matryo.jobs.sources import Source, open_source
from matryo.readers import Vectors

ADAPTING_FORMAT = 1


@dataclass(frozen=True)
class Adapted:
    """What came of a run.

    Attributes:
        document: Everything that was found, as plain values.
        map: The best map, whether recommended or not.
        recommended: Whether it is shown to be better than leaving the vectors alone.
        taught: Ids of what taught, of the queries for instance; `save_taught` keeps them.
    """

    document: dict[str, Any]
    map: NestedMap
    recommended: bool
    taught: list[str] = field(repr=False)

    def save_taught(self, path: str | Path) -> None:
        """Write the ids of what taught as one JSON array, so that nobody measures on them."""
        write_atomically(path, json.dumps(self.taught, ensure_ascii=False) + "\n")


def adapt(
    data: str | Path | NDArray[np.floating] | Source,
    *,
    queries: str | Path | NDArray[np.floating] | Vectors | None = None,
    qrels: str | Path | None = None,
    labels: str | Path | None = None,
    pairs: str | Path | None = None,
    second: Iterable[str | Path | Source] = (),
    methods: str = "auto",
    dims: str | Iterable[int] | None = None,
    weights: Sequence[float] | None = None,
    k: int = 10,
    confidence: float = 0.95,
    taught: str | Path | Sequence[str] | None = None,
    model: str | Encoder = "default",
    model_options: Mapping[str, Any] | None = None,
    pre_step: str | None = None,
    synthetic: bool = False,
    split: str | None = None,
    column: str | None = None,
    id_column: str | None = None,
    array: str | None = None,
    query_array: str | None = None,
    cache: EncodingCache | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Adapted:
    """Fit maps on one half of what is known, and choose one, or none, on the other half.

    Half of the queries teach (with their relevant documents where there are judgments) and half are
    asked. Labelled items: half teach, a quarter votes, a quarter is classified; where a data set
    has a test part, it is left for measuring. Scored pairs: half teach, half judge. Without any of
    these, up to 2,000 documents, at most a fifth, are asked as queries and teach nothing.

    Args:
        data: As for `measure`: a file of vectors or texts, or a benchmark folder.
        queries: Queries for a file of vectors or texts.
        qrels: Judgments for `queries`; a benchmark folder brings its own.
        labels: File with the columns `id` and `label`, for a file of vectors or texts.
        pairs: File with the columns `id1`, `id2` and `score`, for the same.
        second: Further data, of another task or domain, that the best map is tried on.
        methods: `"auto"`, or names with commas between them; see `matryo.adaptation`.
        dims: Sizes below the full width; by default powers of two from 16.
        weights: What each size weighs when maps are compared; 1 by default.
        k: Rows of an answer.
        confidence: With which all intervals of one table hold together.
        taught: Ids of what may teach, or their file as `Adapted.save_taught` writes it; everything
            else judges. By default a half that is drawn.
        model: Name of an encoder for texts, or an encoder.
        model_options: Options of the encoder.
        pre_step: Step on whole vectors before the cut, for vectors from files that do not say.
        synthetic: Declare that these data were made up.
        split: Split of a benchmark folder, by default `test`.
        column: Column of the texts or vectors.
        id_column: Column of the ids.
        array: Name of the array in a file that holds several.
        query_array: The same for the file of queries.
        cache: Where encodings are kept; by default nowhere.
        seed: Seed of every random choice.
        progress: Called with a stage's name, the number done since the last call, and the total.

    Raises:
        TooFewError: so little data that nothing could be shown.
        DimError: sizes that do not fit, or queries of another width.
        SpaceMismatchError: data of two spaces.
        VectorError: NaN, infinity, or rows of zeros; `ids` names them.
        UnknownNameError: no such method.
        InputError: data or options that do not fit, with what to do.
    """
    started = time.perf_counter()
    opening = Opening(
        model,
        model_options or {},
        cache,
        progress or (lambda *_: None),
        pre_step=pre_step,
        n_queries=1,
        seed=seed,
    )
    source = open_source(data, split=split, column=column, id_column=id_column, array=array)
    ask = Ask(opening, k, read_taught(taught), methods, seed)
    known = deal_out(
        ask,
        source,
        queries=queries,
        qrels=qrels,
        labels=labels,
        pairs=pairs,
        query_array=query_array,
    )
    width = known.lesson.documents.shape[1]
    space = _space(opening, pre_step, width)
    if space.metric != "cosine":
        raise InputError(
            f"maps are fitted and judged by the cosine, vectors of {space.describe()} are scored "
            f"by {space.metric}",
            hint="scale them to length 1, and give them as vectors of a space scored by cosine",
        )
    nesting = Nesting.halving(width) if dims is None else Nesting.parse(dims, full_dim=width)
    facts = _facts(known.lesson.documents)
    elsewhere = further_trials(ask, second, width)
    fitting = time.perf_counter()
    choice = choose_map(
        known.lesson,
        known.trial,
        tuple(nesting),
        space,
        methods=methods,
        weights=weights,
        elsewhere=elsewhere,
        confidence=confidence,
        seed=seed,
        progress=lambda name: opening.progress(f"fitting {name}", 1, 1),
    )
    n_judged = known.trial.n_items
    parts = {
        "what": known.what,
        "taught": len(known.taught),
        "chose": n_judged // 2,
        "judged": n_judged - n_judged // 2,
        "documents": len(known.lesson.documents),
        "searched": known.n_searched,
        "digest": _digest(known.taught),
    }
    made = replace(choice.map, notes={**choice.map.notes, "data": source.name, "split": parts})
    document = {
        "format": ADAPTING_FORMAT,
        "kind": "adapt",
        "matryo": version("matryo"),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": {
            "name": source.name,
            "task": known.task,
            "origin": "synthetic" if synthetic else "sample" if known.drawn else "real",
            "documents": known.n_documents,
            "queries": known.n_queries,
            "left_out": opening.left_out,
        },
        "space": space.to_dict(),
        "fingerprint": space.fingerprint,
        "trained_dims": list(opening.trained) if opening.trained else None,
        "settings": {
            "dims": list(made.dims),
            "weights": None if weights is None else list(weights),
            "methods": methods,
            "k": k,
            "confidence": confidence,
            "metric": space.metric,
            "seed": seed,
        },
        "verdict": {
            "headline": choice.headline,
            "recommended": choice.recommended,
            "sentences": [*_sentences(choice, known, opening.trained), *facts],
        },
        "measure": known.trial.measure,
        "split": parts,
        "methods": _methods(choice),
        "results": [{**row, "trained": _trained(row, opening.trained)} for row in choice.rows],
        "elsewhere": choice.elsewhere,
        "map": {"method": choice.best, "makes": made.makes.fingerprint},
        "how": known.how,
        "seconds": {
            "encode": round(opening.seconds, 3),
            "fit and try": round(time.perf_counter() - fitting, 3),
            "all": round(time.perf_counter() - started, 3),
        },
    }
    return Adapted(document, made, choice.recommended, known.taught)


def _space(opening: Opening, pre_step: str | None, width: int) -> Space:
    if opening.space is not None:
        return opening.space
    side = SideSpec(pre_step=pre_step)
    return Space("vectors of an unnamed model", width, query=side, document=side)


def _facts(documents: NDArray[np.float32]) -> list[str]:
    """What is odd about the documents that taught.

    Raises:
        InputError: they are all equal.
    """
    n, width = documents.shape
    varied = np.flatnonzero(np.ptp(documents, axis=0) > 0)
    constant = width - len(varied)
    if constant == width:
        raise InputError(f"the {n:,} documents that teach are all equal: nothing can be learned")
    said = []
    if n < width:
        said.append(
            f"Only {n:,} documents taught, fewer than the {width} numbers of a vector: a rotation "
            "was completed by directions that none of them has, and learned maps may know them by "
            f"heart. At least {width:,} are needed, a few times as many are good."
        )
    else:
        rank = _rank(documents[:: max(1, n // (4 * width))])  # enough to show that nothing is empty
        rank = rank if rank == width else _rank(documents)
        if rank < width:
            said.append(
                f"The documents fill {rank} directions of {width}: a rotation to {rank} numbers "
                "keeps everything."
            )
    if constant:
        said.append(f"{constant} of {width} dims are the same in every document.")
    repeated = len(varied) - len({documents[:, i].tobytes() for i in varied})
    if repeated:
        said.append(f"{repeated} of {width} dims repeat another dim, number for number.")
    return said


def _rank(documents: NDArray[np.float32]) -> int:
    """Directions with more than a 1e-10th of the largest mean square: float32 rounds 1e-14ths."""
    wide = documents.astype(np.float64)
    spectrum = np.linalg.eigvalsh(wide.T @ wide)
    return int((spectrum > 1e-10 * spectrum[-1]).sum())


def _sentences(choice: Choice, known: Known, trained: Sequence[int] | None) -> list[str]:
    """What there is to know beside the headline."""
    said = []
    full = [row for row in choice.rows if row["method"] == choice.best][-1]
    lossless = METHODS[choice.best].lossless
    if lossless:
        said.append(f"{choice.best} changes no score at full width.")
    else:
        said.append(
            f"{choice.best} changes scores at full width too: {full['difference']:+.3f} there "
            f"({full['low']:+.3f} to {full['high']:+.3f})."
        )
    if known.task == "fidelity":
        said.append(
            "Only fidelity was judged, agreement with the full width. Relevance and graded "
            "similarity may get worse: try a map on them before you use it (--second)."
        )
    for name in dict.fromkeys(row["trial"] for row in choice.elsewhere):
        rows = [
            row
            for row in choice.elsewhere
            if (row["trial"], row["method"]) == (name, choice.best)
            # at full width a lossless map differs by rounding only
            and not (lossless and row["dim"] == full["dim"])
        ]
        parts = [
            f"{word} at {', '.join(map(str, dims))}"
            for word, dims in (
                ("better", [row["dim"] for row in rows if row["low"] > 0]),
                ("worse", [row["dim"] for row in rows if row["high"] < 0]),
            )
            if dims
        ]
        told = f"is {'; '.join(parts)}" if parts else "makes no difference that is shown"
        said.append(f"On {name} ({rows[0]['measure']}) {choice.best} {told}.")
    small = [dim for dim in dict.fromkeys(r["dim"] for r in choice.rows) if _below(dim, trained)]
    if small and trained:
        said.append(
            f"The model was not trained below {min(trained)} numbers: plain cuts to "
            f"{', '.join(map(str, small))} are beyond what it was made for."
        )
    said += [f"{name} was left out: {why}" for name, why in choice.failed.items()]
    return said


def _methods(choice: Choice) -> list[dict[str, Any]]:
    """One row for each method: what it is, and the mean over the sizes."""
    about = {"cut": ("the first numbers", True), "random": ("numbers drawn at random", True)}
    about |= {name: (METHODS[name].what, METHODS[name].lossless) for name in choice.seconds}
    return [
        {
            "name": name,
            "what": about[name][0],
            "lossless": about[name][1],
            "chosen": name == choice.chosen,
            "best": name == choice.best,
            "seconds": round(choice.seconds[name], 3) if name in choice.seconds else None,
            **figures,
        }
        for name, figures in choice.overall.items()
    ]


def _trained(row: Mapping[str, Any], trained: Sequence[int] | None) -> bool | None:
    return None if trained is None else not _below(row["dim"], trained)


def _below(dim: int, trained: Sequence[int] | None) -> bool:
    return trained is not None and dim < min(trained)


def _digest(taught: Sequence[str]) -> str:
    return hashlib.sha256(canonical(sorted(taught))).hexdigest()[:DIGEST_LENGTH]
