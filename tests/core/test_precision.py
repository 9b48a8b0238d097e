"""Number formats by name, and what they weigh."""

from __future__ import annotations

import numpy as np
import pytest

from matryo.core import Precision, UnknownNameError


@pytest.mark.parametrize("precision", list(Precision))
def test_a_precision_reads_back_from_its_name(precision):
    assert Precision.parse(f" {precision} ") is precision


def test_an_unknown_precision_is_answered_with_the_nearest_and_all():
    with pytest.raises(UnknownNameError, match="no precision is called 'flaot16'; did you mean 'f"):
        Precision.parse("flaot16")
    with pytest.raises(UnknownNameError, match="known: binary, float16, float32, int2, int4, int8"):
        Precision.parse("double")


@pytest.mark.parametrize("names", ["int8, float32,int8", ["int8", "float32", "int8"]])
def test_a_list_keeps_every_precision_once_in_order(names):
    assert Precision.parse_list(names) == [Precision.INT8, Precision.FLOAT32]


@pytest.mark.parametrize(
    ("precision", "dim", "size"),
    [
        ("float32", 100, 400),
        ("float16", 100, 200),
        ("int8", 100, 100),
        ("int4", 100, 50),
        ("int4", 9, 5),
        ("int2", 100, 25),
        ("int2", 9, 3),
        ("binary", 100, 13),
        ("binary", 8, 1),
        ("binary", 9, 2),
    ],
)
def test_bytes_per_vector_are_what_numpy_would_take(precision, dim, size):
    assert Precision(precision).bytes_per_vector(dim) == size


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("float32", "f4"),
        ("float16", "f2"),
        ("int8", "i1"),
        ("int4", "u1"),
        ("int2", "u1"),
        ("binary", "u1"),
    ],
)
def test_every_precision_has_a_type_of_numpy(precision, dtype):
    assert Precision(precision).dtype == np.dtype(dtype)


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("dim", [1, 7, 8, 9, 768])
def test_columns_are_those_of_the_bytes(precision, dim):
    width = precision.columns(dim) * precision.dtype.itemsize

    assert width == precision.bytes_per_vector(dim)
    assert (precision.columns(dim) < dim) == (precision.is_packed and dim > 1)
