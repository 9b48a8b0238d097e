"""Indexes to test with, and a plain dictionary that says what they must answer."""

from __future__ import annotations

import numpy as np

from matryo.core import Funnel, Space
from matryo.search import FunnelSearch
from matryo.stores import Index
from matryo.transforms import fit_scales, truncate

WIDTH = 16
SPACE = Space("m", WIDTH)
FUNNEL = Funnel.parse("8@binary:40,12@int8:20,16:5")
FIELDS = {"year": int, "language": str, "open": bool, "price": float}
DECAY = 0.9 ** np.arange(WIDTH)


def rows_of(seed, n, width=WIDTH):
    """`(n, width)` float32 vectors."""
    numbers = np.random.default_rng(seed).normal(size=(n, width)) * 0.9 ** np.arange(width)
    return numbers.astype(np.float32)


CALIBRATION = rows_of(0, 100)
QUERIES = rows_of(1, 5)


def steps_for(funnel, metric="cosine", calibration=CALIBRATION):
    """int8 steps for every dim of a funnel."""
    return {
        stage.dim: fit_scales(truncate(calibration, stage.dim, normalize=metric == "cosine"))
        for stage in funnel.stages
    }


def make(path, funnel=FUNNEL, fields=FIELDS, space=SPACE):
    return Index.create(path, space, funnel, scales=steps_for(funnel, space.metric), fields=fields)


def columns(rows):
    """Fields of rows, given as dictionaries, as `add` takes them."""
    return {name: [row.get(name) for row in rows] for name in FIELDS}


class Model:
    """What an index must hold: id to vector and fields."""

    def __init__(self, funnel=FUNNEL, metric="cosine"):
        self.funnel, self.metric = funnel, metric
        self.rows = {}

    def put(self, ids, vectors, fields):
        for place, name in enumerate(ids):
            own = {key: values[place] for key, values in fields.items()}
            self.rows[name] = vectors[place], own

    def answers(self, queries, k, matches=lambda _: True):
        """Ids and scores of FunnelSearch over the rows that match, in the order of their ids."""
        ids = sorted(name for name, (_, fields) in self.rows.items() if matches(fields))
        if not ids:
            return [([], np.empty(0, np.float32)) for _ in queries]
        vectors = np.stack([self.rows[name][0] for name in ids])
        scales = steps_for(self.funnel, self.metric)
        search = FunnelSearch(vectors, self.funnel, metric=self.metric, scales=scales)
        found = [search.search(query) for query in queries]
        return [([ids[row] for row in a.rows[:k]], a.scores[:k]) for a in found]

    def check(self, index, queries=QUERIES):
        """Compare everything that an index can be asked with this model."""
        ids = sorted(self.rows)
        assert index.ids() == ids
        assert len(index) == len(ids)
        records = index.get(ids)
        for place, name in enumerate(ids):
            vector, fields = self.rows[name]
            assert records.vectors[place].tobytes() == vector.tobytes()
            assert {key: values[place] for key, values in records.fields.items()} == fields
        k = self.funnel.stages[-1].keep
        self.compare(index.search(queries), self.answers(queries, k), k)
        if "year" in index.info()["fields"]:
            hits = index.search(queries, where=("year", ">=", 2000))
            later = lambda fields: fields["year"] is not None and fields["year"] >= 2000  # noqa: E731
            self.compare(hits, self.answers(queries, k, later), k)

    @staticmethod
    def compare(hits, answers, k):
        for ids, scores, complete, (expected, right) in zip(
            hits.ids, hits.scores, hits.complete, answers, strict=True
        ):
            assert ids == expected
            assert scores.tobytes() == right.tobytes()
            assert complete == (len(expected) == k)
