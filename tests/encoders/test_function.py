from __future__ import annotations

import numpy as np
import pytest

from matryo.core import InputError, Side, Space, VectorError
from matryo.encoders import Function, Precomputed

SPACE = Space("m", 3)
VECTORS = np.arange(1.0, 7.0).reshape(2, 3)


def test_an_answer_of_another_shape_is_refused_with_both_shapes():
    made = Function(lambda _: np.ones((1, 3)), SPACE)

    with pytest.raises(VectorError, match=r"shape \(2, 3\) for 2 texts, got \(1, 3\)"):
        made.encode(["a", "b"], side=Side.QUERY)


def test_precomputed_vectors_come_back_by_their_text():
    made = Precomputed(SPACE, documents=(["a", "b"], VECTORS))

    vectors = made.encode(["b", "a", "b"], side=Side.DOCUMENT)

    np.testing.assert_array_equal(vectors, VECTORS[[1, 0, 1]])


def test_a_text_without_a_vector_is_refused_by_name():
    made = Precomputed(SPACE, documents=(["a", "b"], VECTORS))

    with pytest.raises(InputError, match="1 of 2 document texts have no vector here: 'c'"):
        made.encode(["a", "c"], side=Side.DOCUMENT)


def test_a_side_that_was_not_given_is_refused():
    made = Precomputed(SPACE, documents=(["a", "b"], VECTORS))

    with pytest.raises(InputError, match="no query vectors were given"):
        made.encode(["a"], side=Side.QUERY)


def test_one_text_with_two_vectors_is_refused_with_both_rows():
    with pytest.raises(InputError, match="rows 0 and 1 is the same, its vectors are not: 'a'"):
        Precomputed(SPACE, queries=(["a", "a"], VECTORS))


def test_precomputed_vectors_of_another_width_are_refused():
    with pytest.raises(VectorError, match=r"must have 3 numbers each, .* got 2"):
        Precomputed(SPACE, queries=(["a", "b"], VECTORS[:, :2]))


def test_more_texts_than_vectors_are_refused():
    with pytest.raises(InputError, match="got 3 query texts for 2 vectors"):
        Precomputed(SPACE, queries=(["a", "b", "c"], VECTORS))


def test_precomputed_vectors_with_nan_are_refused():
    broken = VECTORS.copy()
    broken[1, 0] = np.nan

    with pytest.raises(VectorError, match="query vectors: 1 row has NaN or infinity: 1"):
        Precomputed(SPACE, queries=(["a", "b"], broken))
