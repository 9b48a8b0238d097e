"""Vectors for `search.py` in .npy files that are memory-mapped, with their true neighbors."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import Side, Space
from matryo.encoders import EncodingCache, encode_texts, encoder

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Row = dict[str, Any]

K = 10
HELD_OUT = 2000  # queries; the first half is for choosing settings, the second for what is reported
_PART = 50_000  # rows made, multiplied or copied at once
_TIES = 32  # neighbors remembered at most
_ROUNDING = 1e-6  # scores closer than this are equal

_FEW = 200_000  # rows over which graphs are always built
_LATENT, _HIDDEN, _CLUSTERS = 32, 512, 3000


@dataclass(frozen=True)
class Corpus:
    """Vectors of length 1, queries that are not among them, and their neighbors.

    Attributes:
        name: In tables.
        origin: `real: ...` or `synthetic: ...`.
        path: The .npy file of `rows`.
        space: Where they come from.
        rows: `(n, full_dim)`, memory-mapped.
        queries: `(HELD_OUT, full_dim)`.
        neighbors: `(HELD_OUT, 32)` rows whose score reaches the tenth best, padded with -1.
    """

    name: str
    origin: str
    path: Path
    space: Space
    rows: Floats
    queries: Floats
    neighbors: Ids

    @property
    def full_dim(self) -> int:
        """Width of the vectors."""
        return int(self.rows.shape[1])


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        queries: For choosing settings, and as many others for what is reported.
        rounds: Turns that every engine takes.
        slice_seconds: Of single queries in a turn.
        batch_seconds: A batch has 1,000 queries, or what fits into these seconds.
        repeats: Of everything that is timed by itself.
        building: Threads that build.
        tries: Queries of a turn while the fastest setting is looked for.
        sampled: Rows that a code or a clustering is learned from, at most.
        targets: Recall that engines are tuned to.
        graphs: Build graphs over any number of rows.
    """

    queries: int = HELD_OUT // 2
    rounds: int = 20
    slice_seconds: float = 0.15
    batch_seconds: float = 4.0
    repeats: int = 20
    building: int = 2
    tries: int = 10
    sampled: int = 100_000
    targets: tuple[float, ...] = (0.95, 0.99, 0.999)
    graphs: bool = False

    def tuning(self) -> slice:
        """The queries that settings are chosen on."""
        return slice(0, self.queries)

    def reporting(self) -> slice:
        """The queries that figures are of."""
        return slice(HELD_OUT // 2, HELD_OUT // 2 + self.queries)

    def builds_graphs(self, corpus: Corpus) -> bool:
        """Whether graphs are built over these vectors."""
        return self.graphs or len(corpus.rows) <= _FEW


def glosses(path: Path) -> list[str]:
    """The definitions of WordNet's synsets."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["definition"] for row in rows]


def lines_of(path: Path) -> list[str]:
    """The lines of a file that are not empty."""
    return [line for line in path.read_text("utf-8").splitlines() if line.strip()]


def encoded(name: str, texts: Sequence[str], folder: Path, most: int | None = None) -> Corpus:
    """Distinct texts by the default model, in a random order; some are held out as queries.

    Args:
        name: What the texts are.
        texts: They may repeat.
        folder: Where vectors are kept.
        most: Rows at most.
    """
    distinct = list(dict.fromkeys(texts))[: None if most is None else most + HELD_OUT]
    model = encoder("default")
    digest = hashlib.sha256(model.space.fingerprint.encode())
    for text in distinct:
        digest.update(text.encode() + b"\n")

    def make(path: Path) -> Floats:
        with EncodingCache() as cache:
            made = encode_texts(model, distinct, side=Side.DOCUMENT, cache=cache, batch_size=8192)
        first = {row.tobytes(): place for place, row in reversed(list(enumerate(made)))}
        made = made[sorted(first.values())]
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        made = made[np.random.default_rng(0).permutation(len(made))]
        np.save(path, made[HELD_OUT:])
        return made[:HELD_OUT]

    origin = f"real: {name} encoded by {model.space.model}"
    return _kept(name, origin, model.space, folder / f"texts-{digest.hexdigest()[:16]}", make)


def synthetic(rows: int, folder: Path, dim: int = 768) -> Corpus:
    """Vectors with the spectrum of an embedding, by a fixed seed; fewer rows are the first of more.

    Points around cluster centers in 32 dimensions go through a random layer with tanh; noise and a
    mean are added, and the variance falls by a power law. Queries lie between two rows' distance.
    """
    rng = np.random.default_rng(0)
    into = (rng.standard_normal((_LATENT, _HIDDEN)) * 1.6 / _LATENT**0.5).astype(np.float32)
    out = (rng.standard_normal((_HIDDEN, dim)) / _HIDDEN**0.5).astype(np.float32)
    centers = rng.standard_normal((_CLUSTERS, _LATENT)).astype(np.float32)
    mean = (rng.standard_normal(dim) * 0.15).astype(np.float32)
    falling = ((np.arange(dim) + 8.0) ** -0.35).astype(np.float32)
    often = (np.arange(_CLUSTERS) + 10.0) ** -0.7

    def points(part: np.random.Generator, n: int) -> Floats:
        chosen = centers[part.choice(_CLUSTERS, n, p=often / often.sum())]
        return chosen + 0.45 * part.standard_normal((n, _LATENT), np.float32)

    def vectors(part: np.random.Generator, latent: Floats) -> Floats:
        made = np.tanh(latent @ into) @ out
        made += 0.25 * part.standard_normal(made.shape, np.float32)
        made = (made + mean) * falling
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def make(path: Path) -> Floats:
        written = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
        for number, start in enumerate(range(0, rows, _PART)):
            part = np.random.default_rng([1, number])
            latent = points(part, _PART)[: rows - start]
            written[start : start + _PART] = vectors(part, latent)
        written.flush()
        asking = np.random.default_rng(2)
        near = points(np.random.default_rng([1, 0]), _PART)[:rows]
        near = near[asking.choice(len(near), HELD_OUT, replace=False)]
        moved = near + 0.15 * asking.standard_normal(near.shape, np.float32)
        return vectors(asking, moved)

    origin = f"synthetic: {_CLUSTERS} clusters in {_LATENT} latent dimensions, power-law variance"
    space = Space("synthetic", dim)
    return _kept(f"synthetic {rows:,} x {dim}", origin, space, folder / f"synthetic-{rows}", make)


def top(rows: Floats, queries: Floats, k: int) -> tuple[Ids, Floats]:
    """The best `k` rows of each query by their inner product, best first, with the scores.

    Both are read in parts, so that the scores of a part fit in memory.
    """
    found = np.empty((len(queries), k), np.int64)
    best = np.empty((len(queries), k), np.float32)
    for first in range(0, len(queries), 200):
        asked = queries[first : first + 200]
        ids, scores = np.empty((len(asked), 0), np.int64), np.empty((len(asked), 0), np.float32)
        for start in range(0, len(rows), _PART):
            part = asked @ rows[start : start + _PART].T
            kept = min(k, part.shape[1])
            near = np.argpartition(part, part.shape[1] - kept, axis=1)[:, -kept:]
            ids = np.hstack([ids, near + start])
            scores = np.hstack([scores, np.take_along_axis(part, near, 1)])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found[first : first + 200] = np.take_along_axis(ids, order, 1)
        best[first : first + 200] = np.take_along_axis(scores, order, 1)
    return found, best


def recall(found: Ids, neighbors: Ids) -> float:
    """The share of the ten true neighbors that was found; any row of an equal score counts."""
    hits = (found[:, :K, None] == neighbors[:, None, :]) & (found[:, :K, None] >= 0)
    return float(np.minimum(hits.any(axis=2).sum(axis=1), K).mean() / K)


def _kept(
    name: str, origin: str, space: Space, stem: Path, make: Callable[[Path], Floats]
) -> Corpus:
    """A corpus whose files are made where they are missing; `make` writes rows, returns queries."""
    vectors = stem.with_name(f"{stem.name}-rows.npy")
    asked = stem.with_name(f"{stem.name}-queries.npy")
    truth = stem.with_name(f"{stem.name}-neighbors.npy")
    stem.parent.mkdir(parents=True, exist_ok=True)
    if not asked.is_file():  # written last
        np.save(asked, make(vectors))
    rows: Any = np.load(vectors, mmap_mode="r")
    queries = np.load(asked)
    if not truth.is_file():
        ids, scores = top(rows, queries, _TIES)
        np.save(truth, np.where(scores >= scores[:, K - 1 : K] - _ROUNDING, ids, -1))
    return Corpus(name, origin, vectors, space, rows, queries, np.load(truth))
