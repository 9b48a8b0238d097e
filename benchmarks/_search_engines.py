"""The engines that `search.py` compares: how each is built, which settings it has, how it is asked.

An engine is asked through one call, `search(queries, setting, threads)`. All that make a shortlist
score a prefix that was scaled to length 1 again, and have the shortlist scored at full width by the
one function `rescored`; FAISS may also do that itself, where that is faster for it.
"""

# ruff: noqa: ARG002  # all engines are asked alike, whether or not they need every argument

from __future__ import annotations

import re
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _search_data import Corpus, Effort, Floats, Ids, K, recall, top
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from matryo.core import (
    Funnel,
    InputError,
    Lists,
    Precision,
    Stage,
    UnknownNameError,
    UnsupportedError,
)
from matryo.jobs import build_index
from matryo.stores import Index

THREADS = (1, 2)
_PART = 50_000  # rows cut at once

# Rows that a stage keeps: about a fifth more each time.
KEEPS = tuple(dict.fromkeys(int(10 * 1.2**step) for step in range(32)))
PROBES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class Setting(NamedTuple):
    """What an engine is asked with."""

    probes: int | None = None  # lists that are read, or the breadth of a search in a graph
    keeps: tuple[int, ...] = ()  # rows that each stage but the last passes on
    own: bool = False  # the shortlist is rescored by the engine, not by `rescored`


class Skipped(Exception):  # noqa: N818  # it is no error
    """An engine that cannot be had here, and why."""


class Engine(ABC):
    """An index of one kind, built over a corpus.

    Attributes:
        name: What it is, with the prefixes that it reads.
        maker: Whose it is.
        kind: `exact`, `flat`, `lists` or `graph`.
        bytes_per_vector: What the first stage keeps of a vector.
        build_seconds: Wall time, with two threads where the engine can.
        threads: How many threads it can be asked to use.
    """

    name: str
    maker: str
    kind: str
    bytes_per_vector: float
    build_seconds: float
    threads: tuple[int, ...] = THREADS

    @abstractmethod
    def settings(
        self, queries: Floats, neighbors: Ids, targets: Sequence[float]
    ) -> dict[float, list[Setting]]:
        """For each recall that it can reach on these queries, settings that may be the fastest."""

    @abstractmethod
    def search(self, queries: Floats, setting: Setting, threads: int) -> Any:
        """What `rows` reads the answer from."""

    def rows(self, answer: Any) -> Ids:
        """`(q, K)` row numbers, -1 where there are fewer."""
        return np.asarray(answer).astype(np.int64)

    def describe(self, setting: Setting) -> str:
        """A setting for people."""
        parts = [] if setting.probes is None else [f"probes {setting.probes}"]
        if setting.keeps:
            parts.append(f"keep {setting.keeps[0]}")
        if setting.own:
            parts.append("rescored by itself")
        return ", ".join(parts)


def rescored(rows: Floats, queries: Floats, shortlists: Ids, k: int, threads: int) -> Ids:
    """The best `k` rows of each query's shortlist at full width; the same for all engines.

    Args:
        rows: `(n, full_dim)`.
        queries: `(q, full_dim)`.
        shortlists: `(q, s)` row numbers, -1 where there are fewer.
        k: How many.
        threads: Over which queries are dealt.
    """
    found = np.full((len(queries), k), -1, np.int64)

    def run(places: range) -> None:
        for place in places:
            near = shortlists[place]
            if near.min(initial=0) < 0:
                near = near[near >= 0]
            scores = np.einsum("sd,d->s", rows.take(near, axis=0), queries[place])
            best = np.argsort(-scores)[:k]
            found[place, : len(best)] = near[best]

    if threads == 1 or len(queries) == 1:
        run(range(len(queries)))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, [range(n, len(queries), threads) for n in range(threads)]))
    return found


def limited(threads: int) -> AbstractContextManager[Any]:
    """Let BLAS and OpenMP, FAISS among it, use so many threads."""
    return threadpool_limits(threads)


def unit(vectors: Floats, dim: int) -> Floats:
    """Prefixes, scaled to length 1 again."""
    cut = vectors[:, :dim]
    return np.ascontiguousarray(cut / np.linalg.norm(cut, axis=1, keepdims=True), np.float32)


class Prefixes:
    """Scaled prefixes of all rows; those asked for last are kept.

    Args:
        rows: `(n, full_dim)`.
        sampled: Rows that a code or a clustering is learned from, at most.
    """

    def __init__(self, rows: Floats, sampled: int = 100_000) -> None:
        self._sampled = sampled
        self._rows, self._dim, self._kept = rows, 0, np.empty((0, 0), np.float32)

    def __getitem__(self, dim: int) -> Floats:
        if dim != self._dim:
            self._kept = np.empty((len(self._rows), dim), np.float32)
            for start in range(0, len(self._rows), _PART):
                part = slice(start, start + _PART)
                self._kept[part] = unit(self._rows[part], dim)
            self._dim = dim
        return self._kept

    def sample(self, dim: int) -> Floats:
        """Some of them, to learn from."""
        whole = self[dim]
        return whole[:: max(1, len(whole) // self._sampled)]


def places(order: Ids, rows: Ids) -> Ids:
    """Where each row number stands in the order of its query; far behind its end if nowhere."""
    found = np.full(rows.shape, 2**31, np.int64)
    for query, (ranked, wanted) in enumerate(zip(order, rows, strict=True)):
        by_row = np.argsort(ranked)
        near = by_row[np.searchsorted(ranked, wanted, sorter=by_row).clip(max=len(ranked) - 1)]
        hit = (ranked[near] == wanted) & (wanted >= 0)
        found[query, hit] = near[hit]
    return found


def _share(inside: NDArray[np.bool_]) -> float:
    """Recall, of flags that say which neighbors of each query are found."""
    return float(np.minimum(inside.sum(axis=1), K).mean() / K)


class NumpyExact(Engine):
    """A product with all rows, and numpy's partition."""

    name, maker, kind, build_seconds = "matmul", "numpy", "exact", 0.0

    def __init__(self, corpus: Corpus) -> None:
        self._all, self.bytes_per_vector = corpus.rows, 4 * corpus.full_dim

    def settings(
        self, queries: Floats, neighbors: Ids, targets: Sequence[float]
    ) -> dict[float, list[Setting]]:
        """Always exact."""
        return {target: [Setting()] for target in targets}

    def search(self, queries: Floats, setting: Setting, threads: int) -> Any:
        """See `Engine`."""
        if len(queries) > 1:
            return top(self._all, queries, K)[0]
        scores = self._all @ queries[0]
        near = np.argpartition(scores, len(scores) - K)[-K:]
        return near[np.argsort(-scores[near])][None]


class FaissExact(NumpyExact):
    """FAISS's own full scan."""

    name, maker = "Flat", "faiss"

    def __init__(self, corpus: Corpus, flat: Any) -> None:
        super().__init__(corpus)
        self._flat = flat

    def search(self, queries: Floats, setting: Setting, threads: int) -> Any:
        """See `Engine`."""
        return self._flat.search(queries, K)[1]


class Shortlisting(Engine):
    """A peer that finds a shortlist, which is then scored at full width."""

    longest = KEEPS[-1]  # shortlist
    breadths: Sequence[int | None] = (None,)
    owns = False  # whether it can rescore by itself

    def __init__(self, corpus: Corpus) -> None:
        self._all = corpus.rows

    @abstractmethod
    def shortlist(self, queries: Floats, probes: int | None, keep: int, threads: int) -> Ids:
        """`(q, keep)` row numbers, best first, -1 where there are fewer."""

    def settings(
        self, queries: Floats, neighbors: Ids, targets: Sequence[float]
    ) -> dict[float, list[Setting]]:
        """The shortest shortlist for each breadth; one search with the longest tells all."""
        reached: dict[float, list[Setting]] = {}
        longest = min(self.longest, len(self._all))
        for probes in self.breadths:
            with limited(2):
                order = self.shortlist(queries, probes, longest, 2)
            at = places(order, neighbors)
            shares = {keep: _share(at < keep) for keep in KEEPS if keep <= longest}
            for target in targets:
                keep = next((keep for keep, share in shares.items() if share >= target), None)
                if keep is not None:
                    for own in (False, True) if self.owns else (False,):
                        reached.setdefault(target, []).append(Setting(probes, (keep,), own))
        return reached

    def search(self, queries: Floats, setting: Setting, threads: int) -> Any:
        """See `Engine`."""
        near = self.shortlist(queries, setting.probes, setting.keeps[0], threads)
        return rescored(self._all, queries, near, K, threads)


class FaissIndex(Shortlisting):
    """A FAISS index over prefixes, rescored by `rescored` or by FAISS's own refinement."""

    maker, owns = "faiss", True

    def __init__(
        self, corpus: Corpus, name: str, dim: int, index: Any, whole: Any, size: float
    ) -> None:
        import faiss

        super().__init__(corpus)
        self.name, self.kind = f"{name} ({dim})", "flat"
        self.bytes_per_vector, self._dim, self._index = size, dim, index
        self._lists = hasattr(index, "nprobe")
        if self._lists:
            self.kind = "lists"
            self.breadths = [probes for probes in PROBES if probes <= index.nlist]
        cut = faiss.RemapDimensionsTransform(corpus.full_dim, dim, False)
        self._chain = faiss.IndexPreTransform(faiss.NormalizationTransform(dim, 2.0), index)
        self._chain.prepend_transform(cut)
        self.refined = faiss.IndexRefine(self._chain, whole)
        self._kept_alive = (cut, whole)

    def shortlist(self, queries: Floats, probes: int | None, keep: int, threads: int) -> Ids:
        """See `Shortlisting`."""
        if probes is not None:
            self._index.nprobe = probes
        return self._index.search(unit(queries, self._dim), keep)[1]

    def search(self, queries: Floats, setting: Setting, threads: int) -> Any:
        """See `Engine`."""
        if not setting.own:
            return super().search(queries, setting, threads)
        if setting.probes is not None:
            self._index.nprobe = setting.probes
        self.refined.k_factor = (setting.keeps[0] + 0.5) / K  # which FAISS multiplies, and cuts
        return self.refined.search(queries, K)[1]


class FaissSigns(Shortlisting):
    """Signs of centered prefixes, compared by their number of equal bits."""

    maker, kind = "faiss", "flat"

    def __init__(self, corpus: Corpus, prefixes: Prefixes, dim: int) -> None:
        import faiss

        super().__init__(corpus)
        known = prefixes[dim]
        started = time.perf_counter()
        self._center, self._dim = prefixes.sample(dim).mean(axis=0), dim
        self._index = faiss.IndexBinaryFlat(dim)
        self._index.add(np.packbits(known > self._center, axis=1))
        self.build_seconds = time.perf_counter() - started
        self.name, self.bytes_per_vector = f"BinaryFlat ({dim})", dim / 8

    def shortlist(self, queries: Floats, probes: int | None, keep: int, threads: int) -> Ids:
        """See `Shortlisting`."""
        signs = np.packbits(unit(queries, self._dim) > self._center, axis=1)
        return self._index.search(signs, keep)[1]


class Turbovec(Shortlisting):
    """Codes of a few bits. It takes its number of threads from the environment, once."""

    maker, kind, longest, threads = "turbovec", "flat", 500, (2,)

    def __init__(self, corpus: Corpus, prefixes: Prefixes, dim: int, bits: int) -> None:
        import turbovec

        super().__init__(corpus)
        known = prefixes[dim]
        started = time.perf_counter()
        self._dim, self._index = dim, turbovec.TurboQuantIndex(dim=dim, bit_width=bits)
        self._index.calibrate(known[np.random.default_rng(0).permutation(len(known))[:4096]])
        self._index.add(known)
        self._index.prepare()
        self.build_seconds = time.perf_counter() - started
        self.name, self.bytes_per_vector = f"{bits}-bit ({dim})", dim * bits / 8 + 4

    def shortlist(self, queries: Floats, probes: int | None, keep: int, threads: int) -> Ids:
        """See `Shortlisting`."""
        return self._index.search(unit(queries, self._dim), keep)[1].astype(np.int64)


class Lance(Shortlisting):
    """A LanceDB table on disk, which refines its shortlist by itself."""

    maker, longest, threads, owns = "lancedb", 500, (2,), True

    def __init__(self, corpus: Corpus, folder: Path, kind: str) -> None:
        import lancedb
        import pyarrow as pa

        super().__init__(corpus)
        dim = corpus.full_dim
        schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), dim))])

        def batches() -> Iterator[Any]:
            for start in range(0, len(corpus.rows), _PART):
                part = corpus.rows[start : start + _PART]
                vectors = pa.FixedSizeListArray.from_arrays(part.ravel(), dim)
                numbers = np.arange(start, start + len(part))
                yield pa.record_batch([pa.array(numbers), vectors], schema=schema)

        started = time.perf_counter()
        reader = pa.RecordBatchReader.from_batches(schema, batches())
        self._table = lancedb.connect(folder).create_table(kind, reader)
        lists, codes = max(1, len(corpus.rows) // 4096), dim // 4 if kind == "IVF_PQ" else dim
        if kind == "IVF_HNSW_SQ":  # it makes a graph in every list
            lists = max(1, len(corpus.rows) // 100_000)
        self._table.create_index(
            metric="dot", index_type=kind, num_partitions=lists, num_sub_vectors=dim // 4
        )
        self.build_seconds = time.perf_counter() - started
        self.name, self.kind = kind, "lists" if kind == "IVF_PQ" else "graph"
        self.bytes_per_vector, self._lists = codes, lists
        if kind == "IVF_PQ":
            self.breadths = [probes for probes in (1, 2, 4, 8, 16, 32, 64, 128) if probes <= lists]
        else:
            self.breadths = (20, 40, 80, 160, 320, 640)

    def shortlist(self, queries: Floats, probes: int | None, keep: int, threads: int) -> Ids:
        """See `Shortlisting`."""
        if self.kind == "graph":  # which cannot find more than it looks at
            keep = min(keep, probes or keep)
        return self._asked(queries, probes, keep, None)

    def search(self, queries: Floats, setting: Setting, threads: int) -> Any:
        """See `Engine`."""
        if not setting.own:
            return super().search(queries, setting, threads)
        return self._asked(queries, setting.probes, K, -(-setting.keeps[0] // K))

    def _asked(self, queries: Floats, probes: int | None, keep: int, factor: int | None) -> Ids:
        found = np.full((len(queries), keep), -1, np.int64)
        for first in range(0, len(queries), 100):
            some = queries[first : first + 100]
            asking = self._table.search(some[0] if len(some) == 1 else list(some)).metric("dot")
            if self.kind == "lists":
                asking = asking.nprobes(probes)
            else:
                asking = asking.nprobes(self._lists).ef(probes)
            if factor is not None:
                asking = asking.refine_factor(factor)
            answer = asking.select(["row", "_distance"]).limit(keep).to_arrow()
            rows = answer["row"].to_numpy()
            if len(some) == 1:
                found[first, : len(rows)] = rows
                continue
            of = answer["query_index"].to_numpy()
            for place in range(len(some)):
                own = rows[of == place]
                found[first + place, : len(own)] = own
        return found


class Hnswlib(Engine):
    """A graph over whole vectors."""

    maker, kind, name = "hnswlib", "graph", "HNSW float32, M 16"
    breadths = (10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280)

    def __init__(self, corpus: Corpus) -> None:
        import hnswlib

        started = time.perf_counter()
        self._index = hnswlib.Index(space="ip", dim=corpus.full_dim)
        self._index.init_index(len(corpus.rows), M=16, ef_construction=128, random_seed=0)
        for start in range(0, len(corpus.rows), _PART):
            part = corpus.rows[start : start + _PART]
            self._index.add_items(part, np.arange(start, start + len(part)), num_threads=2)
        self.build_seconds = time.perf_counter() - started
        self.bytes_per_vector = 4 * corpus.full_dim + 4 * 2 * 16 + 12

    def save(self, path: Path) -> None:
        """Write it to a file."""
        self._index.save_index(str(path))

    def settings(
        self, queries: Floats, neighbors: Ids, targets: Sequence[float]
    ) -> dict[float, list[Setting]]:
        """The narrowest search for each recall."""
        reached: dict[float, list[Setting]] = {}
        for breadth in self.breadths:
            share = recall(self.search(queries, Setting(breadth), 2), neighbors)
            for target in targets:
                if share >= target and target not in reached:
                    reached[target] = [Setting(breadth)]
            if share >= max(targets):
                break
        return reached

    def search(self, queries: Floats, setting: Setting, threads: int) -> Any:
        """See `Engine`."""
        self._index.set_ef(setting.probes)
        return self._index.knn_query(queries, k=K, num_threads=threads)[0].astype(np.int64)


class Usearch(Shortlisting):
    """A graph over int8 codes of whole vectors, rescored."""

    maker, kind, name, longest = "usearch", "graph", "HNSW int8, M 16", 100
    breadths = (20, 40, 80, 160, 320, 640, 1280)

    def __init__(self, corpus: Corpus) -> None:
        import usearch.index

        super().__init__(corpus)
        started = time.perf_counter()
        self._index = usearch.index.Index(
            ndim=corpus.full_dim, metric="cos", dtype="i8", connectivity=16, expansion_add=128
        )
        for start in range(0, len(corpus.rows), _PART):
            part = corpus.rows[start : start + _PART]
            self._index.add(np.arange(start, start + len(part)), part, threads=2)
        self.build_seconds = time.perf_counter() - started
        self.bytes_per_vector = self._index.memory_usage / len(corpus.rows)

    def shortlist(self, queries: Floats, probes: int | None, keep: int, threads: int) -> Ids:
        """See `Shortlisting`."""
        self._index.expansion_search = probes
        threads = min(threads, len(queries))
        # it looks at as many as are asked for, if these are more
        keys = np.asarray(self._index.search(queries, probes, threads=threads).keys)
        return keys.reshape(len(queries), -1)[:, :keep].astype(np.int64)


# Funnels by the width of the vectors: what keeps is filled in for `S`, and probes for `P`.
FORMS = {
    256: (
        "128@binary:S,256@int8:S,256:10",
        "192@binary:S,256@int8:S,256:10",
        "256@binary:S,256@int8:S,256:10",
        "128@int2:S,256@int8:S,256:10",
        "128@int4:S,256@int8:S,256:10",
        "64@int4:S,256@int8:S,256:10",
        "256@int2:S,256@int8:S,256:10",
        "128@int4[128xP]:S,256@int8:S,256:10",
        "256@binary[128xP]:S,256@int8:S,256:10",
    ),
    768: (
        "128@binary:S,256@int8:S,768:10",
        "64@int4:S,256@int8:S,768:10",
        "128@int2:S,256@int8:S,768:10",
        "128@int4:S,256@int8:S,768:10",
        "256@binary:S,256@int8:S,768:10",
        "64@int4[64xP]:S,256@int8:S,768:10",
        "128@int4[64xP]:S,256@int8:S,768:10",
    ),
}
_WIDEST = 2000  # rows that a first stage keeps at most while settings are chosen


@dataclass
class Built:
    """An index of matryo that is open, the wall seconds that building it took, and its rows."""

    index: Index
    seconds: float
    rows: int


class Matryo(Engine):
    """One form of a funnel, asked of an index that holds the levels of several."""

    maker = "matryo"

    def __init__(self, built: Built, form: str) -> None:
        self._index, self._form, self._n = built.index, form, built.rows
        funnel = self._funnel(Setting(1, (K,) * form.count("S")))
        first = funnel.stages[0]
        self.kind = "lists" if isinstance(first.access, Lists) else "flat"
        self.name = " > ".join(_level(stage) for stage in funnel.stages)
        self.build_seconds = built.seconds
        self._funnel = cache(self._funnel)  # type: ignore[method-assign]  # parsed once

    @cached_property
    def bytes_per_vector(self) -> float:  # type: ignore[override]
        """Of the first stage, as the index itself says what it reads."""
        funnel = self._funnel(Setting(1, (K,) * self._form.count("S")))
        query = np.ones((1, self._index.space.full_dim), np.float32)
        first = self._index.explain(query, funnel=funnel)[0][0]
        return first.bytes_read / first.rows_read

    @property
    def breadths(self) -> Sequence[int | None]:
        """Numbers of lists to read."""
        return PROBES if self.kind == "lists" else (None,)

    def _funnel(self, setting: Setting) -> Funnel:
        text = self._form.replace("xP", f"x{setting.probes}")
        for keep in setting.keeps:
            text = text.replace("S", str(keep), 1)
        return Funnel.parse(text)

    def describe(self, setting: Setting) -> str:
        """The funnel."""
        return str(self._funnel(setting))

    def settings(
        self, queries: Floats, neighbors: Ids, targets: Sequence[float]
    ) -> dict[float, list[Setting]]:
        """For each first keep the shortest second one; a search by each stage tells all of them.

        A row is in the answer if it is among the first of the first stage, and among the first of
        those at the second.
        """
        reached: dict[float, list[Setting]] = {}
        widest = min(_WIDEST, self._n)
        for probes in self.breadths:
            stages = self._funnel(Setting(probes, (widest,) * self._form.count("S"))).stages[:-1]
            try:
                orders = [
                    self.rows(self._ask(queries, Funnel(stages[: count + 1]), 2))
                    for count in range(len(stages))
                ]
            except InputError:  # it has fewer lists than that
                break
            for keeps, share in _shares(orders, neighbors, widest):
                for target in targets:
                    if share >= target:
                        reached.setdefault(target, []).append(Setting(probes, keeps))
        return {target: _shortest(found) for target, found in reached.items()}

    def search(self, queries: Floats, setting: Setting, threads: int) -> Any:
        """See `Engine`."""
        return self._ask(queries, self._funnel(setting), threads)

    def rows(self, answer: Any) -> Ids:
        """See `Engine`; ids are row numbers."""
        longest = max(map(len, answer.ids))
        found = np.full((len(answer.ids), longest), -1, np.int64)
        for place, ids in enumerate(answer.ids):
            found[place, : len(ids)] = ids
        return found

    def _ask(self, queries: Floats, funnel: Funnel, threads: int) -> Any:
        return self._index.search(queries, funnel=funnel, threads=threads)


def _level(stage: Stage) -> str:
    lists = f" lists {stage.access.dim}" if isinstance(stage.access, Lists) else ""
    precision = "" if stage.precision is Precision.FLOAT32 else f"@{stage.precision}"
    return f"{stage.dim}{precision}{lists}"


def _shares(
    orders: Sequence[Ids], neighbors: Ids, widest: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Recall for keeps of one or two stages, from what each stage makes of the longest lists."""
    keeps = [keep for keep in KEEPS if keep < widest] + [widest]
    at = places(orders[-1], neighbors)
    if len(orders) == 1:
        for keep in keeps:
            yield (keep,), _share(at < keep)
        return
    first = places(orders[0], orders[1])  # of the rows in the second order
    nowhere = at >= first.shape[1]
    inside_at = np.where(nowhere, 0, at)
    for keep in keeps:
        passed = first < keep
        ahead = np.cumsum(passed, axis=1)
        own = np.take_along_axis(passed, inside_at, 1) & ~nowhere
        rank = np.take_along_axis(ahead, inside_at, 1) - 1
        for second in keeps:
            if second <= keep:
                yield (keep, second), _share(own & (rank < second))


def _shortest(found: Sequence[Setting]) -> list[Setting]:
    """Those beside which no other keeps fewer rows in every stage and reads fewer lists."""
    shape = [(setting.probes or 0, *setting.keeps) for setting in found]
    return [
        setting
        for setting, own in zip(found, shape, strict=True)
        if not any(
            other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in shape
        )
    ]


def list_count(rows: int) -> int:
    """Inverted lists for so many rows: a power of two near three times the square root."""
    return int(2 ** round(np.log2(3 * rows**0.5)))


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its wall seconds."""
    started = time.perf_counter()
    made = make()
    return made, time.perf_counter() - started


def faiss_engines(corpus: Corpus, wanted: re.Pattern[str], prefixes: Prefixes) -> Iterator[Engine]:
    """Full scan, codes of prefixes, and inverted lists over prefixes."""
    try:
        import faiss
    except ImportError as error:
        raise Skipped(f"faiss: {error}") from error
    inner, eight = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_8bit
    whole = faiss.IndexFlatIP(corpus.full_dim)
    for start in range(0, len(corpus.rows), _PART):
        whole.add(corpus.rows[start : start + _PART])
    if wanted.search("faiss Flat"):
        yield FaissExact(corpus, whole)

    def filled(name: str, dim: int, index: Any, size: float, before: float = 0.0) -> Engine:
        known, sample = prefixes[dim], prefixes.sample(dim)

        def fill() -> None:
            index.train(sample)
            index.add(known)

        _, seconds = timed(fill)
        engine = FaissIndex(corpus, name, dim, index, whole, size)
        engine.build_seconds = seconds + before
        return engine

    def flat(name: str, dim: int) -> Any:
        if name == "Flat":
            return faiss.IndexFlatIP(dim), 4 * dim
        if name == "SQ8":
            return faiss.IndexScalarQuantizer(dim, eight, inner), dim
        if name == "PQFastScan 4-bit":
            return faiss.IndexPQFastScan(dim, dim, 4, inner), dim / 2
        if name == "PQFastScan 2-bit":
            return faiss.IndexPQFastScan(dim, dim // 2, 4, inner), dim / 4
        return faiss.IndexRaBitQFastScan(dim, inner, 32, 1), dim / 8 + 8

    for dim, names in (
        (64, ("Flat", "SQ8", "PQFastScan 4-bit")),
        (128, ("Flat", "SQ8", "PQFastScan 4-bit", "PQFastScan 2-bit")),
        (256, ("PQFastScan 2-bit", "RaBitQFastScan 1-bit")),
    ):
        for name in names:
            if wanted.search(f"faiss {name}"):
                yield filled(name, dim, *flat(name, dim))
    if wanted.search("faiss BinaryFlat"):
        yield FaissSigns(corpus, prefixes, 256)

    dim, lists = 64 if corpus.full_dim > 256 else 128, list_count(len(corpus.rows))
    inverted = {
        "IVF-SQ8": lambda: faiss.IndexIVFScalarQuantizer(coarse, dim, lists, eight, inner),
        "IVF-PQFastScan 4-bit": lambda: faiss.IndexIVFPQFastScan(coarse, dim, lists, dim, 4, inner),
        "IVF-RaBitQFastScan 4-bit": lambda: faiss.IndexIVFRaBitQFastScan(
            coarse, dim, lists, inner, 32, True, 4
        ),
    }
    sizes = {
        "IVF-SQ8": dim + 8,
        "IVF-PQFastScan 4-bit": dim / 2 + 8,
        "IVF-RaBitQFastScan 4-bit": dim / 2 + 24,
    }
    names = [name for name in inverted if wanted.search(f"faiss {name}")]
    if not names:
        return
    # a quantizer that is filled is not trained again: one clustering serves all, and counts in each
    coarse = faiss.IndexFlatIP(dim)
    means = faiss.Kmeans(dim, lists, niter=10, spherical=True, seed=0, min_points_per_centroid=1)
    _, seconds = timed(lambda: means.train(prefixes.sample(dim)))
    coarse.add(means.centroids)
    for name in names:
        yield filled(f"{name}, {lists} lists", dim, inverted[name](), sizes[name], seconds)


def peers(
    corpus: Corpus, folder: Path, wanted: re.Pattern[str], effort: Effort
) -> Iterator[Engine | Skipped]:
    """Everything but matryo; what cannot be had is said."""
    if wanted.search("numpy matmul"):
        yield NumpyExact(corpus)
    prefixes = Prefixes(corpus.rows, effort.sampled)
    forms = ((128, 2), (64, 4), (128, 4))
    makers: dict[str, Callable[[], Engine]] = {
        f"turbovec {bits}-bit ({dim})": lambda dim=dim, bits=bits: Turbovec(
            corpus, prefixes, dim, bits
        )
        for dim, bits in forms
    }
    if len(corpus.rows) >= 20_000:
        makers["lancedb IVF_PQ"] = lambda: Lance(corpus, folder, "IVF_PQ")
        makers["lancedb IVF_HNSW_SQ"] = lambda: Lance(corpus, folder, "IVF_HNSW_SQ")
    elif wanted.search("lancedb"):
        yield Skipped("lancedb: it takes half a minute to index so few rows")
    makers["hnswlib HNSW"] = lambda: Hnswlib(corpus)
    makers["usearch HNSW"] = lambda: Usearch(corpus)
    try:
        yield from faiss_engines(corpus, wanted, prefixes)
    except Skipped as reason:
        yield reason
    for name, make in makers.items():
        if not wanted.search(name):
            continue
        if "HNSW" in name and not effort.builds_graphs(corpus):
            yield Skipped(f"{name}: graphs of so many rows are built with --graphs only")
            continue
        try:
            yield make()
        except ImportError as error:
            yield Skipped(f"{name}: {error}")


def matryo_engines(
    corpus: Corpus, wanted: re.Pattern[str], build: Callable[[str], Built]
) -> Iterator[Engine | Skipped]:
    """The forms of funnels; those without lists share an index, those with lists have their own."""
    forms = []
    for form in FORMS.get(corpus.full_dim, ()):
        if wanted.search(f"matryo {form}"):
            reason = unsupported(form, corpus)
            if reason:
                yield Skipped(f"matryo {form}: {reason}")
            else:
                forms.append(form)
    plain = [form for form in forms if "xP" not in form]
    for group in ([plain] if plain else []) + [[form] for form in forms if "xP" in form]:
        built = build(together(group))
        for form in group:
            yield Matryo(built, form)


def filled_in(form: str, keep: int = 100, probes: int = 8) -> str:
    """A form as the text of a funnel."""
    return form.replace("xP", f"x{probes}").replace("S", str(keep))


def together(forms: Sequence[str]) -> str:
    """A funnel whose index holds the levels of all forms."""
    funnels = [Funnel.parse(filled_in(form)) for form in forms]
    stages = {
        (stage.dim, stage.precision): stage for funnel in funnels for stage in funnel.stages[:-1]
    }
    return ",".join([*map(str, stages.values()), str(funnels[0].stages[-1])])


def unsupported(form: str, corpus: Corpus) -> str:
    """Why this version cannot run a form, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "few.npy"
        np.save(few, corpus.rows[:2000])
        try:
            build_index(few, Path(folder) / "index", filled_in(form))
        except (UnknownNameError, UnsupportedError) as error:
            return str(error).partition("\n")[0]
    return ""


def build(corpus: Corpus, folder: Path, funnel: str) -> Built:
    """Build an index of all rows the public way, in one segment, and open it."""
    path = folder / f"index-{len(list(folder.iterdir()))}"

    def make() -> Index:
        build_index(corpus.path, path, funnel)
        index = Index.open(path)
        index.compact()
        return index

    index, seconds = timed(make)
    return Built(index, seconds, len(corpus.rows))
