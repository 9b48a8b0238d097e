"""What maps of frozen vectors gain over plain cutting, and over a rotation, which costs nothing.

python benchmarks/adapt.py [--quick] [--part PART ...] [--model MODEL ...] [--data FOLDER]
    [--cifar FEATURES.npz] [--folds N] [--rows N] --json out.json

Parts: `search` (nDCG@10 of real data sets: cutting, a rotation, and orthogonal maps learned from
documents alone, from queries too, in two ways, and from relevant documents too), `pairs` (graded
pairs, with two tasks of other domains beside them), `images` (features that were never nested),
`labels` (intents), `regret` (the map that is chosen beside the best one in hindsight), `sparse`
(the codes of a sparse autoencoder beside prefixes of the same bytes) and `speed` (fitting and
applying a rotation beside the bare products).

No figure is of an item that a map was fitted on. Queries are dealt into parts, two by default, by
the last byte of the SHA-256 of `set name:query id` modulo their number; a map that learns from
queries is measured on each part after learning from the others. Intervals are of paired
differences, and where data sets are pooled each of them counts alike. The real data lie in FOLDER,
by default `../shared/data`; without it, and with `--quick`, the demo's WordNet entries are the only
set. Runs in one thread.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import os
import platform
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from threadpoolctl import threadpool_limits
from torch.nn import functional

from matryo.adaptation.lesson import Lesson
from matryo.adaptation.methods import METHODS, Both
from matryo.adaptation.trials import LabelsTrial, PairsTrial, SearchTrial, Trial
from matryo.core import MissingExtraError, Nesting, Precision, Side
from matryo.encoders import EncodingCache, encode_texts, encoder
from matryo.evaluation import fit_sample, fit_steps, relevance, trec_order
from matryo.jobs import demo_data
from matryo.readers import LabelledData, LabelledVectors, PairsData, RetrievalData, open_dataset
from matryo.search import Level, View, scan
from matryo.training.maps import learn_map
from matryo.transforms import Rotation

Floats = NDArray[np.floating[Any]]
Row = dict[str, Any]
SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
PARTS = ("search", "pairs", "images", "labels", "regret", "sparse", "speed")
MODELS = ("minilm", "default")
DIMS = (16, 32, 64, 128)
CONFIDENCE = 0.95
Z = float(stats.norm.isf((1 - CONFIDENCE) / 2))
GAINS = ("gain_points", "gain_low", "gain_high", "gap_points")
WAYS = {
    "documents": "orthogonal-neighbors",
    "queries": "orthogonal-queries",
    "answers": "orthogonal-answers",
    "relevance": "orthogonal-relevance",
}


@dataclass(frozen=True)
class Set:
    """Vectors of a data set with judgments.

    Attributes:
        name: Of the data set and the model.
        documents: `(n, full_dim)`.
        queries: `(q, full_dim)`, each with at least one relevant document.
        document_ids: `(n,)` names.
        query_ids: `(q,)` names.
        qrels: Judgments by name.
        fits: Maps that were fitted on the documents alone, by method.
        seconds: CPU seconds of the last fit of every method.
    """

    name: str
    documents: Floats
    queries: Floats
    document_ids: Sequence[str]
    query_ids: Sequence[str]
    qrels: Mapping[str, Mapping[str, int]]

    fits: dict[str, Both] = field(default_factory=dict, repr=False)
    seconds: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def full_dim(self) -> int:
        """Width of the vectors."""
        return self.documents.shape[1]

    def fitted(self, method: str, lesson: Lesson | None = None) -> Both:
        """A map for all sizes by a lesson, or by the documents alone, which is fitted once."""
        if lesson is None and method in self.fits:
            return self.fits[method]
        started = time.process_time()
        made = METHODS[method].fit(lesson or Lesson(self.documents), (*DIMS, self.full_dim), 0)
        self.seconds[method] = time.process_time() - started
        if lesson is None:
            self.fits[method] = made
        return made

    def fold(self, folds: int) -> NDArray[np.int64]:
        """`(q,)` the part of each query."""
        name = self.name.partition(",")[0]
        made = [hashlib.sha256(f"{name}:{one}".encode()).digest() for one in self.query_ids]
        return np.array([digest[-1] % folds for digest in made])

    def relevant(self, rows: NDArray[np.integer]) -> list[NDArray[np.int64]]:
        """For each of some queries the rows of the documents that answer it."""
        place = {name: i for i, name in enumerate(self.document_ids)}
        return [
            np.array([place[d] for d, s in self.qrels[self.query_ids[i]].items() if s > 0])
            for i in rows
        ]

    def trial(self, rows: NDArray[np.integer] | None = None) -> SearchTrial:
        """nDCG@10 of some queries, or of all."""
        rows = np.arange(len(self.queries)) if rows is None else rows
        ids = [self.query_ids[i] for i in rows]
        return SearchTrial(self.queries[rows], self.documents, (ids, self.document_ids, self.qrels))


class Vectors:
    """Texts to vectors of length 1, by a model and the cache of encodings."""

    def __init__(self, model: str, cache: EncodingCache) -> None:
        self.model, self._encoder, self._cache = model, encoder(model), cache

    def __call__(self, texts: Sequence[str], side: Side = Side.DOCUMENT) -> Floats:
        """`(texts, full_dim)`."""
        made = encode_texts(self._encoder, texts, side=side, cache=self._cache)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def set(self, data: RetrievalData, *, documents: int = -1, queries: int = -1) -> Set:
        """Vectors of a data set, or of the first of its documents and queries."""
        d, q = data.documents, data.queries
        n, m = len(d.ids) if documents < 0 else documents, len(q.ids) if queries < 0 else queries
        known = {str(i) for i in d.ids[:n]}
        kept = [i for i in range(m) if known & data.qrels[str(q.ids[i])].keys()]
        ids = [str(q.ids[i]) for i in kept]
        return Set(
            f"{data.name}, {self.model}",
            self(d.texts[:n]),
            self([q.texts[i] for i in kept], Side.QUERY),
            [str(i) for i in d.ids[:n]],
            ids,
            {i: {d: s for d, s in data.qrels[i].items() if d in known} for i in ids},
        )


def search_sets(vectors: Vectors, folder: Path | None) -> Iterator[Set]:
    """The data sets with judgments."""
    if folder is None:
        yield vectors.set(demo_data(), documents=400, queries=300)
        return
    for name in ("cranfield", "npl", "pubmedqa"):
        data = open_dataset(folder / name)
        assert isinstance(data, RetrievalData)
        yield vectors.set(data)
    yield wordnet(vectors, folder / "wordnet" / "glosses.tsv.gz")


def wordnet(vectors: Vectors, path: Path, n_documents: int = 30_000, n_queries: int = 2000) -> Set:
    """Words with their definition, asked for by example sentences of theirs."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    examples = [(text, i) for i, row in enumerate(rows) for text in row["examples"].split("|")]
    examples = [(text, i) for text, i in examples if text.strip()]
    pool = np.sort(np.random.default_rng(0).choice(len(examples), 20_000, replace=False))
    rng = np.random.default_rng(1)
    asked = pool[rng.choice(len(pool), n_queries, replace=False)]
    wanted = np.unique([examples[i][1] for i in asked])
    others = np.setdiff1d(np.arange(len(rows)), wanted)
    more = rng.choice(others, n_documents - len(wanted), replace=False)
    kept = np.sort(np.concatenate([wanted, more]))
    texts = [f"{rows[i]['lemmas'].replace('|', ', ')}: {rows[i]['definition']}" for i in kept]
    return Set(
        f"wordnet, {vectors.model}",
        vectors(texts),
        vectors([examples[i][0] for i in asked], Side.QUERY),
        [str(i) for i in kept],
        [f"q{i}" for i in asked],
        {f"q{i}": {str(examples[i][1]): 1} for i in asked},
    )


def search(some: Set, folds: int) -> dict[str, Floats]:
    """nDCG@10 `(queries, sizes)` by method, every query by maps that were not fitted on it."""
    dims, whole, fold = (*DIMS, some.full_dim), some.trial(), some.fold(folds)
    made = {"cut": whole.figures(None, dims)}
    for name in ("rotation", WAYS["documents"]):
        made[name] = whole.figures(some.fitted(name), dims)
    for way in ("queries", "answers", "relevance"):
        name = WAYS[way]
        made[name] = np.empty_like(made["cut"])
        for part in range(folds):
            known, held = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
            relevant = some.relevant(known) if way == "relevance" else None
            both = some.fitted(name, Lesson(some.documents, some.queries[known], relevant))
            made[name][held] = some.trial(held).figures(both, dims)
    return made


def closed(found: Sequence[Mapping[str, Floats]], method: str, at: int) -> Row:
    """What a method gains on a rotation at a size, in points and of what the rotation lacks.

    The gain is the mean over sets of the mean over queries; its standard error adds up from those
    of the sets. The share is a ratio of two such means, and its interval is that of gain - share ·
    gap, divided by the gap (delta method).
    """
    gains = [100 * (one[method][:, at] - one["rotation"][:, at]) for one in found]
    gaps = [100 * (one["rotation"][:, -1] - one["rotation"][:, at]) for one in found]
    gain, gap = (float(np.mean([each.mean() for each in some])) for some in (gains, gaps))

    def error(parts: Sequence[Floats]) -> float:
        return float(np.sqrt(sum(one.var(ddof=1) / len(one) for one in parts)) / len(parts))

    share = gain / gap
    off = error([g - share * lack for g, lack in zip(gains, gaps, strict=True)]) / gap
    return {
        "gain_points": gain,
        "gain_low": gain - Z * error(gains),
        "gain_high": gain + Z * error(gains),
        "gap_points": gap,
        "share_closed": share,
        "share_low": share - Z * off,
        "share_high": share + Z * off,
    }


def search_rows(sets: Sequence[Set], folds: int) -> Iterator[Row]:
    """Every set by itself, then pooled by model."""
    by_model: dict[str, list[dict[str, Floats]]] = {}
    for some in sets:
        found = search(some, folds)
        by_model.setdefault(some.name.partition(", ")[2], []).append(found)
        for method, figures in found.items():
            for at, dim in enumerate((*DIMS, some.full_dim)):
                row: Row = {
                    "part": "search",
                    "table": f"{some.name}, {len(some.queries)} queries, nDCG@10 %",
                    "method": method,
                    "dim": dim,
                    "value": 100 * float(figures[:, at].mean()),
                    "fit_cpu_seconds": some.seconds.get(method),
                }
                if method in WAYS.values() and dim in DIMS:
                    gained = closed([found], method, at)
                    row |= {name: gained[name] for name in GAINS}
                yield row
    every = [one for found in by_model.values() for one in found]
    pools = by_model if len(by_model) == 1 else by_model | {"both models": every}
    for model, pooled in pools.items():
        for method in WAYS.values():
            for at, dim in enumerate(DIMS):
                share = closed(pooled, method, at)
                yield {
                    "part": "search",
                    "table": f"all sets, {model}: share of what a rotation lacks, %",
                    "method": method,
                    "dim": dim,
                    "value": 100 * share["share_closed"],
                    **share,
                }


def rotated(matrix: Floats, documents: Floats) -> Both:
    """An orthogonal matrix as the map of both sides."""
    wide = matrix.astype(np.float64)
    lengths = np.square(documents @ wide).mean(0)
    made = Rotation.of(wide, spectrum=lengths, n_samples_seen=len(documents))
    return made, made


def table(
    part: str, name: str, trial: Trial, maps: Mapping[str, Both | None], dims: Sequence[int]
) -> Iterator[Row]:
    """A row for each method and size, with paired differences from plain cutting."""
    items, one = np.arange(trial.n_items), np.ones(1)
    cut = trial.figures(None, dims)
    for method, both in maps.items():
        figures = cut if both is None else trial.figures(both, dims)
        for at, dim in enumerate(dims):
            row: Row = {"part": part, "table": name, "method": method, "dim": dim}
            row["value"] = 100 * float(trial.means(figures[:, [at]], items)[0])
            if both is not None:
                low, high = trial.difference(
                    figures[:, [at]], cut[:, [at]], one, items, confidence=CONFIDENCE
                )
                gain = row["value"] - 100 * float(trial.means(cut[:, [at]], items)[0])
                row |= {"gain_points": gain, "gain_low": 100 * low, "gain_high": 100 * high}
            yield row


def learn_pairs(known: PairsTrial, dev: PairsTrial, dims: Sequence[int]) -> dict[str, Both]:
    """Orthogonal maps by graded pairs, after as many steps as dev pairs like best.

    Each of three seeds draws pairs of its own, since which pairs teach matters most.
    """
    draws = [np.random.default_rng(seed).permutation(known.n_items)[:3000] for seed in range(3)]
    best: tuple[float, dict[str, Both]] = -1.0, {}
    for steps in (10, 20, 30, 60, 100):
        made = {
            f"graded pairs, {steps} steps, seed {seed}": rotated(
                learn_map(
                    known.left[rows],
                    dims,
                    pairs=(known.left[rows], known.right[rows], known.grades[rows]),
                    learning_rate=1e-2,
                    steps=steps,
                    batch=512,
                    seed=seed,
                ).arrays["matrix"],
                known.left[rows],
            )
            for seed, rows in enumerate(draws)
        }
        scores = [
            dev.means(dev.figures(both, dims), np.arange(dev.n_items)) for both in made.values()
        ]
        best = max(best, (float(np.mean(scores)), made), key=lambda one: one[0])
    return best[1]


def pairs_rows(vectors: Vectors, folder: Path) -> Iterator[Row]:
    """Graded pairs of sentences, and what becomes of two other tasks."""
    parts = {}
    for name in ("train", "dev", "test"):
        data = open_dataset(folder / "stsb" / f"{name}.tsv")
        assert isinstance(data, PairsData)
        left, right = vectors(list(data.first)), vectors(list(data.second))
        parts[name] = PairsTrial(left, right, np.asarray(data.scores))
    train, dev, test = parts["train"], parts["dev"], parts["test"]
    documents = np.unique(np.concatenate([train.left, train.right]), axis=0)
    full_dim = documents.shape[1]
    dims = [dim for dim in (16, 32, 64, 128, 256) if dim < full_dim] + [full_dim]
    lesson = Lesson(documents)
    maps: dict[str, Both | None] = {
        "cut": None,
        "rotation": METHODS["rotation"].fit(lesson, tuple(dims), 0),
        "orthogonal-neighbors": METHODS["orthogonal-neighbors"].fit(lesson, tuple(dims), 0),
    }
    maps |= learn_pairs(train, dev, dims)
    yield from table("pairs", f"STS-B test, {vectors.model}, Spearman %", test, maps, dims)
    pubmedqa = open_dataset(folder / "pubmedqa")
    assert isinstance(pubmedqa, RetrievalData)
    name = f"out of domain: PubMedQA, {vectors.model}, nDCG@10 %"
    yield from table("pairs", name, vectors.set(pubmedqa).trial(), maps, dims)
    banking = Intents(vectors, folder)
    name = f"out of domain: Banking77, {vectors.model}, accuracy %"
    yield from table("pairs", name, banking.trial(), maps, dims)


class Intents:
    """Banking77: vectors of training and test texts, and their classes."""

    def __init__(self, vectors: Vectors, folder: Path) -> None:
        data = open_dataset(folder / "banking77")
        assert isinstance(data, LabelledData)
        self.train, self.test = vectors(data.train.texts), vectors(data.test.texts)
        codes = {name: i for i, name in enumerate(sorted(set(data.train_labels)))}
        self.labels = np.array([codes[label] for label in data.train_labels])
        self.truth = np.array([codes[label] for label in data.test_labels])
        deal = np.random.default_rng(0).permutation(len(self.train))
        self.taught, self.voting = np.split(deal, [len(deal) // 2])

    def trial(self) -> LabelsTrial:
        """Test texts by the votes of the half of the training texts that nothing is taught by."""
        known = self.train[self.voting], self.labels[self.voting]
        return LabelsTrial(*known, self.test, self.truth)


def labels_rows(vectors: Vectors, folder: Path) -> Iterator[Row]:
    """Intents, by maps that learn from the labels of half the training texts."""
    banking = Intents(vectors, folder)
    trial = banking.trial()
    dims = (*DIMS, banking.train.shape[1])
    lesson = Lesson(banking.train[banking.taught], labels=banking.labels[banking.taught])
    maps: dict[str, Both | None] = {"cut": None}
    for name in ("rotation", "orthogonal-neighbors", "orthogonal-labels", "linear-labels"):
        maps[name] = METHODS[name].fit(lesson, dims, 0)
    yield from table("labels", f"Banking77, {vectors.model}, accuracy %", trial, maps, dims)


def image_rows(path: Path) -> Iterator[Row]:
    """Features of photos, pooled channels in no order at all."""
    arrays = open_dataset(path)
    assert isinstance(arrays, LabelledVectors)
    codes = {name: i for i, name in enumerate(sorted(set(arrays.train_labels.tolist())))}
    known, asked = (
        np.array([codes[n] for n in names.tolist()])
        for names in (arrays.train_labels, arrays.test_labels)
    )
    train, test = (
        v / np.linalg.norm(v, axis=1, keepdims=True) for v in (arrays.train, arrays.test)
    )
    dims = (16, 32, 64, 128, 256, 512, train.shape[1])
    trial = LabelsTrial(train, known, test, asked)
    maps: dict[str, Both | None] = {"cut": None}
    for name in ("rotation", "orthogonal-neighbors", "orthogonal-labels"):
        lesson = Lesson(train, labels=known if name == "orthogonal-labels" else None)
        maps[name] = METHODS[name].fit(lesson, dims, 0)
    name = "CIFAR-10 features, accuracy %"
    yield from table("images", name, trial, maps, dims)
    mean = train.mean(0)
    centred = LabelsTrial(train - mean, known, test - mean, asked)
    turned = METHODS["rotation"].fit(Lesson(train - mean), dims, 0)
    for row in table("images", name, centred, {"centred PCA": turned}, dims):
        # its cosines are others, so that plain cutting of them is no measure
        yield {key: row[key] for key in ("part", "table", "method", "dim", "value")}


def regret_rows(sets: Sequence[Set], deals: int) -> Iterator[Row]:
    """What choosing on some queries loses on others, beside the best method in hindsight.

    Queries are dealt into thirds as `choose_map` deals halves: one third chooses the highest mean
    over the sizes; the next judges it against plain cutting, and where it is not shown to be better
    the advice is to cut; the last one tells what both lost beside the method that is best on
    average over all sizes and all queries.
    """
    names = ["rotation", "reorder", "orthogonal-neighbors", "linear-neighbors"]
    for some in sets:
        whole = some.trial()
        figures = {"cut": whole.figures(None, DIMS)}
        for name in names:
            figures[name] = whole.figures(some.fitted(name), DIMS)
        means = {name: each.mean(1) for name, each in figures.items()}
        best = max(means, key=lambda name: float(means[name].mean()))
        lost: dict[str, list[Floats]] = {"chosen": [], "advised": []}
        for seed in range(deals):
            deal = np.random.default_rng(seed).permutation(whole.n_items)
            choosing, judging, reporting = np.array_split(deal, 3)
            chosen = max(means, key=lambda name: float(means[name][choosing].mean()))
            shares = np.full(len(DIMS), 1 / len(DIMS))
            low, _ = whole.difference(
                figures[chosen], figures["cut"], shares, judging, confidence=CONFIDENCE
            )
            for kind, taken in (("chosen", chosen), ("advised", chosen if low > 0 else "cut")):
                gaps = figures[best][reporting] - figures[taken][reporting]
                lost[kind].append(100 * gaps.mean(0))
        for kind, each in lost.items():
            for at, dim in enumerate(DIMS):
                values = np.array(each)[:, at]
                yield {
                    "part": "regret",
                    "table": f"{some.name}: points of nDCG@10 below {best}",
                    "method": kind,
                    "dim": dim,
                    "value": float(values.mean()),
                    "upper_95_percent": float(np.quantile(values, 0.95)),
                    "deals": deals,
                }


class SparseCodes(torch.nn.Module):
    """A tied autoencoder whose codes have k numbers that are not 0.

    h = top-k of relu(W (x - b) + c), x' = Wᵀ h + b, learned by |x - x'|² with k and an eighth of it
    with 4k numbers (Wen and others 2025, "Beyond Matryoshka: revisiting sparse coding for adaptive
    representation"; without its term for labels, and without the one for units that never fire).
    """

    def __init__(self, vectors: torch.Tensor, width: int) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(0)
        # not rows of the corpus: units that are documents would remember what is to be searched
        start = torch.randn(width, vectors.shape[1], generator=made)
        self.b = torch.nn.Parameter(vectors.mean(0))
        self.w = torch.nn.Parameter(functional.normalize(start))
        self.c = torch.nn.Parameter(torch.zeros(width))

    def codes(self, vectors: torch.Tensor, k: int) -> torch.Tensor:
        """`(n, width)` with at most k numbers above 0 in each row."""
        whole = torch.relu((vectors - self.b) @ self.w.T + self.c)
        values, places = whole.topk(k, 1)
        return torch.zeros_like(whole).scatter(1, places, values)

    def learn(self, vectors: torch.Tensor, k: int, steps: int, batch: int = 512) -> None:
        """By Adam on random rows."""
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        made = torch.Generator().manual_seed(0)
        for _ in range(steps):
            rows = vectors[torch.randperm(len(vectors), generator=made)[:batch]]
            loss = torch.zeros(())
            for count, weight in ((k, 1.0), (4 * k, 1 / 8)):
                again = self.codes(rows, count) @ self.w + self.b
                loss = loss + weight * (rows - again).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def sparse_rows(some: Set, *, steps: int, width: int = 1024) -> Iterator[Row]:
    """Codes with k numbers and their places, beside prefixes of as many bytes."""
    title = f"{some.name}, nDCG@10 % by bytes a document"
    place_bits = int(np.ceil(np.log2(width)))

    def row(method: str, count: int, size: float, value: float) -> Row:
        return {
            "part": "sparse",
            "table": title,
            "method": method,
            "dim": count,
            "bytes": size,
            "value": 100 * value,
        }

    documents, queries = (
        torch.from_numpy(v.astype(np.float32)) for v in (some.documents, some.queries)
    )
    judged = (some.query_ids, some.document_ids, some.qrels)
    for k in (8, 16, 32):
        model = SparseCodes(documents, width)
        model.learn(documents, k, steps)
        with torch.no_grad():
            left, right = (model.codes(v, k).numpy() for v in (queries, documents))
        value = SearchTrial(left, right, judged).figures(None, [width]).mean()
        for name, bits in (("float16", 16), ("8 bits", 8)):
            yield row(f"sparse, values of {name}", k, k * (bits + place_bits) / 8, float(value))
    levels = [Level(dim, Precision.INT8) for dim in (16, 32, 64)]
    levels += [Level(dim, Precision.BINARY) for dim in (64, 128, 256)]
    for name in ("rotation", WAYS["documents"]):
        for_queries, for_documents = some.fitted(name)
        asked, known = for_queries.transform(some.queries), for_documents.transform(some.documents)
        nesting = Nesting.parse([16, 32, 64, 128, 256], full_dim=some.full_dim)
        scales = fit_steps(fit_sample(known, nesting, "cosine"), levels, "cosine")
        order = trec_order(some.document_ids)
        found = scan(asked, known, {"": View(levels, scales=scales)}, k=10, tie_order=order)
        for level in levels:
            value = relevance(
                found["", level],
                query_ids=some.query_ids,
                document_ids=some.document_ids,
                qrels=some.qrels,
                names=["nDCG@10"],
            )["nDCG@10"].mean()
            size = level.dim if level.precision is Precision.INT8 else level.dim / 8
            yield row(f"{name}, {level.precision}", level.dim, size, float(value))


class AnonymousPeak:
    """The most anonymous memory that this process takes inside a `with`, beyond what it had."""

    def __enter__(self) -> AnonymousPeak:
        self._before = self._most = self._now()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()
        self.mebibytes = (self._most - self._before) / 1024

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self._most = max(self._most, self._now())

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def speed_rows(n: int, width: int = 768) -> Iterator[Row]:
    """A rotation fitted and applied beside the bare products, on synthetic vectors on disk."""
    with tempfile.TemporaryDirectory() as folder:
        path, step = Path(folder) / "vectors.npy", 4096
        written = np.lib.format.open_memmap(path, "w+", np.float32, (n, width))
        rng = np.random.default_rng(0)
        for at in range(0, n, 50_000):
            rows = min(50_000, n - at)
            written[at : at + rows] = rng.standard_normal((rows, width), np.float32)
        written.flush()
        del written
        vectors = np.load(path, mmap_mode="r")
        known = Rotation().fit(vectors[:5000])
        matrix = known.rotation_.astype(np.float32)

        def bare_fit() -> None:
            moment = np.zeros((width, width))
            for at in range(0, n, step):
                block = np.asarray(vectors[at : at + step])
                moment += block.T @ block

        def bare_apply() -> None:
            for at in range(0, n, step):
                np.asarray(vectors[at : at + step]) @ matrix

        def apply() -> None:
            for at in range(0, n, step):
                known.transform(np.asarray(vectors[at : at + step]))

        calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "fit": (lambda: Rotation().fit(vectors), bare_fit),
            "apply": (apply, bare_apply),
        }
        for name, (ours, bare) in calls.items():
            seconds = []
            for call in (bare, ours):
                started = time.process_time()
                with AnonymousPeak() as peak:
                    call()
                seconds.append(time.process_time() - started)
            yield {
                "part": "speed",
                "table": f"rotation of {n:,} x {width} float32 on disk (synthetic), CPU seconds",
                "method": name,
                "dim": width,
                "value": seconds[1],
                "bare_seconds": seconds[0],
                "ratio": seconds[1] / seconds[0],
                "peak_mebibytes": peak.mebibytes,
            }


def show(row: Row) -> str:
    """One line for people."""
    line = f"  {row['method']:32} {row['dim']:5} {row['value']:8.2f}"
    if "bytes" in row:
        line += f"  {row['bytes']:.0f} bytes"
    if "share_closed" in row:
        line += (
            f"  {row['gain_points']:+.2f} ({row['gain_low']:+.2f} to {row['gain_high']:+.2f}) of "
            f"{row['gap_points']:.2f} points: {row['share_closed']:.0%} "
            f"({row['share_low']:.0%} to {row['share_high']:.0%})"
        )
    elif "gain_points" in row:
        line += f"  {row['gain_points']:+.2f} ({row['gain_low']:+.2f} to {row['gain_high']:+.2f})"
    if "upper_95_percent" in row:
        line += f"  up to {row['upper_95_percent']:.2f} in 95 % of {row['deals']} deals"
    if "ratio" in row:
        line += f"  {row['ratio']:.2f} of the bare product, {row['peak_mebibytes']:.0f} MiB"
    return line


def rows_of(options: argparse.Namespace, cache: EncodingCache) -> Iterator[Row]:
    """All rows of the parts that are wanted and possible."""
    parts = options.part or PARTS
    folder = None if options.quick else options.data
    if folder is not None and not folder.is_dir():
        print(f"left out: real data sets, which are not at {folder} (--data); the demo's instead")
        folder = None
    wanted = options.model or (["default"] if folder is None else MODELS)
    models = []
    for name in wanted if set(parts) - {"images", "speed"} else ():
        try:
            models.append(Vectors(name, cache))
        except MissingExtraError as error:
            print(f"left out: {name}: {error}")
    if {"search", "regret", "sparse"} & set(parts):
        sets = [some for vectors in models for some in search_sets(vectors, folder)]
        if "search" in parts:
            yield from search_rows(sets, options.folds)
        if "regret" in parts:
            yield from regret_rows(sets, 20 if folder is None else 200)
        if "sparse" in parts:
            kept = (
                sets
                if folder is None
                else [some for some in sets if some.name in ("cranfield, minilm", "npl, minilm")]
            )
            for some in kept:
                yield from sparse_rows(some, steps=20 if folder is None else 400)
    if folder is None:
        for part in {"pairs", "labels"} & set(parts):
            print(f"left out: {part}, which needs real data")
    else:
        for vectors in models:
            if "pairs" in parts:
                yield from pairs_rows(vectors, folder)
            if "labels" in parts:
                yield from labels_rows(vectors, folder)
    if "images" in parts:
        if options.cifar is not None and options.cifar.is_file():
            yield from image_rows(options.cifar)
        else:
            print("left out: image features (--cifar; made by tools/cifar_features.py)")
    if "speed" in parts:
        yield from speed_rows(options.rows or (20_000 if options.quick else 200_000))


def main() -> None:
    """Run the parts and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the demo's data, few steps")
    parser.add_argument("--part", action="append", choices=PARTS, help="default all")
    parser.add_argument("--model", action="append", choices=MODELS, help="default both")
    parser.add_argument("--data", type=Path, default=SHARED, help="real data sets")
    parser.add_argument("--cifar", type=Path, help="image features as .npz")
    parser.add_argument("--folds", type=int, default=2, help="parts that queries are dealt into")
    parser.add_argument("--rows", type=int, help="vectors in the part `speed`")
    parser.add_argument("--json", required=True, type=Path, help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[Row] = []
    # on a shared machine the threads of small products wait for one another
    with EncodingCache() as cache, threadpool_limits(1, user_api="blas"):
        heading = ""
        for row in rows_of(options, cache):
            results.append(row)
            if row["table"] != heading:
                heading = row["table"]
                print(heading)
            print(show(row), flush=True)
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    names = sorted({row["table"].split(",")[0] for row in results if row["part"] != "speed"})
    document = {
        "benchmark": "adapt",
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, 1 thread, Python "
        f"{platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}",
        "data": f"real: {'; '.join(names)}; the part speed is synthetic",
        "results": results,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
