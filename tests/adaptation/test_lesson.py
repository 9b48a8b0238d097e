"""A lesson refuses what does not fit before anything is fitted."""

from __future__ import annotations

import numpy as np
import pytest

from matryo.adaptation.lesson import Lesson
from matryo.core import InputError, TooFewError, VectorError

ROWS = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
ONE = [np.array([0])]


def spoiled(value):
    rows = ROWS.copy()
    rows[3] = value
    return rows


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"documents": ROWS[:2]}, TooFewError, "at least 3 documents, got 2"),
        ({"documents": spoiled(np.nan)}, VectorError, "documents: 1 row has NaN"),
        ({"documents": spoiled(0)}, VectorError, "documents: 1 row has only zeros"),
        ({"queries": spoiled(np.inf)}, VectorError, "queries: 1 row has NaN or inf"),
        ({"queries": ROWS[:, :3]}, InputError, "queries: expected vectors of 4 .* got 3"),
        ({"labels": np.arange(9)}, InputError, "each of the 10 documents"),
        ({"relevant": ONE}, InputError, "relevant documents need queries"),
        ({"queries": ROWS[:2], "relevant": ONE}, InputError, "each of the 2 queries, got 1 lists"),
        ({"queries": ROWS[:1], "relevant": [np.array([10])]}, InputError, "from 0 to 9, got 10"),
        ({"pairs": (ROWS, ROWS, np.arange(9))}, InputError, "as many left and right"),
        ({"pairs": (ROWS, ROWS[:, :2], np.arange(10))}, InputError, "right: expected .* 4 numbers"),
    ],
)
def test_what_does_not_fit_is_named(parts, error, message):
    with pytest.raises(error, match=message):
        Lesson(**{"documents": ROWS, **parts})


def test_everything_but_the_documents_may_be_missing():
    lesson = Lesson(ROWS)

    assert (lesson.queries, lesson.pairs, lesson.labels, lesson.stream) == (None,) * 4
