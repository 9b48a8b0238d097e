"""Errors as a caller meets them."""

from __future__ import annotations

import pickle

import pytest

from matryo import core
from matryo.core import MatryoError, MissingExtraError, TooFewError, UnknownNameError


@pytest.mark.parametrize(
    ("name", "built_in"),
    [
        ("InputError", ValueError),
        ("DimError", ValueError),
        ("VectorError", ValueError),
        ("SpaceMismatchError", ValueError),
        ("TooFewError", ValueError),
        ("NotFittedError", ValueError),
        ("FormatError", ValueError),
        ("UnknownNameError", LookupError),
        ("MissingExtraError", ImportError),
        ("UnsupportedError", NotImplementedError),
        ("EndpointError", RuntimeError),
    ],
)
def test_every_error_can_be_caught_as_ours_and_as_the_built_in_one(name, built_in):
    error = getattr(core, name)

    assert issubclass(error, MatryoError)
    assert issubclass(error, built_in)


def test_the_first_line_is_complete_and_the_second_says_what_to_do():
    error = TooFewError("expected 40 queries, got 3", hint="write more", needed=40)

    assert str(error) == "expected 40 queries, got 3\n  write more"
    assert error.hint == "write more"
    assert error.needed == 40


def test_an_error_without_a_hint_is_one_line():
    assert str(TooFewError("expected 40, got 3")) == "expected 40, got 3"


def test_an_error_reaches_another_process_whole():
    error = UnknownNameError.among("store", "qdrnt", ["qdrant", "milvus"])

    back = pickle.loads(pickle.dumps(error))

    assert str(back) == str(error)
    assert (back.name, back.known) == ("qdrnt", ["milvus", "qdrant"])


def test_an_unknown_name_is_answered_with_the_nearest_and_all():
    error = UnknownNameError.among("store", "qdrnt", ["qdrant", "milvus"])

    assert str(error) == (
        "no store is called 'qdrnt'; did you mean 'qdrant'?\n  known: milvus, qdrant"
    )


def test_a_name_like_no_other_gets_no_guess():
    error = UnknownNameError.among("store", "zzz", ["qdrant"])

    assert str(error).splitlines()[0] == "no store is called 'zzz'"


def test_a_missing_package_is_named_with_the_line_that_installs_it():
    error = MissingExtraError.of("the reader 'parquet'", "pyarrow", "parquet")

    assert str(error) == (
        "the reader 'parquet' needs the package pyarrow\n"
        "  install it with: pip install 'matryo[parquet]'"
    )
    assert error.extra == "parquet"
