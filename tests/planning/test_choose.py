"""Choosing a funnel: what comes out is certified, runs as promised, and says why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.planning.conftest import DIM, vectors

from matryo.core import (
    Funnel,
    InputError,
    Nesting,
    Plan,
    Precision,
    Promise,
    Stage,
    TooFewError,
    UnknownNameError,
)
from matryo.evaluation import Judged, neighbor_recall
from matryo.planning import (
    Budget,
    Prices,
    check,
    choose,
    funnel_candidates,
    split_queries,
)
from matryo.planning.limits import within
from matryo.search import Level, View, run, scan

K = 10
FORMATS = tuple(Precision.parse_list("float32,int8,int4,int2,binary"))
MEAN = Promise("mean", "neighbor_recall@10", 0.95)


def plan(data, machine, promise=MEAN, **options):
    options = {"nesting": Nesting.halving(DIM), "precisions": FORMATS, "k": K, **options}
    return choose(data, promise, machine=machine, **options)


@pytest.fixture(scope="module")
def chosen(data, machine):
    return plan(data, machine)


def true_recall(one, data, queries):
    answers = run(one, data.corpus, queries)
    full = Level(DIM)
    truth = scan(queries, data.corpus, {"": View([full])}, k=K)["", full]
    found = replace(truth, rows=np.array([answer.rows for answer in answers]))
    return neighbor_recall(found, truth, K)


def test_the_three_choices_keep_the_floor_on_queries_nobody_has_seen(chosen, data):
    fresh = vectors(1000, 7)

    for choice in chosen.choices:
        assert true_recall(choice.plan, data, fresh).mean() >= 0.95


def test_the_choices_are_cheaper_than_the_full_width_and_rise_in_cost(chosen):
    spent = [choice.cost.bytes_read for choice in chosen.choices]

    assert [choice.name for choice in chosen.choices] == ["cheap", "balanced", "safe"]
    assert spent == sorted(spent)
    assert spent[-1] < chosen.candidates[0].cost.bytes_read / 2


def test_at_least_two_hundred_candidates_are_considered(chosen):
    assert len(chosen.candidates) >= 200
    assert len({one.funnel for one in chosen.candidates}) == len(chosen.candidates)


def test_a_plan_says_in_five_lines_what_it_is_and_why(chosen):
    told = chosen.choices[0].plan.explain().splitlines()

    assert len(told) == 5
    assert told[0].startswith("Cheap: score every row by ")
    assert "at least 0.95 times" in told[1]
    assert "fidelity" in told[1]
    assert "(modelled for a machine, an engine)" in told[2]
    assert "dearer is" in told[3]
    assert "Ordered on 128, certified on 300 and reported on 150" in told[4]
    assert "synthetic" in told[4]


def test_the_report_of_a_choice_is_what_really_running_it_gives(chosen, data):
    seen = split_queries(len(data.queries)).report

    for choice in chosen.choices:
        measured = true_recall(choice.plan, data, data.queries[seen]).mean()
        # a middle stage is weighed pessimistically
        assert choice.kept <= measured + 1e-12
        assert choice.kept == pytest.approx(measured, abs=0.005)
        assert choice.interval.low <= choice.kept <= choice.interval.high


def test_the_modelled_bytes_are_those_that_are_read(chosen, data):
    for choice in chosen.choices:
        if choice.plan.run.stop is None:
            answers = run(choice.plan, data.corpus, data.queries[:20])
            read = np.mean([answer.bytes_read for answer in answers])
            assert read == choice.cost.bytes_read


def test_two_runs_with_one_seed_are_equal(chosen, data, machine):
    again = plan(data, machine)

    assert [c.plan.to_dict() for c in again.choices] == [c.plan.to_dict() for c in chosen.choices]


def test_a_plan_saved_and_loaded_gives_the_same_bytes(chosen, data, tmp_path):
    one = chosen.choices[0].plan
    one.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")

    before, after = (run(p, data.corpus, data.queries[:50]) for p in (one, loaded))

    assert [a.rows.tobytes() + a.scores.tobytes() for a in before] == [
        a.rows.tobytes() + a.scores.tobytes() for a in after
    ]


@pytest.mark.parametrize("precision", [p for p in FORMATS if p is not Precision.INT8])
def test_a_funnel_that_keeps_everything_equals_exact_search(data, precision):
    n = len(data.corpus)
    everything = Plan(data.space, Funnel((Stage(8, n, precision), Stage(DIM, K))))
    full = Level(DIM)
    truth = scan(data.queries[:50], data.corpus, {"": View([full])}, k=K)["", full]

    answers = run(everything, data.corpus, data.queries[:50])

    np.testing.assert_array_equal([a.rows for a in answers], truth.rows)


def test_a_share_is_promised_of_queries(data, machine):
    promise = Promise("share", "neighbor_recall@10", 0.9, query_floor=0.8)

    found = plan(data, machine, promise)

    reached = true_recall(found.choices[0].plan, data, vectors(1000, 8)) >= 0.8
    assert reached.mean() >= 0.9
    assert "at least 0.9 of all queries reach 0.8" in found.choices[0].plan.explain()


def test_an_expected_promise_turns_one_knob_only(data, machine):
    promise = Promise("expected", "neighbor_recall@10", 0.95, None)

    found = plan(data, machine, promise)

    runs = [choice.plan.run for choice in found.choices]
    assert len({(r.stages[0].dim, r.stages[0].precision) for r in runs}) == 1
    keeps = [r.stages[0].keep for r in runs]
    assert keeps == sorted(keeps)
    assert true_recall(found.choices[0].plan, data, vectors(2000, 9)).mean() >= 0.94
    assert "no confidence attached" in found.choices[0].plan.explain()


def test_an_expected_promise_of_relevance_is_refused_where_it_is_not_monotone(data, machine):
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(len(data.queries))], [str(i) for i in range(len(data.corpus))]
    full = Level(DIM)
    top = scan(data.queries, data.corpus, {"": View([full])}, k=60)["", full]
    # the relevant document lies among the first sixty at random, so a short list may find more
    qrels = {q: {str(rng.choice(rows)): 1} for q, rows in zip(names[0], top.rows, strict=True)}
    judged = replace(data, judged=Judged(*names, qrels))

    with pytest.raises(InputError, match="never rise along the knob"):
        plan(judged, machine, Promise("expected", "nDCG@10", 0.5, None))


def test_too_few_queries_say_how_many_would_do(data, machine):
    few = replace(data, queries=data.queries[:100])

    with pytest.raises(TooFewError, match=r"at least 59 queries .* got 50\n.*118 queries in all"):
        plan(few, machine)


def test_what_cannot_be_told_says_how_many_queries_would_begin_to_tell(data, machine):
    found = plan(replace(data, queries=data.queries[:130]), machine, minimize="ram")

    failed = [one for one in found.candidates if one.status == "failed"]
    assert failed
    assert found.needed is None or found.needed > 65


def test_groups_are_certified_each_and_named_in_the_promise(data, machine):
    groups = ["left", "right"] * 300

    found = plan(replace(data, groups=groups), machine)

    assert found.promise.groups == ("left", "right")
    assert "in each of the 2 groups" in found.choices[0].plan.explain()
    checked = check(
        found.choices[-1].plan, data.corpus, vectors(600, 11), groups=["left", "right"] * 300
    )
    assert checked.verdict == "holds"


def test_a_group_too_small_to_certify_is_told_with_its_interval(data, machine):
    groups = ["rare"] * 40 + ["common"] * 560

    found = plan(replace(data, groups=groups), machine)

    assert found.promise.groups == ()
    assert "the group 'rare' has 20 certifying queries, and 59 are needed" in found.notes[0]
    assert any("an interval for all groups together" in note for note in found.notes)


def test_a_harder_group_makes_the_plan_dearer(data, machine):
    rng = np.random.default_rng(5)
    hard = (rng.normal(size=(300, DIM)) * 0.9999 ** np.arange(DIM)).astype(np.float32)
    queries = np.concatenate([data.queries[:300], hard])
    mixed = replace(data, queries=queries)
    apart = replace(mixed, groups=["easy"] * 300 + ["hard"] * 300)

    cheap_together = plan(mixed, machine).choices[0].cost.bytes_read
    cheap_apart = plan(apart, machine).choices[0].cost.bytes_read

    assert cheap_apart > cheap_together


def test_a_budget_leaves_out_what_is_too_dear(chosen, data, machine):
    ram = min(choice.cost.ram_bytes for choice in chosen.choices)

    found = plan(data, machine, budget=Budget(ram_bytes=ram))

    assert all(choice.cost.ram_bytes <= ram for choice in found.choices)
    assert any(one.status == "too dear" for one in found.candidates)


def test_a_limit_that_nothing_meets_names_the_nearest(data, machine):
    with pytest.raises(InputError, match=r"the nearest is 16@binary:10, .* of RAM, 10 B allowed"):
        plan(data, machine, budget=Budget(ram_bytes=10))


def test_limits_that_contradict_each_other_are_named_both(chosen):
    like = chosen.candidates[0]
    small = replace(like, cost=replace(like.cost, ram_bytes=1e3, latency_p95_ms=9.0))
    quick = replace(like, cost=replace(like.cost, ram_bytes=1e6, latency_p95_ms=1.0))
    budget = Budget(ram_bytes=2e3, latency_p95_ms=2.0)

    with pytest.raises(
        InputError,
        match=r"contradict each other, ram_bytes 2000 and latency_p95_ms 2: .* takes 9 ms at p95",
    ):
        within([small, quick], budget)


def test_nothing_within_the_budget_that_keeps_the_floor_leaves_no_choice(data, machine):
    # 16 bits a row and nothing else
    least = 3000 * (2 + machine.row_overhead_bytes)

    found = plan(data, machine, budget=Budget(disk_bytes=least))

    assert found.choices == []
    assert {one.status for one in found.candidates} >= {"failed", "too dear"}


def test_prices_are_put_on_a_million_vectors(data, machine):
    found = plan(data, machine, prices=Prices(ram_gb_month=3.0, disk_gb_month=0.1))

    cost = found.choices[0].cost
    expected = (cost.ram_bytes * 3.0 + cost.disk_bytes * 0.1) / 1e9 / 3000 * 1e6
    assert cost.price_per_million == pytest.approx(expected)


def test_queries_drawn_from_the_corpus_give_figures_and_no_promise(data, machine):
    rows = np.arange(0, 3000, 6)
    drawn = replace(
        data,
        queries=data.corpus[rows],
        exclude=[np.array([row]) for row in rows],
        drawn=True,
        origin="sample",
    )

    found = plan(drawn, machine)

    assert all(choice.plan.promise is None for choice in found.choices)
    assert "No promise" in found.choices[0].plan.explain()


def test_a_threshold_is_carried_to_the_last_stage_and_its_agreement_bounded(data, machine):
    full = Level(DIM)
    truth = scan(data.queries, data.corpus, {"": View([full])}, k=K)["", full]
    wanted = float(np.median(truth.scores))

    found = plan(data, machine, threshold=wanted, precisions=[Precision.BINARY])

    one = found.choices[0].plan
    about = one.evidence["threshold"]
    assert about["agreement_low"] <= about["agreement"] <= 1
    answers = run(one, data.corpus, data.queries[:100])
    assert all((answer.full_scores >= wanted).all() for answer in answers)
    assert 0.3 < np.mean([len(answer.rows) for answer in answers]) / K < 0.7


def test_a_threshold_outside_all_scores_is_refused(data, machine):
    with pytest.raises(InputError, match=r"threshold must be between .* got 5\.0"):
        plan(data, machine, threshold=5.0)


def test_stop_rules_can_be_left_out(data, machine):
    found = plan(data, machine, stops=False)

    assert all(one.funnel.stop is None for one in found.candidates)


def test_an_unknown_cost_to_minimize_is_answered_with_the_known_ones(data, machine):
    with pytest.raises(UnknownNameError, match="no cost is called 'bites'; did you mean 'bytes'"):
        plan(data, machine, minimize="bites")


def test_a_full_width_that_finds_nothing_has_no_share_to_keep(data, machine):
    names = [str(i) for i in range(len(data.queries))], [str(i) for i in range(len(data.corpus))]
    far = {q: {"0": 1} for q in names[0]}
    corpus = data.corpus.copy()
    corpus[0] = -data.queries.mean(axis=0)
    judged = Judged(*names, far)

    with pytest.raises(InputError, match=r"nDCG@10 is 0 at full width on every query"):
        plan(replace(data, corpus=corpus, judged=judged), machine, Promise("mean", "nDCG@10", 0.9))


def test_candidates_begin_with_the_full_width_and_never_widen_a_stage():
    funnels = funnel_candidates(Nesting.halving(768), FORMATS, k=10, n_rows=100_000)

    assert str(funnels[0]) == "768:10"
    assert 1000 < len(funnels) < 3000  # the time that planning takes grows with them
    assert len(set(funnels)) == len(funnels)
    for funnel in funnels:
        sizes = [stage.dim * stage.precision.bits for stage in funnel.stages]
        assert sizes == sorted(sizes)
        assert funnel.stages[-1].keep == 10


def test_a_corpus_too_small_for_a_shortlist_is_refused():
    with pytest.raises(InputError, match="at least 40 documents for answers of 10 rows, got 39"):
        funnel_candidates(Nesting.halving(64), FORMATS, k=10, n_rows=39)


class TestCheck:
    def test_new_queries_of_the_same_kind_confirm_the_promise(self, chosen, data):
        done = check(chosen.choices[-1].plan, data.corpus, vectors(600, 12))

        assert done.verdict == "holds"
        assert done.p_value <= 0.05
        assert not done.same_data

    def test_queries_of_another_kind_break_it(self, chosen, data):
        rng = np.random.default_rng(13)
        other = (
            rng.normal(size=(400, DIM)).astype(np.float32)[:, ::-1] * 0.93 ** np.arange(DIM)[::-1]
        )

        done = check(chosen.choices[0].plan, data.corpus, np.ascontiguousarray(other, np.float32))

        assert done.verdict == "broken"
        assert done.interval.high < 0.95

    def test_the_data_it_was_made_on_are_recognized(self, chosen, data):
        done = check(chosen.choices[0].plan, data.corpus, data.queries)

        assert done.same_data

    def test_too_few_new_queries_are_refused(self, chosen, data):
        with pytest.raises(TooFewError, match=r"at least 59 queries .* got 20"):
            check(chosen.choices[0].plan, data.corpus, vectors(20, 1))

    def test_a_plan_without_a_promise_cannot_be_checked(self, chosen, data):
        bare = replace(chosen.choices[0].plan, promise=None)

        with pytest.raises(InputError, match=r"only a search plan with a promise"):
            check(bare, data.corpus, data.queries)

    def test_a_promise_of_relevance_needs_judgments(self, chosen, data):
        asked = replace(chosen.choices[0].plan, promise=Promise("mean", "nDCG@10", 0.9))

        with pytest.raises(InputError, match="promises nDCG@10, which needs judgments"):
            check(asked, data.corpus, data.queries)
