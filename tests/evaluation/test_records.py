"""Verdicts, comparisons, the knee, and rules that are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from matryo.core import InputError, Precision, TooFewError
from matryo.evaluation import Record, Rules, compare, fewest_queries, judge, knee
from matryo.search import Level

RULES = Rules(0.9, 0.95, "real")


def record(values, full, rules=RULES, level=Level(8), **options):  # noqa: B008
    made = {"measure": "nDCG@10", "method": "cut", "family": 2, **options}
    return judge(np.asarray(values), np.asarray(full), level, rules=rules, **made)


def point(size, kept):
    full = record(np.ones(50), np.ones(50))
    return replace(full, dim=size, bytes_per_vector=size, kept=kept)


@given(
    pairs=st.lists(
        st.tuples(*[st.sampled_from([0.0, 0.25, 0.7, 1.0])] * 2), min_size=2, max_size=60
    ),
    floor=st.floats(0.01, 1.0),
    confidence=st.floats(0.5, 0.99),
    family=st.integers(1, 20),
)
def test_a_verdict_agrees_with_the_interval_shown_beside_it(pairs, floor, confidence, family):
    values, full = np.array(pairs).T
    assume(full.any())

    row = record(values, full, Rules(floor, confidence, "real"), family=family)

    assert (row.verdict == "keeps") == (row.kept_low >= floor)
    assert (row.verdict == "below") == (row.kept_high < floor)
    assert row.kept == pytest.approx(values.mean() / full.mean())
    assert row.needed is None or (row.verdict == "cannot tell" and row.needed > len(values))


def test_no_share_is_stated_of_a_full_width_that_finds_nothing():
    row = record(np.zeros(50), np.zeros(50))

    assert (row.kept, row.kept_low, row.kept_high) == (None, None, None)
    assert (row.verdict, row.needed) == ("cannot tell", None)


def test_queries_drawn_from_the_corpus_get_figures_and_no_promise():
    row = record(np.ones(500), np.ones(500), Rules(0.5, 0.95, "sample", drawn=True))

    assert (row.verdict, row.needed, row.kept) == ("figure only", None, 1)


def test_the_full_width_is_the_reference_and_keeps_all_of_itself():
    values = np.random.default_rng(0).uniform(0.2, 0.9, 60)

    row = record(values, values, reference=True)

    assert row.verdict == "reference"
    assert (row.kept, row.kept_low, row.kept_high) == (1, 1, 1)
    assert row.low < row.value < row.high


@pytest.mark.parametrize(("name", "size"), [("int8", 20), ("int4", 10), ("int2", 5), ("binary", 3)])
def test_a_record_is_plain_json_with_the_bytes_of_its_precision(name, size):
    row = record(np.ones(50), np.ones(50), level=Level(20, Precision(name)))

    values = json.loads(json.dumps(row.to_dict()))

    assert (values["dim"], values["precision"], values["bytes_per_vector"]) == (20, name, size)
    assert Record(**values) == row


class TestCompare:
    def test_the_better_one_is_named_and_turned_around_it_is_the_other(self):
        rng = np.random.default_rng(0)
        better, worse = rng.uniform(0.6, 1, 400), rng.uniform(0, 0.4, 400)

        ahead = compare(better, worse, confidence=0.95, family=3)
        behind = compare(worse, better, confidence=0.95, family=3)

        assert (ahead["shown"], behind["shown"], ahead["n"]) == ("a", "b", 400)
        assert ahead["low"] == pytest.approx(-behind["high"])

    def test_the_same_values_show_no_difference(self):
        values = np.random.default_rng(0).uniform(size=100)

        result = compare(values, values, confidence=0.95, family=1)

        assert (result["shown"], result["difference"]) == (None, 0)
        assert result["low"] < 0 < result["high"]


class TestKnee:
    def test_it_is_where_more_bytes_stop_buying(self):
        rows = [point(size, kept) for size, kept in ((64, 0.5), (128, 0.9), (256, 0.95), (512, 1))]

        assert knee(rows).dim == 128
        assert knee(rows[::-1]).dim == 128

    @pytest.mark.parametrize(
        "curve",
        [
            [(1, 0.0), (2, 0.5), (4, 1.0)],
            [(1, 1.0), (2, 0.9), (4, 0.8)],
            [(1, 0.2), (4, 1.0)],
            [(4, 0.1), (4, 0.5), (4, 0.9)],
            [(1, 0.2), (2, None), (4, 1.0)],
            [],
        ],
        ids=["line", "fall", "two", "one size", "two with a share", "none"],
    )
    def test_some_curves_have_none(self, curve):
        assert knee([point(size, kept) for size, kept in curve]) is None


class TestRules:
    @pytest.mark.parametrize("confidence", [0, 1, 95, float("nan")])
    def test_a_confidence_that_is_no_probability(self, confidence):
        with pytest.raises(InputError, match="confidence must be between 0 and 1"):
            Rules(0.9, confidence, "real")

    def test_too_few_queries_are_refused_with_the_number_that_would_do(self):
        needed = fewest_queries(0.3, confidence=0.99, family=4)

        with pytest.raises(TooFewError, match=rf"at least {needed} .* 4 rows, got 2") as caught:
            Rules(0.3, 0.99, "real").check_enough(2, 4)

        assert caught.value.needed == needed

    def test_drawn_queries_promise_nothing_so_any_number_will_do(self):
        Rules(0.3, 0.99, "sample", drawn=True).check_enough(1, 40)
