"""Maps of frozen vectors that are learned: what they keep, and what they find."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from matryo.core import DimError, InputError, TooFewError
from matryo.training.maps import MAP_KINDS, learn_map

WIDTH, SIGNAL = 24, 4
DIMS = (SIGNAL, 12, WIDTH)


@pytest.fixture(scope="module")
def planted():
    """Synthetic queries and answers that agree in four directions, weaker than the noise of ten."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    scale = np.r_[np.full(SIGNAL, 1.0), np.full(10, 1.6), np.full(10, 0.2)]
    meaning = rng.standard_normal((600, SIGNAL))

    def side():
        rows = rng.standard_normal((600, WIDTH)) * scale
        rows[:, :SIGNAL] = meaning + 0.1 * rng.standard_normal(meaning.shape)
        return (rows @ turn).astype(np.float32)

    return side(), side()


def lessons(planted):
    """Everything that there is to learn from, by name."""
    queries, documents = planted
    rows = np.arange(600)
    return {
        "documents": {},
        "queries": {"queries": queries},
        "relevance": {"queries": queries, "relevant": [rows[[i]] for i in rows]},
        "labels": {"labels": rows % 5},
        "grades": {"pairs": (queries, documents, np.sin(rows))},
    }


LESSONS = ("documents", "queries", "relevance", "labels", "grades")


@pytest.mark.parametrize("lesson", LESSONS)
def test_an_orthogonal_map_stays_orthogonal_and_its_loss_falls(lesson, planted):
    made = learn_map(
        planted[1], DIMS, steps=30, batch=64, learning_rate=1e-2, **lessons(planted)[lesson]
    )

    matrix = made.arrays["matrix"].astype(np.float64)
    assert np.abs(matrix.T @ matrix - np.eye(WIDTH)).max() < 1e-6
    assert made.losses.shape == (30, 3)
    assert made.losses[-10:, 0].mean() < made.losses[:10, 0].mean()


@pytest.mark.parametrize("kind", MAP_KINDS)
def test_one_seed_gives_one_map_and_another_seed_another(kind, planted):
    first, again, other = (
        learn_map(planted[1], DIMS, kind=kind, steps=5, batch=64, seed=seed).arrays
        for seed in (3, 3, 4)
    )

    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("kind", MAP_KINDS)
def test_what_is_learned_begins_at_the_start(kind, planted):
    documents = planted[1]
    start = np.linalg.qr(np.random.default_rng(1).standard_normal((WIDTH, WIDTH)))[0]

    made = learn_map(documents, DIMS, kind=kind, start=start, steps=1, learning_rate=0.0).arrays

    np.testing.assert_allclose(applied(made, documents), documents @ start, atol=1e-5)


def applied(arrays, rows):
    """What the docstring of LearnedMap says, in numpy."""
    if "matrix" in arrays:
        return rows @ arrays["matrix"]
    turned = rows @ arrays["start"]
    hidden = turned @ arrays["w1"] + arrays["b1"]
    return turned + (hidden * (1 + erf(hidden / np.sqrt(2))) / 2) @ arrays["w2"]


@pytest.mark.parametrize("kind", ["orthogonal", "linear"])
def test_relevance_helps_queries_that_did_not_teach(kind, planted):
    queries, documents = planted
    taught = np.arange(300)

    made = learn_map(
        documents, DIMS, queries=queries[taught], relevant=[taught[[i]] for i in taught],
        kind=kind, steps=60, batch=128, learning_rate=2e-2,
    ).arrays  # fmt: skip

    before = found_first(queries[300:], documents)
    after = found_first(applied(made, queries[300:]), applied(made, documents))
    principal = np.linalg.eigh(documents.T @ documents)[1][:, ::-1]
    turned = found_first(queries[300:] @ principal, documents @ principal)
    assert after > before + 0.2
    assert after > turned + 0.2


def found_first(queries, documents):
    """Share of queries 300 and on whose own document is among the ten nearest at SIGNAL numbers."""
    a, b = queries[:, :SIGNAL], documents[:, :SIGNAL]
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    ranks = (a @ b.T > np.einsum("ij,ij->i", a, b[300:])[:, None]).sum(1)
    return (ranks < 10).mean()


def test_whoever_watches_sees_copies_and_may_stop(planted):
    seen = []

    def watch(step, learned):
        seen.append((step, learned.arrays["matrix"]))
        return step == 20

    made = learn_map(planted[1], DIMS, steps=50, batch=64, watch=watch, every=10)

    assert [step for step, _ in seen] == [10, 20]
    assert len(made.losses) == 20
    assert not np.array_equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "square"}, InputError, "kind must be one of orthogonal, linear, residual"),
        ({"steps": 0}, InputError, "at least 1 step of at least 2 rows, got 0 of 1024"),
        ({"dims": (8, 4)}, DimError, "dims must ascend"),
        ({"dims": (8, 99)}, DimError, "between 1 and 24"),
        ({"labels": np.zeros(600, int)}, TooFewError, "at least 2 classes, got 1"),
        (
            {"queries": np.ones((2, WIDTH)), "relevant": [np.array([1]), np.array([], int)]},
            InputError,
            "each of the 2 queries, got 2 lists, 1 of them empty",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused(options, error, message, planted):
    settings = {"dims": DIMS, "steps": 1, **options}

    with pytest.raises(error, match=message):
        learn_map(planted[1], **settings)


def test_two_documents_have_no_neighbors_to_learn_from(planted):
    with pytest.raises(TooFewError, match="from 3 documents on, got 2"):
        learn_map(planted[1][:2], DIMS, steps=1)
