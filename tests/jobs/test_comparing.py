"""Two measurements side by side, and conditions for CI."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import matryo
from matryo.core import FormatError, InputError, UnknownNameError
from matryo.jobs.comparing import Condition, _holm, diff


def a_run(values, *, ids=None, measure="nDCG@10", **changed):
    """A results document with the values of each dim at float32."""
    n = len(next(iter(values.values())))
    return {
        "kind": "measure",
        "format": 1,
        "data": {
            "name": "notes", "task": "retrieval", "origin": "real", "documents": 500, "queries": n,
        } | changed,
        "settings": {"seed": 0},
        "per_query": {
            "queries": ids or [f"q{i}" for i in range(n)],
            "judgments": "abc",
            "rows": [
                {"dim": dim, "precision": "float32", "measure": measure,
                 "values": " ".join(map(str, row))}
                for dim, row in values.items()
            ],
        },
    }  # fmt: skip


def drawn(n=200, shift=0.0, seed=0):
    """Values of two runs, of which the second is lower by `shift` where it can be."""
    rng = np.random.default_rng(seed)
    before = rng.uniform(0.3, 0.9, n)
    after = np.clip(before - shift + rng.normal(0, 0.05, n), 0, 1)
    return before, after


def verdict(condition, before, after):
    return diff(before, after, fail_if=[condition])["conditions"][0]


class TestRows:
    def test_the_figures_are_those_of_the_queries(self):
        before, after = drawn(shift=0.1)

        (row,) = diff(a_run({64: before}), a_run({64: after}))["rows"]

        assert row["difference"] == pytest.approx((after - before).mean())
        assert (row["before"], row["after"]) == pytest.approx((before.mean(), after.mean()))
        assert row["low"] < row["difference"] < row["high"] < 0
        assert row["p_value"] < 0.001

    def test_a_run_does_not_differ_from_itself(self):
        run = a_run({64: drawn()[0], 128: drawn()[1]})

        compared = diff(run, run, fail_if=["any dim: nDCG@10 differs", "any dim: nDCG@10 worse"])

        assert [row["p_value"] for row in compared["rows"]] == [1.0, 1.0]
        assert not any(condition["holds"] for condition in compared["conditions"])

    def test_queries_are_matched_by_their_ids(self):
        before, after = drawn(shift=0.1)
        ids = [f"q{i}" for i in range(200)]
        straight = diff(a_run({64: before}, ids=ids), a_run({64: after}, ids=ids))

        turned = diff(a_run({64: before}, ids=ids), a_run({64: after[::-1]}, ids=ids[::-1]))

        assert turned["rows"] == straight["rows"]

    def test_a_size_of_one_run_only_is_named_and_not_compared(self):
        before, after = drawn()

        compared = diff(a_run({64: before, 384: before}, name="a"), a_run({64: after}, name="b"))

        assert [row["dim"] for row in compared["rows"]] == [64]
        assert "384@float32" in compared["notes"][1]
        assert "two names, a and b" in compared["notes"][0]

    def test_measured_runs_are_read_from_their_files(self, tmp_path, corpus, queries):
        asked = corpus[:60] + 0.5 * queries
        qrels = tmp_path / "qrels.tsv"
        lines = ["query-id\tcorpus-id\tscore", *(f"{i}\t{i}\t1" for i in range(60))]
        qrels.write_text("\n".join(lines) + "\n", "utf-8")
        runs = []
        for name, noise in (("good", 0.0), ("bad", 3.0)):
            noisy = asked + noise * np.roll(queries, 1, axis=0)
            results = matryo.measure(corpus, queries=noisy, qrels=qrels, baselines=False)
            (tmp_path / name).write_text(json.dumps(results), "utf-8")
            runs.append(results)

        compared = diff(
            tmp_path / "good", tmp_path / "bad", fail_if=["dim 32: RR@10 worse (p<.01)"]
        )

        figures = [
            {(r["measure"], r["dim"], r["precision"]): r["value"] for r in run["results"]}
            for run in runs
        ]
        for row in compared["rows"]:
            key = row["measure"], row["dim"], row["precision"]
            assert (row["before"], row["after"]) == pytest.approx(
                (figures[0][key], figures[1][key]), abs=1e-6
            )
        assert compared["conditions"][0]["holds"]

    def test_pairs_are_compared_by_their_rank_correlation(self):
        rng = np.random.default_rng(1)
        truth = rng.uniform(0, 5, 300)
        good, bad = truth + rng.normal(0, 1, 300), truth + rng.normal(0, 3, 300)
        runs = [a_run({64: scores}, measure="spearman", task="pairs") for scores in (good, bad)]
        for run in runs:
            run["per_query"] |= {"queries": None, "truth": " ".join(map(str, truth))}

        compared = diff(*runs, fail_if=["dim 64: spearman worse (p<0.01)"])

        (row,) = compared["rows"]
        assert row["before"] == pytest.approx(stats.spearmanr(good, truth).statistic)
        assert row["after"] == pytest.approx(stats.spearmanr(bad, truth).statistic)
        assert row["low"] < row["difference"] < row["high"] < 0
        assert compared["conditions"][0]["holds"]


class TestConditions:
    @pytest.mark.parametrize(
        ("condition", "holds"),
        [
            ("any dim: nDCG@10 worse (p<0.05)", True),
            ("all dims: nDCG@10 worse (p<0.05)", False),
            ("dim 64: nDCG@10 worse (p<0.05)", True),
            ("dim 128: nDCG@10 worse (p<0.05)", False),
            ("dim 64: nDCG@10 better", False),
            ("dim 64: nDCG@10 differs", True),
            ("dim 64: nDCG@10 worse by 0.05 (p<0.05)", True),
            ("dim 64: nDCG@10 worse by 0.2", False),
            ("dim 64: nDCG@10 worse by 0.099 (p<0.05)", False),
            ("dim 128 @float32 : nDCG@10 better by .2", False),
        ],
    )
    def test_they_say_what_they_say(self, condition, holds):
        (low, fallen), (high, same) = drawn(shift=0.1), drawn(seed=1)

        judged = verdict(condition, a_run({64: low, 128: high}), a_run({64: fallen, 128: same}))

        assert judged["holds"] is holds

    def test_without_p_the_figures_alone_decide(self):
        values = np.full(3, 0.5)
        before, after = a_run({64: values}), a_run({64: values - [0, 0, 1e-3]})

        assert verdict("any dim: nDCG@10 worse", before, after)["holds"]
        assert not verdict("any dim: nDCG@10 worse (p<0.05)", before, after)["holds"]

    def test_any_dim_is_adjusted_for_the_dims_it_looks_at(self):
        (before, after), still = drawn(n=60, shift=0.015), np.full(60, 0.5)
        condition, others = "any dim: nDCG@10 worse (p<0.05)", dict.fromkeys(range(65, 75), still)
        alone = verdict(condition, a_run({64: before}), a_run({64: after}))

        among = verdict(condition, a_run({64: before} | others), a_run({64: after} | others))

        assert among["rows"][0]["p_value"] == pytest.approx(11 * alone["rows"][0]["p_value"])
        assert (alone["adjusted"], among["adjusted"]) == (False, True)

    def test_the_p_value_is_that_of_flipping_every_difference(self):
        before, after = drawn(n=12, shift=0.03)
        flipped = stats.permutation_test(
            (after - before,), np.mean, permutation_type="samples", alternative="less",
            n_resamples=np.inf,
        )  # fmt: skip

        judged = verdict("dim 64: nDCG@10 worse (p<.9)", a_run({64: before}), a_run({64: after}))

        assert judged["rows"][0]["p_value"] == pytest.approx(flipped.pvalue, abs=0.005)

    def test_a_few_lost_queries_prove_nothing(self):
        before = np.ones(200)
        after = np.where(np.arange(200) < 3, 0.0, 1.0)  # one flip in eight is as bad

        runs = [a_run({64: values}, measure="R@10") for values in (before, after)]

        judged = verdict("dim 64: R@10 worse (p<0.05)", *runs)

        assert judged["rows"][0]["p_value"] == pytest.approx(1 / 8, abs=0.01)

    def test_equal_models_fail_no_more_often_than_p_says(self):
        rng = np.random.default_rng(2)
        alarms = 0
        for _ in range(200):
            pairs = {d: rng.beta(0.5, 0.5, (2, 40)) for d in (8, 16, 32)}
            before, after = ({d: pair[i] for d, pair in pairs.items()} for i in (0, 1))
            condition = "any dim: nDCG@10 worse (p<0.05)"
            alarms += verdict(condition, a_run(before), a_run(after))["holds"]

        assert alarms <= stats.binom.isf(1e-3, 200, 0.05)

    @pytest.mark.slow
    def test_intervals_cover_as_often_as_they_say(self):
        rng = np.random.default_rng(3)
        covered = 0
        for _ in range(200):
            before, after = rng.uniform(0, 1, 30), rng.uniform(0, 0.8, 30)
            (row,) = diff(a_run({64: before}), a_run({64: after}))["rows"]
            covered += row["low"] <= -0.1 <= row["high"]

        assert 200 - covered <= stats.binom.isf(1e-3, 200, 0.05)

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
    def test_holm_is_the_step_down_of_the_paper(self, p_values):
        adjusted = _holm(p_values)

        highest = 0.0
        for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            highest = max(highest, (len(p_values) - step) * p_values[place])
            assert adjusted[place] == pytest.approx(min(1.0, highest))

    @pytest.mark.parametrize(
        "text",
        ["", "nDCG@10 worse", "any dim nDCG@10 worse", "dim: nDCG@10 worse", "any dim: nDCG@10 bad",
         "any dim: nDCG@10 worse by much", "any dim: nDCG@10 worse p<0.05"],
    )  # fmt: skip
    def test_what_is_no_condition_is_refused_with_the_grammar(self, text):
        with pytest.raises(InputError, match="expected a condition, got") as error:
            Condition.parse(text)

        assert '"any dim: nDCG@10 worse (p<0.05)"' in str(error.value)

    def test_p_is_compared_with_a_probability(self):
        with pytest.raises(InputError, match="between 0 and 1"):
            Condition.parse("any dim: nDCG@10 worse (p<5)")

    def test_a_measure_or_a_size_that_is_not_there_is_refused(self):
        run = a_run({64: drawn()[0]})

        with pytest.raises(UnknownNameError, match="did you mean 'nDCG@10'"):
            diff(run, run, fail_if=["any dim: nDCG@100 worse"])
        with pytest.raises(InputError, match=r"no size that both runs have\n.*64@float32"):
            diff(run, run, fail_if=["dim 32: nDCG@10 worse"])
        with pytest.raises(InputError, match="no size that both runs have"):
            diff(run, run, fail_if=["any dim@int8: nDCG@10 worse"])


class TestRefusals:
    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"documents": 501}, "documents: 500 and 501"),
            ({"task": "labelled"}, "kind of data: retrieval and labelled"),
            ({"origin": "synthetic"}, "origin of the data: real and synthetic"),
            ({"measure": "R@10"}, r"measures: nDCG@10 and R@10"),
            ({"ids": [*(f"q{i}" for i in range(199)), "x"]}, "2 of them in one run only: 'q199'"),
        ],
    )
    def test_runs_that_do_not_belong_together_are_refused_with_what_differs(self, other, message):
        values = {64: drawn()[0]}

        with pytest.raises(InputError, match=message):
            diff(a_run(values), a_run(values, **other))

    def test_other_judgments_of_the_same_queries_are_refused(self):
        first, second = a_run({64: drawn()[0]}), a_run({64: drawn()[0]})
        second["per_query"]["judgments"] = "def"

        with pytest.raises(InputError, match="judgments: abc and def"):
            diff(first, second)

    def test_queries_drawn_by_another_seed_are_refused(self):
        first, second = (a_run({64: drawn()[0]}, origin="sample") for _ in range(2))
        second["settings"]["seed"] = 1

        with pytest.raises(InputError, match="seed that drew the queries: 0 and 1"):
            diff(first, second)

    def test_results_without_values_of_queries_are_refused_with_what_to_do(self):
        old = {**a_run({64: drawn()[0]}), "per_query": None}

        with pytest.raises(InputError, match="measure again with this version"):
            diff(old, old)

    @pytest.mark.parametrize(
        "content", ["nonsense", "[1]", '{"kind": "plan", "format": 1}', '{"kind": "measure"}']
    )
    def test_a_file_that_is_no_measurement_is_refused(self, content, tmp_path):
        (tmp_path / "r.json").write_text(content)

        with pytest.raises(FormatError, match=r"r\.json: expected"):
            diff(tmp_path / "r.json", tmp_path / "r.json")

    def test_rows_cut_short_are_refused(self):
        broken = a_run({64: drawn()[0]})
        broken["per_query"]["rows"][0]["values"] = "0.5 0.6"

        with pytest.raises(FormatError, match="a value for each query"):
            diff(broken, broken)
