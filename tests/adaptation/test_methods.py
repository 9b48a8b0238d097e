"""What every method keeps, finds and needs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from matryo.adaptation.lesson import Lesson
from matryo.adaptation.methods import METHODS, methods_for
from matryo.core import InputError, Side, UnknownNameError

CLOSED = ("rotation", "reorder", "query-rotation")
LOSSLESS = [name for name, method in METHODS.items() if method.lossless]


@pytest.fixture(scope="module")
def real():
    """Queries and documents of the packaged data, by the default model."""
    pytest.importorskip("wordllama", reason="the default model needs wordllama")
    from matryo.encoders import encode_texts, encoder
    from matryo.jobs import demo_data

    data, model = demo_data(), encoder("default")
    queries = encode_texts(model, data.queries.texts[:60], side=Side.QUERY)
    return queries, encode_texts(model, data.documents.texts[::25], side=Side.DOCUMENT)


@pytest.mark.parametrize("name", CLOSED)
def test_a_lossless_map_keeps_every_score_and_ranking_at_full_width(name, real):
    queries, documents = real

    assert_lossless(name, Lesson(documents, queries=queries[30:]), queries, documents)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(LOSSLESS) - set(CLOSED)))
def test_a_learned_lossless_map_keeps_them_too(name, real):
    pytest.importorskip("torch")
    queries, documents = real
    rows = np.arange(len(documents))
    known = {
        "queries": queries[30:],
        "relevant": [rows[[i]] for i in range(30)],
        "labels": rows % 3,
        "pairs": (documents[:200], documents[200:400], np.arange(200.0)),
    }
    needed = {part: known[part] for part in METHODS[name].needs}

    assert_lossless(name, Lesson(documents, **needed), queries, documents)


def assert_lossless(name, lesson, queries, documents):
    query_map, document_map = METHODS[name].fit(lesson, (16, 64, documents.shape[1]), 0)
    before = cosines(queries, documents)
    after = cosines(query_map.transform(queries), document_map.transform(documents))
    assert np.abs(after - before).max() < 1e-5
    in_order = np.take_along_axis(before, np.argsort(-after, axis=1, kind="stable"), axis=1)
    assert np.diff(in_order, axis=1).max() < 2e-5  # only such pairs may change places


def cosines(a, b):
    a, b = (x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return a @ b.T


class TestPlantedOrder:
    """Synthetic vectors whose last dims say most."""

    @pytest.fixture
    def backwards(self):
        rng = np.random.default_rng(1)
        return (rng.standard_normal((500, 16)) * 1.3 ** np.arange(16)).astype(np.float32)

    def test_reorder_finds_it(self, backwards):
        query_map, document_map = METHODS["reorder"].fit(Lesson(backwards), (4, 16), 0)

        assert query_map is document_map
        assert list(document_map.order_) == list(range(15, -1, -1))

    def test_a_rotation_finds_it_whatever_it_was_turned_by(self, backwards):
        turn = np.linalg.qr(np.random.default_rng(2).standard_normal((16, 16)))[0]
        turned = (backwards @ turn).astype(np.float32)

        _, document_map = METHODS["rotation"].fit(Lesson(turned), (4, 16), 0)

        lengths = np.linalg.norm(turned, axis=1, keepdims=True)
        kept = np.square(document_map.transform(turned / lengths)[:, :4]).sum(1).mean()
        best = np.square((backwards / lengths)[:, -4:]).sum(1).mean()
        assert kept >= best - 1e-6

    @pytest.mark.parametrize("name", ["rotation", "reorder"])
    def test_a_few_long_rows_do_not_decide(self, name, backwards):
        long = np.zeros((5, 16), np.float32)
        long[:, 0] = 1e4
        lesson = Lesson(np.concatenate([backwards, long]))

        _, document_map = METHODS[name].fit(lesson, (4, 16), 0)

        first = document_map.transform(np.eye(16, dtype=np.float32))[:, 0]
        assert np.abs(first).argmax() == 15

    def test_a_rotation_learns_from_all_rows_where_there_is_a_stream(self, backwards):
        whole = Lesson(backwards)
        sample = Lesson(backwards[:20], stream=backwards)

        a, b = (METHODS["rotation"].fit(lesson, (4, 16), 0)[1] for lesson in (whole, sample))

        assert np.array_equal(a.rotation_, b.rotation_)
        assert b.n_samples_seen_ == 500


class TestQueryProjection:
    @pytest.fixture
    def sides(self):
        rng = np.random.default_rng(3)
        mix = rng.standard_normal((6, 6))
        queries = rng.standard_normal((40, 6)) * [3, 1, 1, 0.5, 0.3, 0.2]
        return queries, rng.standard_normal((50, 6)) @ mix

    @pytest.mark.parametrize("m", [1, 3])
    def test_no_two_maps_to_so_few_numbers_do_better(self, m, sides):
        queries, documents = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in sides)
        wanted = queries @ documents.T

        def error(numbers):
            a, b = numbers.reshape(2, 6, m)
            return np.square((queries @ a) @ (documents @ b).T - wanted).mean()

        query_map, document_map = METHODS["query-projection"].fit(
            Lesson(documents, queries=queries), (m, 6), 0
        )

        made = (query_map.transform(queries)[:, :m]) @ document_map.transform(documents)[:, :m].T
        rng = np.random.default_rng(4)
        optimum = min(minimize(error, rng.standard_normal(12 * m)).fun for _ in range(3))
        assert np.square(made - wanted).mean() == pytest.approx(optimum, rel=5e-3)

    def test_the_whole_width_keeps_every_product(self, sides):
        queries, documents = sides
        query_map, document_map = METHODS["query-projection"].fit(
            Lesson(documents, queries=queries), (2, 6), 0
        )

        made = query_map.transform(queries) @ document_map.transform(documents).T

        np.testing.assert_allclose(made, queries @ documents.T, atol=1e-9)

    def test_directions_that_no_query_has_are_no_trouble(self, sides):
        queries, documents = sides
        flat = queries * [1, 1, 1, 0, 0, 0]

        both = METHODS["query-projection"].fit(Lesson(documents, queries=flat), (2, 6), 0)

        assert all(np.isfinite(side.transform(documents)).all() for side in both)


class TestWhichMethods:
    ROWS = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)

    def test_auto_takes_what_the_lesson_allows(self):
        plain = methods_for(Lesson(self.ROWS))
        asked = methods_for(Lesson(self.ROWS, queries=self.ROWS))

        assert {"rotation", "reorder"} <= set(plain) < set(asked)
        assert not {"query-rotation", "linear-labels"} & set(plain)
        assert {"query-rotation", "query-projection"} <= set(asked)

    @pytest.mark.parametrize(
        ("names", "error", "message"),
        [
            ("rotaton", UnknownNameError, "did you mean 'rotation'"),
            ("rotation,query-rotation", InputError, "query-rotation needs queries, got none"),
            (" , ", InputError, "auto or at least one method"),
        ],
    )
    def test_a_name_that_cannot_be_is_refused(self, names, error, message):
        with pytest.raises(error, match=message):
            methods_for(Lesson(self.ROWS), names)
